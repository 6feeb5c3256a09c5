//! Snapshots: how fast a new replica is filled, and what writes notice of it.
//!
//! Measured from the call that adds the replica to its return, when the replica votes: asking, cutting the state into chunks,
//! sending, writing, installing, catching up. Once without a limit of speed, once with the one that a store has by itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Snapshot;
use crate::cluster::{Plan, Problem, STORES, Stores, number};
use crate::report::{print_table, rounded};

/// How long a job may take: filling, some rounds, reading everything again.
const WITHIN: Duration = Duration::from_secs(900);

const HEAD: [&str; 10] =
    ["limit", "MiB", "rounds", "s", "MB/s", "writes", "p50 ms before", "during", "p99 ms before", "during"];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Snapshot) -> Result<(), Problem> {
    let job = job(options);
    let mut rows = Vec::new();
    let mut line = job.clone();
    for (name, rate) in [("none", Some(0)), ("default", None)] {
        let found = measure(options, &job, rate)?;
        rows.extend(rows_of(name, &job, &found));
        line[format!("limit_{name}")] = found;
    }
    print_table(&HEAD, &rows);
    if options.cluster.json {
        line["bench"] = "snapshot".into();
        line["state"] = options.state.name().into();
        println!("{line}");
    }
    Ok(())
}

fn measure(options: &Snapshot, job: &Value, rate: Option<u64>) -> Result<Value, Problem> {
    let plan =
        Plan { spares: 1, keeps_leaders: true, snapshot_rate: rate, ..Plan::new(&options.cluster, 2, options.state) };
    let (mut stores, leaderless) = Stores::start(&plan)?;
    let mut found = stores.drive(1, job, WITHIN)?;
    let mut check = job.clone();
    check["job"] = "check".into();
    let checked = stores.drive(STORES + 1, &check, WITHIN)?;
    let (installed, rounds) = (number(&checked, "installed"), number(job, "rounds"));
    if installed < rounds {
        return Err(Problem::Wrong(format!("{rounds} snapshots should have been installed, and {installed} were")));
    }
    let speeds = speeds(&found);
    found["mb_per_s"] = rounded(median(speeds)).into();
    found["leaderless"] = leaderless.into();
    if let Some(fields) = found.as_object_mut() {
        fields.remove("at");
    }
    Ok(found)
}

fn job(options: &Snapshot) -> Value {
    let pick = |given: Option<u64>, quick, long| given.unwrap_or(if options.quick { quick } else { long });
    json!({
        "job": "filling",
        "spare": STORES + 1,
        "size_bytes": pick(options.size, 16, 256) << 20,
        "value_bytes": options.value << 10,
        "rounds": pick(options.rounds, 1, 2),
        "before_s": pick(options.before, 1, 4),
        "rate": pick(options.writes.rate, 50, 200),
        "payload": options.writes.payload,
    })
}

/// Megabytes (10^6) a second of each round.
fn speeds(found: &Value) -> Vec<f64> {
    let list = |name: &str| found[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
    list("bytes_sent").iter().zip(list("seconds")).map(|(bytes, seconds)| bytes / 1e6 / seconds).collect()
}

/// The middle one; of an even number the slower.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

fn rows_of(name: &str, job: &Value, found: &Value) -> [Vec<String>; 2] {
    let seconds = number(job, "size_bytes") as f64 / 1e6 / found["mb_per_s"].as_f64().unwrap_or(f64::INFINITY);
    ["same", "other"].map(|which| {
        let mut row = vec![
            name.to_owned(),
            (number(job, "size_bytes") >> 20).to_string(),
            job["rounds"].to_string(),
            format!("{seconds:.2}"),
            found["mb_per_s"].to_string(),
            format!("{which} region"),
        ];
        for figure in ["p50", "p99"] {
            row.extend(["before", "during"].map(|part| found[format!("{which}_{part}_ms")][figure].to_string()));
        }
        row
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_the_median_of_the_rounds() {
        let found = json!({ "bytes_sent": [10_000_000, 10_000_000, 20_000_000], "seconds": [0.5, 2.0, 2.0] });
        assert_eq!(speeds(&found), [20.0, 5.0, 10.0]);
        assert_eq!((median(speeds(&found)), median(vec![3.0, 1.0]), median(Vec::new())), (10.0, 1.0, 0.0));
    }
}
