//! The end of a trial, which its threads wait for while they pace themselves.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Told once.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn tell(&self) {
        *self.told.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_told(&self) -> bool {
        *self.told.lock().unwrap()
    }

    /// Returns after so long, or as soon as it is told; whether it was.
    pub(crate) fn within(&self, pause: Duration) -> bool {
        let told = self.told.lock().unwrap();
        *self.changed.wait_timeout_while(told, pause, |told| !*told).unwrap().0
    }
}

/// Waits a little, and then says whether there is time for another look.
pub(crate) fn look_again(since: Instant, limit: Duration) -> bool {
    Stop::default().within(Duration::from_millis(50));
    since.elapsed() < limit
}
