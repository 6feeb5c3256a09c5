//! The counts of instructions, as people and CI ask for them. They take valgrind, which not every machine has.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::{finish, program};

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_quick_run_is_compared_with_its_baseline_and_leaves_no_files() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = place.path().join("baseline.json");
    let only = "raft-step-leader,log-append-1,apply-1,apply-64";
    let words =
        ["micro", "--quick", "--json", "--without-valgrind", "--only", only, "--baseline", file.to_str().unwrap()];
    let lines = finish(dir.path(), &[&words[..], &["--renew"]].concat());
    assert_eq!(lines.is_empty(), !has_valgrind(), "it is skipped where there is no valgrind, and only there");
    if lines.is_empty() {
        return;
    }
    let counts = lines[0]["instructions"].as_object().unwrap();
    let count = |path: &str| counts[path].as_f64().unwrap();
    assert!(counts.len() == 4 && counts.values().all(|count| count.as_f64() > Some(100.0)), "{counts:?}");
    // What many groups share is paid once.
    assert!(count("apply-64") < count("apply-1"), "{counts:?}");
    let mut baseline: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    baseline["instructions"]["apply-64"] = json!((count("apply-64") / 1.06).round());
    std::fs::write(&file, baseline.to_string()).unwrap();
    let output = program(dir.path(), &[&words[..], &["--check"]].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("apply-64 takes"), "{said}");
    assert!(said.matches(" takes ").count() == 1 && said.contains("micro --renew"), "the same twice: {said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "directories are left behind");
}

#[test]
fn only_what_is_told_may_do_without_valgrind() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| program(dir.path(), words).env("PATH", "").output().unwrap();
    let refused = run(&["micro", "--quick"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--without-valgrind"));
    let unknown = program(dir.path(), &["micro", "--quick", "--only", "apply-65"]).output().unwrap();
    assert!(!unknown.status.success(), "{unknown:?}");
    let skipped = run(&["micro", "--quick", "--without-valgrind"]);
    assert!(skipped.status.success() && String::from_utf8_lossy(&skipped.stdout).contains("skipped"));
}
