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
    let is_fault =
        |line: &str| line.contains(" for ") && line.trim_start().starts_with(|first: char| first.is_ascii_digit());
    for (signal, nemesis, faults) in cases {
        let words = ["run", "--workload", "register", "--seconds", "100", "--seed", "7", "--nemesis", nemesis];
        interrupt(signal, &words, faults, is_fault);
    }
}

#[test]
fn an_overload_that_is_interrupted_leaves_nothing_behind() {
    let words = ["overload", "--seconds", "60", "--seed", "7", "--clients", "60"];
    interrupt(Signal::TERM, &words, 1, |line| line.contains("stands still"));
}

/// Interrupts a run as soon as so many of its lines are such, so most often in the middle of a fault.
fn interrupt(signal: Signal, words: &[&str], wanted: usize, is_such: impl Fn(&str) -> bool) {
    let what = words.join(" ");
    let dir = tempfile::tempdir().unwrap();
    let before = mine(dir.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiraft-torture"));
    command.args(words).arg("--program").arg(multiraft()).env("TMPDIR", dir.path()).stdout(Stdio::piped());
    let mut run = Run(command.spawn().unwrap());
    let name = format!("mr{}n", run.0.id());
    let begun = Instant::now();
    let mut found = 0;
    let stdout = BufReader::new(run.0.stdout.take().unwrap());
    for line in stdout.lines().map_while(Result::ok) {
        found += usize::from(is_such(&line));
        assert!(begun.elapsed() < FAULTS_WITHIN, "{what}: {found} faults in {FAULTS_WITHIN:?}");
        if found == wanted {
            break;
        }
    }
    assert_eq!(found, wanted, "{what}: the run has ended by itself");
    let made = mine(dir.path()).len() - before.len();
    assert!(made > 0, "{what}: a run has stores that are not dead, and a folder");
    kill_process(Pid::from_child(&run.0), signal).unwrap();
    let interrupted = Instant::now();
    let ended = loop {
        if let Some(ended) = run.0.try_wait().unwrap() {
            break ended;
        }
        assert!(look_again(interrupted, ENDS_WITHIN), "{what}: it goes on for {ENDS_WITHIN:?}");
    };
    println!("{what}: {ended} after {:.1?}", interrupted.elapsed());
    assert_eq!(ended.signal(), Some(signal.as_raw()), "{what}: it ends as if nobody had caught the signal");
    // A child of a process that is gone may take a moment to be so, too.
    while mine(dir.path()) != before && look_again(interrupted, ENDS_WITHIN) {}
    assert_eq!(mine(dir.path()), before, "{what}: this is left");
    let is_left = (0..4).any(|number| Spaces::is_there(&format!("{name}{number}")));
    assert!(!is_left, "{what}: namespaces or an interface are left");
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
