//! Snapshot files: the durable base of regions whose state is not durable by itself, and the landing place of what peers send.
//!
//! Over the storage crate's [`SnapshotStore`]; shared by the shell and the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use multiraft_storage::snapshot::{
    SnapshotError, SnapshotId, SnapshotItem, SnapshotReader, SnapshotStore, SnapshotWriter,
};
use multiraft_storage::{Disk, RealDisk};
use multiraft_transport::{SnapshotHeader, decode_descriptor};

use crate::apply::{
    AppliedRegion, Backend, CHUNK_BYTES, Chunks, FIRST_INDEX, ReceivedSnapshots, SnapshotSource, Tombstone,
    stored_descriptor,
};
use crate::error::StartError;

/// Snapshots up to this size share a file with others.
const SHARED_FILE_BYTES: usize = 4 << 20;
/// How much one round of tidying up rewrites.
const COMPACT_BYTES: u64 = 64 << 20;

/// Where a snapshot file comes from: the first byte of its header, before the descriptor.
const CHECKPOINT: u8 = 0;
const RECEIVED: u8 = 1;

fn file_header(origin: u8, descriptor: &RegionDescriptor) -> Bytes {
    let stored = stored_descriptor(descriptor);
    let mut header = Vec::with_capacity(stored.len() + 1);
    header.push(origin);
    header.extend_from_slice(&stored);
    header.into()
}

/// What was found at the start of a store whose state is not durable by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredRegions {
    /// The regions that are back, in order of id.
    pub regions: Vec<AppliedRegion>,
    /// The regions that are not, with the reason.
    pub damaged: Vec<(RegionId, String)>,
}

/// Under this name, which no region has, the tombstones are kept: all of them in one piece, which replaces the one before.
const TOMBSTONES: RegionId = RegionId(0);
const TOMBSTONES_HEADER: &[u8] = b"tombstones";

/// A store's snapshot files.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    store: SnapshotStore,
    /// Regions that had something in a damaged file.
    damaged: Vec<(RegionId, String)>,
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
        let mut regions = Vec::new();
        for file in damaged {
            tracing::error!(file = %file.file, offset = file.offset, reason = %file.reason, "a snapshot file is damaged");
            let reason =
                format!("the snapshot file {} is damaged at offset {}: {}", file.file, file.offset, file.reason);
            let lost = file.regions.iter().filter(|region| store.latest(**region).is_none());
            regions.extend(lost.map(|region| (*region, reason.clone())));
        }
        Ok(Self { store, damaged: regions })
    }

    /// Saves snapshots of regions; all are durable when this returns. A region that has a later one keeps that.
    ///
    /// # Errors
    /// The disk is full or failed, or a state could not be read.
    pub fn save(&self, sources: Vec<SnapshotSource>) -> io::Result<()> {
        let mut small = Vec::new();
        for source in sources {
            // Of the same index is the same state; and one that was received carries the mark that allows it to be ahead of
            // its log.
            if self.store.latest(source.descriptor.id).is_some_and(|saved| saved.id.index >= source.index) {
                continue;
            }
            small.extend(self.save_large(source)?);
        }
        self.store.save_many(small).map_err(to_io)
    }

    /// Saves a snapshot in a file of its own, unless it turns out to be small: then it is returned.
    fn save_large(&self, source: SnapshotSource) -> io::Result<Option<SnapshotItem>> {
        let id = SnapshotId { region: source.descriptor.id, index: source.index, term: source.term };
        // A region's first state is ahead of its log as a received one is.
        let origin = if source.index == FIRST_INDEX { RECEIVED } else { CHECKPOINT };
        let header = file_header(origin, &source.descriptor);
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

    /// Puts all regions back to their snapshots, at the start of a store whose state is not durable by itself. A region whose
    /// file cannot be read, or whose machine does not take it, is named and left out.
    #[must_use]
    pub fn restore_all(&self, backend: &Backend) -> RestoredRegions {
        let mut restored = RestoredRegions { regions: Vec::new(), damaged: self.damaged.clone() };
        let leftovers = match self.remove_leftovers(backend.store()) {
            Ok(leftovers) => leftovers,
            Err(error) => {
                restored.damaged.push((TOMBSTONES, error.to_string()));
                Vec::new()
            }
        };
        for saved in self.store.list().into_iter().filter(|saved| saved.id.region != TOMBSTONES) {
            let region = saved.id.region;
            if leftovers.contains(&region) {
                continue;
            }
            match self.restore(backend, region) {
                Ok(applied) => restored.regions.extend(applied),
                Err(error) => restored.damaged.push((region, error.to_string())),
            }
        }
        restored
    }

    fn restore(&self, backend: &Backend, region: RegionId) -> io::Result<Option<AppliedRegion>> {
        let Some(reader) = self.store.read(region).map_err(to_io)? else {
            return Ok(None);
        };
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let header = reader.header();
        let origin = *header.first().ok_or_else(|| invalid("it has no header".to_owned()))?;
        let descriptor = decode_descriptor(&header.slice(1..)).map_err(|error| invalid(error.to_string()))?;
        let SnapshotId { index, term, .. } = reader.id();
        let installed = origin == RECEIVED;
        let applied = AppliedRegion { descriptor: Arc::new(descriptor), index, term, installed };
        backend.restore(&applied, chunks_of(reader))?;
        Ok(Some(applied))
    }

    /// Writes the tombstones, durably; then what `region` has here goes.
    pub(crate) fn bury(&self, tombstones: &BTreeMap<RegionId, Tombstone>, region: RegionId) -> io::Result<()> {
        let index = self.store.latest(TOMBSTONES).map_or(LogIndex(1), |saved| saved.id.index.next());
        let id = SnapshotId { region: TOMBSTONES, index, term: Term::ZERO };
        let mut all = Vec::new();
        for tombstone in tombstones.values() {
            let stored = tombstone.encode();
            let length = u32::try_from(stored.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            all.extend_from_slice(&length.to_le_bytes());
            all.extend_from_slice(&stored);
        }
        let chunks = all.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
        let header = Bytes::from_static(TOMBSTONES_HEADER);
        self.store.save_many(vec![SnapshotItem { id, header, chunks }]).map_err(to_io)?;
        if self.store.latest(region).is_some() {
            self.store.remove(region).map_err(to_io)?;
        }
        Ok(())
    }

    /// The tombstones.
    pub(crate) fn tombstones(&self) -> io::Result<BTreeMap<RegionId, Tombstone>> {
        let mut found = BTreeMap::new();
        let Some(mut reader) = self.store.read(TOMBSTONES).map_err(to_io)? else {
            return Ok(found);
        };
        let mut all = Vec::new();
        while let Some(chunk) = reader.next_chunk().map_err(to_io)? {
            all.extend_from_slice(&chunk);
        }
        let mut rest = Bytes::from(all);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the tombstones cannot be read");
        while !rest.is_empty() {
            let length = rest.get(..4).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
            let end = length.map(|length| 4 + length as usize).filter(|end| *end <= rest.len()).ok_or_else(damaged)?;
            let tombstone = Tombstone::decode(&rest.slice(4..end)).ok_or_else(damaged)?;
            found.insert(tombstone.descriptor.id, tombstone);
            rest = rest.slice(end..);
        }
        Ok(found)
    }

    /// Removes what a crash left of replicas that are gone, and of splits that are to be applied again: a child at its first
    /// state beside a parent that has not split yet.
    fn remove_leftovers(&self, store: StoreId) -> io::Result<Vec<RegionId>> {
        let tombstones = self.tombstones()?;
        let mut found = Vec::new();
        for saved in self.store.list().into_iter().filter(|saved| saved.id.region != TOMBSTONES) {
            // One that cannot be read is named when it is restored.
            let Ok(Some(reader)) = self.store.read(saved.id.region) else { continue };
            let header = reader.header();
            if let Some(descriptor) = header.get(1..).and_then(|_| decode_descriptor(&header.slice(1..)).ok()) {
                found.push((saved.id.index, descriptor));
            }
        }
        let mut gone = Vec::new();
        for (index, descriptor) in &found {
            let is_buried = tombstones.get(&descriptor.id).is_some_and(|tombstone| {
                descriptor.replica_on(store).is_none_or(|replica| tombstone.forbids(replica.id))
            });
            let overlaps = |other: &&(LogIndex, RegionDescriptor)| {
                let other = &other.1;
                other.id != descriptor.id
                    && other.id != RegionId::ROOT
                    && other.range.overlaps(&descriptor.range)
                    && other.epoch.version < descriptor.epoch.version
            };
            let is_early =
                *index == FIRST_INDEX && descriptor.id != RegionId::ROOT && found.iter().any(|other| overlaps(&other));
            if is_buried || is_early {
                gone.push(descriptor.id);
            }
        }
        if !gone.is_empty() {
            match self.store.remove_many(&gone).map_err(to_io) {
                Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
                _ => {}
            }
        }
        Ok(gone)
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
    whole: Mutex<BTreeMap<(StoreId, u64), Reception>>,
    /// Being written: no two writers may share a file.
    writing: Arc<Mutex<BTreeSet<WriteKey>>>,
}

/// What a file that is being received is named by.
type WriteKey = (RegionId, LogIndex, Term);

/// A snapshot that is being received.
#[derive(Debug)]
pub struct Reception {
    writer: Option<SnapshotWriter>,
    key: WriteKey,
    writing: Arc<Mutex<BTreeSet<WriteKey>>>,
}

impl Reception {
    /// How many chunks are there.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.writer.as_ref().map_or(0, SnapshotWriter::chunks)
    }

    /// Adds the next chunk.
    ///
    /// # Errors
    /// The disk is full or failed; the snapshot is then lost.
    pub fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.append(chunk).map_err(to_io)
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
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
        Ok(Self { store, keep, whole: Mutex::default(), writing: Arc::default() })
    }

    /// Begins to receive.
    ///
    /// # Errors
    /// The same snapshot is being received already, or the disk is full or failed.
    pub fn begin(&self, header: &SnapshotHeader) -> io::Result<Reception> {
        let key = (header.region, header.index, header.index_term);
        if !self.writing.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
            let kind = io::ErrorKind::ResourceBusy;
            return Err(io::Error::new(kind, "an earlier transfer of the same snapshot has not ended yet"));
        }
        let mut reception = Reception { writer: None, key, writing: Arc::clone(&self.writing) };
        let id = SnapshotId { region: header.region, index: header.index, term: header.index_term };
        let file_header = file_header(RECEIVED, &header.descriptor);
        let mut writer = self.store.receive(id, &file_header).map_err(to_io)?;
        if writer.chunks() > 0 {
            // Left by an attempt that broke off; this one starts over.
            writer.abort();
            writer = self.store.receive(id, &file_header).map_err(to_io)?;
        }
        reception.writer = Some(writer);
        Ok(reception)
    }

    /// All chunks are there.
    pub fn on_whole(&self, from: StoreId, header: &SnapshotHeader, reception: Reception) {
        self.lock().insert((from, header.transfer), reception);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(StoreId, u64), Reception>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReceivedSnapshots for Received {
    fn open(&self, from: StoreId, header: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the received snapshot is not there any more");
        let mut reception = self.lock().remove(&(from, header.transfer)).ok_or_else(gone)?;
        let writer = reception.writer.take().ok_or_else(gone)?;
        writer.finish().map_err(to_io)?;
        let reader = self.store.read(header.region).map_err(to_io)?.ok_or_else(gone)?;
        Ok(chunks_of(reader))
    }

    fn discard(&self, from: StoreId, header: &SnapshotHeader) {
        drop(self.lock().remove(&(from, header.transfer)));
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
