//! Followers that need a snapshot, and when each may have its next one: never in a loop.
//!
//! ```text
//!   wanted --> delayed (its last transfers came to nothing: longer each time) --> in line for its store --> offered
//!                                                     a store that is busy is left alone for a moment --^
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use multiraft_raft::{ReplicaId, StoreId, Time};
use multiraft_router::SlotKey;

use super::SnapshotLimits;

/// A follower of a group.
pub(super) type Wanted = (SlotKey, ReplicaId);

/// How many failing followers are remembered before those that have not failed for long are forgotten.
const ATTEMPTS_REMEMBERED: usize = 4096;
/// How many delayed ones are looked at in one turn.
const DUE_PER_TURN: usize = 64;

/// Who waits for a snapshot.
#[derive(Debug)]
pub(super) struct Queue {
    lines: BTreeMap<StoreId, Line>,
    delayed: BTreeMap<(Time, u64), Wanted>,
    next_delayed: u64,
    attempts: BTreeMap<Wanted, Attempts>,
    /// The store that was served last: the next one comes first.
    served: StoreId,
}

#[derive(Debug, Default)]
struct Line {
    wanted: VecDeque<Wanted>,
    not_before: Time,
}

/// A follower whose transfers come to nothing.
#[derive(Debug)]
struct Attempts {
    failures: u32,
    /// Where the last one was taken up.
    first_chunk: u64,
    last: Time,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            lines: BTreeMap::new(),
            delayed: BTreeMap::new(),
            next_delayed: 0,
            attempts: BTreeMap::new(),
            served: StoreId::ZERO,
        }
    }

    /// Puts a follower on a store at the end of the line for it.
    pub(super) fn push(&mut self, to: StoreId, wanted: Wanted) {
        self.lines.entry(to).or_default().wanted.push_back(wanted);
    }

    /// Whether a follower is in line, or will be.
    pub(super) fn contains(&self, wanted: Wanted) -> bool {
        self.delayed.values().any(|one| *one == wanted) || self.lines.values().any(|line| line.wanted.contains(&wanted))
    }

    /// The store is busy: the follower is the next one again, but not before `until`.
    pub(super) fn push_back_until(&mut self, to: StoreId, wanted: Wanted, until: Time) {
        let line = self.lines.entry(to).or_default();
        line.wanted.push_front(wanted);
        line.not_before = until;
    }

    /// The link to a store changed: what was known of how busy it is holds no longer.
    pub(super) fn on_link(&mut self, to: StoreId) {
        if let Some(line) = self.lines.get_mut(&to) {
            line.not_before = Time::ZERO;
        }
    }

    /// To be asked about again at `at`.
    pub(super) fn delay(&mut self, at: Time, wanted: Wanted) {
        self.next_delayed += 1;
        self.delayed.insert((at, self.next_delayed), wanted);
    }

    /// Some of those whose time has come.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<Wanted> {
        let mut due = Vec::new();
        while due.len() < DUE_PER_TURN
            && let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now)
        {
            due.push(first.remove());
        }
        due
    }

    /// The next one to be served; stores take turns.
    pub(super) fn pop(&mut self, now: Time) -> Option<(StoreId, Wanted)> {
        let is_ready = |(_, line): &(&StoreId, &Line)| line.not_before <= now && !line.wanted.is_empty();
        let after = self.lines.range((Bound::Excluded(self.served), Bound::Unbounded)).find(is_ready);
        let to = *after.or_else(|| self.lines.iter().find(is_ready))?.0;
        self.served = to;
        let wanted = self.lines.get_mut(&to)?.wanted.pop_front()?;
        Some((to, wanted))
    }

    /// How long the follower has to wait before it is offered a snapshot.
    pub(super) fn back_off(&self, limits: &SnapshotLimits, wanted: Wanted) -> Duration {
        let Some(attempts) = self.attempts.get(&wanted).filter(|attempts| attempts.failures > 0) else {
            return Duration::ZERO;
        };
        let doubled = 1_u32.checked_shl(attempts.failures - 1).unwrap_or(u32::MAX);
        limits.retry_min.saturating_mul(doubled).min(limits.retry_max)
    }

    /// A transfer came to nothing, or to nothing that helped.
    pub(super) fn on_failed(&mut self, now: Time, limits: &SnapshotLimits, wanted: Wanted) {
        if self.attempts.len() >= ATTEMPTS_REMEMBERED {
            let long_ago = |attempts: &Attempts| now.since(attempts.last) > limits.retry_max * 2;
            self.attempts.retain(|_, attempts| !long_ago(attempts));
        }
        let attempts = self.attempts.entry(wanted).or_insert(Attempts { failures: 0, first_chunk: 0, last: now });
        attempts.failures = attempts.failures.saturating_add(1);
        attempts.last = now;
    }

    /// A transfer begins with this chunk: if the one before brought something, its end was no failure.
    pub(super) fn on_begun(&mut self, wanted: Wanted, first_chunk: u64) {
        if let Some(attempts) = self.attempts.get_mut(&wanted) {
            if first_chunk > attempts.first_chunk {
                attempts.failures = 0;
            }
            attempts.first_chunk = first_chunk;
        }
    }

    /// The follower needs no back-off any more.
    pub(super) fn forget(&mut self, wanted: Wanted) {
        self.attempts.remove(&wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(slot: u32) -> Wanted {
        (SlotKey { slot, generation: 1 }, ReplicaId(2))
    }

    #[test]
    fn stores_take_turns_and_a_busy_one_is_left_alone() {
        let mut queue = Queue::new();
        let later = Time::ZERO.plus(Duration::from_secs(1));
        for slot in 0..3 {
            queue.push(StoreId(1), wanted(slot));
            queue.push(StoreId(2), wanted(10 + slot));
        }
        assert_eq!(queue.pop(Time::ZERO), Some((StoreId(1), wanted(0))));
        assert_eq!(queue.pop(Time::ZERO), Some((StoreId(2), wanted(10))));
        queue.push_back_until(StoreId(1), wanted(0), later);
        assert_eq!(queue.pop(Time::ZERO), Some((StoreId(2), wanted(11))));
        assert_eq!(queue.pop(Time::ZERO), Some((StoreId(2), wanted(12))));
        assert_eq!(queue.pop(Time::ZERO), None);
        assert_eq!(queue.pop(later), Some((StoreId(1), wanted(0))));
        queue.push_back_until(StoreId(1), wanted(0), later);
        queue.on_link(StoreId(1));
        assert_eq!(queue.pop(Time::ZERO), Some((StoreId(1), wanted(0))));
    }

    #[test]
    fn the_back_off_doubles_up_to_its_bound_and_progress_ends_it() {
        let (mut queue, limits) = (Queue::new(), SnapshotLimits::default());
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(queue.back_off(&limits, wanted(1)));
            queue.on_begun(wanted(1), 0);
            queue.on_failed(Time::ZERO, &limits, wanted(1));
        }
        assert_eq!(waits[..4], [Duration::ZERO, limits.retry_min, limits.retry_min * 2, limits.retry_min * 4]);
        assert!(waits[1..].is_sorted() && waits[39] == limits.retry_max);
        queue.on_begun(wanted(1), 7);
        assert_eq!(queue.back_off(&limits, wanted(1)), Duration::ZERO);
        queue.on_failed(Time::ZERO, &limits, wanted(1));
        queue.on_begun(wanted(1), 7);
        assert_eq!(queue.back_off(&limits, wanted(1)), limits.retry_min, "nothing came of it");
    }
}
