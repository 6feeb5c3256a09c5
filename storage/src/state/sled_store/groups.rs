//! Short records of one kind that lie together: many of them are one pair for sled.
//!
//! sled keeps at most 17 pairs on a page, however small, and for each page, also for one that is only in the file, what finds it and
//! its changes again: hundreds of bytes. An engine holds two such records of each region, by its number. So keys of nine bytes that begin
//! with 1 or 2 lie in groups of neighbours:
//!
//! ```text
//!   key:    01 00 00 00 00 00 00 02 37       in sled: g 01 00 00 00 00 00 00 00 23 -> ... | 7 len stored | ...
//!           kind and a number                         the kind, the number without its low bits
//!
//!   group:  entry | entry | ...                       ascending by their low bits, never none
//!   entry:  low bits: u8 | length: u16 be | what would lie under `d <key>`, or 2 if it does, being long
//! ```
//!
//! A group is read and written whole, inside the gate, so changes of two neighbours never miss each other.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::{BufMut, Bytes, BytesMut};

/// What begins a group's key in sled.
pub(super) const GROUP: u8 = b'g';

/// The kinds of keys that lie in groups.
pub(super) const KINDS: std::ops::RangeInclusive<u8> = 1..=2;

/// The longest value that lies in a group: then none outgrows a piece, see `layout.rs`.
pub(super) const GROUPED_BYTES_MAX: usize = 240;

/// Says of an entry that its value is long, and lies under the key itself.
pub(super) const APART: u8 = 2;

const KEY_LEN: usize = 9;

/// Where a key lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    kind: u8,
    number: u64,
}

impl Place {
    /// `None`: the key lies by itself.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        let (kind, number) = key.split_first().filter(|(kind, _)| KINDS.contains(*kind))?;
        Some(Self { kind: *kind, number: u64::from_be_bytes(number.try_into().ok()?) })
    }

    /// The first place of which the key may not be before `key`.
    pub(super) fn at_or_before(key: &[u8]) -> Self {
        let mut padded = [0; KEY_LEN];
        let len = key.len().min(KEY_LEN);
        padded[..len].copy_from_slice(&key[..len]);
        Self::of(&padded).unwrap_or(Self { kind: if padded[0] == 0 { *KINDS.start() } else { u8::MAX }, number: 0 })
    }

    /// Under which key of sled its group lies.
    pub(super) fn group_key(self) -> [u8; KEY_LEN + 1] {
        let mut key = [0; KEY_LEN + 1];
        (key[0], key[1]) = (GROUP, self.kind);
        key[2..].copy_from_slice(&(self.number >> low_bits(self.kind)).to_be_bytes());
        key
    }

    /// Which one of its group it is.
    pub(super) fn low(self) -> u8 {
        low_of(self.number, low_bits(self.kind))
    }
}

/// Sixteen of the shortest and most often written records, eight of the others.
fn low_bits(kind: u8) -> u32 {
    if kind == *KINDS.start() { 4 } else { 3 }
}

fn low_of(number: u64, bits: u32) -> u8 {
    (number & ((1 << bits) - 1)) as u8
}

/// Whether keys between these (excluded; `None`: no bound) may lie in groups.
pub(super) fn may_hold(start: &[u8], end: Option<&[u8]>) -> bool {
    start < &[*KINDS.end() + 1][..] && end.is_none_or(|end| end > &[*KINDS.start()][..])
}

/// One group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group(BTreeMap<u8, Bytes>);

impl Group {
    /// `None`: this is no group.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let entries = entries(bytes).map(|entry| entry.map(|(low, stored)| (low, bytes.slice_ref(stored))));
        let group: BTreeMap<_, _> = entries.collect::<Option<_>>()?;
        (!group.is_empty()).then_some(Self(group))
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.0.values().map(|stored| 3 + stored.len()).sum());
        for (low, stored) in &self.0 {
            out.put_u8(*low);
            out.put_u16(u16::try_from(stored.len()).expect("long values lie apart"));
            out.put_slice(stored);
        }
        out.freeze()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_apart(&self, low: u8) -> bool {
        self.0.get(&low).is_some_and(|stored| stored[..] == [APART])
    }

    pub(super) fn set(&mut self, low: u8, stored: Option<Bytes>) {
        match (self.0.entry(low), stored) {
            (Entry::Occupied(mut entry), Some(stored)) => drop(entry.insert(stored)),
            (Entry::Occupied(entry), None) => drop(entry.remove()),
            (Entry::Vacant(entry), Some(stored)) => drop(entry.insert(stored)),
            (Entry::Vacant(_), None) => {}
        }
    }

    /// The whole keys, in order, of the group that lies under this key of sled, with what is stored; without what lies apart.
    /// `None`: that is no key of a group.
    pub(super) fn into_pairs(self, group_key: &[u8]) -> Option<impl Iterator<Item = (Bytes, Bytes)> + use<>> {
        let (mark, place) = group_key.split_first()?;
        let Place { kind, number } = Place::of(place).filter(|_| *mark == GROUP)?;
        let bits = low_bits(kind);
        if number.leading_zeros() < bits || self.0.keys().any(|low| *low >> bits != 0) {
            return None;
        }
        let key = move |low: u8| {
            let number = (number << bits) | u64::from(low);
            Bytes::copy_from_slice(&[&[kind], &number.to_be_bytes()[..]].concat())
        };
        let here = self.0.into_iter().filter(|(_, stored)| stored[..] != [APART]);
        Some(here.map(move |(low, stored)| (key(low), stored)))
    }
}

/// What is stored for one of a group. An error: this is no group.
pub(super) fn find(group: &[u8], low: u8) -> Result<Option<&[u8]>, NoGroup> {
    for entry in entries(group) {
        let (entry, stored) = entry.ok_or(NoGroup)?;
        if entry == low {
            return Ok(Some(stored));
        }
    }
    Ok(None)
}

/// Bytes that cannot be read as a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoGroup;

/// Ends after a `None`, which stands for an entry that cannot be read, or is not in order.
fn entries(group: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let (mut rest, mut last) = (group, None);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = split_entry(rest).filter(|(low, _, _)| last.is_none_or(|last| last < *low));
        rest = entry.map_or(&[], |(_, _, rest)| rest);
        last = entry.map(|(low, _, _)| low);
        Some(entry.map(|(low, stored, _)| (low, stored)))
    })
}

fn split_entry(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (low, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (stored, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    (!stored.is_empty()).then_some((*low, stored, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: u8, number: u64) -> Vec<u8> {
        [&[kind], &number.to_be_bytes()[..]].concat()
    }

    #[test]
    fn keys_of_one_group_are_neighbours_and_come_back() {
        for (kind, size) in [(1, 16), (2, 8)] {
            for first in [0, 64, u64::MAX - 15, u64::MAX - 7].into_iter().filter(|first| first % size == 0) {
                let places: Vec<_> = (0..size).map(|low| Place::of(&key(kind, first + low))).collect();
                let mut group = Group::default();
                for place in places.iter().flatten() {
                    assert_eq!(place.group_key(), places[0].expect("it is one").group_key());
                    group.set(place.low(), Some(Bytes::from_static(b"\0x")));
                }
                group.set(0, Some(Bytes::from_static(&[APART])));
                let group_key = places[0].expect("it is one").group_key();
                let group = Group::decode(&group.encode()).expect("it was just encoded");
                let keys: Vec<_> = group.into_pairs(&group_key).expect("it is its key").map(|(key, _)| key).collect();
                assert_eq!(keys, (1..size).map(|low| key(kind, first + low)).collect::<Vec<_>>());
            }
        }
        for alone in [&b""[..], &key(0, 1), &key(3, 1), &key(1, 1)[..8], &[key(2, 1), vec![0]].concat()] {
            assert_eq!(Place::of(alone), None);
        }
    }

    #[test]
    fn what_is_no_group_is_found_out() {
        let whole = Bytes::from_static(b"\x01\0\x02\0a\x03\0\x01\x02");
        assert_eq!(Group::decode(&whole).map(|group| group.encode()), Some(whole.clone()));
        assert_eq!(find(&whole, 1), Ok(Some(&b"\0a"[..])));
        assert_eq!(find(&whole, 2), Ok(None));
        for broken in
            [&b""[..], b"\x01", b"\x01\0\x02\0", b"\x01\0\0", b"\x01\0\x01\0\x01\0\x01\0", b"\x02\0\x01\0\x01\0\x01\0"]
        {
            assert_eq!(Group::decode(&Bytes::from_static(broken)), None, "{broken:?}");
        }
        assert_eq!(find(b"\x01\0\x02\0", 1), Err(NoGroup));
        let group = || Group::decode(&whole).expect("it is one");
        assert!(group().into_pairs(&[GROUP, 1, 0]).is_none());
        assert!(group().into_pairs(&[&[GROUP, 1], &[0xff; 8][..]].concat()).is_none(), "the number is too large");
    }

    #[test]
    fn a_scan_begins_at_the_first_group_that_it_may_need() {
        for (start, kind, number) in [
            (&b""[..], 1, 0),
            (&[0, 9], 1, 0),
            (&[1], 1, 0),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 37, 5], 1, 37),
            (&[2, 0, 0, 0, 0, 0, 0, 1], 2, 256),
            (&[3], u8::MAX, 0),
        ] {
            assert_eq!(Place::at_or_before(start), Place { kind, number });
        }
        assert!(may_hold(b"", None) && may_hold(&[2, 255], Some(&[3])) && may_hold(b"", Some(&[1, 0])));
        assert!(!may_hold(&[3], None) && !may_hold(b"", Some(&[1])));
    }
}
