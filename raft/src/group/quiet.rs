//! Messages that leave nothing to do: heartbeats that change nothing but the time, which is most of what an idle group hears,
//! and answers to appends that decide nothing.
//!
//! Taking one of these leaves nothing to be polled, so a driver with thousands of groups need not step them. What is
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

    /// An answer of a follower that has everything and is owed nothing, or whose answer to an append is not overdue yet.
    pub(crate) fn absorb_heartbeat_reply(&mut self, now: Time, from: ReplicaId, term: Term, round: u64) -> bool {
        let (last, commit, retry_after) = (self.log.last_index(), self.hard.commit, self.options.retry_after());
        let RoleState::Leader(leader) = &mut self.role else { return false };
        let Some(progress) = leader.follower(from) else { return false };
        let is_idle = progress.is_idle() && progress.matched == last && progress.commit_sent >= commit;
        let is_quiet = term == self.hard.term
            && progress.flow == Flow::Replicate
            && (is_idle || now < progress.retry_at)
            && round <= progress.acked_round;
        if is_quiet {
            progress.on_alive(now, now.plus(retry_after));
        }
        is_quiet
    }

    /// An answer to an append that tells of nothing which could be committed now, of a follower to whom everything has been
    /// sent. The commit index cannot move by it: what it covers is committed, and the answers of the others were counted
    /// when they came.
    pub(crate) fn absorb_accepted(&mut self, now: Time, from: ReplicaId, term: Term, match_index: LogIndex) -> bool {
        let (last, commit, tell_upto) = (self.log.last_index(), self.hard.commit, self.tell_upto());
        let RoleState::Leader(leader) = &mut self.role else { return false };
        if term != self.hard.term || match_index > commit || leader.transfer.is_some() {
            return false;
        }
        let Some(progress) = leader.follower(from) else { return false };
        let is_quiet = progress.flow == Flow::Replicate
            && progress.next > last
            && !progress.nudge
            // An overdue answer may be reason to ask again, unless this is it.
            && (now < progress.retry_at || match_index > progress.matched)
            && progress.commit_sent >= tell_upto;
        if is_quiet {
            self.handle_accepted(now, from, match_index);
        }
        is_quiet
    }
}
