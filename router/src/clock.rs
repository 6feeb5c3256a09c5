//! The one clock that makes [`Time`] for the threads of a store.
//!
//! Monotonic, never set back, counted from the clock's creation. It stands still while the machine is suspended on systems
//! whose monotonic clock does, so nothing that another store relies on (a lease) may be measured with it.

use std::time::{Duration, Instant};

use multiraft_raft::Time;

/// A monotonic clock. Copies of one clock agree; readings of two clocks are not comparable.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The present reading.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::ZERO.plus(self.start.elapsed())
    }

    /// The moment at which this clock will read `time`; none if that is [`Time::NEVER`] or too far off for the system.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<Instant> {
        if time == Time::NEVER {
            return None;
        }
        self.start.checked_add(Duration::from_nanos(time.0))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn readings_never_go_back_and_map_to_instants() {
        let clock = Clock::start();
        let first = clock.now();
        let second = clock.now();
        assert!(first <= second);
        assert!(clock.instant(second).expect("near") <= Instant::now());
        assert_eq!(clock.instant(Time::NEVER), None);
    }
}
