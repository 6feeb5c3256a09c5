//! Where the live entries of one group lie.
//!
//! Owns the order of blocks: they ascend in index and never overlap. At runtime they leave no gap either; while a log is
//! being recovered they may, because a group's older entries can stand later in the log than its newer ones (see
//! [`RecordKind::Moved`](super::record::RecordKind::Moved)).

use std::collections::VecDeque;

use super::format::Loc;
use super::ledger::Ledger;

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
    /// What it counts for among the living: its record, and about that record's share of frame and footer.
    pub(crate) fn weight(&self) -> u32 {
        self.length + 32
    }

    /// The index behind its last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The blocks of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    all: VecDeque<Block>,
    /// The index behind the last entry, zero if there is none: what the writer asks of every group that it writes for, without
    /// the way to the last block, which is seldom in the processor's caches.
    end: u64,
}

impl Blocks {
    /// Takes over blocks that a ledger already counts.
    pub(crate) fn restore(all: VecDeque<Block>) -> Self {
        let end = all.back().map_or(0, Block::end);
        Self { all, end }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Block> {
        self.all.get(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Block> {
        self.all.iter()
    }

    /// The last entry.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    /// How many blocks lie wholly below `index`.
    pub(crate) fn position(&self, index: u64) -> usize {
        self.all.partition_point(|block| block.end() <= index)
    }

    /// Drops all entries at or behind `index`.
    pub(crate) fn cut_from(&mut self, index: u64, ledger: &mut Ledger) {
        if self.end <= index {
            return;
        }
        while let Some(last) = self.all.back_mut() {
            if last.first < index {
                last.count = (last.end().min(index) - last.first) as u32;
                break;
            }
            ledger.sub(last.at.segment, last.weight());
            self.all.pop_back();
        }
        self.settle();
    }

    /// Drops all entries at or before `index`.
    pub(crate) fn cut_upto(&mut self, index: u64, ledger: &mut Ledger) {
        while let Some(first) = self.all.front_mut().filter(|first| first.first <= index) {
            if first.end() > index + 1 {
                first.count = (first.end() - index - 1) as u32;
                first.first = index + 1;
                break;
            }
            ledger.sub(first.at.segment, first.weight());
            self.all.pop_front();
        }
        self.settle();
    }

    /// Appends a block behind all others.
    pub(crate) fn push(&mut self, block: Block, ledger: &mut Ledger) {
        ledger.add(block.at.segment, block.weight());
        self.end = block.end();
        self.all.push_back(block);
    }

    /// Lets `block` take the place of whatever covers its indexes; all else stays.
    pub(crate) fn place(&mut self, block: Block, ledger: &mut Ledger) {
        if self.all.back().is_none_or(|last| last.end() <= block.first) {
            self.push(block, ledger);
            return;
        }
        let mut kept = VecDeque::with_capacity(self.len() + 1);
        let mut placed = false;
        for old in &self.all {
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
        for old in &self.all {
            ledger.sub(old.at.segment, old.weight());
        }
        for new in &kept {
            ledger.add(new.at.segment, new.weight());
        }
        self.all = kept;
        self.settle();
    }

    pub(crate) fn clear(&mut self, ledger: &mut Ledger) {
        for block in &self.all {
            ledger.sub(block.at.segment, block.weight());
        }
        *self = Self::default();
    }

    /// After a change of what is there: notes its end, and gives back what a burst has left behind.
    fn settle(&mut self) {
        self.end = self.all.back().map_or(0, Block::end);
        if self.all.capacity() > 64 && self.all.capacity() / 4 > self.all.len() {
            self.all.shrink_to(self.all.len() * 2);
        }
    }

    /// What it has allocated, in bytes.
    pub(crate) fn heap(&self) -> usize {
        self.all.capacity() * size_of::<Block>()
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
