//! Heartbeats of all awake groups, merged into one message per peer and interval; and the sorting of what arrives by worker.
//!
//! Each worker gathers the beats of its own groups and hands in its share once an interval, while it has any, and once more
//! when it has none. [`BeatMerger`] puts the shares of all workers together that had beats the last time. A worker that is late
//! holds the message back for at most one further interval: the next share of any other worker sends what is there.

use std::collections::BTreeMap;

use multiraft_raft::{Incarnation, RegionId, StoreId, Time};
use multiraft_transport::{Beat, BeatReplies, Beats, PeerMessage};

/// One worker's part of an interval's heartbeats for one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeatShare {
    /// The peer.
    pub to: StoreId,
    /// The worker.
    pub worker: usize,
    /// The moment on the grid that it belongs to.
    pub tick: Time,
    /// The beats of the groups that this worker leads and that have a replica there.
    pub beats: Vec<Beat>,
}

/// Puts the workers' shares together, and keeps the store's own numbers in the heartbeat.
#[derive(Debug)]
pub struct BeatMerger {
    incarnation: Incarnation,
    peers: BTreeMap<StoreId, PeerBeats>,
    /// Group heartbeats sent.
    beats_sent: u64,
    /// Messages that carried them.
    messages_sent: u64,
}

#[derive(Debug, Default)]
struct PeerBeats {
    tick: Time,
    /// Which workers have handed in their share, by bit.
    shares: u128,
    /// Which workers have beats for the peer, as far as is known: those whose last share had some.
    busy: u128,
    beats: Vec<Beat>,
    sequence: u64,
}

impl BeatMerger {
    /// A merger for a store with this many workers, at most 128.
    #[must_use]
    pub fn new(workers: usize, incarnation: Incarnation) -> Self {
        assert!((1..=128).contains(&workers), "a store has 1 to 128 workers");
        Self { incarnation, peers: BTreeMap::new(), beats_sent: 0, messages_sent: 0 }
    }

    /// Takes a share; returns the messages that are complete, with their peer.
    pub fn handle_share(&mut self, share: BeatShare) -> Vec<(StoreId, PeerMessage)> {
        let bit = 1u128 << share.worker;
        let mut ready = Vec::new();
        let peer = self.peers.entry(share.to).or_default();
        let started = peer.shares != 0;
        if started && (peer.tick != share.tick || peer.shares & bit != 0) {
            ready.push((share.to, peer.seal(self.incarnation, &mut self.beats_sent)));
        }
        peer.tick = share.tick;
        peer.shares |= bit;
        peer.busy = if share.beats.is_empty() { peer.busy & !bit } else { peer.busy | bit };
        peer.beats.extend(share.beats);
        if peer.shares & peer.busy == peer.busy {
            ready.push((share.to, peer.seal(self.incarnation, &mut self.beats_sent)));
        }
        ready.retain(|(_, message)| !matches!(message, PeerMessage::Beats(beats) if beats.beats.is_empty()));
        self.messages_sent += ready.len() as u64;
        ready
    }

    /// Group heartbeats sent, and messages that carried them.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        (self.beats_sent, self.messages_sent)
    }
}

impl PeerBeats {
    fn seal(&mut self, incarnation: Incarnation, sent: &mut u64) -> PeerMessage {
        self.shares = 0;
        self.sequence += 1;
        let beats = std::mem::take(&mut self.beats);
        *sent += beats.len() as u64;
        PeerMessage::Beats(Beats { incarnation, sequence: self.sequence, beats, ..Beats::default() })
    }
}

/// Which worker drives a region. Fixed for as long as the number of workers is.
#[must_use]
pub fn worker_of(region: RegionId, workers: usize) -> usize {
    (region.get() % workers.max(1) as u64) as usize
}

/// Sorts a peer's messages by the worker that they are for, keeping their order.
#[must_use]
pub fn split_by_worker(messages: Vec<PeerMessage>, workers: usize) -> Vec<Vec<PeerMessage>> {
    if workers <= 1 {
        return vec![messages];
    }
    let mut split: Vec<Vec<PeerMessage>> = (0..workers).map(|_| Vec::new()).collect();
    for message in messages {
        match message {
            PeerMessage::Beats(beats) => split_beats(beats, &mut split),
            PeerMessage::BeatReplies(replies) => split_replies(replies, &mut split),
            PeerMessage::Raft(ref raft) => split[worker_of(raft.region, workers)].push(message),
            PeerMessage::Forward(ref forward) => split[worker_of(forward.region, workers)].push(message),
            PeerMessage::Snapshot(ref snapshot) => split[worker_of(snapshot.region, workers)].push(message),
            PeerMessage::Region(ref about) => split[worker_of(about.region, workers)].push(message),
            // For the store as a whole: taken out before.
            PeerMessage::Support(_) => {}
            PeerMessage::ForwardReply(ref reply) => {
                let worker = worker_of_request(reply.id);
                if let Some(part) = split.get_mut(worker) {
                    part.push(message);
                }
            }
        }
    }
    split
}

fn split_beats(mut all: Beats, split: &mut [Vec<PeerMessage>]) {
    let workers = split.len();
    let beats = std::mem::take(&mut all.beats);
    let mut parts: Vec<Vec<Beat>> = (0..workers).map(|_| Vec::new()).collect();
    for beat in beats {
        parts[worker_of(beat.region, workers)].push(beat);
    }
    for (part, beats) in split.iter_mut().zip(parts) {
        // A store's own sign of life is for every worker.
        if !beats.is_empty() || all.sequence > 0 {
            part.push(PeerMessage::Beats(Beats { beats, ..all.clone() }));
        }
    }
}

fn split_replies(mut all: BeatReplies, split: &mut [Vec<PeerMessage>]) {
    let workers = split.len();
    let replies = std::mem::take(&mut all.replies);
    let mut parts: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for reply in replies {
        parts[worker_of(reply.region, workers)].push(reply);
    }
    for (part, replies) in split.iter_mut().zip(parts) {
        if !replies.is_empty() {
            part.push(PeerMessage::BeatReplies(BeatReplies { replies, ..all.clone() }));
        }
    }
}

/// Where an incarnation's requests begin: an answer to a request of an earlier life of this store, which the other end may
/// send long after the restart, never meets one of this life.
pub(super) fn first_sequence(incarnation: Incarnation) -> u64 {
    ((incarnation.get() & 0xffff) << 40) | 1
}

/// In the place of a worker in the names of what callers ask without one.
pub(super) const CALLERS: usize = 255;

/// Names a forwarded request or a snapshot transfer so that its answer finds the worker that asked.
pub(super) fn request_id(sequence: u64, worker: usize) -> u64 {
    (sequence << 8) | worker as u64
}

/// The worker that made this name of a request, a transfer or a round.
#[must_use]
pub fn worker_of_request(id: u64) -> usize {
    (id & 0xff) as usize
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{LogIndex, ReplicaId, Term};

    use super::*;

    fn beat(region: u64) -> Beat {
        Beat {
            region: RegionId(region),
            from: ReplicaId(1),
            to: ReplicaId(2),
            term: Term(1),
            commit: LogIndex(0),
            round: 0,
        }
    }

    fn share(worker: usize, tick: u64, regions: &[u64]) -> BeatShare {
        BeatShare { to: StoreId(2), worker, tick: Time(tick), beats: regions.iter().copied().map(beat).collect() }
    }

    fn regions(messages: &[(StoreId, PeerMessage)]) -> Vec<Vec<u64>> {
        let one = |message: &PeerMessage| match message {
            PeerMessage::Beats(beats) => beats.beats.iter().map(|beat| beat.region.get()).collect(),
            other => panic!("unexpected {other:?}"),
        };
        messages.iter().map(|(_, message)| one(message)).collect()
    }

    #[test]
    fn shares_of_all_workers_travel_as_one_message() {
        let mut merger = BeatMerger::new(2, Incarnation(1));
        // Nobody knows yet that the second worker has beats, too.
        assert_eq!(regions(&merger.handle_share(share(0, 1, &[2, 4]))), vec![vec![2, 4]]);
        assert_eq!(merger.handle_share(share(1, 1, &[3])), vec![]);
        assert_eq!(regions(&merger.handle_share(share(0, 2, &[2, 4]))), vec![vec![3]]);
        assert_eq!(regions(&merger.handle_share(share(1, 2, &[3]))), vec![vec![2, 4, 3]]);
        assert_eq!(merger.sent(), (6, 3));
    }

    #[test]
    fn a_worker_whose_groups_all_rest_is_not_waited_for_and_says_nothing() {
        let mut merger = BeatMerger::new(2, Incarnation(1));
        merger.handle_share(share(0, 1, &[2]));
        merger.handle_share(share(1, 1, &[3]));
        assert_eq!(regions(&merger.handle_share(share(0, 2, &[2]))), vec![vec![3]]);
        assert_eq!(regions(&merger.handle_share(share(1, 2, &[]))), vec![vec![2]]);
        assert_eq!(regions(&merger.handle_share(share(0, 3, &[2]))), vec![vec![2]]);
        assert_eq!(merger.handle_share(share(0, 4, &[])), vec![]);
    }

    #[test]
    fn a_late_worker_delays_the_others_by_one_interval_only() {
        let mut merger = BeatMerger::new(2, Incarnation(1));
        merger.handle_share(share(0, 1, &[2]));
        merger.handle_share(share(1, 1, &[3]));
        assert_eq!(regions(&merger.handle_share(share(0, 2, &[2]))), vec![vec![3]]);
        assert_eq!(regions(&merger.handle_share(share(0, 3, &[2]))), vec![vec![2]]);
        assert_eq!(regions(&merger.handle_share(share(1, 3, &[3]))), vec![vec![2, 3]]);
    }

    #[test]
    fn messages_are_sorted_by_worker_in_order() {
        let beats = Beats { beats: vec![beat(2), beat(3), beat(4)], ..Beats::default() };
        let split = split_by_worker(vec![PeerMessage::Beats(beats)], 2);
        let of = |part: &Vec<PeerMessage>| regions(&part.iter().map(|m| (StoreId(1), m.clone())).collect::<Vec<_>>());
        assert_eq!(split.iter().map(of).collect::<Vec<_>>(), vec![vec![vec![2, 4]], vec![vec![3]]]);
    }
}
