//! What the log counts: plain numbers for whoever asks, and the same as metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A reading of a log's counters and sizes.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LogStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// Written by the writer's thread only, read by anyone.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            /// The numbers now; each is current, all together are not one moment's.
            pub(crate) fn read(&self) -> LogStats {
                LogStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Syncs of frames since the log was opened.
    syncs,
    /// Entries made durable.
    entries,
    /// Batches made durable.
    batches,
    /// Bytes written in frames.
    bytes,
    /// Of those, living records that were written again so that an old segment could go.
    rewritten_bytes,
    /// What the log's files take on disk, spares included.
    disk_bytes,
    /// What of it lives, as far as whole records count.
    live_bytes,
    /// Segments in use, the one being written included.
    segments,
    /// Files that wait to become segments.
    spare_segments,
    /// Groups that hold anything.
    groups,
    /// Bytes of batches that wait to be written.
    queue_bytes,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn set(counter: &AtomicU64, to: u64) {
        counter.store(to, Ordering::Relaxed);
    }

    /// One frame is durable.
    pub(crate) fn on_frame(&self, batches: u64, entries: u64, bytes: u64, rewritten: u64, sync: Duration) {
        Self::add(&self.syncs, 1);
        Self::add(&self.batches, batches);
        Self::add(&self.entries, entries);
        Self::add(&self.bytes, bytes);
        Self::add(&self.rewritten_bytes, rewritten);
        metrics::histogram!("log_sync_seconds").record(sync.as_secs_f64());
        metrics::histogram!("log_batch_entries").record(entries as f64);
        metrics::histogram!("log_batch_bytes").record(bytes as f64);
        metrics::counter!("log_syncs_total").increment(1);
        metrics::counter!("log_entries_total").increment(entries);
        metrics::counter!("log_bytes_total").increment(bytes);
        metrics::counter!("log_rewritten_bytes_total").increment(rewritten);
    }

    /// The log's sizes have changed.
    pub(crate) fn on_sizes(&self, disk: u64, live: u64, segments: usize, spares: usize) {
        Self::set(&self.disk_bytes, disk);
        Self::set(&self.live_bytes, live);
        Self::set(&self.segments, segments as u64);
        Self::set(&self.spare_segments, spares as u64);
        metrics::gauge!("log_disk_bytes").set(disk as f64);
        metrics::gauge!("log_live_bytes").set(live as f64);
    }
}
