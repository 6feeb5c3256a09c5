//! What a state store measures. Names and units are part of the public interface.

use std::time::Instant;

use metrics::{Histogram, histogram};

/// The handles of one store, taken once from the recorder that was installed when the store was opened.
pub(super) struct StateMetrics {
    write_seconds: Histogram,
    write_bytes: Histogram,
    flush_seconds: Histogram,
}

impl StateMetrics {
    pub(super) fn new() -> Self {
        Self {
            write_seconds: histogram!("state_write_seconds"),
            write_bytes: histogram!("state_write_bytes"),
            flush_seconds: histogram!("state_flush_seconds"),
        }
    }

    /// A batch of `bytes` was written; it began at `start`.
    pub(super) fn wrote(&self, start: Instant, bytes: usize) {
        self.write_seconds.record(start.elapsed());
        self.write_bytes.record(bytes as f64);
    }

    /// A flush that began at `start` is done.
    pub(super) fn flushed(&self, start: Instant) {
        self.flush_seconds.record(start.elapsed());
    }
}
