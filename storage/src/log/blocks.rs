//! Where the live entries of one group lie.
//!
//! Owns the order of blocks: they ascend in index and never overlap. At runtime they leave no gap either; while a log is
//! being recovered they may, because a group's older entries can stand later in the log than its newer ones (see
//! [`RecordKind::Moved`](super::record::RecordKind::Moved)).

use std::collections::VecDeque;

use super::format::Loc;
use super::index::Ledger;

/// Consecutive live entries of one record: of one term, in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: u64,
    pub(crate) term: u64,
    pub(crate) count: u32,
    /// The record's length, not only of the entries that still live.
    pub(crate) length: u32,
    pub(crate) at: Loc,
}

impl Block {
    const NONE: Self = Self { first: 0, term: 0, count: 0, length: 0, at: Loc::NONE };

    /// What it counts for among the living: its record, and about that record's share of frame and footer.
    pub(crate) fn weight(&self) -> u32 {
        self.length + 32
    }

    /// The index behind its last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The blocks of one group. The usual idle group has one, which needs no allocation.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    /// In use if `count` is not zero; then `many` is empty or absent.
    one: Block,
    #[allow(clippy::box_collection, reason = "a group with one block pays one word for it, not four")]
    many: Option<Box<VecDeque<Block>>>,
    /// The index behind the last entry, zero if there is none: what the writer asks of every group that it writes for, without
    /// the way to the last block, which is seldom in the processor's caches.
    end: u64,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { one: Block::NONE, many: None, end: 0 }
    }
}

impl Blocks {
    pub(crate) fn len(&self) -> usize {
        self.many.as_ref().map_or(usize::from(self.one.count > 0), |many| many.len())
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Block> {
        match &self.many {
            Some(many) => many.get(at),
            None => (at == 0 && self.one.count > 0).then_some(&self.one),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Block> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    pub(crate) fn last(&self) -> Option<&Block> {
        self.len().checked_sub(1).and_then(|at| self.get(at))
    }

    /// The last entry.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    /// How many blocks lie wholly below `index`.
    pub(crate) fn position(&self, index: u64) -> usize {
        match &self.many {
            Some(many) => many.partition_point(|block| block.end() <= index),
            None => usize::from(self.one.count > 0 && self.one.end() <= index),
        }
    }

    /// Drops all entries at or behind `index`.
    pub(crate) fn cut_from(&mut self, index: u64, ledger: &mut Ledger) {
        if self.end <= index {
            return;
        }
        while let Some(last) = self.last().copied() {
            if last.first >= index {
                self.pop_back(ledger);
            } else {
                if last.end() > index {
                    let at = self.len() - 1;
                    self.slot(at).count = (index - last.first) as u32;
                }
                break;
            }
        }
        self.settle();
    }

    /// Drops all entries at or before `index`.
    pub(crate) fn cut_upto(&mut self, index: u64, ledger: &mut Ledger) {
        while let Some(first) = self.get(0).copied() {
            if first.first > index {
                break;
            }
            if first.end() > index + 1 {
                let slot = self.slot(0);
                slot.count = (first.end() - index - 1) as u32;
                slot.first = index + 1;
                break;
            }
            ledger.sub(first.at.segment, first.weight());
            match &mut self.many {
                Some(many) => drop(many.pop_front()),
                None => self.one = Block::NONE,
            }
        }
        self.settle();
    }

    /// Appends a block behind all others.
    pub(crate) fn push(&mut self, block: Block, ledger: &mut Ledger) {
        ledger.add(block.at.segment, block.weight());
        self.end = block.end();
        if let Some(many) = &mut self.many {
            many.push_back(block);
        } else if self.one.count == 0 {
            self.one = block;
        } else {
            let mut many = VecDeque::with_capacity(2);
            many.extend([self.one, block]);
            self.one = Block::NONE;
            self.many = Some(Box::new(many));
        }
    }

    /// Lets `block` take the place of whatever covers its indexes; all else stays.
    pub(crate) fn place(&mut self, block: Block, ledger: &mut Ledger) {
        if self.last().is_none_or(|last| last.end() <= block.first) {
            self.push(block, ledger);
            return;
        }
        let mut kept = VecDeque::with_capacity(self.len() + 1);
        let mut placed = false;
        for old in self.iter() {
            if old.first < block.first {
                let count = old.end().min(block.first) - old.first;
                kept.push_back(Block { count: count as u32, ..*old });
            }
            if old.end() > block.end() {
                if !placed {
                    kept.push_back(block);
                    placed = true;
                }
                let first = old.first.max(block.end());
                kept.push_back(Block { first, count: (old.end() - first) as u32, ..*old });
            }
        }
        if !placed {
            kept.push_back(block);
        }
        for old in self.iter() {
            ledger.sub(old.at.segment, old.weight());
        }
        for new in &kept {
            ledger.add(new.at.segment, new.weight());
        }
        self.many = Some(Box::new(kept));
        self.one = Block::NONE;
        self.settle();
    }

    pub(crate) fn clear(&mut self, ledger: &mut Ledger) {
        for block in self.iter() {
            ledger.sub(block.at.segment, block.weight());
        }
        *self = Self::default();
    }

    fn pop_back(&mut self, ledger: &mut Ledger) {
        if let Some(last) = self.last().copied() {
            ledger.sub(last.at.segment, last.weight());
        }
        match &mut self.many {
            Some(many) => drop(many.pop_back()),
            None => self.one = Block::NONE,
        }
    }

    fn slot(&mut self, at: usize) -> &mut Block {
        match &mut self.many {
            Some(many) => &mut many[at],
            None => &mut self.one,
        }
    }

    /// After a change of what is there: notes its end, and gives memory back: to the inline place if one block is left, else what a burst has left behind.
    fn settle(&mut self) {
        self.end = self.last().map_or(0, Block::end);
        let Some(many) = &mut self.many else { return };
        if many.len() <= 1 {
            self.one = many.pop_front().unwrap_or(Block::NONE);
            self.many = None;
        } else if many.capacity() > 64 && many.capacity() / 4 > many.len() {
            many.shrink_to(many.len() * 2);
        }
    }

    /// What it has allocated, in bytes.
    pub(crate) fn heap(&self) -> usize {
        self.many.as_ref().map_or(0, |many| size_of::<VecDeque<Block>>() + many.capacity() * size_of::<Block>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(first: u64, count: u32, segment: u32) -> Block {
        Block { first, term: 1, count, length: 10 * count, at: Loc { segment, offset: 64 } }
    }

    fn shape(blocks: &Blocks) -> Vec<(u64, u32, u32)> {
        blocks.iter().map(|block| (block.first, block.count, block.at.segment)).collect()
    }

    #[test]
    fn cuts_split_blocks_and_give_the_ledger_back() {
        let (mut blocks, mut ledger) = (Blocks::default(), Ledger::default());
        blocks.push(block(1, 5, 1), &mut ledger);
        blocks.push(block(6, 5, 2), &mut ledger);
        blocks.push(block(11, 5, 3), &mut ledger);
        blocks.cut_from(13, &mut ledger);
        blocks.cut_upto(2, &mut ledger);
        assert_eq!(shape(&blocks), [(3, 3, 1), (6, 5, 2), (11, 2, 3)]);
        assert_eq!(blocks.last_index(), Some(12));
        assert_eq!(blocks.position(6), 1);
        blocks.cut_upto(5, &mut ledger);
        blocks.cut_from(11, &mut ledger);
        assert_eq!(shape(&blocks), [(6, 5, 2)]);
        assert!(blocks.many.is_none(), "one block is held inline");
        assert_eq!(ledger.total(), 82);
        blocks.cut_upto(10, &mut ledger);
        assert_eq!((blocks.len(), blocks.last_index()), (0, None));
        assert_eq!(ledger.total(), 0);
    }

    #[test]
    fn placing_replaces_what_it_covers_and_fills_gaps() {
        let (mut blocks, mut ledger) = (Blocks::default(), Ledger::default());
        blocks.push(block(6, 3, 2), &mut ledger);
        blocks.place(block(1, 5, 3), &mut ledger);
        assert_eq!(shape(&blocks), [(1, 5, 3), (6, 3, 2)]);
        blocks.place(block(3, 4, 4), &mut ledger);
        assert_eq!(shape(&blocks), [(1, 2, 3), (3, 4, 4), (7, 2, 2)]);
        blocks.place(block(1, 8, 5), &mut ledger);
        assert_eq!(shape(&blocks), [(1, 8, 5)]);
        blocks.place(block(20, 1, 5), &mut ledger);
        blocks.place(block(4, 2, 6), &mut ledger);
        assert_eq!(shape(&blocks), [(1, 3, 5), (4, 2, 6), (6, 3, 5), (20, 1, 5)]);
        assert_eq!(blocks.last_index(), Some(20));
        blocks.clear(&mut ledger);
        assert_eq!(ledger.total(), 0);
    }
}
