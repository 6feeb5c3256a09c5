//! Which region owns a key, as a store's directory or the clients know it. It may be behind: whoever routes by it is told so
//! by the epoch that travels with every request.

use std::collections::BTreeMap;
use std::sync::Arc;

use multiraft_raft::{KeyRange, RegionDescriptor, RegionId};
use multiraft_router::RangeMap;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Routes {
    ranges: RangeMap,
    known: BTreeMap<RegionId, Arc<RegionDescriptor>>,
    /// Which region each child of a split was cut from.
    parents: BTreeMap<RegionId, RegionId>,
    /// What each region has absorbed.
    absorbed: BTreeMap<RegionId, Vec<RegionId>>,
}

impl Routes {
    /// Takes news of a region; older news than what is known is dropped.
    pub(super) fn learn(&mut self, descriptor: &Arc<RegionDescriptor>) {
        self.ranges.update(descriptor);
        let entry = self.known.entry(descriptor.id).or_insert_with(|| Arc::clone(descriptor));
        if entry.epoch.is_behind(descriptor.epoch) {
            *entry = Arc::clone(descriptor);
        }
    }

    /// Takes news of a split: the region itself first.
    pub(super) fn learn_split(&mut self, parts: &[Arc<RegionDescriptor>]) {
        for part in parts {
            self.learn(part);
            if part.id != parts[0].id {
                self.parents.insert(part.id, parts[0].id);
            }
        }
    }

    /// Takes news of a merge.
    pub(super) fn learn_merge(&mut self, region: &Arc<RegionDescriptor>, source: RegionId) {
        self.learn(region);
        let absorbed = self.absorbed.entry(region.id).or_default();
        if !absorbed.contains(&source) {
            absorbed.push(source);
        }
    }

    /// The region that owns `key`. What is known of a region may be newer than what is known of a key: after a recovery the region
    /// may own less than before, and nobody knows yet whose the rest is.
    pub(super) fn owner(&self, key: &[u8]) -> Option<Arc<RegionDescriptor>> {
        self.get(self.ranges.lookup(key)?.region).filter(|region| region.owns(key))
    }

    pub(super) fn get(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        self.known.get(&region).cloned()
    }

    /// The regions whose sessions `region` may know: itself, those that it was cut from, and what these have absorbed.
    pub(super) fn lineage(&self, region: RegionId) -> Vec<RegionId> {
        let mut lineage = vec![region];
        let mut at = 0;
        while let Some(region) = lineage.get(at).copied() {
            let absorbed = self.absorbed.get(&region).into_iter().flatten().copied();
            for other in absorbed.chain(self.parents.get(&region).copied()) {
                if !lineage.contains(&other) {
                    lineage.push(other);
                }
            }
            at += 1;
        }
        lineage
    }

    /// The regions that own keys, in key order.
    pub(super) fn owners(&self) -> Vec<RegionId> {
        self.ranges.scan(&KeyRange::full(), usize::MAX).into_iter().map(|route| route.region).collect()
    }
}
