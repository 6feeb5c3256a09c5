//! A message from outside: whose term counts, and who deals with it (dissertation, section 3.3 and figure 3.1).

use std::cmp::Ordering;

use super::core::{Core, RoleState};
use crate::{AppendOutcome, Body, LogIndex, Message, ReplicaId, Term, Time};

impl Core {
    pub(crate) fn handle_message(&mut self, now: Time, message: Message) {
        let is_for_me = message.to == self.id && message.from != self.id && message.from != ReplicaId::ZERO;
        if !is_for_me {
            return;
        }
        match message.body {
            // These speak of a leadership that may be past.
            Body::Release => return self.handle_release(now, message.from, message.term),
            Body::Released => return self.handle_released(message.from, message.term),
            Body::AskLeader { own_term } => return self.handle_ask_leader(now, message.from, message.term, own_term),
            // Whoever says these waits for a leader to speak.
            Body::PreVote { .. } | Body::Vote { .. } | Body::AppendReply(AppendOutcome::Rejected { .. }) => {
                self.rouse(now);
            }
            _ => {}
        }
        match message.term.cmp(&self.hard.term) {
            Ordering::Less => self.answer_from_the_past(now, &message),
            Ordering::Equal => self.dispatch(now, message),
            Ordering::Greater => {
                if self.admit_higher_term(now, &message) {
                    self.dispatch(now, message);
                }
            }
        }
    }

    /// Moves to the message's term, if it is a reason to; says whether the message is still to be dealt with.
    fn admit_higher_term(&mut self, now: Time, message: &Message) -> bool {
        match message.body {
            // Pre-votes speak of terms that nobody is in yet.
            Body::PreVote { .. } => return true,
            Body::PreVoteReply { granted: true } => return message.term == self.hard.term.next(),
            // A replica that cannot hear the leader must not depose it (dissertation, section 4.2.3); a transfer is
            // the leader's own wish.
            Body::Vote { transfer: false, .. } if self.has_live_leader(now) => return false,
            // Nor must it get a vote that was promised to be kept; the request changes nothing.
            Body::Vote { transfer, .. } if self.refuses_by_promise(now, message.from, transfer, message.term) => {
                return false;
            }
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Fortify { .. } => {
                self.become_follower(now, message.term, message.from);
            }
            _ => self.become_follower(now, message.term, ReplicaId::ZERO),
        }
        true
    }

    /// A sender of a lower term is told of the current one. That also frees a replica that is alone in a high term: its
    /// answer brings the leader of the lower one to a new election, which the replica can take part in (dissertation,
    /// section 4.2.3, with the remark on pre-vote and check-quorum in section 9.6).
    fn answer_from_the_past(&mut self, now: Time, message: &Message) {
        let body = match message.body {
            Body::PreVote { .. } => Body::PreVoteReply { granted: false },
            Body::Vote { last_index, last_term, .. } => {
                self.make_way(now, (last_index, last_term));
                Body::VoteReply { granted: false }
            }
            Body::Heartbeat { .. } | Body::Fortify { .. } => Body::HeartbeatReply { round: 0 },
            Body::Append { prev_index, .. } => Body::AppendReply(AppendOutcome::Rejected {
                prev_index,
                hint_index: LogIndex::ZERO,
                hint_term: Term::ZERO,
            }),
            _ => return,
        };
        self.send(message.from, body);
    }

    fn dispatch(&mut self, now: Time, message: Message) {
        let Message { from, term, body, .. } = message;
        match body {
            Body::PreVote { last_index, last_term } => self.handle_pre_vote(now, from, term, (last_index, last_term)),
            Body::PreVoteReply { granted } => {
                // A grant that names the current term answers an earlier campaign.
                if !granted || term > self.hard.term {
                    self.handle_pre_vote_reply(now, from, granted);
                }
            }
            Body::Vote { last_index, last_term, transfer } => {
                self.handle_vote(now, from, (last_index, last_term), transfer);
            }
            Body::VoteReply { granted } => self.handle_vote_reply(now, from, granted),
            Body::Append { prev_index, prev_term, commit, entries } => {
                if self.accept_leader(now, from) {
                    self.handle_append(from, (prev_index, prev_term), commit, entries);
                }
            }
            Body::Heartbeat { commit, round } => {
                if self.accept_leader(now, from) {
                    self.handle_heartbeat(commit, round);
                }
            }
            Body::AppendReply(AppendOutcome::Accepted { match_index }) => self.handle_accepted(now, from, match_index),
            Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term }) => {
                self.handle_rejected(now, from, prev_index, (hint_index, hint_term));
            }
            Body::HeartbeatReply { round } => self.handle_heartbeat_reply(now, from, round),
            Body::TimeoutNow => self.handle_timeout_now(now, from),
            Body::Promised => self.on_promised(now),
            Body::Fortify { epoch } => {
                if self.accept_leader(now, from) {
                    self.handle_fortify(now, from, epoch);
                }
            }
            Body::Fortified { epoch } => self.handle_fortified(from, epoch),
            Body::Release | Body::Released | Body::AskLeader { .. } => {}
        }
    }

    /// A leader of the current term speaks. There is at most one (dissertation, figure 3.2, election safety): whoever else
    /// claims to be it is not listened to.
    fn accept_leader(&mut self, now: Time, from: ReplicaId) -> bool {
        if self.is_leader() || self.known_leader().is_some_and(|leader| leader != from) {
            return false;
        }
        if !matches!(self.role, RoleState::Follower(_)) {
            self.become_follower(now, self.hard.term, from);
        }
        self.set_leader(from);
        self.end_promise_to_earlier(now);
        self.election.heard_at = now;
        self.rearm(now);
        true
    }
}
