//! What stores have reached of what the machine can do.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{disk, net};
use crate::cluster::{Problem, STORES};
use crate::report::{ratio, rounded};

pub(crate) const HEAD: [&str; 4] = ["limit", "stores", "machine", "share %"];

/// What stores did that a limit can be told of.
pub(crate) struct Reached {
    /// Flushes a second of all logs together, and how many bytes each wrote on average.
    pub(crate) fsyncs_per_s: f64,
    pub(crate) bytes_per_fsync: f64,
    /// Bytes a second on all links together.
    pub(crate) bytes_sent_per_s: f64,
    /// How long half of the writes took at most, in microseconds.
    pub(crate) p50_us: u64,
}

/// Beside it what the machine does alone, with the same bytes at once.
pub(crate) struct Share {
    reached: Reached,
    disk: disk::Flushed,
    link: net::Linked,
}

impl Share {
    /// Measures the limits. No store may run meanwhile.
    pub(crate) fn measure(reached: Reached, place: &Path, time: Duration) -> Result<Self, Problem> {
        let batch = (reached.bytes_per_fsync.round() as u64).max(1);
        let disk = disk::measure(place, batch, STORES, time)?;
        Ok(Self { reached, disk, link: net::measure(time)? })
    }

    /// The least that a write can take: a round trip to a follower, and the flush there.
    fn least_us(&self) -> f64 {
        (self.link.round_trips.value_at_quantile(0.5) + self.disk.times.value_at_quantile(0.5)) as f64
    }

    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: String, stores: f64, machine: f64, share: f64| {
            vec![name, format!("{stores:.0}"), format!("{machine:.0}"), format!("{:.1}", share * 100.0)]
        };
        let (reached, disk, link) = (&self.reached, &self.disk, &self.link);
        let bytes = reached.fsyncs_per_s * reached.bytes_per_fsync;
        vec![
            row(
                format!("fsyncs/s of {} bytes, {STORES} logs at once", disk.batch),
                reached.fsyncs_per_s,
                disk.syncs_per_s,
                ratio(reached.fsyncs_per_s, disk.syncs_per_s),
            ),
            row("KB/s into logs".to_owned(), bytes / 1e3, disk.bytes_per_s() / 1e3, ratio(bytes, disk.bytes_per_s())),
            row(
                "KB/s on all links, beside one QUIC connection".to_owned(),
                reached.bytes_sent_per_s / 1e3,
                link.bytes_per_s / 1e3,
                ratio(reached.bytes_sent_per_s, link.bytes_per_s),
            ),
            row(
                "us of a write (p50), beside a round trip and a flush".to_owned(),
                reached.p50_us as f64,
                self.least_us(),
                ratio(self.least_us(), reached.p50_us as f64),
            ),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "batch_bytes": self.disk.batch,
            "fsyncs_per_s": rounded(self.disk.syncs_per_s),
            "fsyncs_share": ratio(self.reached.fsyncs_per_s, self.disk.syncs_per_s),
            "quic_bytes_per_s": self.link.bytes_per_s.round(),
            "quic_bytes_share": ratio(self.reached.bytes_sent_per_s, self.link.bytes_per_s),
            "least_us": self.least_us(),
            "p50_share": ratio(self.least_us(), self.reached.p50_us as f64),
        })
    }
}
