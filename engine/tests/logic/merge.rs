//! Merges as a worker sees them: a replica that cannot apply the commit asks for a snapshot and does not go on leading; what a
//! store tells itself.

use std::sync::Arc;
use std::time::Duration;

use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::logic::{Input, RegionHandle, Worker};
use multiraft::{Incarnation, LogIndex, RegionId, StoreId};
use multiraft_raft::{Body, Message, ReplicaId, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{
    ForwardOutcome, ForwardReply, PeerMessage, RaftMessage, RegionMessage, RegionStep, SnapshotMessage, SnapshotStep,
};

use crate::turns::{said, take_turns};
use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);

/// Store 1 of three.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
}

impl Store {
    /// A follower of store 2.
    fn new() -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
        let start = empty_start(Arc::clone(&bootstrap_regions(&[], &stores)[1]));
        let worker = Worker::new(worker_config(&stores[1..]), recovered.token(0), &[start], Time::ZERO);
        let mut store = Self { worker, log, now: Time::ZERO };
        let link = |peer| Input::Link { peer: StoreId(peer), up: Some(Incarnation(1)) };
        store.run(vec![link(2), link(3)]);
        let (prev_index, prev_term, commit) = (LogIndex::ZERO, Term::ZERO, LogIndex::ZERO);
        store.run(vec![raft(2, 1, Body::Append { prev_index, prev_term, commit, entries: Vec::new() })]);
        store
    }

    fn leading() -> Self {
        let mut store = Self::new();
        store.run(vec![raft(2, 1, Body::TimeoutNow)]);
        store.run(vec![raft(3, 2, Body::VoteReply { granted: true })]);
        assert!(store.worker.status(REGION).unwrap().is_leader);
        store
    }

    fn handle(&self) -> RegionHandle {
        self.worker.handles().next().unwrap()
    }

    /// What the other stores are told in a turn, and those that follow from it by the log alone.
    fn run(&mut self, inputs: Vec<Input<u32>>) -> Vec<(StoreId, PeerMessage)> {
        let mut told = Vec::new();
        take_turns((&mut self.worker, &mut self.log), self.now, inputs, |out, _| told.extend(said(out)));
        told
    }

    fn wait(&mut self, time: Duration) -> Vec<(StoreId, PeerMessage)> {
        let end = self.now.plus(time);
        let mut said = Vec::new();
        while self.now < end {
            self.now = self.now.plus(Duration::from_millis(50));
            said.extend(self.run(Vec::new()));
        }
        said
    }
}

fn raft(from: u64, term: u64, body: Body) -> Input<u32> {
    let message = Message { from: ReplicaId(from), to: ReplicaId(1), term: Term(term), body };
    let message = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
    Input::Messages { from: StoreId(from), messages: vec![message] }
}

fn needs(said: &[(StoreId, PeerMessage)]) -> Vec<(StoreId, LogIndex)> {
    let need = |(to, message): &(StoreId, PeerMessage)| match message {
        PeerMessage::Region(RegionMessage { region: REGION, step: RegionStep::NeedSnapshot { replica, index } }) => {
            assert_eq!(*replica, ReplicaId(1));
            Some((*to, *index))
        }
        _ => None,
    };
    said.iter().filter_map(need).collect()
}

#[test]
fn a_store_that_answers_itself_late_does_not_become_its_own_peer() {
    let mut store = Store::new();
    let reply = ForwardReply { id: 1 << 8, outcome: ForwardOutcome::Done };
    let from = StoreId(1);
    store.run(vec![Input::Messages { from, messages: vec![PeerMessage::ForwardReply(reply)] }]);
    assert_eq!(store.worker.peers().collect::<Vec<_>>(), [StoreId(2), StoreId(3)]);
}

#[test]
fn a_stalled_follower_asks_its_leader_for_a_snapshot_until_it_can_go_on() {
    let mut store = Store::new();
    let (handle, index) = (store.handle(), LogIndex(7));
    store.run(vec![Input::Stalled { handle, index }]);
    let said = store.wait(Duration::from_millis(400));
    assert_eq!(needs(&said), [(StoreId(2), index)]);
    // Told again and again by the applier, it does not ask more often.
    let said = store.run(vec![Input::Stalled { handle, index }, Input::Stalled { handle, index }]);
    assert_eq!(needs(&said), []);
}

#[test]
fn a_leader_gives_whoever_is_stalled_a_snapshot_once() {
    let mut store = Store::leading();
    let need = |index| {
        let step = RegionStep::NeedSnapshot { replica: ReplicaId(3), index };
        Input::Messages {
            from: StoreId(3),
            messages: vec![PeerMessage::Region(RegionMessage { region: REGION, step })],
        }
    };
    let offers = |said: Vec<(StoreId, PeerMessage)>| {
        let is_offer = |(to, message): &(StoreId, PeerMessage)| {
            let step =
                matches!(message, PeerMessage::Snapshot(SnapshotMessage { step: SnapshotStep::Offer { .. }, .. }));
            step && *to == StoreId(3)
        };
        said.iter().filter(|said| is_offer(said)).count()
    };
    assert_eq!(offers(store.run(vec![need(LogIndex(5))])), 0, "it has not applied that itself");
    let mut said = store.run(vec![need(LogIndex::ZERO)]);
    said.extend(store.run(vec![need(LogIndex::ZERO)]));
    said.extend(store.run(vec![need(LogIndex::ZERO)]));
    assert_eq!(offers(said), 1);
}

#[test]
fn a_stalled_leader_hands_over() {
    let mut store = Store::leading();
    let (handle, index) = (store.handle(), LogIndex(1));
    store.run(vec![Input::Stalled { handle, index }]);
    let match_index = LogIndex(1);
    let accepted = Body::AppendReply(multiraft_raft::AppendOutcome::Accepted { match_index });
    let mut said = store.run(vec![raft(2, 2, accepted.clone()), raft(3, 2, accepted)]);
    said.extend(store.wait(Duration::from_millis(400)));
    let asked = said.iter().any(|(_, message)| {
        matches!(message, PeerMessage::Raft(RaftMessage { message: Message { body: Body::TimeoutNow, .. }, .. }))
    });
    assert!(asked, "{said:?}");
    assert_eq!(needs(&said), []);
}
