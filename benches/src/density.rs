//! What a region costs that was written to once and then left alone: memory, processor time, packets, turns.
//!
//! The same is done twice in one run: with one region, for what a store costs by itself, and with all of them. The marginal figure
//! is the difference, spread over the replicas that came on top.
//!
//! Memory is what the whole processes have resident, sled's caches and this program's own code and runtime included. Processor
//! time is from `/proc`. Packets are UDP datagrams that the three stores sent, as QUIC counts them for each connection: what other
//! programs send over loopback is not in them. Turns are those of all workers of all stores.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Density;
use crate::cluster::{Plan, Problem, STORES, Stores, number};
use crate::report::{Measured, print_table, ratio, rounded, seconds};

/// How long the first store may take to write once to every region.
const WRITTEN_WITHIN: Duration = Duration::from_secs(300);

const HEAD: [&str; 10] = [
    "groups",
    "replicas",
    "asleep",
    "bytes/replica",
    "marginal",
    "store MiB",
    "worst store % of a core",
    "packets/s",
    "messages/s",
    "turns",
];

/// How long a run rests and measures.
struct Times {
    settle: Duration,
    window: Duration,
}

/// What came out with some number of regions.
struct Figures {
    groups: u64,
    replicas: u64,
    /// Replicas that wait for nothing, at the end.
    asleep: u64,
    /// Of all three stores.
    rss_bytes: u64,
    idle_cpu: f64,
    packets_per_s: f64,
    messages_per_s: f64,
    turns: u64,
    elections: u64,
    leaderless: u64,
}

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Density) -> Result<(), Problem> {
    let (groups, settle, window, window_alone) = if options.quick { (12, 1, 2, 1) } else { (1000, 5, 60, 5) };
    let groups = options.groups.unwrap_or(groups);
    let settle = Duration::from_secs(options.settle.unwrap_or(settle));
    let window = Duration::from_secs(options.seconds.unwrap_or(window));
    let window_alone = window.min(Duration::from_secs(window_alone));
    let alone = Figures::measure(options, 1, &Times { settle, window: window_alone })?;
    let all = Figures::measure(options, groups, &Times { settle, window })?;
    print_table(&HEAD, &[alone.row(None), all.row(Some(&alone))]);
    println!("\nturns: in {} s with one region, in {} s with all", window_alone.as_secs(), window.as_secs());
    if options.cluster.json {
        println!("{}", all.json(&alone, options, window));
    }
    Ok(())
}

impl Figures {
    fn measure(options: &Density, groups: u64, times: &Times) -> Result<Self, Problem> {
        let plan = Plan::new(&options.cluster, groups, options.pairs.state);
        let (mut stores, leaderless) = Stores::start(&plan)?;
        stores.drive(
            1,
            &json!({ "job": "once", "groups": groups, "payload": options.pairs.payload }),
            WRITTEN_WITHIN,
        )?;
        // Without clients the load is rest.
        stores.load(times.settle)?;
        let measured = Measured::new(stores.measure(times.window)?);
        Ok(Self {
            groups,
            replicas: measured.sum("replicas"),
            asleep: measured.sum("asleep"),
            rss_bytes: measured.sum("rss_bytes"),
            idle_cpu: measured.worst(|store| ratio(number(store, "cpu_us") as f64 / 1e4, seconds(store))),
            packets_per_s: measured.per_second(|store| number(&store["counters"], "packets_sent")),
            messages_per_s: measured.per_second(|store| number(&store["counters"], "messages_sent")),
            turns: measured.counted("turns"),
            elections: measured.counted("elections_won"),
            leaderless,
        })
    }

    fn rss_bytes_per_replica(&self) -> f64 {
        ratio(self.rss_bytes as f64, self.replicas as f64)
    }

    /// What each replica added to what the stores have resident with fewer of them; may be below zero if these are few.
    fn marginal_bytes_per_replica(&self, fewer: &Self) -> f64 {
        ratio(self.rss_bytes as f64 - fewer.rss_bytes as f64, self.replicas as f64 - fewer.replicas as f64)
    }

    fn row(&self, fewer: Option<&Self>) -> Vec<String> {
        vec![
            self.groups.to_string(),
            self.replicas.to_string(),
            self.asleep.to_string(),
            format!("{:.0}", self.rss_bytes_per_replica()),
            fewer.map_or_else(String::new, |fewer| format!("{:.0}", self.marginal_bytes_per_replica(fewer))),
            format!("{:.1}", self.rss_bytes as f64 / STORES as f64 / f64::from(1 << 20)),
            format!("{:.2}", self.idle_cpu),
            format!("{:.1}", self.packets_per_s),
            format!("{:.1}", self.messages_per_s),
            self.turns.to_string(),
        ]
    }

    fn json(&self, fewer: &Self, options: &Density, window: Duration) -> Value {
        json!({
            "bench": "density",
            "groups": self.groups,
            "stores": STORES,
            "rss_bytes_per_replica": self.rss_bytes_per_replica().round(),
            "marginal_bytes_per_replica": self.marginal_bytes_per_replica(fewer).round(),
            "asleep": self.asleep,
            "idle_cpu_percent_of_core": (self.idle_cpu * 100.0).round() / 100.0,
            "packets_per_s": rounded(self.packets_per_s),
            "worker_turns": self.turns,
            "seconds": window.as_secs(),
            "replicas": self.replicas,
            "messages_per_s": rounded(self.messages_per_s),
            "elections": self.elections,
            "leaderless": self.leaderless,
            "payload": options.pairs.payload,
            "state": options.pairs.state.name(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marginal_figure_is_of_what_came_on_top() {
        let figures = |groups: u64, rss_bytes| Figures {
            groups,
            replicas: groups * STORES,
            asleep: 0,
            rss_bytes,
            idle_cpu: 0.0,
            packets_per_s: 0.0,
            messages_per_s: 0.0,
            turns: 0,
            elections: 0,
            leaderless: 0,
        };
        let (one, many) = (figures(1, 90_000), figures(101, 690_000));
        assert_eq!(many.marginal_bytes_per_replica(&one), 2_000.0);
        assert_eq!(one.rss_bytes_per_replica(), 30_000.0);
        assert_eq!(one.marginal_bytes_per_replica(&one), 0.0);
    }
}
