//! A worker without a replica of what it is asked about: where requests go, and what the answers teach.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft::logic::{AdminRequest, Input, LocateTask, Notice, Outcome, TurnOutput, Worker, WorkerConfig};
use multiraft::{Incarnation, LogIndex, RegionDescriptor, RegionEpoch, RegionId, StoreId};
use multiraft_raft::{Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage};

use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);
const OWN: StoreId = StoreId(4);

/// A worker of store 4, linked to stores 1 to 3, which have all regions.
struct Store {
    worker: Worker<u32>,
    now: Time,
}

impl Store {
    fn new() -> Self {
        let (_, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let config = WorkerConfig { store: OWN, ..worker_config(&[1, 2, 3].map(StoreId)) };
        let worker = Worker::new(config, recovered.token(0), &[], Time::ZERO);
        let mut store = Self { worker, now: Time::ZERO };
        store.turn([1, 2, 3].map(|peer| link(peer, true)).into());
        store
    }

    fn turn(&mut self, mut inputs: Vec<Input<u32>>) -> TurnOutput<u32> {
        let mut out = TurnOutput::default();
        self.worker.turn(self.now, &mut inputs, &mut out);
        out
    }

    fn deadline(&self) -> Time {
        self.now.plus(Duration::from_secs(5))
    }

    fn propose(&self, reply: u32) -> Input<u32> {
        let (command, deadline) = (Bytes::from_static(b"a"), self.deadline());
        Input::Propose { region: REGION, epoch: None, session: None, command: command.into(), deadline, reply }
    }

    fn query(&self, reply: u32) -> Input<u32> {
        let (query, deadline) = (Bytes::from_static(b"q"), self.deadline());
        Input::Query { region: REGION, epoch: Some(RegionEpoch::FIRST), query, deadline, reply }
    }

    fn locate(reply: u32) -> Input<u32> {
        let key = Some(Bytes::from_static(b"k"));
        Input::Locate { region: RegionId(0), key, reply }
    }

    /// Proposes; where the command goes.
    fn goes_to(&mut self, reply: u32) -> (u64, u64) {
        let out = self.turn(vec![self.propose(reply)]);
        let (to, forward) = forwarded(&out).unwrap_or_else(|| panic!("not sent on: {:?}", out.replies));
        (to, forward.id)
    }

    fn answer(&mut self, from: u64, id: u64, outcome: ForwardOutcome) -> TurnOutput<u32> {
        self.turn(vec![messages(from, PeerMessage::ForwardReply(ForwardReply { id, outcome }))])
    }
}

fn link(peer: u64, up: bool) -> Input<u32> {
    Input::Link { peer: StoreId(peer), up: up.then_some(Incarnation(1)) }
}

fn messages(from: u64, message: PeerMessage) -> Input<u32> {
    Input::Messages { from: StoreId(from), messages: vec![message] }
}

fn region() -> Arc<RegionDescriptor> {
    Arc::clone(&bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1])
}

fn newer(stores: [u64; 3]) -> Arc<RegionDescriptor> {
    let mut descriptor = RegionDescriptor::clone(&region());
    descriptor.epoch.conf_version += 1;
    for (replica, store) in descriptor.replicas.iter_mut().zip(stores) {
        replica.store = StoreId(store);
    }
    Arc::new(descriptor)
}

fn forwarded(out: &TurnOutput<u32>) -> Option<(u64, Forward)> {
    out.sends.iter().find_map(|sent| match &sent.messages[..] {
        [PeerMessage::Forward(forward)] => Some((sent.to.get(), forward.clone())),
        _ => None,
    })
}

const NOBODY: ForwardOutcome = ForwardOutcome::NotLeader { hint: None };

#[test]
fn without_a_route_the_region_is_unknown_and_with_one_its_stores_are_asked_in_turn() {
    let mut store = Store::new();
    assert_eq!(store.turn(vec![store.propose(1)]).replies, [(1, Outcome::UnknownRegion)]);
    store.turn(vec![Input::Route(region())]);
    for round in 0..2 {
        for peer in 1..=3 {
            let (to, id) = store.goes_to(2);
            assert_eq!(to, peer, "round {round}");
            assert_eq!(store.answer(to, id, NOBODY).replies, [(2, Outcome::NotLeader { hint: None })]);
        }
    }
}

#[test]
fn a_hint_is_followed_and_the_leader_is_asked_from_then_on() {
    let mut store = Store::new();
    store.turn(vec![Input::Route(region())]);
    let (to, id) = store.goes_to(1);
    store.answer(to, id, ForwardOutcome::NotLeader { hint: Some(StoreId(3)) });
    let (to, id) = store.goes_to(2);
    assert_eq!(to, 3);
    let outcome = ForwardOutcome::Applied { reply: Bytes::from_static(b"done"), index: LogIndex(9) };
    let answer = Outcome::Applied { reply: Bytes::from_static(b"done"), index: LogIndex(9) };
    assert_eq!(store.answer(to, id, outcome).replies, [(2, answer)]);
    assert_eq!(store.goes_to(3).0, 3);
    let out = store.turn(vec![link(3, false)]);
    assert_eq!(out.replies, [(3, Outcome::Uncertain)], "it may have taken effect");
    assert_eq!(store.goes_to(4).0, 1, "a store without a link is passed over");
}

#[test]
fn a_command_goes_in_the_term_that_the_leader_has_told() {
    let mut store = Store::new();
    store.turn(vec![Input::Route(region())]);
    let term_of = |store: &mut Store| {
        let out = store.turn(vec![store.propose(1)]);
        let (to, forward) = forwarded(&out).unwrap();
        (to, forward.term, forward.id)
    };
    let (to, term, id) = term_of(&mut store);
    assert_eq!((to, term), (1, Term(0)), "not known yet");
    let out = store.answer(to, id, ForwardOutcome::Leads { term: Term(7) });
    assert_eq!(out.replies, [(1, Outcome::NotLeader { hint: Some(StoreId(1)) })], "no effect");
    let (to, term, id) = term_of(&mut store);
    assert_eq!((to, term), (1, Term(7)));
    // It has lost its office and regained it.
    store.answer(to, id, ForwardOutcome::NotLeader { hint: Some(StoreId(1)) });
    let (to, term, id) = term_of(&mut store);
    assert_eq!((to, term), (1, Term(0)));
    store.answer(to, id, ForwardOutcome::NotLeader { hint: Some(StoreId(3)) });
    let (to, term, _) = term_of(&mut store);
    assert_eq!((to, term), (3, Term(0)));
}

#[test]
fn a_newer_descriptor_heals_the_route_and_is_told() {
    let mut store = Store::new();
    store.turn(vec![Input::Route(region())]);
    let (to, id) = store.goes_to(1);
    let current = newer([3, 3, 3]);
    let out = store.answer(to, id, ForwardOutcome::EpochMismatch { current: Arc::clone(&current) });
    assert_eq!(out.replies, [(1, Outcome::EpochMismatch { current: Arc::clone(&current) })]);
    assert_eq!(out.notices, [Notice::Heard(current)]);
    let (to, id) = store.goes_to(2);
    assert_eq!(to, 3, "the store that answered is not one of the region's any more");
    store.answer(to, id, NOBODY);
    store.turn(vec![Input::Route(region())]);
    assert_eq!(store.goes_to(3).0, 3, "older news changes nothing");
}

#[test]
fn a_route_whose_stores_all_know_no_such_region_is_dropped() {
    let mut store = Store::new();
    store.turn(vec![Input::Route(region())]);
    let outcomes = [Outcome::NotLeader { hint: None }, Outcome::NotLeader { hint: None }, Outcome::UnknownRegion];
    for (peer, outcome) in (1..=3).zip(outcomes) {
        let (to, id) = store.goes_to(1);
        assert_eq!(to, peer);
        assert_eq!(store.answer(to, id, ForwardOutcome::UnknownRegion).replies, [(1, outcome)]);
    }
    assert_eq!(store.turn(vec![store.propose(2)]).replies, [(2, Outcome::UnknownRegion)]);
}

#[test]
fn a_region_whose_stores_are_out_of_reach_has_no_leader_for_now() {
    let mut store = Store::new();
    store.turn(vec![Input::Route(region()), link(1, false), link(2, false), link(3, false)]);
    assert_eq!(store.turn(vec![store.propose(1)]).replies, [(1, Outcome::NotLeader { hint: None })]);
}

#[test]
fn queries_and_changes_of_a_region_travel_as_well() {
    let mut store = Store::new();
    store.turn(vec![Input::Route(region())]);
    let (to, forward) = forwarded(&store.turn(vec![store.query(1)])).unwrap();
    assert_eq!(forward.request, ForwardRequest::Query { query: Bytes::from_static(b"q") });
    assert_eq!((forward.region, forward.epoch), (REGION, RegionEpoch::FIRST));
    let outcome = ForwardOutcome::Answered { answer: Bytes::from_static(b"42") };
    let answer = Outcome::Answered { answer: Bytes::from_static(b"42") };
    assert_eq!(store.answer(to, forward.id, outcome).replies, [(1, answer)]);
    let (_, forward) = forwarded(&store.turn(vec![store.query(2)])).unwrap();
    let lost = store.answer(to, forward.id, ForwardOutcome::Uncertain);
    assert_eq!(lost.replies, [(2, Outcome::NotLeader { hint: None })], "a read may always be tried again");
    let deadline = store.deadline();
    let describe = Input::Admin { region: REGION, epoch: None, request: AdminRequest::Describe, deadline, reply: 3 };
    let transfer = Input::Transfer { region: REGION, to: StoreId(2), deadline, reply: 4 };
    for input in [describe, transfer] {
        assert!(forwarded(&store.turn(vec![input])).is_some());
    }
}

#[test]
fn peers_are_asked_in_turn_where_a_key_is_and_what_peers_ask_is_handed_out() {
    let mut store = Store::new();
    for peer in [1, 2, 3, 1] {
        let (to, forward) = forwarded(&store.turn(vec![Store::locate(1)])).unwrap();
        assert_eq!((to, forward.request), (peer, ForwardRequest::Locate { key: Some(Bytes::from_static(b"k")) }));
        let outcome = ForwardOutcome::Changed { regions: vec![region()] };
        let answer = Outcome::Changed { regions: vec![region()] };
        assert_eq!(store.answer(to, forward.id, outcome).replies, [(1, answer)]);
    }
    let (_, forward) = forwarded(&store.turn(vec![Store::locate(2)])).unwrap();
    let unknown = store.answer(2, forward.id, ForwardOutcome::UnknownRegion);
    assert_eq!(unknown.replies, [(2, Outcome::UnknownRegion)]);
    store.turn(vec![link(1, false), link(2, false), link(3, false)]);
    assert_eq!(store.turn(vec![Store::locate(3)]).replies, [(3, Outcome::NotLeader { hint: None })]);

    let (id, epoch, request) = (77, RegionEpoch::default(), ForwardRequest::Locate { key: None });
    let asked = Forward { id, region: REGION, epoch, term: Term(0), timeout_ms: 100, request };
    let out = store.turn(vec![messages(2, PeerMessage::Forward(asked))]);
    assert_eq!(out.locates, [LocateTask { region: REGION, key: None, from: StoreId(2), id }]);
}
