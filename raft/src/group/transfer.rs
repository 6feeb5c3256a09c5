//! Handing leadership over (dissertation, section 3.10).
//!
//! While a transfer is open the leader takes no proposals, brings the target up to its own last entry, and then asks it to
//! campaign at once. After one election timeout, or if the target refuses, it gives up and goes on leading.

use super::core::{Core, Effect, RoleState};
use super::error::TransferRefused;
use crate::output::Event;
use crate::{Body, ReplicaId, Time};

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    pub(crate) deadline: Time,
    /// The target was asked to campaign.
    pub(crate) asked: bool,
}

impl Core {
    pub(crate) fn transfer_leader(&mut self, now: Time, to: ReplicaId) -> Result<(), TransferRefused> {
        let leader_hint = self.known_leader();
        let deadline = now.plus(self.options.election_timeout_min);
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(TransferRefused::NotLeader { leader: leader_hint });
        };
        if to == self.id {
            return Err(TransferRefused::AlreadyLeader);
        }
        if !self.members.current.may_lead(to) {
            return Err(TransferRefused::CannotLead { to });
        }
        match leader.transfer {
            Some(open) if open.to == to => Ok(()),
            Some(open) => Err(TransferRefused::InProgress { to: open.to }),
            None => {
                leader.transfer = Some(Transfer { to, deadline, asked: false });
                Ok(())
            }
        }
    }

    pub(crate) fn is_transferring(&self) -> bool {
        matches!(&self.role, RoleState::Leader(leader) if leader.transfer.is_some())
    }

    /// Asks the target to campaign once it holds everything.
    pub(crate) fn drive_transfer(&mut self) {
        let last_index = self.log.last_index();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(Transfer { to, asked: false, .. }) = leader.transfer else { return };
        if leader.progress(to).is_some_and(|progress| progress.matched == last_index) {
            leader.transfer.as_mut().expect("it was matched above").asked = true;
            leader.asked_to_campaign = true;
            self.send(to, Body::TimeoutNow);
        }
    }

    /// The target takes no leadership over. Whether there was a transfer to it that is given up now.
    pub(crate) fn on_transfer_refused(&mut self, by: ReplicaId) -> bool {
        let RoleState::Leader(leader) = &mut self.role else { return false };
        if leader.transfer.take_if(|open| open.to == by).is_none() {
            return false;
        }
        self.effects.push(Effect::Event(Event::TransferAborted { to: by }));
        true
    }

    /// Gives the transfer up if its time is over or its target can no longer lead.
    pub(crate) fn check_transfer(&mut self, now: Time) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(Transfer { to, deadline, .. }) = leader.transfer else { return };
        if now >= deadline || !self.members.current.may_lead(to) {
            leader.transfer = None;
            self.effects.push(Effect::Event(Event::TransferAborted { to }));
        }
    }
}
