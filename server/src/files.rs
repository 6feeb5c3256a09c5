//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is asked for where the system sets no bound: every connection that `serve` admits by default, several times over.
const WANTED: u64 = 1 << 16;

/// Raises the soft limit as far as the hard one goes. Most systems start programs with 1,024, fewer than the connections
/// that a store admits.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let reachable = limit.maximum.map_or(WANTED, |hard| hard.min(WANTED));
    if limit.current.is_some_and(|soft| soft < reachable)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files stays low: raise it with ulimit -n");
    }
}
