//! All pieces in the order of their first keys, a block of neighbours at a time.
//!
//! ```text
//!   fence "c"    block [c, d, e]
//!   fence "f"    block [f, h]         a fence lies above all pieces of the block before, and not above those of its own
//!   fence "j"    block [k, l, m, n]   (its first piece, j, has gone)
//! ```
//!
//! Invariants: no block is empty; blocks that together have few pieces are one, so that memory follows the number of pieces.

use bytes::Bytes;

use super::block::{Block, head};
use super::{Owner, Piece};

/// A block with more pieces is split in two.
const PIECES_MAX: usize = 128;

/// A block with more bytes is split in two, unless it is a single piece.
const BYTES_MAX: usize = 64 * 1024;

/// Pieces by their first keys.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The heads of the fences, which tell most of them apart.
    heads: Vec<u64>,
    blocks: Vec<(Box<[u8]>, Block)>,
}

impl Pieces {
    pub(super) const fn new() -> Self {
        Self { heads: Vec::new(), blocks: Vec::new() }
    }

    /// The owner of a key.
    pub(super) fn owner(&self, key: &[u8]) -> Option<Owner> {
        let (block, place) = self.up_to(key)?;
        block.owner(place, key)
    }

    /// The piece that begins with `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<Piece> {
        let (_, block) = &self.blocks[self.find(key)?];
        block.search(key).ok().map(|place| block.piece(place))
    }

    /// The last piece that begins before `key`, or with it.
    pub(super) fn last_up_to(&self, key: &[u8]) -> Option<(Bytes, Piece)> {
        let (block, place) = self.up_to(key)?;
        Some((block.start(place), block.piece(place)))
    }

    /// The last piece that begins before `key`.
    pub(super) fn last_below(&self, key: &[u8]) -> Option<(Bytes, Piece)> {
        let found = self.find(key)?;
        let (block, place) = self.before(found, self.blocks[found].1.search(key).unwrap_or_else(|place| place))?;
        Some((block.start(place), block.piece(place)))
    }

    /// The pieces that begin with `key` or behind it, in order.
    pub(super) fn iter_from(&self, key: &[u8]) -> impl Iterator<Item = (Bytes, Piece)> {
        let found = self.find(key);
        let within = found.map(|found| {
            let (_, block) = &self.blocks[found];
            block.iter_from(block.search(key).unwrap_or_else(|place| place))
        });
        let behind = &self.blocks[found.map_or(0, |found| found + 1)..];
        within.into_iter().flatten().chain(behind.iter().flat_map(|(_, block)| block.iter_from(0)))
    }

    /// All pieces, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Bytes, Piece)> {
        self.blocks.iter().flat_map(|(_, block)| block.iter_from(0))
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn len(&self) -> usize {
        self.blocks.iter().map(|(_, block)| block.len()).sum()
    }

    /// Adds a piece, or puts it into the place of the one that begins with the same key. It overlaps no other.
    pub(super) fn insert(&mut self, start: Bytes, piece: Piece) {
        if self.blocks.is_empty() {
            return self.add(0, &[(start, piece)]);
        }
        let found = self.find(&start).unwrap_or_else(|| self.lower(&start));
        let block = &mut self.blocks[found].1;
        match block.search(&start) {
            Ok(place) => block.splice(place..place + 1, &[(start, piece)]),
            // Whoever brings pieces in order leaves full blocks behind.
            Err(place) if place == block.len() && place >= PIECES_MAX => self.add(found + 1, &[(start, piece)]),
            Err(place) => block.splice(place..place, &[(start, piece)]),
        }
        let block = &self.blocks[found].1;
        if block.len() > PIECES_MAX || (block.len() > 1 && block.size() > BYTES_MAX) {
            self.split(found);
        }
    }

    /// Takes out the piece that begins with `key`.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Piece> {
        let found = self.find(key)?;
        let block = &mut self.blocks[found].1;
        let place = block.search(key).ok()?;
        let piece = block.piece(place);
        block.splice(place..place + 1, &[]);
        if block.len() == 0 {
            self.drop_block(found);
        } else if block.len() <= PIECES_MAX / 4 {
            self.join(found);
            self.join(found.saturating_sub(1));
        }
        Some(piece)
    }

    /// The last block whose fence is not above `key`: where a piece that begins with it lies, or would.
    fn find(&self, key: &[u8]) -> Option<usize> {
        let head = head(key);
        let mut above = self.heads.partition_point(|other| *other < head);
        if self.heads.get(above) == Some(&head) {
            let same = self.heads[above..].partition_point(|other| *other == head);
            above += self.blocks[above..above + same].partition_point(|(fence, _)| **fence <= *key);
        }
        above.checked_sub(1)
    }

    /// The last piece that does not begin above `key`, by its place in its block.
    fn up_to(&self, key: &[u8]) -> Option<(&Block, usize)> {
        let found = self.find(key)?;
        self.before(found, self.blocks[found].1.search(key).map_or_else(|place| place, |place| place + 1))
    }

    /// The piece before the one at a place in a block.
    fn before(&self, found: usize, place: usize) -> Option<(&Block, usize)> {
        if let Some(place) = place.checked_sub(1) {
            return Some((&self.blocks[found].1, place));
        }
        let block = &self.blocks[found.checked_sub(1)?].1;
        Some((block, block.len() - 1))
    }

    fn add(&mut self, at: usize, pieces: &[(Bytes, Piece)]) {
        let fence = &pieces[0].0[..];
        self.heads.insert(at, head(fence));
        self.blocks.insert(at, (fence.into(), Block::new(pieces)));
    }

    /// Gives the first block a lower fence; returns its place.
    fn lower(&mut self, fence: &[u8]) -> usize {
        self.heads[0] = head(fence);
        self.blocks[0].0 = fence.into();
        0
    }

    fn drop_block(&mut self, at: usize) {
        self.heads.remove(at);
        self.blocks.remove(at);
        if self.blocks.capacity() > 4 * self.blocks.len() {
            self.heads.shrink_to(2 * self.heads.len());
            self.blocks.shrink_to(2 * self.blocks.len());
        }
    }

    fn split(&mut self, found: usize) {
        let all: Vec<_> = self.blocks[found].1.iter_from(0).collect();
        let (left, right) = all.split_at(all.len() / 2);
        self.blocks[found].1 = Block::new(left);
        self.add(found + 1, right);
    }

    /// Makes one of a block and the one behind it if they are small.
    fn join(&mut self, found: usize) {
        let [(_, left), (_, right), ..] = &self.blocks[found..] else { return };
        if left.len() + right.len() <= PIECES_MAX / 2 && left.size() + right.size() <= BYTES_MAX / 2 {
            let all: Vec<_> = left.iter_from(0).chain(right.iter_from(0)).collect();
            self.blocks[found].1 = Block::new(&all);
            self.drop_block(found + 1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

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
        Piece { end, age: (number * 3, region), live: (!number.is_multiple_of(3)).then_some(number % 300) }
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
        let sizes: Vec<usize> = pieces.blocks.iter().map(|(_, block)| block.len()).collect();
        assert!(sizes.iter().all(|size| (1..=PIECES_MAX).contains(size)), "{sizes:?}");
        assert!(pieces.blocks.iter().all(|(fence, block)| **fence <= block.start(0)[..]));
        for (place, pair) in pieces.blocks.windows(2).enumerate() {
            let ((_, block), (fence, _)) = (&pair[0], &pair[1]);
            assert!(block.start(block.len() - 1) < fence[..], "{place}");
        }
        assert!(pieces.heads.iter().copied().eq(pieces.blocks.iter().map(|(fence, _)| head(fence))));
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
        assert!(pieces.blocks.iter().all(|(_, block)| block.size() <= BYTES_MAX));
        assert_eq!(pieces.get(&key(17)), Some(piece(key(18), 1)));
    }
}
