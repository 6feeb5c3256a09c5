//! What all clients of a load share: the record, the counts, and what they were asked to do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Recovered, Settings};
use crate::history::Recorder;
use crate::stop::Stop;

#[derive(Debug)]
pub(super) struct Ground {
    pub(super) settings: Settings,
    pub(super) recorder: Recorder,
    /// Told when an answer made no sense: all clients end.
    pub(super) broken: Stop,
    answered: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    values: AtomicU64,
}

impl Ground {
    pub(super) fn new(settings: Settings, recorder: Recorder) -> Self {
        let [answered, unknown, refused, values] = [const { AtomicU64::new(0) }; 4];
        Self { settings, recorder, broken: Stop::default(), answered, unknown, refused, values }
    }

    /// A number that nobody has had, from 1 on.
    pub(super) fn unique(&self) -> i64 {
        // A harness does not count beyond 2^63.
        i64::try_from(self.values.fetch_add(1, Ordering::Relaxed) + 1).unwrap_or(i64::MAX)
    }

    /// From one operation of a client to its next; zero: at once.
    pub(super) fn pace(&self) -> Duration {
        let Some(rate) = self.settings.rate else { return Duration::ZERO };
        Duration::from_secs_f64(self.settings.clients as f64 / rate.max(1) as f64)
    }

    pub(super) fn note_slow(&self, recovered: &mut Recovered, took: Duration, at: usize) {
        if took > recovered.slowest {
            recovered.slowest = took;
            recovered.slowest_store = self.settings.places.get(at).map_or(0, |place| place.store);
        }
    }

    pub(super) fn count_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
