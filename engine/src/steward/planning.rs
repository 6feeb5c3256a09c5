//! One round of planning: what came in goes into the facts, the planner says what to begin.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft_raft::{StoreId, Term, Time};

use super::facts::Facts;
use super::inbox::Posted;
use super::options::{Placement, PlacementState};
use super::report::Report;
use crate::placement::{Backlog, Operation, OperationId, Outcome, PlacementOptionsError, Planner, ReplicaChange, Step};
use crate::region::stores::Stores;

/// Operations of one term are numbered from here: more than one term ever begins.
const OPERATIONS_A_TERM: u32 = 1 << 24;

/// Planning in one term of the root region, at its leader. Pure: no clock, no I/O.
#[derive(Debug)]
pub(super) struct Planning {
    facts: Facts,
    planner: Planner,
    dry_run: bool,
    since: Time,
    state: PlacementState,
}

/// What a round wants done.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// To be begun.
    pub(super) begin: Vec<Operation>,
    /// No longer waited for.
    pub(super) give_up: Vec<OperationId>,
    /// Stores that are empty now.
    pub(super) drained: Vec<StoreId>,
}

impl Planning {
    pub(super) fn new(term: Term, now: Time, placement: &Placement) -> Result<Self, PlacementOptionsError> {
        let first = OperationId(term.get().saturating_mul(u64::from(OPERATIONS_A_TERM)));
        let state = PlacementState {
            term,
            is_complete: false,
            operations: Vec::new(),
            blocked: Vec::new(),
            backlog: Backlog::default(),
            loads: BTreeMap::new(),
            begun: 0,
            done: 0,
            failed: 0,
        };
        Ok(Self {
            facts: Facts::new(&placement.options.sizes),
            planner: Planner::new(placement.options.clone())?.numbered_from(first),
            dry_run: placement.dry_run,
            since: now,
            state,
        })
    }

    pub(super) fn term(&self) -> Term {
        self.state.term
    }

    pub(super) fn state(&self) -> &PlacementState {
        &self.state
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Takes in what stores have reported in this term; what was reported in another is not for this planning.
    pub(super) fn take_reports(&mut self, now: Time, posted: impl IntoIterator<Item = Posted>) {
        for (from, term, report) in posted {
            if term != self.state.term {
                continue;
            }
            match Report::decode(&report) {
                Some(report) => self.facts.take_report(now, from, report),
                None => tracing::warn!(store = %from, "a report cannot be read: run the same version everywhere"),
            }
        }
    }

    /// Takes in how an operation ended, and what its region is then, if that is known.
    pub(super) fn take_outcome(&mut self, now: Time, operation: OperationId, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.state.done += 1,
            Outcome::Failed => self.state.failed += 1,
        }
        self.planner.report(now, operation, outcome);
    }

    /// What is to be done now. Nothing before every region and every store was heard of, or those that are silent had their
    /// time: a view with holes in it says nothing about what lies in them, and a store that died long ago counts as heard of
    /// when planning begins.
    pub(super) fn round(&mut self, now: Time, stores: &Stores) -> Round {
        self.facts.take_stores(now, stores);
        let silent_after = self.planner.options().silent_after;
        self.state.is_complete = self.facts.is_complete();
        self.state.loads = stores.keys().map(|store| (*store, self.facts.view().load_on(*store))).collect();
        if !(self.state.is_complete && self.facts.has_heard_all()) && now.since(self.since) <= silent_after {
            return Round::default();
        }
        let hopeless = self.give_up_hopeless(now, silent_after);
        let plan = if self.dry_run {
            self.planner.rehearse(now, self.facts.view())
        } else {
            self.planner.plan(now, self.facts.view())
        };
        self.state.backlog = self.planner.backlog();
        self.state.blocked = plan.blocked;
        if self.dry_run {
            self.state.operations = plan.operations;
            return Round::default();
        }
        self.state.begun += plan.operations.len() as u64;
        self.state.failed += plan.given_up.len() as u64;
        self.state.operations = self.planner.running().cloned().collect();
        let mut drained = self.facts.drained(now, silent_after);
        // What was begun earlier may yet put something there.
        drained.retain(|store| !self.state.operations.iter().any(|operation| puts_on(operation, *store)));
        let give_up = plan.given_up.into_iter().chain(hopeless).collect();
        Round { begin: plan.operations, give_up, drained }
    }

    /// Operations that put something on a store that has fallen silent: their regions are better served by another one.
    fn give_up_hopeless(&mut self, now: Time, silent_after: Duration) -> Vec<OperationId> {
        let is_hopeless = |operation: &&Operation| {
            let mut stores = self.facts.view().stores();
            stores.any(|store| puts_on(operation, store.id) && now.since(store.last_heard) > silent_after)
        };
        let hopeless: Vec<_> = self.planner.running().filter(is_hopeless).map(|operation| operation.id).collect();
        for operation in &hopeless {
            self.take_outcome(now, *operation, Outcome::Failed);
        }
        hopeless
    }
}

/// Whether an operation puts a replica on a store.
fn puts_on(operation: &Operation, store: StoreId) -> bool {
    match &operation.step {
        Step::Change(
            ReplicaChange::AddVoter { store: to }
            | ReplicaChange::AddLearner { store: to }
            | ReplicaChange::AddWitness { store: to }
            | ReplicaChange::Replace { add: to, .. },
        ) => *to == store,
        Step::Merge { moves, .. } => moves.contains(&store),
        Step::Change(ReplicaChange::Promote { .. } | ReplicaChange::Remove { .. })
        | Step::TransferLeader { .. }
        | Step::Split { .. } => false,
    }
}
