//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use multiraft::Consistency;

use crate::cluster::STORES;

/// Benchmarks of multiraft on three store processes, over QUIC on loopback, with a log that is flushed.
#[derive(Debug, Parser)]
#[command(name = "multiraft-benches")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) bench: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Writes per second: clients inside the stores, each with one proposal under way, over all regions.
    Throughput(Throughput),
    /// Reads per second, by what is promised of them: linearizable, by leases, of a bounded age, local.
    Reads(crate::reads::Reads),
    /// Throughput over sizes, each several times: the run with the median writes per second stands for its size.
    Sweep(Sweep),
    /// What regions cost that nobody uses: memory per replica, processor time, messages.
    Idle(Idle),
    /// What regions cost that were written to once: memory per replica, processor time, packets, turns of the workers.
    Density(Density),
    /// What a round of the placement planner costs, on a simulated cluster that loses, empties and gains stores.
    Placement(Placement),
    /// Splits and merges of regions that are written to: how long each takes, how long it stalls writes, how many a second.
    SplitMerge(SplitMerge),
    /// Everything leaves a store: how long that takes, and what it does to writes.
    Drain(Drain),
    /// A replica is filled by a snapshot: how fast, and what that does to writes.
    Snapshot(Snapshot),
    /// A store is killed: how long the regions that it led take no writes.
    Failover(Failover),
    /// All regions sleep: how long the first write to one takes, and a store that was down until it serves again.
    Restart(Restart),
    /// A store is killed and starts on what its log holds: how long until it listens, and until it serves every region.
    Recovery(crate::live::recovery::Recovery),
    /// The same writes on this project and on other Raft libraries, in turn: throughput, latency, processor time, memory.
    #[cfg(feature = "peers")]
    Peers(crate::peers::Peers),
    /// One of these; started by it.
    #[cfg(feature = "peers")]
    #[command(hide = true)]
    Peer(crate::peers::Peer),
    /// What this machine can do: disk, QUIC on loopback, ciphers, checksums, queues between threads.
    Limits(crate::limits::Limits),
    /// Draws the runs that lie in a folder, as SVG; with `--run` measures them first.
    Plots(crate::plots::Plots),
    /// Instructions that the hot paths take, counted under valgrind, and whether that is more than it was.
    Micro(crate::micro::Micro),
    /// One of these paths; started by it.
    #[command(hide = true)]
    MicroPath(crate::micro::MicroPath),
    /// One of the stores; started by the others.
    #[command(hide = true)]
    Store(Store),
}

/// What `throughput` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Throughput {
    /// Regions, each with a replica on every store.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: Option<u64>,
    /// Clients, spread evenly over the stores; each proposes to a random region and waits for the answer.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) clients: Option<u64>,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Where the state lies; the log is durable in any case. Both: one run after the other, memory last.
    #[arg(long, value_enum, default_value = "both")]
    pub(crate) state: States,
    /// An open loop instead of clients that wait: so many a second, each due at an instant that is fixed beforehand; its time
    /// counts from then.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) rate: Option<u64>,
    /// All three stores in one process.
    #[arg(long)]
    pub(crate) one_process: bool,
    /// Each client lives in the store that leads the regions that it writes to, so that nothing is sent on to another one: as many
    /// clients in each store as it leads of the regions.
    #[arg(long, conflicts_with_all = ["one_process", "rate"])]
    pub(crate) at_leaders: bool,
    /// These talk over channels (a local network), instead of QUIC.
    #[arg(long, requires = "one_process")]
    pub(crate) channels: bool,
    /// Measure what the machine can do as well, and tell what was reached as a share of it.
    #[arg(long)]
    pub(crate) limits: bool,
    /// What the clients do. Reads are of random regions, by whatever store a client lives in.
    #[arg(long, value_enum, default_value = "write")]
    pub(crate) operation: Operation,
    /// A short run for CI: other defaults for groups (48), clients (32), seconds (2) and warm-up (1).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What is written, and for how long.
#[derive(Clone, Debug, Group)]
pub(crate) struct Load {
    /// Bytes of each value; the key has eight more.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub(crate) payload: u64,
    /// Length of the measured window.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: Option<u64>,
    /// Seconds of load before it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) warmup: Option<u64>,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Proposes.
    Write,
    /// Reads what any write answered before shows.
    Linearizable,
    /// The same, by leases where the region is led.
    Lease,
    /// Reads what is no older than a second.
    Bounded,
    /// Reads what its store has.
    Local,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Bounded => "bounded",
            Self::Local => "local",
        }
    }

    /// How it reads, if it does.
    pub(crate) fn consistency(self) -> Option<Consistency> {
        match self {
            Self::Write => None,
            Self::Linearizable => Some(Consistency::Linearizable),
            Self::Lease => Some(Consistency::Lease),
            Self::Bounded => Some(Consistency::Bounded(Duration::from_secs(1))),
            Self::Local => Some(Consistency::Local),
        }
    }
}

/// What `sweep` measures: every combination.
#[derive(Clone, Debug, Group)]
pub(crate) struct Sweep {
    /// Numbers of regions.
    #[arg(long, value_delimiter = ',', default_value = "1,48,1000,10000",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: Vec<u64>,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_value = "256", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) clients: Vec<u64>,
    /// Bytes of each value.
    #[arg(long, value_delimiter = ',', default_value = "16,1024",
        value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub(crate) payload: Vec<u64>,
    /// Length of each measured window.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Seconds of load before it.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) warmup: u64,
    /// How often each size is measured; all sizes once, then all again, so that a disturbance does not hit one alone.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) rounds: u64,
    /// Where the state lies.
    #[arg(long, value_enum, default_value = "mem")]
    pub(crate) state: States,
    /// Each client lives in the store that leads the regions that it writes to.
    #[arg(long)]
    pub(crate) at_leaders: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `idle` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Idle {
    /// Regions, each with a replica on every store.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: u64,
    /// Length of the measured window.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Seconds of rest before it, once every region has a leader.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) settle: u64,
    /// Where the state lies.
    #[arg(long, value_enum, default_value = "mem")]
    pub(crate) state: State,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `density` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Density {
    /// Regions, each with a replica on every store.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    pub(crate) groups: Option<u64>,
    /// Length of the measured window.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: Option<u64>,
    /// Seconds of rest before it, once every region has been written to.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) settle: Option<u64>,
    #[command(flatten)]
    pub(crate) pairs: Pairs,
    /// A short run for CI: other defaults for groups (12), seconds (2) and settle (1).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `placement` measures. No store runs: the cluster is a model on virtual time.
#[derive(Clone, Debug, Group)]
pub(crate) struct Placement {
    /// Stores, in five zones of four racks.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(8..=10_000))]
    pub(crate) stores: u64,
    /// Regions, each with three replicas.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(16..=10_000_000))]
    pub(crate) regions: u64,
    /// What everything random derives from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End with one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `split-merge` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct SplitMerge {
    /// Regions at first, each with a replica on every store; they are split and merged in turn.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub(crate) regions: Option<u64>,
    /// How many splits, and how many merges, are measured one by one.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) changes: Option<u64>,
    /// Milliseconds after each change that still count as its.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) settle: u64,
    /// Splits, then merges, that are under way at once while as many as possible are made.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) at_once: Option<u64>,
    /// Seconds for which as many splits as possible are made, and then as many merges; 0: not at all.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) seconds: Option<u64>,
    /// KiB of data in each region at first.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub(crate) fill: Option<u64>,
    #[command(flatten)]
    pub(crate) writes: Writes,
    /// Where the state lies; the log is durable in any case.
    #[arg(long, value_enum, default_value = "sled")]
    pub(crate) state: State,
    /// A short run for CI: other defaults for regions (2), changes (4), at once (2), seconds (1), fill (64) and rate (50).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `drain` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Drain {
    /// Regions, each with replicas on the three stores of which one is emptied.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) regions: Option<u64>,
    /// Stores that hold nothing at first, and take what leaves.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=10))]
    pub(crate) spares: u64,
    /// KiB of data in each region at first.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub(crate) fill: Option<u64>,
    /// Seconds of writes before, to compare with.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) before: Option<u64>,
    /// Seconds after which it is given up.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=36_000))]
    pub(crate) within: u64,
    /// Replicas that one store receives, and sends, at once, as planning allows; default: the engine's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) replicas_at_once: Option<u64>,
    #[command(flatten)]
    pub(crate) writes: Writes,
    /// Where the state lies; the log is durable in any case.
    #[arg(long, value_enum, default_value = "sled")]
    pub(crate) state: State,
    /// A short run for CI: other defaults for regions (12), fill (4), before (1) and rate (50).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `snapshot` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Snapshot {
    /// MiB of data in the region.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) size: Option<u64>,
    /// KiB of each value of it.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) value: u64,
    /// How often the replica is added; before each time but the first it is removed again.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) rounds: Option<u64>,
    /// Seconds of writes before, to compare with.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) before: Option<u64>,
    #[command(flatten)]
    pub(crate) writes: Writes,
    /// Where the state lies; the log is durable in any case.
    #[arg(long, value_enum, default_value = "sled")]
    pub(crate) state: State,
    /// A short run for CI: other defaults for size (16), rounds (1), before (1) and rate (50).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `failover` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Failover {
    /// Regions, each with a replica on every store; the store that is killed leads about a third.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    pub(crate) groups: Option<u64>,
    /// Seconds after which a region that takes no writes is given up.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) within: u64,
    #[command(flatten)]
    pub(crate) pairs: Pairs,
    /// A short run for CI: another default for groups (12).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What `restart` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Restart {
    /// Regions, each with a replica on every store.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    pub(crate) groups: Option<u64>,
    /// Seconds of rest before each part, in which all regions fall asleep.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) settle: Option<u64>,
    /// Regions that are written to, and read from.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) probes: Option<u64>,
    #[command(flatten)]
    pub(crate) pairs: Pairs,
    /// A short run for CI: other defaults for groups (12), settle (3) and probes (2).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// The pairs that are written, and where they are kept.
#[derive(Clone, Copy, Debug, Group)]
pub(crate) struct Pairs {
    /// Bytes of each value that is written; the key has eight more.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub(crate) payload: u64,
    /// Where the state lies; the log is durable in any case.
    #[arg(long, value_enum, default_value = "sled")]
    pub(crate) state: State,
}

/// What is written beside.
#[derive(Clone, Copy, Debug, Group)]
pub(crate) struct Writes {
    /// Writes a second, each due at a time of its own whether or not the one before is done: to each region that is measured,
    /// or to all of them where these are many.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) rate: Option<u64>,
    /// Bytes of each value; the key has eight more.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    pub(crate) payload: u64,
}

/// How many workers a store has if it shares the machine with the two others.
fn workers() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    (cores / STORES).max(1)
}

/// What the stores of any benchmark are given.
#[derive(Clone, Debug, Group)]
pub(crate) struct Cluster {
    /// Threads of each store's asynchronous runtime, which carries its clients and its links.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// Workers of each store; by default the machine's cores are divided among the three stores, and each has one at least.
    #[arg(long, default_value_t = workers(), value_parser = clap::value_parser!(u64).range(0..=256))]
    pub(crate) workers: u64,
    /// Where to make the stores' directories (default: the system's place for temporary files). To mean anything, it must
    /// lie on a real disk.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// What the clients' choices derive from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How long every region may take to get a leader before the measurement goes on without.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) leaders_within: u64,
    /// End with one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Cluster {
    pub(crate) fn leaders_within(&self) -> Duration {
        Duration::from_secs(self.leaders_within)
    }
}

/// Where the state lies, for one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// In memory.
    Mem,
    /// In sled.
    Sled,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mem => "mem",
            Self::Sled => "sled",
        }
    }
}

/// Where the state lies, for all runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum States {
    Mem,
    Sled,
    Both,
}

impl States {
    pub(crate) fn runs(self) -> &'static [State] {
        match self {
            Self::Mem => &[State::Mem],
            Self::Sled => &[State::Sled],
            Self::Both => &[State::Sled, State::Mem],
        }
    }
}

/// What a parent tells a store.
#[derive(Clone, Debug, Group)]
pub(crate) struct Store {
    /// Which store this is, from 1.
    #[arg(long)]
    pub(crate) store: u64,
    /// Where certificates and data directories lie.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Where the stores listen, in order.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) addresses: Vec<SocketAddr>,
    #[arg(long)]
    pub(crate) groups: u64,
    #[arg(long)]
    pub(crate) clients: u64,
    #[arg(long)]
    pub(crate) payload: u64,
    #[arg(long, value_enum)]
    pub(crate) state: State,
    #[arg(long, value_enum, default_value = "write")]
    pub(crate) operation: Operation,
    #[arg(long)]
    pub(crate) threads: usize,
    #[arg(long)]
    pub(crate) workers: usize,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) leaders_within: u64,
    /// Clients write to regions that are led here.
    #[arg(long)]
    pub(crate) at_leaders: bool,
    /// This process is all stores.
    #[arg(long)]
    pub(crate) together: bool,
    /// They talk over channels.
    #[arg(long)]
    pub(crate) channels: bool,
    /// Writes, or reads, a second of all stores together that begin whether or not those before are answered.
    #[arg(long)]
    pub(crate) rate: Option<u64>,
    /// How many of the last stores hold nothing at first.
    #[arg(long, default_value_t = 0)]
    pub(crate) spares: usize,
    #[arg(long)]
    pub(crate) places: bool,
    #[arg(long)]
    pub(crate) keeps_leaders: bool,
    #[arg(long)]
    pub(crate) snapshot_rate: Option<u64>,
    #[arg(long)]
    pub(crate) replicas_at_once: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_make_no_sense_are_refused_by_name() {
        for (words, named) in [
            (vec!["split-merge", "--regions", "1"], "--regions"),
            (vec!["split-merge", "--changes", "0"], "--changes"),
            (vec!["split-merge", "--rate", "0"], "--rate"),
            (vec!["split-merge", "--payload", "7"], "--payload"),
            (vec!["split-merge", "--settle", "5"], "--settle"),
            (vec!["split-merge", "--state", "disk"], "--state"),
            (vec!["drain", "--spares", "0"], "--spares"),
            (vec!["drain", "--regions", "many"], "--regions"),
            (vec!["snapshot", "--size", "0"], "--size"),
            (vec!["snapshot", "--value", "2000"], "--value"),
            (vec!["snapshot", "--store", "4"], "--store"),
            (vec!["density", "--groups", "1"], "--groups"),
            (vec!["density", "--seconds", "0"], "--seconds"),
            (vec!["failover", "--groups", "2"], "--groups"),
            (vec!["failover", "--within", "0"], "--within"),
            (vec!["throughput", "--rate", "0"], "--rate"),
            (vec!["throughput", "--channels"], "--one-process"),
            (vec!["reads", "--operation", "all"], "--operation"),
            (vec!["recovery", "--size", "0"], "--size"),
            (vec!["limits", "--batch", "0"], "--batch"),
            (vec!["micro", "--check", "--renew"], "--renew"),
            (vec!["moving"], "moving"),
        ] {
            let refused = Args::try_parse_from(std::iter::once("multiraft-benches").chain(words.clone()));
            let message = refused.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(named), "{words:?}: {message}");
        }
    }

    #[test]
    fn density_and_failover_need_no_words() {
        for name in ["density", "failover"] {
            assert!(Args::try_parse_from(["multiraft-benches", name]).is_ok(), "{name}");
            assert!(Args::try_parse_from(["multiraft-benches", name, "--quick", "--groups", "100", "--json"]).is_ok());
        }
    }

    #[test]
    fn the_benchmarks_of_live_regions_need_no_words() {
        for name in ["split-merge", "drain", "snapshot"] {
            assert!(Args::try_parse_from(["multiraft-benches", name]).is_ok(), "{name}");
            assert!(Args::try_parse_from(["multiraft-benches", name, "--quick", "--json", "--rate", "9"]).is_ok());
        }
    }
}
