//! `cargo xtask check` runs what CI runs; `cargo xtask fix` edits what a machine can edit.
//!
//! It owns the list of checks ([`steps`]) and the rules on the text itself ([`style`]). It builds nothing of its own and
//! needs no network.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks to its terminal")]

mod args;
mod process;
mod steps;
mod style;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use args::{Request, Selection};
use process::Stopped;
use steps::{STEPS, Step};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let request = match args::parse(&arguments, STEPS) {
        Ok(request) => request,
        Err(problem) => {
            eprintln!("{problem}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    let root = workspace_root();
    match request {
        Request::Help => println!("{}", args::USAGE),
        Request::List => list(),
        Request::Fix => return finish(process::run(&root, steps::FIX).is_ok()),
        Request::Check(selection) => return finish(check(&root, &selection)),
    }
    ExitCode::SUCCESS
}

fn finish(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() {
    for step in STEPS {
        println!("{:<9} {:>4} s  {}", step.name, step.limit.as_secs(), step.what);
    }
}

/// Runs the selected steps, all of them even when one fails; says whether all passed.
fn check(root: &Path, selection: &Selection) -> bool {
    let mut lines = Vec::new();
    let mut passed = true;
    for step in STEPS.iter().filter(|step| selection.takes(step.name)) {
        let started = Instant::now();
        println!("\n=== {}: {}", step.name, step.what);
        let outcome = run_step(root, step);
        let seconds = started.elapsed().as_secs_f64();
        let (verdict, detail) = match &outcome {
            Ok(()) => ("ok", String::new()),
            Err(problem) => ("FAILED", format!(": {problem}")),
        };
        lines.push(format!("{verdict:<7} {seconds:>6.1} s  {}{detail}", step.name));
        println!("=== {}: {verdict} after {seconds:.1} s{detail}", step.name);
        passed &= outcome.is_ok();
        if outcome == Err(Stopped::Interrupted) {
            break;
        }
    }
    println!("\n{}", lines.join("\n"));
    passed
}

fn run_step(root: &Path, step: &Step) -> Result<(), Stopped> {
    if step.commands.is_empty() {
        let found = style::check(root);
        for problem in &found {
            println!("{problem}");
        }
        return if found.is_empty() { Ok(()) } else { Err(Stopped::Problems(found.len())) };
    }
    let deadline = Instant::now() + step.limit;
    step.commands.iter().try_for_each(|command| process::run_until(root, *command, deadline))
}

/// The folder of the workspace: the parent of this crate's own.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace's folder").to_path_buf()
}
