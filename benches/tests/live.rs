//! Short runs of what changes regions under writes. Each reads everything that was written, or fails.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use serde_json::Value;
use support::run;

/// Figures of a kind are there, in order.
fn assert_ascends(figures: &Value, line: &Value) {
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| figures[name].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{figures} in {line}");
}

#[test]
fn a_quick_run_splits_and_merges_under_writes() {
    let line = run(&["split-merge", "--quick", "--changes", "3", "--json"]);
    for kind in ["splits", "merges"] {
        assert_eq!(line[kind]["ms"]["count"], 3, "{line}");
        for figure in ["ms", "stall_ms", "silence_ms", "beside_ms"] {
            assert_ascends(&line[kind][figure], &line);
        }
        assert!(line[format!("{kind}_per_s")].as_f64() > Some(0.0), "{line}");
    }
    // Two regions at 50 writes a second, for a second at least.
    assert!(line["written"]["keys"].as_u64() > Some(100), "{line}");
}

#[test]
fn a_quick_run_empties_a_store() {
    let line = run(&["drain", "--quick", "--regions", "6", "--state", "mem", "--json"]);
    assert!(line["moved_s"].as_f64() > Some(0.0) && line["noted_s"].as_f64() >= line["moved_s"].as_f64(), "{line}");
    assert!(line["regions_per_s"].as_f64() > Some(0.0), "{line}");
    assert_ascends(&line["writes_before_ms"], &line);
    assert_ascends(&line["writes_during_ms"], &line);
}

#[test]
fn a_quick_run_fills_a_replica_with_and_without_a_limit() {
    let line = run(&["snapshot", "--quick", "--size", "4", "--json"]);
    for limit in ["limit_none", "limit_default"] {
        let found = &line[limit];
        assert!(found["mb_per_s"].as_f64() > Some(0.0), "{line}");
        assert!(found["bytes_sent"][0].as_u64() >= Some(4 << 20), "{line}");
        for which in ["same", "other"] {
            assert_ascends(&found[format!("{which}_before_ms")], &line);
            assert_ascends(&found[format!("{which}_during_ms")], &line);
        }
    }
}

#[test]
fn bad_words_end_in_an_error_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["split-merge", "--quick", "--rate", "0"];
    let output = support::program(dir.path(), &words).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--rate"), "{output:?}");
}

#[test]
fn a_quick_run_kills_a_store_and_every_region_of_it_is_written_to_again() {
    let line = run(&["failover", "--quick", "--json"]);
    assert_eq!((&line["bench"], &line["groups"], &line["support_ms"]), (&"failover".into(), &12.into(), &1000.into()));
    let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|name| line[name].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{line}");
    assert!(line["led"].as_u64() > Some(0), "{line}");
}

#[test]
fn a_quick_run_wakes_regions_and_starts_a_store_again() {
    let line = run(&["restart", "--quick", "--json"]);
    assert_eq!((&line["bench"], &line["groups"], &line["leaderless"]), (&"restart".into(), &12.into(), &0.into()));
    for times in ["first_ms", "next_ms"] {
        assert_ascends(&line[times], &line);
    }
    for start in ["after_stop", "after_kill"] {
        let [listens, serves] = ["listens_ms", "serves_ms"].map(|name| line[start][name].as_f64().unwrap());
        assert!(0.0 < listens && listens < serves, "{line}");
    }
}
