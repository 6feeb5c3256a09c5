//! The bytes of a container file, as `docs/snapshot-format.md` describes them. No I/O.
//!
//! Decoding takes any bytes: it answers what was encoded or an error, and never allocates more than it was given.

use bytes::{Buf, BufMut};
use multiraft_raft::{LogIndex, RegionId, Term};

/// The longest chunk, in bytes.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;

/// The longest header of a snapshot, in bytes.
pub const HEADER_BYTES_MAX: usize = 1 << 20;

pub(super) const FILE_HEADER_BYTES: usize = 32;
pub(super) const RECORD_HEADER_BYTES: usize = 12;
pub(super) const FOOTER_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"mrsnap\r\n";
const FOOTER_MAGIC: &[u8; 8] = b"mrsnapE\n";
const VERSION: u16 = 1;
const BEGIN_BYTES: usize = 24;
const END_BYTES: usize = 16;
const INDEX_ENTRY_BYTES: usize = 64;

/// What is wrong with some bytes.
pub(super) type Flaw = &'static str;

/// Which snapshot it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// Of which region.
    pub region: RegionId,
    /// The last entry that it stands for.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RecordKind {
    /// Opens a section: which snapshot follows, and its header.
    Begin = 1,
    /// A piece of a snapshot's data.
    Chunk = 2,
    /// Closes a section: how many chunks and bytes it has.
    End = 3,
    /// The table of all sections.
    Index = 4,
    /// Means nothing.
    Pad = 5,
}

/// One line of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) region: RegionId,
    /// Orders all saves and removals of a store.
    pub(super) stamp: u64,
    pub(super) what: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Snapshot(Section),
    /// All snapshots of the region with a smaller stamp are gone.
    Removed,
}

/// Where a snapshot lies in its container, and how much it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    /// Of its `Begin` record.
    pub(super) offset: u64,
    pub(super) chunks: u64,
    /// Of the chunks' data.
    pub(super) bytes: u64,
}

pub(super) fn encode_file_header(salt: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Answers the salt.
pub(super) fn decode_file_header(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<u64, Flaw> {
    if &bytes[..8] != MAGIC {
        return Err("it does not begin like a snapshot file");
    }
    if crc32c::crc32c(&bytes[..28]) != (&bytes[28..]).get_u32_le() {
        return Err("the file header's checksum is wrong");
    }
    let salt = (&bytes[16..]).get_u64_le();
    let version = (&bytes[8..]).get_u16_le();
    // Whatever else is not zero was written by a later version.
    if version != VERSION || bytes[..] != encode_file_header(salt)[..] {
        return Err("it has a version that this program does not know");
    }
    Ok(salt)
}

/// Appends a record that lies at `offset` of the file.
pub(super) fn encode_record(into: &mut Vec<u8>, salt: u64, offset: u64, kind: RecordKind, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    let len = u32::try_from(len).expect("payloads are bounded by the format");
    let start = into.len();
    into.put_u8(kind as u8);
    into.put_bytes(0, 3);
    into.put_u32_le(len);
    let mut crc = record_crc(salt, offset, &into[start..]);
    for part in payload {
        crc = crc32c::crc32c_append(crc, part);
    }
    into.put_u32_le(crc);
    payload.iter().for_each(|part| into.put_slice(part));
}

/// The salt tells files apart and the offset places: bytes of another file or place never pass for these.
fn record_crc(salt: u64, offset: u64, header: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, header)
}

/// The start of a record; the payload is still to be read and checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) kind: RecordKind,
    pub(super) len: usize,
    /// Of everything before the payload.
    crc_before: u32,
    crc: u32,
}

pub(super) fn decode_record_header(
    bytes: &[u8; RECORD_HEADER_BYTES],
    salt: u64,
    offset: u64,
) -> Result<RecordHeader, Flaw> {
    let kind = match bytes[0] {
        1 => RecordKind::Begin,
        2 => RecordKind::Chunk,
        3 => RecordKind::End,
        4 => RecordKind::Index,
        5 => RecordKind::Pad,
        _ => return Err("there is no record"),
    };
    if bytes[1..4] != [0; 3] {
        return Err("there is no record");
    }
    let len = (&bytes[4..8]).get_u32_le() as usize;
    if kind != RecordKind::Index && len > CHUNK_BYTES_MAX.max(HEADER_BYTES_MAX + BEGIN_BYTES) {
        return Err("a record is longer than any can be");
    }
    Ok(RecordHeader { kind, len, crc_before: record_crc(salt, offset, &bytes[..8]), crc: (&bytes[8..]).get_u32_le() })
}

impl RecordHeader {
    pub(super) fn check(&self, payload: &[u8]) -> Result<(), Flaw> {
        if payload.len() == self.len && crc32c::crc32c_append(self.crc_before, payload) == self.crc {
            Ok(())
        } else {
            Err("a record's checksum is wrong")
        }
    }
}

pub(super) fn encode_begin(id: &SnapshotId) -> [u8; BEGIN_BYTES] {
    let mut bytes = [0; BEGIN_BYTES];
    bytes[..8].copy_from_slice(&id.region.get().to_le_bytes());
    bytes[8..16].copy_from_slice(&id.index.get().to_le_bytes());
    bytes[16..].copy_from_slice(&id.term.get().to_le_bytes());
    bytes
}

/// Answers the snapshot and its header.
pub(super) fn decode_begin(mut payload: &[u8]) -> Result<(SnapshotId, &[u8]), Flaw> {
    if payload.len() < BEGIN_BYTES || payload.len() > BEGIN_BYTES + HEADER_BYTES_MAX {
        return Err("the opening record of a snapshot has no possible length");
    }
    let id = SnapshotId {
        region: RegionId(payload.get_u64_le()),
        index: LogIndex(payload.get_u64_le()),
        term: Term(payload.get_u64_le()),
    };
    Ok((id, payload))
}

pub(super) fn encode_end(chunks: u64, bytes: u64) -> [u8; END_BYTES] {
    let mut end = [0; END_BYTES];
    end[..8].copy_from_slice(&chunks.to_le_bytes());
    end[8..].copy_from_slice(&bytes.to_le_bytes());
    end
}

/// Answers the chunks and bytes of the section.
pub(super) fn decode_end(mut payload: &[u8]) -> Result<(u64, u64), Flaw> {
    if payload.len() != END_BYTES {
        return Err("the closing record of a snapshot has another length");
    }
    Ok((payload.get_u64_le(), payload.get_u64_le()))
}

pub(super) fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * INDEX_ENTRY_BYTES);
    for entry in entries {
        let (kind, section) = match entry.what {
            EntryKind::Snapshot(section) => (1, section),
            EntryKind::Removed => {
                (2, Section { index: LogIndex::ZERO, term: Term::ZERO, offset: 0, chunks: 0, bytes: 0 })
            }
        };
        for number in [
            kind,
            entry.region.get(),
            entry.stamp,
            section.index.get(),
            section.term.get(),
            section.offset,
            section.chunks,
            section.bytes,
        ] {
            bytes.put_u64_le(number);
        }
    }
    bytes
}

/// `before` is the offset of the index itself: every section lies before it.
pub(super) fn decode_index(payload: &[u8], before: u64) -> Result<Vec<IndexEntry>, Flaw> {
    let (lines, []) = payload.as_chunks::<INDEX_ENTRY_BYTES>() else { return Err("the index has no possible length") };
    lines.iter().map(|line| decode_index_entry(line, before)).collect()
}

fn decode_index_entry(mut line: &[u8], before: u64) -> Result<IndexEntry, Flaw> {
    let kind = line.get_u64_le();
    let (region, stamp) = (RegionId(line.get_u64_le()), line.get_u64_le());
    let section = Section {
        index: LogIndex(line.get_u64_le()),
        term: Term(line.get_u64_le()),
        offset: line.get_u64_le(),
        chunks: line.get_u64_le(),
        bytes: line.get_u64_le(),
    };
    let what = match kind {
        1 if section.offset >= FILE_HEADER_BYTES as u64 && section.offset < before && section.bytes < before => {
            EntryKind::Snapshot(section)
        }
        1 => return Err("a snapshot lies outside of its file"),
        2 => EntryKind::Removed,
        _ => return Err("the index has an entry of unknown kind"),
    };
    Ok(IndexEntry { region, stamp, what })
}

pub(super) fn encode_footer(salt: u64, index_offset: u64, file_len: u64) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(FOOTER_MAGIC);
    bytes[8..16].copy_from_slice(&index_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&file_len.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Answers where the index lies.
pub(super) fn decode_footer(bytes: &[u8; FOOTER_BYTES], salt: u64, file_len: u64) -> Result<u64, Flaw> {
    let index_offset = (&bytes[8..]).get_u64_le();
    if bytes[..] != encode_footer(salt, index_offset, file_len)[..] {
        return Err("the file does not end as it was written: it is cut off or overwritten");
    }
    Ok(index_offset)
}
