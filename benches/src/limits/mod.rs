//! What this machine can do, by the means that stores use: its disk, one QUIC connection, ciphers, checksums, queues. No store
//! runs. What a benchmark of stores reaches is told as a share of it.

mod cpu;
pub(crate) mod disk;
pub(crate) mod net;
mod share;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as Group;
use serde_json::{Value, json};

pub(crate) use self::share::{HEAD as SHARES, Reached, Share};
use crate::cluster::Problem;
use crate::report::{print_table, rounded};
use crate::usage;

/// What `limits` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Limits {
    /// Bytes that are written and flushed at once.
    #[arg(long, value_delimiter = ',', default_value = "128,1024,4096,16384,65536,262144,1048576",
        value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) batch: Vec<u64>,
    /// Files that are flushed at once: on one machine the logs of all stores share the disk.
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) files: Vec<u64>,
    /// Milliseconds that each is measured for.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(crate) millis: Option<u64>,
    /// A short run for CI: another default for milliseconds (50).
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where to write (default: the system's place for temporary files). To mean anything, it must lie on a real disk.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Nothing here is random: taken so that every benchmark takes it.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End with one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

const DISK: [&str; 6] = ["batch bytes", "files", "fsyncs/s", "MB/s", "p50 us", "p99 us"];
const OTHERS: [&str; 2] = ["what", "limit"];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Limits) -> Result<(), Problem> {
    let time = Duration::from_millis(options.millis.unwrap_or(if options.quick { 50 } else { 1000 }));
    let place = place(options.dir.as_deref());
    let mut disks = Vec::new();
    for files in &options.files {
        for batch in &options.batch {
            disks.push(disk::measure(&place, *batch, *files, time)?);
        }
    }
    let others = Others::measure(time)?;
    let row = |found: &disk::Flushed| {
        let numbers = [found.batch, found.files].map(|number| number.to_string());
        let quantile = |quantile| found.times.value_at_quantile(quantile).to_string();
        let rates = [format!("{:.0}", found.syncs_per_s), format!("{:.1}", found.bytes_per_s() / 1e6)];
        numbers.into_iter().chain(rates).chain([0.5, 0.99].map(quantile)).collect::<Vec<_>>()
    };
    print_table(&DISK, &disks.iter().map(row).collect::<Vec<_>>());
    println!();
    print_table(&OTHERS, &others.rows());
    if options.json {
        let disks = disks.iter().map(|found| {
            json!({
                "batch": found.batch,
                "files": found.files,
                "fsyncs_per_s": rounded(found.syncs_per_s),
                "bytes_per_s": found.bytes_per_s().round(),
                "p50_us": found.times.value_at_quantile(0.5),
                "p99_us": found.times.value_at_quantile(0.99),
            })
        });
        let mut line = others.json();
        line["bench"] = "limits".into();
        line["disk"] = disks.collect();
        println!("{line}");
    }
    Ok(())
}

/// Where files are written.
pub(crate) fn place(dir: Option<&Path>) -> PathBuf {
    let place = dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
    if usage::lies_in_memory(&place) {
        eprintln!("warning: {} lies in memory, flushes cost nothing there: use --dir", place.display());
    }
    place
}

/// All limits but the disk's.
struct Others {
    link: net::Linked,
    seal_bytes_per_s: f64,
    crc_bytes_per_s: f64,
    channel_per_s: f64,
    wakes_per_s: f64,
}

impl Others {
    fn measure(time: Duration) -> Result<Self, Problem> {
        Ok(Self {
            link: net::measure(time)?,
            seal_bytes_per_s: cpu::seal(time),
            crc_bytes_per_s: cpu::checksum(time),
            channel_per_s: cpu::channel(time),
            wakes_per_s: cpu::wake(time),
        })
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let megabytes = |bytes: f64| format!("{:.0} MB/s", bytes / 1e6);
        let each = |name: &str, value: String| vec![name.to_owned(), value];
        let trip = &self.link.round_trips;
        vec![
            each("one QUIC connection, one way", megabytes(self.link.bytes_per_s)),
            each("its round trips, one after the other", format!("{:.0}/s", self.link.round_trips_per_s)),
            each("one of them, p50", format!("{} us", trip.value_at_quantile(0.5))),
            each("one of them, p99", format!("{} us", trip.value_at_quantile(0.99))),
            each("AES-128-GCM on a core", megabytes(self.seal_bytes_per_s)),
            each("CRC-32C on a core", megabytes(self.crc_bytes_per_s)),
            each("a queue between two threads", format!("{:.0}/s", self.channel_per_s)),
            each("answers from another thread, one after the other", format!("{:.0}/s", self.wakes_per_s)),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "quic_bytes_per_s": self.link.bytes_per_s.round(),
            "quic_round_trips_per_s": self.link.round_trips_per_s.round(),
            "quic_round_trip_p50_us": self.link.round_trips.value_at_quantile(0.5),
            "quic_round_trip_p99_us": self.link.round_trips.value_at_quantile(0.99),
            "seal_bytes_per_s": self.seal_bytes_per_s.round(),
            "crc_bytes_per_s": self.crc_bytes_per_s.round(),
            "channel_per_s": self.channel_per_s.round(),
            "wakes_per_s": self.wakes_per_s.round(),
        })
    }
}
