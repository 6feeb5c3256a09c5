//! The end of something, which threads wait for while they pace themselves.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Told once.
#[derive(Debug, Default)]
pub struct Stop {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// From now on it is over.
    pub fn tell(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_told(&self) -> bool {
        *self.lock()
    }

    /// Returns after so long, or as soon as it is told; whether it was.
    pub fn within(&self, pause: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), pause, |told| !*told);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits a little, and then says whether there is time for another look.
#[must_use]
pub fn look_again(since: Instant, limit: Duration) -> bool {
    Stop::default().within(Duration::from_millis(50));
    since.elapsed() < limit
}
