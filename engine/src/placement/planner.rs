//! The planner: remembers what it has begun and what each region needs, and makes a plan a round.
//!
//! A round first looks at the regions that have changed since the last one, and at those on stores whose class has changed
//! (live, draining, silent, gone); a first round, and one after a change of the options or of the failure domains that there
//! are, looks at all. Then each policy in turn takes a bounded number of candidates, the most pressing kind first, as long as
//! the limits allow. So a round costs O(changed regions + stores + running operations), and a bounded amount for candidates.

use std::collections::BTreeMap;

use multiraft_raft::{RegionId, Time};

use super::board::Board;
use super::cluster::ClusterView;
use super::operation::{Blocked, Obstacle, Operation, OperationId};
use super::options::{Kind, PlacementOptions, PlacementOptionsError};
use super::round::Round;
use super::running::Running;
use super::worklist::Worklist;
use super::{balance, drain, merge, renew, repair, split, spread};

/// How many blocked regions a plan names of each kind.
const BLOCKED_MAX: usize = 32;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It did not, or only in part; what there is now is in the view, or will be.
    Failed,
}

/// What one round comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to begin now, the most pressing first.
    pub operations: Vec<Operation>,
    /// What the planner no longer waits for. It may still take effect; its report will be ignored.
    pub given_up: Vec<OperationId>,
    /// Some of what should be done and cannot be.
    pub blocked: Vec<Blocked>,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Regions whose replicas are not those that they should have.
    pub repair: usize,
    /// Regions with a replica that is out of service.
    pub renew: usize,
    /// Regions with a replica on a store that is to be emptied.
    pub drain: usize,
    /// Regions that are too large or too busy.
    pub split: usize,
    /// Regions whose replicas share a failure domain without need.
    pub spread: usize,
    /// Regions that are small and idle.
    pub small: usize,
    /// Regions that have lost their quorum.
    pub lost: usize,
    /// Operations that run.
    pub running: usize,
}

/// Plans where replicas and leaders should be and where regions should begin and end.
///
/// A pure state machine: no clock, no I/O. Feed a [`ClusterView`], call [`plan`](Self::plan) now and then (a second apart is
/// plenty), carry its operations out, [`report`](Self::report) each outcome. What it remembers is dispensable: another
/// planner that is given the same view goes on, best after [`adopt`](Self::adopt)ing what runs.
#[derive(Clone, Debug)]
pub struct Planner {
    options: PlacementOptions,
    next_id: OperationId,
    worklist: Worklist,
    running: Running,
    memory: Memory,
}

/// Where each policy goes on in the next round.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) cursors: BTreeMap<(Kind, bool), (u64, RegionId)>,
    pub(super) merge: RegionId,
    pub(super) balance: balance::Memory,
}

impl Planner {
    /// A planner that has seen nothing yet.
    ///
    /// # Errors
    /// If the options do not fit together.
    pub fn new(options: PlacementOptions) -> Result<Self, PlacementOptionsError> {
        options.validate()?;
        Ok(Self {
            options,
            next_id: OperationId(1),
            worklist: Worklist::default(),
            running: Running::default(),
            memory: Memory::default(),
        })
    }

    /// The same planner, whose operations are numbered from `first`; so that those of its predecessors have other names.
    #[must_use]
    pub fn numbered_from(mut self, first: OperationId) -> Self {
        self.next_id = first;
        self
    }

    /// What it aims at.
    #[must_use]
    pub fn options(&self) -> &PlacementOptions {
        &self.options
    }

    /// Aims at something else from now on. What runs goes on. The next round looks at all regions.
    ///
    /// # Errors
    /// If the options do not fit together; the old ones stay.
    pub fn set_options(&mut self, options: PlacementOptions) -> Result<(), PlacementOptionsError> {
        options.validate()?;
        self.options = options;
        self.worklist.doubt();
        Ok(())
    }

    /// Takes over an operation that an earlier planner has begun and that may still run; one whose regions are already
    /// taken is ignored.
    pub fn adopt(&mut self, now: Time, operation: Operation) {
        let regions = [Some(operation.region), operation.other_region()];
        if self.running.is_untouched(regions.into_iter().flatten()) {
            self.next_id = self.next_id.max(OperationId(operation.id.0 + 1));
            self.running.begin(operation, now, &self.options.timeouts);
        }
    }

    /// Takes in how an operation ended. Whoever reports `Done` makes sure that the view shows the effect soon.
    pub fn report(&mut self, now: Time, operation: OperationId, outcome: Outcome) {
        self.running.finish(operation, outcome == Outcome::Done, now, &self.options.timeouts);
    }

    /// What is to be done now. The planner takes each operation as begun; whoever does not begin it reports it as failed.
    ///
    /// Calls do not go back in time. `cluster` is always the same view, or one that was fed everything anew.
    pub fn plan(&mut self, now: Time, cluster: &ClusterView) -> Plan {
        let given_up = self.running.sweep(cluster, now, &self.options.timeouts);
        let mut board = Board::new(cluster, &self.options, now);
        self.worklist.refresh(cluster, &board, &self.options, now);
        for begun in self.running.begun() {
            board.count(cluster, &begun.operation, begun.is_running());
        }
        let worklist = &self.worklist;
        let mut round =
            Round::new(now, cluster, &self.options, board, &mut self.running, &mut self.next_id, &mut self.memory);
        repair::plan(&mut round, worklist);
        renew::plan(&mut round, worklist);
        drain::plan(&mut round, worklist);
        split::plan(&mut round, worklist);
        spread::plan(&mut round, worklist);
        balance::plan(&mut round);
        merge::plan(&mut round, worklist);
        let (operations, mut blocked) = round.finish();
        let lost = worklist.lost().iter().take(BLOCKED_MAX);
        blocked.extend(lost.map(|id| Blocked { region: *id, kind: Kind::Repair, obstacle: Obstacle::LostQuorum }));
        Plan { operations, given_up, blocked }
    }

    /// What [`plan`](Self::plan) would give, without beginning anything. Costs a copy of the planner on top.
    #[must_use]
    pub fn dry_run(&self, now: Time, cluster: &ClusterView) -> Plan {
        self.clone().plan(now, cluster)
    }

    /// Like [`dry_run`](Self::dry_run), round after round: what the planner has seen it remembers, so that also what waits for a
    /// while, such as balancing, comes up.
    pub fn rehearse(&mut self, now: Time, cluster: &ClusterView) -> Plan {
        let (running, next_id) = (self.running.clone(), self.next_id);
        let plan = self.plan(now, cluster);
        (self.running, self.next_id) = (running, next_id);
        plan
    }

    /// How much there is to do, as of the last round.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let list = &self.worklist;
        Backlog {
            repair: list.repair.len(),
            renew: list.renew.len(),
            drain: list.drain.len(),
            split: list.split.len(),
            spread: list.spread.len(),
            small: list.merge.len(),
            lost: list.lost().len(),
            running: self.running.counts().all,
        }
    }

    /// The operations that run.
    pub fn running(&self) -> impl Iterator<Item = &Operation> {
        self.running.begun().filter(|begun| begun.is_running()).map(|begun| &begun.operation)
    }

    /// The potential of the cluster as it is, and would be once all that runs has ended: what balancing lowers. Two readings
    /// compare only if nothing but moves lies between them.
    #[must_use]
    pub fn potential(&self, now: Time, cluster: &ClusterView) -> f64 {
        let mut board = Board::new(cluster, &self.options, now);
        for begun in self.running.begun() {
            board.count(cluster, &begun.operation, begun.is_running());
        }
        board.scale.potential(&board.seats)
    }
}
