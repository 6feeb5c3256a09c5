//! Heartbeats that change nothing but the time: most of what an idle group hears.
//!
//! Taking one of these leaves nothing to be polled, so a driver with thousands of idle groups need not step them. What is
//! not plainly of this kind is refused here and goes the ordinary way, through `handle_message`.

use super::core::{Core, RoleState};
use crate::progress::Flow;
use crate::{LogIndex, ReplicaId, Term, Time};

impl Core {
    /// A heartbeat of the known leader, of this term, without news.
    pub(crate) fn absorb_heartbeat(&mut self, now: Time, from: ReplicaId, term: Term, commit: LogIndex) -> bool {
        let RoleState::Follower(following) = &self.role else { return false };
        let is_quiet = term == self.hard.term
            && from == self.election.leader
            && commit.min(self.log.last_index()) <= self.hard.commit
            && !following.answer_due
            && following.beat_due.is_none();
        if is_quiet {
            self.election.heard_at = now;
            self.rearm(now);
        }
        is_quiet
    }

    /// An answer of a follower that has everything and is owed nothing.
    pub(crate) fn absorb_heartbeat_reply(&mut self, now: Time, from: ReplicaId, term: Term, round: u64) -> bool {
        let (last, commit, retry_after) = (self.log.last_index(), self.hard.commit, self.options.retry_after());
        let RoleState::Leader(leader) = &mut self.role else { return false };
        let Some(progress) = leader.follower(from) else { return false };
        let is_quiet = term == self.hard.term
            && progress.flow == Flow::Replicate
            && progress.is_idle()
            && progress.matched == last
            && progress.commit_sent >= commit
            && round <= progress.acked_round;
        if is_quiet {
            progress.on_alive(now, now.plus(retry_after));
        }
        is_quiet
    }
}
