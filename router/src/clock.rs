//! The one clock that makes [`Time`] for the threads of a store.
//!
//! Monotonic, never set back, counted from the clock's creation. On Linux it is `CLOCK_BOOTTIME`, which runs on while the machine
//! is suspended: promises between stores (support, leases) are measured with it. Elsewhere it is the system's monotonic clock,
//! which may stand still then; leases are to be left off there. A hypervisor that stops a whole machine stops either.

#[cfg(all(feature = "torture", target_os = "linux"))]
mod torture;

use std::time::{Duration, Instant};

use multiraft_raft::Time;

/// A monotonic clock. Copies of one clock agree; readings of two clocks are not comparable.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Reading,
}

impl Clock {
    /// A clock that reads zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: read() }
    }

    /// The present reading.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::ZERO.plus(since(self.start))
    }

    /// The moment at which this clock will read `time`, as the system's waits know it; none if that is [`Time::NEVER`] or too far
    /// off for the system. A wait that was begun before a suspend ends as much later as that took: read the clock again then.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<Instant> {
        if time == Time::NEVER {
            return None;
        }
        // In this order: a wait until then does not end before this clock has come there.
        let own = self.now();
        let system = Instant::now();
        if time <= own {
            return Some(system.checked_sub(own.since(time)).unwrap_or(system));
        }
        system.checked_add(system_time(time.since(own)))
    }
}

/// How long the system's clock takes for what is so long on this one.
#[cfg(not(all(feature = "torture", target_os = "linux")))]
fn system_time(own: Duration) -> Duration {
    own
}

#[cfg(all(feature = "torture", target_os = "linux"))]
use torture::system_time;

#[cfg(target_os = "linux")]
type Reading = Duration;

#[cfg(target_os = "linux")]
fn read() -> Reading {
    #[cfg(feature = "torture")]
    return torture::reading(since_boot());
    #[cfg(not(feature = "torture"))]
    since_boot()
}

/// The time since the machine has booted, suspends included.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither is ever negative.
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(target_os = "linux")]
fn since(start: Reading) -> Duration {
    read().saturating_sub(start)
}

#[cfg(not(target_os = "linux"))]
type Reading = Instant;

#[cfg(not(target_os = "linux"))]
fn read() -> Reading {
    Instant::now()
}

#[cfg(not(target_os = "linux"))]
fn since(start: Reading) -> Duration {
    start.elapsed()
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
        assert!(clock.instant(second).expect("near") <= clock.instant(Time(second.0 + 1_000_000)).expect("near"));
        assert_eq!(clock.instant(Time::NEVER), None);
    }

    #[test]
    fn an_instant_to_come_is_as_far_off_as_the_clock_says() {
        let clock = Clock::start();
        let hour = Duration::from_secs(3600);
        let before = Instant::now();
        let (own, to_come) = (clock.now(), clock.now().plus(hour));
        let instant = clock.instant(to_come).expect("near");
        let taken = clock.now().since(own);
        assert!(instant >= before + hour && instant <= Instant::now() + hour + taken, "{instant:?} after {before:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn it_counts_the_time_since_boot_suspends_included() {
        let text = std::fs::read_to_string("/proc/uptime").expect("there on every Linux");
        let uptime: f64 = text.split(' ').next().expect("two numbers").parse().expect("seconds");
        let since_boot = read().as_secs_f64();
        // It is told in hundredths, and a container may count from its own start.
        assert!(since_boot + 0.01 >= uptime, "{since_boot} where {uptime} have passed");
    }
}
