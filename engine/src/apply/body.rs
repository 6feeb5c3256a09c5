//! What is inside a snapshot: the same chunks for a file here and for a stream to a peer, for both forms of state machine.
//!
//! ```text
//! chunk:    tag (1) | content
//! tag 1     pairs of the shared state store: ( key length varint | key | value length varint | value )*
//!           session records lie among them under a key of their own region
//! tag 2     a piece of what an own-state machine wrote
//! tag 3     session records of an own-state region: ( session u128 | length varint | record )*
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_storage::Pair;
use multiraft_transport::SessionId;

use crate::region::command::{get_varint, put_varint};
use crate::region::sessions::SessionRecord;

const PAIRS: u8 = 1;
const MACHINE: u8 = 2;
const SESSIONS: u8 = 3;

/// How many bytes a chunk is meant to have; one that holds a single large pair has more.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// The chunks of a snapshot, one after the other.
pub type Chunks<'a> = Box<dyn Iterator<Item = io::Result<Bytes>> + Send + 'a>;

pub(crate) fn pairs_chunk(pairs: &[Pair]) -> Bytes {
    let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let mut out = BytesMut::with_capacity(bytes + 1);
    out.put_u8(PAIRS);
    for (key, value) in pairs {
        put_varint(&mut out, key.len() as u64);
        out.put_slice(key);
        put_varint(&mut out, value.len() as u64);
        out.put_slice(value);
    }
    out.freeze()
}

pub(crate) fn sessions_chunk<'a>(sessions: impl Iterator<Item = (&'a SessionId, &'a SessionRecord)>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(SESSIONS);
    for (id, record) in sessions {
        let record = record.encode();
        out.put_u128(id.0);
        put_varint(&mut out, record.len() as u64);
        out.put_slice(&record);
    }
    out.freeze()
}

pub(crate) fn machine_chunk(piece: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(piece.len() + 1);
    out.put_u8(MACHINE);
    out.put_slice(piece);
    out.freeze()
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot makes no sense: {what}"))
}

/// Reads a chunk of pairs.
pub(crate) fn read_pairs(chunk: &Bytes) -> io::Result<Vec<Pair>> {
    if chunk.first() != Some(&PAIRS) {
        return Err(damaged("a chunk of pairs was expected"));
    }
    let mut at = 1;
    let mut pairs = Vec::new();
    while at < chunk.len() {
        let key = take(chunk, &mut at).ok_or_else(|| damaged("a key is cut off"))?;
        let value = take(chunk, &mut at).ok_or_else(|| damaged("a value is cut off"))?;
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn take(chunk: &Bytes, at: &mut usize) -> Option<Bytes> {
    let len = usize::try_from(get_varint(chunk, at)?).ok()?;
    let end = at.checked_add(len).filter(|end| *end <= chunk.len())?;
    let piece = chunk.slice(*at..end);
    *at = end;
    Some(piece)
}

/// Takes the sessions off the front of an own-state snapshot; what follows is the machine's.
pub(crate) fn read_sessions(chunk: &Bytes) -> io::Result<BTreeMap<SessionId, SessionRecord>> {
    if chunk.first() != Some(&SESSIONS) {
        return Err(damaged("a chunk of sessions was expected"));
    }
    let mut at = 1;
    let mut sessions = BTreeMap::new();
    while at < chunk.len() {
        let id: [u8; 16] = chunk
            .get(at..at + 16)
            .and_then(|id| id.try_into().ok())
            .ok_or_else(|| damaged("a session id is cut off"))?;
        at += 16;
        let record = take(chunk, &mut at)
            .and_then(|record| SessionRecord::decode(&record))
            .ok_or_else(|| damaged("a session record cannot be read"))?;
        sessions.insert(SessionId(u128::from_be_bytes(id)), record);
    }
    Ok(sessions)
}

/// An own-state machine's bytes, put together again from its chunks.
pub(crate) struct MachineReader<'a> {
    chunks: Chunks<'a>,
    current: Bytes,
}

impl<'a> MachineReader<'a> {
    pub(crate) fn new(chunks: Chunks<'a>) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for MachineReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(chunk) = self.chunks.next() else {
                return Ok(0);
            };
            let chunk = chunk?;
            if chunk.first() != Some(&MACHINE) {
                return Err(damaged("a piece of the machine's state was expected"));
            }
            self.current = chunk.slice(1..);
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_a_round_trip_and_cuts_are_refused() {
        let pairs = vec![
            (Bytes::from_static(b"a"), Bytes::from_static(b"1")),
            (Bytes::from_static(b""), Bytes::from(vec![7; 300])),
        ];
        let chunk = pairs_chunk(&pairs);
        assert_eq!(read_pairs(&chunk).expect("just made"), pairs);
        assert!(read_pairs(&chunk.slice(..chunk.len() - 1)).is_err());
        assert!(read_pairs(&machine_chunk(b"x")).is_err());
    }

    #[test]
    fn a_machines_pieces_read_as_one_stream() {
        let pieces = [machine_chunk(b"ab"), machine_chunk(b""), machine_chunk(b"cde")];
        let mut reader = MachineReader::new(Box::new(pieces.into_iter().map(Ok)));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("in memory");
        assert_eq!(all, b"abcde");
    }
}
