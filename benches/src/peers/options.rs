//! The command line of the benchmark.

use std::path::PathBuf;

use clap::{Args as Group, ValueEnum};

use crate::args::{Cluster, Load};

/// What `peers` measures.
#[derive(Clone, Debug, Group)]
pub(crate) struct Peers {
    /// Numbers of groups, each with a replica on each of three stores; each peer is measured with each.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: Option<Vec<u64>>,
    /// Clients; each writes to a random group and waits until that is committed and applied. 0: only what idle groups cost.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    pub(crate) clients: Option<u64>,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Seconds of rest after the first write to each group.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) settle: Option<u64>,
    /// Seconds after that in which the processor time of idle groups is measured.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) idle: Option<u64>,
    /// How often each peer is measured with each number of groups; all in turn, then all again.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) rounds: Option<u64>,
    /// Who is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = PeerKind::ALL)]
    pub(crate) only: Vec<PeerKind>,
    /// A short run: other defaults for groups (12), clients (16), seconds, warm-up, settle, idle and rounds (1).
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerKind {
    /// Over QUIC, as between processes.
    Multiraft,
    /// Over channels, as the others.
    MultiraftChannels,
    RaftRs,
    /// openraft's stable line, 0.9.
    Openraft,
    /// openraft's next line, of which there are pre-releases only.
    #[value(name = "openraft-0.10")]
    OpenraftNext,
}

impl PeerKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Multiraft, Self::MultiraftChannels, Self::RaftRs, Self::Openraft, Self::OpenraftNext];

    /// As on the command line and in the figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Multiraft => "multiraft",
            Self::MultiraftChannels => "multiraft-channels",
            Self::RaftRs => "raft-rs",
            Self::Openraft => "openraft",
            Self::OpenraftNext => "openraft-0.10",
        }
    }

    /// The packages that it is made of, each with the beginning of its version.
    pub(crate) fn packages(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Multiraft | Self::MultiraftChannels => &[("multiraft", "")],
            Self::RaftRs => &[("raft", ""), ("raft-engine", "")],
            Self::Openraft => &[("openraft", "0.9.")],
            Self::OpenraftNext => &[("openraft", "0.10.")],
        }
    }
}

/// What the process of one peer is told; times are in seconds.
#[derive(Clone, Debug, Group)]
pub(crate) struct Peer {
    #[arg(long, value_enum)]
    pub(crate) kind: PeerKind,
    /// Where logs lie; it exists and is empty.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) groups: u64,
    #[arg(long)]
    pub(crate) clients: u64,
    #[arg(long)]
    pub(crate) payload: u64,
    #[arg(long)]
    pub(crate) seconds: u64,
    #[arg(long)]
    pub(crate) warmup: u64,
    #[arg(long)]
    pub(crate) settle: u64,
    #[arg(long)]
    pub(crate) idle: u64,
    #[arg(long)]
    pub(crate) threads: usize,
    #[arg(long)]
    pub(crate) workers: usize,
    #[arg(long)]
    pub(crate) seed: u64,
}
