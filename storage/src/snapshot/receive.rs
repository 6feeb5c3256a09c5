//! Snapshots that come piece by piece, from a peer or from a long scan.

use multiraft_raft::{LogIndex, RegionId, Term};

use super::{
    error::SnapshotError,
    format::SnapshotId,
    store::{SnapshotInfo, SnapshotStore},
    writer::ContainerWriter,
};

/// Files that are being received, and taken up after a restart.
const PART_PREFIX: &str = "part-";

/// A snapshot in the making. Nothing of it counts before [`Self::finish`].
///
/// Dropped unfinished, one from [`SnapshotStore::receive`] stays to be taken up, one from [`SnapshotStore::begin`] goes.
#[derive(Debug)]
pub struct SnapshotWriter {
    store: SnapshotStore,
    /// Taken out by the end.
    writer: Option<ContainerWriter>,
    id: SnapshotId,
    is_received: bool,
}

impl SnapshotWriter {
    pub(super) fn new(store: SnapshotStore, writer: ContainerWriter, id: SnapshotId, is_received: bool) -> Self {
        Self { store, writer: Some(writer), id, is_received }
    }

    /// Which snapshot it is.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// How many chunks it has, those that were there when it was taken up included. Each of them is whole.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.writer.as_ref().map_or(0, ContainerWriter::chunks)
    }

    /// Adds a chunk. It is not durable yet.
    ///
    /// # Errors
    /// [`SnapshotError::TooLong`]; [`SnapshotError::NoSpace`] and [`SnapshotError::Io`], after which the writer is of no
    /// further use: drop it.
    pub fn append(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        self.writer.as_mut().expect("only the end takes the writer").append(chunk)
    }

    /// Makes the snapshot durable and the newest of its region. If that fails for want of room, what was received stays.
    ///
    /// # Errors
    /// [`SnapshotError::Older`] if a later one was saved meanwhile; else see [`SnapshotStore::save_many`].
    pub fn finish(mut self) -> Result<SnapshotInfo, SnapshotError> {
        let writer = self.writer.as_mut().expect("only the end takes the writer");
        writer.end()?;
        let published = self.store.publish(writer, &self.id);
        if published.is_ok() || matches!(published, Err(SnapshotError::Older { .. })) {
            let writer = self.writer.take().expect("it was there above");
            if published.is_err() {
                writer.discard();
            }
        }
        published
    }

    /// Removes what there is of it.
    pub fn abort(mut self) {
        self.writer.take().expect("only the end takes the writer").discard();
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        if !self.is_received {
            writer.discard();
        } else if let Err(error) = writer.write_out() {
            tracing::warn!(%error, "the last chunks of a snapshot that is being received have to be sent again");
        }
    }
}

pub(super) fn part_name(id: &SnapshotId) -> String {
    format!("{PART_PREFIX}{:016x}-{:016x}-{:016x}", id.region.get(), id.index.get(), id.term.get())
}

pub(super) fn parse_part_name(name: &str) -> Option<SnapshotId> {
    let mut numbers = name.strip_prefix(PART_PREFIX)?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
    let mut next = || numbers.next().flatten();
    let id = SnapshotId { region: RegionId(next()?), index: LogIndex(next()?), term: Term(next()?) };
    (part_name(&id) == name).then_some(id)
}
