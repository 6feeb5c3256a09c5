//! Running the program.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

pub(crate) fn program(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft-benches"));
    command.args(words).arg("--dir").arg(dir);
    command
}

/// Runs it to its end; gives its lines of JSON.
pub(crate) fn finish(dir: &Path, words: &[&str]) -> Vec<Value> {
    let output = program(dir, words).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs it to its end; gives its only line of JSON, once nothing is left behind.
#[allow(dead_code, reason = "not all tests use it")]
pub(crate) fn run(words: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = finish(dir.path(), words);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "directories are left behind");
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}
