//! Stores that are restarted, one after the other, as those of another release: they speak version 1 of the wire format alone, and once all do,
//! version 2 again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use super::processes::{self, Dead};
use crate::cluster::{Cluster, Status};
use crate::stop::look_again;
use crate::trouble::{Outcome, Trouble};

/// Names the newest version that a store speaks; without, it is the newest that there is.
const ORDER: &str = "MULTIRAFT_TORTURE_WIRE";
const OLD: u16 = 1;
const NEW: u16 = 2;
/// How long the others may take to reach a store that has come back. They may be dead or cut off, so that is waited for and no more.
const LINKED_WITHIN: Duration = Duration::from_secs(5);
/// So often both versions must be in use at a time, and at least once this has to have been seen.
const MIXTURES_MIN: u32 = 2;

/// How far the stores are on the way from one version to the other.
pub(super) struct Rollout {
    /// What all are to speak in the end.
    to: u16,
    /// How often links of both versions were to be seen.
    due: u32,
    /// They were seen.
    seen: bool,
}

/// A store that is to come back in another version.
pub(super) struct Restarted {
    at: usize,
    dead: Dead,
}

/// The newest version that a store speaks when it is started.
fn newest(cluster: &Cluster, at: usize) -> u16 {
    if cluster.stores[at].environment.contains_key(OsStr::new(ORDER)) { OLD } else { NEW }
}

/// The version in which two stores talk.
fn common(cluster: &Cluster, at: usize, peer: u64) -> u16 {
    let peer = cluster.stores.iter().position(|store| store.place.store == peer);
    peer.map_or(NEW, |peer| newest(cluster, peer)).min(newest(cluster, at))
}

impl Rollout {
    /// All speak the newest.
    pub(super) fn new() -> Self {
        Self { to: OLD, due: 0, seen: false }
    }

    /// Whether it may be this store's turn.
    pub(super) fn is_due(&self, cluster: &Cluster, at: usize) -> bool {
        newest(cluster, at) != self.to
    }

    /// When all have come to one version, they are to go back.
    pub(super) fn turn_round(&mut self, cluster: &Cluster) {
        if !(0..cluster.stores.len()).any(|at| self.is_due(cluster, at)) {
            self.to = if self.to == OLD { NEW } else { OLD };
        }
    }

    /// Stops a store in order, which is to come back in the version that all go to.
    pub(super) fn stop(&self, cluster: &mut Cluster, at: usize) -> Outcome<(Restarted, String)> {
        let (dead, how) = processes::stop(cluster, &[at])?;
        let environment = &mut cluster.stores[at].environment;
        if self.to == OLD {
            environment.insert(ORDER.into(), OLD.to_string().into());
        } else {
            environment.remove(OsStr::new(ORDER));
        }
        Ok((Restarted { at, dead }, format!("{how}, to version {}", self.to)))
    }

    /// Fails if both versions should have been in use at a time, and never were.
    pub(super) fn check(&self) -> Outcome<()> {
        if self.due >= MIXTURES_MIN && !self.seen {
            let due = self.due;
            return Err(Trouble::new(format!("{due} times links of both versions were due, and none were seen")));
        }
        Ok(())
    }
}

impl Restarted {
    /// Starts the store in its version, which it has to tell, and its links. `None`: nobody has reached it.
    pub(super) fn start(self, cluster: &mut Cluster, rollout: &mut Rollout) -> Outcome<Option<String>> {
        let at = self.at;
        let started = self.dead.start(cluster)?;
        let of_new = (0..cluster.stores.len()).filter(|at| newest(cluster, *at) == NEW).count();
        let is_mixed = (2..cluster.stores.len()).contains(&of_new);
        rollout.due += u32::from(is_mixed);
        let begun = Instant::now();
        loop {
            let own = links(cluster, at, &cluster.admin(at).status()?)?;
            let others = (0..cluster.stores.len()).filter(|other| *other != at);
            // What others have may be what is left of an earlier life of a store.
            let others = others.filter_map(|other| links(cluster, other, &cluster.admin(other).status().ok()?).ok());
            let all: BTreeSet<_> = own.iter().copied().chain(others.flatten()).collect();
            let count = |version| all.iter().filter(|link| link.2 == version).count();
            let (of_1, of_2) = (count(OLD), count(NEW));
            if is_mixed && of_1 > 0 && of_2 > 0 {
                rollout.seen = true;
            } else if (is_mixed || own.is_empty()) && look_again(begun, LINKED_WITHIN) {
                continue;
            }
            let told = format!("store {} speaks {}, with {} others", at + 1, newest(cluster, at), own.len());
            let seen = format!("links in the cluster: {of_1} of version 1, {of_2} of version 2");
            return Ok((!own.is_empty()).then(|| format!("{started}; {told}; {seen}")));
        }
    }
}

/// The links that a store tells of: between which, the lower number first, and in which version.
fn links(cluster: &Cluster, at: usize, status: &Status) -> Outcome<Vec<(u64, u64, u16)>> {
    let (store, newest) = (status.store, newest(cluster, at));
    if status.wire_version != Some(newest) {
        let found = status.wire_version;
        return Err(Trouble::new(format!("store {store} was to speak version {newest}, and says {found:?}")));
    }
    let links = status.peers.iter().filter_map(|peer| Some((peer.store, peer.wire_version?)));
    let links = links.map(|(peer, version)| {
        let expected = common(cluster, at, peer);
        if version == expected {
            return Ok((store.min(peer), store.max(peer), version));
        }
        Err(Trouble::new(format!("stores {store} and {peer} talk in version {version}, where {expected} was due")))
    });
    links.collect()
}
