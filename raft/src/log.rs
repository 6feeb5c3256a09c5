//! The log of one group as the core sees it: which term stands at which index, what is durable, and the newest entries.
//!
//! ```text
//!   truncated      stable            last
//!       |             |                |
//!   ----+-------------+----------------+
//!       |  on disk    |   on its way   |
//!       |        [    cache (a suffix) ]
//!       |             |      [unlogged ]   not yet handed to the shared log
//! ```
//!
//! Terms are kept as runs, so a long log of few terms costs a few words. Entries are kept only while somebody needs them;
//! older ones are read back from the shared log by whoever drives the group. It never does I/O and never decides what is
//! committed.
//!
//! Invariants: `truncated <= stable <= last`; `stable < unlogged <= last + 1`; the cache is contiguous and, unless empty,
//! ends at `last`; every entry from `unlogged` on is cached; runs ascend in start and term.

use std::collections::VecDeque;

use crate::{Entry, LogIndex, LogStep, LogSummary, Term, TermRun};

/// The log of one group.
#[derive(Debug)]
pub(crate) struct GroupLog {
    truncated_index: LogIndex,
    truncated_term: Term,
    last_index: LogIndex,
    runs: Vec<TermRun>,
    stable: LogIndex,
    unlogged: LogIndex,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    reset_due: bool,
    truncate_due: bool,
}

impl GroupLog {
    /// The log as it was found on disk: all of it is durable, none of it is in memory.
    pub(crate) fn new(summary: LogSummary) -> Self {
        let LogSummary { truncated_index, truncated_term, last_index, runs } = summary;
        Self {
            truncated_index,
            truncated_term,
            last_index,
            runs,
            stable: last_index,
            unlogged: last_index.next(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            reset_due: false,
            truncate_due: false,
        }
    }

    /// See [`Group::read_ahead`](crate::Group::read_ahead).
    pub(crate) fn read_own(&self) -> u64 {
        self.truncated_index.0 ^ self.stable.0 ^ self.cache.len() as u64 ^ self.runs.len() as u64
    }

    pub(crate) fn read_near(&self) -> u64 {
        let term = self.runs.last().map_or(0, |run| run.term.0);
        let ends = [self.cache.front(), self.cache.back()];
        ends.into_iter().flatten().fold(term, |all, entry| all ^ entry.index.0)
    }

    pub(crate) fn truncated_index(&self) -> LogIndex {
        self.truncated_index
    }

    pub(crate) fn first_index(&self) -> LogIndex {
        self.truncated_index.next()
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.last_index
    }

    pub(crate) fn last_term(&self) -> Term {
        self.runs.last().map_or(self.truncated_term, |run| run.term)
    }

    /// Everything up to here is durable.
    pub(crate) fn stable(&self) -> LogIndex {
        self.stable
    }

    /// The term at `index`: known for the truncated index and every entry that the log holds.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.truncated_index {
            return Some(self.truncated_term);
        }
        if index < self.truncated_index || index > self.last_index {
            return None;
        }
        // The answer is nearly always in the newest run.
        self.runs.iter().rev().find(|run| run.start <= index).map(|run| run.term)
    }

    /// The highest index at or below `index` whose term is at most `term`: where a log with `term` at `index` may first
    /// agree with this one (dissertation, section 3.5, the last paragraph: skip a whole term at once). At or below the
    /// truncated index, where terms are forgotten, it answers no lower than one before it.
    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> LogIndex {
        let mut at = index.min(self.last_index);
        for run in self.runs.iter().rev() {
            if run.start > at {
                continue;
            }
            if run.term <= term {
                return at;
            }
            at = run.start.prev();
        }
        if at >= self.truncated_index && self.truncated_term > term {
            return self.truncated_index.prev();
        }
        at
    }

    /// Whether a log that ends with `last_term` at `last_index` is at least as up to date as this one (dissertation,
    /// section 3.6.1).
    pub(crate) fn is_covered_by(&self, last_index: LogIndex, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index)
    }

    /// Adds the next entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index.next(), "a log has no gaps");
        assert!(entry.term >= self.last_term(), "terms never fall along a log");
        if self.runs.last().is_none_or(|run| run.term < entry.term) {
            // One run is what most logs have; room for four would be waste times the number of groups.
            if self.runs.capacity() == 0 {
                self.runs.reserve_exact(1);
            }
            self.runs.push(TermRun { start: entry.index, term: entry.term });
        }
        self.last_index = entry.index;
        self.cache_bytes += entry.cost();
        self.cache.push_back(entry);
    }

    /// Drops every entry from `from` on. An entry that takes the place of `from` must follow before the next poll: the shared
    /// log knows of a cut only by what replaces it.
    pub(crate) fn cut(&mut self, from: LogIndex) {
        assert!(from > self.truncated_index && from <= self.last_index, "only entries of the log can be cut");
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.cache.pop_back().expect("the loop has seen it");
            self.cache_bytes -= entry.cost();
        }
        while self.runs.last().is_some_and(|run| run.start >= from) {
            self.runs.pop();
        }
        self.last_index = from.prev();
        self.stable = self.stable.min(self.last_index);
        self.unlogged = self.unlogged.min(from);
    }

    /// Throws the log away; it begins anew after `index`, up to which an installed snapshot is durable.
    pub(crate) fn reset(&mut self, index: LogIndex, term: Term) {
        *self = Self::new(LogSummary { truncated_index: index, truncated_term: term, last_index: index, runs: vec![] });
        self.reset_due = true;
    }

    /// Forgets entries up to `upto`, which must be durable; says whether there were any.
    pub(crate) fn compact(&mut self, upto: LogIndex) -> bool {
        if upto <= self.truncated_index {
            return false;
        }
        assert!(upto <= self.stable, "what is not durable cannot be compacted");
        self.truncated_term = self.term(upto).expect("the log holds what it compacts");
        self.truncated_index = upto;
        let keep = self.runs.partition_point(|run| run.start <= upto);
        if upto == self.last_index {
            self.runs.clear();
        } else if keep > 0 {
            // The run that `upto` lies in goes on, unless it ends there.
            let goes_on = self.runs.get(keep).is_none_or(|next| next.start > upto.next());
            self.runs.drain(..keep - usize::from(goes_on));
            if goes_on {
                self.runs[0].start = upto.next();
            }
        }
        while self.cache.front().is_some_and(|entry| entry.index <= upto) {
            self.drop_oldest();
        }
        self.truncate_due = true;
        true
    }

    /// Notes that everything up to `index` is durable. `index` must stand for the entry that is in the log now, not for
    /// one that it has replaced.
    pub(crate) fn note_stable(&mut self, index: LogIndex) {
        assert!(index < self.unlogged, "only what was handed to the log becomes durable");
        self.stable = self.stable.max(index);
    }

    /// Whether something waits to be handed to the shared log and flushed.
    pub(crate) fn has_unlogged(&self) -> bool {
        self.reset_due || self.unlogged <= self.last_index
    }

    /// Whether all of it is durable, and the shared log owes it nothing.
    pub(crate) fn is_still(&self) -> bool {
        self.stable == self.last_index && !self.has_unlogged() && !self.truncate_due
    }

    /// Hands out what the shared log must do.
    pub(crate) fn poll_steps(&mut self, steps: &mut Vec<LogStep>) {
        if self.reset_due {
            steps.push(LogStep::Reset { index: self.truncated_index, term: self.truncated_term });
        } else if self.truncate_due {
            steps.push(LogStep::Truncate { index: self.truncated_index, term: self.truncated_term });
        }
        self.reset_due = false;
        self.truncate_due = false;
        if self.unlogged <= self.last_index {
            steps.push(LogStep::Append(self.cached(self.unlogged, self.last_index, usize::MAX)));
            self.unlogged = self.last_index.next();
        }
    }

    /// The oldest entry in memory; one past the last if there is none.
    pub(crate) fn cache_start(&self) -> LogIndex {
        self.cache.front().map_or(self.last_index.next(), |entry| entry.index)
    }

    /// Copies of the entries from `from`, which must be cached, to `to`, as many as cost `max_bytes` together, at least
    /// one. Payloads are shared, not copied.
    pub(crate) fn cached(&self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.copy_cached(from, to, max_bytes, &mut entries);
        entries
    }

    /// As [`Self::cached`], behind what `entries` holds already.
    pub(crate) fn copy_cached(&self, from: LogIndex, to: LogIndex, max_bytes: usize, entries: &mut Vec<Entry>) {
        let start = self.cache_start();
        assert!(from >= start, "the entries are in memory");
        let skip = from.since(start) as usize;
        let limit = (to.next().since(start) as usize).min(self.cache.len());
        // All of them together may be little enough.
        let mut end = if self.cache_bytes <= max_bytes { limit.max(skip) } else { skip };
        let mut bytes = 0;
        while end < limit {
            bytes += self.cache[end].cost();
            if bytes > max_bytes && end > skip {
                break;
            }
            end += 1;
        }
        entries.reserve_exact(end - skip);
        entries.extend(self.cache.range(skip..end).cloned());
    }

    /// Whether these consecutive entries are the ones that the log holds.
    pub(crate) fn holds(&self, entries: &[Entry]) -> bool {
        entries.windows(2).all(|pair| pair[1].index == pair[0].index.next())
            && entries
                .iter()
                .all(|entry| entry.index > self.truncated_index && self.term(entry.index) == Some(entry.term))
    }

    /// What the cached entries in `(after, upto]` cost; those that are not cached count nothing.
    pub(crate) fn cached_cost(&self, after: LogIndex, upto: LogIndex) -> usize {
        let start = self.cache_start();
        let from = after.next().max(start).since(start) as usize;
        let to = (upto.next().since(start) as usize).min(self.cache.len());
        if from >= to { 0 } else { self.cache.range(from..to).map(Entry::cost).sum() }
    }

    /// What the entries in memory cost.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Drops the oldest entries from memory while more than `keep_bytes` are there, as far as they are durable and at or below `upto`.
    pub(crate) fn evict(&mut self, upto: LogIndex, keep_bytes: usize) {
        let upto = upto.min(self.stable);
        while self.cache_bytes > keep_bytes && self.cache.front().is_some_and(|oldest| oldest.index <= upto) {
            self.drop_oldest();
        }
    }

    /// Gives back memory that holds nothing.
    pub(crate) fn shrink(&mut self) {
        self.cache.shrink_to_fit();
        self.runs.shrink_to_fit();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let payload = self.cache_bytes - self.cache.len() * Entry::OVERHEAD;
        payload + self.cache.capacity() * size_of::<Entry>() + self.runs.capacity() * size_of::<TermRun>()
    }

    /// What the log holds, for tests and tools.
    pub(crate) fn summary(&self) -> LogSummary {
        LogSummary {
            truncated_index: self.truncated_index,
            truncated_term: self.truncated_term,
            last_index: self.last_index,
            runs: self.runs.clone(),
        }
    }

    fn drop_oldest(&mut self) {
        let entry = self.cache.pop_front().expect("the caller has seen it");
        self.cache_bytes -= entry.cost();
    }
}

#[cfg(test)]
mod tests;
