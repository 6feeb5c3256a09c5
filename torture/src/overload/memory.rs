//! What stores hold in memory: looked at all the time, and what it may be by their configuration.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble, While};

/// How often stores are looked at.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// How large a store may be set to become. The names are those of `docs/operations.md`, where the sum is written down; what is not a
/// flag of the program is its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) workers: u64,
    pub(super) peers: u64,
    /// Replicas with writes under way.
    pub(super) regions: u64,
    /// Clients' connections to one store.
    pub(super) connections: u64,
    /// The largest value or command that clients send, in bytes.
    pub(super) command_bytes: u64,
    /// Pairs in memory, with keys; zero with sled.
    pub(super) state_bytes: u64,
}

impl Room {
    /// The most that a store may have resident, in bytes.
    pub(super) fn bound(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The same by part.
    pub(super) fn parts(&self) -> [(&'static str, u64); 6] {
        let lanes = self.workers.min(4);
        // Each of the four: mailbox, apply queue, parked requests, and a batch on its way out of a worker.
        let of_worker = 64 * MIB + 64 * MIB + 16 * MIB + 8 * MIB;
        let of_peer = lanes * 16 * MIB + 2 * 4 * MIB + 64 * MIB + 2 * 16 * MIB + 2 * 18 * MIB;
        let of_region = 16 * MIB + MIB;
        // What was read, the batch that is made of it, and the answers.
        let of_connection = 3 * (128 << 10) + 2 * self.command_bytes;
        [
            ("program, sled's pages, threads", 128 * MIB),
            ("workers: mailbox, applier's queue, parked, turn", self.workers * of_worker),
            ("log: its queue, and a write", 256 * MIB + 32 * MIB),
            ("peers: queues to and from each", self.peers * of_peer),
            ("regions: uncommitted and newest entries", self.regions * of_region),
            ("connections and pairs", self.connections * of_connection + 2 * self.state_bytes),
        ]
    }
}

/// What a store has resident, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resident {
    /// Now.
    pub(super) now: u64,
    /// At most, since its start.
    pub(super) most: u64,
}

/// Looks at a process.
///
/// # Errors
/// It is gone.
pub(super) fn resident(pid: u32) -> Outcome<Resident> {
    let file = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&file).trying(|| format!("reading {file}"))?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|text| text.parse::<u64>().ok());
        number.map(|kib| kib << 10).ok_or_else(|| Trouble::new(format!("{file} does not tell `{name}`")))
    };
    Ok(Resident { now: of("VmRSS:")?, most: of("VmHWM:")? })
}

/// A look at all stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Since the beginning.
    pub(super) at: Duration,
    /// Resident, by store, in bytes.
    pub(super) stores: Vec<u64>,
}

/// Looks at stores until it is over.
///
/// # Errors
/// One is gone.
pub(super) fn watch(pids: &[u32], begun: Instant, stop: &Stop) -> Outcome<Vec<Look>> {
    let mut looks = Vec::new();
    loop {
        let stores = pids.iter().map(|pid| resident(*pid).map(|resident| resident.now)).collect::<Outcome<_>>()?;
        looks.push(Look { at: begun.elapsed(), stores });
        if stop.within(LOOKS_EVERY) {
            return Ok(looks);
        }
    }
}

/// Watches in a thread of its own.
pub(super) fn watch_aside<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    pids: Vec<u32>,
    begun: Instant,
    stop: &'scope Stop,
) -> thread::ScopedJoinHandle<'scope, Outcome<Vec<Look>>> {
    scope.spawn(move || watch(&pids, begun, stop))
}

/// The most that each store had within a time.
pub(super) fn most(looks: &[Look], from: Duration, to: Duration) -> Vec<u64> {
    let stores = looks.first().map_or(0, |look| look.stores.len());
    let within = || looks.iter().filter(|look| (from..=to).contains(&look.at));
    (0..stores).map(|store| within().map(|look| look.stores[store]).max().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_itself() {
        let here = resident(std::process::id()).unwrap();
        assert!(here.now > MIB && here.most >= here.now, "{here:?}");
        assert!(resident(u32::MAX).is_err());
    }

    /// The harness shares nothing with what it judges, but the defaults that it counts with are to be those of the engine.
    #[test]
    fn the_defaults_are_those_of_the_engine() {
        let config = multiraft::Config::default();
        assert_eq!(
            (config.mailbox_bytes, config.apply_queue_bytes, config.send_queue_bytes),
            (64 << 20, 64 << 20, 16 << 20)
        );
        assert_eq!((config.raft.max_uncommitted_bytes, config.raft.max_cached_bytes), (16 << 20, 1 << 20));
        assert_eq!(config.state_cache_bytes, 4 << 20);
    }

    #[test]
    fn the_most_is_looked_for_within_a_time_store_by_store() {
        let look = |at: u64, stores: [u64; 2]| Look { at: Duration::from_secs(at), stores: stores.to_vec() };
        let looks = [look(1, [9, 1]), look(2, [2, 3]), look(3, [4, 2]), look(4, [1, 8])];
        assert_eq!(most(&looks, Duration::from_secs(2), Duration::from_secs(3)), [4, 3]);
        assert_eq!(most(&[], Duration::ZERO, Duration::MAX), [0; 0]);
    }
}
