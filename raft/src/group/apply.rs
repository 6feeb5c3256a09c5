//! From committed to applied: every entry is handed out once, in order, when it is committed and durable here.
//!
//! Invariants: `applied <= delivered <= commit`, and what is handed out and not yet applied costs at most
//! `max_applying_bytes` plus one turn's worth.

use std::collections::VecDeque;

use super::core::{Core, Effect};
use crate::output::{Fetch, FetchPurpose};
use crate::{Entry, LogIndex, Time};

/// Where applying stands.
#[derive(Debug)]
pub(crate) struct Applying {
    pub(crate) applied: LogIndex,
    pub(crate) delivered: LogIndex,
    /// The caller cannot apply this entry, and never will; zero: it can apply all.
    stalled: LogIndex,
    /// Turns that were handed out and are not yet applied: the last index and the bytes of each.
    turns: VecDeque<(LogIndex, usize)>,
    bytes: usize,
    /// Fetched from the log, to be handed out next.
    fetched: Vec<Entry>,
    fetching: bool,
    /// When to ask again for a fetch that failed.
    retry_at: Time,
    /// The caller takes nothing at the moment.
    held: bool,
}

impl Applying {
    pub(crate) fn new(applied: LogIndex) -> Self {
        Self {
            applied,
            delivered: applied,
            stalled: LogIndex::ZERO,
            turns: VecDeque::new(),
            bytes: 0,
            fetched: Vec::new(),
            fetching: false,
            retry_at: Time::NEVER,
            held: false,
        }
    }

    /// See [`Group::read_ahead`](crate::Group::read_ahead).
    pub(crate) fn read_own(&self) -> u64 {
        self.applied.0 ^ self.retry_at.0 ^ self.turns.len() as u64 ^ self.fetched.len() as u64
    }

    pub(crate) fn read_near(&self) -> u64 {
        self.turns.front().map_or(0, |(index, _)| index.0)
    }

    /// Whether nothing is handed out, nor waits to be.
    pub(crate) fn is_still(&self) -> bool {
        let Self { applied, delivered, stalled, turns, bytes, fetched, fetching, retry_at, held } = self;
        let is_done = delivered == applied && stalled <= applied && turns.is_empty() && *bytes == 0;
        is_done && fetched.is_empty() && !fetching && *retry_at == Time::NEVER && !held
    }

    /// Whether only a snapshot helps, and one that stands for `index` does.
    pub(crate) fn needs_snapshot(&self, index: LogIndex) -> bool {
        self.stalled > self.applied && index >= self.stalled
    }

    /// The state is now that of `index`, whatever was handed out of what comes before.
    fn skip_to(&mut self, index: LogIndex) {
        if self.delivered < index {
            self.delivered = index;
            self.fetched = Vec::new();
        }
    }

    /// When there is something to do without a message from outside.
    pub(crate) fn deadline(&self) -> Time {
        self.retry_at
    }

    pub(crate) fn shrink(&mut self) {
        self.turns.shrink_to_fit();
        self.fetched.shrink_to_fit();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let payload: usize = self.fetched.iter().map(|entry| entry.data.len()).sum();
        self.turns.capacity() * size_of::<(LogIndex, usize)>() + self.fetched.capacity() * size_of::<Entry>() + payload
    }
}

impl Core {
    /// Stops or resumes handing out.
    pub(crate) fn hold_delivery(&mut self, hold: bool) {
        self.applying.held = hold;
    }

    /// Whether entries could be handed out.
    pub(crate) fn has_undelivered(&self) -> bool {
        self.applying.delivered < self.hard.commit.min(self.log.stable())
    }

    /// Hands out the next entries to apply; says whether there are more than one turn's worth.
    pub(crate) fn deliver(&mut self, committed: &mut Vec<Entry>) -> bool {
        if self.applying.held {
            return false;
        }
        let upto = self.hard.commit.min(self.log.stable());
        let start = committed.len();
        let mut budget = self.options.max_committed_bytes;
        let mut more = false;
        while self.applying.delivered < upto && self.applying.bytes < self.options.max_applying_bytes {
            if budget == 0 {
                more = true;
                break;
            }
            let from = self.applying.delivered.next();
            let added = committed.len();
            if !self.applying.fetched.is_empty() {
                committed.extend(std::mem::take(&mut self.applying.fetched));
            } else if from >= self.log.cache_start() {
                self.log.copy_cached(from, upto, budget, committed);
            } else {
                self.fetch_to_apply(from, upto);
                break;
            }
            let bytes = committed[added..].iter().map(Entry::cost).sum::<usize>();
            budget = budget.saturating_sub(bytes.max(1));
            self.applying.bytes += bytes;
            self.applying.delivered = committed.last().expect("one entry at least").index;
            self.applying.turns.push_back((self.applying.delivered, bytes));
        }
        debug_assert!(committed[start..].windows(2).all(|pair| pair[1].index == pair[0].index.next()));
        more
    }

    fn fetch_to_apply(&mut self, from: LogIndex, upto: LogIndex) {
        if self.applying.fetching || self.applying.retry_at != Time::NEVER {
            return;
        }
        self.applying.fetching = true;
        self.effects.push(Effect::Fetch(Fetch {
            from,
            to: upto.min(self.log.cache_start().prev()),
            max_bytes: self.options.max_committed_bytes,
            purpose: FetchPurpose::Apply,
        }));
    }

    /// The wait after a failed fetch is over.
    pub(crate) fn check_fetch(&mut self, now: Time) {
        if now >= self.applying.retry_at {
            self.applying.retry_at = Time::NEVER;
        }
    }

    pub(crate) fn on_fetched_to_apply(&mut self, now: Time, entries: Vec<Entry>) {
        self.applying.fetching = false;
        let fits = entries.first().is_some_and(|first| first.index == self.applying.delivered.next())
            && entries.last().is_some_and(|last| last.index <= self.hard.commit.min(self.log.stable()))
            && self.log.holds(&entries);
        if fits {
            self.applying.fetched = entries;
        } else {
            self.on_fetch_to_apply_failed(now);
        }
    }

    pub(crate) fn on_fetch_to_apply_failed(&mut self, now: Time) {
        self.applying.fetching = false;
        self.applying.retry_at = now.plus(self.options.heartbeat_interval);
    }

    /// Everything up to here is committed and in the log, but the caller needs a snapshot to apply it.
    pub(crate) fn on_stalled(&mut self, index: LogIndex) {
        self.applying.stalled = self.applying.stalled.max(index);
    }

    /// A snapshot has brought the state to what the log already holds as committed.
    pub(crate) fn skip_to(&mut self, index: LogIndex) {
        self.applying.skip_to(index);
        self.on_applied(index);
    }

    pub(crate) fn on_applied(&mut self, applied: LogIndex) {
        assert!(applied <= self.applying.delivered, "only what was handed out can have been applied");
        if applied <= self.applying.applied {
            return;
        }
        self.applying.applied = applied;
        while let Some((last, bytes)) = self.applying.turns.front().copied() {
            if last > applied {
                break;
            }
            self.applying.bytes -= bytes;
            self.applying.turns.pop_front();
        }
        self.members.on_applied(applied);
    }
}
