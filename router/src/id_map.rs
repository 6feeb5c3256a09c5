//! Regions by id, in little more memory than the values take.
//!
//! Ids are given out one after the other, so that a store has most of those between its lowest and its highest, or every so
//! manyth of them. A *page* has room for 64 ids and keeps one bit for each and the values of those that are there, packed:
//!
//! ```text
//!   id      [ high ......... | place: 6 bits | lane: 6 bits ]
//!   page    [ high ......... |    lane       ]                 neighbours lie in different pages
//!   within  present: u64, values: [V]                          the value of a place is that of its rank among those present
//! ```
//!
//! Neighbours lie in different pages so that where each page has a lock ([`RegionMap`](crate::RegionMap)), threads that are
//! busy with a few regions seldom meet.

use std::collections::HashMap;

use multiraft_raft::RegionId;
use rustc_hash::FxBuildHasher;

const LANE_BITS: u32 = 6;
const PLACE_BITS: u32 = 6;
const LANES: u64 = 1 << LANE_BITS;
const PLACES: u64 = 1 << PLACE_BITS;

/// Room that is taken when there is none, in values, and twice the room that is left when it is given back.
const ROOM: usize = 4;

/// Where a region's value lies: its page, and its place there.
pub(crate) const fn locate(region: RegionId) -> (u64, u32) {
    let id = region.0;
    let page = ((id >> (LANE_BITS + PLACE_BITS)) << LANE_BITS) | (id & (LANES - 1));
    (page, ((id >> LANE_BITS) & (PLACES - 1)) as u32)
}

/// What [`locate`] found there.
const fn region_at(page: u64, place: u32) -> RegionId {
    let high = (page >> LANE_BITS) << (LANE_BITS + PLACE_BITS);
    RegionId(high | ((place as u64) << LANE_BITS) | (page & (LANES - 1)))
}

/// The values of up to 64 ids.
///
/// Invariant: there are as many values as bits are set in `present`, in the order of their places.
#[derive(Debug)]
pub(crate) struct Page<V> {
    present: u64,
    values: Vec<V>,
}

impl<V> Default for Page<V> {
    fn default() -> Self {
        Self { present: 0, values: Vec::new() }
    }
}

impl<V> Page<V> {
    pub(crate) const fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(crate) fn get(&self, place: u32) -> Option<&V> {
        self.has(place).then(|| &self.values[self.rank(place)])
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut V> {
        let (is_there, rank) = (self.has(place), self.rank(place));
        is_there.then(|| &mut self.values[rank])
    }

    pub(crate) fn insert(&mut self, place: u32, value: V) -> Option<V> {
        if let Some(standing) = self.get_mut(place) {
            return Some(std::mem::replace(standing, value));
        }
        if self.values.len() == self.values.capacity() {
            self.values.reserve_exact(ROOM);
        }
        self.values.insert(self.rank(place), value);
        self.present |= 1 << place;
        None
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<V> {
        if !self.has(place) {
            return None;
        }
        let value = self.values.remove(self.rank(place));
        self.present &= !(1 << place);
        self.give_back();
        Some(value)
    }

    /// The values with the regions that they belong to, if this is page `page`.
    pub(crate) fn iter(&self, page: u64) -> impl Iterator<Item = (RegionId, &V)> {
        places(self.present).map(move |place| region_at(page, place)).zip(&self.values)
    }

    fn retain(&mut self, page: u64, mut is_kept: impl FnMut(RegionId, &V) -> bool) {
        let mut places = places(self.present);
        let present = &mut self.present;
        self.values.retain(|value| {
            let place = places.next().expect("invariant: a bit for each value");
            let stays = is_kept(region_at(page, place), value);
            *present &= !(u64::from(!stays) << place);
            stays
        });
        self.give_back();
    }

    const fn has(&self, place: u32) -> bool {
        self.present & (1 << place) != 0
    }

    /// How many values come before that of `place`.
    const fn rank(&self, place: u32) -> usize {
        (self.present & ((1 << place) - 1)).count_ones() as usize
    }

    fn give_back(&mut self) {
        if self.values.capacity() - self.values.len() > 2 * ROOM {
            self.values.shrink_to(self.values.len() + ROOM);
        }
    }
}

/// The places whose bits are set, ascending.
fn places(mut present: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let place = present.trailing_zeros();
        present &= present.checked_sub(1)?;
        Some(place)
    })
}

/// A map from region to `V`.
#[derive(Debug)]
pub struct IdMap<V> {
    pages: HashMap<u64, Page<V>, FxBuildHasher>,
    len: usize,
}

impl<V> Default for IdMap<V> {
    fn default() -> Self {
        Self { pages: HashMap::default(), len: 0 }
    }
}

impl<V> IdMap<V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `region`.
    #[must_use]
    pub fn get(&self, region: RegionId) -> Option<&V> {
        let (page, place) = locate(region);
        self.pages.get(&page)?.get(place)
    }

    /// The value of `region`, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, region: RegionId) -> Option<&mut V> {
        let (page, place) = locate(region);
        self.pages.get_mut(&page)?.get_mut(place)
    }

    /// Gives `region` a value and returns the one that this replaces.
    pub fn insert(&mut self, region: RegionId, value: V) -> Option<V> {
        let (page, place) = locate(region);
        let replaced = self.pages.entry(page).or_default().insert(place, value);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Forgets `region` and returns its value.
    pub fn remove(&mut self, region: RegionId) -> Option<V> {
        let (number, place) = locate(region);
        let page = self.pages.get_mut(&number)?;
        let removed = page.remove(place)?;
        if page.is_empty() {
            self.pages.remove(&number);
        }
        self.len -= 1;
        Some(removed)
    }

    /// Forgets all regions for which `is_kept` says no. Costs a walk of the whole map, in no particular order.
    pub fn retain(&mut self, mut is_kept: impl FnMut(RegionId, &V) -> bool) {
        self.len = 0;
        self.pages.retain(|number, page| {
            page.retain(*number, &mut is_kept);
            self.len += page.len();
            !page.is_empty()
        });
        if self.pages.capacity() > 4 * self.pages.len() {
            self.pages.shrink_to(2 * self.pages.len());
        }
    }

    /// Number of regions.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no region has a value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All regions with their values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (RegionId, &V)> {
        self.pages.iter().flat_map(|(number, page)| page.iter(*number))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_id_has_a_place_of_its_own() {
        for id in (0..20_000).chain([u64::MAX - 1, u64::MAX, 1 << 40, (1 << 40) + 4_095]) {
            let (page, place) = locate(RegionId(id));
            assert!(u64::from(place) < PLACES);
            assert_eq!(region_at(page, place), RegionId(id));
        }
    }

    #[test]
    fn neighbours_lie_apart_and_full_pages_have_no_slack() {
        let mut map = IdMap::new();
        for id in 0..8_192 {
            map.insert(RegionId(id), id);
        }
        assert_eq!((map.len(), map.pages.len()), (8_192, 128));
        assert!(map.pages.values().all(|page| page.values.capacity() == 64));
        let pages: std::collections::BTreeSet<u64> = (0..64).map(|id| locate(RegionId(id)).0).collect();
        assert_eq!(pages.len(), 64);
    }

    #[test]
    fn ids_that_come_every_fourth_fill_their_pages_too() {
        // A split takes an id for the region, and one for each of three replicas.
        let mut map = IdMap::new();
        for region in 0..4_096 {
            map.insert(RegionId((1 << 24) + 4 * region), region);
        }
        assert_eq!(map.pages.len(), 64);
        assert!(map.pages.values().all(|page| page.values.capacity() == 64));
    }

    #[test]
    fn memory_follows_the_number_of_regions() {
        let mut map = IdMap::new();
        for id in 0..100_000 {
            map.insert(RegionId(id), id);
        }
        map.retain(|id, _| id.0 % 1_000 == 0);
        assert_eq!(map.len(), 100);
        let room: usize = map.pages.values().map(|page| page.values.capacity()).sum();
        assert!(room <= 100 * (1 + 2 * ROOM), "{room}");
        assert!(map.pages.capacity() < 1_000, "{}", map.pages.capacity());
        for id in (0..100_000).step_by(1_000) {
            assert_eq!(map.remove(RegionId(id)), Some(id));
        }
        assert!(map.is_empty() && map.pages.is_empty());
    }

    proptest! {
        #[test]
        fn it_is_what_an_ordered_map_is(
            steps in prop::collection::vec((0..200_u64, 0..4_u64, 0..10_u8), 0..300),
        ) {
            let (mut map, mut model) = (IdMap::new(), BTreeMap::new());
            for (value, (low, high, action)) in steps.into_iter().enumerate() {
                // Ids that share a page, and ids far apart.
                let id = RegionId(low * 64 + (high << 40));
                match action {
                    0..6 => prop_assert_eq!(map.insert(id, value), model.insert(id, value)),
                    6..9 => prop_assert_eq!(map.remove(id), model.remove(&id)),
                    _ => {
                        map.retain(|id, value| id.0 % 7 > *value as u64 % 5);
                        model.retain(|id, value| id.0 % 7 > *value as u64 % 5);
                    }
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.get(id), model.get(&id));
                prop_assert_eq!(map.get_mut(id), model.get_mut(&id));
            }
            let mut all: Vec<_> = map.iter().map(|(id, value)| (id, *value)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
