//! Which regions there are, by id and by key, as this store knows it.
//!
//! Regions that were absorbed are forgotten, so that memory follows the number of those that there are: those whose first key has
//! another owner of a later version. That is a guess (a region that has absorbed its left neighbour may have given away what was its
//! first key), and a wrong one costs a question: whoever names a region that is forgotten is sent to look for it, and any news of it
//! brings it back.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use multiraft_raft::{KeyRange, RegionDescriptor, RegionId};
use multiraft_router::{Address, RangeMap, RangeUpdate, RegionMap, Route};

use crate::logic::{Packed, RegionHandle};

/// Shared by workers, which keep it up to date, and callers, who route by it.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    ranges: RangeMap,
    /// Where the replicas of this store live.
    addresses: RegionMap,
    known: RwLock<Known>,
}

/// Regions by id.
#[derive(Debug)]
struct Known {
    descriptors: BTreeMap<RegionId, Arc<RegionDescriptor>>,
    /// With more than these it is looked for such as are no more.
    enough: usize,
}

/// With fewer regions it is not worth while to look for such as are no more.
const FEW: usize = 256;

impl Default for Known {
    fn default() -> Self {
        Self { descriptors: BTreeMap::new(), enough: FEW }
    }
}

impl Known {
    fn update(&mut self, descriptor: &Arc<RegionDescriptor>) {
        let entry = self.descriptors.entry(descriptor.id).or_insert_with(|| Arc::clone(descriptor));
        if entry.epoch.is_behind(descriptor.epoch) {
            *entry = Arc::clone(descriptor);
        }
    }

    /// Forgets regions that are no more, once as many have come as were left the last time.
    fn tidy(&mut self, ranges: &RangeMap) {
        if self.descriptors.len() <= self.enough {
            return;
        }
        self.descriptors.retain(|id, known| {
            let is_older = |owner: &Route| owner.region != *id && owner.epoch.version > known.epoch.version;
            // The root region owns no keys.
            *id == RegionId::ROOT || !ranges.lookup(&known.range.start).as_ref().is_some_and(is_older)
        });
        self.enough = (self.descriptors.len() * 2).max(FEW);
    }
}

impl Directory {
    /// Takes news of a region; older news than what is known is dropped.
    pub(crate) fn update(&self, descriptor: &Arc<RegionDescriptor>) {
        // Held over both, as every look-up holds it: a key found in one must be the region's in the other.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if self.ranges.update(descriptor) == RangeUpdate::Replaced {
            tracing::debug!(?descriptor, "a region is heard of");
        }
        known.update(descriptor);
        known.tidy(&self.ranges);
    }

    /// A replica lives on this worker from now on.
    pub(crate) fn host(&self, worker: usize, handle: RegionHandle) {
        self.addresses.insert(handle.region, address(worker, handle));
    }

    /// It lives there no more; a successor that is there already stays known.
    pub(crate) fn vacate(&self, worker: usize, handle: RegionHandle) {
        self.addresses.remove(handle.region, address(worker, handle));
    }

    /// What is kept of a region that sleeps takes less.
    #[allow(clippy::unused_self, reason = "to be filled")]
    pub(crate) fn rest(&self, _packed: &Packed) {}

    /// The worker that drives the region's replica on this store; `None` if there is none.
    pub(crate) fn worker(&self, region: RegionId) -> Option<usize> {
        self.addresses.get(region).map(|address| address.worker as usize)
    }

    /// Takes the news of a split: no reader sees only a part of it.
    pub(crate) fn update_all(&self, parts: &[Arc<RegionDescriptor>]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        parts.iter().for_each(|part| known.update(part));
        self.ranges.update_all(parts.iter().map(Arc::as_ref));
        known.tidy(&self.ranges);
        tracing::debug!(?parts, "a split is heard of");
    }

    /// A region by id.
    pub(crate) fn get(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).descriptors.get(&region).cloned()
    }

    /// The region that owns a key: what is done under the epoch of this descriptor is done where the key is.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<Arc<RegionDescriptor>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let owner = self.ranges.lookup(key)?.region;
        known.descriptors.get(&owner).filter(|region| region.owns(key)).cloned()
    }

    /// All regions that own keys, in key order.
    pub(crate) fn in_key_order(&self) -> Vec<Arc<RegionDescriptor>> {
        let routes = self.ranges.scan(&KeyRange::full(), usize::MAX);
        routes.into_iter().filter_map(|route| self.get(route.region)).collect()
    }
}

fn address(worker: usize, handle: RegionHandle) -> Address {
    let worker = u32::try_from(worker).expect("invariant: at most 256 workers");
    Address { worker, slot: handle.slot, generation: handle.generation }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use multiraft_raft::RegionEpoch;

    use super::*;

    fn region(id: u64, (start, end): (u64, u64), version: u64) -> Arc<RegionDescriptor> {
        let key = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
        let range = KeyRange { start: key(start), end: key(end) };
        let epoch = RegionEpoch { conf_version: 1, version };
        Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas: Vec::new() })
    }

    #[test]
    fn regions_that_were_absorbed_are_forgotten() {
        let directory = Directory::default();
        directory.update(&region(1, (0, 0), 1));
        directory.update(&region(2, (0, 100), 1));
        let first_child = 3;
        for round in 0..10_000 {
            // Region 2 splits, and absorbs its child again.
            let (child, version) = (first_child + round, 2 * round + 2);
            directory.update_all(&[region(2, (0, 50), version), region(child, (50, 100), version)]);
            assert_eq!(directory.in_key_order().len(), 2);
            directory.update(&region(2, (0, 100), version + 1));
        }
        let known = directory.known.read().unwrap().descriptors.len();
        assert!(known <= 2 * FEW, "{known}");
        let last = region(2, (0, 100), 20_001);
        assert_eq!(directory.get(RegionId(2)), Some(Arc::clone(&last)));
        assert_eq!(directory.in_key_order(), [last]);
        assert!(directory.get(RegionId::ROOT).is_some(), "it owns no keys, and is there");
        assert_eq!(directory.get(RegionId(first_child)), None);
    }

    #[test]
    fn regions_that_there_are_stay_known_however_many() {
        let directory = Directory::default();
        for id in 2..2_000 {
            directory.update(&region(id, (id, id + 1), 5));
        }
        // Old news of one that has given keys away since.
        directory.update(&region(7, (7, 100), 4));
        assert!((2..2_000).all(|id| directory.get(RegionId(id)).is_some()));
    }

    #[test]
    fn a_key_is_never_found_in_a_region_that_does_not_own_it() {
        let (directory, is_over) = (Directory::default(), std::sync::atomic::AtomicBool::new(false));
        directory.update(&region(2, (0, 100), 1));
        let key = region(3, (50, 100), 1).range.start.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..4_000 {
                    directory.update_all(&[region(2, (0, 50), version * 2), region(3, (50, 100), version * 2)]);
                    directory.update(&region(2, (0, 100), version * 2 + 1));
                }
                is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(found) = directory.lookup(&key) {
                    assert!(found.owns(&key), "{found:?}");
                }
            }
        });
    }
}
