//! A store is killed: how long the regions that it led take no writes.

use std::time::Duration;

use multiraft::Config;
use serde_json::json;

use crate::args::Failover;
use crate::cluster::{Plan, Problem, STORES, Stores};
use crate::report::print_table;

/// How long the first store may take to write once to every region, or to read everything again.
const BEYOND: Duration = Duration::from_secs(300);
/// The store that is killed: the last, since the first is the one that does the jobs.
const VICTIM: u64 = STORES;

const HEAD: [&str; 7] = ["groups", "led by the killed", "regained", "support ms", "p50 ms", "p99 ms", "max ms"];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Failover) -> Result<(), Problem> {
    let groups = options.groups.unwrap_or(if options.quick { 12 } else { 1000 });
    let plan = Plan::new(&options.cluster, groups, options.pairs.state);
    let (mut stores, leaderless) = Stores::start(&plan)?;
    stores.drive(1, &json!({ "job": "once", "groups": groups, "payload": options.pairs.payload }), BEYOND)?;
    let led = stores.drive(1, &json!({ "job": "led", "by": VICTIM }), BEYOND)?;
    let regions = &led["regions"];
    let led = regions.as_array().map_or(0, Vec::len);
    if led == 0 {
        let why = format!("store {VICTIM} leads none of {groups} regions");
        return Err(Problem::Failed { what: "killing a leader".to_owned(), why });
    }
    let killed_at_us = stores.kill(VICTIM)?;
    let job = json!({
        "job": "regaining",
        "regions": regions,
        "killed_at_us": killed_at_us,
        "payload": options.pairs.payload,
        "within_s": options.within,
    });
    let found = stores.drive(1, &job, BEYOND + Duration::from_secs(options.within))?;
    drop(stores);
    let support_ms = support_ms();
    let times = &found["ms"];
    let mut row = vec![groups.to_string(), led.to_string(), times["count"].to_string(), support_ms.to_string()];
    row.extend(["p50", "p99", "max"].map(|name| format!("{:.1}", times[name].as_f64().unwrap_or_default())));
    print_table(&HEAD, &[row]);
    println!("all {} keys of these regions are as they were written", found["written"]["keys"]);
    if options.cluster.json {
        let line = json!({
            "bench": "failover",
            "groups": groups,
            "support_ms": support_ms,
            "p50_ms": times["p50"],
            "p99_ms": times["p99"],
            "max_ms": times["max"],
            "stores": STORES,
            "led": led,
            "leaderless": leaderless,
            "payload": options.pairs.payload,
            "state": options.pairs.state.name(),
        });
        println!("{line}");
    }
    Ok(())
}

/// For how long a store's groups are left to it after it was last heard, in milliseconds.
fn support_ms() -> u128 {
    Config::default().liveness.support_duration.as_millis()
}
