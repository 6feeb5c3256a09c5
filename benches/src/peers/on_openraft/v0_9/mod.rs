//! The stable line. It waits for each append's flush before it takes up the next, and makes an entry of its own of each call, so
//! that with a call for each write a group would do one write a flush. Users who flush put several writes into one call.

mod log;
mod machine;
mod network;

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use openraft::Config;
use openraft::error::{ClientWriteError, RaftError};
use openraft::storage::LogFlushed;

use self::log::GroupLog;
use self::machine::Machine;
use self::network::Links;
use super::file::Disk;
use super::{Batch, ELECTION_MS_MAX, ELECTION_MS_MIN, HEARTBEAT_MS, Instance, Instances, Refused};

openraft::declare_raft_types!(
    /// What the instances are made of.
    pub(crate) Types: D = Batch, R = (), NodeId = u64, Node = ()
);

pub(crate) type Raft = openraft::Raft<Types>;

impl Instance for Raft {
    type Flushed = LogFlushed<Types>;
    type Config = Config;
    /// The instance takes up one append after the other, so one gathers most.
    const BATCHES_AT_ONCE: usize = 1;

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
        disk: Disk<LogFlushed<Types>>,
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
    use openraft::StorageError;
    use openraft::testing::{StoreBuilder, Suite};
    use tempfile::TempDir;

    use super::*;

    struct Stores;

    impl StoreBuilder<Types, GroupLog, Machine, TempDir> for Stores {
        async fn build(&self) -> Result<(TempDir, GroupLog, Machine), StorageError<u64>> {
            let dir = tempfile::tempdir().unwrap();
            let disk = Disk::open(&dir.path().join("log"), Arc::default()).unwrap();
            Ok((dir, GroupLog::new(0, disk), Machine::default()))
        }
    }

    #[test]
    fn log_and_state_do_what_openraft_asks_of_them() {
        Suite::test_all(Stores).unwrap();
    }
}
