//! Key to region: which region owns a key, as far as this store has learnt.
//!
//! News about regions arrives in any order: a child may be heard of before its parent has shrunk, a merged region before its
//! source is gone. Along the history of one key, each split, merge and freeze raises the version of the region that owns
//! it, so the highest version heard of for a key is the truth as far as it is known. The map therefore cuts the key space
//! into *pieces* and keeps for each the highest version heard of, together with the region of that version, which is
//! *live* in the piece only if nothing newer was heard of for any other key of its range:
//!
//! ```text
//!   heard:   parent v1 [a ............ z)     then child v2 [m ..... z)
//!   pieces:  [a: parent v1, superseded)[m: child v2, live)      keys below m have no known owner yet
//! ```
//!
//! Invariants: pieces never overlap; a live region is one piece, its whole range; the map depends on what was heard, not on the
//! order in which it was. Superseded pieces go as soon as the newer owner is heard of, so memory follows the number of
//! regions. It is a hint: the region itself checks key and epoch again.
//!
//! A store has a piece for each of its regions, so pieces are kept packed (`block.rs`): some 20 bytes each where keys are short
//! or begin alike.

mod block;
mod pieces;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId};
use pieces::Pieces;

/// Who owns a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The region.
    pub region: RegionId,
    /// The epoch at which it owns the key.
    pub epoch: RegionEpoch,
}

/// What the map knows of a region that owns keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The region.
    pub region: RegionId,
    /// The keys it owns.
    pub range: KeyRange,
    /// The epoch at which it owns them.
    pub epoch: RegionEpoch,
}

/// What a descriptor told the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeUpdate {
    /// The region is now the owner of its range, in place of what was known before.
    Replaced,
    /// The owner was known; its replicas have changed.
    Refreshed,
    /// Known already, or overtaken by newer news (which it may still have helped to spread: what it overtakes is dropped).
    Stale,
}

/// How new a piece of news is. Two regions never share a version on one key; the id makes the order total all the same.
type Age = (u64, RegionId);

/// The newest that was heard about the keys from its place in the map up to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    /// The first key behind it; empty is the end of the key space.
    end: Bytes,
    age: Age,
    /// The owner's conf version, if the owner is live.
    live: Option<u64>,
}

/// Key to region, for many readers and few writers.
#[derive(Debug)]
pub struct RangeMap {
    pieces: RwLock<Pieces>,
}

impl Default for RangeMap {
    fn default() -> Self {
        Self::new()
    }
}

impl RangeMap {
    /// A map that knows nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { pieces: RwLock::new(Pieces::new()) }
    }

    /// The region that owns `key`; none while that is not known. Takes no memory.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> Option<Owner> {
        self.read().owner(key)
    }

    /// The region that owns `key`, with all that is known of it; none while that is not known.
    #[must_use]
    pub fn lookup(&self, key: &[u8]) -> Option<Route> {
        let (start, piece) = self.read().last_up_to(key)?;
        if !reaches(&piece.end, key) {
            return None;
        }
        piece.route(start)
    }

    /// The regions that own keys of `range`, in key order, no more than `max`. Where one does not begin at the end of the
    /// one before it, the owner of what lies between is not known.
    #[must_use]
    pub fn scan(&self, range: &KeyRange, max: usize) -> Vec<Route> {
        let pieces = self.read();
        overlapping(&pieces, range).filter_map(|(start, piece)| piece.route(start)).take(max).collect()
    }

    /// Learns from a descriptor. The root region owns no keys and teaches nothing, nor does an empty range.
    pub fn update(&self, descriptor: &RegionDescriptor) -> RangeUpdate {
        let mut pieces = self.pieces.write().unwrap_or_else(PoisonError::into_inner);
        learn(&mut pieces, descriptor)
    }

    /// Learns from several descriptors at once: no reader sees a part of them. For the parts of a split, which own together
    /// what one region owned before.
    pub fn update_all<'a>(&self, descriptors: impl IntoIterator<Item = &'a RegionDescriptor>) {
        let mut pieces = self.pieces.write().unwrap_or_else(PoisonError::into_inner);
        for descriptor in descriptors {
            learn(&mut pieces, descriptor);
        }
    }

    /// Number of regions known to own keys. Walks the whole map: for reports and tests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().iter().filter(|(_, piece)| piece.live.is_some()).count()
    }

    /// Whether no region is known to own keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> RwLockReadGuard<'_, Pieces> {
        // A writer that panicked has left whole pieces behind: each change is a single call.
        self.pieces.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn learn(pieces: &mut Pieces, descriptor: &RegionDescriptor) -> RangeUpdate {
    let range = &descriptor.range;
    let is_empty = !range.end.is_empty() && range.start >= range.end;
    if descriptor.id == RegionId::ROOT || is_empty {
        return RangeUpdate::Stale;
    }
    let age = (descriptor.epoch.version, descriptor.id);
    if let Some(mut piece) = pieces.get(&range.start)
        && piece.age == age
        && piece.end == range.end
    {
        let update = piece.refresh(descriptor.epoch.conf_version);
        if update == RangeUpdate::Refreshed {
            pieces.insert(range.start.clone(), piece);
        }
        return update;
    }
    let is_newest = overlapping(pieces, range).all(|(_, piece)| piece.age < age);
    if is_newest {
        clear(pieces, range);
        let piece = Piece { end: range.end.clone(), age, live: Some(descriptor.epoch.conf_version) };
        pieces.insert(range.start.clone(), piece);
        return RangeUpdate::Replaced;
    }
    overtake(pieces, range, age);
    RangeUpdate::Stale
}

impl Piece {
    fn route(self, start: Bytes) -> Option<Route> {
        let (version, region) = self.age;
        let epoch = RegionEpoch { conf_version: self.live?, version };
        Some(Route { region, range: KeyRange { start, end: self.end }, epoch })
    }

    fn refresh(&mut self, conf_version: u64) -> RangeUpdate {
        match &mut self.live {
            Some(known) if *known < conf_version => {
                *known = conf_version;
                RangeUpdate::Refreshed
            }
            _ => RangeUpdate::Stale,
        }
    }
}

/// Whether `key` lies below `end`, the empty end being above all keys.
fn reaches(end: &[u8], key: &[u8]) -> bool {
    end.is_empty() || key < end
}

/// The pieces that share a key with `range`, in order.
fn overlapping<'a>(pieces: &'a Pieces, range: &'a KeyRange) -> impl Iterator<Item = (Bytes, Piece)> + 'a {
    let before = pieces.last_below(&range.start).filter(|(_, piece)| reaches(&piece.end, &range.start));
    let within = pieces.iter_from(&range.start).take_while(|(start, _)| reaches(&range.end, start));
    before.into_iter().chain(within)
}

/// Makes room for a new owner of `range`: what lies inside goes, what sticks out keeps its age but no longer its owner.
fn clear(pieces: &mut Pieces, range: &KeyRange) {
    let touched: Vec<(Bytes, Piece)> = overlapping(pieces, range).collect();
    for (start, piece) in touched {
        pieces.remove(&start);
        for (start, end) in outside(&start, &piece.end, range) {
            insert_superseded(pieces, start, end, piece.age);
        }
    }
}

/// Notes that `age` was heard of for all keys of `range` though something newer is known for some of them.
fn overtake(pieces: &mut Pieces, range: &KeyRange, age: Age) {
    let mut next = range.start.clone();
    let touched: Vec<(Bytes, Piece)> = overlapping(pieces, range).collect();
    for (start, piece) in touched {
        if next < start {
            insert_superseded(pieces, next, start.clone(), age);
        }
        if piece.age < age {
            pieces.remove(&start);
            for (start, end) in outside(&start, &piece.end, range) {
                insert_superseded(pieces, start, end, piece.age);
            }
            let (start, end) = (start.max(range.start.clone()), lower(&piece.end, &range.end));
            insert_superseded(pieces, start, end, age);
        }
        if piece.end.is_empty() {
            return;
        }
        next = piece.end;
    }
    if reaches(&range.end, &next) {
        insert_superseded(pieces, next, range.end.clone(), age);
    }
}

/// The one or two parts of `start..end` that lie outside `range`.
fn outside(start: &Bytes, end: &Bytes, range: &KeyRange) -> impl Iterator<Item = (Bytes, Bytes)> {
    let left = (start < &range.start).then(|| (start.clone(), lower(end, &range.start)));
    let right =
        (!range.end.is_empty() && reaches(end, &range.end)).then(|| (start.max(&range.end).clone(), end.clone()));
    left.into_iter().chain(right)
}

/// The lower of two ends, the empty end being above all keys.
fn lower(one: &Bytes, other: &Bytes) -> Bytes {
    if one.is_empty() || (!other.is_empty() && other < one) { other.clone() } else { one.clone() }
}

/// Records the age of keys that have no known owner, in one piece with neighbours of the same age.
fn insert_superseded(pieces: &mut Pieces, start: Bytes, end: Bytes, age: Age) {
    let (mut start, mut end) = (start, end);
    let joins = |piece: &Piece| piece.age == age && piece.live.is_none();
    if let Some((before, piece)) = pieces.last_below(&start)
        && piece.end == start
        && joins(&piece)
    {
        start = before;
    }
    if !end.is_empty()
        && let Some(behind) = pieces.get(&end).filter(joins)
    {
        pieces.remove(&end);
        end = behind.end;
    }
    pieces.insert(start, Piece { end, age, live: None });
}
