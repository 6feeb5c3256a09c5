//! The bytes of one record: what one group changed in one turn.
//!
//! Encodes and decodes; knows no files. A record holds entries of one term only and is bounded in size, so that reading a
//! few entries never means reading a large record; a long append becomes several records of one frame.

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, HardState, LogIndex, Payload, RegionId, ReplicaId, Term};

use super::format::{Loc, Seed, u32_at, u64_at};

const FLAG_HARD_STATE: u8 = 1;
const FLAG_SUSPECT: u8 = 2;
/// Checksum, kind, flags, two bytes of zero.
const FIXED: usize = 8;
const HARD_STATE: usize = 24;
const MARK: usize = 16;
const ENTRIES_HEAD: usize = 20;
pub(crate) const ENTRY_HEAD: usize = 5;
/// More than any record takes besides its entries.
pub(crate) const RECORD_OVERHEAD_MAX: usize = FIXED + HARD_STATE + MARK + ENTRIES_HEAD;

/// What a record does to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// Sets the hard state only.
    State = 0,
    /// Appends entries, first dropping everything from their first index on.
    Append = 1,
    /// Drops entries up to the mark.
    Truncate = 2,
    /// Drops all entries and begins after the mark.
    Reset = 3,
    /// Drops everything.
    Remove = 4,
    /// Restates hard state and mark, and says where some entries lie now. Changes nothing of what the group holds.
    Moved = 5,
}

impl RecordKind {
    fn decode(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::State,
            1 => Self::Append,
            2 => Self::Truncate,
            3 => Self::Reset,
            4 => Self::Remove,
            5 => Self::Moved,
            _ => return None,
        })
    }

    fn has_mark(self) -> bool {
        matches!(self, Self::Truncate | Self::Reset | Self::Moved)
    }

    fn has_entries(self) -> bool {
        matches!(self, Self::Append | Self::Moved)
    }
}

/// Which entries a record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) term: u64,
    /// Zero only in a [`RecordKind::Moved`].
    pub(crate) count: u32,
}

/// One record without its entries' data: what the index needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordInfo {
    pub(crate) region: RegionId,
    pub(crate) at: Loc,
    pub(crate) length: u32,
    pub(crate) prev: Loc,
    pub(crate) kind: RecordKind,
    /// The group was already suspect when this was written.
    pub(crate) suspect: bool,
    pub(crate) hard_state: Option<HardState>,
    /// Index and term.
    pub(crate) mark: (u64, u64),
    pub(crate) span: Span,
}

impl RecordInfo {
    pub(crate) fn new(region: RegionId, kind: RecordKind) -> Self {
        Self {
            region,
            at: Loc::NONE,
            length: 0,
            prev: Loc::NONE,
            kind,
            suspect: false,
            hard_state: None,
            mark: (0, 0),
            span: Span::default(),
        }
    }
}

/// How many bytes an entry takes in a record.
pub(crate) fn entry_length(entry: &Entry) -> usize {
    ENTRY_HEAD + entry.data.len()
}

/// Appends the record's bytes to `out`; `at` is where it will lie. Answers its length.
pub(crate) fn encode<'a>(
    info: &RecordInfo,
    entries: impl Iterator<Item = (EntryKind, &'a [u8])>,
    seed: Seed,
    out: &mut Vec<u8>,
) -> u32 {
    let start = out.len();
    let flags =
        if info.hard_state.is_some() { FLAG_HARD_STATE } else { 0 } | if info.suspect { FLAG_SUSPECT } else { 0 };
    out.extend_from_slice(&[0, 0, 0, 0, info.kind as u8, flags, 0, 0]);
    if let Some(hard_state) = info.hard_state {
        out.extend_from_slice(&hard_state.term.0.to_le_bytes());
        out.extend_from_slice(&hard_state.vote.0.to_le_bytes());
        out.extend_from_slice(&hard_state.commit.0.to_le_bytes());
    }
    if info.kind.has_mark() {
        out.extend_from_slice(&info.mark.0.to_le_bytes());
        out.extend_from_slice(&info.mark.1.to_le_bytes());
    }
    if info.kind.has_entries() {
        out.extend_from_slice(&info.span.first.to_le_bytes());
        out.extend_from_slice(&info.span.term.to_le_bytes());
        out.extend_from_slice(&info.span.count.to_le_bytes());
        for (kind, data) in entries {
            let mut head = [0; ENTRY_HEAD];
            head[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
            head[4] = kind as u8;
            out.extend_from_slice(&head);
            out.extend_from_slice(data);
        }
    }
    let crc = seed.record(info.at.offset, info.region, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    (out.len() - start) as u32
}

/// Checks a record's bytes and reads all but its entries; answers also where its entries begin. `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8], region: RegionId, at: Loc, prev: Loc, seed: Seed) -> Option<(RecordInfo, usize)> {
    if bytes.len() < FIXED || seed.record(at.offset, region, &bytes[4..]) != u32_at(bytes, 0) {
        return None;
    }
    let kind = RecordKind::decode(bytes[4])?;
    let mut info = RecordInfo { at, prev, length: bytes.len() as u32, ..RecordInfo::new(region, kind) };
    info.suspect = bytes[5] & FLAG_SUSPECT != 0;
    let mut cursor = FIXED;
    let mut take = |count: usize| {
        cursor += count;
        bytes.get(cursor - count..cursor)
    };
    if bytes[5] & FLAG_HARD_STATE != 0 {
        let field = take(HARD_STATE)?;
        info.hard_state = Some(HardState {
            term: Term(u64_at(field, 0)),
            vote: ReplicaId(u64_at(field, 8)),
            commit: LogIndex(u64_at(field, 16)),
        });
    }
    if kind.has_mark() {
        let field = take(MARK)?;
        info.mark = (u64_at(field, 0), u64_at(field, 8));
    }
    if kind.has_entries() {
        let field = take(ENTRIES_HEAD)?;
        info.span = Span { first: u64_at(field, 0), term: u64_at(field, 8), count: u32_at(field, 16) };
        // An index that overflows cannot have been written; nothing that follows has to think of it.
        info.span.first.checked_add(u64::from(info.span.count))?;
    }
    Some((info, cursor))
}

/// Walks the entries of a record that [`decode`] accepted: kind, and the data's range in the record's bytes.
pub(crate) fn entries(
    bytes: &[u8],
    entries_at: usize,
) -> impl Iterator<Item = Option<(EntryKind, std::ops::Range<usize>)>> + '_ {
    let mut cursor = entries_at;
    std::iter::from_fn(move || {
        let head = bytes.get(cursor..cursor + ENTRY_HEAD)?;
        let start = cursor + ENTRY_HEAD;
        let end = start + u32_at(head, 0) as usize;
        cursor = end;
        Some(match (head[4], end <= bytes.len()) {
            (0, true) => Some((EntryKind::Empty, start..end)),
            (1, true) => Some((EntryKind::Command, start..end)),
            (2, true) => Some((EntryKind::Membership, start..end)),
            _ => None,
        })
    })
}

/// The entries `from..=to` of a checked record, as far as it holds them. `None` if its bytes contradict themselves.
pub(crate) fn read_entries(
    bytes: &Bytes,
    info: &RecordInfo,
    entries_at: usize,
    from: u64,
    to: u64,
) -> Option<Vec<Entry>> {
    let mut out = Vec::new();
    let mut index = info.span.first;
    let end = info.span.first + u64::from(info.span.count);
    for entry in entries(bytes, entries_at) {
        let (kind, range) = entry?;
        if index > to || index >= end {
            break;
        }
        if index >= from {
            out.push(Entry {
                term: Term(info.span.term),
                index: LogIndex(index),
                kind,
                data: Payload::part_of(bytes, range),
            });
        }
        index += 1;
    }
    (index > to || index == end).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_every_kind_round_trip() {
        let seed = Seed::new(3, 4);
        let at = Loc { segment: 4, offset: 200 };
        let hard_state = HardState { term: Term(5), vote: ReplicaId(6), commit: LogIndex(7) };
        for kind in [0, 1, 2, 3, 4, 5].map(|byte| RecordKind::decode(byte).unwrap()) {
            for hard_state in [None, Some(hard_state)] {
                let mut info = RecordInfo { at, hard_state, ..RecordInfo::new(RegionId(11), kind) };
                if kind.has_mark() {
                    info.mark = (8, 9);
                }
                if kind.has_entries() {
                    info.span = Span { first: 9, term: 5, count: 2 };
                }
                let data = [(EntryKind::Empty, &b""[..]), (EntryKind::Command, &b"put"[..])];
                let mut bytes = Vec::new();
                info.length = encode(&info, data.into_iter(), seed, &mut bytes);
                let (decoded, entries_at) = decode(&bytes, RegionId(11), at, Loc::NONE, seed).unwrap();
                assert_eq!(decoded, info);
                assert!(decode(&bytes, RegionId(12), at, Loc::NONE, seed).is_none(), "of another group");
                if kind.has_entries() {
                    let read = read_entries(&Bytes::from(bytes), &decoded, entries_at, 10, 10).unwrap();
                    assert_eq!((read.len(), &read[0].data[..], read[0].index), (1, &b"put"[..], LogIndex(10)));
                }
            }
        }
    }

    #[test]
    fn any_flipped_or_missing_byte_of_a_record_is_noticed() {
        let seed = Seed::new(3, 4);
        let at = Loc { segment: 4, offset: 200 };
        let info = RecordInfo {
            at,
            span: Span { first: 1, term: 1, count: 1 },
            ..RecordInfo::new(RegionId(11), RecordKind::Append)
        };
        let mut bytes = Vec::new();
        encode(&info, [(EntryKind::Command, &b"payload"[..])].into_iter(), seed, &mut bytes);
        for place in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[place] ^= 0x80;
            assert!(decode(&bad, RegionId(11), at, Loc::NONE, seed).is_none());
            assert!(decode(&bytes[..place], RegionId(11), at, Loc::NONE, seed).is_none());
        }
    }
}
