//! The log of one group as openraft uses it. It waits for each append's flush before it takes up the next.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, LogId, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};

use super::Types;
use crate::peers::on_openraft::file::{Content, Flushed, Records};
use crate::peers::on_openraft::kept::Indexed;
use crate::peers::on_openraft::log::{GroupLog as Shared, Logged};

type Entry = openraft::Entry<Types>;
pub(super) type GroupLog = Shared<Entry>;

impl Flushed for LogFlushed<Types> {
    fn flushed(self, outcome: io::Result<()>) {
        self.log_io_completed(outcome);
    }
}

impl Indexed for Entry {
    fn index(&self) -> u64 {
        self.log_id.index
    }
}

impl Logged for Entry {
    type Id = LogId<u64>;
    type Vote = Vote<u64>;
    type Flushed = LogFlushed<Types>;

    fn id(&self) -> LogId<u64> {
        self.log_id
    }

    fn record(&self, records: &mut Records) {
        let leader = self.log_id.leader_id;
        let content = match &self.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(batch) => Content::Commands(&batch.0),
            EntryPayload::Membership(members) => Content::Members(members.get_joint_config()),
        };
        records.entry([leader.term, leader.node_id, self.log_id.index], content);
    }
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        Ok(self.read(range))
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let (last_purged_log_id, last_log_id) = self.ends();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let parts = (vote.leader_id.term, vote.leader_id.node_id, vote.committed);
        let saved = Shared::save_vote(self, *vote, parts).await;
        Ok(saved.map_err(|error| StorageIOError::write_vote(&error))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.vote())
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Shared::append(self, entries, flushed);
        Ok(())
    }

    async fn truncate(&mut self, since: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.cut_after(since.index);
        Ok(())
    }

    async fn purge(&mut self, until: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.cut_before(until, until.index);
        Ok(())
    }
}
