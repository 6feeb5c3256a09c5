//! When the heartbeats of a worker's groups leave.

use multiraft_raft::Time;
use multiraft_transport::Beat;

use crate::logic::worker::Worker;
use crate::logic::{BeatShare, TurnOutput};

/// So many groups of a worker may have heartbeats due in one interval: with the default interval 2,560 heartbeats a second go to a peer of all of them,
/// also of ten times as many groups where these can do with fewer.
pub const BEATS_AT_ONCE: usize = 256;

impl<R> Worker<R> {
    /// For how many intervals groups that are written to put their heartbeats off: none while few groups have any, and never so many
    /// that a leader would look for its quorum less than once an election timeout.
    pub(super) fn beat_spacing(&self) -> u32 {
        let raft = &self.config.raft;
        let fitting = raft.election_timeout_min.as_nanos() / raft.heartbeat_interval.as_nanos();
        let wanted = self.deadlines.len() / self.config.beats_at_once.max(1);
        u32::try_from(wanted).unwrap_or(u32::MAX).min(u32::try_from(fitting).unwrap_or(u32::MAX).saturating_sub(1))
    }

    /// Hands this worker's heartbeats in, once an interval, when all groups that were due have had their turn.
    pub(super) fn hand_in_beats(&mut self, now: Time, out: &mut TurnOutput<R>) {
        // What is due has its turn first, but no longer than one more interval: under overload beats leave all the same.
        let overdue = now >= self.next_beat.plus(self.config.raft.heartbeat_interval);
        if now < self.next_beat || (self.deadlines.next() <= now && !overdue) {
            return;
        }
        let tick = self.next_beat;
        self.next_beat = now.next_multiple(self.config.raft.heartbeat_interval);
        let worker = self.config.worker;
        let prune = std::mem::take(&mut self.removed);
        let (slots, regions) = (&self.slots, &self.regions);
        let is_here = |beat: &Beat| {
            let region = slots.get(&beat.region).and_then(|key| regions.see(*key));
            region.is_some_and(|region| region.group.id() == beat.from)
        };
        for peer in self.peers.iter_mut() {
            let mut beats = std::mem::take(&mut peer.beats);
            if prune {
                // A replica that is gone says nothing any more.
                beats.retain(is_here);
            }
            self.counters.beats += beats.len() as u64;
            // The last share is empty: whoever puts them together waits for no more.
            if !beats.is_empty() || peer.beat_last {
                peer.beat_last = !beats.is_empty();
                out.beats.push(BeatShare { to: peer.store, worker, tick, beats });
            }
        }
    }
}
