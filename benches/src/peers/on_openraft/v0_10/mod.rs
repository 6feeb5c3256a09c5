//! The next line, of which there are pre-releases only. It takes up appends while earlier ones are being flushed, and sends them as
//! a stream. A call for each write, or one for many that makes an entry of each (`client_write_many`), would do here too, but costs
//! it more processor time with few groups, and with many no less.

mod log;
mod machine;
mod network;

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft_next::Config;
use openraft_next::errors::{ClientWriteError, RaftError};
use openraft_next::storage::IOFlushed;
use openraft_next::type_config::alias;

use self::log::GroupLog;
use self::machine::Machine;
use self::network::Links;
use super::file::Disk;
use super::{Batch, ELECTION_MS_MAX, ELECTION_MS_MIN, HEARTBEAT_MS, Instance, Instances, Refused};

openraft_next::declare_raft_types!(
    /// What the instances are made of.
    pub(crate) Types: D = Batch, R = (), NodeId = u64, Node = ()
);

pub(crate) type Raft = openraft_next::Raft<Types, Machine>;
type Entry = alias::EntryOf<Types>;
type LogId = alias::LogIdOf<Types>;
type Vote = alias::VoteOf<Types>;
type StoredMembership = alias::StoredMembershipOf<Types>;
type SnapshotMeta = alias::SnapshotMetaOf<Types>;
type Snapshot = alias::SnapshotOf<Types, Vec<u8>>;

impl Instance for Raft {
    type Flushed = IOFlushed<Types>;
    type Config = Config;
    /// One is flushed while the next is appended and sent.
    const BATCHES_AT_ONCE: usize = 2;

    fn config() -> Result<Config, String> {
        let config = Config {
            heartbeat_interval: HEARTBEAT_MS,
            election_timeout_min: ELECTION_MS_MIN,
            election_timeout_max: ELECTION_MS_MAX,
            ..Config::default()
        };
        config.validate().map_err(|error| error.to_string())
    }

    async fn start(
        config: &Arc<Config>,
        store: u64,
        group: u32,
        disk: Disk<IOFlushed<Types>>,
        instances: &Arc<Instances<Self>>,
    ) -> Result<Self, String> {
        let links = Links::new(group as usize, Arc::clone(instances));
        let raft = Self::new(store, Arc::clone(config), links, GroupLog::new(group, disk), Machine::default()).await;
        raft.map_err(|error| error.to_string())
    }

    async fn initialize(&self, members: BTreeSet<u64>) -> Result<(), String> {
        Self::initialize(self, members).await.map_err(|error| error.to_string())
    }

    async fn write(&self, batch: Batch) -> Result<(), Refused> {
        let Err(error) = self.client_write(batch).await else { return Ok(()) };
        let leader = match &error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forward.leader_id,
            _ => None,
        };
        Err(Refused { leader, why: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use openraft_next::StorageError;
    use openraft_next::testing::log::{StoreBuilder, Suite};
    use tempfile::TempDir;

    use super::*;

    struct Stores;

    impl StoreBuilder<Types, GroupLog, Machine, TempDir> for Stores {
        async fn build(&self) -> Result<(TempDir, GroupLog, Machine), StorageError<Types>> {
            let dir = tempfile::tempdir().unwrap();
            let disk = Disk::open(&dir.path().join("log"), Arc::default()).unwrap();
            Ok((dir, GroupLog::new(0, disk), Machine::default()))
        }
    }

    #[tokio::test]
    async fn log_and_state_do_what_openraft_asks_of_them() {
        Suite::test_all(Stores).await.unwrap();
    }
}
