//! Snapshot files: the durable base of regions whose state is not durable by itself, and the landing place of what peers send.
//!
//! Over the storage crate's [`SnapshotStore`]; shared by the shell and the simulator.

mod leftovers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use multiraft_storage::snapshot::{
    SnapshotError, SnapshotId, SnapshotItem, SnapshotReader, SnapshotStore, SnapshotWriter, Spool, SpoolChunk,
};
use multiraft_storage::{Disk, RealDisk};
use multiraft_transport::{CaptureId, SnapshotChunk, SnapshotHeader, decode_descriptor};

use crate::apply::{
    AppliedRegion, Backend, CHUNK_BYTES, Chunks, FIRST_INDEX, ReceivedSnapshots, SnapshotSource, stored_descriptor,
};
use crate::error::StartError;
use crate::logic::KeptSnapshot;
use crate::region::merge::{Absorbed, MergeState};
use crate::snapshots::leftovers::TOMBSTONES;

/// Snapshots up to this size share a file with others.
const SHARED_FILE_BYTES: usize = 4 << 20;
/// How much one round of tidying up rewrites.
const COMPACT_BYTES: u64 = 64 << 20;

/// Where a snapshot file comes from: the first byte of its header, before the descriptor.
const CHECKPOINT: u8 = 0;
const RECEIVED: u8 = 1;

/// `origin (1) | length of the list of absorbed regions (u32, little endian) | that list | descriptor`
fn file_header(origin: u8, absorbed: &Absorbed, descriptor: &RegionDescriptor) -> Bytes {
    let (stored, absorbed) = (stored_descriptor(descriptor), absorbed.encode());
    let mut header = Vec::with_capacity(stored.len() + absorbed.len() + 5);
    header.push(origin);
    header.extend_from_slice(&u32::try_from(absorbed.len()).unwrap_or(u32::MAX).to_le_bytes());
    header.extend_from_slice(&absorbed);
    header.extend_from_slice(&stored);
    header.into()
}

/// What a file's header says; `None` if it makes no sense.
fn read_header(header: &Bytes) -> Option<(u8, Absorbed, RegionDescriptor)> {
    let length = header.get(1..5)?.try_into().ok().map(u32::from_le_bytes)?;
    let end = usize::try_from(length).ok()?.checked_add(5).filter(|end| *end <= header.len())?;
    let absorbed = Absorbed::decode(&header[5..end])?;
    Some((header[0], absorbed, decode_descriptor(&header.slice(end..)).ok()?))
}

/// What was found at the start of a store whose state is not durable by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredRegions {
    /// The regions that are back, in order of id.
    pub regions: Vec<AppliedRegion>,
    /// The regions that are not, with the reason.
    pub damaged: Vec<(RegionId, String)>,
}

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
            // A region's first state is ahead of its log as a received one is.
            let origin = if source.index == FIRST_INDEX { RECEIVED } else { CHECKPOINT };
            small.extend(self.save_large(source, origin)?);
        }
        self.store.save_many(small).map_err(to_io)
    }

    /// Saves a state that is ahead of its region's log, as a received one is; durable when this returns.
    ///
    /// # Errors
    /// As [`SnapshotFiles::save`].
    pub(crate) fn save_ahead_of_log(&self, source: SnapshotSource) -> io::Result<()> {
        let small = self.save_large(source, RECEIVED)?;
        self.store.save_many(small.into_iter().collect()).map_err(to_io)
    }

    /// Saves a snapshot in a file of its own, unless it turns out to be small: then it is returned.
    fn save_large(&self, source: SnapshotSource, origin: u8) -> io::Result<Option<SnapshotItem>> {
        let id = SnapshotId { region: source.descriptor.id, index: source.index, term: source.term };
        let header = file_header(origin, &source.absorbed, &source.descriptor);
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
        let header = read_header(reader.header());
        let (origin, _, descriptor) = header.ok_or_else(|| invalid("its header makes no sense".to_owned()))?;
        let SnapshotId { index, term, .. } = reader.id();
        let installed = origin == RECEIVED;
        let descriptor = Arc::new(descriptor);
        let mut applied = AppliedRegion { descriptor, index, term, installed, merge: MergeState::default() };
        applied.merge = backend.restore(&applied, chunks_of(reader))?;
        Ok(Some(applied))
    }

    /// Rewrites files that are mostly superseded, some at a time. To be called now and then.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn tidy(&self) -> io::Result<()> {
        self.store.compact(COMPACT_BYTES).map(|_| ()).map_err(to_io)
    }
}

/// How many bytes of a snapshot that is sent stay in memory; only what is beyond costs a file.
const SENT_IN_MEMORY_BYTES: u64 = 512 << 10;

/// A captured snapshot on its way out: written once, read by every transfer of it.
#[derive(Debug)]
pub struct Captured {
    name: CaptureId,
    descriptor: Arc<RegionDescriptor>,
    /// What the region has absorbed.
    absorbed: Arc<Absorbed>,
    index: LogIndex,
    term: Term,
    spool: Spool,
}

impl Captured {
    /// What the region has absorbed, as a stream's header tells it.
    #[must_use]
    pub fn absorbed(&self) -> Bytes {
        self.absorbed.encode()
    }

    /// What it is, and how much of it there is.
    #[must_use]
    pub fn describe(&self) -> KeptSnapshot {
        let (chunks, bytes) = self.spool.size();
        KeptSnapshot {
            region: self.descriptor.id,
            capture: self.name,
            index: self.index,
            index_term: self.term,
            descriptor: Arc::clone(&self.descriptor),
            chunks,
            bytes,
        }
    }

    /// Writes what was captured, until nobody holds it any more or `is_over` says so.
    pub fn fill(place: &Weak<Self>, source: SnapshotSource, is_over: &dyn Fn() -> bool) {
        Self::fill_by(place, source, CHUNK_BYTES, is_over);
    }

    /// [`Captured::fill`] with chunks of another size.
    pub fn fill_by(place: &Weak<Self>, source: SnapshotSource, chunk_bytes: usize, is_over: &dyn Fn() -> bool) {
        let written = source.stream_by(chunk_bytes, &mut |chunk| match place.upgrade().filter(|_| !is_over()) {
            Some(captured) => captured.spool.append(chunk).map_err(to_io),
            None => Err(io::Error::other("nobody wants it any more")),
        });
        let Some(captured) = place.upgrade() else { return };
        match written {
            Ok(()) => captured.spool.finish(),
            Err(error) => {
                tracing::warn!(region = %captured.descriptor.id, %error, "a captured state could not be written out");
                captured.spool.fail(error.to_string());
            }
        }
    }

    /// A chunk of it; waits up to `patience` for it to be written. `None`: it is not there yet.
    ///
    /// # Errors
    /// It never will be: the state could not be read, or the disk is full or failed.
    pub fn chunk(&self, number: u64, patience: Duration) -> io::Result<Option<SnapshotChunk>> {
        let chunk = self.spool.read(number, patience).map_err(to_io)?;
        Ok(chunk.map(|SpoolChunk { data, is_last, whole_crc }| {
            let crc = crc32c::crc32c(&data);
            SnapshotChunk { number, last: is_last, data, crc, whole_crc }
        }))
    }
}

/// The captured snapshots of a store that are sent, or kept to be sent again.
#[derive(Debug)]
pub struct Captures {
    store: SnapshotStore,
    held: Mutex<BTreeMap<CaptureId, Arc<Captured>>>,
}

impl Captures {
    /// None yet. What does not fit into memory lies among `files`.
    #[must_use]
    pub fn new(files: &SnapshotFiles) -> Self {
        Self { store: files.store.clone(), held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CaptureId, Arc<Captured>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for what was captured, to be filled.
    #[must_use]
    pub fn insert(&self, name: CaptureId, source: &SnapshotSource) -> Arc<Captured> {
        let captured = Arc::new(Captured {
            name,
            descriptor: Arc::clone(&source.descriptor),
            absorbed: Arc::clone(&source.absorbed),
            index: source.index,
            term: source.term,
            spool: self.store.spool(SENT_IN_MEMORY_BYTES),
        });
        self.lock().insert(name, Arc::clone(&captured));
        captured
    }

    /// The capture of this name, if it is there.
    #[must_use]
    pub fn get(&self, name: CaptureId) -> Option<Arc<Captured>> {
        self.lock().get(&name).cloned()
    }

    /// What is there to be sent again. A capture that could not be written out is let go.
    #[must_use]
    pub fn kept(&self, name: CaptureId) -> Option<KeptSnapshot> {
        let captured = self.get(name)?;
        if captured.spool.is_good() {
            return Some(captured.describe());
        }
        self.release(name);
        None
    }

    /// Lets a capture go, as soon as nothing sends it any more.
    pub fn release(&self, name: CaptureId) {
        let captured = self.lock().remove(&name);
        drop(captured);
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
    /// What broken transfers have left, at most one of a region.
    parts: Mutex<BTreeMap<RegionId, Reception>>,
    /// Being written: no two writers may share a file.
    writing: Arc<Mutex<BTreeSet<WriteKey>>>,
}

/// What a file that is being received is named by.
type WriteKey = (RegionId, LogIndex, Term);

/// A snapshot that is being received. Dropped, it is gone.
#[derive(Debug)]
pub struct Reception {
    writer: Option<SnapshotWriter>,
    key: WriteKey,
    capture: CaptureId,
    descriptor: Arc<RegionDescriptor>,
    bytes: u64,
    /// Of all data so far.
    crc: u32,
    /// False once something went wrong that more chunks do not heal.
    is_sound: bool,
    writing: Arc<Mutex<BTreeSet<WriteKey>>>,
}

impl Reception {
    /// How many chunks are there.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.writer.as_ref().map_or(0, SnapshotWriter::chunks)
    }

    /// Adds a chunk, which must be the next one, and checks it; with the last one the whole.
    ///
    /// # Errors
    /// The chunk is out of order or damaged; the disk is full or failed.
    pub fn take(&mut self, chunk: &SnapshotChunk) -> io::Result<()> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if !self.is_sound {
            return invalid("nothing can be added to what is there");
        }
        if chunk.number != self.chunks() || crc32c::crc32c(&chunk.data) != chunk.crc {
            return invalid("a chunk is out of order or damaged");
        }
        self.is_sound = false;
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.append(&chunk.data).map_err(to_io)?;
        self.crc = crc32c::crc32c_append(self.crc, &chunk.data);
        self.bytes += chunk.data.len() as u64;
        if chunk.last && chunk.whole_crc != self.crc {
            return invalid("the chunks do not make up the snapshot that was sent");
        }
        self.is_sound = true;
        Ok(())
    }

    fn describe(&self) -> KeptSnapshot {
        let (region, index, index_term) = self.key;
        let (capture, descriptor) = (self.capture, Arc::clone(&self.descriptor));
        KeptSnapshot { region, capture, index, index_term, descriptor, chunks: self.chunks(), bytes: self.bytes }
    }

    /// Whether a stream with this header goes on where this one ended.
    fn is_continued_by(&self, header: &SnapshotHeader) -> bool {
        self.key == (header.region, header.index, header.index_term)
            && self.capture == header.capture
            && self.descriptor == header.descriptor
            && self.chunks() == header.first_chunk
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
        Ok(Self { store, keep, whole: Mutex::default(), parts: Mutex::default(), writing: Arc::default() })
    }

    /// Begins to receive, or goes on where a transfer of the same capture broke off.
    ///
    /// # Errors
    /// The same snapshot is being received already; the first chunks that the header leaves out are not here; or the disk is
    /// full or failed.
    pub fn begin(&self, header: &SnapshotHeader) -> io::Result<Reception> {
        let part = self.parts().remove(&header.region);
        if header.first_chunk > 0 {
            return part.filter(|part| part.is_continued_by(header)).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the chunks before the first one are not here any more")
            });
        }
        drop(part);
        let key = (header.region, header.index, header.index_term);
        if !self.writing.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
            let kind = io::ErrorKind::ResourceBusy;
            return Err(io::Error::new(kind, "an earlier transfer of the same snapshot has not ended yet"));
        }
        let mut reception = Reception {
            writer: None,
            key,
            capture: header.capture,
            descriptor: Arc::clone(&header.descriptor),
            bytes: 0,
            crc: 0,
            is_sound: true,
            writing: Arc::clone(&self.writing),
        };
        let id = SnapshotId { region: header.region, index: header.index, term: header.index_term };
        let file_header =
            file_header(RECEIVED, &Absorbed::decode(&header.absorbed).unwrap_or_default(), &header.descriptor);
        let mut writer = self.store.receive(id, &file_header).map_err(to_io)?;
        if writer.chunks() > 0 {
            // Left by an attempt that nothing more is known of; this one starts over.
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

    /// The transfer broke off. What is there is kept, if it is of any use, until it is gone on with or forgotten.
    pub fn keep(&self, reception: Reception) -> Option<KeptSnapshot> {
        if !reception.is_sound || reception.chunks() == 0 {
            return None;
        }
        let kept = reception.describe();
        let before = self.parts().insert(kept.region, reception);
        drop(before);
        Some(kept)
    }

    /// What is kept for a region.
    #[must_use]
    pub fn kept(&self, region: RegionId) -> Option<KeptSnapshot> {
        self.parts().get(&region).map(Reception::describe)
    }

    /// What is kept of a capture is of no use any more.
    pub fn forget(&self, region: RegionId, capture: CaptureId) {
        let mut parts = self.parts();
        let part =
            if parts.get(&region).is_some_and(|part| part.capture == capture) { parts.remove(&region) } else { None };
        drop(parts);
        drop(part);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(StoreId, u64), Reception>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<RegionId, Reception>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
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
