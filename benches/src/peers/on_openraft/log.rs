//! The log of one group as openraft uses it: its entries in memory, and on their way into the shared file.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{Entry, LogId, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};

use super::Types;
use super::disk::{Disk, Records, Waiting};

/// See above. Clones are of the same log.
#[derive(Clone)]
pub(super) struct GroupLog {
    group: u32,
    disk: Disk,
    kept: Arc<Mutex<Kept>>,
}

/// What is in memory.
#[derive(Default)]
struct Kept {
    /// From the one after `purged` on, without a hole.
    entries: VecDeque<Entry<Types>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

impl Kept {
    /// The index of the first entry that is, or will be, in memory.
    fn first(&self) -> u64 {
        match self.entries.front() {
            Some(entry) => entry.log_id.index,
            None => self.purged.map_or(0, |id| id.index + 1),
        }
    }

    /// Where the entry of an index lies, or would.
    fn place(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.first())).expect("a place in a list in memory")
    }
}

impl GroupLog {
    pub(super) fn new(group: u32, disk: Disk) -> Self {
        Self { group, disk, kept: Arc::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let kept = self.kept();
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let until = kept.place(until.min(kept.first() + kept.entries.len() as u64));
        let from = kept.place(from).min(until);
        Ok(kept.entries.range(from..until).cloned().collect())
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let kept = self.kept();
        let last_log_id = kept.entries.back().map(|entry| entry.log_id).or(kept.purged);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let saved = self.disk.save(Records::new(self.group).vote(vote)).await;
        saved.map_err(|error| StorageIOError::write_vote(&error))?;
        self.kept().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.kept().vote)
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Records::new(self.group);
        {
            let mut kept = self.kept();
            for entry in entries {
                records.entry(&entry);
                kept.entries.push_back(entry);
            }
        }
        self.disk.append(records, Waiting::Entries(flushed));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId<u64>) -> Result<(), StorageError<u64>> {
        {
            let mut kept = self.kept();
            let place = kept.place(since.index);
            kept.entries.truncate(place);
        }
        self.disk.append(Records::new(self.group).cut_after(since.index), Waiting::Nobody);
        Ok(())
    }

    async fn purge(&mut self, until: LogId<u64>) -> Result<(), StorageError<u64>> {
        {
            let mut kept = self.kept();
            let gone = kept.place(until.index + 1).min(kept.entries.len());
            kept.entries.drain(..gone);
            kept.purged = Some(until);
        }
        self.disk.append(Records::new(self.group).cut_before(until.index), Waiting::Nobody);
        Ok(())
    }
}
