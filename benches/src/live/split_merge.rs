//! Splits and merges: how long each takes, how long it stalls writes, and how many there can be in a second.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::SplitMerge;
use crate::cluster::{Plan, Problem, Stores};
use crate::report::{print_table, rounded};

/// How long the first store may take beyond what is measured: filling, changes that are slow, reading everything again.
const BEYOND: Duration = Duration::from_secs(600);

const HEAD: [&str; 14] = [
    "change",
    "n",
    "p50 ms",
    "p99",
    "max",
    "stall p50 ms",
    "p99",
    "max",
    "silence p50 ms",
    "p99",
    "max",
    "beside p50 ms",
    "p99",
    "max",
];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &SplitMerge) -> Result<(), Problem> {
    let job = job(options);
    let plan = Plan::new(&options.cluster, job["regions"].as_u64().unwrap_or_default(), options.state);
    let (mut stores, leaderless) = Stores::start(&plan)?;
    let found = stores.drive(1, &job, BEYOND)?;
    drop(stores);
    let per_s = |name: &str| rounded(found[name].as_f64().unwrap_or_default());
    print_table(&HEAD, &[row("split", &found["splits"]), row("merge", &found["merges"])]);
    println!(
        "\nstall: the longest that a write took which was under way; silence: the longest time without a write done;\n\
         beside: the longest write at the same time in a region that nobody touches"
    );
    println!(
        "{} at once: {:.1} splits/s ({} made), {:.1} merges/s ({} made)",
        job["at_once"],
        per_s("splits_per_s"),
        found["splits_made"],
        per_s("merges_per_s"),
        found["merges_made"]
    );
    println!(
        "all {} keys are as they were written; {} writes were refused",
        found["written"]["keys"], found["written"]["refused"]
    );
    if options.cluster.json {
        let mut line = job;
        line["bench"] = "split-merge".into();
        for name in ["splits", "merges", "written", "splits_made", "merges_made", "retries_among_many"] {
            line[name] = found[name].clone();
        }
        line["splits_per_s"] = per_s("splits_per_s").into();
        line["merges_per_s"] = per_s("merges_per_s").into();
        line["leaderless"] = leaderless.into();
        line["state"] = options.state.name().into();
        println!("{line}");
    }
    Ok(())
}

fn job(options: &SplitMerge) -> Value {
    let pick = |given: Option<u64>, quick, long| given.unwrap_or(if options.quick { quick } else { long });
    json!({
        "job": "changes",
        "regions": pick(options.regions, 2, 8),
        "changes": pick(options.changes, 4, 60),
        "settle_ms": options.settle,
        "at_once": pick(options.at_once, 2, 8),
        "seconds": pick(options.seconds, 1, 4),
        "fill_bytes": pick(options.fill, 64, 1024) << 10,
        "rate": pick(options.writes.rate, 50, 200),
        "payload": options.writes.payload,
    })
}

fn row(name: &str, found: &Value) -> Vec<String> {
    let mut row = vec![name.to_owned(), found["ms"]["count"].to_string()];
    for figure in ["ms", "stall_ms", "silence_ms", "beside_ms"] {
        row.extend(
            ["p50", "p99", "max"].map(|name| format!("{:.1}", found[figure][name].as_f64().unwrap_or_default())),
        );
    }
    row
}
