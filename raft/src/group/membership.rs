//! Membership changes take effect when they are applied (dissertation, chapter 4; the time of effect is a departure, see
//! below).
//!
//! The dissertation uses a configuration as soon as it is in the log. Here, as in other engines of this kind, it counts from
//! the moment it is applied, which needs three rules to be as safe: a leader proposes a change only after the one before
//! is applied; a new leader takes every entry that it inherited for a possible change; and a replica does not campaign
//! while a change at or below its commit index is unapplied. For the last one the commit index is made durable together
//! with every append: a replica that has the entry of a change knows, also after a crash, that the change before it is
//! committed.

use super::core::{Core, RoleState};
use crate::progress::Progress;
use crate::{LogIndex, Membership, ReplicaId, Time};

/// The membership in force, and where in the log it may change.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) current: Membership,
    /// The membership entries of the log that are known and not yet applied, ascending.
    changes: Vec<LogIndex>,
    /// Entries up to here were in the log at start, and any of them may be a change.
    unknown_upto: LogIndex,
}

impl Members {
    pub(crate) fn new(current: Membership, last_index: LogIndex) -> Self {
        Self { current, changes: Vec::new(), unknown_upto: last_index }
    }

    /// See [`Group::read_ahead`](crate::Group::read_ahead).
    pub(crate) fn read_own(&self) -> u64 {
        self.changes.len() as u64 ^ self.unknown_upto.0 ^ self.current.members().len() as u64
    }

    pub(crate) fn read_near(&self) -> u64 {
        self.current.members().first().map_or(0, |(id, _)| id.0)
    }

    pub(crate) fn note_change(&mut self, index: LogIndex) {
        self.changes.push(index);
    }

    pub(crate) fn cut(&mut self, from: LogIndex) {
        self.changes.retain(|index| *index < from);
        self.unknown_upto = self.unknown_upto.min(from.prev());
    }

    pub(crate) fn on_applied(&mut self, applied: LogIndex) {
        if !self.changes.is_empty() {
            self.changes.retain(|index| *index > applied);
            if self.changes.is_empty() {
                self.changes = Vec::new();
            }
        }
    }

    /// Whether no change is known of beyond `applied`, nor can be without being noted.
    pub(crate) fn is_still(&self, applied: LogIndex) -> bool {
        self.changes.is_empty() && self.unknown_upto <= applied
    }

    /// Whether a change may stand after `applied`, up to `commit`.
    pub(crate) fn has_unapplied_change(&self, applied: LogIndex, commit: LogIndex) -> bool {
        applied < commit.min(self.unknown_upto) || self.changes.iter().any(|index| *index > applied && *index <= commit)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.current.heap_bytes() + self.changes.capacity() * size_of::<LogIndex>()
    }
}

impl Core {
    pub(crate) fn on_membership_applied(&mut self, now: Time, index: LogIndex, membership: Membership) {
        self.members.changes.retain(|change| *change != index);
        self.adopt_membership(now, membership);
    }

    pub(crate) fn on_membership_noop(&mut self, index: LogIndex) {
        self.members.changes.retain(|change| *change != index);
    }

    pub(crate) fn adopt_membership(&mut self, now: Time, membership: Membership) {
        let could_lead = self.members.current.may_lead(self.id);
        self.members.current = membership;
        if !self.members.current.may_lead(self.id) {
            self.give_up_candidacy(now);
        } else if !could_lead && !self.is_leader() {
            self.rearm(now);
        }
        let last_index = self.log.last_index();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let members = self.members.current.members();
        let is_member = |progress: &Progress| members.binary_search_by_key(&progress.id, |(id, _)| *id).is_ok();
        let (kept, gone) = std::mem::take(&mut leader.followers).into_iter().partition::<Vec<_>, _>(is_member);
        leader.followers = kept;
        for (id, _) in members.iter().filter(|(id, _)| *id != self.id) {
            if let Err(at) = leader.followers.binary_search_by_key(id, |progress| progress.id) {
                leader.followers.insert(at, Progress::new(*id, last_index, now));
            }
        }
        self.release_followers(now, self.hard.term, &gone);
        self.check_transfer(now);
        if let RoleState::Leader(leader) = &self.role
            && (leader.beat_at == Time::NEVER || leader.followers.is_empty())
        {
            self.arm_heartbeat(now);
        }
    }

    /// A leader that the new configuration leaves no part in leading steps down (dissertation, section 4.2.2): the change
    /// is applied, so it is committed. It tells the others first, so that they need not find out.
    fn give_up_candidacy(&mut self, now: Time) {
        match self.role {
            RoleState::Follower(_) => {}
            RoleState::Leader(_) => {
                self.send_heartbeats(false);
                self.become_follower(now, self.hard.term, ReplicaId::ZERO);
            }
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                self.become_follower(now, self.hard.term, ReplicaId::ZERO);
            }
        }
    }
}
