//! Proposals: a leader takes them into its log, or says why not.

use bytes::Bytes;

use super::core::{Core, RoleState};
use super::error::ProposeError;
use super::leader::Leader;
use crate::{Entry, EntryKind, LogIndex, MembershipChange, Payload, Proposal};

impl Core {
    pub(crate) fn propose(&mut self, proposals: &mut Vec<Proposal>) -> Result<LogIndex, ProposeError> {
        if proposals.iter().any(|proposal| proposal.kind == EntryKind::Membership) {
            return Err(ProposeError::MembershipAmongProposals);
        }
        let cost = proposals.iter().map(|proposal| proposal.data.len() + Entry::OVERHEAD).sum();
        self.admit(cost)?;
        let first = self.log.last_index().next();
        for Proposal { kind, data } in proposals.drain(..) {
            self.append_own(kind, data);
        }
        Ok(first)
    }

    pub(crate) fn propose_membership(
        &mut self,
        change: &MembershipChange,
        context: Bytes,
    ) -> Result<LogIndex, ProposeError> {
        let data = change.encode(&context);
        let applied = self.applying.applied;
        let leader = self.admit(data.len() + Entry::OVERHEAD)?;
        // One change at a time (dissertation, section 4.1). It takes effect when it is applied, so the next one may be
        // proposed only then: two configurations that are both unapplied somewhere need not share a quorum.
        if applied < leader.pending_change {
            return Err(ProposeError::ChangePending { index: leader.pending_change });
        }
        self.members.current.apply(change)?;
        Ok(self.append_change(data.into()))
    }

    /// The end of a joint configuration is proposed by the leader itself, again and again until it holds (dissertation,
    /// section 4.3). The entry has no context.
    pub(crate) fn maybe_leave_joint(&mut self) {
        let applied = self.applying.applied;
        let RoleState::Leader(leader) = &self.role else { return };
        let is_due = self.members.current.auto_leave() && applied >= leader.pending_change && leader.transfer.is_none();
        if is_due {
            self.append_change(MembershipChange::LeaveJoint.encode(&[]).into());
        }
    }

    fn append_change(&mut self, data: Payload) -> LogIndex {
        let index = self.append_own(EntryKind::Membership, data);
        if let RoleState::Leader(leader) = &mut self.role {
            leader.pending_change = index;
        }
        index
    }

    /// Whether the group takes proposals that cost this much now.
    fn admit(&mut self, cost: usize) -> Result<&mut Leader, ProposeError> {
        let hint = self.known_leader();
        let limit = self.options.max_uncommitted_bytes;
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(ProposeError::NotLeader { leader: hint });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(ProposeError::TransferInProgress { to: transfer.to });
        }
        // Something larger than the limit must be able to pass at some time.
        if leader.uncommitted_bytes > 0 && leader.uncommitted_bytes + cost > limit {
            return Err(ProposeError::Busy { uncommitted_bytes: leader.uncommitted_bytes, limit });
        }
        Ok(leader)
    }
}
