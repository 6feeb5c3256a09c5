//! The log of one group, of either line: its entries in memory, and on their way into the shared file.

use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{Disk, Flushed, Records, Waiting};
use super::kept::{Indexed, Kept};

/// An entry of one of the lines.
pub(super) trait Logged: Indexed {
    type Id: Copy;
    type Vote: Copy;
    type Flushed: Flushed;

    fn id(&self) -> Self::Id;

    /// Adds what of it is durable.
    fn record(&self, records: &mut Records);
}

/// See above. Clones are of the same log.
pub(super) struct GroupLog<E: Logged> {
    group: u32,
    disk: Disk<E::Flushed>,
    memory: Arc<Mutex<Memory<E>>>,
}

impl<E: Logged> Clone for GroupLog<E> {
    fn clone(&self) -> Self {
        Self { group: self.group, disk: self.disk.clone(), memory: Arc::clone(&self.memory) }
    }
}

struct Memory<E: Logged> {
    /// From the one after `purged` on.
    kept: Kept<E>,
    purged: Option<E::Id>,
    vote: Option<E::Vote>,
}

impl<E: Logged> GroupLog<E> {
    pub(super) fn new(group: u32, disk: Disk<E::Flushed>) -> Self {
        let memory = Memory { kept: Kept::default(), purged: None, vote: None };
        Self { group, disk, memory: Arc::new(Mutex::new(memory)) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory<E>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, range: impl RangeBounds<u64>) -> Vec<E> {
        self.memory().kept.range(range)
    }

    pub(super) fn vote(&self) -> Option<E::Vote> {
        self.memory().vote
    }

    /// The entries that were purged last and appended last.
    pub(super) fn ends(&self) -> (Option<E::Id>, Option<E::Id>) {
        let memory = self.memory();
        (memory.purged, memory.kept.last().map(E::id).or(memory.purged))
    }

    /// Returns when the vote is durable; `parts`: its term, its store, and whether it is committed.
    pub(super) async fn save_vote(&self, vote: E::Vote, parts: (u64, u64, bool)) -> io::Result<()> {
        self.disk.save(Records::new(self.group).vote(parts)).await?;
        self.memory().vote = Some(vote);
        Ok(())
    }

    /// Returns at once; the entries can be read then, and openraft is told when they are durable.
    pub(super) fn append(&self, entries: impl IntoIterator<Item = E>, flushed: E::Flushed) {
        let mut records = Records::new(self.group);
        {
            let mut memory = self.memory();
            for entry in entries {
                entry.record(&mut records);
                memory.kept.push(entry);
            }
        }
        self.disk.append(records, Waiting::Entries(flushed));
    }

    /// Forgets the entries from `index` on.
    pub(super) fn cut_after(&self, index: u64) {
        self.memory().kept.cut_after(index);
        self.disk.append(Records::new(self.group).cut_after(index), Waiting::Nobody);
    }

    /// Forgets the entries up to that of `id` and `index`.
    pub(super) fn cut_before(&self, id: E::Id, index: u64) {
        {
            let mut memory = self.memory();
            memory.kept.cut_before(index);
            memory.purged = Some(id);
        }
        self.disk.append(Records::new(self.group).cut_before(index), Waiting::Nobody);
    }
}
