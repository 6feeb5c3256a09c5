//! Pieces that follow each other, packed: the bytes that all their first keys begin with once, then each piece in turn.
//!
//! ```text
//!   prefix                                     "user/0007"
//!   starts   where each piece begins           0, 9, ...
//!   bytes    length, rest of the first key     3 "310"
//!            flags: has an owner, tells its end
//!            region, version                   numbers of 7 bits a byte, as those that follow
//!            conf version                      if it has an owner
//!            length, end                       if no piece of this block begins where it ends
//! ```
//!
//! A block holds all that is needed to read it, and a change rewrites the pieces next to it, no more, as long as it keeps to the
//! prefix. Never leaves memory: its form is nobody else's business.

use std::cmp::Ordering;
use std::hint::select_unpredictable;
use std::ops::Range;

use bytes::Bytes;
use multiraft_raft::{RegionEpoch, RegionId};

use super::{Owner, Piece, reaches};

/// The piece has an owner.
const LIVE: u8 = 1;
/// The piece tells its end.
const ENDS: u8 = 2;

/// Room that is taken when there is none, in pieces and in bytes; four times as much is given back.
const ROOM: (usize, usize) = (8, 64);

/// Some pieces, in order.
///
/// Invariant: the first key of each begins with `prefix`, and is above that of the one before.
#[derive(Debug)]
pub(super) struct Block {
    prefix: Box<[u8]>,
    starts: Vec<u32>,
    bytes: Vec<u8>,
}

/// A piece as it lies there, but for its first key.
struct View<'a> {
    owner: Owner,
    is_live: bool,
    end: Option<&'a [u8]>,
}

impl Block {
    /// Packs pieces that ascend and do not overlap.
    pub(super) fn new(pieces: &[(Bytes, Piece)]) -> Self {
        let prefix = match pieces {
            [] => &[],
            [(first, _), .., (last, _)] => common(first, last),
            [(only, _)] => &only[..],
        };
        let mut block = Self { prefix: prefix.into(), starts: Vec::new(), bytes: Vec::new() };
        pack(prefix, pieces, None, &mut block.starts, &mut block.bytes);
        block.starts.shrink_to_fit();
        block.bytes.shrink_to_fit();
        block
    }

    pub(super) const fn len(&self) -> usize {
        self.starts.len()
    }

    /// How many bytes its pieces take.
    pub(super) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Where the piece that begins with `key` lies, or would.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(suffix) = key.strip_prefix(&*self.prefix) else {
            return Err(if *key < *self.prefix { 0 } else { self.len() });
        };
        // By their first bytes: most suffixes are no longer, and no branch depends on what is found.
        let (head, mut low, mut size) = (head(suffix), 0, self.len());
        while size > 1 {
            let middle = low + size / 2;
            low = select_unpredictable(self.head(middle) < head, middle, low);
            size -= size / 2;
        }
        low += usize::from(size > 0 && self.head(low) < head);
        if low == self.len() || self.head(low) != head {
            return Err(low);
        }
        let mut high = self.len();
        while low < high {
            let middle = low.midpoint(high);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The first key of a piece.
    pub(super) fn start(&self, place: usize) -> Bytes {
        [&*self.prefix, self.suffix(place)].concat().into()
    }

    /// A piece.
    pub(super) fn piece(&self, place: usize) -> Piece {
        let view = self.view(place);
        let end = view.end.map_or_else(|| self.start(place + 1), Bytes::copy_from_slice);
        let Owner { region, epoch } = view.owner;
        Piece { end, age: (epoch.version, region), live: view.is_live.then_some(epoch.conf_version) }
    }

    /// The owner of `key`, if this is the last piece that does not begin above it.
    pub(super) fn owner(&self, place: usize, key: &[u8]) -> Option<Owner> {
        let view = self.view(place);
        // Without an end of its own it reaches to the next, which begins above the key.
        (view.is_live && view.end.is_none_or(|end| reaches(end, key))).then_some(view.owner)
    }

    /// Pieces with their first keys, from `place` on.
    pub(super) fn iter_from(&self, place: usize) -> impl Iterator<Item = (Bytes, Piece)> {
        (place..self.len()).map(|place| (self.start(place), self.piece(place)))
    }

    /// Puts pieces into the place of others. Whoever calls this sees to it that they ascend and do not overlap.
    pub(super) fn splice(&mut self, places: Range<usize>, pieces: &[(Bytes, Piece)]) {
        if !pieces.iter().all(|(start, _)| start.starts_with(&self.prefix)) {
            let mut all: Vec<_> = self.iter_from(0).collect();
            all.splice(places, pieces.iter().cloned());
            *self = Self::new(&all);
            return;
        }
        // Whether the one before tells its end depends on what comes after it.
        let first = places.start.saturating_sub(1);
        let before = self.iter_from(first).take(places.start - first);
        let changed: Vec<_> = before.chain(pieces.iter().cloned()).collect();
        let behind = (places.end < self.len()).then(|| self.start(places.end));
        let (mut starts, mut bytes) = (Vec::new(), Vec::new());
        pack(&self.prefix, &changed, behind.as_deref(), &mut starts, &mut bytes);
        self.replace(first..places.end, &starts, &bytes);
    }

    fn replace(&mut self, places: Range<usize>, starts: &[u32], bytes: &[u8]) {
        let (from, to) = (self.offset(places.start), self.offset(places.end));
        for start in &mut self.starts[places.end..] {
            *start = offset(*start as usize - (to - from) + bytes.len());
        }
        make_room(&mut self.starts, starts.len(), ROOM.0);
        make_room(&mut self.bytes, bytes.len(), ROOM.1);
        self.starts.splice(places, starts.iter().map(|start| offset(from + *start as usize)));
        self.bytes.splice(from..to, bytes.iter().copied());
        give_back(&mut self.starts, ROOM.0);
        give_back(&mut self.bytes, ROOM.1);
    }

    /// Where a piece begins; where the last one ends, for the one behind it.
    fn offset(&self, place: usize) -> usize {
        self.starts.get(place).map_or(self.bytes.len(), |start| *start as usize)
    }

    fn suffix(&self, place: usize) -> &[u8] {
        Reader(&self.bytes[self.starts[place] as usize..]).slice()
    }

    /// The [`head`] of a suffix.
    fn head(&self, place: usize) -> u64 {
        let (length, behind) =
            self.bytes[self.starts[place] as usize..].split_first().expect("invariant: a piece takes some bytes");
        match behind.first_chunk() {
            Some(chunk) if *length < 8 => u64::from_be_bytes(*chunk) & !(u64::MAX >> (8 * length)),
            Some(chunk) if *length < 0x80 => u64::from_be_bytes(*chunk),
            _ => head(self.suffix(place)),
        }
    }

    fn view(&self, place: usize) -> View<'_> {
        let mut reader = Reader(&self.bytes[self.starts[place] as usize..]);
        reader.slice();
        let flags = reader.byte();
        let (region, version) = (RegionId(reader.number()), reader.number());
        let is_live = flags & LIVE != 0;
        let conf_version = if is_live { reader.number() } else { 0 };
        let end = (flags & ENDS != 0).then(|| reader.slice());
        View { owner: Owner { region, epoch: RegionEpoch { conf_version, version } }, is_live, end }
    }
}

/// Appends pieces that follow each other, and before `behind`, if a piece begins there.
fn pack(prefix: &[u8], pieces: &[(Bytes, Piece)], behind: Option<&[u8]>, starts: &mut Vec<u32>, bytes: &mut Vec<u8>) {
    for (place, (start, piece)) in pieces.iter().enumerate() {
        let next = pieces.get(place + 1).map(|(next, _)| &next[..]).or(behind);
        let tells_end = next.is_none_or(|next| piece.end != next);
        starts.push(offset(bytes.len()));
        put_slice(bytes, &start[prefix.len()..]);
        bytes.push((u8::from(piece.live.is_some()) * LIVE) | (u8::from(tells_end) * ENDS));
        let (version, region) = piece.age;
        put_number(bytes, region.0);
        put_number(bytes, version);
        if let Some(conf_version) = piece.live {
            put_number(bytes, conf_version);
        }
        if tells_end {
            put_slice(bytes, &piece.end);
        }
    }
}

fn offset(offset: usize) -> u32 {
    u32::try_from(offset).expect("invariant: a block of more than one piece is split long before, and a key is shorter")
}

/// The first eight bytes as a number, zeros behind a shorter key: a key with a lower head is a lower key.
pub(super) fn head(key: &[u8]) -> u64 {
    if let Some(chunk) = key.first_chunk() {
        return u64::from_be_bytes(*chunk);
    }
    key.iter().fold(0, |head, byte| (head << 8) | u64::from(*byte)).checked_shl(8 * (8 - key.len() as u32)).unwrap_or(0)
}

/// What both keys begin with.
fn common<'a>(one: &'a [u8], other: &[u8]) -> &'a [u8] {
    let length = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    &one[..length]
}

fn make_room<T>(list: &mut Vec<T>, more: usize, room: usize) {
    if list.capacity() - list.len() < more {
        list.reserve_exact(more + room);
    }
}

fn give_back<T>(list: &mut Vec<T>, room: usize) {
    if list.capacity() - list.len() > 4 * room {
        list.shrink_to(list.len() + room);
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    put_number(out, slice.len() as u64);
    out.extend_from_slice(slice);
}

/// Reads what [`pack`] wrote; all of it is from there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().expect("invariant: packed here");
        self.0 = rest;
        *byte
    }

    fn number(&mut self) -> u64 {
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return u64::from(*byte);
        }
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }

    fn slice(&mut self) -> &'a [u8] {
        let length = self.number() as usize;
        let (slice, rest) = self.0.split_at(length);
        self.0 = rest;
        slice
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heads_are_in_the_order_of_their_keys(
            one in prop::collection::vec(0..3_u8, 0..12),
            other in prop::collection::vec(0..3_u8, 0..12),
        ) {
            if head(&one) != head(&other) {
                prop_assert_eq!(head(&one).cmp(&head(&other)), one.cmp(&other));
            } else {
                prop_assert!(one.iter().zip(&other).take(8).all(|(one, other)| one == other));
            }
        }

        #[test]
        fn each_key_is_found_where_it_lies(
            keys in prop::collection::btree_set(prop::collection::vec(0..3_u8, 0..14), 1..60),
            (prefix, others) in (0..3_usize, prop::collection::vec(prop::collection::vec(0..3_u8, 0..17), 20)),
        ) {
            let long = |key: &[u8]| Bytes::from([&b"beginning"[..3 * prefix], key].concat());
            let piece = Piece { end: Bytes::from_static(&[9]), age: (1, RegionId(2)), live: None };
            let pieces: Vec<_> = keys.iter().map(|key| (long(key), piece.clone())).collect();
            let block = Block::new(&pieces);
            let others = others.iter().flat_map(|key| [long(key), key.clone().into()]);
            for key in keys.iter().map(|key| long(key)).chain(others) {
                prop_assert_eq!(block.search(&key), pieces.binary_search_by(|(start, _)| start.cmp(&key)));
            }
        }
    }
}
