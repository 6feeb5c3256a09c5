//! What the log of one group holds, and what of a group must survive a crash.

use crate::{LogIndex, Payload, ReplicaId, Term};

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// The empty entry that a new leader commits first (dissertation, section 6.4). Its data is empty.
    Empty = 0,
    /// A command; the core never looks inside.
    Command = 1,
    /// A membership change; its data is an encoded membership change, then opaque bytes of the
    /// engine.
    Membership = 2,
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that created it.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// Its payload, at most as long as the proposer was allowed to make it.
    pub data: Payload,
}

impl Entry {
    /// What this entry counts for in limits given in bytes: its data plus a fixed overhead.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.data.len() + Self::OVERHEAD
    }

    /// The fixed part of [`Entry::cost`].
    pub const OVERHEAD: usize = 32;
}

/// What must be durable before anything that depends on it is said (dissertation, figure 3.1 "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got the vote in `term`; [`ReplicaId::ZERO`] if nobody.
    pub vote: ReplicaId,
    /// A lower bound of the commit index. Never a reason of its own to write, but written with every append: a replica
    /// that holds the entry of a membership change must know, also after a crash, that the change before it is committed.
    pub commit: LogIndex,
}

/// A maximal run of entries of one term: `start` is the first index of `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TermRun {
    /// The first index of the run.
    pub start: LogIndex,
    /// The term of all its entries.
    pub term: Term,
}

/// What a log holds of one group, without the entries: enough to answer `term(index)` for every index in it.
///
/// Invariant: `runs` ascend strictly in `start` and in `term`; the first run, if any, starts at `truncated_index + 1`;
/// `last_index >= truncated_index`; `runs` is empty exactly if `last_index == truncated_index`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Entries up to here are gone from the log: their effect is in the state.
    pub truncated_index: LogIndex,
    /// The term of the entry at `truncated_index`.
    pub truncated_term: Term,
    /// The last entry; equals `truncated_index` if the log is empty.
    pub last_index: LogIndex,
    /// The terms of the entries in between.
    pub runs: Vec<TermRun>,
}

impl LogSummary {
    /// The first index that the log still holds, or would hold next.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.truncated_index.next()
    }

    /// The term at `index`: known for `truncated_index` and for every entry held, else `None`.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.truncated_index {
            return Some(self.truncated_term);
        }
        if index < self.truncated_index || index > self.last_index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.start <= index);
        after.checked_sub(1).map(|at| self.runs[at].term)
    }

    /// The term of the last entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.runs.last().map_or(self.truncated_term, |run| run.term)
    }
}
