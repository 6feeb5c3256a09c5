//! Reading container files: the table of a whole one, a snapshot out of it, and what can still be told of a damaged one.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::RegionId;

use super::{
    catalog::Pin,
    error::SnapshotError,
    format::{
        self, FILE_HEADER_BYTES, FOOTER_BYTES, Flaw, IndexEntry, RECORD_HEADER_BYTES, RecordKind, Section, SnapshotId,
    },
};
use crate::disk::DiskFile;

/// A container file whose table has been checked.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) len: u64,
    pub(super) entries: Vec<IndexEntry>,
}

/// A file to read records from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: Arc<dyn DiskFile>,
    /// As an operator would look for it.
    name: String,
    salt: u64,
    pub(super) len: u64,
}

/// A record that has passed its check.
pub(super) struct Record {
    pub(super) kind: RecordKind,
    pub(super) payload: Bytes,
    /// Where the next one begins.
    pub(super) next: u64,
}

impl Source {
    /// Reads the file header.
    pub(super) fn open(file: Arc<dyn DiskFile>, name: String) -> Result<Self, SnapshotError> {
        let len = file.len().map_err(|source| SnapshotError::io(&name, source))?;
        let mut source = Self { file, name, salt: 0, len };
        let header = source.read_array::<FILE_HEADER_BYTES>(0)?;
        source.salt = format::decode_file_header(&header).map_err(|flaw| source.damaged(0, flaw))?;
        Ok(source)
    }

    pub(super) fn salt(&self) -> u64 {
        self.salt
    }

    pub(super) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// The record at `offset`, all of which has to lie before `end`.
    pub(super) fn record(&self, offset: u64, end: u64) -> Result<Record, SnapshotError> {
        let damaged = |flaw| self.damaged(offset, flaw);
        let payload_at = offset.checked_add(RECORD_HEADER_BYTES as u64).filter(|at| *at <= end);
        let payload_at = payload_at.ok_or_else(|| damaged("a record ends beyond its bounds"))?;
        let header = self.read_array::<RECORD_HEADER_BYTES>(offset)?;
        let header = format::decode_record_header(&header, self.salt, offset).map_err(damaged)?;
        let next = payload_at + header.len as u64;
        if next > end.min(self.len) {
            return Err(damaged("a record ends beyond its bounds"));
        }
        let mut payload = vec![0; header.len];
        self.read(&mut payload, payload_at)?;
        header.check(&payload).map_err(damaged)?;
        Ok(Record { kind: header.kind, payload: payload.into(), next })
    }

    pub(super) fn damaged(&self, offset: u64, flaw: Flaw) -> SnapshotError {
        SnapshotError::Damaged { file: self.name.clone(), offset, reason: flaw.into(), region: None }
    }

    fn read_array<const N: usize>(&self, offset: u64) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn read(&self, into: &mut [u8], offset: u64) -> Result<(), SnapshotError> {
        self.file.read_at(into, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged(offset, "the file is cut off"),
            _ => SnapshotError::io(&self.name, error),
        })
    }
}

impl Container {
    /// Opens a whole file: checks its header, its end and its table, not the snapshots themselves.
    pub(super) fn open(source: &Source) -> Result<Self, SnapshotError> {
        let footer_at = source.len.checked_sub(FOOTER_BYTES as u64).filter(|at| *at >= FILE_HEADER_BYTES as u64);
        let footer_at = footer_at.ok_or_else(|| source.damaged(0, "the file is cut off"))?;
        let footer = source.read_array::<FOOTER_BYTES>(footer_at)?;
        let index_at = format::decode_footer(&footer, source.salt, source.len);
        let index_at = index_at.map_err(|flaw| source.damaged(footer_at, flaw))?;
        let index = source.record(index_at, footer_at)?;
        if index.kind != RecordKind::Index || index.next != footer_at {
            return Err(source.damaged(index_at, "there is no index where the file's end says"));
        }
        let entries = format::decode_index(&index.payload, index_at).map_err(|flaw| source.damaged(index_at, flaw))?;
        Ok(Self { len: source.len, entries })
    }
}

/// The regions that a damaged file can still be seen to hold: those whose opening record is whole and can be reached from the
/// file's start. There may be more.
pub(super) fn regions_in_ruins(source: &Source) -> Vec<RegionId> {
    let (mut regions, mut at) = (Vec::new(), FILE_HEADER_BYTES as u64);
    while let Ok(record) = source.record(at, source.len) {
        if record.kind == RecordKind::Begin
            && let Ok((id, _)) = format::decode_begin(&record.payload)
        {
            regions.push(id.region);
        }
        at = record.next;
    }
    regions
}

/// Reads one snapshot, chunk by chunk, checking each.
///
/// The file stays readable while the reader lives, also if a newer snapshot is saved meanwhile.
#[derive(Debug)]
pub struct SnapshotReader {
    source: Source,
    id: SnapshotId,
    section: Section,
    header: Bytes,
    at: u64,
    chunks: u64,
    bytes: u64,
    is_done: bool,
    _pin: Pin,
}

impl SnapshotReader {
    pub(super) fn open(source: Source, region: RegionId, section: Section, pin: Pin) -> Result<Self, SnapshotError> {
        let id = SnapshotId { region, index: section.index, term: section.term };
        let open = || {
            let begin = source.record(section.offset, source.len)?;
            let (found, header) = match begin.kind {
                RecordKind::Begin => format::decode_begin(&begin.payload),
                _ => Err("there is no snapshot where the index says"),
            }
            .map_err(|flaw| source.damaged(section.offset, flaw))?;
            if found != id {
                return Err(source.damaged(section.offset, "there is another snapshot than the index says"));
            }
            Ok((begin.payload.slice_ref(header), begin.next))
        };
        let (header, at) = open().map_err(|error| of_region(error, region))?;
        Ok(Self { source, id, section, header, at, chunks: 0, bytes: 0, is_done: false, _pin: pin })
    }

    /// Which snapshot it is.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// What was given as header when it was saved.
    #[must_use]
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// How many chunks it has in all.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.section.chunks
    }

    /// How many bytes its chunks have in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.section.bytes
    }

    /// The next chunk, just as it was saved; `None` at the end, once all of it has been checked.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if the file does not hold what was saved; what was read so far is still right, but it is not
    /// all. [`SnapshotError::Io`] if the system refuses.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.is_done {
            return Ok(None);
        }
        self.read_next().map_err(|error| of_region(error, self.id.region))
    }

    fn read_next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let record = self.source.record(self.at, self.source.len)?;
        let damaged = |flaw| self.source.damaged(self.at, flaw);
        match record.kind {
            RecordKind::Chunk if self.chunks < self.section.chunks => {
                self.chunks += 1;
                self.bytes += record.payload.len() as u64;
                self.at = record.next;
                Ok(Some(record.payload))
            }
            RecordKind::End => {
                let end = format::decode_end(&record.payload).map_err(damaged)?;
                if end != (self.chunks, self.bytes) || end != (self.section.chunks, self.section.bytes) {
                    return Err(damaged("a snapshot has another number of chunks or bytes than were saved"));
                }
                self.is_done = true;
                Ok(None)
            }
            _ => Err(damaged("a snapshot does not end where it should")),
        }
    }
}

fn of_region(error: SnapshotError, of: RegionId) -> SnapshotError {
    match error {
        SnapshotError::Damaged { file, offset, reason, .. } => {
            SnapshotError::Damaged { file, offset, reason, region: Some(of) }
        }
        error => error,
    }
}
