//! What the planner has begun and not seen the end of.
//!
//! ```text
//!   start ---> under way --reported done--> settling --the view shows it, or time is up--> forgotten
//!                  |
//!                  +--reported failed, or time is up--> backing off --wait is over--> free
//! ```
//!
//! Invariant: a region is in at most one operation, as its region or as the target of a merge.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft_raft::{RegionDescriptor, RegionId, Role, Time};

use super::cluster::ClusterView;
use super::operation::{Operation, OperationId, ReplicaChange, Step};
use super::options::{Kind, PlacementOptions, Timeouts};

/// An operation that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) operation: Operation,
    /// When it is no longer waited for.
    deadline: Time,
    /// Whether it was reported as done, and only the view does not show it yet.
    is_settling: bool,
}

impl Begun {
    pub(super) fn is_running(&self) -> bool {
        !self.is_settling
    }
}

/// A region that is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BackOff {
    failures: u32,
    until: Time,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    begun: BTreeMap<OperationId, Begun>,
    /// Both regions of each operation.
    regions: BTreeMap<RegionId, OperationId>,
    back_offs: BTreeMap<RegionId, BackOff>,
}

impl Running {
    pub(super) fn begin(&mut self, operation: Operation, now: Time, timeouts: &Timeouts) {
        let deadline = now.plus(timeout(&operation.step, timeouts));
        for region in regions(&operation) {
            let earlier = self.regions.insert(region, operation.id);
            assert!(earlier.is_none(), "region {region} is in two operations");
        }
        self.begun.insert(operation.id, Begun { operation, deadline, is_settling: false });
    }

    /// Takes in an outcome; one of an operation that is not known, or no longer, changes nothing.
    pub(super) fn finish(&mut self, id: OperationId, is_done: bool, now: Time, timeouts: &Timeouts) {
        let Some(begun) = self.begun.get_mut(&id).filter(|begun| !begun.is_settling) else { return };
        if is_done {
            begun.is_settling = true;
            begun.deadline = now.plus(timeouts.settle);
            for region in regions(&begun.operation) {
                self.back_offs.remove(&region);
            }
        } else {
            self.fail(id, now, timeouts);
        }
    }

    /// Ends what the view shows to be done and what has taken too long; gives the latter.
    pub(super) fn sweep(&mut self, view: &ClusterView, now: Time, timeouts: &Timeouts) -> Vec<OperationId> {
        let is_shown = |begun: &Begun| begun.is_settling && (begun.deadline <= now || shows(view, &begun.operation));
        let shown: Vec<_> = self.begun.iter().filter(|(_, begun)| is_shown(begun)).map(|(id, _)| *id).collect();
        for id in shown {
            self.forget(id);
        }
        let late = |begun: &Begun| !begun.is_settling && begun.deadline <= now;
        let late: Vec<_> = self.begun.iter().filter(|(_, begun)| late(begun)).map(|(id, _)| *id).collect();
        for id in &late {
            self.fail(*id, now, timeouts);
        }
        // A failure is remembered for a while after its wait is over, so that the next one waits longer.
        self.back_offs
            .retain(|region, wait| view.region(*region).is_some() && now.since(wait.until) < timeouts.retry_max);
        late
    }

    /// Whether nothing stands against an operation in `region`.
    pub(super) fn is_free(&self, region: RegionId, now: Time) -> bool {
        !self.regions.contains_key(&region) && self.back_offs.get(&region).is_none_or(|wait| wait.until <= now)
    }

    /// Whether none of `regions` is in an operation.
    pub(super) fn is_untouched(&self, mut regions: impl Iterator<Item = RegionId>) -> bool {
        regions.all(|region| !self.regions.contains_key(&region))
    }

    /// All that was begun, settling ones included.
    pub(super) fn begun(&self) -> impl Iterator<Item = &Begun> {
        self.begun.values()
    }

    /// How many run: all of them, those that can wait, splits, merges.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for begun in self.begun.values().filter(|begun| begun.is_running()) {
            counts.add(&begun.operation);
        }
        counts
    }

    fn fail(&mut self, id: OperationId, now: Time, timeouts: &Timeouts) {
        let Some(begun) = self.forget(id) else { return };
        for region in regions(&begun.operation) {
            let wait = self.back_offs.entry(region).or_insert(BackOff { failures: 0, until: now });
            let length = timeouts.retry_min.saturating_mul(1 << wait.failures.min(16)).min(timeouts.retry_max);
            *wait = BackOff { failures: wait.failures.saturating_add(1), until: now.plus(length) };
        }
    }

    fn forget(&mut self, id: OperationId) -> Option<Begun> {
        let begun = self.begun.remove(&id)?;
        for region in regions(&begun.operation) {
            self.regions.remove(&region);
        }
        Some(begun)
    }
}

/// How many operations run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) all: usize,
    pub(super) splits: usize,
    pub(super) merges: usize,
}

impl Counts {
    pub(super) fn add(&mut self, operation: &Operation) {
        self.all += 1;
        self.splits += usize::from(operation.kind() == Kind::Split);
        self.merges += usize::from(operation.kind() == Kind::Merge);
    }

    /// Whether one more of `kind` may run; what can wait leaves a quarter of all to what cannot.
    pub(super) fn allow(&self, kind: Kind, options: &PlacementOptions) -> bool {
        let limits = options.limits;
        let all = if kind.can_wait() { limits.operations - limits.operations / 4 } else { limits.operations };
        self.all < all
            && (kind != Kind::Split || self.splits < limits.splits)
            && (kind != Kind::Merge || self.merges < limits.merges)
    }
}

fn regions(operation: &Operation) -> impl Iterator<Item = RegionId> + use<> {
    std::iter::once(operation.region).chain(operation.other_region())
}

fn timeout(step: &Step, timeouts: &Timeouts) -> Duration {
    match step {
        Step::Change(_) => timeouts.change,
        Step::TransferLeader { .. } => timeouts.transfer,
        Step::Split { .. } => timeouts.split,
        Step::Merge { .. } => timeouts.merge,
    }
}

/// Whether a change of replicas has come to its end in a region.
fn is_made(region: &RegionDescriptor, change: ReplicaChange) -> bool {
    let role_on = |store| region.replica_on(store).map(|replica| replica.role);
    match change {
        ReplicaChange::AddVoter { store } => role_on(store) == Some(Role::Voter),
        ReplicaChange::AddLearner { store } => role_on(store) == Some(Role::Learner),
        ReplicaChange::AddWitness { store } => role_on(store) == Some(Role::Witness),
        ReplicaChange::Promote { replica } => region.replica(replica).is_none_or(|found| found.role == Role::Voter),
        ReplicaChange::Remove { replica } => region.replica(replica).is_none(),
        ReplicaChange::Replace { remove, add } => {
            region.replica(remove).is_none() && role_on(add).is_some_and(|role| role != Role::Learner)
        }
    }
}

/// Whether the view shows what an operation has done.
fn shows(view: &ClusterView, operation: &Operation) -> bool {
    let moved_on = |region, epoch| view.region(region).is_none_or(|known| known.descriptor.epoch != epoch);
    match &operation.step {
        Step::TransferLeader { to } => view.region(operation.region).is_none_or(|region| region.leader == Some(*to)),
        Step::Change(change) => {
            // A learner that has yet to become the new voter, or a joint configuration, is on the way there.
            let is_made = |known: &super::RegionInfo| {
                known.replicas().iter().all(|replica| !replica.role.is_joint()) && is_made(&known.descriptor, *change)
            };
            moved_on(operation.region, operation.epoch) && view.region(operation.region).is_none_or(is_made)
        }
        Step::Split { .. } => moved_on(operation.region, operation.epoch),
        Step::Merge { into, into_epoch, .. } => view.region(operation.region).is_none() && moved_on(*into, *into_epoch),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use multiraft_raft::{KeyRange, RegionEpoch, Replica, ReplicaId, StoreId};

    use super::*;
    use crate::placement::{Reason, RegionInfo, Stats};

    /// Region 2, at this conf_version, with its replicas by role.
    fn region(conf_version: u64, roles: &[Role]) -> RegionInfo {
        let replica = |(role, id): (&Role, u64)| Replica { id: ReplicaId(id), store: StoreId(id), role: *role };
        let replicas = roles.iter().zip(1..).filter(|(role, _)| **role != Role::Witness).map(replica).collect();
        let epoch = RegionEpoch { conf_version, version: 1 };
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(2), range: KeyRange::full(), epoch, replicas });
        let (leader, stats) = (Some(StoreId(1)), Stats::default());
        let (behind, unsound) = (Vec::new(), Vec::new());
        RegionInfo { descriptor, leader, stats, behind, unsound, replication: None, pending: false }
    }

    #[test]
    fn a_replacement_is_not_over_when_only_its_learner_is_seen() {
        // `Witness` stands for a store without a replica.
        let (voter, none) = (Role::Voter, Role::Witness);
        let (now, timeouts) = (Time::ZERO, Timeouts::default());
        let mut view = ClusterView::new();
        let mut running = Running::default();
        let before = region(5, &[voter, voter, voter, none]);
        let change = ReplicaChange::Replace { remove: ReplicaId(3), add: StoreId(4) };
        let operation = Operation {
            id: OperationId(1),
            region: RegionId(2),
            epoch: before.descriptor.epoch,
            leader: StoreId(1),
            step: Step::Change(change),
            reason: Reason::Draining { store: StoreId(3) },
        };
        view.observe_region(before);
        running.begin(operation, now, &timeouts);
        running.finish(OperationId(1), true, now, &timeouts);
        for roles in [[voter, voter, voter, Role::Learner], [voter, voter, Role::OutgoingVoter, Role::IncomingVoter]] {
            view.observe_region(region(6, &roles));
            running.sweep(&view, now, &timeouts);
            assert!(!running.is_free(RegionId(2), now), "{roles:?}");
        }
        view.observe_region(region(8, &[voter, voter, none, voter]));
        running.sweep(&view, now, &timeouts);
        assert!(running.is_free(RegionId(2), now));
    }
}
