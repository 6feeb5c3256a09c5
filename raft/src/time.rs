//! Time as an argument: a reading of a store's monotonic clock.
//!
//! The core never asks for the time. Whoever drives it reads one clock per turn and passes the reading in; the simulator
//! passes virtual time.

use std::fmt;
use std::time::Duration;

/// Nanoseconds on a monotonic clock since some fixed, arbitrary moment of the store's own choosing.
///
/// Readings of two stores are never comparable. Arithmetic saturates.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The earliest reading.
    pub const ZERO: Self = Self(0);
    /// Later than any reading: a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This moment moved forward.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// How long after `earlier` this moment is; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The first multiple of `step` that is strictly later than this moment. Groups that beat on one grid beat together,
    /// so that their heartbeats share a message.
    #[must_use]
    pub const fn next_multiple(self, step: Duration) -> Self {
        let step = nanos(step);
        if step == 0 {
            return self;
        }
        Self((self.0 / step).saturating_add(1).saturating_mul(step))
    }
}

const fn nanos(by: Duration) -> u64 {
    let n = by.as_nanos();
    if n > u64::MAX as u128 { u64::MAX } else { n as u64 }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}
