//! A run that is interrupted in the middle of faults ends soon, tells so, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use multiraft_torture::ground::Spaces;
use multiraft_torture::stop::look_again;
use programs::multiraft;
use rustix::process::{Pid, Signal, kill_process};

/// How long an interrupted run may take to undo what it has made.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// How long a whole run may take that is interrupted after some faults: it says nothing for so long only if something is wrong.
const FAULTS_WITHIN: Duration = Duration::from_secs(120);

/// Ends what a failed test has started.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // In its own way, so that it undoes all.
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

#[test]
fn a_run_that_is_interrupted_leaves_nothing_behind() {
    // Namespaces and file systems if the machine has them; a proxy; operators whose commands are under way.
    let cases = [
        (Signal::INT, "kill,pause,partition,disk-full,power-loss,move,transfer", 2),
        (Signal::TERM, "kill-all,delay,split,merge", 2),
        (Signal::TERM, "kill,partition,wipe,disk-full", 5),
    ];
    for (signal, nemesis, faults) in cases {
        interrupt(signal, nemesis, faults);
    }
}

/// Interrupts a run as soon as so many faults have begun, so most often in the middle of one.
fn interrupt(signal: Signal, nemesis: &str, faults: usize) {
    let dir = tempfile::tempdir().unwrap();
    let before = mine(dir.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft-torture"));
    command.args(["run", "--workload", "register", "--seconds", "100", "--seed", "7", "--nemesis", nemesis]);
    command.arg("--program").arg(multiraft()).env("TMPDIR", dir.path()).stdout(Stdio::piped());
    let mut run = Run(command.spawn().unwrap());
    let name = format!("mr{}n", run.0.id());
    let begun = Instant::now();
    let mut begins = 0;
    let stdout = BufReader::new(run.0.stdout.take().unwrap());
    for line in stdout.lines().map_while(Result::ok) {
        begins +=
            usize::from(line.contains(" for ") && line.trim_start().starts_with(|first: char| first.is_ascii_digit()));
        assert!(begun.elapsed() < FAULTS_WITHIN, "{nemesis}: {begins} faults in {FAULTS_WITHIN:?}");
        if begins == faults {
            break;
        }
    }
    assert_eq!(begins, faults, "{nemesis}: the run has ended by itself");
    let made = mine(dir.path()).len() - before.len();
    assert!(made > 0, "{nemesis}: a run has stores that are not dead, and a folder");
    kill_process(Pid::from_child(&run.0), signal).unwrap();
    let interrupted = Instant::now();
    let ended = loop {
        if let Some(ended) = run.0.try_wait().unwrap() {
            break ended;
        }
        assert!(look_again(interrupted, ENDS_WITHIN), "{nemesis}: it goes on for {ENDS_WITHIN:?}");
    };
    println!("{nemesis}: {ended} after {:.1?}", interrupted.elapsed());
    assert_eq!(ended.signal(), Some(signal.as_raw()), "{nemesis}: it ends as if nobody had caught the signal");
    // A child of a process that is gone may take a moment to be so, too.
    while mine(dir.path()) != before && look_again(interrupted, ENDS_WITHIN) {}
    assert_eq!(mine(dir.path()), before, "{nemesis}: this is left");
    let is_left = (0..4).any(|number| Spaces::is_there(&format!("{name}{number}")));
    assert!(!is_left, "{nemesis}: namespaces or an interface are left");
}

/// What there is that speaks of a folder: processes that name it or work there, mounts, files.
fn mine(dir: &Path) -> BTreeSet<String> {
    let name = dir.to_str().unwrap();
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let told = [read("cmdline"), read("environ")].concat();
        let is_own = process.file_name().to_str() == Some(&std::process::id().to_string());
        if !is_own && String::from_utf8_lossy(&told).contains(name) {
            found.insert(format!("{}: {}", process.path().display(), String::from_utf8_lossy(&read("cmdline"))));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    found.extend(fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path().display().to_string()));
    found
}
