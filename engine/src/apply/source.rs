//! A region's state of one instant, on its way out: to a peer or to a file.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, Term};
use multiraft_storage::StateSnapshot;

use crate::apply::body::{CHUNK_BYTES, ChunkWriter, OwnRecords};
use crate::machine::SnapshotWrite;
use crate::region::merge::Absorbed;

/// The state of a region at one index. Holding it costs memory for what is overwritten meanwhile: use it soon.
pub struct SnapshotSource {
    /// The region, as of `index`.
    pub descriptor: Arc<RegionDescriptor>,
    /// The last entry that the state includes.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// What the region has absorbed.
    pub absorbed: Arc<Absorbed>,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Parts of the shared state store.
    Shared(Vec<Box<dyn StateSnapshot>>),
    /// The engine's records, then what the machine writes.
    Own(OwnRecords, SnapshotWrite),
}

impl SnapshotSource {
    /// Writes the snapshot's chunks, in order, to `sink`; at least one.
    ///
    /// # Errors
    /// What the sink, the state store or the machine returned.
    pub fn stream(self, sink: &mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        self.stream_by(CHUNK_BYTES, sink)
    }

    /// [`SnapshotSource::stream`] with chunks of another size, at least one byte.
    ///
    /// # Errors
    /// As there.
    pub fn stream_by(self, chunk_bytes: usize, sink: &mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        match self.content {
            Content::Shared(parts) => {
                let mut writer = ChunkWriter::shared(chunk_bytes, sink);
                for mut part in parts {
                    loop {
                        let pairs = part.next_chunk(CHUNK_BYTES).map_err(io::Error::other)?;
                        if pairs.is_empty() {
                            break;
                        }
                        pairs.iter().try_for_each(|pair| writer.pair(pair))?;
                    }
                }
                writer.finish()
            }
            Content::Own(own, write) => {
                let mut writer = ChunkWriter::own(chunk_bytes, sink, &own)?;
                write(&mut writer)?;
                writer.finish()
            }
        }
    }
}
