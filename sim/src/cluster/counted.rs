//! The planted leader that commits entries of earlier terms by counting (dissertation, section 3.6.2 and figure 3.7).
//!
//! The rule lies inside the core, so the glue does for the leader what a wrong core would do: it counts acknowledgements, and
//! what it sends on names the index that a quorum holds as committed, whatever the term there. The leader's first own entry
//! travels in the same append as older ones and would hide the difference: for a while after each election, appends are cut
//! off before it, as any append may be shortened.

use std::collections::BTreeMap;

use multiraft_raft::{AppendOutcome, Body, LogIndex, RegionId, ReplicaId, Term};
use multiraft_transport::{Beats, PeerMessage, RaftMessage};

use super::{Cluster, id_of, place_of};
use crate::plant::Plant;
use crate::schedule::{Moment, SECOND};

/// How long a leader's own entries stay with it.
const HELD_BACK: u64 = 3 * SECOND;

/// What each leader was told in its term, by region and store.
#[derive(Debug, Default)]
pub(super) struct Counting {
    leaders: BTreeMap<(RegionId, usize), Tally>,
}

#[derive(Debug)]
struct Tally {
    term: Term,
    since: Moment,
    matched: BTreeMap<ReplicaId, LogIndex>,
}

impl Counting {
    fn tally(&mut self, region: RegionId, leader: usize, term: Term, now: Moment) -> &mut Tally {
        let new = || Tally { term, since: now, matched: BTreeMap::new() };
        let tally = self.leaders.entry((region, leader)).or_insert_with(new);
        if tally.term < term {
            *tally = new();
        }
        tally
    }
}

impl Cluster {
    /// A leader hears from its followers.
    pub(super) fn count_acknowledgements(&mut self, to: usize, messages: &[PeerMessage]) {
        if self.plant != Some(Plant::CountedOldTerm) {
            return;
        }
        let now = self.schedule.now();
        for message in messages {
            let PeerMessage::Raft(raft) = message else { continue };
            let Body::AppendReply(AppendOutcome::Accepted { match_index }) = raft.message.body else { continue };
            let tally = self.counting.tally(raft.region, to, raft.message.term, now);
            if tally.term == raft.message.term {
                let matched = tally.matched.entry(raft.message.from).or_default();
                *matched = (*matched).max(match_index);
            }
        }
    }

    /// A leader sends an append: none of its own entries for a while, and the commit index that it has counted.
    pub(super) fn count_in_append(&mut self, from: usize, raft: &mut RaftMessage) {
        let (region, term, now) = (raft.region, raft.message.term, self.schedule.now());
        let Body::Append { prev_index, commit, entries, .. } = &mut raft.message.body else { return };
        let since = self.counting.tally(region, from, term, now).since;
        if !self.faults.over && now.since(since) < HELD_BACK {
            let old = entries.iter().take_while(|entry| entry.term < term).count();
            entries.truncate(old);
        }
        let reach = prev_index.plus(entries.len() as u64);
        if let Some(counted) = self.counted(region, from, term) {
            *commit = (*commit).max(counted.min(reach));
        }
    }

    /// A leader sends heartbeats: each with what it has counted and the follower has acknowledged.
    pub(super) fn count_in_beats(&self, from: usize, beats: &mut Beats) {
        for beat in &mut beats.beats {
            let Some(tally) = self.counting.leaders.get(&(beat.region, from)) else { continue };
            let matched = tally.matched.get(&beat.to).copied().unwrap_or_default();
            if let Some(counted) = self.counted(beat.region, from, beat.term) {
                beat.commit = beat.commit.max(counted.min(matched));
            }
        }
    }

    /// What a quorum holds, if that ends in an entry of a term before the leader's.
    fn counted(&self, region: RegionId, leader: usize, term: Term) -> Option<LogIndex> {
        let tally = self.counting.leaders.get(&(region, leader)).filter(|tally| tally.term == term)?;
        let own = self.shadows.durable(id_of(leader), region)?;
        let others = tally.matched.iter().filter(|(replica, _)| place_of_replica(**replica) != leader);
        let mut held: Vec<LogIndex> = others.map(|(_, matched)| *matched).chain([own.last()]).collect();
        held.sort_unstable_by(|one, other| other.cmp(one));
        let reached = held.get(self.nodes.len() / 2).copied()?;
        own.term(reached).filter(|there| *there < term).map(|_| reached)
    }
}

/// Replica and store have the same number here.
fn place_of_replica(replica: ReplicaId) -> usize {
    place_of(multiraft_raft::StoreId(replica.get()))
}
