//! What a worker hands to the log in one turn, and what the log hands back.

use multiraft_raft::{Entry, FlushProof, HardState, LogIndex, LogSummary, LogTicket, RegionId, Term};

/// Everything that one worker's turn wants durable: one record for each group it touched.
///
/// The log applies the records in order and atomically per batch: after a crash either the whole batch is there or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBatch {
    /// Names the batch; lanes ascend by one.
    pub ticket: LogTicket,
    /// The groups' records.
    pub records: Vec<GroupRecord>,
}

/// What one group wants durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group.
    pub region: RegionId,
    /// What to change, in this order: `log` first, then `hard_state`.
    pub log: LogChange,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
}

/// How a record changes the group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogChange {
    /// Not at all.
    #[default]
    None,
    /// Consecutive entries. The first may lie at or below the last index held: then everything from there on is replaced
    /// (conflicting suffix). It never leaves a gap and never lies at or below the truncated index.
    Append(Vec<Entry>),
    /// Entries up to `index` are no longer needed (compaction). Keeps what follows.
    Truncate {
        /// The last entry that may go.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// The log is thrown away and begins after `index` (a snapshot was installed).
    Reset {
        /// The index that the snapshot stands for.
        index: LogIndex,
        /// The term there.
        term: Term,
    },
    /// The group is gone: all its records, hard state included.
    Remove,
}

/// What the log holds of one group at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The last hard state written.
    pub hard_state: HardState,
    /// Which entries there are.
    pub log: LogSummary,
}

/// Evidence that all batches of one lane up to a ticket are durable.
///
/// Only the log's writer makes it, after fdatasync has returned without an error:
///
/// ```compile_fail
/// use multiraft_raft::LogTicket;
/// let forged = multiraft_storage::FlushToken { upto: LogTicket { lane: 0, seq: 7 } };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushToken {
    upto: LogTicket,
}

impl FlushToken {
    /// The newest batch that it stands for.
    #[must_use]
    pub fn upto(&self) -> LogTicket {
        self.upto
    }

    /// Called by the writer, after the flush.
    pub(super) fn after_flush(upto: LogTicket) -> Self {
        Self { upto }
    }
}

impl FlushProof for FlushToken {
    fn covers(&self, ticket: LogTicket) -> bool {
        ticket.lane == self.upto.lane && ticket.seq <= self.upto.seq
    }
}
