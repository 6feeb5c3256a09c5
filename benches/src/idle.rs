//! What regions cost that nobody uses.

use std::time::Duration;

use serde_json::json;

use crate::args::Idle;
use crate::cluster::{Plan, Problem, STORES, Stores, number};
use crate::report::{Measured, print_table, ratio, rounded, seconds};

const HEAD: [&str; 7] =
    ["groups", "bytes/replica", "store MiB", "worst store % of a core", "frames/s", "messages/s", "fsyncs/s"];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Idle) -> Result<(), Problem> {
    let plan = Plan::new(&options.cluster, options.groups, options.state);
    let (mut stores, leaderless) = Stores::start(&plan)?;
    // Without clients the load is rest.
    stores.load(Duration::from_secs(options.settle))?;
    let measured = Measured::new(stores.measure(Duration::from_secs(options.seconds))?);
    drop(stores);
    let counted = |name: &'static str| measured.per_second(|store| number(&store["counters"], name));
    let rss = measured.sum("rss_bytes") as f64;
    let rss_bytes_per_replica = ratio(rss, measured.sum("replicas") as f64);
    let idle_cpu = measured.worst(|store| ratio(number(store, "cpu_us") as f64 / 1e4, seconds(store)));
    let store_bytes = rss / STORES as f64;
    print_table(
        &HEAD,
        &[vec![
            options.groups.to_string(),
            format!("{rss_bytes_per_replica:.0}"),
            format!("{:.1}", store_bytes / f64::from(1 << 20)),
            format!("{idle_cpu:.1}"),
            format!("{:.0}", counted("frames_sent")),
            format!("{:.0}", counted("messages_sent")),
            format!("{:.1}", counted("log_syncs")),
        ]],
    );
    if options.cluster.json {
        let line = json!({
            "bench": "idle",
            "groups": options.groups,
            "state": options.state.name(),
            "rss_bytes_per_replica": rss_bytes_per_replica.round(),
            "rss_bytes_per_store": store_bytes.round(),
            "idle_cpu_percent_of_core": rounded(idle_cpu),
            "frames_per_s": rounded(counted("frames_sent")),
            "messages_per_s": rounded(counted("messages_sent")),
            "fsyncs_per_s": rounded(counted("log_syncs")),
            "elections": measured.counted("elections_won"),
            "leaderless": leaderless,
        });
        println!("{line}");
    }
    Ok(())
}
