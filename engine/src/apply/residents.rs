//! The replicas that are here: by id, by where their keys lie, and which of them are frozen.
//!
//! Of a region that sleeps nothing is kept but its packed descriptor, one copy for all who keep it. It is *resting*: it has a
//! state that names its replica here, and nothing else is known of it. Whoever changes it makes it warm again.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use multiraft_raft::{KeyRange, RegionDescriptor, RegionId, ReplicaId, StoreId};

use crate::apply::key_order::KeyOrder;
use crate::apply::sorted::{Place, Sorted};
use crate::logic::Packed;
use crate::region::merge::{Absorbed, Frozen, nothing_absorbed};

/// What is known of a replica that is here.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) replica: ReplicaId,
    /// The region as applied; `None` while the replica has no state.
    pub(super) state: Option<Arc<RegionDescriptor>>,
    /// By which entry and for whom, if it is frozen.
    pub(super) frozen: Option<Arc<Frozen>>,
    pub(super) absorbed: Arc<Absorbed>,
    /// A write that gives it its state is not carried out yet: nothing may be decided about its range.
    pub(super) pending: bool,
}

impl Known {
    pub(super) fn new(replica: ReplicaId, state: Option<Arc<RegionDescriptor>>) -> Self {
        Self { replica, state, frozen: None, absorbed: nothing_absorbed(), pending: false }
    }

    fn range(&self) -> Option<&KeyRange> {
        self.state.as_ref().map(|state| &state.range)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Residents {
    store: StoreId,
    /// By id.
    list: List,
    /// Those with a state. The root region has no keys.
    order: KeyOrder,
    frozen: BTreeSet<RegionId>,
}

type List = Sorted<(RegionId, Resident)>;

#[derive(Debug)]
enum Resident {
    Warm(Box<Known>),
    Resting(Packed),
}

impl Residents {
    /// What a store begins with, each region once.
    pub(super) fn of(store: StoreId, mut all: Vec<(RegionId, Known)>) -> Self {
        all.sort_by_key(|(region, _)| *region);
        let ranges = all.iter().filter_map(|(region, known)| Some((*region, known.range()?.clone())));
        let order = KeyOrder::of(ranges.filter(|(region, _)| *region != RegionId::ROOT).collect());
        let frozen = all.iter().filter(|(_, known)| known.frozen.is_some()).map(|(region, _)| *region).collect();
        let list = all.into_iter().map(|(region, known)| (region, Resident::Warm(Box::new(known))));
        Self { store, list: Sorted::of(list.collect()), order, frozen }
    }

    pub(super) fn store(&self) -> StoreId {
        self.store
    }

    pub(super) fn get(&self, region: RegionId) -> Option<Cow<'_, Known>> {
        Some(match get(&self.list, region)? {
            Resident::Warm(known) => Cow::Borrowed(known),
            Resident::Resting(packed) => {
                let state = packed.unpack();
                let own = state.replica_on(self.store).map(|own| own.id);
                Cow::Owned(Known::new(own.expect("invariant: what rests names its replica here"), Some(state)))
            }
        })
    }

    /// Whether the region has a replica with a state here.
    pub(super) fn has_state(&self, region: RegionId) -> bool {
        match get(&self.list, region) {
            Some(Resident::Warm(known)) => known.state.is_some(),
            Some(Resident::Resting(_)) => true,
            None => false,
        }
    }

    /// What is known of a region, if that is more than its state.
    pub(super) fn warm(&self, region: RegionId) -> Option<&Known> {
        match get(&self.list, region)? {
            Resident::Warm(known) => Some(known),
            Resident::Resting(_) => None,
        }
    }

    /// Those that are frozen.
    pub(super) fn frozen(&self) -> impl Iterator<Item = &Known> {
        self.frozen.iter().filter_map(|region| self.warm(*region))
    }

    /// The regions with a state and keys in a range, in order of id; not the root region.
    pub(super) fn overlapping(&self, range: &KeyRange) -> BTreeSet<RegionId> {
        self.order.overlapping(range, |region| range_of(&self.list, region))
    }

    /// From now on this is known of a region.
    pub(super) fn put(&mut self, region: RegionId, known: Known) {
        let before = self.get(region).and_then(|before| before.range().cloned());
        let after = known.range().cloned();
        let moves = before != after;
        if moves {
            self.take_out_of_order(region, before.as_ref());
        }
        if known.frozen.is_some() {
            self.frozen.insert(region);
        } else {
            self.frozen.remove(&region);
        }
        let (place, resident) = (place(&self.list, region), Resident::Warm(Box::new(known)));
        match self.list.get_mut(place).filter(|(id, _)| *id == region) {
            Some((_, before)) => *before = resident,
            None => self.list.insert(place, (region, resident)),
        }
        if let Some(range) = after.filter(|_| moves && region != RegionId::ROOT) {
            let Self { list, order, .. } = self;
            order.insert(region, &range, |other| range_of(list, other));
        }
    }

    /// Changes what is known of a region, if it is here.
    pub(super) fn update(&mut self, region: RegionId, change: impl FnOnce(&mut Known)) {
        if let Some(mut known) = self.get(region).map(Cow::into_owned) {
            change(&mut known);
            self.put(region, known);
        }
    }

    pub(super) fn remove(&mut self, region: RegionId) {
        let Some(range) = self.get(region).map(|known| known.range().cloned()) else { return };
        self.take_out_of_order(region, range.as_ref());
        self.frozen.remove(&region);
        self.list.remove(place(&self.list, region));
    }

    /// The region sleeps, and should be this.
    pub(super) fn rest(&mut self, region: RegionId, packed: &Packed) {
        let place = place(&self.list, region);
        let Some((_, resident)) = self.list.get_mut(place).filter(|(id, _)| *id == region) else { return };
        let may_rest = match resident {
            Resident::Warm(known) => {
                let is_plain = known.frozen.is_none() && known.absorbed.0.is_empty() && !known.pending;
                known.state.as_ref().is_some_and(|state| {
                    let own = state.replica_on(self.store).map(|own| own.id);
                    is_plain && own == Some(known.replica) && packed.is(state)
                })
            }
            // The same bytes, of which one copy is enough.
            Resident::Resting(before) => before == packed,
        };
        if may_rest {
            *resident = Resident::Resting(packed.clone());
        }
    }

    fn take_out_of_order(&mut self, region: RegionId, range: Option<&KeyRange>) {
        if let Some(range) = range.filter(|_| region != RegionId::ROOT) {
            let Self { list, order, .. } = self;
            order.remove(region, range, |other| range_of(list, other));
        }
    }
}

fn place(list: &List, region: RegionId) -> Place {
    list.place(|(id, _)| *id < region)
}

fn get(list: &List, region: RegionId) -> Option<&Resident> {
    list.get(place(list, region)).filter(|(id, _)| *id == region).map(|(_, resident)| resident)
}

/// The range of a region that stands in the order of keys.
fn range_of(list: &List, region: RegionId) -> KeyRange {
    let range = match get(list, region) {
        Some(Resident::Warm(known)) => known.range().cloned(),
        Some(Resident::Resting(packed)) => Some(packed.unpack().range.clone()),
        None => None,
    };
    range.expect("invariant: what stands in the order of keys is here and has a state")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resting_replica_takes_one_entry_of_the_list() {
        assert_eq!(size_of::<(RegionId, Resident)>(), 24);
    }
}
