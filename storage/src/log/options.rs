//! What an embedder may choose about a log.

use std::time::Duration;

use super::format::{ALIGN, SEGMENT_HEADER, TRAILER};

/// The largest segment: offsets have 32 bits, and a batch larger than a segment gets a larger one of its own.
const SEGMENT_BYTES_MAX: u32 = 1 << 30;
const SEGMENT_BYTES_MIN: u32 = 16 << 10;

/// More threads than this have never anything to do: the one that they work for is slower than they are.
pub(crate) const OPENING_THREADS_MAX: usize = 8;

/// Choices for one log. The defaults suit a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How long a segment file is. A store opened with another value keeps its old files as they are. Between 16 KiB and
    /// 1 GiB, rounded down to whole pages of 4 KiB.
    pub segment_bytes: u32,
    /// How many preallocated files wait to become segments. The last of them is the reserve: only batches without entries
    /// take it when the disk is full. At least one.
    pub spare_segments: usize,
    /// How many emptied files are kept for use again beyond `spare_segments`; further ones are removed.
    pub recycled_segments: usize,
    /// How large what is written of the log may grow, in percent of what lives in it, before the oldest segment's living records are
    /// written again so that it can go. At least 110.
    pub garbage_percent: u32,
    /// How many bytes of living records are written again in one commit at least, if there is need.
    pub rewrite_step_bytes: u32,
    /// Entries beyond so many bytes start a new record. Bounds what a read of one entry costs.
    pub record_bytes_max: u32,
    /// How many bytes of batches may wait in a [`SharedLog`](super::SharedLog) before it answers `Busy`.
    pub queue_bytes_max: usize,
    /// A write of a [`SharedLog`](super::SharedLog) takes no more batches once it has so many bytes. What waits behind it is written
    /// next: on a slow disk, what came first is told to be durable before all that came after it is.
    pub write_bytes_max: usize,
    /// How long a [`SharedLog`](super::SharedLog) lets pass at least from the beginning of a write to that of the next, if that write
    /// had records of more than four groups: more are on their way, and one flush for all of them costs less and takes no longer
    /// than several. A write of few is followed by the next at once, so a lone client never waits for this. Zero: never.
    pub gather: Duration,
    /// How many threads check the log while it is opened, beside the one that opens it. They take the log piece by piece, in its
    /// order, and each keeps at most two pieces of 1 MiB ahead. For that each takes less than 1 MiB of memory as a rule, at
    /// most 12 MiB where records are tiny, and room for the longest frame; nothing of it grows with the log. One: no further
    /// thread. Zero: as many as there are processors, none for less than 32 MiB of log. At most eight. The same comes out with
    /// any number.
    pub opening_threads: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 2,
            recycled_segments: 2,
            garbage_percent: 200,
            rewrite_step_bytes: 256 << 10,
            record_bytes_max: 256 << 10,
            queue_bytes_max: 256 << 20,
            write_bytes_max: 4 << 20,
            gather: Duration::from_micros(800),
            opening_threads: 0,
        }
    }
}

impl LogOptions {
    /// For simulations: segments of 64 KiB, small steps.
    #[must_use]
    pub fn small() -> Self {
        Self {
            segment_bytes: 64 << 10,
            rewrite_step_bytes: 4 << 10,
            record_bytes_max: 8 << 10,
            queue_bytes_max: 1 << 20,
            ..Self::default()
        }
    }

    /// The same choices with every value inside its bounds.
    pub(crate) fn bounded(self) -> Self {
        Self {
            segment_bytes: self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) & !4095,
            spare_segments: self.spare_segments.max(1),
            garbage_percent: self.garbage_percent.max(110),
            rewrite_step_bytes: self.rewrite_step_bytes.max(1 << 10),
            record_bytes_max: self.record_bytes_max.clamp(1 << 10, 64 << 20),
            ..self
        }
    }

    /// The capacity of a segment that has room for a frame of `bytes` with its share of the footer.
    pub(crate) fn capacity_for(&self, bytes: usize) -> u32 {
        let needed = (SEGMENT_HEADER + bytes + ALIGN + TRAILER).next_multiple_of(4096);
        self.segment_bytes.max(u32::try_from(needed).unwrap_or(u32::MAX))
    }
}
