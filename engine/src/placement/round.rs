//! One round: the candidates a policy looks at, what stands in their way, and what is begun.

use std::ops::Bound::{Excluded, Unbounded};

use multiraft_raft::{RegionId, StoreId, Time};

use super::board::Board;
use super::cluster::{ClusterView, RegionInfo};
use super::health::{Needs, needs};
use super::operation::{Blocked, Obstacle, Operation, OperationId, Reason, ReplicaChange, Step};
use super::options::{Kind, PlacementOptions};
use super::planner::Memory;
use super::quorum::survives;
use super::running::{Counts, Running};
use super::worklist::Ranked;

/// How many candidates a policy looks at in one round.
const CANDIDATES_MAX: usize = 1024;
/// How many blocked regions a plan names.
const BLOCKED_MAX: usize = 64;

/// What the policies share in one round.
pub(super) struct Round<'a> {
    pub(super) now: Time,
    pub(super) view: &'a ClusterView,
    pub(super) options: &'a PlacementOptions,
    pub(super) board: Board<'a>,
    pub(super) memory: &'a mut Memory,
    running: &'a mut Running,
    counts: Counts,
    next_id: &'a mut OperationId,
    operations: Vec<Operation>,
    blocked: Vec<Blocked>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        now: Time,
        view: &'a ClusterView,
        options: &'a PlacementOptions,
        board: Board<'a>,
        running: &'a mut Running,
        next_id: &'a mut OperationId,
        memory: &'a mut Memory,
    ) -> Self {
        let counts = running.counts();
        Self {
            now,
            view,
            options,
            board,
            memory,
            running,
            counts,
            next_id,
            operations: Vec::new(),
            blocked: Vec::new(),
        }
    }

    /// What was begun, and what could not be.
    pub(super) fn finish(self) -> (Vec<Operation>, Vec<Blocked>) {
        (self.operations, self.blocked)
    }

    /// Whether one more operation of `kind` may be begun.
    pub(super) fn may_begin(&self, kind: Kind) -> bool {
        self.options.enabled.contains(kind)
            && self.operations.len() < self.options.limits.per_round
            && self.counts.allow(kind, self.options)
    }

    /// The candidates of this round out of `set`: the first ones, and some from where the last round stopped, so that the
    /// first cannot keep all others waiting. `is_spread` tells apart the two sets of balancing.
    pub(super) fn candidates(&mut self, kind: Kind, is_spread: bool, set: &Ranked) -> Vec<(u64, RegionId)> {
        let mut picked: Vec<_> = set.iter().copied().take(CANDIDATES_MAX / 2).collect();
        let Some(last) = picked.last().copied().filter(|_| picked.len() < set.len()) else { return picked };
        let key = (kind, is_spread);
        let from = self.memory.cursors.get(&key).copied().unwrap_or(last).max(last);
        picked.extend(set.range((Excluded(from), Unbounded)).copied().take(CANDIDATES_MAX / 2));
        let is_end = picked.last() == set.last();
        self.memory.cursors.insert(key, if is_end { last } else { picked.last().copied().unwrap_or(last) });
        picked
    }

    /// A region in which an operation may be begun, and its leader.
    pub(super) fn free_region(&mut self, id: RegionId, kind: Kind) -> Option<(&'a RegionInfo, StoreId)> {
        let region = self.view.region(id)?;
        let is_joint = region.replicas().iter().any(|replica| replica.role.is_joint());
        if region.pending || is_joint || !self.running.is_free(id, self.now) {
            return None;
        }
        let leader = region.leader.filter(|leader| self.board.class(*leader).is_heard());
        if leader.is_none() {
            self.block(id, kind, Obstacle::NoLeader);
        }
        Some((region, leader?))
    }

    pub(super) fn needs(&self, region: &RegionInfo) -> Needs {
        needs(region, &self.board, self.options)
    }

    /// Whether no operation runs in a region or has just failed there.
    pub(super) fn is_free(&self, id: RegionId) -> bool {
        self.running.is_free(id, self.now)
    }

    /// Whether nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.counts.all == 0
    }

    /// How many regions may be merged away, with all merges that run at their end.
    pub(super) fn regions_above_minimum(&self) -> usize {
        let root = usize::from(self.view.region(RegionId::ROOT).is_some());
        (self.view.region_count() - root).saturating_sub(self.counts.merges + self.options.sizes.regions_min)
    }

    /// How many regions may come by splits, with all splits that were begun at their end. None while a region is not known:
    /// it may be one that a split has made.
    pub(super) fn regions_below_maximum(&self) -> usize {
        let max = self.options.sizes.regions_max;
        if max == usize::MAX {
            return max;
        }
        if self.view.has_holes() {
            return 0;
        }
        let root = usize::from(self.view.region(RegionId::ROOT).is_some());
        let begun = self.running.begun().filter(|begun| begun.operation.kind() == Kind::Split).count();
        max.saturating_sub(self.view.region_count() - root + begun)
    }

    /// Whether a change keeps a live majority all the way.
    pub(super) fn survives(&self, region: &RegionInfo, change: ReplicaChange) -> bool {
        survives(region.replicas(), change, &|replica| self.board.is_live(region, replica))
    }

    /// Begins a change of replicas if the limits and the votes allow it.
    pub(super) fn change(
        &mut self,
        region: &RegionInfo,
        leader: StoreId,
        change: ReplicaChange,
        reason: Reason,
    ) -> Result<(), Obstacle> {
        let kind = reason.kind();
        let has_data = match change {
            ReplicaChange::AddVoter { store } | ReplicaChange::AddLearner { store } => Some(store),
            ReplicaChange::Replace { add, .. } => Some(add).filter(|add| region.descriptor.replica_on(*add).is_none()),
            _ => None,
        };
        if let Some(to) = has_data
            && !(self.board.can_send(leader, kind) && self.board.can_receive(to, kind))
        {
            return Err(Obstacle::Limit);
        }
        if !self.survives(region, change) {
            return Err(Obstacle::WouldLoseQuorum);
        }
        self.begin(region, leader, Step::Change(change), reason);
        Ok(())
    }

    /// Begins a transfer if the limits allow it.
    pub(super) fn transfer(
        &mut self,
        region: &RegionInfo,
        leader: StoreId,
        to: StoreId,
        reason: Reason,
    ) -> Result<(), Obstacle> {
        if !self.board.can_transfer(leader, to, reason.kind()) {
            return Err(Obstacle::Limit);
        }
        self.begin(region, leader, Step::TransferLeader { to }, reason);
        Ok(())
    }

    /// Begins an operation.
    pub(super) fn begin(&mut self, region: &RegionInfo, leader: StoreId, step: Step, reason: Reason) {
        let id = *self.next_id;
        self.next_id.0 += 1;
        let epoch = region.descriptor.epoch;
        let operation = Operation { id, region: region.id(), epoch, leader, step, reason };
        self.board.count(self.view, &operation, true);
        self.counts.add(&operation);
        self.running.begin(operation.clone(), self.now, &self.options.timeouts);
        self.operations.push(operation);
    }

    /// Notes that something cannot be done.
    pub(super) fn block(&mut self, region: RegionId, kind: Kind, obstacle: Obstacle) {
        if self.blocked.len() < BLOCKED_MAX {
            self.blocked.push(Blocked { region, kind, obstacle });
        }
    }
}
