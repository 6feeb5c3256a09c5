//! A simulated shared log for one group: what was written, and what of it has been flushed.
//!
//! It follows the rules of the real one: a turn's record is atomic, records become durable in order, an append replaces
//! what it overlaps and never leaves a gap.

use std::collections::VecDeque;

use multiraft_raft::{Entry, Fetch, FlushProof, HardState, LogIndex, LogStep, LogSummary, LogTicket, Term, TermRun};

/// Everything up to `seq` is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub lane: u32,
    pub seq: u64,
}

impl FlushProof for Proof {
    fn covers(&self, ticket: LogTicket) -> bool {
        ticket.lane == self.lane && ticket.seq <= self.seq
    }
}

/// The content of a log at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub hard_state: HardState,
    pub truncated_index: LogIndex,
    pub truncated_term: Term,
    pub entries: Vec<Entry>,
}

impl Image {
    pub fn last_index(&self) -> LogIndex {
        self.truncated_index.plus(self.entries.len() as u64)
    }

    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.get().checked_sub(self.truncated_index.get() + 1)?;
        self.entries.get(at as usize)
    }

    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.truncated_index {
            return Some(self.truncated_term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    pub fn summary(&self) -> LogSummary {
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|run| run.term != entry.term) {
                runs.push(TermRun { start: entry.index, term: entry.term });
            }
        }
        LogSummary {
            truncated_index: self.truncated_index,
            truncated_term: self.truncated_term,
            last_index: self.last_index(),
            runs,
        }
    }

    fn apply(&mut self, record: &Record) {
        for step in &record.log {
            match step {
                LogStep::Append(entries) => {
                    let first = entries.first().expect("an append has entries").index;
                    assert!(first > self.truncated_index && first <= self.last_index().next(), "no gap, no overlap");
                    self.entries.truncate(first.since(self.truncated_index) as usize - 1);
                    self.entries.extend(entries.iter().cloned());
                }
                LogStep::Truncate { index, term } => {
                    assert_eq!(self.term(*index), Some(*term), "truncation names an entry that is there");
                    self.entries.drain(..index.since(self.truncated_index) as usize);
                    (self.truncated_index, self.truncated_term) = (*index, *term);
                }
                LogStep::Reset { index, term } => {
                    self.entries.clear();
                    (self.truncated_index, self.truncated_term) = (*index, *term);
                }
            }
        }
        if let Some(hard_state) = record.hard_state {
            self.hard_state = hard_state;
        }
    }
}

#[derive(Clone, Debug)]
struct Record {
    seq: u64,
    log: Vec<LogStep>,
    hard_state: Option<HardState>,
}

/// The simulated disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// As a reader of the running process sees it.
    pub written: Image,
    /// What a crash leaves.
    pub durable: Image,
    pending: VecDeque<Record>,
}

impl Disk {
    pub fn new(found: Image) -> Self {
        Self { written: found.clone(), durable: found, pending: VecDeque::new() }
    }

    pub fn write(&mut self, seq: u64, log: Vec<LogStep>, hard_state: Option<HardState>) {
        let record = Record { seq, log, hard_state };
        self.written.apply(&record);
        self.pending.push_back(record);
    }

    /// Flushes the oldest `count` records; proof of the last of them.
    pub fn flush(&mut self, count: usize) -> Option<Proof> {
        let mut proof = None;
        for record in self.pending.drain(..count.min(self.pending.len())) {
            self.durable.apply(&record);
            proof = Some(Proof { lane: 0, seq: record.seq });
        }
        proof
    }

    pub fn fetch(&self, fetch: Fetch) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut index = fetch.from;
        while index <= fetch.to {
            let Some(entry) = self.written.entry(index) else { break };
            bytes += entry.cost();
            if bytes > fetch.max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            index = index.next();
        }
        entries
    }
}
