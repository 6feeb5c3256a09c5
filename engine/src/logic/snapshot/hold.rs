//! What a leader's log keeps for followers that get a snapshot: what comes after it, so that the follower goes on with appends
//! and does not need the next snapshot at once. Bounded: a follower that never finishes holds nothing for ever.

use std::collections::{BTreeMap, BTreeSet};

use multiraft_raft::{LogIndex, ReplicaId, Time};
use multiraft_router::SlotKey;

use super::queue::Wanted;
use crate::logic::worker::Worker;

/// The places up to which logs may be cut.
#[derive(Debug, Default)]
pub(super) struct Holds {
    held: BTreeMap<Wanted, Hold>,
    /// When some of them end, if nothing happens before.
    ends: BTreeSet<(Time, Wanted)>,
}

#[derive(Debug)]
struct Hold {
    /// What the snapshot stands for.
    index: LogIndex,
    /// Committed since, in bytes.
    bytes: u64,
    /// When it ends by itself; `None` while the transfer is under way.
    until: Option<Time>,
}

impl Holds {
    /// A transfer of a snapshot of `index` begins, or is taken up again: then what it has held so far still counts.
    pub(super) fn begin(&mut self, wanted: Wanted, index: LogIndex) {
        let hold = self.held.entry(wanted).or_insert(Hold { index, bytes: 0, until: None });
        if hold.index != index {
            (hold.index, hold.bytes) = (index, 0);
        }
        hold.until = None;
    }

    /// The transfer is over; the follower may still need some time.
    pub(super) fn keep_until(&mut self, wanted: Wanted, until: Time) {
        if let Some(hold) = self.held.get_mut(&wanted) {
            hold.until = Some(until);
            self.ends.insert((until, wanted));
        }
    }

    pub(super) fn end(&mut self, wanted: Wanted) {
        self.held.remove(&wanted);
    }

    pub(super) fn end_region(&mut self, key: SlotKey) {
        let of_region: Vec<Wanted> = self.of(key).map(|(wanted, _)| wanted).collect();
        for wanted in of_region {
            self.held.remove(&wanted);
        }
    }

    pub(super) fn expire(&mut self, now: Time) {
        while let Some((until, wanted)) = self.ends.first().copied().filter(|(until, _)| *until <= now) {
            self.ends.pop_first();
            if self.held.get(&wanted).is_some_and(|hold| hold.until == Some(until)) {
                self.held.remove(&wanted);
            }
        }
    }

    /// A region has committed more.
    fn on_committed(&mut self, key: SlotKey, bytes: u64) {
        for (_, hold) in self.held.range_mut((key, ReplicaId(0))..=(key, ReplicaId(u64::MAX))) {
            hold.bytes += bytes;
        }
    }

    fn of(&self, key: SlotKey) -> impl Iterator<Item = (Wanted, &Hold)> {
        self.held.range((key, ReplicaId(0))..=(key, ReplicaId(u64::MAX))).map(|(wanted, hold)| (*wanted, hold))
    }
}

impl<R> Worker<R> {
    /// A region has committed entries of so many bytes.
    pub(in crate::logic) fn note_committed(&mut self, key: SlotKey, bytes: usize) {
        if !self.transfers.holds.held.is_empty() {
            self.transfers.holds.on_committed(key, bytes as u64);
        }
    }

    /// How far a log may be cut that is to be cut up to `upto`. Who has held too much holds no longer.
    pub(in crate::logic) fn hold_log(&mut self, key: SlotKey, upto: LogIndex) -> LogIndex {
        let region = self.region(key);
        let (limits, last) = (&self.config.snapshots, region.group.last_index());
        let (mut allowed, mut broken) = (upto, Vec::new());
        for (wanted, hold) in self.transfers.holds.of(key) {
            if hold.bytes > limits.hold_bytes || last.since(hold.index) > limits.hold_entries {
                broken.push(wanted);
                continue;
            }
            // What the follower has acknowledged after its snapshot it does not need any more.
            let matched = region.group.match_index(wanted.1).unwrap_or(LogIndex::ZERO);
            allowed = allowed.min(hold.index.max(matched));
        }
        for wanted in broken {
            self.transfers.holds.end(wanted);
        }
        allowed
    }
}
