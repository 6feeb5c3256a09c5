//! Writing container files: records through a buffer, then the table and the end.
//!
//! A file is written under a working name. It is nothing to anybody before [`ContainerWriter::seal`] and the rename that
//! follows; until then it can be thrown away, or, if it is being received, taken up again.

use std::sync::Arc;

use super::{
    container::Source,
    error::SnapshotError,
    format::{
        self, CHUNK_BYTES_MAX, FILE_HEADER_BYTES, FOOTER_BYTES, HEADER_BYTES_MAX, IndexEntry, RECORD_HEADER_BYTES,
        RecordKind, Section, SnapshotId,
    },
};
use crate::disk::{Disk, DiskFile};

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 256 * 1024;

/// One file in the making.
#[derive(Debug)]
pub(super) struct ContainerWriter {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    name: String,
    salt: u64,
    /// Where the buffer's first byte belongs.
    written: u64,
    buffer: Vec<u8>,
    open: Option<OpenSection>,
    sections: Vec<(SnapshotId, Section)>,
}

/// The section that is being written.
#[derive(Clone, Copy, Debug)]
struct OpenSection {
    id: SnapshotId,
    offset: u64,
    chunks: u64,
    bytes: u64,
}

impl ContainerWriter {
    /// A new file of this working name; one that has it goes.
    pub(super) fn create(disk: Arc<dyn Disk>, name: String, salt: u64) -> Result<Self, SnapshotError> {
        let create = || match disk.create(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                disk.remove(&name)?;
                disk.create(&name)
            }
            created => created,
        };
        let file = create().map_err(|error| SnapshotError::io(disk.describe(&name), error))?;
        let buffer = format::encode_file_header(salt).to_vec();
        Ok(Self { disk, file, name, salt, written: 0, buffer, open: None, sections: Vec::new() })
    }

    /// Takes up a file that was left behind while it received this snapshot. `None`: it holds nothing of it.
    pub(super) fn resume(
        disk: Arc<dyn Disk>,
        name: String,
        id: SnapshotId,
        header: &[u8],
    ) -> Result<Option<Self>, SnapshotError> {
        let file = match disk.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SnapshotError::io(disk.describe(&name), error)),
        };
        let Some((source, mut open, mut at)) = whole(open_received(file, disk.describe(&name), id, header))?.flatten()
        else {
            return Ok(None);
        };
        while let Some(record) = whole(source.record(at, source.len))?.filter(|record| record.kind == RecordKind::Chunk)
        {
            open.chunks += 1;
            open.bytes += record.payload.len() as u64;
            at = record.next;
        }
        let (file, salt) = (Arc::clone(source.file()), source.salt());
        Ok(Some(Self {
            disk,
            file,
            name,
            salt,
            written: at,
            buffer: Vec::new(),
            open: Some(open),
            sections: Vec::new(),
        }))
    }

    pub(super) fn begin(&mut self, id: SnapshotId, header: &[u8]) -> Result<(), SnapshotError> {
        assert!(self.open.is_none(), "a section is written after another, not inside it");
        check_len("a snapshot header", header.len(), HEADER_BYTES_MAX)?;
        self.open = Some(OpenSection { id, offset: self.at(), chunks: 0, bytes: 0 });
        self.record(RecordKind::Begin, &[&format::encode_begin(&id), header])
    }

    pub(super) fn append(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        check_len("a chunk", chunk.len(), CHUNK_BYTES_MAX)?;
        self.record(RecordKind::Chunk, &[chunk])?;
        let open = self.open.as_mut().expect("chunks are appended to a section");
        open.chunks += 1;
        open.bytes += chunk.len() as u64;
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), SnapshotError> {
        let OpenSection { id, offset, chunks, bytes } = self.open.take().expect("a section that was begun is ended");
        self.record(RecordKind::End, &[&format::encode_end(chunks, bytes)])?;
        self.sections.push((id, Section { index: id.index, term: id.term, offset, chunks, bytes }));
        Ok(())
    }

    /// How many chunks the open section has.
    pub(super) fn chunks(&self) -> u64 {
        self.open.map_or(0, |open| open.chunks)
    }

    /// The sections that are complete.
    pub(super) fn sections(&self) -> &[(SnapshotId, Section)] {
        &self.sections
    }

    pub(super) fn len(&self) -> u64 {
        self.at()
    }

    /// Hands everything so far to the system.
    pub(super) fn write_out(&mut self) -> Result<(), SnapshotError> {
        self.file.write_at(&self.buffer, self.written).map_err(|error| self.io_error(error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything so far durable.
    pub(super) fn sync(&mut self) -> Result<(), SnapshotError> {
        self.write_out()?;
        self.file.sync_data().map_err(|error| self.io_error(error))
    }

    /// Writes the table and the end; the file is complete after a [`Self::sync`].
    pub(super) fn seal(&mut self, entries: &[IndexEntry]) -> Result<(), SnapshotError> {
        self.cover_old_end()?;
        let index_at = self.at();
        self.record(RecordKind::Index, &[&format::encode_index(entries)])?;
        let footer = format::encode_footer(self.salt, index_at, self.at() + FOOTER_BYTES as u64);
        self.buffer.extend_from_slice(&footer);
        self.write_out()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Removes the file, as well as it can: what stays is cleaned up at the next start.
    pub(super) fn discard(self) {
        if let Err(error) = self.disk.remove(&self.name) {
            tracing::warn!(file = self.disk.describe(&self.name), %error, "cannot remove an unfinished snapshot file");
        }
    }

    /// A file that was taken up may be longer than what is valid of it. The end has to come last, so the rest is covered.
    fn cover_old_end(&mut self) -> Result<(), SnapshotError> {
        let len = self.file.len().map_err(|error| self.io_error(error))?;
        while self.at() < len {
            let rest = usize::try_from(len - self.at()).unwrap_or(usize::MAX).saturating_sub(RECORD_HEADER_BYTES);
            self.record(RecordKind::Pad, &[&vec![0; rest.min(CHUNK_BYTES_MAX)]])?;
        }
        Ok(())
    }

    fn at(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn record(&mut self, kind: RecordKind, payload: &[&[u8]]) -> Result<(), SnapshotError> {
        let at = self.at();
        format::encode_record(&mut self.buffer, self.salt, at, kind, payload);
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }

    fn io_error(&self, error: std::io::Error) -> SnapshotError {
        SnapshotError::io(self.disk.describe(&self.name), error)
    }
}

/// Reads the start of a file that was being received: which section is open, and where its chunks begin.
fn open_received(
    file: Arc<dyn DiskFile>,
    name: String,
    id: SnapshotId,
    header: &[u8],
) -> Result<Option<(Source, OpenSection, u64)>, SnapshotError> {
    let source = Source::open(file, name)?;
    let offset = FILE_HEADER_BYTES as u64;
    let begin = source.record(offset, source.len)?;
    let is_the_same = begin.kind == RecordKind::Begin && format::decode_begin(&begin.payload) == Ok((id, header));
    Ok(is_the_same.then_some((source, OpenSection { id, offset, chunks: 0, bytes: 0 }, begin.next)))
}

/// A part that is damaged was not received.
fn whole<T>(read: Result<T, SnapshotError>) -> Result<Option<T>, SnapshotError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(SnapshotError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check_len(what: &'static str, len: usize, max: usize) -> Result<(), SnapshotError> {
    if len > max { Err(SnapshotError::TooLong { what, len, max }) } else { Ok(()) }
}
