//! How keys and values lie in sled.
//!
//! ```text
//!   c <id: u64 be>       -> <range>               a clear, see `clears.rs`
//!   d <key>              -> 0 <value>             a value of at most PIECE_BYTES
//!                           1 <pieces: u32 be>    a larger one; its bytes lie in pieces
//!   g <kind> <number>    -> <group>               short records together instead of under `d`, see `groups.rs`
//!   m format             -> 2                     the version of this layout; 2 1: being made of one of version 1
//!   m flush              -> <number: u64 be>      the flush that this state belongs to, see `watermark.rs`
//!   p <key> <no: u32 be> -> <bytes>               piece `no` of a large value, each but the last of PIECE_BYTES
//!   x <id: u64 be> <key> ->                       the key is exempt from the clear
//! ```
//!
//! Why pieces: sled puts a page of 128 KiB or more into a file of its own, which it neither syncs nor orders with its log. After
//! a power cut such a file may be missing although the log refers to it, or be gone although its replacement is; sled passes
//! over both in silence. A leaf holds up to 17 pairs, so small pieces keep all pages below that.
//!
//! Version 1 had no groups. A store of it is rewritten when it is opened, in many batches; a crash meanwhile leaves a state that
//! only the next opening by this version goes on with.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sled::Batch;

use super::{
    super::Pair,
    super::StateError,
    clears::Clear,
    groups::{self, GROUP, GROUPED_BYTES_MAX, Group, Place},
    guard::Guarded,
};

const CLEAR: u8 = b'c';
const EXEMPT: u8 = b'x';
const DATA: u8 = b'd';
const PIECE: u8 = b'p';
const FORMAT_KEY: &[u8] = b"mformat";
const FLUSH_KEY: &[u8] = b"mflush";
const FORMAT: &[u8] = &[2];
const FORMAT_UNGROUPED: &[u8] = &[1];
const FORMAT_GROUPING: &[u8] = &[2, 1];

const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

/// The largest value, and piece of a value, that sled gets.
const PIECE_BYTES: usize = 4096;

/// How many records are put into groups at once.
const GROUPED_AT_ONCE: usize = 1024;

/// Changes beside those of keys, to be applied together with them.
#[derive(Debug, Default)]
pub(super) struct LayoutBatch(Batch);

/// A sled database with this layout.
#[derive(Debug)]
pub(super) struct Layout {
    db: Guarded,
    /// Whether there may be a value in pieces: while there is none, a write need not look for old pieces.
    has_pieces: AtomicBool,
}

impl Layout {
    /// Takes a database over; one that is empty gets the layout's version. Before each batch that rewrites an older one it asks
    /// whether there is room for so many bytes.
    pub(super) fn open(db: Guarded, has_room: impl Fn(usize) -> Result<(), StateError>) -> Result<Self, StateError> {
        let stored = db.get(FORMAT_KEY)?;
        let is_older = match stored.as_deref() {
            Some(version) if version == FORMAT => false,
            Some(FORMAT_UNGROUPED | FORMAT_GROUPING) => true,
            Some(version) => {
                return Err(db.damaged(format!("its layout is {version:?}, this program knows {FORMAT:?}")));
            }
            None if db.range(&[], None).next().is_none() => {
                set_format(&db, FORMAT)?;
                false
            }
            None => return Err(db.damaged("it holds data, but no layout version".into())),
        };
        let has_pieces = db.range(&[PIECE], Some(&[PIECE + 1])).next().transpose()?.is_some();
        let layout = Self { db, has_pieces: AtomicBool::new(has_pieces) };
        if is_older {
            layout.group(has_room)?;
        }
        Ok(layout)
    }

    /// Puts what lies by itself, as in version 1, into groups where it belongs there.
    fn group(&self, has_room: impl Fn(usize) -> Result<(), StateError>) -> Result<(), StateError> {
        has_room(0)?;
        set_format(&self.db, FORMAT_GROUPING)?;
        let (mut next, end) = (data_key(&[*groups::KINDS.start()]), data_key(&[*groups::KINDS.end() + 1]));
        loop {
            let some: Vec<_> = self.db.range(&next, Some(&end)).take(GROUPED_AT_ONCE).collect::<Result<_, _>>()?;
            let Some((last, _)) = some.last() else { break };
            next = [last, &[0][..]].concat();
            let (mut batch, mut changes) = (LayoutBatch::default(), BTreeMap::new());
            for (key, stored) in some {
                let key = key.slice(1..);
                if Place::of(&key).is_some() {
                    let value = self.assemble(&key, stored)?;
                    if value.len() <= GROUPED_BYTES_MAX {
                        batch.0.remove(data_key(&key));
                    }
                    changes.insert(key, Some(value));
                }
            }
            has_room(changes.values().flatten().map(Bytes::len).sum())?;
            self.apply(batch, changes)?;
        }
        set_format(&self.db, FORMAT)
    }

    pub(super) fn db(&self) -> &Guarded {
        &self.db
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let stored = match Place::of(key) {
            Some(place) => match self.in_group(place)? {
                Some(stored) if stored[..] == [groups::APART] => {
                    let apart = self.db.get(&data_key(key))?;
                    Some(apart.ok_or_else(|| self.db.damaged("a long record is not where its group says".into()))?)
                }
                stored => stored,
            },
            None => self.db.get(&data_key(key))?,
        };
        stored.map(|stored| self.assemble(key, stored)).transpose()
    }

    /// What is stored for a key in its group.
    fn in_group(&self, place: Place) -> Result<Option<Bytes>, StateError> {
        let copy = |group: &[u8]| groups::find(group, place.low()).map(|found| found.map(Bytes::copy_from_slice));
        let found = self.db.read(&place.group_key(), copy)?.unwrap_or(Ok(None));
        found.map_err(|_| self.no_group())
    }

    fn no_group(&self) -> StateError {
        self.db.damaged("a group of records cannot be read".into())
    }

    /// Applies changes atomically. The caller lets nobody else write meanwhile.
    pub(super) fn apply(
        &self,
        LayoutBatch(mut batch): LayoutBatch,
        changes: BTreeMap<Bytes, Option<Bytes>>,
    ) -> Result<(), StateError> {
        let count = changes.len();
        let mut changed_groups: BTreeMap<_, Group> = BTreeMap::new();
        for (key, mut value) in changes {
            // Whether what lies under the key itself changes too.
            let mut is_apart = true;
            if let Some(place) = Place::of(&key) {
                let group = match changed_groups.entry(place.group_key()) {
                    Entry::Occupied(group) => group.into_mut(),
                    Entry::Vacant(vacant) => vacant.insert(self.read_group(&place.group_key())?),
                };
                let was_apart = group.is_apart(place.low());
                let long = value.take_if(|value| value.len() > GROUPED_BYTES_MAX);
                is_apart = was_apart || long.is_some();
                let short = value.take().map(|value| [&[WHOLE], &value[..]].concat().into());
                let mark = long.is_some().then(|| Bytes::from_static(&[groups::APART]));
                group.set(place.low(), mark.or(short));
                value = long;
            }
            if !is_apart {
                continue;
            }
            let old_pieces = self.pieces_of(&key)?;
            let pieces = match value {
                None => {
                    batch.remove(data_key(&key));
                    0
                }
                Some(value) => self.put(&mut batch, &key, &value),
            };
            (pieces..old_pieces).for_each(|no| batch.remove(piece_key(&key, no)));
        }
        for (key, group) in changed_groups {
            if group.is_empty() { batch.remove(&key[..]) } else { batch.insert(&key[..], &group.encode()[..]) }
        }
        self.db.apply(batch, count)
    }

    /// An empty one if there is none yet.
    fn read_group(&self, group_key: &[u8]) -> Result<Group, StateError> {
        let Some(stored) = self.db.get(group_key)? else { return Ok(Group::default()) };
        Group::decode(&stored).ok_or_else(|| self.no_group())
    }

    /// The clears that were not finished.
    pub(super) fn clears(&self) -> Result<Vec<Clear>, StateError> {
        let mut clears: BTreeMap<u64, Clear> = BTreeMap::new();
        let damaged = || self.db.damaged("the record of a removed range cannot be read".into());
        for pair in self.db.range(&[CLEAR], Some(&[CLEAR + 1])) {
            let (mut key, range) = pair?;
            let id = (key.len() == 9).then(|| key.split_off(1).get_u64()).ok_or_else(damaged)?;
            clears.insert(id, Clear::decode(id, range).ok_or_else(damaged)?);
        }
        for pair in self.db.range(&[EXEMPT], Some(&[EXEMPT + 1])) {
            let mut key = pair?.0.slice(1..);
            let id = key.try_get_u64().map_err(|_| damaged())?;
            clears.get_mut(&id).ok_or_else(damaged)?.exempt.insert(key);
        }
        Ok(clears.into_values().collect())
    }

    pub(super) fn put_clear(&self, LayoutBatch(batch): &mut LayoutBatch, clear: &Clear) {
        batch.insert(clear_key(clear.id), &clear.encode()[..]);
    }

    pub(super) fn put_exempt(&self, LayoutBatch(batch): &mut LayoutBatch, id: u64, key: &[u8]) {
        batch.insert(exempt_key(id, key), &[]);
    }

    pub(super) fn remove_clear(&self, LayoutBatch(batch): &mut LayoutBatch, clear: &Clear) {
        batch.remove(clear_key(clear.id));
        clear.exempt.iter().for_each(|key| batch.remove(exempt_key(clear.id, key)));
    }

    /// The number of the flush that this state belongs to; zero before the first.
    pub(super) fn flush_number(&self) -> Result<u64, StateError> {
        let Some(stored) = self.db.get(FLUSH_KEY)? else { return Ok(0) };
        let number = stored[..].try_into().map_err(|_| self.db.damaged("the flush number is no number".into()))?;
        Ok(u64::from_be_bytes(number))
    }

    pub(super) fn set_flush_number(&self, number: u64) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.insert(FLUSH_KEY, &number.to_be_bytes());
        self.db.apply(batch, 1)
    }

    /// Adds a value to a batch; answers into how many pieces it was cut.
    fn put(&self, batch: &mut Batch, key: &Bytes, value: &Bytes) -> u32 {
        if value.len() <= PIECE_BYTES {
            batch.insert(data_key(key), [&[WHOLE], &value[..]].concat());
            return 0;
        }
        self.has_pieces.store(true, Ordering::Relaxed);
        let mut pieces = 0;
        for piece in value.chunks(PIECE_BYTES) {
            batch.insert(piece_key(key, pieces), piece);
            pieces += 1;
        }
        batch.insert(data_key(key), [&[IN_PIECES], &pieces.to_be_bytes()[..]].concat());
        pieces
    }

    /// Into how many pieces the present value of a key is cut.
    fn pieces_of(&self, key: &Bytes) -> Result<u32, StateError> {
        if !self.has_pieces.load(Ordering::Relaxed) {
            return Ok(0);
        }
        self.db.get(&data_key(key))?.map_or(Ok(0), |stored| self.count(&stored))
    }

    fn count(&self, stored: &Bytes) -> Result<u32, StateError> {
        match stored.split_first() {
            Some((&WHOLE, _)) => Ok(0),
            Some((&IN_PIECES, count)) if count.len() == 4 => {
                Ok(u32::from_be_bytes([count[0], count[1], count[2], count[3]]))
            }
            _ => Err(self.db.damaged("a value begins with no known mark".into())),
        }
    }

    /// The value that belongs to what is stored under a key.
    pub(super) fn assemble(&self, key: &[u8], stored: Bytes) -> Result<Bytes, StateError> {
        let pieces = self.count(&stored)?;
        if pieces == 0 {
            return Ok(stored.slice(1..));
        }
        let mut value = BytesMut::new();
        for no in 0..pieces {
            let piece = self.db.get(&piece_key(key, no))?;
            value.put(piece.ok_or_else(|| self.db.damaged(format!("piece {no} of {pieces} of a value is missing")))?);
        }
        Ok(value.freeze())
    }

    /// What is stored under the keys from `start` to `end` (excluded; `None`: no bound), in order. Nothing follows an error.
    pub(super) fn stored<'a>(
        &'a self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, StateError>> + use<'a> {
        let mut grouped = groups::may_hold(start, end).then(|| self.grouped(start, end).peekable());
        let end = end.map_or_else(|| vec![DATA + 1], data_key);
        let single = self.db.range(&data_key(start), Some(&end));
        let mut single = single.map(|pair| pair.map(|(key, stored)| (key.slice(1..), stored))).peekable();
        let mut has_failed = false;
        std::iter::from_fn(move || {
            let Some(grouped) = &mut grouped else { return single.next() };
            if has_failed {
                return None;
            }
            let next = match (grouped.peek(), single.peek()) {
                (Some(Ok((grouped_key, _))), Some(Ok((key, _)))) if key < grouped_key => single.next(),
                (None, _) | (_, Some(Err(_))) => single.next(),
                (Some(_), _) => grouped.next(),
            };
            has_failed = matches!(next, Some(Err(_)));
            next
        })
    }

    /// Those of [`Layout::stored`] that lie in groups. Nothing follows an error.
    fn grouped<'a>(
        &'a self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, StateError>> + use<'a> {
        let (first, start) = (Place::at_or_before(start).group_key(), Bytes::copy_from_slice(start));
        let end = end.map(Bytes::copy_from_slice);
        let mut groups = self.db.range(&first, Some(&[GROUP + 1]));
        let mut pairs = None;
        std::iter::from_fn(move || {
            loop {
                if let Some((key, stored)) = pairs.as_mut().and_then(Iterator::next) {
                    if end.as_ref().is_some_and(|end| key >= end) {
                        return None;
                    }
                    if key >= start {
                        return Some(Ok((key, stored)));
                    }
                    continue;
                }
                let read = groups.next()?.and_then(|(group_key, stored)| {
                    let pairs = Group::decode(&stored).and_then(|group| group.into_pairs(&group_key));
                    pairs.ok_or_else(|| self.no_group())
                });
                match read {
                    Ok(read) => pairs = Some(read),
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }
}

fn set_format(db: &Guarded, format: &[u8]) -> Result<(), StateError> {
    let mut batch = Batch::default();
    batch.insert(FORMAT_KEY, format);
    db.apply(batch, 1)
}

fn data_key(key: &[u8]) -> Vec<u8> {
    [&[DATA], key].concat()
}

fn clear_key(id: u64) -> Vec<u8> {
    [&[CLEAR], &id.to_be_bytes()[..]].concat()
}

fn exempt_key(id: u64, key: &[u8]) -> Vec<u8> {
    [&[EXEMPT], &id.to_be_bytes()[..], key].concat()
}

fn piece_key(key: &[u8], no: u32) -> Vec<u8> {
    [&[PIECE], key, &no.to_be_bytes()].concat()
}
