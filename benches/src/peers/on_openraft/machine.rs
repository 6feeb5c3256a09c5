//! The state of one group: a map in memory. Snapshots are copies of it.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership,
};

use super::Types;
use crate::peers::load::{State as Pairs, put};

/// See above. Clones are of the same state.
#[derive(Clone, Default)]
pub(super) struct Machine {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    pairs: Pairs,
    applied: Option<LogId<u64>>,
    members: StoredMembership<u64, ()>,
    snapshot: Option<(SnapshotMeta<u64, ()>, Vec<u8>)>,
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All pairs: key, length of the value, value.
fn encoded(pairs: &Pairs) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The reverse; nothing if the bytes are none that [`encoded`] makes.
fn decoded(mut bytes: &[u8]) -> Option<Pairs> {
    let mut pairs = Pairs::default();
    while !bytes.is_empty() {
        let (key, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        pairs.insert(u64::from_be_bytes(*key), value.to_vec());
        bytes = rest;
    }
    Some(pairs)
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let mut state = self.state();
        let bytes = encoded(&state.pairs);
        let snapshot_id = state.applied.map_or_else(|| "empty".to_owned(), |id| id.to_string());
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.members.clone(), snapshot_id };
        state.snapshot = Some((meta.clone(), bytes.clone()));
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, ()>), StorageError<u64>> {
        let state = self.state();
        Ok((state.applied, state.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.state();
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(batch) => {
                    for command in batch.0.iter() {
                        put(&mut state.pairs, command);
                    }
                }
                EntryPayload::Membership(members) => {
                    state.members = StoredMembership::new(Some(entry.log_id), members);
                }
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, ()>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let bytes = snapshot.into_inner();
        let pairs = decoded(&bytes);
        let damaged = || StorageIOError::read_snapshot(None, &std::io::Error::from(std::io::ErrorKind::InvalidData));
        let pairs = pairs.ok_or_else(damaged)?;
        let mut state = self.state();
        state.pairs = pairs;
        state.applied = meta.last_log_id;
        state.members = meta.last_membership.clone();
        state.snapshot = Some((meta.clone(), bytes));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        let snapshot = self.state().snapshot.clone();
        Ok(snapshot.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_as_it_was_written_and_refused_when_cut_short() {
        let pairs = Pairs::from_iter([(7, b"value".to_vec()), (u64::MAX, Vec::new())]);
        let bytes = encoded(&pairs);
        assert_eq!(decoded(&bytes), Some(pairs));
        assert_eq!(decoded(&bytes[..bytes.len() - 1]), None);
    }
}
