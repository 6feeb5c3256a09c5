//! Runs this program under callgrind.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Micro, count};
use crate::cluster::{Problem, number};

/// Whether it can be had.
pub(super) fn is_there() -> bool {
    let mut asked = Command::new("valgrind");
    asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

/// How many instructions an operation of this path takes.
pub(super) fn count(path: &str, options: &Micro) -> Result<f64, Problem> {
    let io = |what| move |source| Problem::Io { what, source };
    let place = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new().prefix("multiraft-bench-").tempdir_in(place);
    let dir = dir.map_err(io("no directory could be made: see --dir"))?;
    let program = std::env::current_exe().map_err(io("this program cannot be found again"))?;
    let file = dir.path().join("counts");
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--toggle-collect={}", count::MARK))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["micro-path", path, "--seed", &options.seed.to_string(), "--dir"])
        .arg(dir.path())
        .args(options.quick.then_some("--quick"))
        .stdin(Stdio::null());
    let output = command.output().map_err(io("valgrind cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Problem::Micro(format!("{path} under valgrind: {}: {said}", output.status)));
    }
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let (operations, counted) = (number(&said, "operations"), total(&file).unwrap_or_default());
    if operations == 0 || counted == 0 {
        return Err(Problem::Micro(format!("{path}: {counted} instructions were counted, of {operations} operations")));
    }
    Ok(counted as f64 / operations as f64)
}

/// What the file says in all.
fn total(file: &Path) -> Option<u64> {
    total_in(&std::fs::read_to_string(file).ok()?)
}

fn total_in(text: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix("totals:")?.split_whitespace().next()?.parse().ok();
    text.lines().rev().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_file_is_found() {
        let text = "# callgrind format\nevents: Ir\nsummary: 99\n\nfn=(1) main\n3 7\n\ntotals: 1234\n";
        assert_eq!(total_in(text), Some(1234));
        assert_eq!(total_in("events: Ir\n"), None);
    }
}
