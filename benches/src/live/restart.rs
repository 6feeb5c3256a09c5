//! Who comes back after a rest: the first write to a region that slept, and a store that was down while all regions sleep.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::times::millis;
use crate::args::Restart;
use crate::cluster::{Plan, Problem, STORES, Stores};
use crate::report::print_table;

/// How long the first store may take to write once to every region, or one of them to read.
const BEYOND: Duration = Duration::from_secs(300);
/// The store that goes down: the last, since the first is the one that writes.
const DOWN: u64 = STORES;

const WRITES: [&str; 5] = ["write", "count", "p50 ms", "p99 ms", "max ms"];
const STARTS: [&str; 4] = ["after", "regions read", "listens after s", "all read after s"];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Restart) -> Result<(), Problem> {
    let (groups, settle, probes) = if options.quick { (12, 3, 2) } else { (1000, 20, 300) };
    let groups = options.groups.unwrap_or(groups);
    let settle = Duration::from_secs(options.settle.unwrap_or(settle));
    let probes = options.probes.unwrap_or(probes);
    let plan = Plan::new(&options.cluster, groups, options.pairs.state);
    let (mut stores, leaderless) = Stores::start(&plan)?;
    stores.drive(1, &json!({ "job": "once", "groups": groups, "payload": options.pairs.payload }), BEYOND)?;
    stores.load(settle)?;
    let waking = json!({ "job": "waking", "probes": probes, "payload": options.pairs.payload });
    let writes = stores.drive(1, &waking, BEYOND)?;
    let reading = json!({ "job": "reading", "groups": groups, "probes": probes, "payload": options.pairs.payload });
    let mut starts = Vec::new();
    for after in ["stop", "kill"] {
        stores.load(settle)?;
        if after == "stop" {
            stores.stop(DOWN)?;
        } else {
            stores.kill(DOWN)?;
        }
        let begin = Instant::now();
        stores.start_again(DOWN, &plan)?;
        let listens = begin.elapsed();
        let read = stores.drive(DOWN, &reading, BEYOND)?;
        starts.push((after, read["regions"].clone(), listens, begin.elapsed()));
    }
    drop(stores);
    let row = |name: &str, times: &Value| {
        let figures = ["p50", "p99", "max"].map(|figure| format!("{:.2}", times[figure].as_f64().unwrap_or_default()));
        [name.to_owned(), times["count"].to_string()].into_iter().chain(figures).collect::<Vec<_>>()
    };
    print_table(&WRITES, &[row("first", &writes["first_ms"]), row("next", &writes["next_ms"])]);
    let rows = starts.iter().map(|(after, regions, listens, served)| {
        let seconds = [listens, served].map(|time| format!("{:.2}", time.as_secs_f64()));
        [(*after).to_owned(), regions.to_string()].into_iter().chain(seconds).collect::<Vec<_>>()
    });
    println!();
    print_table(&STARTS, &rows.collect::<Vec<_>>());
    if options.cluster.json {
        let of = |(_, _, listens, served): &(&str, Value, Duration, Duration)| json!({ "listens_ms": millis(*listens), "serves_ms": millis(*served) });
        let line = json!({
            "bench": "restart",
            "groups": groups,
            "stores": STORES,
            "first_ms": writes["first_ms"],
            "next_ms": writes["next_ms"],
            "after_stop": of(&starts[0]),
            "after_kill": of(&starts[1]),
            "probes": probes,
            "leaderless": leaderless,
            "payload": options.pairs.payload,
            "state": options.pairs.state.name(),
        });
        println!("{line}");
    }
    Ok(())
}
