//! Snapshot files: the durable base of regions whose state is not durable by itself, and the landing place of what peers send.
//!
//! Over the storage crate's [`SnapshotStore`]; shared by the shell and the simulator.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use multiraft_raft::{RegionId, StoreId};
use multiraft_storage::snapshot::{
    SnapshotError, SnapshotId, SnapshotItem, SnapshotReader, SnapshotStore, SnapshotWriter,
};
use multiraft_storage::{Disk, RealDisk};
use multiraft_transport::{SnapshotHeader, decode_descriptor};

use crate::apply::{AppliedRegion, Backend, Chunks, ReceivedSnapshots, SnapshotSource, stored_descriptor};
use crate::error::StartError;

/// Snapshots up to this size share a file with others.
const SHARED_FILE_BYTES: usize = 4 << 20;
/// How much one round of tidying up rewrites.
const COMPACT_BYTES: u64 = 64 << 20;

/// A store's snapshot files.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    store: SnapshotStore,
}

impl SnapshotFiles {
    /// Opens a directory of snapshot files.
    ///
    /// # Errors
    /// The directory is in use, or cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StartError> {
        let disk = RealDisk::open(dir).map_err(|error| StartError::DataDir(error.to_string()))?;
        Self::open_on(Arc::new(disk))
            .map_err(|source| StartError::Io { what: format!("opening {}", dir.display()), source })
    }

    /// Opens the snapshot files on a disk.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn open_on(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (store, damaged) = SnapshotStore::open(disk).map_err(to_io)?;
        for file in damaged {
            tracing::error!(file = %file.file, offset = file.offset, reason = %file.reason, "a snapshot file is damaged");
        }
        Ok(Self { store })
    }

    /// Saves snapshots of regions; all are durable when this returns. A region that has a later one keeps that.
    ///
    /// # Errors
    /// The disk is full or failed, or a state could not be read.
    pub fn save(&self, sources: Vec<SnapshotSource>) -> io::Result<()> {
        let mut small = Vec::new();
        for source in sources {
            if self.store.latest(source.descriptor.id).is_some_and(|saved| saved.id.index > source.index) {
                continue;
            }
            small.extend(self.save_large(source)?);
        }
        self.store.save_many(small).map_err(to_io)
    }

    /// Saves a snapshot in a file of its own, unless it turns out to be small: then it is returned.
    fn save_large(&self, source: SnapshotSource) -> io::Result<Option<SnapshotItem>> {
        let id = SnapshotId { region: source.descriptor.id, index: source.index, term: source.term };
        let header = stored_descriptor(&source.descriptor);
        let mut chunks: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut writer: Option<SnapshotWriter> = None;
        source.stream(&mut |chunk| {
            bytes += chunk.len();
            if let Some(writer) = &mut writer {
                return writer.append(&chunk).map_err(to_io);
            }
            chunks.push(chunk);
            if bytes > SHARED_FILE_BYTES {
                let mut own = self.store.begin(id, &header).map_err(to_io)?;
                chunks.drain(..).try_for_each(|chunk| own.append(&chunk)).map_err(to_io)?;
                writer = Some(own);
            }
            Ok(())
        })?;
        match writer {
            Some(writer) => writer.finish().map(|_| None).map_err(to_io),
            None => Ok(Some(SnapshotItem { id, header, chunks })),
        }
    }

    /// Puts all regions back to their snapshots, at the start of a store whose state is not durable by itself.
    ///
    /// # Errors
    /// A file cannot be read, or a machine does not take it.
    pub fn restore_all(&self, backend: &Backend) -> io::Result<Vec<AppliedRegion>> {
        let mut regions = Vec::new();
        for saved in self.store.list() {
            let Some(reader) = self.store.read(saved.id.region).map_err(to_io)? else { continue };
            let descriptor = decode_descriptor(reader.header())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let descriptor = Arc::new(descriptor);
            let SnapshotId { index, term, .. } = reader.id();
            backend.restore(&descriptor, index, term, chunks_of(reader))?;
            regions.push((descriptor, index, term));
        }
        Ok(regions)
    }

    /// Rewrites files that are mostly superseded, some at a time. To be called now and then.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn tidy(&self) -> io::Result<()> {
        self.store.compact(COMPACT_BYTES).map(|_| ()).map_err(to_io)
    }
}

/// Snapshots that peers send, from the first chunk until they are installed.
#[derive(Debug)]
pub struct Received {
    store: SnapshotStore,
    /// What is received becomes the region's durable base; else it is removed once it is installed.
    keep: bool,
    /// Whole, waiting to be installed.
    whole: Mutex<BTreeMap<(StoreId, u64), SnapshotWriter>>,
}

impl Received {
    /// Snapshots are received among `files`. `keep`: they stay, as the durable base of regions whose state is not durable by
    /// itself. Leftovers of an earlier run are removed.
    ///
    /// # Errors
    /// The disk failed.
    pub fn new(files: &SnapshotFiles, keep: bool) -> io::Result<Self> {
        let store = files.store.clone();
        store.discard_partials(|_| false).map_err(to_io)?;
        if !keep {
            let leftovers: Vec<RegionId> = store.list().iter().map(|saved| saved.id.region).collect();
            store.remove_many(&leftovers).map_err(to_io)?;
        }
        Ok(Self { store, keep, whole: Mutex::default() })
    }

    /// Begins to receive.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn begin(&self, header: &SnapshotHeader) -> io::Result<SnapshotWriter> {
        let id = SnapshotId { region: header.region, index: header.index, term: header.index_term };
        let mut writer = self.store.receive(id, &stored_descriptor(&header.descriptor)).map_err(to_io)?;
        if writer.chunks() > 0 {
            // Left by an attempt that broke off; this one starts over.
            writer.abort();
            writer = self.store.receive(id, &stored_descriptor(&header.descriptor)).map_err(to_io)?;
        }
        Ok(writer)
    }

    /// All chunks are there.
    pub fn on_whole(&self, from: StoreId, header: &SnapshotHeader, writer: SnapshotWriter) {
        self.lock().insert((from, header.transfer), writer);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(StoreId, u64), SnapshotWriter>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReceivedSnapshots for Received {
    fn open(&self, from: StoreId, header: &SnapshotHeader) -> io::Result<Chunks<'_>> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the received snapshot is not there any more");
        let writer = self.lock().remove(&(from, header.transfer)).ok_or_else(gone)?;
        writer.finish().map_err(to_io)?;
        let reader = self.store.read(header.region).map_err(to_io)?.ok_or_else(gone)?;
        Ok(chunks_of(reader))
    }

    fn discard(&self, from: StoreId, header: &SnapshotHeader) {
        if let Some(writer) = self.lock().remove(&(from, header.transfer)) {
            writer.abort();
        }
        if !self.keep
            && let Err(error) = self.store.remove(header.region)
        {
            tracing::warn!(region = %header.region, %error, "a received snapshot could not be removed");
        }
    }
}

fn chunks_of(mut reader: SnapshotReader) -> Chunks<'static> {
    Box::new(std::iter::from_fn(move || reader.next_chunk().map_err(to_io).transpose()))
}

fn to_io(error: SnapshotError) -> io::Error {
    match error {
        SnapshotError::NoSpace { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
        other => io::Error::other(other),
    }
}
