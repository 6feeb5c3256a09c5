//! The entries of one group in memory, without a hole.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

/// An entry that knows its place.
pub(super) trait Indexed: Clone {
    fn index(&self) -> u64;
}

/// See above.
pub(super) struct Kept<E> {
    entries: VecDeque<E>,
    /// The index of the first entry that is, or will be, here.
    first: u64,
}

impl<E> Default for Kept<E> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), first: 0 }
    }
}

impl<E: Indexed> Kept<E> {
    /// Takes in the entry that comes next.
    pub(super) fn push(&mut self, entry: E) {
        if self.entries.is_empty() {
            self.first = entry.index();
        }
        self.entries.push_back(entry);
    }

    pub(super) fn last(&self) -> Option<&E> {
        self.entries.back()
    }

    /// Those of a range of indexes that are here.
    pub(super) fn range(&self, range: impl RangeBounds<u64>) -> Vec<E> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let until = self.place(until);
        let from = self.place(from).min(until);
        self.entries.range(from..until).cloned().collect()
    }

    /// Forgets the entries from `index` on.
    pub(super) fn cut_after(&mut self, index: u64) {
        self.entries.truncate(self.place(index));
    }

    /// Forgets the entries up to `index`.
    pub(super) fn cut_before(&mut self, index: u64) {
        self.entries.drain(..self.place(index + 1));
        self.first = self.first.max(index + 1);
    }

    /// Where the entry of an index lies, or would; at most the end.
    fn place(&self, index: u64) -> usize {
        let place = usize::try_from(index.saturating_sub(self.first)).expect("a place in a list in memory");
        place.min(self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Indexed for u64 {
        fn index(&self) -> u64 {
            *self
        }
    }

    #[test]
    fn a_range_gives_what_is_there_and_cuts_take_what_they_name() {
        let mut kept = Kept::default();
        assert_eq!((kept.range(0..9), kept.last()), (vec![], None));
        (0..8).for_each(|index| kept.push(index));
        assert_eq!(kept.range(2..=3), [2, 3]);
        assert_eq!(kept.range((Bound::Excluded(5), Bound::Unbounded)), [6, 7]);
        kept.cut_before(2);
        assert_eq!(kept.range(0..5), [3, 4]);
        kept.cut_after(6);
        assert_eq!((kept.range(..), kept.last()), (vec![3, 4, 5], Some(&5)));
        assert_eq!(kept.range(6..9), [0_u64; 0]);
        // As after a snapshot: all of it is older.
        kept.cut_before(20);
        assert_eq!(kept.range(..), [0_u64; 0]);
        kept.push(21);
        assert_eq!(kept.range(0..=21), [21]);
    }
}
