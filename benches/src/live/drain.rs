//! Emptying a store: how long it takes, and what writes notice of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Drain;
use crate::cluster::{Plan, Problem, STORES, Stores};
use crate::report::{print_table, rounded};

/// How long the first store may take beyond what is measured: filling, and reading everything again.
const BEYOND: Duration = Duration::from_secs(600);

const HEAD: [&str; 12] = [
    "regions",
    "KiB each",
    "moved s",
    "noted s",
    "regions/s",
    "peak/s",
    "write p50 ms before",
    "during",
    "p99 before",
    "during",
    "max before",
    "during",
];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Drain) -> Result<(), Problem> {
    let job = job(options);
    let regions = job["regions"].as_u64().unwrap_or_default();
    let plan = Plan {
        spares: options.spares,
        places: true,
        replicas_at_once: options.replicas_at_once,
        ..Plan::new(&options.cluster, regions, options.state)
    };
    let (mut stores, leaderless) = Stores::start(&plan)?;
    let found = stores.drive(1, &job, BEYOND + Duration::from_secs(options.within))?;
    drop(stores);
    let figure = |name: &str| rounded(found[name].as_f64().unwrap_or_default());
    let mut row = vec![regions.to_string(), (job["fill_bytes"].as_u64().unwrap_or_default() >> 10).to_string()];
    row.extend(["moved_s", "noted_s", "regions_per_s", "regions_per_s_peak"].map(|name| figure(name).to_string()));
    for name in ["p50", "p99", "max"] {
        row.extend(["writes_before_ms", "writes_during_ms"].map(|part| found[part][name].to_string()));
    }
    print_table(&HEAD, &[row]);
    println!(
        "all {} keys are as they were written; {} writes were refused",
        found["written"]["keys"], found["written"]["refused"]
    );
    if options.cluster.json {
        let mut line = job;
        line["bench"] = "drain".into();
        for name in ["moved_s", "noted_s", "regions_per_s", "regions_per_s_peak"] {
            line[name] = figure(name).into();
        }
        for name in ["writes_before_ms", "writes_during_ms", "written"] {
            line[name] = found[name].clone();
        }
        line["leaderless"] = leaderless.into();
        line["state"] = options.state.name().into();
        println!("{line}");
    }
    Ok(())
}

fn job(options: &Drain) -> Value {
    let pick = |given: Option<u64>, quick, long| given.unwrap_or(if options.quick { quick } else { long });
    json!({
        "job": "emptying",
        "stores": STORES + options.spares,
        "regions": pick(options.regions, 12, 1000),
        "fill_bytes": pick(options.fill, 4, 16) << 10,
        "replicas_at_once": options.replicas_at_once,
        "before_s": pick(options.before, 1, 5),
        "within_s": options.within,
        "rate": pick(options.writes.rate, 50, 300),
        "payload": options.writes.payload,
    })
}
