//! A merge as a worker sees it goes on as soon as it can.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::logic::{Applied, Frozen, Input, MERGE_TIMEOUT, RegionChange, Worker};
use multiraft::{Incarnation, RegionDescriptor, StoreId};
use multiraft_raft::{Body, LogIndex, Message, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, PeerMessage, RaftMessage, RegionMessage, RegionStep};

use crate::turns::{said, take_turns};
use crate::worker_config::worker_config;

/// Store 1 of three.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
}

impl Store {
    fn with(regions: &[Arc<RegionDescriptor>]) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let starts: Vec<_> = regions.iter().map(|region| empty_start(Arc::clone(region))).collect();
        let worker = Worker::new(worker_config(&[StoreId(2), StoreId(3)]), recovered.token(0), &starts, Time::ZERO);
        let mut store = Self { worker, log, now: Time::ZERO };
        store.run(vec![link(2), link(3)]);
        store
    }

    /// What it tells the other stores and itself, in a turn and those that follow from it by the log alone.
    fn run(&mut self, inputs: Vec<Input<u32>>) -> Vec<(StoreId, PeerMessage)> {
        let mut told = Vec::new();
        take_turns((&mut self.worker, &mut self.log), self.now, inputs, |out, _| {
            told.extend(said(out));
            told.extend(out.local.drain(..).map(|message| (StoreId(1), message)));
        });
        told
    }
}

fn link(peer: u64) -> Input<u32> {
    Input::Link { peer: StoreId(peer), up: Some(Incarnation(1)) }
}

/// Two neighbours; the right one is to be merged into the left one.
fn neighbours() -> [Arc<RegionDescriptor>; 2] {
    let regions = bootstrap_regions(&[Bytes::from_static(b"k")], &[StoreId(1), StoreId(2), StoreId(3)]);
    [Arc::clone(&regions[1]), Arc::clone(&regions[2])]
}

fn raft(region: &RegionDescriptor, from: u64, term: u64, body: Body) -> Input<u32> {
    let [from_replica, to] = [from, 1].map(|store| region.replica_on(StoreId(store)).unwrap().id);
    let message = Message { from: from_replica, to, term: Term(term), body };
    let message = PeerMessage::Raft(RaftMessage { region: region.id, message, descriptor: None });
    Input::Messages { from: StoreId(from), messages: vec![message] }
}

/// A store with the source alone, which store 2 leads.
fn following(source: &Arc<RegionDescriptor>) -> Store {
    let mut store = Store::with(&[Arc::clone(source)]);
    let (prev_index, prev_term, commit) = (LogIndex::ZERO, Term::ZERO, LogIndex::ZERO);
    store.run(vec![raft(source, 2, 1, Body::Append { prev_index, prev_term, commit, entries: Vec::new() })]);
    store
}

fn leading(source: &Arc<RegionDescriptor>) -> Store {
    let mut store = following(source);
    store.run(vec![raft(source, 2, 1, Body::TimeoutNow)]);
    store.run(vec![raft(source, 3, 2, Body::VoteReply { granted: true })]);
    assert!(store.worker.status(source.id).unwrap().is_leader);
    store
}

/// The freeze is durable here.
fn frozen(store: &Store, [target, source]: &[Arc<RegionDescriptor>; 2]) -> Input<u32> {
    let mut region = RegionDescriptor::clone(source);
    region.epoch.version += 1;
    let frozen = Arc::new(Frozen { index: LogIndex(9), target: Arc::clone(target) });
    let change = Some(RegionChange::Frozen { region: Arc::new(region), frozen });
    let handle = store.worker.handles().next().unwrap();
    let index = store.worker.status(source.id).unwrap().applied;
    Input::Applied(vec![Applied { handle, index, cost: 0, memberships: Vec::new(), split: None, change }])
}

fn is_frozen(source: &RegionDescriptor, store: u64) -> Input<u32> {
    let replica = source.replica_on(StoreId(store)).unwrap().id;
    let step = RegionStep::IsFrozen { replica, index: LogIndex(9) };
    let message = PeerMessage::Region(RegionMessage { region: source.id, step });
    Input::Messages { from: StoreId(store), messages: vec![message] }
}

fn steps(said: &[(StoreId, PeerMessage)]) -> Vec<(StoreId, RegionStep)> {
    let step = |(to, message): &(StoreId, PeerMessage)| match message {
        PeerMessage::Region(RegionMessage { step, .. }) => Some((*to, step.clone())),
        _ => None,
    };
    said.iter().filter_map(step).collect()
}

/// The store that the target is asked at, and the name of the request.
fn asked(said: &[(StoreId, PeerMessage)]) -> Option<(StoreId, u64)> {
    said.iter().find_map(|(to, message)| match message {
        PeerMessage::Forward(Forward { id, .. }) => Some((*to, *id)),
        _ => None,
    })
}

#[test]
fn a_follower_that_is_frozen_tells_its_leader_without_being_asked() {
    let regions = neighbours();
    let mut store = following(&regions[1]);
    let frozen = frozen(&store, &regions);
    let said = store.run(vec![frozen]);
    let replica = regions[1].replica_on(StoreId(1)).unwrap().id;
    assert_eq!(steps(&said), [(StoreId(2), RegionStep::IsFrozen { replica, index: LogIndex(9) })]);
}

#[test]
fn a_merge_goes_on_in_the_turn_in_which_it_can() {
    let regions = neighbours();
    let mut store = leading(&regions[1]);
    let frozen = frozen(&store, &regions);
    let said = store.run(vec![frozen]);
    let ask = |store| (StoreId(store), RegionStep::AskFrozen { index: LogIndex(9) });
    assert_eq!(steps(&said), [ask(2), ask(3)]);
    let said = store.run(vec![is_frozen(&regions[1], 3)]);
    assert_eq!((steps(&said), asked(&said)), (Vec::new(), None), "one is missing");
    let said = store.run(vec![is_frozen(&regions[1], 2)]);
    // It begins with the first of the target's stores, which is this one.
    let (at, first) = asked(&said).unwrap();
    assert_eq!(at, StoreId(1));
    // Told who leads the target, it asks there at once, but is not sent back and forth.
    let not_leader = |from: u64, id, hint| {
        let outcome = ForwardOutcome::NotLeader { hint: Some(StoreId(hint)) };
        let message = PeerMessage::ForwardReply(ForwardReply { id, outcome });
        Input::Messages { from: StoreId(from), messages: vec![message] }
    };
    let said = store.run(vec![not_leader(1, first, 2)]);
    let (at, second) = asked(&said).unwrap();
    assert_eq!(at, StoreId(2));
    let said = store.run(vec![not_leader(2, second, 3)]);
    assert_eq!(asked(&said), None);
}

#[test]
fn a_new_leader_gives_a_merge_up_when_the_old_one_would_have() {
    let regions = neighbours();
    let mut store = following(&regions[1]);
    let frozen = frozen(&store, &regions);
    store.run(vec![frozen]);
    // Store 3 stays away. Shortly before it is given up, the leadership changes hands.
    store.now = store.now.plus(MERGE_TIMEOUT - Duration::from_millis(100));
    store.run(vec![raft(&regions[1], 2, 1, Body::TimeoutNow)]);
    store.run(vec![raft(&regions[1], 3, 2, Body::VoteReply { granted: true })]);
    assert!(store.worker.status(regions[1].id).unwrap().is_leader);
    let said = store.run(vec![is_frozen(&regions[1], 2)]);
    assert_eq!(asked(&said), None, "one is missing, and there is time");
    store.now = store.now.plus(Duration::from_millis(300));
    let said = store.run(Vec::new());
    assert!(asked(&said).is_some(), "the target is asked for a fence: {said:?}");
}
