//! Requests that another store must answer: sent on to the leader, and answered to the store that sent them.

use std::time::Duration;

use multiraft_raft::{RegionEpoch, RegionId, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage};

use crate::logic::beats::{request_id, worker_of_request};
use crate::logic::output::ReplyTo;
use crate::logic::region::Reading;
use crate::logic::worker::Worker;
use crate::logic::{AdminRequest, LaneKind, LocateTask, Outcome};

/// How many unanswered requests one worker may have at one peer; beyond, callers get `Busy`.
const MAX_FORWARDS: usize = 1 << 16;

/// What to try again after when a queue was full.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// What a leader of an older version answers.
const UNKNOWN_REQUEST: &str = "the leader's store does not know this kind of change: run the same version everywhere";

/// A request that another store has.
pub(super) struct PendingForward<R> {
    pub(super) region: RegionId,
    /// When the caller has stopped waiting.
    pub(super) deadline: Time,
    pub(super) kind: ForwardKind<R>,
}

/// What a request is for.
#[derive(Clone, Copy)]
pub(super) struct Address {
    pub(super) region: RegionId,
    /// Zero: whatever it is.
    pub(super) epoch: RegionEpoch,
    /// In which the receiver leads; zero: not known here.
    pub(super) term: Term,
}

/// What is done with the answer.
pub(super) enum ForwardKind<R> {
    /// A command: an unanswered one may have taken effect.
    Propose(R),
    /// One question for all reads of a turn: an unanswered one had no effect.
    Read(Vec<R>),
    /// A transfer.
    Transfer(R),
    /// A change of the region: an unanswered one may have taken effect.
    Admin(R),
    /// A query that is answered at the leader: an unanswered one had no effect.
    Query(R),
    /// Where a key or a region is: an unanswered one had no effect.
    Locate(R),
}

impl<R> Worker<R> {
    /// Sends a request for a region that lives here on to its leader's store, or refuses it.
    pub(super) fn forward(
        &mut self,
        now: Time,
        slot: SlotKey,
        epoch: RegionEpoch,
        request: ForwardRequest,
        kind: ForwardKind<R>,
    ) {
        let region = self.region(slot);
        let (to, id, term) = (region.leader_store(), region.id(), region.group.term());
        if to.is_none() {
            self.miss_leader(now, slot);
        }
        self.forward_to(now, to, Address { region: id, epoch, term }, request, kind);
    }

    /// Sends a request on to a store, or refuses it.
    pub(super) fn forward_to(
        &mut self,
        now: Time,
        to: Option<StoreId>,
        address: Address,
        request: ForwardRequest,
        kind: ForwardKind<R>,
    ) {
        let Address { region, epoch, term } = address;
        let silence = self.config.raft.election_timeout_min;
        let heard = |store: &StoreId| self.peers.is_heard(*store, now, silence);
        let Some(to) = to.filter(heard).filter(|store| *store != self.config.store) else {
            return self.refuse(kind, &Outcome::NotLeader { hint: to });
        };
        let peer = self.peers.entry(to);
        if peer.lane_full || peer.forwards.len() >= MAX_FORWARDS {
            self.counters.busy += 1;
            return self.refuse(kind, &Outcome::Busy { retry_after: RETRY });
        }
        let deadline = now.plus(self.config.request_timeout);
        let timeout_ms = u32::try_from(self.config.request_timeout.as_millis()).unwrap_or(u32::MAX);
        let sequence = peer.forwards.add(PendingForward { region, deadline, kind });
        let id = request_id(sequence, self.config.worker);
        let forward = Forward { id, region, epoch, term, timeout_ms, request };
        peer.push(LaneKind::Append, PeerMessage::Forward(forward));
        self.counters.forwarded += 1;
    }

    pub(super) fn refuse(&mut self, kind: ForwardKind<R>, outcome: &Outcome) {
        match kind {
            ForwardKind::Propose(reply)
            | ForwardKind::Transfer(reply)
            | ForwardKind::Admin(reply)
            | ForwardKind::Query(reply)
            | ForwardKind::Locate(reply) => self.reply(reply, outcome.clone()),
            ForwardKind::Read(replies) => {
                for reply in replies {
                    self.reply(reply, outcome.clone());
                }
            }
        }
    }

    /// A request that a peer sent on to this store.
    pub(super) fn handle_forward(&mut self, now: Time, from: StoreId, forward: Forward) {
        let to = ReplyTo::Peer { store: from, id: forward.id };
        if let ForwardRequest::Locate { key } = forward.request {
            return self.locates.push(LocateTask { region: forward.region, key, from, id: forward.id });
        }
        let Some(slot) = self.slot_of(forward.region) else {
            let outcome = match &forward.request {
                ForwardRequest::Admin { request } => match AdminRequest::decode(request) {
                    Some(AdminRequest::Command(command)) => self.settled_merge(forward.region, &command),
                    _ => None,
                },
                _ => None,
            };
            return self.answer(to, outcome.unwrap_or(Outcome::UnknownRegion));
        };
        let group = &self.region(slot).group;
        // A command waits in queues, and its sender for an answer only so long. What came for an earlier leadership of this
        // store may be older than what its caller has had done elsewhere since, and must not follow it now.
        let is_late = matches!(forward.request, ForwardRequest::Propose { .. }) && forward.term != group.term();
        if group.is_leader() && is_late && forward.term == Term(0) {
            // The sender has no replica that could tell it.
            let outcome = ForwardOutcome::Leads { term: group.term() };
            let reply = PeerMessage::ForwardReply(ForwardReply { id: forward.id, outcome });
            return self.send_to_store(from, LaneKind::Control, reply);
        }
        if !group.is_leader() || is_late {
            // Not sent on a second time: two stores with a stale view of each other would play ball.
            let hint = self.region(slot).leader_store();
            return self.answer(to, Outcome::NotLeader { hint });
        }
        // Zero: whatever the region is.
        let epoch = Some(forward.epoch).filter(|epoch| *epoch != RegionEpoch::default());
        match forward.request {
            ForwardRequest::Propose { session, command } => {
                self.propose_here(slot, epoch, session, command, to);
            }
            ForwardRequest::ReadIndex { lease } => self.read_for_store(slot, (from, forward.term), to, lease),
            ForwardRequest::Transfer { to: target } => self.transfer_here(now, slot, target, to),
            ForwardRequest::Query { query } => self.query_here(slot, epoch, query, to),
            ForwardRequest::Admin { request } => match AdminRequest::decode(&request) {
                Some(request) => self.admin_here(now, slot, epoch, &request, to),
                None => self.answer(to, Outcome::Refused { reason: UNKNOWN_REQUEST.to_owned() }),
            },
            ForwardRequest::Locate { .. } => {}
        }
    }

    /// The answer to a request that this worker sent on.
    pub(super) fn handle_forward_reply(&mut self, from: StoreId, reply: ForwardReply) {
        if worker_of_request(reply.id) != self.config.worker {
            return;
        }
        let Some(pending) = self.peers.entry(from).forwards.take(reply.id >> 8) else {
            return;
        };
        let outcome = match &pending.kind {
            ForwardKind::Locate(_) => reply.outcome,
            _ => self.learn_from_answer(pending.region, from, reply.outcome),
        };
        match (pending.kind, outcome) {
            (ForwardKind::Read(replies), ForwardOutcome::ReadAt { index, term }) => {
                let reading = |reply| Reading::Index { to: ReplyTo::Caller(reply), lease: false };
                let reads = replies.into_iter().map(reading).collect();
                // All requests wait equally long, so the leader was asked so long before this one's time is up.
                let timeout = u64::try_from(self.config.request_timeout.as_nanos()).unwrap_or(u64::MAX);
                let asked = Time(pending.deadline.0.saturating_sub(timeout));
                self.wait_applied(pending.region, (index, term), asked, reads);
            }
            // A read has no effect: whatever went wrong, it may simply be tried again.
            (kind @ (ForwardKind::Read(_) | ForwardKind::Query(_)), ForwardOutcome::Uncertain) => {
                self.refuse(kind, &Outcome::NotLeader { hint: None });
            }
            (kind, outcome) => self.refuse(kind, &outcome_of(from, outcome)),
        }
    }

    /// Requests whose answer will not come: the link is gone, or it took too long.
    pub(super) fn abandon_forwards(&mut self, orphans: Vec<PendingForward<R>>) {
        for orphan in orphans {
            let outcome = match orphan.kind {
                ForwardKind::Propose(_) | ForwardKind::Transfer(_) | ForwardKind::Admin(_) => Outcome::Uncertain,
                ForwardKind::Read(_) | ForwardKind::Query(_) | ForwardKind::Locate(_) => {
                    Outcome::NotLeader { hint: None }
                }
            };
            self.refuse(orphan.kind, &outcome);
        }
    }

    /// Answers whoever asked: a caller here, or the store that sent the request on.
    pub(super) fn answer(&mut self, to: ReplyTo<R>, outcome: Outcome) {
        match to {
            ReplyTo::Caller(reply) => self.reply(reply, outcome),
            ReplyTo::Peer { store, id } => {
                let reply = ForwardReply { id, outcome: wire_outcome(outcome) };
                self.send_to_store(store, LaneKind::Control, PeerMessage::ForwardReply(reply));
            }
        }
    }

    /// Answers a caller of this store.
    pub(super) fn reply(&mut self, reply: R, outcome: Outcome) {
        self.replies.push((reply, outcome));
    }
}

/// What an answer of a peer means here.
fn outcome_of(store: StoreId, outcome: ForwardOutcome) -> Outcome {
    match outcome {
        ForwardOutcome::Applied { reply, index } => Outcome::Applied { reply, index },
        ForwardOutcome::ReadAt { index, term } => Outcome::ReadAt { index, term },
        ForwardOutcome::Answered { answer } => Outcome::Answered { answer },
        ForwardOutcome::Done => Outcome::Done,
        ForwardOutcome::Changed { regions } => Outcome::Changed { regions },
        // Its route knows the term now.
        ForwardOutcome::Leads { .. } => Outcome::NotLeader { hint: Some(store) },
        ForwardOutcome::NotLeader { hint } => Outcome::NotLeader { hint },
        ForwardOutcome::EpochMismatch { current } => Outcome::EpochMismatch { current },
        ForwardOutcome::UnknownRegion => Outcome::UnknownRegion,
        ForwardOutcome::Busy { retry_after_ms } => {
            Outcome::Busy { retry_after: Duration::from_millis(u64::from(retry_after_ms)) }
        }
        // That store gives the region away: soon there is another one to ask.
        ForwardOutcome::NoSpace => Outcome::NoSpace { store },
        ForwardOutcome::SessionExpired => Outcome::SessionExpired,
        ForwardOutcome::Uncertain => Outcome::Uncertain,
        ForwardOutcome::Refused { reason } => Outcome::Refused { reason },
    }
}

/// What an outcome looks like on the wire.
#[must_use]
pub fn wire_outcome(outcome: Outcome) -> ForwardOutcome {
    match outcome {
        Outcome::Applied { reply, index } => ForwardOutcome::Applied { reply, index },
        Outcome::ReadAt { index, term } => ForwardOutcome::ReadAt { index, term },
        Outcome::Answered { answer } => ForwardOutcome::Answered { answer },
        Outcome::Done => ForwardOutcome::Done,
        Outcome::Changed { regions } => ForwardOutcome::Changed { regions },
        Outcome::NotLeader { hint } => ForwardOutcome::NotLeader { hint },
        Outcome::EpochMismatch { current } => ForwardOutcome::EpochMismatch { current },
        Outcome::UnknownRegion => ForwardOutcome::UnknownRegion,
        Outcome::Busy { retry_after } => {
            ForwardOutcome::Busy { retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX) }
        }
        Outcome::NoSpace { .. } => ForwardOutcome::NoSpace,
        Outcome::SessionExpired => ForwardOutcome::SessionExpired,
        Outcome::Uncertain => ForwardOutcome::Uncertain,
        Outcome::Refused { reason } => ForwardOutcome::Refused { reason },
    }
}
