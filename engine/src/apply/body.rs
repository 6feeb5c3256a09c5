//! What is inside a snapshot: one stream of bytes, cut into chunks, the same for a file here and for a stream to a peer.
//!
//! ```text
//! form 1 (1)   shared state:  ( key length varint | key | value length varint | value )*      to the end
//!              stored keys: the region's session records, its own records, then its data
//! form 2 (1)   own state:     count varint | ( session u128 | length varint | record )*
//!              count varint | ( length varint | name | length varint | record of the region itself )*
//!              then what the machine wrote, to the end
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bytes::Bytes;
use multiraft_storage::Pair;
use multiraft_transport::SessionId;

use crate::region::sessions::SessionRecord;

const SHARED: u8 = 1;
const OWN: u8 = 2;

/// How many bytes a chunk has, except the last of a snapshot.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// No key, value or record is longer; what claims to be is damaged.
const PIECE_BYTES_MAX: u64 = 1 << 32;

/// The chunks of a snapshot, one after the other.
pub type Chunks<'a> = Box<dyn Iterator<Item = io::Result<Bytes>> + Send + 'a>;

/// What the engine keeps of a region beside a machine that holds its own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnRecords {
    pub(super) sessions: BTreeMap<SessionId, SessionRecord>,
    /// Records of the region itself, by name.
    pub(super) records: BTreeMap<Bytes, Bytes>,
}

/// Cuts a stream into chunks.
pub(super) struct ChunkWriter<'a> {
    buffer: Vec<u8>,
    chunk_bytes: usize,
    sink: &'a mut dyn FnMut(Bytes) -> io::Result<()>,
}

impl<'a> ChunkWriter<'a> {
    /// Begins a stream of shared state.
    pub(super) fn shared(chunk_bytes: usize, sink: &'a mut dyn FnMut(Bytes) -> io::Result<()>) -> Self {
        Self { buffer: vec![SHARED], chunk_bytes, sink }
    }

    /// Begins a stream of own state.
    pub(super) fn own(
        chunk_bytes: usize,
        sink: &'a mut dyn FnMut(Bytes) -> io::Result<()>,
        own: &OwnRecords,
    ) -> io::Result<Self> {
        let mut writer = Self { buffer: vec![OWN], chunk_bytes, sink };
        writer.number(own.sessions.len() as u64)?;
        for (id, record) in &own.sessions {
            writer.write_all(&id.0.to_be_bytes())?;
            writer.piece(&record.encode())?;
        }
        writer.number(own.records.len() as u64)?;
        for (name, record) in &own.records {
            writer.piece(name)?;
            writer.piece(record)?;
        }
        Ok(writer)
    }

    /// Adds a pair of the shared state.
    pub(super) fn pair(&mut self, (key, value): &Pair) -> io::Result<()> {
        self.piece(key)?;
        self.piece(value)
    }

    /// Hands the last chunk over.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.cut()
    }

    fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(bytes.len() as u64)?;
        self.write_all(bytes)
    }

    fn number(&mut self, mut value: u64) -> io::Result<()> {
        while value >= 0x80 {
            self.write_all(&[(value as u8) | 0x80])?;
            value >>= 7;
        }
        self.write_all(&[value as u8])
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        (self.sink)(chunk)
    }
}

impl Write for ChunkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.chunk_bytes.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() >= self.chunk_bytes {
            self.cut()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Chunks are cut by size alone, so that the same state gives the same chunks.
        Ok(())
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot makes no sense: {what}"))
}

/// A stream, put together again from its chunks.
pub(super) struct ChunkReader<'a> {
    chunks: Chunks<'a>,
    current: Bytes,
}

impl<'a> ChunkReader<'a> {
    /// Opens a stream of shared state.
    pub(super) fn shared(chunks: Chunks<'a>) -> io::Result<Self> {
        Self::open(chunks, SHARED)
    }

    /// Opens a stream of own state: the engine's records are read, the rest is the machine's.
    pub(super) fn own(chunks: Chunks<'a>) -> io::Result<(OwnRecords, Self)> {
        let mut reader = Self::open(chunks, OWN)?;
        let count = reader.number()?.ok_or_else(|| damaged("it ends before its sessions"))?;
        let mut own = OwnRecords::default();
        for _ in 0..count {
            let mut id = [0; 16];
            reader.read_exact(&mut id)?;
            let record = reader.piece()?.ok_or_else(|| damaged("a session is cut off"))?;
            let record = SessionRecord::decode(&record).ok_or_else(|| damaged("a session record cannot be read"))?;
            own.sessions.insert(SessionId(u128::from_be_bytes(id)), record);
        }
        let count = reader.number()?.ok_or_else(|| damaged("it ends before the region's records"))?;
        for _ in 0..count {
            let (name, record) = reader.pair()?.ok_or_else(|| damaged("a record is cut off"))?;
            own.records.insert(name, record);
        }
        Ok((own, reader))
    }

    fn open(chunks: Chunks<'a>, form: u8) -> io::Result<Self> {
        let mut reader = Self { chunks, current: Bytes::new() };
        let mut found = [0];
        reader.read_exact(&mut found)?;
        if found[0] == form { Ok(reader) } else { Err(damaged("it is of another form of state machine")) }
    }

    /// The next pair of the shared state; `None` at the end.
    pub(super) fn pair(&mut self) -> io::Result<Option<Pair>> {
        let Some(key) = self.piece()? else {
            return Ok(None);
        };
        let value = self.piece()?.ok_or_else(|| damaged("a key has no value"))?;
        Ok(Some((key, value)))
    }

    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let Some(len) = self.number()? else {
            return Ok(None);
        };
        if len > PIECE_BYTES_MAX {
            return Err(damaged("a length is out of bounds"));
        }
        let mut piece = Vec::new();
        // Read as far as it goes: a false length must not reserve memory.
        let got = self.by_ref().take(len).read_to_end(&mut piece)?;
        if got as u64 == len { Ok(Some(piece.into())) } else { Err(damaged("a piece is cut off")) }
    }

    /// A varint; `None` at the end of the stream.
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let mut byte = [0];
            if self.read(&mut byte)? == 0 {
                return if shift == 0 { Ok(None) } else { Err(damaged("a number is cut off")) };
            }
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(damaged("a number is out of bounds"))
    }
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.next() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::LogIndex;

    use super::*;

    fn chunks(all: &[Bytes]) -> Chunks<'static> {
        let all = all.to_vec();
        Box::new(all.into_iter().map(Ok))
    }

    fn shared_stream(pairs: &[Pair]) -> Vec<Bytes> {
        let mut all = Vec::new();
        let mut sink = |chunk| {
            all.push(chunk);
            Ok(())
        };
        let mut writer = ChunkWriter::shared(CHUNK_BYTES, &mut sink);
        pairs.iter().try_for_each(|pair| writer.pair(pair)).unwrap();
        writer.finish().unwrap();
        all
    }

    fn read_pairs(all: &[Bytes]) -> io::Result<Vec<Pair>> {
        let mut reader = ChunkReader::shared(chunks(all))?;
        std::iter::from_fn(|| reader.pair().transpose()).collect()
    }

    #[test]
    fn pairs_larger_than_a_chunk_survive_a_round_trip() {
        let pairs = vec![
            (Bytes::from_static(b"a"), Bytes::from_static(b"1")),
            (Bytes::from_static(b"b"), Bytes::from(vec![7; 2 * CHUNK_BYTES + 5])),
            (Bytes::from_static(b"c"), Bytes::new()),
        ];
        let all = shared_stream(&pairs);
        assert_eq!(all.iter().map(Bytes::len).collect::<Vec<_>>()[..2], [CHUNK_BYTES, CHUNK_BYTES]);
        assert_eq!(read_pairs(&all).unwrap(), pairs);
        assert_eq!(read_pairs(&shared_stream(&[])).unwrap(), vec![]);
    }

    #[test]
    fn cut_or_foreign_streams_are_refused() {
        let all = shared_stream(&[(Bytes::from_static(b"key"), Bytes::from_static(b"value"))]);
        for len in [0, 2, 4, 6, 9] {
            assert!(read_pairs(&[all[0].slice(..len)]).is_err(), "cut at {len}");
        }
        assert!(ChunkReader::own(chunks(&all)).is_err());
    }

    #[test]
    fn a_machines_bytes_follow_the_engines_records() {
        let own = OwnRecords {
            sessions: BTreeMap::from([(SessionId(5), SessionRecord::open(LogIndex(3)))]),
            records: BTreeMap::from([(Bytes::from_static(b"name"), Bytes::from_static(b"record"))]),
        };
        let mut all = Vec::new();
        let mut sink = |chunk| {
            all.push(chunk);
            Ok(())
        };
        let mut writer = ChunkWriter::own(CHUNK_BYTES, &mut sink, &own).unwrap();
        writer.write_all(b"state").unwrap();
        writer.finish().unwrap();
        let (found, mut reader) = ChunkReader::own(chunks(&all)).unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!((found, rest.as_slice()), (own, b"state".as_slice()));
    }
}
