//! A region's state of one instant, on its way out: to a peer or to a file.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, Term};
use multiraft_storage::StateSnapshot;

use crate::apply::body;
use crate::machine::SnapshotWrite;

/// The state of a region at one index. Holding it costs memory for what is overwritten meanwhile: use it soon.
pub struct SnapshotSource {
    /// The region, as of `index`.
    pub descriptor: Arc<RegionDescriptor>,
    /// The last entry that the state includes.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Parts of the shared state store.
    Shared(Vec<Box<dyn StateSnapshot>>),
    /// Session records, then what the machine writes.
    Own(Bytes, SnapshotWrite),
}

impl SnapshotSource {
    /// Writes the snapshot's chunks, in order, to `sink`.
    ///
    /// # Errors
    /// What the sink, the state store or the machine returned.
    pub fn stream(self, sink: &mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        match self.content {
            Content::Shared(parts) => {
                for mut part in parts {
                    loop {
                        let pairs = part.next_chunk(body::CHUNK_BYTES).map_err(io::Error::other)?;
                        if pairs.is_empty() {
                            break;
                        }
                        sink(body::pairs_chunk(&pairs))?;
                    }
                }
                Ok(())
            }
            Content::Own(sessions, write) => {
                sink(sessions)?;
                let mut pieces = Pieces { buffer: Vec::with_capacity(body::CHUNK_BYTES), sink };
                write(&mut pieces)?;
                pieces.flush()
            }
        }
    }
}

/// Cuts what a machine writes into chunks.
struct Pieces<'a> {
    buffer: Vec<u8>,
    sink: &'a mut dyn FnMut(Bytes) -> io::Result<()>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = body::CHUNK_BYTES - self.buffer.len();
        let count = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == body::CHUNK_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = body::machine_chunk(&self.buffer);
        self.buffer.clear();
        (self.sink)(chunk)
    }
}
