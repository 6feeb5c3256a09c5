//! Effects as plain data: everything that a group wants done, gathered once per turn.
//!
//! The caller owns one [`Output`], passes it to [`Group::poll_output`](crate::Group::poll_output), carries it out and
//! clears it. Two outputs compare with `==`, so a test states what should happen as a list.

use std::fmt;

use crate::{Entry, Gated, HardState, LogIndex, Message, ReplicaId, Term};

/// What a group wants done after a turn.
///
/// `log` and `hard_state` go to the shared log under the ticket that was passed to
/// [`poll_output`](crate::Group::poll_output), `log` first and in order, in one atomic record.
pub struct Output<P> {
    /// May leave at once.
    pub messages: Vec<Message>,
    /// Assert durability, and leave after the flush that they wait for.
    pub gated: Vec<Gated<Message, P>>,
    /// To be made durable, in order.
    pub log: Vec<LogStep>,
    /// To be made durable, after `log`, in the same atomic record.
    pub hard_state: Option<HardState>,
    /// The next entries to apply: without a gap, each once, committed and durable here.
    pub committed: Vec<Entry>,
    /// Whether more committed entries are ready than one turn hands out: poll again soon.
    pub more: bool,
    /// Reads that may be served once their index is applied.
    pub reads: Vec<ReadReady>,
    /// Reads that this replica can no longer answer, because it leads no more. Ask the new leader.
    pub reads_failed: Vec<u64>,
    /// Entries to read from the log; answered by [`on_fetched`](crate::Group::on_fetched) or
    /// [`fetch_failed`](crate::Group::fetch_failed).
    pub fetches: Vec<Fetch>,
    /// Followers that need a snapshot. Each is named once, until
    /// [`on_snapshot_sent`](crate::Group::on_snapshot_sent) tells what became of it.
    pub snapshots: Vec<ReplicaId>,
    /// What happened, for those who watch.
    pub events: Vec<Event>,
}

impl<P> Output<P> {
    /// An output with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.gated.is_empty()
            && self.log.is_empty()
            && self.hard_state.is_none()
            && self.committed.is_empty()
            && !self.more
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.fetches.is_empty()
            && self.snapshots.is_empty()
            && self.events.is_empty()
    }

    /// Forgets everything, and keeps the memory for the next turn.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.gated.clear();
        self.log.clear();
        self.hard_state = None;
        self.committed.clear();
        self.more = false;
        self.reads.clear();
        self.reads_failed.clear();
        self.fetches.clear();
        self.snapshots.clear();
        self.events.clear();
    }
}

// Written out because a derive would ask the same of `P`, which is only a marker here.
impl<P> Default for Output<P> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            gated: Vec::new(),
            log: Vec::new(),
            hard_state: None,
            committed: Vec::new(),
            more: false,
            reads: Vec::new(),
            reads_failed: Vec::new(),
            fetches: Vec::new(),
            snapshots: Vec::new(),
            events: Vec::new(),
        }
    }
}

impl<P> PartialEq for Output<P> {
    fn eq(&self, other: &Self) -> bool {
        self.messages == other.messages
            && self.gated == other.gated
            && self.log == other.log
            && self.hard_state == other.hard_state
            && self.committed == other.committed
            && self.more == other.more
            && self.reads == other.reads
            && self.reads_failed == other.reads_failed
            && self.fetches == other.fetches
            && self.snapshots == other.snapshots
            && self.events == other.events
    }
}

impl<P> fmt::Debug for Output<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("messages", &self.messages)
            .field("gated", &self.gated)
            .field("log", &self.log)
            .field("hard_state", &self.hard_state)
            .field("committed", &self.committed)
            .field("more", &self.more)
            .field("reads", &self.reads)
            .field("reads_failed", &self.reads_failed)
            .field("fetches", &self.fetches)
            .field("snapshots", &self.snapshots)
            .field("events", &self.events)
            .finish()
    }
}

/// One change of the group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// Consecutive entries; whatever the log holds from the first one's index on is replaced.
    Append(Vec<Entry>),
    /// Entries up to `index` are no longer needed.
    Truncate {
        /// The last entry that may go.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// The log is thrown away and begins after `index`.
    Reset {
        /// The index that the installed snapshot stands for.
        index: LogIndex,
        /// The term there.
        term: Term,
    },
}

/// A read that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// The caller's name for the read.
    pub context: u64,
    /// It is linearizable if served from a state that has this index applied.
    pub index: LogIndex,
}

/// Entries that are in the log but not in memory.
///
/// The answer holds the entries from `from` on, without a gap, at least one and not past `to`, as many as fit into
/// `max_bytes` (the first goes whatever its size).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The first entry wanted.
    pub from: LogIndex,
    /// The last entry wanted.
    pub to: LogIndex,
    /// How many bytes to read at most, counted as [`Entry::cost`].
    pub max_bytes: usize,
    /// What for.
    pub purpose: FetchPurpose,
}

/// What fetched entries are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchPurpose {
    /// To be sent to this follower.
    Send(ReplicaId),
    /// To be applied here.
    Apply,
}

/// What a replica does in its group at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// Waits for a leader's messages.
    Follower,
    /// Asks whether a campaign could succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What happened, for those who watch. Nothing depends on an event being looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This replica changed its part.
    RoleChanged {
        /// What it does now.
        role: RoleKind,
        /// In which term.
        term: Term,
    },
    /// Another leader is known, or none any more.
    LeaderChanged {
        /// Who leads, as far as this replica knows.
        leader: Option<ReplicaId>,
        /// In which term.
        term: Term,
    },
    /// This leader heard no quorum for an election timeout and stepped down.
    QuorumLost {
        /// The term that it led.
        term: Term,
    },
    /// The target was asked to campaign, and this replica leads no more. [`Event::LeaderChanged`] tells who does.
    TransferDone {
        /// Who was to lead.
        to: ReplicaId,
    },
    /// The transfer was given up, and proposals are taken again if this replica still leads.
    TransferAborted {
        /// Who was to lead.
        to: ReplicaId,
    },
    /// A peer sent entries that contradict a committed one, or what it sent itself in the same term. The message was
    /// dropped: one of the two replicas has lost or damaged durable state.
    PeerContradicts {
        /// The peer.
        from: ReplicaId,
        /// The first contradicting entry.
        index: LogIndex,
    },
}
