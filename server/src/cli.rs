//! The command line: what each subcommand takes. What it does lies elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use multiraft::recovery::PlanId;
use serde::Deserialize;

use crate::hex;

/// Thousands of Raft groups on a few stores.
#[derive(Debug, Parser)]
#[command(name = "multiraft", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one store; with --resp it answers redis-cli and every other Redis client
    Serve(Box<ServeArgs>),
    /// Make an authority and a certificate for each store
    Certs(CertsArgs),
    /// Look at the regions and stores of a running cluster, and change them
    Ctl(CtlArgs),
    /// Start a cluster on this machine, load data into it, kill stores, and check that nothing is lost
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// Admin address of a store, any of the cluster; further ones are asked only for leaders that the first does not know
    #[arg(long, global = true, value_name = "ADDR", default_value = "127.0.0.1:7180")]
    pub(crate) admin: Vec<SocketAddr>,
    /// Print one JSON object as the last line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Let --admin name an address beyond loopback; what is sent there can be read and changed on the way
    #[arg(long, global = true)]
    pub(crate) expose: bool,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

/// Keys are written as text, or as 0x and hexadecimal digits.
#[derive(Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// All regions: range, epoch, replicas, leader
    Regions,
    /// One region, as its leader knows it
    Region {
        #[arg(value_name = "ID")]
        region: u64,
    },
    /// The stores that the asked one knows
    Stores,
    /// Split a region at keys, which ascend
    Split {
        #[arg(value_name = "ID")]
        region: u64,
        /// The first key of each new region: text, or 0x and hexadecimal digits
        #[arg(value_name = "KEY", required = true, value_parser = parse_key)]
        keys: Vec<Key>,
    },
    /// Merge a region into its neighbour
    Merge {
        #[arg(value_name = "SOURCE")]
        source: u64,
        #[arg(value_name = "INTO")]
        into: u64,
    },
    /// Replace the replica on one store by one on another, together
    Move {
        #[arg(value_name = "ID")]
        region: u64,
        #[arg(value_name = "FROM")]
        from: u64,
        #[arg(value_name = "TO")]
        to: u64,
    },
    /// Add a voter on a store; it votes once it has caught up
    Add {
        #[command(flatten)]
        replica: ReplicaArgs,
        /// Add a learner instead: it receives everything and does not vote
        #[arg(long)]
        learner: bool,
    },
    /// Remove the replica on a store
    Remove(ReplicaArgs),
    /// Make the learner on a store a voter, once it has caught up
    Promote(ReplicaArgs),
    /// Make the voter on a store a learner
    Demote(ReplicaArgs),
    /// Make a store the leader of a region
    Transfer(ReplicaArgs),
    /// Compare the states of a region's replicas at one point of its log; one that differs from a quorum is fenced. Fails if any
    /// replica differs or is fenced
    Check {
        #[arg(value_name = "ID", required_unless_present = "all")]
        region: Option<u64>,
        /// Check all regions
        #[arg(long, conflicts_with = "region")]
        all: bool,
        /// Replace the replicas that are fenced by new ones on their stores, and check again
        #[arg(long)]
        repair: bool,
    },
    /// Bring back regions that have lost their quorum for good, on stopped stores; read docs/recovery.md first
    Recover {
        #[command(subcommand)]
        command: RecoverCommand,
    },
    /// Move everything off a store: its leaderships first, then its replicas to stores that lack them
    Drain {
        #[arg(value_name = "STORE")]
        store: u64,
        /// Let a store take part again that was to be emptied and has not left
        #[arg(long)]
        cancel: bool,
    },
    /// Make a store known to the cluster, or its new address, weight and labels; with --placement stores do that themselves
    Join {
        #[arg(value_name = "STORE")]
        store: u64,
        /// Where the other stores reach it
        #[arg(long, value_name = "ADDR")]
        address: String,
        /// How much it can bear compared with the others
        #[arg(long, value_name = "N", default_value_t = 1)]
        weight: u32,
        /// Where it stands, as zone=a or rack=7; once for each
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// Note that a drained store is gone for good; its number is not used again
    Leave {
        #[arg(value_name = "STORE")]
        store: u64,
    },
}

/// The steps of a recovery, in their order. All surviving stores are stopped meanwhile.
#[derive(Debug, Subcommand)]
pub(crate) enum RecoverCommand {
    /// Write down what there is on a stopped store; changes nothing
    Collect {
        /// The store's data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// File to write, which must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Say for each region what would be kept and what may be lost; changes nothing
    Plan {
        /// The stores that will never come back
        #[arg(long, value_name = "N,N", required = true, value_delimiter = ',')]
        dead: Vec<u64>,
        /// Who recovers, when and why; kept in every recovered region
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Make empty regions for keys that no region owns any more: what was written there is lost for good
        #[arg(long)]
        fill_gaps: bool,
        /// File to write, which must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// What was collected, of every surviving store
        #[arg(value_name = "FILE", required = true)]
        surveys: Vec<PathBuf>,
    },
    /// Show a plan again
    Show {
        #[arg(value_name = "PLAN")]
        plan: PathBuf,
    },
    /// Carry a plan out on one stopped store; to be done on each that it was made from
    Apply {
        /// The store's data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// The plan's id, as `plan` has shown it; without it nothing is done
        #[arg(long, value_name = "ID")]
        confirm: Option<PlanId>,
        /// Go on although some keys are without a region, or some regions without service, afterwards
        #[arg(long)]
        accept_gaps: bool,
    },
    /// Check that a plan was carried out on every store that it was made from
    Verify {
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// The data directories of all surviving stores
        #[arg(value_name = "DIR", required = true)]
        dirs: Vec<PathBuf>,
    },
}

/// A region's replica, by the store that it is on.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ReplicaArgs {
    #[arg(value_name = "ID")]
    pub(crate) region: u64,
    #[arg(value_name = "STORE")]
    pub(crate) store: u64,
}

/// A key of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Bytes);

#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// Directory to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Number of stores, which are then called 1 to N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) stores: u64,
}

/// What a store is told on the command line; every flag may stand in the file of --config instead.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// TOML file with any of these settings, named as the flags are; flags go before it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// This store has lost its data directory: begin anew under the same number, without what its replicas were. Once only
    #[arg(long, conflicts_with = "bootstrap_regions")]
    pub(crate) rejoin: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// The settings of a store, each of which may be missing in one place and given in another.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// This store's number
    #[arg(long, value_name = "N")]
    pub(crate) store: Option<u64>,
    /// Data directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Address that the other stores reach this one at (UDP)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Another store and its address, once for each
    #[arg(long = "peer", value_name = "N=ADDR")]
    #[serde(default, rename = "peer")]
    pub(crate) peers: Vec<String>,
    /// Certificate of the cluster's authority (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// This store's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// This store's key (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Address to speak the Redis protocol at (TCP)
    #[arg(long, value_name = "ADDR")]
    pub(crate) resp: Option<SocketAddr>,
    /// Address of the admin endpoint (HTTP); loopback only
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Address of the Prometheus endpoint (HTTP); loopback only
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Let --admin and --metrics listen beyond loopback; they ask nobody who they are
    #[arg(long)]
    #[serde(default)]
    pub(crate) expose: bool,
    /// Where the pairs are kept: on disk, or in memory beside the durable log
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) state: Option<StateChoice>,
    /// A new cluster: cut the key space into N regions, the same on every store
    #[arg(long, value_name = "N")]
    pub(crate) bootstrap_regions: Option<usize>,
    /// File whose keys' quantiles become the regions' boundaries; a tab ends a key
    #[arg(long, value_name = "FILE")]
    pub(crate) bootstrap_keys: Option<PathBuf>,
    /// How long a command may take before it is answered with an error
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "duration_from_text")]
    pub(crate) request_timeout: Option<Duration>,
    /// What reads rest on: a round trip to a quorum, or, at a region's leader, clocks that drift by less than one per cent
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) reads: Option<ReadsChoice>,
    /// Cluster id, 32 hexadecimal digits; by default it follows from the authority's certificate
    #[arg(long, value_name = "ID")]
    pub(crate) cluster: Option<String>,
    /// Most Redis connections at once
    #[arg(long, value_name = "N")]
    pub(crate) max_connections: Option<usize>,
    /// Most bytes of one command
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_command_bytes: Option<usize>,
    /// Worker threads; by default as many as there are cores
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Plan where replicas and leaders are, and where regions begin and end; the same on every store
    #[arg(long)]
    #[serde(default)]
    pub(crate) placement: bool,
    /// With --placement: how many voters a region has
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<usize>,
    /// With --placement: how often stores report, and a round of planning is made
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "duration_from_text")]
    pub(crate) placement_interval: Option<Duration>,
    /// With --placement: how long a store has to be silent before its replicas are replaced
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "duration_from_text")]
    pub(crate) repair_after: Option<Duration>,
    /// With --placement: how long stores have to be uneven before replicas and leaders move
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "duration_from_text")]
    pub(crate) balance_after: Option<Duration>,
    /// With --placement: split regions that hold more
    #[arg(long, value_name = "BYTES")]
    pub(crate) split_bytes: Option<u64>,
    /// With --placement: split regions in which more keys are written a second
    #[arg(long, value_name = "N")]
    pub(crate) split_writes: Option<u64>,
    /// With --placement: split regions in which more keys are read a second
    #[arg(long, value_name = "N")]
    pub(crate) split_reads: Option<u64>,
    /// With --placement: split nothing once there are so many regions
    #[arg(long, value_name = "N")]
    pub(crate) regions_max: Option<usize>,
    /// With --placement: merge only regions that hold less, 0 for none
    #[arg(long, value_name = "BYTES")]
    pub(crate) merge_bytes: Option<u64>,
    /// With --placement: merge only regions in which fewer keys are written and read a second
    #[arg(long, value_name = "N")]
    pub(crate) merge_load: Option<u64>,
    /// With --placement: merge only regions that have been so small and idle for so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(default, deserialize_with = "duration_from_text")]
    pub(crate) merge_after: Option<Duration>,
    /// With --placement: how fast the store reads to find out how large regions are
    #[arg(long, value_name = "BYTES_PER_S")]
    pub(crate) survey_rate: Option<u64>,
    /// With --placement: where the store stands, as zone=a or rack=7; once for each
    #[arg(long = "label", value_name = "NAME=VALUE")]
    #[serde(default, rename = "label")]
    pub(crate) labels: Vec<String>,
    /// With --placement: how much the store can bear compared with the others
    #[arg(long, value_name = "N")]
    pub(crate) weight: Option<u32>,
}

/// What reads rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadsChoice {
    /// A round trip to a quorum, which all reads of a moment share
    Linearizable,
    /// The leader's lease, without a round trip: right only where clocks drift by less than one per cent
    Lease,
}

/// Which state store holds the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StateChoice {
    /// sled, on disk
    Sled,
    /// Memory; filled again from log and peers after a restart
    Mem,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of stores; by default 4, or 3 with --presplit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(3..=9))]
    pub(crate) stores: Option<u64>,
    /// Number of regions; by default 100, or 1000 with --presplit, which more than 100 imply
    #[arg(long, value_name = "N")]
    pub(crate) regions: Option<usize>,
    /// Begin with all regions on all stores, instead of with one region that splits, moves and merges
    #[arg(long)]
    presplit: bool,
    /// How long to write, at least, once the regions are made; the whole data set is written in any case
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub(crate) seconds: u64,
    /// Directory to work in, empty or not there; by default a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the directory as it is at the end
    #[arg(long)]
    pub(crate) keep: bool,
    /// File to load instead of the bundled data set: a key, a tab and a value a line
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the stores keep the pairs
    #[arg(long, value_enum, value_name = "KIND", default_value = "sled")]
    pub(crate) state: StateChoice,
}

/// The demo grows to no more regions than these; with more it begins with all of them.
const GROWN_MAX: usize = 100;

impl DemoArgs {
    /// Whether all regions are there from the start: if that was asked for, or if there are to be so many that growing to them
    /// one by one would take longer than anybody watches.
    pub(crate) fn presplit(&self) -> bool {
        self.presplit || self.regions.is_some_and(|regions| regions > GROWN_MAX)
    }

    pub(crate) fn stores(&self) -> u64 {
        self.stores.unwrap_or(if self.presplit() { 3 } else { 4 })
    }

    pub(crate) fn regions(&self) -> usize {
        self.regions.unwrap_or(if self.presplit() { 1000 } else { 100 })
    }
}

/// A key: text as it is, or `0x` and hexadecimal digits.
fn parse_key(text: &str) -> Result<Key, String> {
    match text.strip_prefix("0x") {
        None => Ok(Key(Bytes::copy_from_slice(text.as_bytes()))),
        Some(digits) => hex::decode(digits)
            .map(Key)
            .ok_or_else(|| "behind 0x comes an even number of hexadecimal digits".to_owned()),
    }
}

/// A name and a value.
fn parse_label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    parts.map(owned).ok_or_else(|| "write it as zone=a".to_owned())
}

/// A number and a unit: `500ms`, `5s`, `2m`; without a unit, seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("write it as 500ms, 5s or 2m".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "write it as 500ms, 5s or 2m".to_owned())? * scale;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration >= Duration::from_millis(1) => Ok(duration),
        _ => Err("it must be at least 1ms".to_owned()),
    }
}

fn duration_from_text<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(input)?;
    parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn keys_are_text_or_hexadecimal() {
        assert_eq!(parse_key("key:1"), Ok(Key(Bytes::from_static(b"key:1"))));
        assert_eq!(parse_key("0x00Ff"), Ok(Key(Bytes::from_static(b"\x00\xff"))));
        assert_eq!(parse_key("x0"), Ok(Key(Bytes::from_static(b"x0"))));
        for text in ["0x0", "0xzz", "0x00 "] {
            assert!(parse_key(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        for text in ["", "s", "5h", "0s", "-1s", "x", "1e99m"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
