//! How fast snapshots leave this store, or come in: all of them together.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How much time's worth may go out at once after a pause.
const BURST: Duration = Duration::from_millis(20);

/// A token bucket, kept as the moment up to which the allowance is used.
pub(crate) struct Throttle {
    /// Zero: no limit.
    bytes_per_second: u64,
    used_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, used_until: Mutex::new(None) }
    }

    /// Waits until `bytes` may go out. Who comes first goes first.
    pub(crate) async fn pass(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let now = Instant::now();
        let due = self.reserve(bytes, now);
        if due > now {
            sleep_until(due).await;
        }
    }

    /// When `bytes` may go out, if they are asked for now.
    fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        let full = now.checked_sub(BURST).unwrap_or(now);
        let start = used_until.map_or(full, |until| until.max(full));
        let cost = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second);
        *used_until = Some(start + cost);
        start + cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_at_the_rate_after_one_burst() {
        let (throttle, now) = (Throttle::new(1_000_000), Instant::now());
        // 20 ms' worth are free.
        assert!(throttle.reserve(20_000, now) <= now);
        assert_eq!(throttle.reserve(10_000, now), now + Duration::from_millis(10));
        assert_eq!(throttle.reserve(10_000, now), now + Duration::from_millis(20));
        // A long pause saves up no more than one burst.
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.reserve(30_000, later), later + Duration::from_millis(10));
    }
}
