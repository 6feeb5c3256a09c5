//! The benchmark beside other libraries, in short: `cargo test -p multiraft-benches --features peers --test peers`.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use support::finish;

#[test]
fn every_peer_writes_and_tells_what_its_groups_cost_and_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let lines = finish(dir.path(), &["peers", "--quick", "--groups", "3,12", "--json"]);
    assert_eq!(lines.len(), 1);
    let rows = lines[0]["rows"].as_array().unwrap();
    let who: Vec<_> = rows.iter().map(|row| (row["peer"].as_str().unwrap(), row["groups"].as_u64().unwrap())).collect();
    let peers = ["multiraft", "multiraft-channels", "raft-rs", "openraft", "openraft-0.10"];
    assert_eq!(who, [3, 12].map(|groups| peers.map(|peer| (peer, groups))).concat());
    for row in rows {
        for name in ["writes_per_s", "p50_us", "cpu_us_per_write", "entries_per_fsync"] {
            assert!(row[name].as_f64().unwrap() > 0.0, "{name} in {row}");
        }
        assert!(row["p50_us"].as_u64() <= row["p99_us"].as_u64(), "{row}");
        assert!(row["rss_bytes_per_replica"].as_f64().unwrap() > 1000.0, "{row}");
        assert!(row["marginal_bytes_per_replica"].is_number() && row["idle_cpu_percent_of_core"].is_number(), "{row}");
        assert!(row["version"].as_str().unwrap().contains('.'), "{row}");
        assert_eq!(row["errors"], 0, "{row}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "directories are left behind");
}

#[test]
fn without_clients_only_idle_groups_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["peers", "--quick", "--clients", "0", "--only", "raft-rs", "--json"];
    let lines = finish(dir.path(), &words);
    let row = &lines[0]["rows"][0];
    assert_eq!((&row["peer"], &row["writes_per_s"]), (&"raft-rs".into(), &serde_json::Value::Null), "{row}");
    assert!(row["rss_bytes_per_replica"].as_f64().unwrap() > 1000.0, "{row}");
}
