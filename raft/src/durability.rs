//! What of a group is on its way to the disk, and what has arrived.
//!
//! Each turn that wants something durable adds one [`Pending`] under the turn's ticket. A completion pops those that it
//! covers, oldest first. When the log is cut, what was pending beyond the cut is clamped to it: the completion of an append
//! that a newer leader's entries have replaced then says nothing about the new entries (no ABA).

use std::collections::VecDeque;

use crate::{FlushProof, HardState, LogIndex, LogTicket, ReplicaId, Term};

/// Something on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    ticket: LogTicket,
    /// The term and vote as of that turn.
    pub(crate) ballot: (Term, ReplicaId),
    /// The last entry as of that turn, or where the log was cut since.
    pub(crate) last_index: LogIndex,
}

/// The group's side of the shared log.
#[derive(Debug)]
pub(crate) struct Durability {
    handed: HardState,
    durable_ballot: (Term, ReplicaId),
    pending: VecDeque<Pending>,
    flushed: Option<LogTicket>,
}

impl Durability {
    /// Everything found at start is durable.
    pub(crate) fn new(found: HardState) -> Self {
        Self { handed: found, durable_ballot: (found.term, found.vote), pending: VecDeque::new(), flushed: None }
    }

    /// See [`Group::read_ahead`](crate::Group::read_ahead).
    pub(crate) fn read_own(&self) -> u64 {
        self.handed.commit.0 ^ self.durable_ballot.0.0 ^ self.pending.len() as u64
    }

    pub(crate) fn read_near(&self) -> u64 {
        self.pending.front().map_or(0, |pending| pending.last_index.0)
    }

    /// Whether term or vote differ from what was last handed to the log.
    pub(crate) fn ballot_changed(&self, hard: &HardState) -> bool {
        (hard.term, hard.vote) != (self.handed.term, self.handed.vote)
    }

    /// Whether anything at all differs from what was last handed to the log.
    pub(crate) fn changed(&self, hard: &HardState) -> bool {
        *hard != self.handed
    }

    /// Notes that `hard` is handed to the log.
    pub(crate) fn hand(&mut self, hard: HardState) {
        self.handed = hard;
    }

    /// Notes that this turn's ticket carries something of the group.
    pub(crate) fn begin(&mut self, ticket: LogTicket, last_index: LogIndex) {
        self.pending.push_back(Pending { ticket, ballot: (self.handed.term, self.handed.vote), last_index });
    }

    /// Takes off what `proof` covers; the newest of it, if any.
    pub(crate) fn on_flushed<P: FlushProof>(&mut self, proof: &P) -> Option<Pending> {
        let mut newest = None;
        while self.pending.front().is_some_and(|pending| proof.covers(pending.ticket)) {
            newest = self.pending.pop_front();
        }
        if let Some(pending) = newest {
            self.flushed = Some(pending.ticket);
            self.durable_ballot = pending.ballot;
        }
        newest
    }

    /// The log was cut: it holds nothing after `last_index` of what is pending.
    pub(crate) fn clamp(&mut self, last_index: LogIndex) {
        for pending in &mut self.pending {
            pending.last_index = pending.last_index.min(last_index);
        }
    }

    /// What a message that asserts durability, said in the turn of `ticket`, waits for: the newest flush under way; if
    /// there is none, one that has already happened on the turn's own lane.
    pub(crate) fn gate(&self, ticket: LogTicket) -> LogTicket {
        if let Some(pending) = self.pending.back() {
            return pending.ticket;
        }
        match self.flushed {
            Some(flushed) if flushed.lane == ticket.lane => flushed,
            _ => LogTicket { lane: ticket.lane, seq: 0 },
        }
    }

    /// The term and vote that are on disk.
    pub(crate) fn durable_ballot(&self) -> (Term, ReplicaId) {
        self.durable_ballot
    }

    /// Whether nothing is on its way to the disk, and term and vote are there.
    pub(crate) fn is_still(&self, hard: &HardState) -> bool {
        let ballot = (hard.term, hard.vote);
        self.pending.is_empty() && ballot == self.durable_ballot && ballot == (self.handed.term, self.handed.vote)
    }

    /// The commit index that was last handed to the log.
    pub(crate) fn handed_commit(&self) -> LogIndex {
        self.handed.commit
    }

    /// Whether something is on its way to the disk.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn shrink(&mut self) {
        self.pending.shrink_to_fit();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
    }
}
