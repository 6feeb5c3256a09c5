//! The files of a recovery: what was collected of a store, and the plan.
//!
//! ```text
//! "mrrecov\n" (8) | kind (1) | format (1) | body | crc32c of all before (4, little endian)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{KeyRange, LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::region::command::{get_varint, put_varint};

const MAGIC: &[u8; 8] = b"mrrecov\n";
const FORMAT: u8 = 2;
const HEAD: usize = MAGIC.len() + 2;
const TAIL: usize = 4;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Survey = 1,
    Plan = 2,
}

/// Why a file of a recovery is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is something else.
    #[error("this is no file of a recovery: name one that `recover collect` or `recover plan` has written")]
    Foreign,
    /// It is of the other kind.
    #[error("this file holds {found}, where {wanted} is needed")]
    Kind {
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A newer or older program wrote it.
    #[error("the file has format {found}, this program reads {known}: use the version that wrote it")]
    OtherFormat {
        /// Its format.
        found: u8,
        /// The one that is known.
        known: u8,
    },
    /// It is cut off or changed.
    #[error("the file is damaged: write it again")]
    Damaged,
}

const fn name(kind: u8) -> &'static str {
    match kind {
        1 => "what was collected of a store",
        2 => "a plan",
        _ => "something unknown",
    }
}

/// A file of this kind.
pub(super) fn seal(kind: Kind, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + body.len() + TAIL);
    out.put_slice(MAGIC);
    out.put_u8(kind as u8);
    out.put_u8(FORMAT);
    out.put_slice(body);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

/// The body of a file of this kind.
pub(super) fn unseal(kind: Kind, file: &Bytes) -> Result<Bytes, FileError> {
    if !file.starts_with(MAGIC) {
        return Err(FileError::Foreign);
    }
    let end = file.len().checked_sub(TAIL).filter(|end| *end >= HEAD).ok_or(FileError::Damaged)?;
    let (found, format) = (file[MAGIC.len()], file[MAGIC.len() + 1]);
    if format != FORMAT {
        return Err(FileError::OtherFormat { found: format, known: FORMAT });
    }
    let crc = file[end..].try_into().map(u32::from_le_bytes).map_err(|_| FileError::Damaged)?;
    if crc != crc32c::crc32c(&file[..end]) {
        return Err(FileError::Damaged);
    }
    if found != kind as u8 {
        return Err(FileError::Kind { found: name(found), wanted: name(kind as u8) });
    }
    Ok(file.slice(HEAD..end))
}

/// A name for some bytes: FNV-1a of 64 bits. Tells one state of a store from another, not from one made to deceive.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Puts a body together.
#[derive(Debug, Default)]
pub(super) struct Out(pub(super) BytesMut);

impl Out {
    pub(super) fn num(&mut self, value: u64) {
        put_varint(&mut self.0, value);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.0.put_u8(u8::from(value));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.num(bytes.len() as u64);
        self.0.put_slice(bytes);
    }

    pub(super) fn descriptor(&mut self, descriptor: &RegionDescriptor) {
        let mut encoded = Vec::new();
        encode_descriptor(descriptor, &mut encoded);
        self.bytes(&encoded);
    }

    pub(super) fn position(&mut self, (index, term): (LogIndex, Term)) {
        self.num(index.get());
        self.num(term.get());
    }

    pub(super) fn range(&mut self, range: &KeyRange) {
        self.bytes(&range.start);
        self.bytes(&range.end);
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.num(items.len() as u64);
        items.iter().for_each(|item| put(self, item));
    }

    pub(super) fn option<T>(&mut self, item: Option<&T>, put: impl FnOnce(&mut Self, &T)) {
        self.flag(item.is_some());
        if let Some(item) = item {
            put(self, item);
        }
    }
}

/// Takes a body apart; every method gives `None` if it is cut off or makes no sense.
#[derive(Debug)]
pub(super) struct In {
    bytes: Bytes,
    at: usize,
}

impl In {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn num(&mut self) -> Option<u64> {
        get_varint(&self.bytes, &mut self.at)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.num()?).ok()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let bytes = self.bytes.slice(self.at..end);
        self.at = end;
        Some(bytes)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(super) fn descriptor(&mut self) -> Option<RegionDescriptor> {
        decode_descriptor(&self.bytes()?).ok()
    }

    pub(super) fn store(&mut self) -> Option<StoreId> {
        self.num().map(StoreId)
    }

    pub(super) fn region(&mut self) -> Option<RegionId> {
        self.num().map(RegionId)
    }

    pub(super) fn position(&mut self) -> Option<(LogIndex, Term)> {
        Some((LogIndex(self.num()?), Term(self.num()?)))
    }

    pub(super) fn range(&mut self) -> Option<KeyRange> {
        Some(KeyRange { start: self.bytes()?, end: self.bytes()? })
    }

    pub(super) fn list<T>(&mut self, mut take: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.num()?;
        // Every item takes a byte at least: a false count must not reserve memory.
        let left = (self.bytes.len() - self.at) as u64;
        if count > left {
            return None;
        }
        (0..count).map(|_| take(self)).collect()
    }

    pub(super) fn option<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { take(self).map(Some) } else { Some(None) }
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_newer_damaged_and_mistaken_files_are_told_apart() {
        let file = seal(Kind::Plan, b"body");
        assert_eq!(unseal(Kind::Plan, &file).unwrap(), "body");
        assert!(matches!(unseal(Kind::Survey, &file), Err(FileError::Kind { found: "a plan", .. })));
        assert_eq!(unseal(Kind::Plan, &Bytes::from_static(b"something else")), Err(FileError::Foreign));
        let mut newer = file.to_vec();
        newer[9] = 9;
        assert_eq!(unseal(Kind::Plan, &newer.into()), Err(FileError::OtherFormat { found: 9, known: FORMAT }));
        for at in [8, 10, 12, file.len() - 1] {
            let mut changed = file.to_vec();
            changed[at] ^= 0x40;
            assert_eq!(unseal(Kind::Plan, &changed.into()), Err(FileError::Damaged), "at {at}");
        }
        for len in MAGIC.len()..file.len() {
            assert_eq!(unseal(Kind::Plan, &file.slice(..len)), Err(FileError::Damaged), "cut at {len}");
        }
    }
}
