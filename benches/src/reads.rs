//! Reads per second, by what is promised of them. Of random regions, by whatever store a client lives in; every key that is read
//! was written before, and a read that has to see it fails if it does not.

use std::time::Duration;

use clap::Args as Group;
use serde_json::{Value, json};

use crate::args::{Cluster, Load, Operation, State};
use crate::cluster::Problem;
use crate::report::{print_table, rounded};
use crate::throughput::{Figures, Size};

/// What `reads` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Reads {
    /// Regions, each with a replica on every store.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: Option<u64>,
    /// Clients, spread evenly over the stores; each reads from a random region and waits for the answer.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) clients: Option<u64>,
    /// Which reads; each is measured on new stores.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [
        Operation::Linearizable, Operation::Lease, Operation::Bounded, Operation::Local])]
    pub(crate) operation: Vec<Operation>,
    /// An open loop instead of clients that wait: so many a second, each due at an instant that is fixed beforehand; its time
    /// counts from then.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) rate: Option<u64>,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Where the state lies.
    #[arg(long, value_enum, default_value = "mem")]
    pub(crate) state: State,
    /// All three stores in one process.
    #[arg(long)]
    pub(crate) one_process: bool,
    /// A short run for CI: other defaults for groups (12), clients (8), seconds (1) and warm-up (1).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

const HEAD: [&str; 11] = [
    "reads",
    "groups",
    "clients",
    "value bytes",
    "reads/s",
    "p50 us",
    "p99 us",
    "p99.9 us",
    "cpu us/read",
    "wire bytes/read",
    "errors",
];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Reads) -> Result<(), Problem> {
    let (groups, clients, warmup, seconds) = if options.quick { (12, 8, 1, 1) } else { (1000, 256, 2, 6) };
    let mut all = Vec::new();
    for operation in &options.operation {
        if *operation == Operation::Write {
            let why = "`throughput` measures writes".to_owned();
            return Err(Problem::Failed { what: "reading by writing".to_owned(), why });
        }
        let size = Size {
            groups: options.groups.unwrap_or(groups),
            clients: options.clients.unwrap_or(clients),
            payload: options.load.payload,
            operation: *operation,
            rate: options.rate,
            together: options.one_process,
            at_leaders: false,
            channels: false,
            warmup: Duration::from_secs(options.load.warmup.unwrap_or(warmup)),
            window: Duration::from_secs(options.load.seconds.unwrap_or(seconds)),
        };
        all.push(Figures::measure(&size, &options.cluster, options.state)?);
    }
    print_table(&HEAD, &all.iter().map(row).collect::<Vec<_>>());
    if options.cluster.json {
        all.iter().for_each(|figures| println!("{}", line(figures)));
    }
    Ok(())
}

fn row(figures: &Figures) -> Vec<String> {
    let Size { groups, clients, payload, operation, .. } = &figures.size;
    let mut row = vec![operation.name().to_owned()];
    row.extend([*groups, *clients, *payload].map(|number| number.to_string()));
    row.push(format!("{:.0}", figures.writes_per_s));
    row.extend([figures.p50_us, figures.p99_us, figures.p999_us].map(|number| number.to_string()));
    row.extend([figures.cpu_us_per_write, figures.wire_bytes_per_write].map(|number| format!("{number:.1}")));
    row.push(figures.errors.to_string());
    row
}

fn line(figures: &Figures) -> Value {
    let Size { groups, clients, payload, operation, rate, .. } = &figures.size;
    json!({
        "bench": "reads",
        "operation": operation.name(),
        "groups": groups,
        "clients": clients,
        "payload": payload,
        "rate": rate,
        "reads_per_s": figures.writes_per_s.round(),
        "p50_us": figures.p50_us,
        "p99_us": figures.p99_us,
        "p999_us": figures.p999_us,
        "cpu_us_per_read": rounded(figures.cpu_us_per_write),
        "messages_per_frame": rounded(figures.messages_per_frame),
        "wire_bytes_per_read": rounded(figures.wire_bytes_per_write),
        "errors": figures.errors,
        "leaderless": figures.leaderless,
    })
}
