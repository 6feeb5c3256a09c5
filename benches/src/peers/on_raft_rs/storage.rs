//! The log of one group as raft-rs reads it: the newest entries in memory, older ones in raft-engine.
//!
//! Invariant: `cache` holds the entries from `cut + 1` to the last one; all of them, and those before it that are not compacted,
//! are in raft-engine, or will be before raft-rs is told that they are.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use raft_engine::{Engine as Log, MessageExt};

/// A cache that is empty gives its memory back from this capacity on.
const SPARE_ENTRIES: usize = 64;

/// Tells raft-engine where an entry keeps its index.
pub(super) struct Indexed;

impl MessageExt for Indexed {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// See above.
pub(super) struct GroupLog {
    group: u64,
    log: Arc<Log>,
    cache: VecDeque<Entry>,
    /// Index and term of the entry before the cache.
    cut: (u64, u64),
    /// The first index that is still in the log.
    first: u64,
    pub(super) hard_state: HardState,
    members: ConfState,
}

impl GroupLog {
    pub(super) fn new(group: u64, log: Arc<Log>, members: ConfState) -> Self {
        Self { group, log, cache: VecDeque::new(), cut: (0, 0), first: 1, hard_state: HardState::default(), members }
    }

    /// Takes entries in; those that were there from the first of their indexes on are replaced.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.checked_sub(self.cut.0 + 1).expect("what is cut off is committed, and never replaced");
        self.cache.truncate(usize::try_from(keep).expect("a place in a list in memory"));
        self.cache.extend(entries);
    }

    /// Gives back the memory of entries up to `index`, which are durable.
    pub(super) fn cut(&mut self, index: u64) {
        while self.cache.front().is_some_and(|entry| entry.index <= index) {
            let gone = self.cache.pop_front().expect("there is a first one");
            self.cut = (gone.index, gone.term);
        }
        if self.cache.is_empty() && self.cache.capacity() > SPARE_ENTRIES {
            self.cache = VecDeque::new();
        }
    }

    /// Forgets the entries before `index`, as far as they are cut off.
    pub(super) fn compact(&mut self, index: u64) {
        self.first = index.min(self.cut.0 + 1).max(self.first);
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    fn last(&self) -> u64 {
        self.cut.0 + self.cache.len() as u64
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.cut.0 + 1)?;
        self.cache.get(usize::try_from(place).ok()?)
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let mut entries = Vec::new();
        if low <= self.cut.0 {
            let end = high.min(self.cut.0 + 1);
            let read = self.log.fetch_entries_to::<Indexed>(self.group, low, end, None, &mut entries);
            read.map_err(|error| raft::Error::Store(StorageError::Other(Box::new(error))))?;
        }
        let cached = (low.max(self.cut.0 + 1)..high).map_while(|index| self.cached(index).cloned());
        entries.extend(cached);
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.cut.0 {
            return Ok(self.cut.1);
        }
        if let Some(entry) = self.cached(index) {
            return Ok(entry.term);
        }
        if index < self.first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.log.get_entry::<Indexed>(self.group, index) {
            Ok(Some(entry)) => Ok(entry.term),
            Ok(None) => Err(raft::Error::Store(StorageError::Unavailable)),
            Err(error) => Err(raft::Error::Store(StorageError::Other(Box::new(error)))),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
