//! A snapshot on its way out: written once, as fast as it can be scanned, and read by any number of transfers, also while it
//! is still being written, and again after one of them broke off.
//!
//! So the captured view need not live as long as the slowest receiver, and what is sent again is byte for byte what was sent
//! before. The first bytes stay in memory: a small snapshot costs no file. The rest goes to a file of chunk records, each with
//! its checksum, which is nothing to anybody else and is gone at the next start.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    container::Source,
    error::SnapshotError,
    format::{self, CHUNK_BYTES_MAX, FILE_HEADER_BYTES, RecordKind},
    store::SnapshotStore,
};
use crate::disk::{Disk, DiskFile};

/// One snapshot's chunks. One thread writes, any number read.
#[derive(Debug)]
pub struct Spool {
    store: SnapshotStore,
    memory_bytes: u64,
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Debug)]
struct State {
    places: Vec<Place>,
    file: Option<SpoolFile>,
    bytes: u64,
    /// Of all data so far.
    crc: u32,
    end: End,
}

#[derive(Clone, Debug)]
enum Place {
    Memory(Bytes),
    /// Where its record begins and ends.
    File(u64, u64),
}

#[derive(Debug)]
enum End {
    /// More chunks follow.
    Open,
    Whole,
    Failed(String),
}

/// The part that is not in memory. The file goes with it.
#[derive(Debug)]
struct SpoolFile {
    disk: Arc<dyn Disk>,
    name: String,
    source: Source,
    salt: u64,
    end: u64,
}

/// A chunk of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolChunk {
    /// Its bytes.
    pub data: Bytes,
    /// None follows.
    pub is_last: bool,
    /// On the last: crc32c of the data of all chunks. Else zero.
    pub whole_crc: u32,
}

impl Spool {
    pub(super) fn new(store: SnapshotStore, memory_bytes: u64) -> Self {
        let state = State { places: Vec::new(), file: None, bytes: 0, crc: 0, end: End::Open };
        Self { store, memory_bytes, state: Mutex::new(state), grown: Condvar::new() }
    }

    /// Adds the next chunk. Only one thread may do that.
    ///
    /// # Errors
    /// [`SnapshotError::Unfinished`] once the spool was given up; [`SnapshotError::NoSpace`]; [`SnapshotError::TooLong`];
    /// [`SnapshotError::Io`]. After any of them the spool is of no further use.
    pub fn append(&self, chunk: Bytes) -> Result<(), SnapshotError> {
        let place = self.write(&chunk).inspect_err(|error| self.fail(error.to_string()))?;
        let mut state = self.lock();
        state.bytes += chunk.len() as u64;
        state.crc = crc32c::crc32c_append(state.crc, &chunk);
        state.places.push(place);
        drop(state);
        self.grown.notify_all();
        Ok(())
    }

    /// Puts a chunk where it will stay. The lock is not held while the disk writes.
    fn write(&self, chunk: &Bytes) -> Result<Place, SnapshotError> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(SnapshotError::TooLong { what: "a chunk", len: chunk.len(), max: CHUNK_BYTES_MAX });
        }
        let mut state = self.lock();
        if let End::Failed(reason) = &state.end {
            return Err(SnapshotError::Unfinished { reason: reason.clone() });
        }
        if state.file.is_none() && state.bytes + chunk.len() as u64 <= self.memory_bytes {
            return Ok(Place::Memory(chunk.clone()));
        }
        let file = match &mut state.file {
            Some(file) => file,
            none => none.insert(SpoolFile::create(&self.store)?),
        };
        let (start, mut record) = (file.end, Vec::with_capacity(chunk.len() + 64));
        format::encode_record(&mut record, file.salt, start, RecordKind::Chunk, &[chunk]);
        file.end += record.len() as u64;
        let (end, handle, name) = (file.end, Arc::clone(file.source.file()), file.name.clone());
        drop(state);
        handle.write_at(&record, start).map_err(|error| SnapshotError::io(name, error))?;
        Ok(Place::File(start, end))
    }

    /// All chunks are there; an empty one if there was none.
    pub fn finish(&self) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Whole;
            if state.places.is_empty() {
                state.places.push(Place::Memory(Bytes::new()));
            }
        }
        drop(state);
        self.grown.notify_all();
    }

    /// No more chunks will come, and those that are there make no snapshot. Whoever writes learns it with his next chunk.
    /// Does nothing to a spool that is whole.
    pub fn fail(&self, reason: impl Into<String>) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Failed(reason.into());
        }
        drop(state);
        self.grown.notify_all();
    }

    /// How many chunks and bytes there are so far.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let state = self.lock();
        (state.places.len() as u64, state.bytes)
    }

    /// Whether it can still become whole, or is.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !matches!(self.lock().end, End::Failed(_))
    }

    /// A chunk, checked; waits up to `patience` for it to be written. `None`: it is not there yet.
    ///
    /// # Errors
    /// [`SnapshotError::Unfinished`] if it never will be; [`SnapshotError::Damaged`]; [`SnapshotError::Io`].
    pub fn read(&self, number: u64, patience: Duration) -> Result<Option<SpoolChunk>, SnapshotError> {
        // Whether a chunk is the last is known when there is another, or the end.
        let is_pending =
            |state: &mut State| matches!(state.end, End::Open) && state.places.len() as u64 <= number.saturating_add(1);
        let waited = self.grown.wait_timeout_while(self.lock(), patience, is_pending);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if is_pending(&mut state) {
            return Ok(None);
        }
        if let End::Failed(reason) = &state.end {
            return Err(SnapshotError::Unfinished { reason: reason.clone() });
        }
        let place = usize::try_from(number).ok().and_then(|number| state.places.get(number)).cloned();
        let Some(place) = place else {
            return Err(SnapshotError::Unfinished { reason: format!("there is no chunk {number}") });
        };
        let is_last = matches!(state.end, End::Whole) && number + 1 == state.places.len() as u64;
        let whole_crc = if is_last { state.crc } else { 0 };
        let data = match place {
            Place::Memory(data) => data,
            Place::File(start, end) => {
                let file = state.file.as_ref().expect("invariant: what lies in a file has one");
                let mut source = file.source.clone();
                drop(state);
                source.len = end;
                source.record(start, end)?.payload
            }
        };
        Ok(Some(SpoolChunk { data, is_last, whole_crc }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpoolFile {
    fn create(store: &SnapshotStore) -> Result<Self, SnapshotError> {
        let (disk, name, salt) = store.working_file()?;
        let described = disk.describe(&name);
        let create = || -> std::io::Result<Arc<dyn DiskFile>> {
            let file = disk.create(&name)?;
            file.write_at(&format::encode_file_header(salt), 0)?;
            Ok(file)
        };
        let file = create().map_err(|error| {
            // Perhaps it was made and not written; else there is nothing to remove.
            let _ = disk.remove(&name);
            SnapshotError::io(&described, error)
        })?;
        let source = Source::open(file, described)?;
        Ok(Self { disk, name, source, salt, end: FILE_HEADER_BYTES as u64 })
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.name) {
            tracing::warn!(file = self.disk.describe(&self.name), %error, "cannot remove a sent snapshot's file");
        }
    }
}
