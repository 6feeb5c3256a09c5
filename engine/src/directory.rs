//! Which regions there are, by id and by key, as this store knows it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use multiraft_raft::{KeyRange, RegionDescriptor, RegionId};
use multiraft_router::{Address, RangeMap, RegionMap};

use crate::logic::RegionHandle;

/// Shared by workers, which keep it up to date, and callers, who route by it.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    ranges: RangeMap,
    /// Where the replicas of this store live.
    addresses: RegionMap,
    descriptors: RwLock<BTreeMap<RegionId, Arc<RegionDescriptor>>>,
}

impl Directory {
    /// Takes news of a region; older news than what is known is dropped.
    pub(crate) fn update(&self, descriptor: &Arc<RegionDescriptor>) {
        self.ranges.update(descriptor);
        let mut known = self.descriptors.write().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(descriptor.id).or_insert_with(|| Arc::clone(descriptor));
        if entry.epoch.is_behind(descriptor.epoch) {
            *entry = Arc::clone(descriptor);
        }
    }

    /// A replica lives on this worker from now on.
    pub(crate) fn host(&self, worker: usize, handle: RegionHandle) {
        self.addresses.insert(handle.region, address(worker, handle));
    }

    /// It lives there no more; a successor that is there already stays known.
    pub(crate) fn vacate(&self, worker: usize, handle: RegionHandle) {
        self.addresses.remove(handle.region, address(worker, handle));
    }

    /// The worker that drives the region's replica on this store; `None` if there is none.
    pub(crate) fn worker(&self, region: RegionId) -> Option<usize> {
        self.addresses.get(region).map(|address| address.worker as usize)
    }

    /// Takes the news of a split: no reader sees only a part of it.
    pub(crate) fn update_all(&self, parts: &[Arc<RegionDescriptor>]) {
        {
            let mut known = self.descriptors.write().unwrap_or_else(PoisonError::into_inner);
            for part in parts {
                let entry = known.entry(part.id).or_insert_with(|| Arc::clone(part));
                if entry.epoch.is_behind(part.epoch) {
                    *entry = Arc::clone(part);
                }
            }
        }
        // Last: a key is looked up here first, and then the region by its id.
        self.ranges.update_all(parts.iter().map(Arc::as_ref));
    }

    /// A region by id.
    pub(crate) fn get(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        self.descriptors.read().unwrap_or_else(PoisonError::into_inner).get(&region).cloned()
    }

    /// The region that owns a key.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<Arc<RegionDescriptor>> {
        self.get(self.ranges.lookup(key)?.region)
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
