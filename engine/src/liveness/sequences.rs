//! The count of what this store says to one peer, and how old a number of it is (L5).

use std::collections::VecDeque;
use std::time::Duration;

use multiraft_raft::Time;

/// Into how many parts the time is cut for which moments are kept.
const PARTS: u32 = 32;

/// Counts heartbeats and answers to one peer.
///
/// Of many messages close together only the first one's moment is kept, and the others pass for as old as that: memory is
/// bounded however often the peer asks, and nothing is ever taken for younger than it is.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    last: u64,
    /// A number and when it was made, oldest first.
    moments: VecDeque<(u64, Time)>,
}

impl Sequences {
    /// The next number, made now. Moments are kept for `freshness`.
    pub(super) fn next(&mut self, now: Time, freshness: Duration) -> u64 {
        self.last += 1;
        while self.moments.front().is_some_and(|(_, at)| now.since(*at) > freshness) {
            self.moments.pop_front();
        }
        if self.moments.back().is_none_or(|(_, at)| now.since(*at) >= freshness / PARTS) {
            self.moments.push_back((self.last, now));
        }
        self.last
    }

    /// Whether `sequence` was made, and no longer than `freshness` ago.
    pub(super) fn is_fresh(&self, now: Time, sequence: u64, freshness: Duration) -> bool {
        let after = self.moments.partition_point(|(number, _)| *number <= sequence);
        let at = after.checked_sub(1).map(|at| self.moments[at].1);
        sequence <= self.last && at.is_some_and(|at| now.since(at) <= freshness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESHNESS: Duration = Duration::from_nanos(3200);

    #[test]
    fn a_number_is_fresh_for_so_long_and_no_longer() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.next(Time(1000), FRESHNESS), 1);
        assert_eq!(sequences.next(Time(2000), FRESHNESS), 2);
        assert!(sequences.is_fresh(Time(4200), 1, FRESHNESS));
        assert!(!sequences.is_fresh(Time(4201), 1, FRESHNESS));
        assert!(sequences.is_fresh(Time(4201), 2, FRESHNESS));
        assert!(!sequences.is_fresh(Time(2000), 3, FRESHNESS), "it was never made");
        assert!(!sequences.is_fresh(Time(2000), 0, FRESHNESS), "nothing was heard");
    }

    #[test]
    fn a_flood_takes_no_memory_and_makes_nothing_younger() {
        let mut sequences = Sequences::default();
        for at in 0..100_000 {
            sequences.next(Time(at), FRESHNESS);
        }
        assert!(sequences.moments.len() <= PARTS as usize + 2, "{}", sequences.moments.len());
        assert!(!sequences.is_fresh(Time(100_000), 100_000 - 3200, FRESHNESS));
        assert!(sequences.is_fresh(Time(100_000), 100_000 - 3000, FRESHNESS));
    }
}
