//! Compaction, and snapshots: when one is of use here, what changes when it is installed, and what became of one that was
//! sent (dissertation, chapter 5).

use super::apply::Applying;
use super::core::{Core, RoleState};
use super::membership::Members;
use crate::progress::Flow;
use crate::{LogIndex, Membership, ReplicaId, Term, Time};

/// What became of a snapshot that was sent to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// The follower has installed it durably.
    Installed,
    /// It could not be made, sent or installed, or the follower did not want it.
    Failed,
    /// The link to the follower was lost.
    Unreachable,
}

impl Core {
    pub(crate) fn would_install(&self, index: LogIndex, term: Term) -> bool {
        // A log that has the entry has all before it: it needs only the news that they are committed.
        let brings_entries = index > self.hard.commit && self.log.term(index) != Some(term);
        !self.is_leader() && (brings_entries || self.applying.needs_snapshot(index))
    }

    pub(crate) fn learn_committed(&mut self, index: LogIndex, term: Term) -> bool {
        // Log matching (dissertation, figure 3.2): the same entry has the same predecessors everywhere.
        if self.is_leader() || index <= self.hard.commit || self.log.term(index) != Some(term) {
            return false;
        }
        self.commit_to(index);
        true
    }

    pub(crate) fn restore(&mut self, now: Time, index: LogIndex, term: Term, membership: Membership) -> bool {
        if self.is_leader() {
            return false;
        }
        if index <= self.hard.commit {
            let helps = self.applying.needs_snapshot(index);
            if helps {
                self.skip_to(index);
                self.adopt_membership(now, membership);
            }
            return helps;
        }
        // A log never ends in a term that its owner has not seen.
        if term > self.hard.term || !matches!(self.role, RoleState::Follower(_)) {
            let (term, leader) = (term.max(self.hard.term), self.election.leader);
            let leader = if term > self.hard.term { ReplicaId::ZERO } else { leader };
            self.become_follower(now, term, leader);
        }
        if self.log.term(index) == Some(term) {
            // What follows may have been acknowledged, and stays.
            self.members.on_applied(index);
        } else {
            self.log.reset(index, term);
            self.durability.clamp(index);
            self.members = Members::new(Membership::default(), index);
        }
        self.commit_to(index);
        self.applying = Applying::new(index);
        self.adopt_membership(now, membership);
        self.owe_answer(index);
        self.note_leader_alive(now);
        true
    }

    pub(crate) fn compact(&mut self, upto: LogIndex) {
        let upto = upto.min(self.applying.applied).min(self.log.stable());
        self.log.compact(upto);
    }

    pub(crate) fn on_snapshot_sent(&mut self, now: Time, to: ReplicaId, outcome: SnapshotOutcome) {
        let (retry_after, timeout) = (self.options.retry_after(), self.options.election_timeout_min);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.follower(to).filter(|progress| progress.flow == Flow::Snapshot) else { return };
        match outcome {
            // Most are made after they were asked for, and so reach at least as far as what was applied then, where `next`
            // points; one that was gone on with after a break may be older. The follower's own answer tells exactly, and is
            // about to come.
            SnapshotOutcome::Installed => {
                progress.become_probe(progress.next);
                progress.hold_until(now.plus(retry_after));
            }
            SnapshotOutcome::Failed => {
                progress.become_probe(progress.matched.next());
                progress.hold_until(now.plus(timeout));
            }
            SnapshotOutcome::Unreachable => {
                progress.become_probe(progress.matched.next());
                progress.hold_until(now);
            }
        }
    }
}
