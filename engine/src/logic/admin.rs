//! Changes of a region itself, at its leader: one at a time, each under the exact epoch that its caller knew.

use std::time::Duration;

use multiraft_raft::{
    ChangeOp, EntryKind, LogIndex, MembershipChange, Proposal, ProposeError, RegionEpoch, RegionId, Time,
};
use multiraft_router::SlotKey;
use multiraft_transport::ForwardRequest;

use crate::logic::forward::{ForwardKind, RETRY};
use crate::logic::output::ReplyTo;
use crate::logic::region::Proposed;
use crate::logic::worker::Worker;
use crate::logic::{AdminCommand, AdminRequest, Outcome};
use crate::region::admin::split_descriptor;
use crate::region::command::{Command, encode_epoch};

/// A learner that is behind by no more entries than this may become a voter.
const CATCH_UP_LAG: u64 = 256;

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
        let Some(slot) = self.slot_of(region) else {
            return self.reply(reply, Outcome::UnknownRegion);
        };
        let here = self.region(slot);
        if here.group.is_leader() {
            return self.admin_here(now, slot, epoch, request, ReplyTo::Caller(reply));
        }
        let (leader, name) = (here.leader_store(), (region, epoch.unwrap_or_default()));
        let request = ForwardRequest::Admin { request: request.encode() };
        self.forward(now, leader, name, request, ForwardKind::Admin(reply));
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
        if *request == AdminRequest::Describe {
            let regions = vec![self.region(slot).descriptor().clone()];
            return self.answer(to, Outcome::Changed { regions });
        }
        if self.upkeep.is_disk_full() {
            let store = self.config.store;
            return self.answer(to, Outcome::NoSpace { store });
        }
        let region = self.region(slot);
        let current = region.descriptor();
        if epoch.is_some_and(|epoch| epoch != current.epoch) {
            let current = current.clone();
            return self.answer(to, Outcome::EpochMismatch { current });
        }
        // One change at a time: what an earlier one leads to is known only once it is applied.
        if region.group.applied_index() < region.admin_barrier {
            self.counters.busy += 1;
            return self.answer(to, Outcome::Busy { retry_after: RETRY });
        }
        let refusal = match request {
            AdminRequest::Membership(change) => self.unfit_membership(slot, change),
            AdminRequest::Command(AdminCommand::Split { children }) => {
                split_descriptor(current, children).err().map(|fault| fault.to_string())
            }
            AdminRequest::Describe => None,
            AdminRequest::Command(AdminCommand::AllocateIds { .. }) => {
                (current.id != RegionId::ROOT).then(|| "only the root region gives ids away".to_owned())
            }
        };
        if self.is_premature(slot, request) {
            return self.answer(to, Outcome::Busy { retry_after: CATCH_UP_RETRY });
        }
        if let Some(reason) = refusal {
            return self.answer(to, Outcome::Refused { reason });
        }
        let epoch = self.region(slot).descriptor().epoch;
        self.propose_admin(now, slot, epoch, request, to);
    }

    /// Whether a change would make a voter of a replica that is still far behind, or has no state yet: it would count without being able to help.
    fn is_premature(&self, slot: SlotKey, request: &AdminRequest) -> bool {
        let ops = match request {
            AdminRequest::Membership(MembershipChange::Simple(op)) => std::slice::from_ref(op),
            AdminRequest::Membership(MembershipChange::Joint { ops, .. }) => &ops[..],
            _ => &[],
        };
        let group = &self.region(slot).group;
        let lags = |id| {
            let reached = group.match_index(id).unwrap_or_default();
            reached == LogIndex::ZERO || reached.plus(CATCH_UP_LAG) < group.last_index()
        };
        ops.iter().any(|op| matches!(op, ChangeOp::Promote { id } if lags(*id)))
    }

    /// Why a membership change cannot be; the core checks the rest.
    fn unfit_membership(&self, slot: SlotKey, change: &MembershipChange) -> Option<String> {
        let region = self.region(slot);
        multiraft_raft::apply_to_replicas(&region.descriptor().replicas, change).err().map(|error| error.to_string())
    }

    fn propose_admin(&mut self, now: Time, slot: SlotKey, epoch: RegionEpoch, request: &AdminRequest, to: ReplyTo<R>) {
        // What came in before goes into the log before.
        self.propose_incoming(now, slot);
        let region = self.region_mut(slot);
        let proposed = match request {
            AdminRequest::Membership(change) => region.group.propose_membership(now, change, encode_epoch(epoch)),
            AdminRequest::Describe => return,
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
        let term = region.group.term();
        let waiting = region.waiting();
        let start = waiting.proposed.partition_point(|proposed| proposed.index < index);
        waiting.proposed.insert(start, Proposed { index, term, reply, at: now });
        self.touch(slot);
    }
}
