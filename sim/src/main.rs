//! The simulator's command line: run seeds, replay one, find planted bugs, trace a group.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its user")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};
use multiraft_sim::cluster::Report;
use multiraft_sim::enumerate::{Scenario, enumerate};
use multiraft_sim::plan::Plan;
use multiraft_sim::plant::Plant;
use multiraft_sim::run::{Summary, find, run_plan, run_seeds};
use multiraft_sim::trace::trace;

/// Whole multiraft clusters in one thread on virtual time, with faults, from a seed.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run seeds and judge them. Succeeds only if every rule holds in all of them.
    Run {
        /// The seeds, for example 0..1000; the end is not included.
        #[arg(long, value_parser = parse_range)]
        seeds: Range<u64>,
        /// Begin no further seed after so many seconds.
        #[arg(long)]
        seconds_budget: Option<u64>,
        /// How many threads work on seeds; each seed stays on one.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Have a disaster come in each of them; what else happens how often is not judged then.
        #[arg(long)]
        disasters: bool,
    },
    /// Run one seed and tell everything that happens.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// With this planted bug, named as `self-test` names it.
        #[arg(long, value_parser = parse_plant)]
        plant: Option<Plant>,
        /// As `run --disasters` runs it.
        #[arg(long)]
        disasters: bool,
    },
    /// Write the trace of one group, for a TLA+ specification to judge.
    Trace {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Where to write it, one JSON object a line.
        #[arg(long)]
        out: PathBuf,
    },
    /// Run one split, one exchange of replicas, or one merge, with each crash and each lost message that there can be.
    Enumerate {
        /// What to run; all of them if it is left out.
        #[arg(value_parser = parse_scenario)]
        scenario: Option<Scenario>,
    },
    /// Plant bugs, and see that each is found.
    SelfTest {
        /// How many seeds may be needed to find one.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
    },
}

fn main() -> ExitCode {
    let is_well = match Arguments::parse().task {
        Task::Run { seeds, seconds_budget, threads, disasters } => run(seeds, seconds_budget, threads, disasters),
        Task::Replay { seed, plant, disasters } => replay(seed, plant, disasters),
        Task::Trace { seed, out } => write_trace(seed, &out),
        Task::Enumerate { scenario } => enumerate_all(scenario),
        Task::SelfTest { seeds } => self_test(seeds),
    };
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn drawn_by(disasters: bool) -> fn(u64) -> Plan {
    if disasters { Plan::draw_disaster } else { Plan::draw }
}

fn run(seeds: Range<u64>, seconds_budget: Option<u64>, threads: usize, disasters: bool) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let budget = seconds_budget.map(Duration::from_secs);
    let tell = |report: &Report| tell_failure(report, disasters);
    let summary = run_seeds(seeds, drawn_by(disasters), threads, budget, &tell);
    // How often things happen depends on what seeds decide by themselves.
    let below = if disasters { Vec::new() } else { summary.counters.below_floor(summary.seeds) };
    for (name, number, _) in summary.counters.list() {
        println!("{name:>28} {number:>14}");
    }
    for line in &below {
        eprintln!("did not happen often enough: {line}");
    }
    let is_well = summary.failed.is_empty() && below.is_empty();
    println!("{}", last_line(&summary, is_well));
    is_well
}

fn last_line(summary: &Summary, is_well: bool) -> serde_json::Value {
    serde_json::json!({
        "ok": is_well,
        "seeds": summary.seeds,
        "virtual_seconds": (summary.virtual_nanos / 1_000_000_000) as u64,
        "operations": summary.counters.operations,
        "failed_seeds": summary.failed.iter().map(|report| report.seed).collect::<Vec<_>>(),
    })
}

fn tell_failure(report: &Report, disasters: bool) {
    let Some(violation) = &report.violation else { return };
    eprintln!("seed {} fails at commit {}: {violation}", report.seed, commit());
    let also = if disasters { " --disasters" } else { "" };
    eprintln!("  replay: cargo run --release -p multiraft-sim -- replay --seed {}{also}", report.seed);
}

/// The commit that runs: told by whoever built it, or else what git says of the working directory.
fn commit() -> String {
    if let Some(commit) = option_env!("MULTIRAFT_COMMIT") {
        return commit.to_owned();
    }
    let told = Command::new("git").args(["rev-parse", "HEAD"]).output().ok().filter(|output| output.status.success());
    told.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn replay(seed: u64, plant: Option<Plant>, disasters: bool) -> bool {
    let plan = drawn_by(disasters)(seed);
    println!("{plan:#?}");
    let report = run_plan(plan, plant, true);
    println!("seed {seed}, commit {}, digest {:016x}", commit(), report.digest);
    match &report.violation {
        Some(violation) => println!("fails: {violation}"),
        None => println!("every rule holds"),
    }
    report.violation.is_none()
}

fn enumerate_all(scenario: Option<Scenario>) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let all = [Scenario::Split, Scenario::Replicas, Scenario::Merge];
    let mut is_well = true;
    for scenario in all.into_iter().filter(|one| scenario.is_none_or(|wanted| wanted == *one)) {
        let done = enumerate(scenario);
        for (form, strike, report) in &done.failed {
            let Some(violation) = &report.violation else { continue };
            eprintln!("{scenario:?}, {form:?}, {strike:?}: {violation}");
        }
        is_well &= done.failed.is_empty() && done.runs() > 0;
        let line = serde_json::json!({
            "scenario": format!("{scenario:?}"),
            "ok": done.failed.is_empty(),
            "runs": done.runs(),
            "crashes": done.crashes,
            "power_cuts": done.power_cuts,
            "lost_messages": done.losses,
            "failed": done.failed.len(),
        });
        println!("{line}");
    }
    is_well
}

fn parse_scenario(text: &str) -> Result<Scenario, String> {
    match text {
        "split" => Ok(Scenario::Split),
        "replicas" => Ok(Scenario::Replicas),
        "merge" => Ok(Scenario::Merge),
        _ => Err("split, replicas or merge".to_owned()),
    }
}

fn self_test(seeds: u64) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let mut is_well = true;
    for plant in Plant::ALL {
        match find(plant, 0..seeds) {
            Some(Report { seed, violation: Some(violation), .. }) => {
                println!("{:>24}  found by seed {seed}: {}", format!("{plant:?}"), violation.rule);
            }
            _ => {
                println!("{:>24}  NOT FOUND in {seeds} seeds", format!("{plant:?}"));
                is_well = false;
            }
        }
    }
    is_well
}

fn write_trace(seed: u64, out: &Path) -> bool {
    let mut text = trace(seed).join("\n");
    text.push('\n');
    match std::fs::write(out, text) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{}: {error}", out.display());
            false
        }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("a range looks like 0..1000")?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let range = number(start)?..number(end)?;
    if range.is_empty() { Err("the range is empty".to_owned()) } else { Ok(range) }
}

fn parse_plant(text: &str) -> Result<Plant, String> {
    let names = || Plant::ALL.map(|plant| format!("{plant:?}")).join(", ");
    Plant::ALL.into_iter().find(|plant| format!("{plant:?}") == text).ok_or_else(|| format!("one of {}", names()))
}
