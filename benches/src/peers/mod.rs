//! This project beside other Raft libraries for Rust, in one run: the same writes by the same clients on the same machine.
//!
//! Each peer runs in a process of its own ([`child`]) that holds three stores, all their groups and the clients, so that its
//! memory and processor time are its own. Peers take turns: each is measured once with each number of groups, then all again.
//! Of each the run with the median number of writes per second is shown, whole.
//!
//! The peers are libraries of different extent. What each is given, does, and leaves out is said at the head of `on_multiraft`,
//! `on_raft_rs` and `on_openraft`.

pub(crate) mod child;
mod load;
mod on_multiraft;
mod on_openraft;
mod on_raft_rs;
mod options;
mod state;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

pub(crate) use self::options::{Peer, PeerKind, Peers};
use crate::cluster::{Problem, STORES};
use crate::report::{print_table, ratio, rounded};
use crate::usage;

/// Which version of what was built in.
const LOCK: &str = include_str!("../../../Cargo.lock");

const HEAD: [&str; 14] = [
    "peer",
    "version",
    "groups",
    "clients",
    "payload",
    "writes/s",
    "p50 us",
    "p99 us",
    "cpu us/write",
    "entries/fsync",
    "bytes/replica",
    "marginal",
    "idle % of a core",
    "errors",
];

/// One peer with one number of groups, and what its runs gave.
struct Point {
    peer: PeerKind,
    groups: u64,
    runs: Vec<Value>,
}

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Peers) -> Result<(), Problem> {
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    let groups = options.groups.clone().unwrap_or_else(|| vec![if options.quick { 12 } else { 1000 }]);
    let mut alone = Vec::new();
    for peer in &options.only {
        alone.push((*peer, measure(options, *peer, 1, true)?));
    }
    let point = |groups: u64| move |peer: &PeerKind| Point { peer: *peer, groups, runs: Vec::new() };
    let mut points: Vec<Point> = groups.iter().flat_map(|groups| options.only.iter().map(point(*groups))).collect();
    for round in 1..=rounds {
        for point in &mut points {
            let run = measure(options, point.peer, point.groups, false)?;
            eprintln!("round {round}, load average {}: {} {run}", usage::load_average(), point.peer.name());
            point.runs.push(run);
        }
    }
    let mut rows = Vec::new();
    for point in points {
        let fewer = alone.iter().find(|(peer, _)| *peer == point.peer).map(|(_, run)| run);
        rows.extend(median(point.runs).map(|run| row(options, point.peer, point.groups, &run, fewer)));
    }
    print_table(&HEAD, &rows.iter().map(cells).collect::<Vec<_>>());
    if options.cluster.json {
        println!("{}", json!({ "bench": "peers", "rounds": rounds, "rows": rows }));
    }
    Ok(())
}

/// The middle one by writes per second; of an even number the slower.
fn median(mut runs: Vec<Value>) -> Option<Value> {
    let rate = |run: &Value| run["writes_per_s"].as_f64().unwrap_or_default();
    runs.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    let middle = runs.len().checked_sub(1)? / 2;
    Some(runs.swap_remove(middle))
}

/// The figures of one peer; of what was not measured there are none.
fn row(options: &Peers, peer: PeerKind, groups: u64, run: &Value, fewer: Option<&Value>) -> Value {
    let figure = |name: &str| run[name].as_f64();
    let replicas = (groups * STORES) as f64;
    let more = (groups > 1).then(|| ((groups - 1) * STORES) as f64);
    let rss = figure("rss_bytes").unwrap_or_default();
    let rss_alone = fewer.and_then(|run| run["rss_bytes"].as_f64());
    let marginal = more.zip(rss_alone).map(|(replicas, alone)| ratio(rss - alone, replicas).round());
    json!({
        "bench": "peers",
        "peer": peer.name(),
        "version": version(peer, LOCK),
        "groups": groups,
        "clients": clients(options),
        "payload": options.load.payload,
        "writes_per_s": figure("writes_per_s").map(f64::round),
        "p50_us": run["p50_us"],
        "p99_us": run["p99_us"],
        "cpu_us_per_write": figure("cpu_us_per_write").map(rounded),
        "entries_per_fsync": figure("entries_per_fsync").map(rounded),
        "rss_bytes_per_replica": ratio(rss, replicas).round(),
        "marginal_bytes_per_replica": marginal,
        "idle_cpu_percent_of_core": figure("idle_cpu_percent_of_core").map(|share| (share * 100.0).round() / 100.0),
        "first_writes_s": figure("first_writes_s").map(rounded),
        "errors": run["errors"],
    })
}

fn cells(row: &Value) -> Vec<String> {
    let cell = |name: &str| match &row[name] {
        Value::Null => String::new(),
        Value::String(word) => word.clone(),
        Value::Number(number) if number.as_f64().is_some_and(|number| number >= 1000.0) => {
            format!("{:.0}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    };
    let names = [
        "peer",
        "version",
        "groups",
        "clients",
        "payload",
        "writes_per_s",
        "p50_us",
        "p99_us",
        "cpu_us_per_write",
        "entries_per_fsync",
        "rss_bytes_per_replica",
        "marginal_bytes_per_replica",
        "idle_cpu_percent_of_core",
        "errors",
    ];
    names.map(cell).to_vec()
}

fn clients(options: &Peers) -> u64 {
    options.clients.unwrap_or(if options.quick { 16 } else { 256 })
}

/// The versions of what a peer is made of, as a lock file states them.
fn version(peer: PeerKind, lock: &str) -> String {
    let version = |(package, line): &(&str, &str)| {
        let entry = format!("name = \"{package}\"\nversion = \"");
        let versions = lock.split(&entry).skip(1).filter_map(|after| after.split('"').next());
        versions.into_iter().find(|version| version.starts_with(*line))
    };
    peer.packages().iter().filter_map(version).collect::<Vec<_>>().join("+")
}

/// Measures a peer in a process of its own; `is_alone`: with one group, and without clients.
fn measure(options: &Peers, peer: PeerKind, groups: u64, is_alone: bool) -> Result<Value, Problem> {
    let io = |what| move |source| Problem::Io { what, source };
    let place = options.cluster.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new().prefix("multiraft-bench-").tempdir_in(&place);
    let dir = dir.map_err(io("no directory could be made: see --dir"))?;
    if usage::lies_in_memory(dir.path()) {
        eprintln!("warning: {} lies in memory, flushes cost nothing there: use --dir", place.display());
    }
    let seconds = |given: Option<u64>, usual: u64| given.unwrap_or(if options.quick { 1 } else { usual });
    let program = std::env::current_exe().map_err(io("this program cannot be found again"))?;
    let mut command = Command::new(program);
    command.args(["peer", "--kind", peer.name(), "--dir"]).arg(dir.path());
    for (name, value) in [
        ("--groups", groups),
        ("--clients", if is_alone { 0 } else { clients(options) }),
        ("--payload", options.load.payload),
        ("--seconds", seconds(options.load.seconds, 5)),
        ("--warmup", seconds(options.load.warmup, 2)),
        ("--settle", seconds(options.settle, 5)),
        ("--idle", if is_alone { 1 } else { seconds(options.idle, 5) }),
        ("--threads", options.cluster.threads),
        ("--workers", options.cluster.workers),
        ("--seed", options.cluster.seed),
    ] {
        command.args([name, &value.to_string()]);
    }
    let said = run_to_end(command, dir.path())?;
    let line = said.lines().last().unwrap_or_default();
    let failed = |why: String| Problem::Failed { what: format!("the run of {}", peer.name()), why };
    serde_json::from_str(line).map_err(|error| failed(format!("{error}; what it said may stand above")))
}

/// What a child says until it ends; it ends when this process does, since that closes its input.
fn run_to_end(mut command: Command, dir: &Path) -> Result<String, Problem> {
    let io = |what| move |source| Problem::Io { what, source };
    let mut child = command
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(io("a peer cannot be started"))?;
    let mut said = String::new();
    let output = child.stdout.as_mut().expect("the output was asked for");
    let read = output.read_to_string(&mut said);
    let ended = child.wait();
    read.map_err(io("a peer cannot be read from"))?;
    ended.map_err(io("a peer cannot be waited for"))?;

    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"raft\"\nversion = \"0.7.0\"\n\n[[package]]\nname = \"raft-engine\"\nversion = \"0.4.2\"\n";
        assert_eq!(version(PeerKind::RaftRs, lock), "0.7.0+0.4.2");
        assert_eq!(version(PeerKind::Openraft, lock), "");
        for peer in PeerKind::ALL {
            assert!(version(peer, LOCK).starts_with("0."), "{peer:?}");
        }
        assert!(version(PeerKind::Openraft, LOCK).starts_with("0.9."));
        assert!(version(PeerKind::OpenraftNext, LOCK).starts_with("0.10."));
    }

    #[test]
    fn the_median_run_is_shown_whole() {
        let run = |rate: u64, p50: u64| json!({ "writes_per_s": rate, "p50_us": p50 });
        assert_eq!(median(vec![run(9, 1), run(3, 2), run(5, 3)]), Some(run(5, 3)));
        assert_eq!(median(vec![run(9, 1), run(3, 2)]), Some(run(3, 2)));
        assert_eq!(median(Vec::new()), None);
    }
}
