//! Virtual time and what is to happen in it.
//!
//! Time is what the simulator counts, in nanoseconds since the run began; it jumps from one event to the next. Each store
//! reads it through a clock of its own, which starts somewhere else and drifts. Events of one moment happen in the order in
//! which they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;

use multiraft_raft::Time;

/// A microsecond, in nanoseconds.
pub const MICRO: u64 = 1_000;
/// A millisecond, in nanoseconds.
pub const MILLI: u64 = 1_000_000;
/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// A moment of the run.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// When the run begins.
    pub const START: Self = Self(0);
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// This moment moved forward by `nanos`.
    #[must_use]
    pub const fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// How many nanoseconds after `earlier` it is; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / SECOND, self.0 % SECOND / MICRO)
    }
}

/// A store's monotonic clock: starts anywhere and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub struct DriftingClock {
    /// What it shows when the run begins.
    offset: u64,
    /// How many of its nanoseconds a million true ones are.
    rate_ppm: u64,
}

impl DriftingClock {
    /// A clock that shows `offset` nanoseconds when the run begins and gains `drift_ppm` millionths.
    #[must_use]
    pub fn new(offset: u64, drift_ppm: i64) -> Self {
        Self { offset, rate_ppm: 1_000_000u64.saturating_add_signed(drift_ppm).max(1) }
    }

    /// What it shows at `moment`.
    #[must_use]
    pub fn read(&self, moment: Moment) -> Time {
        let elapsed = u128::from(moment.0) * u128::from(self.rate_ppm) / 1_000_000;
        Time(self.offset.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)))
    }

    /// The first moment at which it shows `time` or later.
    #[must_use]
    pub fn moment_of(&self, time: Time) -> Moment {
        if time == Time::NEVER {
            return Moment::NEVER;
        }
        let shown = u128::from(time.0.saturating_sub(self.offset));
        let elapsed = (shown * 1_000_000).div_ceil(u128::from(self.rate_ppm));
        Moment(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// What is to happen, in order.
#[derive(Debug)]
pub struct Schedule<E> {
    heap: BinaryHeap<Planned<E>>,
    now: Moment,
    planned: u64,
}

#[derive(Debug)]
struct Planned<E> {
    at: Moment,
    order: u64,
    event: E,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now: Moment::START, planned: 0 }
    }
}

impl<E> Schedule<E> {
    /// Plans `event` for `at`, or for now if that is past.
    pub fn plan(&mut self, at: Moment, event: E) {
        self.planned += 1;
        self.heap.push(Planned { at: at.max(self.now), order: self.planned, event });
    }

    /// Plans `event` for `nanos` from now.
    pub fn plan_in(&mut self, nanos: u64, event: E) {
        self.plan(self.now.plus(nanos), event);
    }

    /// Moves time forward to the next event that happens no later than `limit`, and takes it out.
    pub fn next(&mut self, limit: Moment) -> Option<E> {
        if self.heap.peek()?.at > limit {
            return None;
        }
        let next = self.heap.pop()?;
        self.now = next.at;
        Some(next.event)
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.now
    }

    /// How many events were planned so far.
    #[must_use]
    pub fn planned(&self) -> u64 {
        self.planned
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    /// The heap gives the greatest first: the earliest, and of those the first planned.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_happen_in_order_of_time_then_of_planning() {
        let mut schedule = Schedule::default();
        schedule.plan(Moment(5), 'c');
        schedule.plan(Moment(3), 'a');
        schedule.plan(Moment(3), 'b');
        schedule.plan(Moment(9), 'd');
        let order: Vec<_> = std::iter::from_fn(|| schedule.next(Moment(8))).collect();
        assert_eq!(order, ['a', 'b', 'c']);
        assert_eq!(schedule.now(), Moment(5));
        schedule.plan(Moment(1), 'e');
        assert_eq!(schedule.next(Moment(8)), Some('e'));
        assert_eq!(schedule.now(), Moment(5), "time does not run backwards");
    }

    #[test]
    fn a_drifting_clock_finds_the_moment_of_each_reading() {
        for drift in [-20_000, 0, 20_000] {
            let clock = DriftingClock::new(7_000, drift);
            for moment in [0, 1, 999, 1_000_003, 60 * SECOND].map(Moment) {
                let shown = clock.read(moment);
                let found = clock.moment_of(shown);
                assert!(found <= moment && clock.read(found) >= shown, "{drift} {moment:?}");
            }
        }
        assert_eq!(DriftingClock::new(0, 0).moment_of(Time::NEVER), Moment::NEVER);
    }
}
