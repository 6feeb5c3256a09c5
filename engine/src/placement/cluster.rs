//! What is known of the cluster: stores, regions, and the sums over them that planning needs.
//!
//! The view is fed with what stores and leaders report and never decides anything. It keeps sums per store up to date with
//! each report, and a bounded journal of which regions have changed, so that a planner that has seen it before looks only at
//! those. Small changes of size and load are not taken over (see [`Stats`]): noise leaves the view, and so every plan, as it
//! is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{RegionDescriptor, RegionId, Replica, ReplicaId, Role, StoreId, Time};

use super::options::{Replication, Sizes};

/// How many changes the journal holds. Who has missed more looks at all regions.
const JOURNAL_MAX: usize = 1 << 16;

/// What is wanted of a store, or known of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// It takes part.
    Up,
    /// It is to be emptied.
    Draining,
    /// It does not answer, since then.
    Down {
        /// When that was noticed.
        since: Time,
    },
    /// It is gone for good.
    Left,
}

/// A store. All times are on the clock of whoever plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Its name.
    pub id: StoreId,
    /// Where it listens; for people.
    pub address: String,
    /// How much it can bear compared with the others; zero counts as one.
    pub weight: u32,
    /// The size of its disk; zero: unknown, and never full.
    pub disk_bytes: u64,
    /// What of it is free; nothing, if it waits for space.
    pub disk_free_bytes: u64,
    /// It works, but not well: it takes no leadership over.
    pub is_slow: bool,
    /// Where it stands: `zone`, `rack` and the like.
    pub labels: BTreeMap<String, String>,
    /// What is wanted of it.
    pub state: StoreState,
    /// When it was last heard of.
    pub last_heard: Time,
}

/// What a sampled stretch of keys, from `key` to the next sample's, bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySample {
    /// Its first key.
    pub key: Bytes,
    /// What it holds, in any unit that all samples of the region share.
    pub bytes: u64,
    /// How many writes it takes, likewise.
    pub writes: u64,
    /// How many reads it takes, likewise.
    pub reads: u64,
}

/// Size and load of a region, as its leader measured them.
///
/// The view takes new figures over only if one of them is off by a fifth and by more than a pittance (1 MiB, 10 a second;
/// less if the thresholds of splits and merges are small), or if the region has changed. Noise that stays within 9 % of a mean therefore changes nothing after the first report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The `version` of the region's epoch under which this was measured; older figures neither split nor merge it.
    pub version: u64,
    /// What it holds.
    pub bytes: u64,
    /// How many keys.
    pub keys: u64,
    /// Writes a second.
    pub writes_per_s: u64,
    /// Reads a second.
    pub reads_per_s: u64,
    /// Samples, ascending by key; needed of regions that are large or busy.
    pub samples: Option<Arc<[KeySample]>>,
}

impl Stats {
    /// Reads and writes together.
    #[must_use]
    pub fn load_per_s(&self) -> u64 {
        self.writes_per_s.saturating_add(self.reads_per_s)
    }

    fn is_near(&self, new: &Self, (bytes, per_s): (u64, u64)) -> bool {
        let near = |old: u64, new: u64, pittance: u64| old.abs_diff(new) <= (old / 5).max(pittance);
        self.version == new.version
            && near(self.bytes, new.bytes, bytes)
            && near(self.writes_per_s, new.writes_per_s, per_s)
            && near(self.reads_per_s, new.reads_per_s, per_s)
    }
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// What it is.
    pub descriptor: Arc<RegionDescriptor>,
    /// The store that leads it.
    pub leader: Option<StoreId>,
    /// Its size and load.
    pub stats: Stats,
    /// Replicas that have not caught up, ascending.
    pub behind: Vec<ReplicaId>,
    /// Replicas that are out of service, ascending: a consistency check has fenced them, or their stores say that they are
    /// damaged. They count for nothing.
    pub unsound: Vec<ReplicaId>,
    /// The replicas it should have, if not what the options say.
    pub replication: Option<Replication>,
    /// Whether something is under way in it that the planner does not know of: a change, a freeze, a restore.
    pub pending: bool,
}

impl RegionInfo {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> RegionId {
        self.descriptor.id
    }

    pub(super) fn replicas(&self) -> &[Replica] {
        &self.descriptor.replicas
    }

    pub(super) fn is_behind(&self, replica: ReplicaId) -> bool {
        self.behind.contains(&replica)
    }

    pub(super) fn is_sound(&self, replica: ReplicaId) -> bool {
        !self.unsound.contains(&replica)
    }

    /// What a replica of it adds to its store, without leadership.
    pub(super) fn replica_weight(&self) -> Usage {
        [1, signed(self.stats.bytes), 0, signed(self.stats.writes_per_s)]
    }

    /// What leading it adds to a store: its reads, and its writes once more.
    pub(super) fn leader_weight(&self) -> Usage {
        [0, 0, 1, signed(self.stats.load_per_s())]
    }
}

/// Replicas with data, bytes, leaders, load.
pub(super) type Usage = [i64; 4];

fn signed(value: u64) -> i64 {
    // Large enough for any sum over a cluster, and sums cannot overflow.
    i64::try_from(value).unwrap_or(i64::MAX).min(1 << 50)
}

pub(super) fn add(to: &mut Usage, what: Usage, sign: i64) {
    for (sum, part) in to.iter_mut().zip(what) {
        *sum += sign * part;
    }
}

/// What lies on one store, as far as it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// Replicas of any role.
    pub replicas: usize,
    /// Regions that it leads.
    pub leaders: usize,
    /// What its replicas hold.
    pub bytes: u64,
    /// What they take: writes for each replica with data, and for the leader its reads and its writes once more.
    pub load_per_s: u64,
}

/// What lies on one store.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) usage: Usage,
    /// Regions with a replica of any role.
    pub(super) regions: BTreeSet<RegionId>,
    pub(super) led: BTreeSet<RegionId>,
}

/// The whole cluster, as far as it is known.
#[derive(Clone, Debug)]
pub struct ClusterView {
    stores: BTreeMap<StoreId, StoreInfo>,
    regions: BTreeMap<RegionId, RegionInfo>,
    starts: BTreeMap<Bytes, RegionId>,
    tallies: BTreeMap<StoreId, Tally>,
    journal: VecDeque<RegionId>,
    /// How many changes there ever were; the journal holds the last of them.
    revision: u64,
    /// Bytes and load that do not matter.
    pittance: (u64, u64),
}

impl Default for ClusterView {
    fn default() -> Self {
        Self::of_sizes(&Sizes::default())
    }
}

impl ClusterView {
    /// A cluster of which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, for a planner with these thresholds: what is little for them is not taken over.
    #[must_use]
    pub fn of_sizes(sizes: &Sizes) -> Self {
        Self {
            stores: BTreeMap::new(),
            regions: BTreeMap::new(),
            starts: BTreeMap::new(),
            tallies: BTreeMap::new(),
            journal: VecDeque::new(),
            revision: 0,
            pittance: (sizes.pittance_bytes(), sizes.pittance_per_s()),
        }
    }

    /// Takes in what a store reports, or what is wanted of it.
    pub fn observe_store(&mut self, store: StoreInfo) {
        self.stores.insert(store.id, store);
    }

    /// Forgets a store. One that still has replicas is best kept as [`StoreState::Left`]: replicas on unknown stores are
    /// not replaced.
    pub fn forget_store(&mut self, store: StoreId) {
        self.stores.remove(&store);
    }

    /// Notes that a store was heard of.
    pub fn heard(&mut self, store: StoreId, at: Time) {
        if let Some(known) = self.stores.get_mut(&store) {
            known.last_heard = known.last_heard.max(at);
        }
    }

    /// Takes in what a region's leader reports; gives whether it changes anything for the planner. A report that is older
    /// than what is known is dropped.
    pub fn observe_region(&mut self, mut region: RegionInfo) -> bool {
        let id = region.id();
        if let Some(known) = self.regions.get_mut(&id) {
            if region.descriptor.epoch.is_behind(known.descriptor.epoch) {
                return false;
            }
            if known.stats.is_near(&region.stats, self.pittance) {
                known.stats.samples = region.stats.samples.take();
                known.stats.keys = region.stats.keys;
                region.stats = known.stats.clone();
                if region == *known {
                    return false;
                }
            }
            self.forget_region(id);
        }
        self.count(&region, 1);
        if id != RegionId::ROOT {
            self.starts.insert(region.descriptor.range.start.clone(), id);
        }
        self.regions.insert(id, region);
        self.note(id);
        true
    }

    /// Forgets a region: it is merged into another.
    pub fn forget_region(&mut self, region: RegionId) {
        let Some(known) = self.regions.remove(&region) else { return };
        self.count(&known, -1);
        let start = &known.descriptor.range.start;
        if self.starts.get(start) == Some(&region) {
            self.starts.remove(start);
        }
        self.note(region);
    }

    /// The stores, ascending.
    pub fn stores(&self) -> impl Iterator<Item = &StoreInfo> {
        self.stores.values()
    }

    /// The regions, ascending.
    pub fn regions(&self) -> impl Iterator<Item = &RegionInfo> {
        self.regions.values()
    }

    /// One store.
    #[must_use]
    pub fn store(&self, id: StoreId) -> Option<&StoreInfo> {
        self.stores.get(&id)
    }

    /// One region.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<&RegionInfo> {
        self.regions.get(&id)
    }

    /// How many replicas of any role lie on a store.
    #[must_use]
    pub fn replicas_on(&self, store: StoreId) -> usize {
        self.tallies.get(&store).map_or(0, |tally| tally.regions.len())
    }

    /// How many regions a store leads.
    #[must_use]
    pub fn leaders_on(&self, store: StoreId) -> usize {
        self.tallies.get(&store).map_or(0, |tally| tally.led.len())
    }

    /// What lies on a store, as far as it was told.
    #[must_use]
    pub fn load_on(&self, store: StoreId) -> StoreLoad {
        let Some(tally) = self.tallies.get(&store) else { return StoreLoad::default() };
        let [_, bytes, _, load] = tally.usage.map(|sum| u64::try_from(sum).unwrap_or(0));
        StoreLoad { replicas: tally.regions.len(), leaders: tally.led.len(), bytes, load_per_s: load }
    }

    /// The stores that were to be emptied and are: they can leave.
    #[must_use]
    pub fn drained(&self) -> Vec<StoreId> {
        let empty = |store: &&StoreInfo| store.state == StoreState::Draining && self.replicas_on(store.id) == 0;
        self.stores.values().filter(empty).map(|store| store.id).collect()
    }

    /// Whether some keys lie in no region that is known.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        let mut next = Some(Bytes::new());
        for (start, id) in &self.starts {
            if next.as_ref() != Some(start) {
                return true;
            }
            let end = self.regions.get(id).map(|region| region.descriptor.range.end.clone());
            next = end.filter(|end| !end.is_empty());
        }
        next.is_some()
    }

    pub(super) fn region_count(&self) -> usize {
        self.regions.len()
    }

    pub(super) fn tally(&self, store: StoreId) -> Option<&Tally> {
        self.tallies.get(&store)
    }

    /// The regions whose ranges end where this one's begins, and begin where it ends.
    pub(super) fn neighbours(&self, region: &RegionInfo) -> impl Iterator<Item = &RegionInfo> {
        let range = &region.descriptor.range;
        let before = || self.starts.range::<Bytes, _>(..&range.start).next_back();
        let left = if range.start.is_empty() { None } else { before().map(|(_, id)| *id) };
        let left = left.and_then(|id| self.regions.get(&id)).filter(|left| left.descriptor.range.end == range.start);
        let right = if range.end.is_empty() { None } else { self.starts.get(&range.end) };
        left.into_iter().chain(right.and_then(|id| self.regions.get(id)))
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What has changed since `revision`, perhaps with repetitions; `None`: too much.
    pub(super) fn changed_since(&self, revision: u64) -> Option<impl Iterator<Item = RegionId>> {
        let behind = usize::try_from(self.revision.checked_sub(revision)?).ok()?;
        let from = self.journal.len().checked_sub(behind)?;
        Some(self.journal.range(from..).copied())
    }

    fn note(&mut self, region: RegionId) {
        self.revision += 1;
        if self.journal.len() == JOURNAL_MAX {
            self.journal.pop_front();
        }
        self.journal.push_back(region);
    }

    fn count(&mut self, region: &RegionInfo, sign: i64) {
        for replica in region.replicas() {
            let tally = self.tallies.entry(replica.store).or_default();
            if replica.role != Role::Witness {
                add(&mut tally.usage, region.replica_weight(), sign);
            }
            insert_or_remove(&mut tally.regions, region.id(), sign);
        }
        if let Some(leader) = region.leader {
            let tally = self.tallies.entry(leader).or_default();
            add(&mut tally.usage, region.leader_weight(), sign);
            insert_or_remove(&mut tally.led, region.id(), sign);
        }
    }
}

fn insert_or_remove(set: &mut BTreeSet<RegionId>, id: RegionId, sign: i64) {
    if sign > 0 {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}
