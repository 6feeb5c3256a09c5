//! Elections: campaigns, votes and pre-votes (dissertation, sections 3.4, 3.6.1, 4.2.3 and 9.6).
//!
//! ```text
//!              timeout            quorum would vote          quorum voted, own vote durable
//!   Follower ----------> PreCandidate ----------> Candidate ------------------------------> Leader
//!       ^                     |                       |                                       |
//!       +---------------------+-----------------------+---------------------------------------+
//!                 a leader of this term, a higher term, or a quorum refused
//! ```
//!
//! A pre-vote changes no term and no vote anywhere. A vote request leaves only after the candidate's own term and vote are
//! durable, and its own vote counts only from then on; a vote leaves only after it is durable.

use super::core::{Candidacy, Core, Effect, Election, RoleState};
use crate::membership::VoteOutcome;
use crate::{Body, FlushProof, LogIndex, Message, ReplicaId, Term, Time};

impl Core {
    /// Campaigns if it may. `transfer`: the leader asked for it, so nobody need be asked first and nobody is disturbed.
    pub(crate) fn campaign(&mut self, now: Time, transfer: bool) {
        if self.is_leader() {
            return;
        }
        self.election.made_way = false;
        if !self.may_campaign() {
            self.rearm(now);
            return;
        }
        if self.options.pre_vote && !transfer {
            self.become_pre_candidate(now);
        } else {
            self.become_candidate(now, transfer);
        }
    }

    /// Whether it may ask for votes: it holds data, counts in a quorum, has promised nobody to keep quiet, and knows its
    /// configuration (a change at or below the commit index that is not yet applied would let it count under the wrong one).
    pub(crate) fn may_campaign(&self) -> bool {
        // After the last term there is none to campaign in; only a peer that is broken can have brought it.
        self.hard.term < self.hard.term.next()
            && self.members.current.may_lead(self.id)
            && !self.is_bound()
            && !self.members.has_unapplied_change(self.applying.applied, self.hard.commit)
    }

    fn become_pre_candidate(&mut self, now: Time) {
        let mut candidacy = Box::<Candidacy>::default();
        candidacy.record(self.id, true);
        self.role = RoleState::PreCandidate(candidacy);
        self.note_role();
        self.set_leader(ReplicaId::ZERO);
        self.rearm(now);
        // Asks for the term that it would campaign in, and stays in its own.
        let term = self.hard.term.next();
        let body = Body::PreVote { last_index: self.log.last_index(), last_term: self.log.last_term() };
        for to in self.members.current.voters().filter(|voter| *voter != self.id) {
            let message = Message { from: self.id, to, term, body: body.clone() };
            self.effects.push(Effect::Send(message));
        }
        self.count_answers(now);
    }

    fn become_candidate(&mut self, now: Time, transfer: bool) {
        self.enter_term(self.hard.term.next());
        self.hard.vote = self.id;
        self.role = RoleState::Candidate(Box::default());
        self.note_role();
        self.set_leader(ReplicaId::ZERO);
        self.rearm(now);
        let body = Body::Vote { last_index: self.log.last_index(), last_term: self.log.last_term(), transfer };
        let message = Message { from: self.id, to: ReplicaId::ZERO, term: self.hard.term, body };
        for to in self.members.current.voters().filter(|voter| *voter != self.id) {
            self.effects.push(Effect::Gate(Message { to, ..message.clone() }));
        }
    }

    /// Counts the answers, and acts once they decide.
    fn count_answers(&mut self, now: Time) {
        let (RoleState::PreCandidate(candidacy) | RoleState::Candidate(candidacy)) = &self.role else { return };
        match self.members.current.vote_outcome(|id| candidacy.answer(id)) {
            VoteOutcome::Pending => {}
            VoteOutcome::Lost => self.become_follower(now, self.hard.term, ReplicaId::ZERO),
            VoteOutcome::Won if matches!(self.role, RoleState::PreCandidate(_)) => self.become_candidate(now, false),
            VoteOutcome::Won => self.become_leader(now),
        }
    }

    /// The newest flush may have made this candidate's own vote durable, or what completes a leader's quorum. Says whether
    /// that leaves anything to poll: most flushes do not, because what waits for them is gated, and the answers of a quorum
    /// are still to come.
    pub(crate) fn on_flushed<P: FlushProof>(&mut self, now: Time, proof: &P) -> bool {
        let Some(pending) = self.durability.on_flushed(proof) else { return false };
        self.log.note_stable(pending.last_index);
        let own_ballot = self.durability.durable_ballot() == (self.hard.term, self.id);
        if let (RoleState::Candidate(candidacy), true) = (&mut self.role, own_ballot) {
            candidacy.record(self.id, true);
            self.count_answers(now);
        }
        // A commit index that moves leaves something to hand out, for this replica holds it durably; a change of role has
        // queued its event.
        self.maybe_commit();
        self.has_undelivered() || !self.effects.is_empty()
    }

    pub(crate) fn handle_pre_vote(&mut self, now: Time, from: ReplicaId, term: Term, last: (LogIndex, Term)) {
        if self.refuses_by_promise(now, from, false, term) {
            return self.send(from, Body::Promised);
        }
        let is_free = term > self.hard.term || self.may_vote_for(from);
        let granted = is_free && !self.has_live_leader(now) && self.log.is_covered_by(last.0, last.1);
        if granted && self.election.stands_in_line {
            // Who comes before it in the line is at it. Once only: who asks and never wins holds nobody up for long.
            self.rearm(now);
        }
        // A grant names the term that was asked about; a refusal tells the own term, in case the asker lags behind.
        let term = if granted { term } else { self.hard.term };
        let body = Body::PreVoteReply { granted };
        self.effects.push(Effect::Send(Message { from: self.id, to: from, term, body }));
    }

    pub(crate) fn handle_vote(&mut self, now: Time, from: ReplicaId, last: (LogIndex, Term), transfer: bool) {
        let is_free = !self.refuses_by_promise(now, from, transfer, self.hard.term);
        if transfer {
            self.end_promise_for_transfer(now, self.hard.term);
        }
        let granted = is_free && self.may_vote_for(from) && self.log.is_covered_by(last.0, last.1);
        if !granted {
            self.make_way(now, last);
            self.send(from, Body::VoteReply { granted });
            return;
        }
        self.hard.vote = from;
        self.rearm(now);
        self.send_after_flush(from, Body::VoteReply { granted });
    }

    /// Somebody with a newer log asked for a vote in a term that is past or given away. It learns of the current term by the refusal,
    /// and may win a later one: it is let ask again first. Without pre-votes those that cannot win, because they have missed a change
    /// of the members perhaps, would otherwise use up term after term before it. Once only for each campaign of this replica's own:
    /// who asks and never wins holds nobody up for long.
    pub(crate) fn make_way(&mut self, now: Time, (last_index, last_term): (LogIndex, Term)) {
        let own = (self.log.last_term(), self.log.last_index());
        let is_better = (last_term, last_index) > own && !self.is_leader() && self.known_leader().is_none();
        if is_better && !self.election.made_way && self.election.deadline != Time::NEVER {
            self.election.made_way = true;
            let Election { random, deadline, .. } = &mut self.election;
            let (min, max) = (self.options.election_timeout_min, self.options.election_timeout_max);
            *deadline = (*deadline).max(now.plus(max + random.below(max - min)));
        }
    }

    /// One vote a term (dissertation, section 3.4), and none once the term has a leader.
    fn may_vote_for(&self, candidate: ReplicaId) -> bool {
        self.hard.vote == candidate || (self.hard.vote == ReplicaId::ZERO && self.election.leader == ReplicaId::ZERO)
    }

    pub(crate) fn handle_pre_vote_reply(&mut self, now: Time, from: ReplicaId, granted: bool) {
        if let RoleState::PreCandidate(candidacy) = &mut self.role {
            candidacy.record(from, granted);
            self.count_answers(now);
        }
    }

    pub(crate) fn handle_vote_reply(&mut self, now: Time, from: ReplicaId, granted: bool) {
        if let RoleState::Candidate(candidacy) = &mut self.role {
            candidacy.record(from, granted);
            self.count_answers(now);
        }
    }

    /// The leader asks this replica to take over (dissertation, section 3.10).
    pub(crate) fn handle_timeout_now(&mut self, now: Time, from: ReplicaId) {
        if self.known_leader().is_some_and(|leader| leader != from) {
            return;
        }
        self.end_promise_to_campaign(now, from);
        if self.may_campaign() {
            self.campaign(now, true);
        }
    }
}
