//! Where things lie in the shared state store: one ordered key space, split by a first byte.
//!
//! ```text
//! 01 | region (u64, big endian)                    applied index and term
//! 02 | region (u64, big endian)                    region descriptor
//! 03 | region (u64, big endian) | session (u128)   session record
//! 04 | region (u64, big endian)                    tombstone of a replica that is gone
//! 05 | region (u64, big endian) | name             record of the region itself
//! 06                                               the first regions are being made
//! 10 | key                                         the embedder's data
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{KeyRange, Payload, RegionDescriptor, RegionId};

use multiraft_transport::SessionId;

const APPLIED: u8 = 0x01;
const DESCRIPTOR: u8 = 0x02;
const SESSION: u8 = 0x03;
const TOMBSTONE: u8 = 0x04;
const RECORD: u8 = 0x05;
const MAKING: u8 = 0x06;
const DATA: u8 = 0x10;

fn region_key(tag: u8, region: RegionId) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(tag);
    key.put_u64(region.get());
    key.freeze()
}

/// The key of a region's applied index.
pub(crate) fn applied(region: RegionId) -> Bytes {
    region_key(APPLIED, region)
}

/// The key of a region's descriptor.
pub(crate) fn descriptor(region: RegionId) -> Bytes {
    region_key(DESCRIPTOR, region)
}

/// There while the first regions are being made.
pub(crate) fn making() -> Bytes {
    Bytes::from_static(&[MAKING])
}

/// All applied indexes.
pub(crate) fn all_applied() -> (Bytes, Bytes) {
    (Bytes::from_static(&[APPLIED]), Bytes::from_static(&[APPLIED + 1]))
}

/// All descriptors, in order of region id.
pub(crate) fn all_descriptors() -> (Bytes, Bytes) {
    (Bytes::from_static(&[DESCRIPTOR]), Bytes::from_static(&[DESCRIPTOR + 1]))
}

/// The key of a session's record in a region.
pub(crate) fn session(region: RegionId, session: SessionId) -> Bytes {
    let mut key = BytesMut::with_capacity(25);
    key.put_u8(SESSION);
    key.put_u64(region.get());
    key.put_u128(session.0);
    key.freeze()
}

/// Which session a record's key is of.
pub(crate) fn session_of(key: &[u8]) -> Option<SessionId> {
    key.get(9..).and_then(|id| id.try_into().ok()).map(|id| SessionId(u128::from_be_bytes(id)))
}

/// All session records of a region.
pub(crate) fn sessions(region: RegionId) -> (Bytes, Bytes) {
    (region_key(SESSION, region), region_key(SESSION, region.next()))
}

/// The key of one of a region's own records.
pub(crate) fn record(region: RegionId, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(9 + name.len());
    key.put_u8(RECORD);
    key.put_u64(region.get());
    key.put_slice(name);
    key.freeze()
}

/// All records of a region itself.
pub(crate) fn records(region: RegionId) -> (Bytes, Bytes) {
    (region_key(RECORD, region), region_key(RECORD, region.next()))
}

/// The key of a tombstone.
pub(crate) fn tombstone(region: RegionId) -> Bytes {
    region_key(TOMBSTONE, region)
}

/// All tombstones, in order of region id.
pub(crate) fn all_tombstones() -> (Bytes, Bytes) {
    (Bytes::from_static(&[TOMBSTONE]), Bytes::from_static(&[TOMBSTONE + 1]))
}

/// The stored form of an embedder's key.
pub(crate) fn data(key: &[u8]) -> Payload {
    Payload::concat(&[DATA], key)
}

/// The embedder's form of a stored key.
pub(crate) fn user(stored: &Bytes) -> Bytes {
    stored.slice(1..)
}

/// The stored bounds of a region's data.
pub(crate) fn data_range(range: &KeyRange) -> (Bytes, Bytes) {
    let end = if range.end.is_empty() { Bytes::from_static(&[DATA + 1]) } else { data(&range.end).to_bytes() };
    (data(&range.start).to_bytes(), end)
}

/// The stored bounds of what a region owns between `start` and `end` (empty: no bound); `None` if that is nothing.
pub(crate) fn clamp(region: &RegionDescriptor, start: &[u8], end: &[u8]) -> Option<(Bytes, Bytes)> {
    if region.id == RegionId::ROOT {
        return None;
    }
    let (low, high) = data_range(&region.range);
    let from = data(start).to_bytes().max(low);
    let to = if end.is_empty() { high } else { data(end).to_bytes().min(high) };
    (from < to).then_some((from, to))
}
