//! Replicas of this store that are out of service: fenced, or damaged. Their states are still there, so that nobody else takes
//! their keys, but nothing is read from them and nothing of them is passed on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiraft_raft::RegionId;

/// Which regions have such a replica here. Shared by appliers and by whoever looks something up.
#[derive(Debug, Default)]
pub(crate) struct Barred {
    /// Almost always zero: a look-up then costs no lock.
    count: AtomicUsize,
    regions: Mutex<BTreeSet<RegionId>>,
}

impl Barred {
    /// Nothing is read from this region from now on.
    pub(crate) fn insert(&self, region: RegionId) {
        let mut regions = self.lock();
        regions.insert(region);
        self.count.store(regions.len(), Ordering::SeqCst);
    }

    /// Its state is gone.
    pub(crate) fn remove(&self, region: RegionId) {
        let mut regions = self.lock();
        regions.remove(&region);
        self.count.store(regions.len(), Ordering::SeqCst);
    }

    pub(crate) fn contains(&self, region: RegionId) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.lock().contains(&region)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<RegionId>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
