//! Changes of a region itself, at its leader: one at a time, each under the exact epoch that its caller knew.

use std::time::Duration;

use multiraft_raft::{
    ChangeOp, EntryKind, LogIndex, Membership, MembershipChange, Proposal, ProposeError, RegionEpoch, RegionId,
    Replica, ReplicaId, StoreId, Time,
};
use multiraft_router::SlotKey;
use multiraft_transport::ForwardRequest;

use crate::logic::forward::{ForwardKind, RETRY};
use crate::logic::output::ReplyTo;
use crate::logic::region::Proposed;
use crate::logic::worker::Worker;
use crate::logic::{AdminCommand, AdminRequest, Outcome};
use crate::region::admin::split_descriptor;
use crate::region::command::{Command, EpochRule, encode_epoch};
use crate::region::merge::{FROZEN_RETRY, MergeFault, are_together, check_merge};

/// A learner that is behind by no more entries than this may become a voter.
const CATCH_UP_LAG: u64 = 256;

/// Why a region is not frozen.
const FENCED_SOURCE: &str =
    "a replica of the region is fenced, or was lost with its store's disk: replace it before the region is merged";

/// When to ask again whether a learner has caught up.
const CATCH_UP_RETRY: Duration = Duration::from_millis(100);

impl<R> Worker<R> {
    /// A caller of this store wants a region changed.
    pub(super) fn handle_admin(
        &mut self,
        now: Time,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        request: &AdminRequest,
        reply: R,
    ) {
        let slot = self.slot_of(region);
        if let Some(slot) = slot.filter(|slot| self.region(*slot).group.is_leader()) {
            return self.admin_here(now, slot, epoch, request, ReplyTo::Caller(reply));
        }
        let name = (region, epoch.unwrap_or_default());
        let request = ForwardRequest::Admin { request: request.encode() };
        self.forward_on(now, slot, name, request, ForwardKind::Admin(reply));
    }

    /// A change of a region that is led here: checked, and proposed if nothing stands against it.
    pub(super) fn admin_here(
        &mut self,
        now: Time,
        slot: SlotKey,
        epoch: Option<RegionEpoch>,
        request: &AdminRequest,
        to: ReplyTo<R>,
    ) {
        // A new leader knows what the region is once it has applied all that earlier ones have committed: until then it can
        // neither describe it nor say that somebody else's idea of it is old.
        let group = &self.region(slot).group;
        if group.term_at(group.applied_index()) != Some(group.term()) {
            return self.answer(to, Outcome::Busy { retry_after: RETRY });
        }
        if *request == AdminRequest::Describe {
            let regions = vec![self.region(slot).descriptor().clone()];
            return self.answer(to, Outcome::Changed { regions });
        }
        if let AdminRequest::Findings { index } = request {
            return self.tell_findings(now, slot, *index, to);
        }
        if let AdminRequest::Report(report) = request {
            return self.take_report(slot, report, to);
        }
        if *request == AdminRequest::Loads {
            return self.tell_loads(slot, to);
        }
        if let AdminRequest::Command(command) = request {
            let id = self.region(slot).id();
            if let Some(outcome) = self.settled_merge(id, command) {
                return self.answer(to, outcome);
            }
        }
        if self.upkeep.is_disk_full() {
            let store = self.config.store;
            return self.answer(to, Outcome::NoSpace { store });
        }
        let region = self.region(slot);
        let current = region.descriptor();
        if epoch.is_some_and(|epoch| EpochRule::MEMBERSHIP.is_outdated(epoch, current.epoch)) {
            let current = current.clone();
            return self.answer(to, Outcome::EpochMismatch { current });
        }
        // The applier has told the caller of a change before it told this worker.
        if epoch.is_some_and(|epoch| epoch != current.epoch) {
            return self.answer(to, Outcome::Busy { retry_after: RETRY });
        }
        if let AdminRequest::Command(AdminCommand::Fence { version, .. }) = request
            && current.epoch.version != *version
        {
            // Passed already, and without the merge: proof enough (M3).
            let current = current.clone();
            return self.answer(to, Outcome::EpochMismatch { current });
        }
        if region.merge.frozen.is_some() {
            return self.answer(to, Outcome::Busy { retry_after: FROZEN_RETRY });
        }
        // One change at a time: what an earlier one leads to is known only once it is applied.
        if region.group.applied_index() < region.admin_barrier {
            self.counters.busy += 1;
            return self.answer(to, Outcome::Busy { retry_after: RETRY });
        }
        if *request == AdminRequest::Command(AdminCommand::Check) && !self.may_check(slot) {
            return self.answer(to, Outcome::Busy { retry_after: RETRY });
        }
        let refusal = match request {
            AdminRequest::Membership(change) => self.unfit_membership(now, slot, change),
            AdminRequest::Command(AdminCommand::Split { children }) => {
                split_descriptor(current, children).err().map(|fault| fault.to_string())
            }
            AdminRequest::Command(AdminCommand::Freeze { target }) => {
                let fault = check_merge(current, target).err();
                let fault = fault.or_else(|| (!are_together(current, target)).then_some(MergeFault::Apart));
                let is_out = |replica: &Replica| region.merge.fenced.contains(replica.id) || self.is_lost(replica);
                let is_fenced = current.replicas.iter().any(is_out);
                // It never tells that it is frozen.
                fault.map(|fault| fault.to_string()).or_else(|| is_fenced.then(|| FENCED_SOURCE.to_owned()))
            }
            AdminRequest::Command(AdminCommand::CommitMerge { source, .. }) => {
                check_merge(source, current).err().map(|fault| fault.to_string())
            }
            AdminRequest::Command(AdminCommand::Fence { .. }) => None,
            AdminRequest::Command(AdminCommand::RollBack { .. }) => {
                Some("only the region's own leader rolls a merge back".to_owned())
            }
            AdminRequest::Command(AdminCommand::Recovered(_)) => Some("only a recovery writes its record".to_owned()),
            AdminRequest::Command(AdminCommand::FenceReplicas { .. }) => {
                Some("only the region's own leader fences replicas".to_owned())
            }
            AdminRequest::Command(AdminCommand::Check)
            | AdminRequest::Describe
            | AdminRequest::Findings { .. }
            | AdminRequest::Loads
            | AdminRequest::Report(_) => None,
            AdminRequest::Command(AdminCommand::AllocateIds { .. } | AdminCommand::Store(_)) => (current.id
                != RegionId::ROOT)
                .then(|| "only the root region gives ids away and keeps stores".to_owned()),
        };
        if self.would_unseat(slot, request) {
            self.give_seat_away(now, slot, request);
            return self.answer(to, Outcome::Busy { retry_after: CATCH_UP_RETRY });
        }
        if self.is_premature(slot, request) {
            return self.answer(to, Outcome::Busy { retry_after: CATCH_UP_RETRY });
        }
        if let Some(reason) = refusal {
            return self.answer(to, Outcome::Refused { reason });
        }
        let epoch = self.region(slot).descriptor().epoch;
        self.propose_admin(now, slot, epoch, request, to);
    }

    /// Whether a consistency check may begin: one at a time, and among replicas that stay.
    fn may_check(&self, slot: SlotKey) -> bool {
        let region = self.region(slot);
        !region.group.membership().is_joint() && !self.is_checking(region.id())
    }

    /// Whether a change would take the vote from the leader itself. It then would be the first to know that the change is
    /// committed, and the others, if they do not hear of it, need the vote of a replica that is gone.
    fn would_unseat(&self, slot: SlotKey, request: &AdminRequest) -> bool {
        let own = self.region(slot).group.id();
        ops_of(request).iter().any(|op| matches!(op, ChangeOp::Remove { id } | ChangeOp::Demote { id } if *id == own))
    }

    /// Starts to hand leadership to a voter that keeps its vote.
    fn give_seat_away(&mut self, now: Time, slot: SlotKey, request: &AdminRequest) {
        let goes = |id| {
            let goes = |op: &ChangeOp| matches!(op, ChangeOp::Remove { .. } | ChangeOp::Demote { .. }) && op.id() == id;
            ops_of(request).iter().any(goes)
        };
        let group = &self.region(slot).group;
        let others = self.successors(now, slot).filter(|replica| !goes(replica.id));
        let Some(target) = others.max_by_key(|replica| group.match_index(replica.id)).copied() else { return };
        if self.region_mut(slot).group.transfer_leader(now, target.id).is_ok() {
            self.touch(slot);
        }
    }

    /// Whether a change would make a voter of a replica that is still far behind: it would count without being able to help.
    fn is_premature(&self, slot: SlotKey, request: &AdminRequest) -> bool {
        let group = &self.region(slot).group;
        // One that has reached nothing may not even have come to be.
        let lags = |id| {
            let reached = group.match_index(id).unwrap_or(LogIndex::ZERO);
            reached == LogIndex::ZERO || reached.plus(CATCH_UP_LAG) < group.last_index()
        };
        // One that was lost never catches up: that is refused.
        let is_lost = |id| self.lost_replica(slot, id).is_some();
        ops_of(request).iter().any(|op| matches!(op, ChangeOp::Promote { id } if lags(*id) && !is_lost(*id)))
    }

    /// Why a membership change cannot be; the core checks the rest.
    fn unfit_membership(&self, now: Time, slot: SlotKey, change: &MembershipChange) -> Option<String> {
        let region = self.region(slot);
        match multiraft_raft::apply_to_replicas(&region.descriptor().replicas, change) {
            Ok(after) => self.stillborn(slot, change).or_else(|| self.silent_majority(now, &after)),
            Err(error) => Some(error.to_string()),
        }
    }

    /// The store of a replica that was lost with its disk.
    fn lost_replica(&self, slot: SlotKey, id: ReplicaId) -> Option<StoreId> {
        let replica = self.region(slot).descriptor().replica(id)?;
        self.is_lost(replica).then_some(replica.store)
    }

    /// Why a replica that a change adds, or promotes, will never be: its store has begun anew since its id was given away.
    fn stillborn(&self, slot: SlotKey, change: &MembershipChange) -> Option<String> {
        ops_in(change).iter().find_map(|op| match *op {
            ChangeOp::AddVoter { id, store }
            | ChangeOp::AddLearner { id, store }
            | ChangeOp::AddWitness { id, store } => {
                let is_late = self.peers.is_lost(store, id);
                is_late.then(|| {
                    format!("store {store} has begun anew since the new replica's id was given away: try again")
                })
            }
            ChangeOp::Promote { id } => {
                let store = self.lost_replica(slot, id)?;
                Some(format!(
                    "store {store} has begun anew since, and will never have replica {id}: remove it, and add another"
                ))
            }
            ChangeOp::Demote { .. } | ChangeOp::Remove { .. } => None,
        })
    }

    /// Why nobody could lead among these replicas, if those that are not heard of are dead: a region that goes on without a few of
    /// its voters must not lose the rest to a change.
    fn silent_majority(&self, now: Time, replicas: &[Replica]) -> Option<String> {
        let silence = self.config.raft.election_timeout_min;
        let lives = |replica: &Replica| {
            let store = replica.store;
            store == self.config.store || (self.peers.is_heard(store, now, silence) && !self.is_lost(replica))
        };
        let roles = replicas.iter().map(|replica| (replica.id, replica.role)).collect();
        let living: Vec<_> = replicas.iter().filter(|replica| lives(replica)).map(|replica| replica.id).collect();
        if Membership::from_roles(roles).is_quorum(|id| living.contains(&id)) {
            return None;
        }
        let silent = replicas.iter().filter(|replica| !lives(replica)).map(|replica| replica.store.to_string());
        let silent = silent.collect::<Vec<_>>().join(", ");
        Some(format!(
            "the voters left would be no majority without store {silent}, of which nothing is heard, or which has lost what its replica \
             was: wait until it is back, or take its replica out first"
        ))
    }

    fn propose_admin(&mut self, now: Time, slot: SlotKey, epoch: RegionEpoch, request: &AdminRequest, to: ReplyTo<R>) {
        // What came in before goes into the log before.
        self.propose_incoming(now, slot);
        let region = self.region_mut(slot);
        let proposed = match request {
            AdminRequest::Membership(change) => region.group.propose_membership(now, change, encode_epoch(epoch)),
            AdminRequest::Describe | AdminRequest::Findings { .. } | AdminRequest::Report(_) | AdminRequest::Loads => {
                return;
            }
            AdminRequest::Command(command) => {
                let data = Command::encode_admin(epoch, &command.encode());
                region.group.propose(now, &mut vec![Proposal { kind: EntryKind::Command, data }])
            }
        };
        match proposed {
            Ok(index) => self.note_admin(now, slot, index, to),
            Err(error) => {
                let hint = self.region(slot).leader_store();
                let outcome = match error {
                    ProposeError::NotLeader { .. } | ProposeError::TransferInProgress { .. } => {
                        Outcome::NotLeader { hint }
                    }
                    ProposeError::Change(error) => Outcome::Refused { reason: error.to_string() },
                    _ => Outcome::Busy { retry_after: RETRY },
                };
                self.answer(to, outcome);
            }
        }
    }

    fn note_admin(&mut self, now: Time, slot: SlotKey, index: LogIndex, reply: ReplyTo<R>) {
        let region = self.region_mut(slot);
        region.admin_barrier = index;
        // All replicas should see a changed region soon, not only once the next command or heartbeat comes by.
        region.group.hurry_commit(index);
        let term = region.group.term();
        let waiting = region.waiting();
        let start = waiting.proposed.partition_point(|proposed| proposed.index < index);
        waiting.proposed.insert(start, Proposed { index, term, reply, at: now });
        self.touch(slot);
    }
}

/// The steps of a change of replicas.
fn ops_of(request: &AdminRequest) -> &[ChangeOp] {
    if let AdminRequest::Membership(change) = request { ops_in(change) } else { &[] }
}

fn ops_in(change: &MembershipChange) -> &[ChangeOp] {
    match change {
        MembershipChange::Simple(op) => std::slice::from_ref(op),
        MembershipChange::Joint { ops, .. } => ops,
        _ => &[],
    }
}
