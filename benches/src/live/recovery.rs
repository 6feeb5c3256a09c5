//! A store starts on a log of some size after it was killed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args as Group;
use multiraft_storage::{LogOptions, LogWriter, RealDisk};
use serde_json::json;

use super::times::millis;
use crate::args::{Cluster, State};
use crate::cluster::{Plan, Problem, STORES, Stores};
use crate::report::{print_table, ratio, rounded};

/// What `recovery` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Recovery {
    /// Regions, each with a replica on every store.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: Option<u64>,
    /// MiB of values that are written before the store is killed; each is measured on new stores.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) size: Option<Vec<u64>>,
    /// Bytes of each value; the key has eight more.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    pub(crate) payload: u64,
    /// Where the state lies: in memory, the start applies again all that the log holds since the last snapshots.
    #[arg(long, value_enum, default_value = "mem")]
    pub(crate) state: State,
    /// A short run for CI: other defaults for groups (12) and size (1).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// How long the first store may take to write everything, or the one that has started to read from every region.
const BEYOND: Duration = Duration::from_secs(1_800);
/// How often the log is opened for one figure, which is their median: the other stores elect leaders meanwhile.
const OPENINGS: usize = 5;
/// The store that is killed.
const DOWN: u64 = STORES;

const HEAD: [&str; 9] =
    ["state", "groups", "written MiB", "entries", "log MiB", "log opens ms", "MB/s", "listens ms", "serves all ms"];

/// What one start took.
struct Start {
    mib: u64,
    entries: u64,
    log_bytes: u64,
    opens: Duration,
    listens: Duration,
    serves: Duration,
    leaderless: u64,
}

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Recovery) -> Result<(), Problem> {
    let groups = options.groups.unwrap_or(if options.quick { 12 } else { 1000 });
    let sizes = options.size.clone().unwrap_or_else(|| if options.quick { vec![1] } else { vec![16, 64, 256] });
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for mib in sizes {
        let start = measure(options, groups, mib)?;
        let per_s = ratio(start.log_bytes as f64, start.opens.as_secs_f64());
        let times = [start.opens, start.listens, start.serves].map(millis);
        let mut row =
            vec![options.state.name().to_owned(), groups.to_string(), mib.to_string(), start.entries.to_string()];
        row.push(format!("{:.1}", start.log_bytes as f64 / f64::from(1 << 20)));
        row.extend([format!("{:.1}", times[0]), format!("{:.0}", per_s / 1e6)]);
        row.extend([times[1], times[2]].map(|time| format!("{time:.1}")));
        rows.push(row);
        lines.push(json!({
            "bench": "recovery",
            "groups": groups,
            "state": options.state.name(),
            "payload": options.payload,
            "written_mib": start.mib,
            "entries": start.entries,
            "log_bytes": start.log_bytes,
            "log_opens_ms": times[0],
            "log_bytes_per_s": rounded(per_s),
            "listens_ms": times[1],
            "serves_ms": times[2],
            "leaderless": start.leaderless,
        }));
    }
    print_table(&HEAD, &rows);
    if options.cluster.json {
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

fn measure(options: &Recovery, groups: u64, mib: u64) -> Result<Start, Problem> {
    let plan = Plan::new(&options.cluster, groups, options.state);
    let (mut stores, leaderless) = Stores::start(&plan)?;
    let count = ((mib << 20) / options.payload / groups).max(1);
    let job = json!({ "job": "once", "groups": groups, "count": count, "payload": options.payload });
    stores.drive(1, &job, BEYOND)?;
    stores.kill(DOWN)?;
    let (log_bytes, entries, opens) = open_log(&stores.data_dir(DOWN).join("log"))?;
    let begin = Instant::now();
    stores.start_again(DOWN, &plan)?;
    let listens = begin.elapsed();
    let reading = json!({ "job": "reading", "groups": groups, "probes": groups, "payload": options.payload });
    stores.drive(DOWN, &reading, BEYOND)?;
    Ok(Start { mib, entries, log_bytes, opens, listens, serves: begin.elapsed(), leaderless })
}

/// Opens the log as the store is about to, and closes it again, several times: bytes of it that are alive, entries, and how long
/// one opening took. That is reading, from the page cache, checking, filling the index, and syncing what was written last.
fn open_log(place: &Path) -> Result<(u64, u64, Duration), Problem> {
    let mut all = (0..OPENINGS).map(|_| open_once(place)).collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable_by_key(|(_, _, opens)| *opens);
    Ok(all.swap_remove(OPENINGS / 2))
}

fn open_once(place: &Path) -> Result<(u64, u64, Duration), Problem> {
    let failed = |why: String| Problem::Failed { what: "opening the log of a killed store".to_owned(), why };
    let disk = RealDisk::open(place).map_err(|error| failed(error.to_string()))?;
    let begin = Instant::now();
    let opened = LogWriter::open(Arc::new(disk), LogOptions::default());
    let (writer, _, recovered) = opened.map_err(|error| failed(error.to_string()))?;
    let opens = begin.elapsed();
    if !recovered.damage.is_empty() {
        return Err(Problem::Wrong(format!("the log of a killed store is damaged: {:?}", recovered.damage)));
    }
    let held = recovered.groups.values().map(|group| group.log.last_index.get() - group.log.truncated_index.get());
    Ok((writer.stats().live_bytes, held.sum(), opens))
}
