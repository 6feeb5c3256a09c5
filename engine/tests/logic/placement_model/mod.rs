//! A cluster that does what a planner says, on virtual time and from a seed: stores die and return, operations take a while,
//! fail, are cut short or never report, and the planner's view lags.
//!
//! It names nothing of the crates below `multiraft`, so that the benchmark can drive it too. Everything that the planner
//! promises is checked here at the moment it plans, from what the model knows and by its own arithmetic.

mod effect;
mod judge;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::placement::{
    ClusterView, KeySample, Operation, OperationId, Outcome, PlacementOptions, Planner, RegionInfo, Stats, StoreInfo,
    StoreState, Time,
};
use multiraft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId};

pub(crate) use judge::Tally;
pub(crate) use random::Random;

/// A store as it is.
pub(crate) struct Store {
    pub(crate) zone: u64,
    pub(crate) rack: u64,
    pub(crate) weight: u32,
    pub(crate) state: StoreState,
    /// When it died, if it did.
    pub(crate) dead_since: Option<Time>,
}

/// A region as it is. Its keys are numbers; what it bears is spread over them evenly.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) epoch: RegionEpoch,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) leader: Option<StoreId>,
    pub(crate) bytes: f64,
    pub(crate) writes: f64,
    pub(crate) reads: f64,
}

/// How well operations go.
#[derive(Clone, Copy)]
pub(crate) struct Luck {
    /// Of a thousand, how many fail.
    pub(crate) failing: u64,
    /// Of a thousand, how many never report.
    pub(crate) silent: u64,
    /// The longest that the view lags behind, in seconds.
    pub(crate) lag: u64,
    /// Reported figures are off by up to so many thousandths.
    pub(crate) noise: u64,
}

pub(crate) struct Model {
    pub(crate) now: Time,
    pub(crate) random: Random,
    pub(crate) luck: Luck,
    pub(crate) stores: BTreeMap<StoreId, Store>,
    pub(crate) regions: BTreeMap<RegionId, Region>,
    /// Replicas that are out of service.
    pub(crate) damaged: BTreeSet<ReplicaId>,
    pub(crate) view: ClusterView,
    pub(crate) planner: Planner,
    pub(crate) tally: Tally,
    /// How long each round took, in real time: for the benchmark.
    pub(crate) rounds: Vec<Duration>,
    /// What runs, and when it ends.
    running: BTreeMap<OperationId, Operation>,
    ends: BTreeSet<(Time, OperationId)>,
    /// Which regions' reports are under way.
    reports: BTreeSet<(Time, RegionId)>,
    next_region: u64,
    next_replica: u64,
}

impl Model {
    pub(crate) fn new(options: PlacementOptions, seed: u64) -> Self {
        Self {
            now: Time(1_000_000_000_000),
            random: Random::new(seed),
            luck: Luck { failing: 0, silent: 0, lag: 0, noise: 0 },
            stores: BTreeMap::new(),
            regions: BTreeMap::new(),
            damaged: BTreeSet::new(),
            view: ClusterView::new(),
            planner: Planner::new(options).expect("options fit"),
            tally: Tally::default(),
            rounds: Vec::new(),
            running: BTreeMap::new(),
            ends: BTreeSet::new(),
            reports: BTreeSet::new(),
            next_region: 2,
            next_replica: 1,
        }
    }

    pub(crate) fn add_store(&mut self, id: u64, zone: u64, rack: u64, weight: u32) {
        let store = Store { zone, rack, weight, state: StoreState::Up, dead_since: None };
        self.stores.insert(StoreId(id), store);
        self.tell_store(StoreId(id));
    }

    /// A region with voters on `stores`, led by the first.
    pub(crate) fn add_region(&mut self, start: u64, end: u64, stores: &[StoreId], load: [f64; 3]) {
        let id = RegionId(self.next_region);
        self.next_region += 1;
        let replicas = stores.iter().map(|store| self.new_replica(*store, Role::Voter)).collect();
        let [bytes, writes, reads] = load;
        let epoch = RegionEpoch::FIRST;
        let region = Region { start, end, epoch, replicas, leader: Some(stores[0]), bytes, writes, reads };
        self.regions.insert(id, region);
        self.tell_region(id);
    }

    pub(crate) fn new_replica(&mut self, store: StoreId, role: Role) -> Replica {
        self.next_replica += 1;
        Replica { id: ReplicaId(self.next_replica - 1), store, role }
    }

    pub(crate) fn set_state(&mut self, store: u64, state: StoreState) {
        self.stores.get_mut(&StoreId(store)).expect("a store").state = state;
        self.tell_store(StoreId(store));
    }

    /// A store dies; others take over what it leads, where there is a quorum.
    pub(crate) fn kill(&mut self, store: u64) {
        self.stores.get_mut(&StoreId(store)).expect("a store").dead_since = Some(self.now);
        self.elect();
    }

    pub(crate) fn revive(&mut self, store: u64) {
        self.stores.get_mut(&StoreId(store)).expect("a store").dead_since = None;
        self.elect();
    }

    /// Every so many-th replica on a store is damaged; gives how many regions have lost their quorum by that.
    pub(crate) fn damage(&mut self, store: u64, every: usize) -> usize {
        let on = |region: &Region| region.replicas.iter().find(|replica| replica.store == StoreId(store)).map(|r| r.id);
        let there: Vec<_> = self.regions.iter().filter_map(|(id, region)| Some((*id, on(region)?))).collect();
        let chosen: Vec<_> = there.into_iter().step_by(every).collect();
        self.damaged.extend(chosen.iter().map(|(_, replica)| replica));
        self.elect();
        let is_lost = |id: &RegionId| self.regions[id].leader.is_none();
        let lost = chosen.iter().filter(|(id, _)| is_lost(id)).count();
        chosen.into_iter().for_each(|(id, _)| self.tell_region(id));
        lost
    }

    pub(crate) fn is_alive(&self, store: StoreId) -> bool {
        self.stores.get(&store).is_some_and(|store| store.dead_since.is_none())
    }

    /// Multiplies what the regions in a range of keys bear.
    pub(crate) fn shift_load(&mut self, keys: std::ops::Range<u64>, by: [f64; 3]) {
        let inside: Vec<_> =
            self.regions.iter().filter(|(_, region)| keys.contains(&region.start)).map(|(id, _)| *id).collect();
        for id in inside {
            let region = self.regions.get_mut(&id).expect("listed");
            region.bytes *= by[0];
            region.writes *= by[1];
            region.reads *= by[2];
            self.tell_region(id);
        }
    }

    /// All leaders report anew, each figure off by a little.
    pub(crate) fn report_all(&mut self) {
        let ids: Vec<_> = self.regions.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tell_region(id));
    }

    /// Lets `by` pass: operations end, reports arrive, the planner makes a round. Gives how many operations it began.
    pub(crate) fn step(&mut self, by: Duration) -> usize {
        self.now = self.now.plus(by);
        for (id, store) in &self.stores {
            if store.dead_since.is_none() {
                self.view.heard(*id, self.now);
            }
        }
        while let Some((at, id)) = self.ends.first().copied().filter(|(at, _)| *at <= self.now) {
            self.ends.remove(&(at, id));
            self.end(id);
        }
        while let Some((at, id)) = self.reports.first().copied().filter(|(at, _)| *at <= self.now) {
            self.reports.remove(&(at, id));
            self.tell_region(id);
        }
        let before = self.planner.potential(self.now, &self.view);
        let begin = Instant::now();
        let plan = self.planner.plan(self.now, &self.view);
        self.rounds.push(begin.elapsed());
        let after = self.planner.potential(self.now, &self.view);
        for id in &plan.given_up {
            self.tally.given_up += 1;
            self.running.remove(id);
        }
        self.judge_potential(&plan, before, after);
        for operation in &plan.operations {
            self.judge(operation);
            self.begin(operation.clone());
        }
        self.judge_limits();
        plan.operations.len()
    }

    /// Steps of a second until nothing has been planned or has run for `quiet` of them; gives how many passed. Panics after
    /// `most`.
    pub(crate) fn settle(&mut self, quiet: u64, most: u64) -> u64 {
        let mut still = 0;
        for passed in 0..most {
            let begun = self.step(Duration::from_secs(1));
            still = if begun == 0 && self.running.is_empty() { still + 1 } else { 0 };
            if still == quiet {
                return passed;
            }
        }
        panic!("no rest after {most} s: {:?}, {:?}", self.planner.backlog(), self.running.values().next());
    }

    fn begin(&mut self, operation: Operation) {
        self.tally.count(&operation);
        let takes = self.duration(&operation);
        self.ends.insert((self.now.plus(takes), operation.id));
        let earlier = self.running.insert(operation.id, operation);
        assert!(earlier.is_none(), "an operation's id is used twice");
    }

    fn duration(&mut self, operation: &Operation) -> Duration {
        use multiraft::placement::Step;
        let millis = match &operation.step {
            Step::Change(_) | Step::Merge { .. } => 1_000 + self.random.below(4_000),
            Step::TransferLeader { .. } | Step::Split { .. } => 50 + self.random.below(500),
        };
        Duration::from_millis(millis)
    }

    fn end(&mut self, id: OperationId) {
        // One that was given up may still take effect: only its report no longer counts.
        let Some(operation) = self.running.get(&id).cloned() else { return };
        let is_silent = self.random.below(1_000) < self.luck.silent;
        let is_lucky = self.random.below(1_000) >= self.luck.failing;
        let outcome = if self.carry_out(&operation, is_lucky) { Outcome::Done } else { Outcome::Failed };
        for region in std::iter::once(operation.region).chain(operation.other_region()) {
            self.tell_region_late(region);
        }
        if !is_silent {
            self.running.remove(&id);
            self.planner.report(self.now, id, outcome);
        }
    }

    /// Who leads what was led from a dead store.
    fn elect(&mut self) {
        let stores = &self.stores;
        let is_up = |store: StoreId| stores.get(&store).is_some_and(|store| store.dead_since.is_none());
        let damaged = &self.damaged;
        let mut changed = Vec::new();
        for (id, region) in &mut self.regions {
            let voters = || region.replicas.iter().filter(|replica| replica.role == Role::Voter);
            let alive =
                |store| is_up(store) && voters().any(|voter| voter.store == store && !damaged.contains(&voter.id));
            let live = voters().filter(|replica| alive(replica.store)).count();
            let next = if live * 2 <= voters().count() {
                None
            } else {
                region.leader.filter(|leader| alive(*leader)).or_else(|| voters().map(|r| r.store).find(|s| alive(*s)))
            };
            if next != region.leader {
                region.leader = next;
                changed.push(*id);
            }
        }
        changed.into_iter().for_each(|id| self.tell_region_late(id));
    }

    fn tell_store(&mut self, id: StoreId) {
        let store = &self.stores[&id];
        let labels = [("zone", store.zone), ("rack", store.rack)];
        self.view.observe_store(StoreInfo {
            id,
            address: String::new(),
            weight: store.weight,
            disk_bytes: 0,
            disk_free_bytes: 0,
            is_slow: false,
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_string())).into(),
            state: store.state,
            last_heard: self.view.store(id).map_or(self.now, |store| store.last_heard),
        });
    }

    fn tell_region_late(&mut self, id: RegionId) {
        let lag = self.random.below(self.luck.lag * 1_000 + 1);
        self.reports.insert((self.now.plus(Duration::from_millis(lag)), id));
    }

    fn tell_region(&mut self, id: RegionId) {
        let Some(region) = self.regions.get(&id) else { return self.view.forget_region(id) };
        let noise = self.luck.noise as f64 / 1_000.0;
        let random = &mut self.random;
        let mut measured = |value: f64| (value * (1.0 + noise * (2.0 * random.part() - 1.0))).round() as u64;
        let stats = Stats {
            version: region.epoch.version,
            bytes: measured(region.bytes),
            keys: region.end - region.start,
            writes_per_s: measured(region.writes),
            reads_per_s: measured(region.reads),
            samples: Some(samples(region)).filter(|_| region.bytes > 2e8 || region.writes + region.reads > 3e3),
        };
        self.view.observe_region(RegionInfo {
            descriptor: Arc::new(RegionDescriptor {
                id,
                range: KeyRange { start: key(region.start), end: key(region.end) },
                epoch: region.epoch,
                replicas: region.replicas.clone(),
            }),
            leader: region.leader,
            stats,
            behind: Vec::new(),
            unsound: region.replicas.iter().map(|replica| replica.id).filter(|id| self.damaged.contains(id)).collect(),
            replication: None,
            pending: false,
        });
    }
}

/// Eight stretches of the same length.
fn samples(region: &Region) -> Arc<[KeySample]> {
    let at = |n: u64| region.start + (region.end - region.start) / 8 * n;
    (0..8).map(|n| KeySample { key: key(at(n)), bytes: 1, writes: 1, reads: 1 }).collect()
}

pub(crate) fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}
