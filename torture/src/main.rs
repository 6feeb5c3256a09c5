//! The command line: judge a recorded history.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its user")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use multiraft_torture::check::{Verdict, Workload, judge};
use multiraft_torture::history::{Format, History};

/// Judge what clients of a cluster were told.
#[derive(Parser)]
#[command(name = "multiraft-torture")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Judge a recorded history. Ends with 0 if all checks hold and something was answered, 1 if not, 2 if it cannot be judged.
    Check {
        /// The history, as EDN (.edn) or JSON lines (.jsonl).
        file: PathBuf,
        /// Judge it as this workload, whatever its first record says.
        #[arg(long, value_parser = parse_workload)]
        workload: Option<Workload>,
        /// Print the verdict as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What was asked for cannot be done with this input.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Check { file, workload, json } => check(&file, workload, json),
    }
}

fn check(file: &Path, workload: Option<Workload>, json: bool) -> ExitCode {
    let unusable = |problem: String| {
        if json {
            println!("{:#}", serde_json::json!({ "ok": false, "error": problem }));
        }
        eprintln!("{}: {problem}", file.display());
        ExitCode::from(UNUSABLE)
    };
    let verdict = match read_and_judge(file, workload) {
        Ok(verdict) => verdict,
        Err(problem) => return unusable(problem),
    };
    if verdict.judgement().holds() && verdict.answered() == 0 {
        return unusable("nothing was answered in it, so it shows nothing".to_owned());
    }
    if json {
        println!("{:#}", verdict.json());
    } else {
        print!("{}", verdict.table());
    }
    if verdict.judgement().holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_and_judge(file: &Path, workload: Option<Workload>) -> Result<Verdict, String> {
    let format = Format::of(file).map_err(|error| error.problem)?;
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let history = History::read(&bytes, format).map_err(|error| error.to_string())?;
    judge(&history, workload).map_err(|error| error.to_string())
}

fn parse_workload(name: &str) -> Result<Workload, String> {
    Workload::of(name).ok_or_else(|| format!("one of {}", Workload::names()))
}
