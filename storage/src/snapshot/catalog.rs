//! Which container holds which snapshot, and which containers nobody needs. Pure: no I/O.
//!
//! The newest snapshot of a region is the one of the highest index, and among equals of the highest stamp, that no removal of
//! a higher stamp stands against. An entry is *live* while it decides that: the newest snapshot, and a removal that still keeps
//! an older entry from coming back. A container without live entries can go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use multiraft_raft::RegionId;

use super::format::{EntryKind, IndexEntry, Section};

/// The number in a container's name.
pub(super) type ContainerId = u64;

/// Where a region has entries, ascending by stamp and container.
type Entries = BTreeMap<(u64, ContainerId), EntryKind>;

#[derive(Debug, Default)]
pub(super) struct Catalog {
    containers: BTreeMap<ContainerId, Held>,
    regions: BTreeMap<RegionId, Entries>,
    /// Containers that may have become dead, to be looked at again.
    suspects: BTreeSet<ContainerId>,
}

/// A container file.
#[derive(Clone, Debug)]
struct Held {
    len: u64,
    entries: Vec<IndexEntry>,
    /// Invariant: the entries before this one are dead. What is dead stays so, so each is looked at once.
    live_from: usize,
    pin: Pin,
}

/// Keeps a container's file from being removed while there is a clone of it.
pub(super) type Pin = Arc<()>;

/// A region's newest snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) container: ContainerId,
    pub(super) stamp: u64,
    pub(super) section: Section,
}

/// A container that is worth rewriting: what of it has to be kept.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) container: ContainerId,
    pub(super) live: Vec<IndexEntry>,
    pub(super) pin: Pin,
}

impl Catalog {
    pub(super) fn insert(&mut self, id: ContainerId, len: u64, entries: Vec<IndexEntry>) {
        for entry in &entries {
            let held = self.regions.entry(entry.region).or_default();
            held.insert((entry.stamp, id), entry.what);
            self.suspects.extend(held.keys().map(|(_, container)| *container));
        }
        self.suspects.insert(id);
        self.containers.insert(id, Held { len, entries, live_from: 0, pin: Arc::new(()) });
    }

    /// The container's file is gone.
    pub(super) fn forget(&mut self, id: ContainerId) {
        self.suspects.remove(&id);
        let Some(held) = self.containers.remove(&id) else { return };
        for entry in held.entries {
            let Some(others) = self.regions.get_mut(&entry.region) else { continue };
            others.remove(&(entry.stamp, id));
            // A removal elsewhere may have stood against this entry only.
            self.suspects.extend(others.keys().map(|(_, container)| *container));
            if others.is_empty() {
                self.regions.remove(&entry.region);
            }
        }
    }

    /// Has the file stay. Answers nothing if there is none.
    pub(super) fn pin(&self, id: ContainerId) -> Option<Pin> {
        self.containers.get(&id).map(|held| Arc::clone(&held.pin))
    }

    /// To be looked at again: its file could not be removed.
    pub(super) fn suspect(&mut self, id: ContainerId) {
        self.suspects.insert(id);
    }

    pub(super) fn newest(&self, region: RegionId) -> Option<Newest> {
        newest(self.regions.get(&region)?)
    }

    pub(super) fn all_newest(&self) -> impl Iterator<Item = (RegionId, Newest)> + '_ {
        self.regions.iter().filter_map(|(region, held)| Some((*region, newest(held)?)))
    }

    /// Whether anything of the region is in any file.
    pub(super) fn knows(&self, region: RegionId) -> bool {
        self.regions.contains_key(&region)
    }

    /// A number above every stamp.
    pub(super) fn next_stamp(&self) -> u64 {
        self.regions
            .values()
            .filter_map(|held| held.last_key_value())
            .map(|((stamp, _), _)| stamp + 1)
            .max()
            .unwrap_or(1)
    }

    /// The containers without live entries that nobody reads.
    pub(super) fn take_dead(&mut self) -> Vec<ContainerId> {
        let (mut dead, mut pinned) = (Vec::new(), BTreeSet::new());
        for id in std::mem::take(&mut self.suspects) {
            let Some(held) = self.containers.get_mut(&id) else { continue };
            let is_dead = |entry: &IndexEntry| !is_live(&self.regions, id, entry);
            held.live_from += held.entries[held.live_from..].iter().take_while(|entry| is_dead(entry)).count();
            if held.live_from < held.entries.len() {
                continue;
            }
            if Arc::strong_count(&held.pin) > 1 {
                pinned.insert(id);
            } else {
                dead.push(id);
            }
        }
        self.suspects = pinned;
        dead
    }

    /// Which containers to rewrite into one, oldest first, with at most about `bytes_max` of live data: those that are dead
    /// by half, and small ones once there are more than `small_max` of them.
    pub(super) fn worth_rewriting(&self, bytes_max: u64, small_bytes: u64, small_max: usize) -> Vec<Rewrite> {
        let small_count = self.containers.values().filter(|held| held.len < small_bytes).count();
        let (mut chosen, mut bytes) = (Vec::new(), 0);
        for (id, held) in &self.containers {
            let live: Vec<IndexEntry> =
                held.entries.iter().filter(|entry| is_live(&self.regions, *id, entry)).copied().collect();
            let live_bytes: u64 = live.iter().map(live_bytes).sum();
            let is_sparse = live_bytes < held.len / 2 && live.len() < held.entries.len();
            let is_one_of_many = small_count > small_max && held.len < small_bytes;
            if live.is_empty() || (!is_sparse && !is_one_of_many) {
                continue;
            }
            if bytes > 0 && bytes + live_bytes > bytes_max {
                break;
            }
            bytes += live_bytes;
            chosen.push(Rewrite { container: *id, live, pin: Arc::clone(&held.pin) });
        }
        chosen
    }
}

fn is_live(regions: &BTreeMap<RegionId, Entries>, id: ContainerId, entry: &IndexEntry) -> bool {
    let Some(held) = regions.get(&entry.region) else { return false };
    match entry.what {
        EntryKind::Snapshot(_) => {
            newest(held).is_some_and(|newest| (newest.container, newest.stamp) == (id, entry.stamp))
        }
        EntryKind::Removed => held.first_key_value().is_some_and(|((stamp, _), _)| *stamp < entry.stamp),
    }
}

fn newest(held: &Entries) -> Option<Newest> {
    let mut newest: Option<Newest> = None;
    for ((stamp, container), what) in held {
        match what {
            EntryKind::Removed => newest = None,
            EntryKind::Snapshot(section) if newest.is_none_or(|other| other.section.index <= section.index) => {
                newest = Some(Newest { container: *container, stamp: *stamp, section: *section });
            }
            EntryKind::Snapshot(_) => (),
        }
    }
    newest
}

fn live_bytes(entry: &IndexEntry) -> u64 {
    match entry.what {
        EntryKind::Snapshot(section) => section.bytes,
        EntryKind::Removed => 0,
    }
}
