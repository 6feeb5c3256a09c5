//! Which region owns which keys, and which stores hold them, as the stores tell it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::hex;
use crate::serve::{RegionView, StatusReport};

/// The regions by their first key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionMap {
    by_start: BTreeMap<Bytes, u64>,
    starts: BTreeMap<u64, Bytes>,
    /// The stores of each region's replicas.
    holders: BTreeMap<u64, BTreeSet<u64>>,
}

/// How replicas stand to each other.
pub(crate) struct Progress {
    /// Regions of which exactly one replica is the leader, has committed all that it holds, and all others of its replicas
    /// have applied it.
    pub(crate) level: usize,
    /// Regions that have a leader.
    pub(crate) led: usize,
}

impl RegionMap {
    /// From what was told of all regions; `None` if that is nonsense. The root region, which holds no keys, is left out.
    pub(crate) fn of(regions: impl IntoIterator<Item = RegionView>) -> Option<Self> {
        let mut map = Self { by_start: BTreeMap::new(), starts: BTreeMap::new(), holders: BTreeMap::new() };
        for region in regions.into_iter().filter(|region| region.id != multiraft::RegionId::ROOT.get()) {
            let start = hex::decode(&region.start)?;
            map.by_start.insert(start.clone(), region.id);
            map.starts.insert(region.id, start);
            map.holders.insert(region.id, region.replicas.iter().map(|replica| replica.store).collect());
        }
        Some(map)
    }

    /// How many replicas all regions have.
    pub(crate) fn replicas(&self) -> usize {
        self.holders.values().map(BTreeSet::len).sum()
    }

    /// Whether a store holds a key.
    pub(crate) fn is_on(&self, key: &Bytes, store: u64) -> bool {
        self.owner(key).and_then(|id| self.holders.get(&id)).is_some_and(|holders| holders.contains(&store))
    }

    fn owner(&self, key: &Bytes) -> Option<u64> {
        self.by_start.range(..=key.clone()).next_back().map(|(_, id)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    pub(crate) fn start(&self, id: u64) -> Option<&Bytes> {
        self.starts.get(&id)
    }

    /// How many regions own none of these keys.
    pub(crate) fn without<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> usize {
        let owners: BTreeSet<u64> = keys.filter_map(|key| self.owner(key)).collect();
        self.len() - owners.len()
    }

    /// How far the replicas of all these regions are, by what all stores tell.
    pub(crate) fn progress(&self, stores: &[StatusReport]) -> Progress {
        let mut progress = Progress { level: 0, led: 0 };
        let mut replicas: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (store, region) in stores.iter().flat_map(|store| store.regions.iter().map(|region| (store.store, region)))
        {
            replicas.entry(region.id).or_default().push((store, region));
        }
        for replicas in self.starts.keys().filter_map(|id| replicas.get(id)) {
            // One that was a leader may not know yet that it is no more; its term is lower.
            let leaders = replicas.iter().map(|(_, replica)| replica).filter(|replica| replica.is_leader);
            let Some(leader) = leaders.max_by_key(|replica| replica.term) else { continue };
            progress.led += 1;
            let is_level = |on: u64| {
                let mut here = replicas.iter().filter(|(store, _)| *store == on);
                here.any(|(_, replica)| replica.term == leader.term && replica.applied >= leader.commit)
            };
            let done =
                leader.commit == leader.last_index && leader.replicas.iter().all(|replica| is_level(replica.store));
            progress.level += usize::from(done);
        }
        progress
    }
}
