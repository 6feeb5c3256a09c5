//! Writes per second, or reads (`--operation`): what is said of writes below holds for them.
//!
//! A write counts when it is committed (durable on a quorum), applied and answered within the window. Each client has one
//! under way. Processor time and counters are those of all three stores, their clients included.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Cluster, Operation, State, Throughput};
use crate::cluster::{Plan, Problem, STORES, Stores, number};
use crate::limits::{self, Reached, Share};
use crate::report::{Measured, answered, print_table, ratio, rounded};
use crate::usage;

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Throughput) -> Result<(), Problem> {
    let size = Size::of(options);
    let (mut rows, mut shares, mut lines, mut reached) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for state in options.state.runs() {
        let result = Figures::measure(&size, &options.cluster, *state)?;
        rows.push(result.row());
        shares.push(result.per_write.clone());
        let mut line = result.json();
        if options.limits {
            let share =
                Share::measure(result.reached, &limits::place(options.cluster.dir.as_deref()), size.window / 4)?;
            line["limits"] = share.json();
            reached.push((state.name(), share));
        }
        lines.push(line);
    }
    print_table(&HEAD, &rows);
    println!("\nof all stores, for each write:");
    print_table(&SHARES, &shares);
    for (state, share) in reached {
        println!("\nof what this machine can do (state {state}):");
        print_table(&limits::SHARES, &share.rows());
    }
    if options.cluster.json {
        for line in lines {
            println!("{line}");
        }
    }
    Ok(())
}

/// How large a run is.
#[derive(Clone)]
pub(crate) struct Size {
    pub(crate) groups: u64,
    pub(crate) clients: u64,
    pub(crate) payload: u64,
    pub(crate) operation: Operation,
    /// So many a second in an open loop; `None`: clients wait for their answers.
    pub(crate) rate: Option<u64>,
    /// All stores in one process.
    pub(crate) together: bool,
    /// Clients live where the regions are led that they write to.
    pub(crate) at_leaders: bool,
    /// They talk over channels.
    pub(crate) channels: bool,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
}

impl Size {
    fn of(options: &Throughput) -> Self {
        let (groups, clients, warmup, seconds) = if options.quick { (48, 32, 1, 2) } else { (1000, 256, 3, 10) };
        Self {
            groups: options.groups.unwrap_or(groups),
            clients: options.clients.unwrap_or(clients),
            payload: options.load.payload,
            operation: options.operation,
            rate: options.rate,
            together: options.one_process,
            at_leaders: options.at_leaders,
            channels: options.channels,
            warmup: Duration::from_secs(options.load.warmup.unwrap_or(warmup)),
            window: Duration::from_secs(options.load.seconds.unwrap_or(seconds)),
        }
    }
}

pub(crate) const HEAD: [&str; 13] = [
    "state",
    "groups",
    "clients",
    "payload",
    "writes/s",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "cpu us/write",
    "entries/fsync",
    "messages/frame",
    "fsyncs/s",
    "errors",
];

const SHARES: [&str; 10] = [
    "state",
    "turns",
    "log entries",
    "log bytes",
    "messages",
    "frames",
    "bytes sent",
    "forwarded",
    "disk bytes",
    "disk/payload",
];

/// What came out of one run.
pub(crate) struct Figures {
    pub(crate) size: Size,
    seed: u64,
    state: State,
    pub(crate) writes_per_s: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) cpu_us_per_write: f64,
    entries_per_fsync: f64,
    pub(crate) messages_per_frame: f64,
    fsyncs_per_s: f64,
    /// Proposals that were refused or whose outcome is unknown.
    pub(crate) errors: u64,
    /// Bytes of the frames that all stores sent, for each write.
    pub(crate) wire_bytes_per_write: f64,
    /// Bytes that were written to the disk for one of a value, by all stores and whoever else was at it: of three replicas 3 is
    /// the least.
    write_amplification: Option<f64>,
    /// See [`usage::dirtied_bytes`].
    dirtied_bytes_per_write: f64,
    /// What limits can be told of.
    pub(crate) reached: Reached,
    /// What the stores did, divided by the writes; in the order of [`SHARES`].
    per_write: Vec<String>,
    /// Regions that had no leader when the load began.
    pub(crate) leaderless: u64,
}

impl Figures {
    pub(crate) fn measure(size: &Size, cluster: &Cluster, state: State) -> Result<Self, Problem> {
        let plan = Plan {
            clients: size.clients,
            payload: size.payload,
            operation: size.operation,
            rate: size.rate,
            together: size.together,
            at_leaders: size.at_leaders,
            channels: size.channels,
            ..Plan::new(cluster, size.groups, state)
        };
        let (mut stores, leaderless) = Stores::start(&plan)?;
        if size.operation != Operation::Write {
            stores.fill()?;
        }
        stores.load(size.warmup)?;
        let before = usage::disk_bytes_written(stores.dir());
        let measured = Measured::new(stores.measure(size.window)?);
        let disk_bytes = before.zip(usage::disk_bytes_written(stores.dir())).map(|(before, after)| after - before);
        drop(stores);
        let latencies = measured.latencies();
        let errors = measured.sum("errors") + measured.sum("busy");
        if latencies.is_empty() {
            let why = measured.first_error().unwrap_or("no proposal was answered in the window");
            return Err(Problem::NothingWritten(why.to_owned()));
        }
        if let Some(error) = measured.first_error() {
            eprintln!("warning: {errors} proposals failed, the first one: {error}");
        }
        let share = |name: &str| format!("{:.2}", ratio(measured.counted(name) as f64, latencies.len() as f64));
        let mut per_write = vec![state.name().to_owned()];
        let counters = ["turns", "log_entries", "log_bytes", "messages_sent", "frames_sent", "bytes_sent", "forwarded"];
        per_write.extend(counters.map(share));
        let each = |bytes: Option<u64>, of: u64| bytes.filter(|_| of > 0).map(|bytes| bytes as f64 / of as f64);
        let write_amplification = each(disk_bytes, latencies.len() * size.payload);
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        per_write.extend([shown(each(disk_bytes, latencies.len())), shown(write_amplification)]);
        let fsyncs_per_s = measured.per_second(|store| number(&store["counters"], "log_syncs"));
        Ok(Self {
            per_write,
            size: size.clone(),
            seed: cluster.seed,
            state,
            writes_per_s: measured.per_second(answered),
            p50_us: latencies.value_at_quantile(0.50),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            cpu_us_per_write: ratio(measured.sum("cpu_us") as f64, latencies.len() as f64),
            entries_per_fsync: ratio(measured.counted("log_entries") as f64, measured.counted("log_syncs") as f64),
            messages_per_frame: ratio(measured.counted("messages_sent") as f64, measured.counted("frames_sent") as f64),
            wire_bytes_per_write: ratio(measured.counted("bytes_sent") as f64, latencies.len() as f64),
            write_amplification,
            dirtied_bytes_per_write: ratio(measured.sum("dirtied_bytes") as f64, latencies.len() as f64),
            reached: Reached {
                fsyncs_per_s,
                bytes_per_fsync: ratio(measured.counted("log_bytes") as f64, measured.counted("log_syncs") as f64),
                bytes_sent_per_s: measured.per_second(|store| number(&store["counters"], "bytes_sent")),
                p50_us: latencies.value_at_quantile(0.50),
            },
            fsyncs_per_s,
            errors,
            leaderless,
        })
    }

    pub(crate) fn row(&self) -> Vec<String> {
        vec![
            self.state.name().to_owned(),
            self.size.groups.to_string(),
            self.size.clients.to_string(),
            self.size.payload.to_string(),
            format!("{:.0}", self.writes_per_s),
            self.p50_us.to_string(),
            self.p99_us.to_string(),
            self.p999_us.to_string(),
            format!("{:.1}", self.cpu_us_per_write),
            format!("{:.1}", self.entries_per_fsync),
            format!("{:.1}", self.messages_per_frame),
            format!("{:.0}", self.fsyncs_per_s),
            self.errors.to_string(),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "bench": "throughput",
            "groups": self.size.groups,
            "clients": self.size.clients,
            "payload": self.size.payload,
            "state": self.state.name(),
            "operation": self.size.operation.name(),
            "writes_per_s": self.writes_per_s.round(),
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "p999_us": self.p999_us,
            "cpu_us_per_write": rounded(self.cpu_us_per_write),
            "entries_per_fsync": rounded(self.entries_per_fsync),
            "messages_per_frame": rounded(self.messages_per_frame),
            "fsyncs_per_s": self.fsyncs_per_s.round(),
            "wire_bytes_per_write": rounded(self.wire_bytes_per_write),
            "write_amplification": self.write_amplification.map(rounded),
            "dirtied_bytes_per_write": self.dirtied_bytes_per_write.round(),
            "rate": self.size.rate,
            "at_leaders": self.size.at_leaders,
            "processes": if self.size.together { 1 } else { STORES },
            "links": if self.size.channels { "channels" } else { "quic" },
            "seed": self.seed,
            "errors": self.errors,
            "leaderless": self.leaderless,
        })
    }
}
