//! All pieces in the order of their first keys, a block of neighbours at a time.
//!
//! ```text
//!   ""          block [a, b, c]
//!   "d"         block [d, f]          a block's key lies above all pieces of the block before, and not above its own
//!   "h"         block [i, j, k, l]
//! ```
//!
//! Invariants: no block is empty; blocks that together have few pieces are one, so that memory follows the number of pieces.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::block::Block;
use super::{Owner, Piece};

/// A block with more pieces is split in two.
const PIECES_MAX: usize = 128;

/// A block with more bytes is split in two, unless it is a single piece.
const BYTES_MAX: usize = 64 * 1024;

/// Pieces by their first keys.
#[derive(Debug)]
pub(super) struct Pieces {
    blocks: BTreeMap<Box<[u8]>, Block>,
}

impl Pieces {
    pub(super) const fn new() -> Self {
        Self { blocks: BTreeMap::new() }
    }

    /// The owner of a key.
    pub(super) fn owner(&self, key: &[u8]) -> Option<Owner> {
        let (block, place) = self.last(Bound::Included(key))?;
        block.owner(place, key)
    }

    /// The piece that begins with `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<Piece> {
        let block = self.blocks.range::<[u8], _>(up_to(Bound::Included(key))).next_back()?.1;
        block.search(key).ok().map(|place| block.piece(place))
    }

    /// The last piece that begins before `key`, or with it.
    pub(super) fn last_up_to(&self, key: &[u8]) -> Option<(Bytes, Piece)> {
        let (block, place) = self.last(Bound::Included(key))?;
        Some((block.start(place), block.piece(place)))
    }

    /// The last piece that begins before `key`.
    pub(super) fn last_below(&self, key: &[u8]) -> Option<(Bytes, Piece)> {
        let (block, place) = self.last(Bound::Excluded(key))?;
        Some((block.start(place), block.piece(place)))
    }

    /// The pieces that begin with `key` or behind it, in order.
    pub(super) fn iter_from(&self, key: &[u8]) -> impl Iterator<Item = (Bytes, Piece)> {
        let first = self.blocks.range::<[u8], _>(up_to(Bound::Included(key))).next_back();
        let within = first.map(|(_, block)| block.iter_from(block.search(key).unwrap_or_else(|place| place)));
        let behind = self.blocks.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded));
        within.into_iter().flatten().chain(behind.flat_map(|(_, block)| block.iter_from(0)))
    }

    /// All pieces, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Bytes, Piece)> {
        self.blocks.values().flat_map(|block| block.iter_from(0))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.values().map(Block::len).sum()
    }

    /// Adds a piece, or puts it into the place of the one that begins with the same key. It overlaps no other.
    pub(super) fn insert(&mut self, start: Bytes, piece: Piece) {
        let Some((fence, block)) = self.blocks.range_mut::<[u8], _>(up_to(Bound::Included(&start))).next_back() else {
            // No block lies below all keys, so none has this key yet.
            self.blocks.insert(Box::default(), Block::new(&[(start, piece)]));
            return;
        };
        match block.search(&start) {
            Ok(place) => block.splice(place..place + 1, &[(start, piece)]),
            // Whoever brings pieces in order leaves full blocks behind.
            Err(place) if place == block.len() && block.len() >= PIECES_MAX => {
                self.blocks.insert(start[..].into(), Block::new(&[(start, piece)]));
                return;
            }
            Err(place) => block.splice(place..place, &[(start, piece)]),
        }
        if block.len() > PIECES_MAX || (block.len() > 1 && block.size() > BYTES_MAX) {
            let fence = fence.clone();
            self.split(&fence);
        }
    }

    /// Takes out the piece that begins with `key`.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Piece> {
        let (fence, block) = self.blocks.range_mut::<[u8], _>(up_to(Bound::Included(key))).next_back()?;
        let place = block.search(key).ok()?;
        let piece = block.piece(place);
        block.splice(place..place + 1, &[]);
        let (fence, is_empty, is_small) = (fence.clone(), block.len() == 0, block.len() <= PIECES_MAX / 4);
        if is_empty {
            self.blocks.remove(&fence);
        } else if is_small {
            self.join(&fence);
        }
        Some(piece)
    }

    /// The last piece before `end`, as its place in its block.
    fn last(&self, end: Bound<&[u8]>) -> Option<(&Block, usize)> {
        let mut blocks = self.blocks.range::<[u8], _>(up_to(end)).map(|(_, block)| block).rev();
        let block = blocks.next()?;
        let above = match end {
            Bound::Included(key) => block.search(key).map_or_else(|place| place, |place| place + 1),
            Bound::Excluded(key) => block.search(key).unwrap_or_else(|place| place),
            Bound::Unbounded => block.len(),
        };
        if above > 0 {
            return Some((block, above - 1));
        }
        blocks.next().map(|block| (block, block.len() - 1))
    }

    fn split(&mut self, fence: &[u8]) {
        let block = self.blocks.get_mut(fence).expect("just seen");
        let left: Vec<_> = block.iter_from(0).collect();
        let (left, right) = left.split_at(left.len() / 2);
        *block = Block::new(left);
        self.blocks.insert(right[0].0[..].into(), Block::new(right));
    }

    /// Makes one of a block and its neighbours, while they are small.
    fn join(&mut self, fence: &[u8]) {
        let before = self.blocks.range::<[u8], _>(up_to(Bound::Excluded(fence))).next_back();
        let first: Box<[u8]> = before.map_or(fence, |(before, _)| before).into();
        for _ in 0..2 {
            let mut two = self.blocks.range::<[u8], _>((Bound::Included(&*first), Bound::Unbounded)).take(2);
            let (Some((_, left)), Some((fence, right))) = (two.next(), two.next()) else { return };
            let is_small = left.len() + right.len() <= PIECES_MAX / 2 && left.size() + right.size() <= BYTES_MAX / 2;
            if !is_small {
                return;
            }
            let all: Vec<_> = left.iter_from(0).chain(right.iter_from(0)).collect();
            let fence = fence.clone();
            self.blocks.remove(&fence);
            self.blocks.insert(first.clone(), Block::new(&all));
        }
    }
}

const fn up_to(end: Bound<&[u8]>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, end)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Bytes, Piece>;

    fn key(number: u32) -> Bytes {
        // Of several lengths and beginnings; the lowest is empty.
        let text = format!("{}/{number:05}", ["", "a", "tables/accounts"][number as usize % 7 / 3]);
        if number == 0 { Bytes::new() } else { text.into() }
    }

    fn piece(end: Bytes, number: u64) -> Piece {
        let region = multiraft_raft::RegionId(number << (number % 50));
        Piece { end, age: (number * 3, region), live: (number % 3 > 0).then_some(number % 300) }
    }

    /// Where a new piece that begins with `start` has to end, at the latest; nowhere if `start` lies within another.
    fn room(model: &Model, start: &Bytes) -> Option<Bytes> {
        let before = model.range::<Bytes, _>(..start).next_back();
        let is_free = before.is_none_or(|(_, piece)| !piece.end.is_empty() && piece.end <= start);
        let behind = model.range::<Bytes, _>((Bound::Excluded(start), Bound::Unbounded)).next();
        is_free.then(|| behind.map_or_else(Bytes::new, |(next, _)| next.clone()))
    }

    fn assert_same(pieces: &Pieces, model: &Model, probes: &[Bytes]) {
        assert_eq!(pieces.len(), model.len());
        assert!(pieces.iter().eq(model.iter().map(|(start, piece)| (start.clone(), piece.clone()))));
        for probe in probes {
            let clone = |(start, piece): (&Bytes, &Piece)| (start.clone(), piece.clone());
            let last = model.range::<Bytes, _>(..=probe).next_back().map(clone);
            assert_eq!(pieces.get(probe), model.get(probe).cloned());
            assert_eq!(pieces.last_up_to(probe), last);
            assert_eq!(pieces.last_below(probe), model.range::<Bytes, _>(..probe).next_back().map(clone));
            assert!(pieces.iter_from(probe).eq(model.range::<Bytes, _>(probe..).map(clone)));
            let owner = last
                .filter(|(_, piece)| piece.end.is_empty() || *probe < piece.end)
                .and_then(|(start, piece)| piece.route(start));
            assert_eq!(pieces.owner(probe), owner.map(|route| Owner { region: route.region, epoch: route.epoch }));
        }
        let sizes: Vec<usize> = pieces.blocks.values().map(Block::len).collect();
        assert!(sizes.iter().all(|size| (1..=PIECES_MAX).contains(size)), "{sizes:?}");
        for (place, (fence, block)) in pieces.blocks.iter().enumerate() {
            assert!(place == 0 && fence.is_empty() || **fence <= block.start(0)[..]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn they_are_what_an_ordered_map_holds(
            // Some runs fill several blocks and empty them again.
            runs in prop::collection::vec((0..900_u32, 1..400_u32, 1..9_u32, 0..3_u8), 1..20),
        ) {
            let (mut pieces, mut model) = (Pieces::new(), Model::new());
            for (number, (from, count, step, action)) in runs.into_iter().enumerate() {
                for at in (0..count).map(|at| (from + at * step) % 1_000) {
                    let start = key(at);
                    if action == 2 {
                        prop_assert_eq!(pieces.remove(&start), model.remove(&start));
                    } else if let Some(end) = room(&model, &start) {
                        // Some end where the next begins, and some before.
                        let short = Bytes::from([&start[..], b"!"].concat());
                        let is_short = action == 1 && at % 4 > 0 && (end.is_empty() || short < end);
                        let piece = piece(if is_short { short } else { end }, u64::from(at) + number as u64);
                        pieces.insert(start.clone(), piece.clone());
                        model.insert(start, piece);
                    }
                }
                let probes: Vec<Bytes> = (0..1_000).step_by(37).map(|n| key((n + from) % 1_000)).collect();
                assert_same(&pieces, &model, &probes);
            }
        }
    }

    #[test]
    fn blocks_follow_the_number_of_pieces() {
        let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
        for is_rising in [true, false] {
            let mut pieces = Pieces::new();
            for number in 0..10_000 {
                let number = if is_rising { number } else { 9_999 - number };
                pieces.insert(key(number), piece(key(number + 1), 1));
            }
            let blocks = pieces.blocks.len();
            assert!(blocks <= 10_000 / (PIECES_MAX / if is_rising { 1 } else { 2 }) + 1, "{blocks}");
            for number in (0..10_000).filter(|number| number % 100 > 0) {
                assert!(pieces.remove(&key(number)).is_some());
            }
            assert_eq!(pieces.len(), 100);
            assert!(pieces.blocks.len() <= 8, "{}", pieces.blocks.len());
        }
    }

    #[test]
    fn long_keys_do_not_make_blocks_large() {
        let mut pieces = Pieces::new();
        let key = |number: u32| Bytes::from([&number.to_be_bytes()[..], &[7; 20_000]].concat());
        (0..40).for_each(|number| pieces.insert(key(number), piece(key(number + 1), 1)));
        assert!(pieces.blocks.values().all(|block| block.size() <= BYTES_MAX));
        assert_eq!(pieces.get(&key(17)), Some(piece(key(18), 1)));
    }
}
