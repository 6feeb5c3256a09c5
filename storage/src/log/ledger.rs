//! How much of each segment still lives: what decides which segment goes.
//!
//! Invariant: what is subtracted was added, in the same segment.

use std::collections::VecDeque;

/// How many bytes still live in each segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The segment of the first slot.
    base: u32,
    live: VecDeque<u64>,
    total: u64,
}

impl Ledger {
    pub(crate) fn add(&mut self, segment: u32, bytes: u32) {
        if self.live.is_empty() {
            self.base = segment;
        }
        while segment < self.base {
            self.live.push_front(0);
            self.base -= 1;
        }
        let at = (segment - self.base) as usize;
        if at >= self.live.len() {
            self.live.resize(at + 1, 0);
        }
        self.live[at] += u64::from(bytes);
        self.total += u64::from(bytes);
    }

    pub(crate) fn sub(&mut self, segment: u32, bytes: u32) {
        let slot = segment.checked_sub(self.base).and_then(|at| self.live.get_mut(at as usize));
        let slot = slot.expect("what is subtracted was added");
        *slot = slot.checked_sub(u64::from(bytes)).expect("what is subtracted was added");
        self.total -= u64::from(bytes);
    }

    pub(crate) fn of(&self, segment: u32) -> u64 {
        segment.checked_sub(self.base).and_then(|at| self.live.get(at as usize)).copied().unwrap_or(0)
    }

    /// Forgets the segments below `floor`, in which nothing lives.
    pub(crate) fn forget_below(&mut self, floor: u32) {
        while self.base < floor && self.live.front() == Some(&0) {
            self.live.pop_front();
            self.base += 1;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}
