//! The command line of the benchmark.

use std::path::PathBuf;

use clap::Args as Group;

/// What `micro` counts.
#[derive(Clone, Debug, Group)]
pub(crate) struct Micro {
    /// Fail if a path takes 5 % more instructions than the baseline says, or more.
    #[arg(long, conflicts_with = "renew")]
    pub(crate) check: bool,
    /// Make what is counted the baseline.
    #[arg(long)]
    pub(crate) renew: bool,
    /// Only these paths.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// The baseline.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json"))]
    pub(crate) baseline: PathBuf,
    /// Succeed without counting where there is no valgrind.
    #[arg(long)]
    pub(crate) without_valgrind: bool,
    /// A short run for CI: few operations of each path, to be compared only with a baseline of such.
    #[arg(long)]
    pub(crate) quick: bool,
    /// What everything random derives from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where to make the stores' directories (default: the system's place for temporary files).
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// End with one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `micro` tells its processes.
#[derive(Clone, Debug, Group)]
pub(crate) struct MicroPath {
    pub(crate) path: String,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) quick: bool,
    #[arg(long)]
    pub(crate) dir: PathBuf,
}
