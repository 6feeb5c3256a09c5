//! The state of one group: a map in memory. Snapshots are copies of it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft_next::storage::{EntryResponder, RaftStateMachine};
use openraft_next::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::peers::state::{State as Pairs, decoded, encoded, put};

/// See above.
#[derive(Default)]
pub(crate) struct Machine {
    pairs: Pairs,
    applied: Option<LogId>,
    members: StoredMembership,
    newest: Newest,
}

/// Where the newest snapshot lies.
#[derive(Clone, Default)]
struct Newest(Arc<Mutex<Option<Snapshot>>>);

impl Newest {
    fn get(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the state as it was when it was made.
pub(crate) struct Builder {
    snapshot: Snapshot,
    newest: Newest,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        *self.newest.get() = Some(self.snapshot.clone());
        Ok(self.snapshot.clone())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(batch) => {
                    for command in batch.0.iter() {
                        put(&mut self.pairs, command);
                    }
                }
                EntryPayload::Membership(members) => {
                    self.members = StoredMembership::new(Some(entry.log_id), members);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.members.clone() };
        Builder { snapshot: Snapshot { meta, snapshot: encoded(&self.pairs) }, newest: self.newest.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        self.pairs = decoded(&snapshot).ok_or(io::ErrorKind::InvalidData)?;
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        *self.newest.get() = Some(Snapshot { meta: meta.clone(), snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.newest.get().clone())
    }
}
