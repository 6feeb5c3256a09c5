//! Which region owns which keys, as the stores tell it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::hex;
use crate::serve::StatusReport;

/// The regions by their first key.
pub(crate) struct RegionMap {
    by_start: BTreeMap<Bytes, u64>,
    starts: BTreeMap<u64, Bytes>,
}

/// How replicas stand to each other.
pub(crate) struct Progress {
    /// Regions of which exactly one replica is the leader, has committed all that it holds, and all others have applied it.
    pub(crate) level: usize,
    /// Regions that have a leader.
    pub(crate) led: usize,
}

impl RegionMap {
    /// What a store knows; `None` if it tells nonsense. The root region, which holds no keys, is left out.
    pub(crate) fn of(status: &StatusReport) -> Option<Self> {
        let regions = status.regions.iter().filter(|region| region.id != multiraft::RegionId::ROOT.get());
        let by_start: Option<BTreeMap<_, _>> =
            regions.map(|region| Some((hex::decode(&region.start)?, region.id))).collect();
        let by_start = by_start?;
        let starts = by_start.iter().map(|(start, id)| (*id, start.clone())).collect();
        Some(Self { by_start, starts })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    pub(crate) fn start(&self, id: u64) -> Option<&Bytes> {
        self.starts.get(&id)
    }

    /// How many regions own none of these keys.
    pub(crate) fn without<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> usize {
        let owner = |key: &Bytes| self.by_start.range(..=key.clone()).next_back().map(|(_, id)| *id);
        let owners: BTreeSet<u64> = keys.filter_map(owner).collect();
        self.len() - owners.len()
    }

    /// How far the replicas of all these regions are, by what all stores tell.
    pub(crate) fn progress(&self, stores: &[StatusReport]) -> Progress {
        let mut progress = Progress { level: 0, led: 0 };
        let mut replicas: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for region in stores.iter().flat_map(|store| &store.regions) {
            replicas.entry(region.id).or_default().push(region);
        }
        for replicas in self.starts.keys().filter_map(|id| replicas.get(id)) {
            // One that was a leader may not know yet that it is no more; its term is lower.
            let leader = replicas.iter().filter(|replica| replica.is_leader).max_by_key(|replica| replica.term);
            let Some(leader) = leader else { continue };
            progress.led += 1;
            let done = leader.commit == leader.last_index
                && replicas.len() == stores.len()
                && replicas.iter().all(|replica| replica.term == leader.term && replica.applied >= leader.commit);
            progress.level += usize::from(done);
        }
        progress
    }
}
