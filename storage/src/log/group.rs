//! One group as the log knows it, ready to be worked on: the one place that gives records their meaning.
//!
//! Keeps the ledger in step with what it holds. How a group is kept while nobody works on it is the business of
//! [`packed`](super::packed).

use multiraft_raft::{HardState, LogIndex, LogSummary, Term, TermRun};

use super::blocks::{Block, Blocks};
use super::format::Loc;
use super::ledger::Ledger;
use super::record::{RecordInfo, RecordKind};

/// What a group's hard state counts for among the living, and what its mark does: about what a record of it takes.
const HARD_STATE_WEIGHT: u32 = 72;
const MARK_WEIGHT: u32 = 64;
/// The segment of something that is not there.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// What the log holds of one group, but for where its entries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) hard_state: HardState,
    /// The mark: everything up to this index is dropped.
    pub(crate) truncated: u64,
    pub(crate) truncated_term: u64,
    /// The group's newest record; the next one names it.
    pub(crate) last_record: Loc,
    /// Where the hard state stands.
    pub(crate) hard_state_segment: u32,
    /// Where the mark stands.
    pub(crate) mark_segment: u32,
    /// Which sweep list the group is on; see [`super::sweep`].
    pub(crate) sweep_segment: u32,
    /// Something of it may be lost. It holds no entries then, and stays so until it is removed.
    pub(crate) suspect: bool,
}

/// Where a group's log ends: all that the next record of it has to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) last_record: Loc,
    pub(crate) truncated: u64,
    pub(crate) last_index: u64,
    pub(crate) suspect: bool,
}

/// What the log holds of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) head: Head,
    pub(crate) blocks: Blocks,
}

impl Group {
    /// One that holds nothing yet and is on that segment's sweep list.
    pub(crate) fn new(sweep_segment: u32) -> Self {
        let head = Head {
            hard_state: HardState::default(),
            truncated: 0,
            truncated_term: 0,
            last_record: Loc::NONE,
            hard_state_segment: NOWHERE,
            mark_segment: NOWHERE,
            sweep_segment,
            suspect: false,
        };
        Self { head, blocks: Blocks::default() }
    }

    pub(crate) fn tip(&self) -> Tip {
        let Head { last_record, truncated, suspect, .. } = self.head;
        Tip { last_record, truncated, last_index: self.last_index(), suspect }
    }

    /// The last entry, or the mark if there is none.
    pub(crate) fn last_index(&self) -> u64 {
        self.blocks.last_index().unwrap_or(self.head.truncated)
    }

    /// The oldest segment that holds something of the group which lives.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        let blocks = self.blocks.iter().map(|block| block.at.segment).min().unwrap_or(NOWHERE);
        Some(blocks.min(self.head.hard_state_segment).min(self.head.mark_segment)).filter(|oldest| *oldest != NOWHERE)
    }

    /// Whether the hard state or the mark stands in `segment` or before.
    pub(crate) fn state_stands_upto(&self, segment: u32) -> bool {
        self.head.hard_state_segment.min(self.head.mark_segment) <= segment
    }

    /// Whether every index between mark and last entry is covered.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut next = self.head.truncated + 1;
        self.blocks.iter().all(|block| {
            let follows = block.first == next;
            next = block.end();
            follows
        })
    }

    pub(crate) fn summary(&self) -> LogSummary {
        let mut runs: Vec<TermRun> = Vec::new();
        for block in self.blocks.iter() {
            if runs.last().is_none_or(|run| run.term.0 != block.term) {
                runs.push(TermRun { start: LogIndex(block.first), term: Term(block.term) });
            }
        }
        LogSummary {
            truncated_index: LogIndex(self.head.truncated),
            truncated_term: Term(self.head.truncated_term),
            last_index: LogIndex(self.last_index()),
            runs,
        }
    }

    /// Gives up what it holds: nothing of it can be trusted any more.
    pub(crate) fn become_suspect(&mut self, ledger: &mut Ledger) {
        self.head.suspect = true;
        self.blocks.clear(ledger);
    }

    /// Takes back what its hard state and mark count for.
    pub(crate) fn forget_state(&mut self, ledger: &mut Ledger) {
        self.blocks.clear(ledger);
        if self.head.hard_state_segment != NOWHERE {
            ledger.sub(self.head.hard_state_segment, HARD_STATE_WEIGHT);
        }
        if self.head.mark_segment != NOWHERE {
            ledger.sub(self.head.mark_segment, MARK_WEIGHT);
        }
    }

    pub(crate) fn apply(&mut self, record: &RecordInfo, ledger: &mut Ledger) {
        self.head.last_record = record.at;
        if record.suspect && !self.head.suspect {
            self.become_suspect(ledger);
        }
        self.apply_log(record, ledger);
        if let Some(hard_state) = record.hard_state {
            self.head.hard_state = hard_state;
            if self.head.hard_state_segment != NOWHERE {
                ledger.sub(self.head.hard_state_segment, HARD_STATE_WEIGHT);
            }
            self.head.hard_state_segment = record.at.segment;
            ledger.add(record.at.segment, HARD_STATE_WEIGHT);
        }
    }

    fn apply_log(&mut self, record: &RecordInfo, ledger: &mut Ledger) {
        let span = record.span;
        let block =
            Block { first: span.first, term: span.term, count: span.count, length: record.length, at: record.at };
        match record.kind {
            RecordKind::State | RecordKind::Remove => {}
            RecordKind::Append => {
                if span.count > 0 && !self.head.suspect {
                    self.blocks.cut_from(span.first, ledger);
                    self.blocks.push(block, ledger);
                }
            }
            RecordKind::Truncate => {
                if record.mark.0 >= self.head.truncated {
                    self.set_mark(record.mark, record.at.segment, ledger);
                }
                self.blocks.cut_upto(self.head.truncated, ledger);
            }
            RecordKind::Reset => {
                self.blocks.clear(ledger);
                self.set_mark(record.mark, record.at.segment, ledger);
            }
            RecordKind::Moved => {
                self.set_mark(record.mark, record.at.segment, ledger);
                self.blocks.cut_upto(self.head.truncated, ledger);
                if span.count > 0 && !self.head.suspect {
                    self.blocks.place(block, ledger);
                }
            }
        }
    }

    fn set_mark(&mut self, mark: (u64, u64), segment: u32, ledger: &mut Ledger) {
        (self.head.truncated, self.head.truncated_term) = mark;
        if self.head.mark_segment != NOWHERE {
            ledger.sub(self.head.mark_segment, MARK_WEIGHT);
            self.head.mark_segment = NOWHERE;
        }
        if mark != (0, 0) || self.head.suspect {
            ledger.add(segment, MARK_WEIGHT);
            self.head.mark_segment = segment;
        }
    }
}
