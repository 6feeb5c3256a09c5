//! What the planner promises, checked at the moment it plans.

use std::collections::{BTreeMap, BTreeSet};

use multiraft::placement::{Kind, Operation, Plan, Reason, ReplicaChange, Step, StoreState};
use multiraft::{Replica, Role, StoreId};

use super::{Model, Region};

/// How often what was planned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// By kind, in their order.
    pub(crate) kinds: [u64; Kind::ALL.len()],
    pub(crate) replicas_moved: u64,
    pub(crate) transfers: u64,
    pub(crate) given_up: u64,
}

impl Tally {
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize]
    }

    pub(super) fn count(&mut self, operation: &Operation) {
        self.kinds[operation.kind() as usize] += 1;
        match &operation.step {
            Step::Change(ReplicaChange::Replace { .. } | ReplicaChange::AddVoter { .. }) => self.replicas_moved += 1,
            Step::TransferLeader { .. } => self.transfers += 1,
            _ => {}
        }
    }
}

impl Model {
    /// Whether the planner may take a store for live: it lives, or has died only just now.
    fn counts_as_live(&self, store: StoreId) -> bool {
        let silent_after = self.planner.options().silent_after;
        let dead_since = self.stores.get(&store).map(|store| store.dead_since);
        dead_since.is_some_and(|since| since.is_none_or(|since| self.now.since(since) <= silent_after))
    }

    /// Judges an operation against the planner's view, before it is begun.
    pub(super) fn judge(&self, operation: &Operation) {
        let regions = [Some(operation.region), operation.other_region()];
        for region in regions.into_iter().flatten() {
            let taken =
                self.running.values().find(|other| other.region == region || other.other_region() == Some(region));
            assert!(taken.is_none(), "{operation}: {} runs there", taken.expect("found"));
        }
        let region = self.view.region(operation.region).expect("it was planned for");
        let before = &region.descriptor.replicas;
        assert_eq!(region.descriptor.epoch, operation.epoch, "{operation}");
        match &operation.step {
            Step::Change(change) => {
                let is_sound = |store: &StoreId| {
                    let own = region.descriptor.replica_on(*store);
                    own.is_none_or(|own| !region.unsound.contains(&own.id))
                };
                for voters in stages(before, *change) {
                    let counts = |store: &&StoreId| self.counts_as_live(**store) && is_sound(store);
                    let live = voters.iter().filter(counts).count();
                    assert!(live * 2 > voters.len(), "{operation}: {live} live voters of {voters:?}");
                }
                self.judge_domains(operation, before, *change);
                if let Some(to) = target(*change) {
                    let store = &self.stores[&to];
                    assert!(store.state == StoreState::Up && self.counts_as_live(to), "{operation}");
                }
            }
            Step::TransferLeader { to } => {
                assert!(
                    before.iter().any(|replica| replica.store == *to && replica.role == Role::Voter),
                    "{operation}"
                );
                assert!(self.stores[to].state == StoreState::Up && self.counts_as_live(*to), "{operation}");
            }
            Step::Split { .. } => {}
            Step::Merge { into, .. } => {
                let into = self.view.region(*into).expect("it was planned for");
                let (from, to) = (&region.descriptor.range, &into.descriptor.range);
                assert!(from.end == to.start || to.end == from.start, "{operation}: not neighbours");
                for replica in before.iter().chain(&into.descriptor.replicas) {
                    assert!(self.counts_as_live(replica.store), "{operation}: a replica is not healthy");
                }
            }
        }
    }

    /// A move that nothing forces leaves no fewer zones, nor racks among as many zones; a forced one has the replica's place
    /// or a further one, as far as live stores allow.
    fn judge_domains(&self, operation: &Operation, before: &[Replica], change: ReplicaChange) {
        let ReplicaChange::Replace { remove, add } = change else { return };
        let stores = before.iter().filter(|replica| replica.role == Role::Voter).map(|replica| replica.store);
        let stores: Vec<_> = stores.collect();
        let gone = before.iter().find(|replica| replica.id == remove).expect("a member").store;
        let rest: Vec<_> = stores.iter().copied().filter(|store| *store != gone).collect();
        let with = |store: StoreId| self.spread(rest.iter().copied().chain([store]));
        if operation.kind() == Kind::Balance {
            assert!(with(add) >= self.spread(stores.iter().copied()), "{operation}: fewer domains");
        } else if before.iter().all(|replica| replica.role == Role::Voter) {
            let free = self.stores.iter().filter(|(id, store)| {
                store.state == StoreState::Up && self.counts_as_live(**id) && !stores.contains(id)
            });
            let best = free.map(|(id, _)| with(*id)).max().expect("the one that was chosen");
            assert_eq!(with(add), best, "{operation}: another store would be further away");
        }
    }

    /// Zones, and racks within zones, that a set of stores covers.
    pub(crate) fn spread(&self, stores: impl Iterator<Item = StoreId>) -> (usize, usize) {
        let places: BTreeSet<_> = stores.map(|store| (self.stores[&store].zone, self.stores[&store].rack)).collect();
        let zones: BTreeSet<_> = places.iter().map(|(zone, _)| zone).collect();
        (zones.len(), places.len())
    }

    pub(crate) fn region_spread(&self, region: &Region) -> (usize, usize) {
        self.spread(region.replicas.iter().map(|replica| replica.store))
    }

    pub(super) fn judge_limits(&self) {
        let limits = self.planner.options().limits;
        let mut filled: BTreeMap<StoreId, [usize; 4]> = BTreeMap::new();
        let mut merges = 0;
        let mut splits = 0;
        for operation in self.running.values() {
            // The moves of a merge come from its leader one after the other.
            let mut fill = |to: Vec<StoreId>| {
                to.iter().for_each(|to| filled.entry(*to).or_default()[0] += 1);
                filled.entry(operation.leader).or_default()[1] += usize::from(!to.is_empty());
            };
            match &operation.step {
                Step::Change(change) => {
                    // One that promotes a learner fills nothing.
                    let is_learner = |to: &StoreId| {
                        let region = self.regions.get(&operation.region);
                        region.is_some_and(|region| region.replicas.iter().any(|replica| replica.store == *to))
                    };
                    fill(target(*change).filter(|to| !is_learner(to)).into_iter().collect());
                }
                Step::TransferLeader { to } => {
                    filled.entry(*to).or_default()[2] += 1;
                    filled.entry(operation.leader).or_default()[3] += 1;
                }
                Step::Split { .. } => splits += 1,
                Step::Merge { moves, .. } => {
                    merges += 1;
                    fill(moves.clone());
                }
            }
        }
        assert!(self.running.len() <= limits.operations, "{} operations", self.running.len());
        assert!(splits <= limits.splits && merges <= limits.merges, "{splits} splits, {merges} merges");
        for (store, [into, out, leaders_in, leaders_out]) in filled {
            assert!(into <= limits.snapshots_in && out <= limits.snapshots_out, "{store:?}: {into} in, {out} out");
            assert!(leaders_in.max(leaders_out) <= limits.transfers, "{store:?}: {leaders_in} in, {leaders_out} out");
        }
    }

    /// A plan that does nothing but even stores out lowers the potential: for each operation by the tolerance times the
    /// least that a replica or a leader weighs. (Half of that here: the model's own sums are not quite the view's.)
    pub(super) fn judge_potential(&self, plan: &Plan, before: f64, after: f64) {
        let is_even =
            |operation: &Operation| matches!(operation.reason, Reason::Uneven { .. } | Reason::UnevenLeaders { .. });
        if plan.operations.is_empty() || !plan.given_up.is_empty() || !plan.operations.iter().all(is_even) {
            return;
        }
        let weight: f64 = self.stores.values().map(|store| f64::from(store.weight)).sum();
        let replicas: usize = self.regions.values().map(|region| region.replicas.len()).sum();
        let tolerance = f64::from(self.planner.options().balance.tolerance_permille) / 1_000.0;
        let least = tolerance * weight / replicas.max(self.stores.len()) as f64 / 2.0 * plan.operations.len() as f64;
        assert!(before - after >= least, "the potential fell from {before} to {after}, not by {least}: {plan:?}");
    }
}

/// Where a change puts a replica.
fn target(change: ReplicaChange) -> Option<StoreId> {
    match change {
        ReplicaChange::AddVoter { store }
        | ReplicaChange::AddLearner { store }
        | ReplicaChange::AddWitness { store }
        | ReplicaChange::Replace { add: store, .. } => Some(store),
        ReplicaChange::Promote { .. } | ReplicaChange::Remove { .. } => None,
    }
}

/// The stores of the voters before a change, and after it: the two halves of what it goes through.
fn stages(before: &[Replica], change: ReplicaChange) -> [Vec<StoreId>; 2] {
    let voters = before.iter().filter(|replica| replica.role == Role::Voter);
    let old: Vec<_> = voters.clone().map(|replica| replica.store).collect();
    let mut new = old.clone();
    let store_of = |id| before.iter().find(|replica| replica.id == id).expect("a member").store;
    match change {
        ReplicaChange::AddVoter { store } => new.push(store),
        ReplicaChange::Promote { replica } => new.push(store_of(replica)),
        ReplicaChange::Remove { replica } => new.retain(|store| *store != store_of(replica)),
        ReplicaChange::Replace { remove, add } => {
            new.retain(|store| *store != store_of(remove));
            new.push(add);
        }
        ReplicaChange::AddLearner { .. } | ReplicaChange::AddWitness { .. } => {}
    }
    [old, new]
}
