//! The program as CI and people run it: short runs, and what is left behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{finish, program};

#[test]
fn a_quick_run_writes_on_both_kinds_of_state_and_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let lines = finish(dir.path(), &["throughput", "--quick", "--groups", "12", "--clients", "8", "--json"]);
    let states: Vec<_> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["sled", "mem"]);
    for line in &lines {
        for name in ["writes_per_s", "p50_us", "p99_us", "entries_per_fsync", "messages_per_frame", "cpu_us_per_write"]
        {
            assert!(line[name].as_f64().unwrap() > 0.0, "{name} in {line}");
        }
        assert!(line["p50_us"].as_u64() <= line["p99_us"].as_u64(), "{line}");
        // Each write is an entry on three stores; a few elections and retries may come on top.
        assert_eq!(
            (&line["bench"], line["groups"].as_u64(), line["clients"].as_u64()),
            (&"throughput".into(), Some(12), Some(8))
        );
        assert_eq!((line["errors"].as_u64(), line["leaderless"].as_u64()), (Some(0), Some(0)), "{line}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "directories are left behind");
}

#[test]
fn an_idle_run_tells_memory_and_processor_time() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["idle", "--groups", "12", "--seconds", "1", "--settle", "1", "--json"];
    let lines = finish(dir.path(), &words);
    let line = lines.last().unwrap();
    assert!(line["rss_bytes_per_replica"].as_f64().unwrap() > 1000.0, "{line}");
    assert!(line["idle_cpu_percent_of_core"].as_f64().unwrap() < 100.0, "{line}");
    assert_eq!(line["leaderless"], 0, "{line}");
}

#[test]
fn a_quick_run_tells_what_regions_cost_beyond_what_a_store_does() {
    let dir = tempfile::tempdir().unwrap();
    let lines = finish(dir.path(), &["density", "--quick", "--json"]);
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(
        (&line["bench"], &line["groups"], &line["stores"]),
        (&"density".into(), &12.into(), &3.into()),
        "{line}"
    );
    assert!(line["rss_bytes_per_replica"].as_f64().unwrap() > 1000.0, "{line}");
    assert!(line["marginal_bytes_per_replica"].is_number(), "{line}");
    for name in ["packets_per_s", "worker_turns"] {
        assert!(line[name].as_f64().unwrap() > 0.0, "{name} in {line}");
    }
    assert!(line["idle_cpu_percent_of_core"].as_f64().unwrap() < 100.0, "{line}");
    assert_eq!(line["leaderless"], 0, "{line}");
    assert!(line["asleep"].is_u64(), "{line}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "directories are left behind");
}

#[test]
fn the_placement_of_a_small_cluster_comes_to_rest() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft-benches"));
    let output = command.args(["placement", "--stores", "10", "--regions", "300", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(line["full_round_ms"].as_f64().unwrap() > 0.0 && line["steady"]["rounds"].as_u64() == Some(300), "{line}");
    assert!(line["repair"]["operations"].as_u64() > Some(0) && line["drained"] == true, "{line}");
    assert_eq!(line["rest"]["operations"], 0, "{line}");
}

/// A parent that is killed outright cannot end its stores: they must notice.
#[cfg(target_os = "linux")]
#[test]
fn the_stores_of_a_killed_parent_stop_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["idle", "--groups", "1", "--seconds", "60", "--settle", "60"];
    let mut parent = program(dir.path(), &words).stdout(Stdio::piped()).spawn().unwrap();
    let children = children_of(parent.id());
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The stores hold no pipe to this test: its end is the parent's alone.
    assert_eq!(BufReader::new(parent.stdout.take().unwrap()).lines().count(), 0);
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Some(left) = children.iter().find(|child| is_bench(**child)) {
        assert!(Instant::now() < deadline, "store process {left} goes on without its parent");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until a parent has its three stores; gives their process ids.
#[cfg(target_os = "linux")]
fn children_of(parent: u32) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let children: Vec<u32> = list.split_whitespace().map(|child| child.parse().unwrap()).collect();
        if children.len() == 3 {
            return children;
        }
        assert!(Instant::now() < deadline, "the stores were not started");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether a process is one of this program's and has not ended.
#[cfg(target_os = "linux")]
fn is_bench(process: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    name.contains("multiraft-benches")
}
