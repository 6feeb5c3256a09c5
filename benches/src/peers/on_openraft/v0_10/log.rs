//! The log of one group as openraft uses it. It appends more before it is told that what it appended is durable.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft_next::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft_next::{EntryPayload, OptionalSend, RaftLogReader};

use super::{Entry, LogId, Types, Vote};
use crate::peers::on_openraft::file::{Content, Flushed, Records};
use crate::peers::on_openraft::kept::Indexed;
use crate::peers::on_openraft::log::{GroupLog as Shared, Logged};

pub(super) type GroupLog = Shared<Entry>;

impl Flushed for IOFlushed<Types> {
    fn flushed(self, outcome: io::Result<()>) {
        self.io_completed(outcome);
    }
}

impl Indexed for Entry {
    fn index(&self) -> u64 {
        self.log_id.index
    }
}

impl Logged for Entry {
    type Id = LogId;
    type Vote = Vote;
    type Flushed = IOFlushed<Types>;

    fn id(&self) -> LogId {
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
    ) -> io::Result<Vec<Entry>> {
        Ok(self.read(range))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote())
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let (last_purged_log_id, last_log_id) = self.ends();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        Shared::save_vote(self, *vote, (vote.leader_id.term, vote.leader_id.node_id, vote.committed)).await
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Shared::append(self, entries, flushed);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.cut_after(last.map_or(0, |id| id.index + 1));
        Ok(())
    }

    async fn purge(&mut self, until: LogId) -> io::Result<()> {
        self.cut_before(until, until.index);
        Ok(())
    }
}
