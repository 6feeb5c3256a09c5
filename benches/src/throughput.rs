//! Writes per second, or reads (`--operation`): what is said of writes below holds for them.
//!
//! A write counts when it is committed (durable on a quorum), applied and answered within the window. Each client has one
//! under way. Processor time and counters are those of all three stores, their clients included.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Cluster, Operation, State, Throughput};
use crate::cluster::{Plan, Problem, Stores, number};
use crate::report::{Measured, answered, print_table, ratio, rounded};

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Throughput) -> Result<(), Problem> {
    let size = Size::of(options);
    let mut rows = Vec::new();
    let mut shares = Vec::new();
    let mut lines = Vec::new();
    for state in options.state.runs() {
        let result = Figures::measure(&size, &options.cluster, *state)?;
        rows.push(result.row());
        shares.push(result.per_write.clone());
        lines.push(result.json());
    }
    print_table(&HEAD, &rows);
    println!("\nof all stores, for each write:");
    print_table(&SHARES, &shares);
    if options.cluster.json {
        for line in lines {
            println!("{line}");
        }
    }
    Ok(())
}

/// How large a run is.
pub(crate) struct Size {
    pub(crate) groups: u64,
    pub(crate) clients: u64,
    pub(crate) payload: u64,
    pub(crate) operation: Operation,
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
            warmup: Duration::from_secs(options.load.warmup.unwrap_or(warmup)),
            window: Duration::from_secs(options.load.seconds.unwrap_or(seconds)),
        }
    }
}

pub(crate) const HEAD: [&str; 12] = [
    "state",
    "groups",
    "clients",
    "payload",
    "writes/s",
    "p50 us",
    "p99 us",
    "cpu us/write",
    "entries/fsync",
    "messages/frame",
    "fsyncs/s",
    "errors",
];

const SHARES: [&str; 8] =
    ["state", "turns", "log entries", "log bytes", "messages", "frames", "bytes sent", "forwarded"];

/// What came out of one run.
pub(crate) struct Figures {
    groups: u64,
    clients: u64,
    payload: u64,
    operation: Operation,
    state: State,
    pub(crate) writes_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    cpu_us_per_write: f64,
    entries_per_fsync: f64,
    messages_per_frame: f64,
    fsyncs_per_s: f64,
    /// Proposals that were refused or whose outcome is unknown.
    errors: u64,
    /// What the stores did, divided by the writes; in the order of [`SHARES`].
    per_write: Vec<String>,
    /// Regions that had no leader when the load began.
    leaderless: u64,
}

impl Figures {
    pub(crate) fn measure(size: &Size, cluster: &Cluster, state: State) -> Result<Self, Problem> {
        let plan = Plan {
            clients: size.clients,
            payload: size.payload,
            operation: size.operation,
            ..Plan::new(cluster, size.groups, state)
        };
        let (mut stores, leaderless) = Stores::start(&plan)?;
        stores.load(size.warmup)?;
        let measured = Measured::new(stores.measure(size.window)?);
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
        Ok(Self {
            per_write,
            groups: size.groups,
            clients: size.clients,
            payload: size.payload,
            operation: size.operation,
            state,
            writes_per_s: measured.per_second(answered),
            p50_us: latencies.value_at_quantile(0.50),
            p99_us: latencies.value_at_quantile(0.99),
            cpu_us_per_write: ratio(measured.sum("cpu_us") as f64, latencies.len() as f64),
            entries_per_fsync: ratio(measured.counted("log_entries") as f64, measured.counted("log_syncs") as f64),
            messages_per_frame: ratio(measured.counted("messages_sent") as f64, measured.counted("frames_sent") as f64),
            fsyncs_per_s: measured.per_second(|store| number(&store["counters"], "log_syncs")),
            errors,
            leaderless,
        })
    }

    pub(crate) fn row(&self) -> Vec<String> {
        vec![
            self.state.name().to_owned(),
            self.groups.to_string(),
            self.clients.to_string(),
            self.payload.to_string(),
            format!("{:.0}", self.writes_per_s),
            self.p50_us.to_string(),
            self.p99_us.to_string(),
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
            "groups": self.groups,
            "clients": self.clients,
            "payload": self.payload,
            "state": self.state.name(),
            "operation": self.operation.name(),
            "writes_per_s": self.writes_per_s.round(),
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "cpu_us_per_write": rounded(self.cpu_us_per_write),
            "entries_per_fsync": rounded(self.entries_per_fsync),
            "messages_per_frame": rounded(self.messages_per_frame),
            "errors": self.errors,
            "leaderless": self.leaderless,
        })
    }
}
