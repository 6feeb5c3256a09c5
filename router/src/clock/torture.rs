//! A clock that runs fast or slow, for tests on real processes; compiled with the feature `torture` alone, never into what ships.
//!
//! The environment variable [`ORDERS`] names a file with a number: how many millionths faster than the machine's clock this
//! process's is from then on (slower, if below zero). The file is looked at again and again. Readings never go back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::since_boot;

/// Names the file.
const ORDERS: &str = "MULTIRAFT_TORTURE_CLOCK";
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(10);
const MILLION: i64 = 1_000_000;
/// From a tenth of the machine's pace to ten times that.
const PPM: std::ops::RangeInclusive<i64> = -900_000..=9_000_000;

/// From a moment on, so much faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Course {
    /// That moment, on the machine's clock and on this one.
    machine: Duration,
    own: Duration,
    ppm: i64,
}

impl Course {
    fn own(&self, machine: Duration) -> Duration {
        self.own + scaled(machine.saturating_sub(self.machine), MILLION + self.ppm, MILLION)
    }

    /// From now on it runs so much faster.
    fn turn(&mut self, machine: Duration, ppm: i64) {
        if ppm != self.ppm {
            // Nobody may have been told of a later reading than the one from which it goes on.
            let machine = machine.max(self.machine);
            *self = Self { machine, own: self.own(machine), ppm };
        }
    }
}

/// What this process's clock reads when the machine's reads `machine`.
pub(super) fn reading(machine: Duration) -> Duration {
    course().map_or(machine, |course| lock(course).own(machine))
}

/// How long the machine's clock takes for what is so long on this process's, as it runs now.
pub(super) fn system_time(own: Duration) -> Duration {
    course().map_or(own, |course| scaled(own, MILLION, MILLION + lock(course).ppm))
}

/// The course of this process's clock, if it has orders.
fn course() -> Option<&'static Mutex<Course>> {
    static COURSE: OnceLock<Option<Mutex<Course>>> = OnceLock::new();
    static WATCH: OnceLock<()> = OnceLock::new();
    let course = COURSE.get_or_init(|| std::env::var_os(ORDERS).map(|_| Mutex::default())).as_ref()?;
    WATCH.get_or_init(|| {
        if let Some(orders) = std::env::var_os(ORDERS).map(PathBuf::from) {
            thread::spawn(move || watch(&orders, course));
        }
    });
    Some(course)
}

/// Follows the orders as long as the process lives, and says so: a test wants to see that it did.
fn watch(orders: &Path, course: &Mutex<Course>) {
    let mut told = None;
    loop {
        if let Some(ppm) = std::fs::read_to_string(orders).ok().and_then(|text| text.trim().parse::<i64>().ok()) {
            let Course { machine, own, ppm } = {
                let mut course = lock(course);
                course.turn(since_boot(), ppm.clamp(*PPM.start(), *PPM.end()));
                *course
            };
            if told.replace(ppm) != Some(ppm) {
                let (own_us, machine_us) = (own.as_micros(), machine.as_micros());
                tracing::warn!(ppm, own_us, machine_us, "the clock runs otherwise from now on");
            }
        }
        thread::park_timeout(INTERVAL);
    }
}

fn lock(course: &Mutex<Course>) -> std::sync::MutexGuard<'_, Course> {
    course.lock().unwrap_or_else(PoisonError::into_inner)
}

fn scaled(span: Duration, by: i64, of: i64) -> Duration {
    let (by, of) = (u128::from(by.unsigned_abs()), u128::from(of.unsigned_abs()));
    Duration::from_nanos(u64::try_from(span.as_nanos() * by / of).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_turned_goes_on_from_where_it_was() {
        let second = Duration::from_secs(1);
        let mut course = Course::default();
        assert_eq!(course.own(second * 7), second * 7, "it is the machine's until it is turned");
        course.turn(second * 7, 0);
        assert_eq!(course, Course::default());
        course.turn(second * 10, 500_000);
        assert_eq!((course.own(second * 10), course.own(second * 12)), (second * 10, second * 13));
        course.turn(second * 12, -900_000);
        assert_eq!((course.own(second * 12), course.own(second * 22)), (second * 13, second * 14));
        // A reading that was begun before the turn and ends after it.
        assert_eq!(course.own(second * 11), second * 13);
        course.turn(second * 11, 0);
        assert_eq!(course.own(second * 12), second * 13, "never back");
    }
}
