//! Clusters as they may be when stores die: regions that were split and moved, with logs as Raft leaves them. The truth is known
//! here, which the planner does not see.

#![allow(clippy::unwrap_used, dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use multiraft::recovery::{BuriedReplica, Foreseen, ReplicaSurvey, StoreSurvey};
use multiraft::{
    ClusterId, Incarnation, KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role,
    StoreId, Term,
};
use multiraft_raft::HardState;

pub(crate) const STORES: u64 = 6;

/// Draws numbers; the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// So many stores.
    pub(crate) fn stores(&mut self, count: usize) -> Vec<u64> {
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(1 + self.below(STORES));
        }
        chosen.into_iter().collect()
    }
}

/// How one store stands with a region.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// How much of the region's one true log it has.
    pub(crate) prefix: u64,
    /// Entries behind that of a leader that was overtaken.
    pub(crate) stray: u64,
    pub(crate) applied: u64,
    pub(crate) commit: u64,
}

/// One region, as an all-seeing eye sees it. Entry 1 is its first state.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) descriptor: RegionDescriptor,
    /// The term of each entry of the true log, from entry 1 on.
    pub(crate) terms: Vec<u64>,
    pub(crate) committed: u64,
    /// The entry that splits it, and the child.
    pub(crate) split: Option<(u64, RegionDescriptor)>,
    pub(crate) standings: BTreeMap<u64, Standing>,
    /// Stores that it was moved away from.
    pub(crate) left: Vec<u64>,
}

pub(crate) fn range(start: &str, end: &str) -> KeyRange {
    KeyRange { start: Bytes::copy_from_slice(start.as_bytes()), end: Bytes::copy_from_slice(end.as_bytes()) }
}

pub(crate) fn region(id: u64, range: KeyRange, version: u64, stores: &[u64]) -> RegionDescriptor {
    let replica = |store: &u64| Replica { id: ReplicaId(id * 100 + store), store: StoreId(*store), role: Role::Voter };
    let replicas = stores.iter().map(replica).collect();
    let epoch = RegionEpoch { conf_version: 1, version };
    RegionDescriptor { id: RegionId(id), range, epoch, replicas }
}

impl Truth {
    /// A region with a log that Raft may have left, on the stores of its descriptor.
    pub(crate) fn draw(random: &mut Random, descriptor: RegionDescriptor) -> Self {
        let mut term = 1;
        let mut terms = vec![1];
        for _ in 0..random.below(12) {
            term += random.below(3) / 2;
            terms.push(term);
        }
        let committed = 1 + random.below(terms.len() as u64);
        let stores: Vec<u64> = descriptor.replicas.iter().map(|replica| replica.store.0).collect();
        let quorum = stores.len() / 2 + 1;
        let mut standings = BTreeMap::new();
        // Whoever begins the list has what is committed.
        let first = random.below(stores.len() as u64) as usize;
        for (place, at) in (first..first + stores.len()).enumerate() {
            let least = if place < quorum { committed } else { 1 };
            let prefix = least + random.below(terms.len() as u64 - least + 1);
            let is_overtaken = prefix < terms.len() as u64 && terms[prefix as usize] > terms[prefix as usize - 1];
            let stray = if is_overtaken && random.chance(40) { 1 + random.below(5) } else { 0 };
            let applied = 1 + random.below(prefix.min(committed));
            let commit = applied + random.below(prefix.min(committed) - applied + 1);
            standings.insert(stores[at % stores.len()], Standing { prefix, stray, applied, commit });
        }
        Self { descriptor, terms, committed, split: None, standings, left: Vec::new() }
    }

    /// Its descriptor after this entry.
    pub(crate) fn at(&self, index: u64) -> RegionDescriptor {
        let mut descriptor = self.descriptor.clone();
        if let Some((split, child)) = self.split.as_ref().filter(|(split, _)| *split <= index) {
            assert!(*split > 1);
            descriptor.range.end = child.range.start.clone();
            descriptor.epoch.version += 1;
        }
        descriptor
    }

    fn survey(&self, store: u64) -> Option<ReplicaSurvey> {
        let standing = self.standings.get(&store)?;
        let term = |index: u64| Term(self.terms[index as usize - 1]);
        let last = (LogIndex(standing.prefix + standing.stray), term(standing.prefix));
        let passes = |split: u64| split > standing.applied && split <= standing.prefix;
        let children = self.split.iter().filter(|(split, _)| passes(*split)).map(|(_, child)| child.clone());
        Some(ReplicaSurvey {
            descriptor: self.at(standing.applied),
            hard_state: HardState { term: last.1, vote: ReplicaId::ZERO, commit: LogIndex(standing.commit) },
            applied: (LogIndex(standing.applied), term(standing.applied)),
            committed: (LogIndex(standing.commit), term(standing.commit)),
            last,
            frozen: None,
            absorbed: Vec::new(),
            foreseen: Foreseen {
                descriptor: self.at(standing.prefix),
                frozen: None,
                absorbed: Vec::new(),
                absorbs: Vec::new(),
                configurations: Vec::new(),
                children: children.collect(),
                blocked: None,
            },
        })
    }
}

/// A whole cluster.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) regions: BTreeMap<u64, Truth>,
    pub(crate) dead: BTreeSet<u64>,
}

impl World {
    pub(crate) fn draw(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let mut regions = BTreeMap::new();
        let root = region(1, range("", ""), 1, &random.stores(3));
        regions.insert(1, Truth::draw(random, root));
        let bounds = ["", "d", "k", "r", ""];
        for (at, id) in (0..4).zip([2, 3, 4, 5]) {
            let replicas = if random.chance(30) { 5 } else { 3 };
            let stores = random.stores(replicas);
            let parent = region(id, range(bounds[at], bounds[at + 1]), 1 + random.below(4), &stores);
            let mut parent = Truth::draw(random, parent);
            if random.chance(60) && parent.terms.len() > 1 {
                let child = Self::split(random, &mut parent, bounds[at]);
                regions.extend(child.map(|child| (child.descriptor.id.0, child)));
            }
            regions.insert(id, parent);
        }
        let dead = (1..=1 + random.below(3)).map(|_| 1 + random.below(STORES)).collect();
        Self { regions, dead }
    }

    /// Splits a region behind its first letter; the child, if the split was applied anywhere.
    fn split(random: &mut Random, parent: &mut Truth, start: &str) -> Option<Truth> {
        let at = 2 + random.below(parent.terms.len() as u64 - 1);
        let id = parent.descriptor.id.0 + 10;
        let stores: Vec<u64> = parent.standings.keys().copied().collect();
        let cut = if start.is_empty() { "b".to_owned() } else { format!("{start}m") };
        let end = parent.descriptor.range.end.clone();
        let keys = KeyRange { start: cut.into(), end };
        let child = region(id, keys.clone(), parent.descriptor.epoch.version + 1, &stores);
        parent.split = Some((at, child.clone()));
        let here: Vec<u64> =
            parent.standings.iter().filter(|(_, standing)| standing.applied >= at).map(|(store, _)| *store).collect();
        if here.len() > stores.len() / 2 && random.chance(50) {
            // It lives elsewhere by now.
            let mut moved = region(id, keys, child.epoch.version, &random.stores(3));
            moved.epoch.conf_version += 9;
            moved.replicas.iter_mut().for_each(|replica| replica.id.0 += 50);
            let mut truth = Truth::draw(random, moved);
            truth.left = here.into_iter().filter(|store| !truth.standings.contains_key(store)).collect();
            return Some(truth);
        }
        if here.is_empty() {
            return None;
        }
        let mut truth = Truth::draw(random, child);
        if here.len() <= stores.len() / 2 {
            // Too few have it to have decided anything.
            (truth.terms, truth.committed) = (vec![1], 1);
            let first = Standing { prefix: 1, stray: 0, applied: 1, commit: 1 };
            truth.standings = here.iter().map(|store| (*store, first.clone())).collect();
        } else {
            // Those that have not split hold nothing; enough others hold what is committed.
            let committed = truth.committed;
            truth.standings.retain(|store, _| here.contains(store));
            for standing in truth.standings.values_mut().filter(|standing| standing.prefix < committed) {
                *standing = Standing { prefix: committed, stray: 0, applied: 1, commit: 1 };
            }
        }
        Some(truth)
    }

    pub(crate) fn survivors(&self) -> Vec<u64> {
        (1..=STORES).filter(|store| !self.dead.contains(store)).collect()
    }

    pub(crate) fn dead(&self) -> Vec<StoreId> {
        self.dead.iter().copied().map(StoreId).collect()
    }

    pub(crate) fn surveys(&self) -> Vec<StoreSurvey> {
        self.survivors().into_iter().map(|store| self.survey(store)).collect()
    }

    fn survey(&self, store: u64) -> StoreSurvey {
        let mut survey = StoreSurvey {
            cluster: ClusterId(7),
            store: StoreId(store),
            incarnation: Incarnation(3),
            dead: Vec::new(),
            ids_upto: 0,
            stores: Vec::new(),
            next_id: None,
            replicas: Vec::new(),
            damaged: Vec::new(),
            promises: Vec::new(),
            tombstones: Vec::new(),
        };
        for truth in self.regions.values() {
            survey.replicas.extend(truth.survey(store));
            if truth.left.contains(&store) {
                survey.tombstones.push(BuriedReplica {
                    descriptor: truth.descriptor.clone(),
                    replica: ReplicaId(truth.descriptor.id.0 * 100 + store),
                    merged: false,
                    committed: (LogIndex(1), Term(1)),
                });
            }
        }
        survey
    }
}
