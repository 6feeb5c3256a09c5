//! Short runs of what gives figures to draw, and the drawing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{finish, program, run};

fn assert_positive(line: &Value, names: &[&str]) {
    for name in names {
        assert!(line[name].as_f64() > Some(0.0), "{name} in {line}");
    }
}

#[test]
fn an_open_loop_in_one_process_keeps_its_rate_and_tells_a_share_of_the_limits() {
    let words = ["throughput", "--quick", "--groups", "6", "--state", "mem", "--rate", "300", "--one-process"];
    let line = run(&[&words[..], &["--limits", "--seed", "5", "--json"]].concat());
    assert_eq!((&line["rate"], &line["processes"], &line["seed"]), (&300.into(), &1.into(), &5.into()), "{line}");
    let kept = line["writes_per_s"].as_f64().unwrap();
    assert!((250.0..350.0).contains(&kept), "{line}");
    assert_positive(&line, &["p50_us", "wire_bytes_per_write", "entries_per_fsync", "fsyncs_per_s"]);
    assert!(line["p50_us"].as_u64() <= line["p99_us"].as_u64(), "{line}");
    assert!(line["p99_us"].as_u64() <= line["p999_us"].as_u64(), "{line}");
    assert_positive(&line["limits"], &["batch_bytes", "fsyncs_per_s", "fsyncs_share", "quic_bytes_share", "p50_share"]);
    assert_eq!((&line["errors"], &line["leaderless"]), (&0.into(), &0.into()), "{line}");
}

#[test]
fn stores_of_one_process_write_over_channels() {
    let line =
        run(&["throughput", "--quick", "--groups", "6", "--state", "mem", "--one-process", "--channels", "--json"]);
    assert_eq!((&line["links"], &line["processes"]), (&"channels".into(), &1.into()), "{line}");
    assert_positive(&line, &["writes_per_s", "messages_per_frame", "wire_bytes_per_write", "entries_per_fsync"]);
    assert_eq!((&line["errors"], &line["leaderless"]), (&0.into(), &0.into()), "{line}");
}

#[test]
fn reads_of_each_kind_find_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["reads", "--quick", "--groups", "6", "--operation", "linearizable,local", "--json"];
    let lines = finish(dir.path(), &words);
    let kinds: Vec<_> = lines.iter().map(|line| line["operation"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["linearizable", "local"]);
    for line in &lines {
        // A local read may take less than a microsecond.
        assert_positive(line, &["reads_per_s", "cpu_us_per_read"]);
        assert!(line["p50_us"].as_u64() <= line["p999_us"].as_u64(), "{line}");
        assert_eq!((&line["bench"], &line["errors"]), (&"reads".into(), &0.into()), "{line}");
    }
    let refused = program(dir.path(), &["reads", "--quick", "--operation", "write"]).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
}

#[test]
fn a_quick_run_starts_a_killed_store_on_its_log() {
    let line = run(&["recovery", "--quick", "--json"]);
    assert_eq!((&line["bench"], &line["groups"], &line["written_mib"]), (&"recovery".into(), &12.into(), &1.into()));
    // One entry for each value of 256 bytes, and the leaders' first ones.
    assert!(line["entries"].as_u64() >= Some(4080), "{line}");
    assert!(line["log_bytes"].as_u64() >= Some(1 << 20), "{line}");
    assert_positive(&line, &["log_opens_ms", "log_bytes_per_s"]);
    assert!(line["listens_ms"].as_f64() < line["serves_ms"].as_f64(), "{line}");
}

#[test]
fn a_quick_run_tells_what_the_machine_can_do() {
    let line = run(&["limits", "--quick", "--batch", "128,65536", "--json"]);
    let names = ["quic_bytes_per_s", "quic_round_trips_per_s", "seal_bytes_per_s", "crc_bytes_per_s", "channel_per_s"];
    assert_positive(&line, &names);
    assert_positive(&line, &["wakes_per_s"]);
    let disk = line["disk"].as_array().unwrap();
    let sizes: Vec<_> = disk.iter().map(|one| (one["files"].as_u64(), one["batch"].as_u64())).collect();
    assert_eq!(sizes, [(1, 128), (1, 65536), (3, 128), (3, 65536)].map(|(files, batch)| (Some(files), Some(batch))));
    disk.iter().for_each(|one| assert_positive(one, &["fsyncs_per_s", "bytes_per_s"]));
}

#[test]
fn runs_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let plots = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft-benches"));
        command.args(["plots", "--folder"]).arg(folder.path()).output().unwrap()
    };
    let refused = plots();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--run"), "{said}");
    let run = r#"{"bench":"recovery","groups":9,"written_mib":4,"log_opens_ms":5,"listens_ms":7,"serves_ms":90}"#;
    std::fs::write(folder.path().join("runs.jsonl"), format!("{run}\n")).unwrap();
    let drawn = plots();
    assert!(drawn.status.success(), "{drawn:?}");
    let svg = std::fs::read_to_string(folder.path().join("recovery.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("log is open, 9 regions"), "{svg}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "there is a picture of what runs are of");
}
