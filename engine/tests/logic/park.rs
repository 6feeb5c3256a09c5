//! Requests for regions without a leader: what a worker keeps, for how long, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::liveness::{SupportEpoch, SupportNews};
use multiraft::logic::{Freshness, Input, Outcome, TurnOutput, Worker};
use multiraft::{Incarnation, LogIndex, RegionEpoch, RegionId, StoreId};
use multiraft_raft::{Body, EntryKind, Payload, ReplicaId, Term, Time};
use multiraft_storage::{LogChange, LogOptions, LogWriter, SimDisk};
use multiraft_transport::{
    Beat, Beats, Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage, RegionMessage, RegionStep,
};

use crate::turns::{heard, take_turns};
use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);
const NOBODY: Outcome = Outcome::NotLeader { hint: None };

/// One worker of store 1, whose replica of the region is number 1, linked to stores 2 and 3.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
    /// Requests that were sent on, as (to, number, request).
    forwarded: Vec<(u64, u64, ForwardRequest)>,
    answered: Vec<(u32, Outcome)>,
    /// Commands that were appended here.
    logged: Vec<Bytes>,
    /// Answers to what peers asked.
    told: Vec<ForwardOutcome>,
}

impl Store {
    /// Nobody is known to lead.
    fn new() -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
        let starts: Vec<_> = bootstrap_regions(&[], &stores)[1..].iter().cloned().map(empty_start).collect();
        let worker = Worker::new(worker_config(&stores[1..]), recovered.token(0), &starts, Time::ZERO);
        let (forwarded, answered, logged, told) = Default::default();
        let mut store = Self { worker, log, now: Time::ZERO, forwarded, answered, logged, told };
        for peer in [2, 3] {
            store.turn(vec![Input::Link { peer: StoreId(peer), up: Some(Incarnation(1)) }]);
        }
        store
    }

    /// A follower of store 2 in term 1.
    fn following() -> Self {
        let mut store = Self::new();
        store.hear_leader(2, 1);
        store
    }

    fn turn(&mut self, inputs: Vec<Input<u32>>) {
        let Self { worker, log, now, forwarded, answered, logged, told } = self;
        take_turns((worker, log), *now, inputs, |out, _| {
            for send in &mut out.sends {
                for message in send.messages.drain(..) {
                    match message {
                        PeerMessage::Forward(Forward { id, request, .. }) => {
                            forwarded.push((send.to.get(), id, request));
                        }
                        PeerMessage::ForwardReply(reply) => told.push(reply.outcome),
                        _ => {}
                    }
                }
            }
            answered.append(&mut out.replies);
            for record in &out.log {
                let LogChange::Append(entries) = &record.log else { continue };
                let commands = entries.iter().filter(|entry| entry.kind == EntryKind::Command);
                logged.extend(commands.map(|entry| entry.data.to_bytes()));
            }
        });
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 10 {
            self.now = self.now.plus(Duration::from_millis(10));
            self.turn(Vec::new());
        }
    }

    fn hear(&mut self, from: u64, term: u64, body: Body) {
        self.turn(vec![heard(REGION, (from, 1), term, body)]);
    }

    fn hear_leader(&mut self, from: u64, term: u64) {
        let (prev_index, prev_term, commit) = (LogIndex(0), Term(0), LogIndex(0));
        self.hear(from, term, Body::Append { prev_index, prev_term, commit, entries: Vec::new() });
    }

    /// The replica here wins an election, in whatever term it campaigns.
    fn win(&mut self) {
        self.pass(Duration::from_millis(2100));
        let term = self.worker.status(REGION).unwrap().term.get();
        self.hear(2, term + 1, Body::PreVoteReply { granted: true });
        self.hear(2, term + 1, Body::VoteReply { granted: true });
        assert!(self.worker.status(REGION).unwrap().is_leader);
    }

    fn propose_within(&self, command: &[u8], left: Duration, reply: u32) -> Input<u32> {
        let (command, deadline) = (Bytes::copy_from_slice(command), self.now.plus(left));
        Input::Propose { region: REGION, epoch: None, session: None, command: command.into(), deadline, reply }
    }

    fn propose(&self, command: &[u8], reply: u32) -> Input<u32> {
        self.propose_within(command, Duration::from_secs(5), reply)
    }

    fn read(&self, reply: u32) -> Input<u32> {
        let (freshness, deadline) = (Freshness::Linearizable, self.now.plus(Duration::from_secs(5)));
        Input::Read { region: REGION, epoch: None, freshness, deadline, reply }
    }

    fn query(&self, reply: u32) -> Input<u32> {
        let (query, deadline) = (Bytes::from_static(b"q"), self.now.plus(Duration::from_secs(5)));
        Input::Query { region: REGION, epoch: None, query, deadline, reply }
    }

    fn commands_sent_to(&self, to: u64) -> Vec<&[u8]> {
        let sent = self.forwarded.iter().filter(|(store, ..)| *store == to);
        sent.filter_map(|(.., request)| match request {
            ForwardRequest::Propose { command, .. } => Some(&command[..]),
            _ => None,
        })
        .collect()
    }
}

#[test]
fn requests_wait_for_a_leader_elsewhere_and_are_sent_on_in_the_order_in_which_they_came() {
    let mut store = Store::new();
    store.turn(vec![store.propose(b"a", 1), store.propose(b"b", 2), store.query(3)]);
    store.turn(vec![store.propose(b"c", 4), store.read(5)]);
    store.pass(Duration::from_millis(400));
    assert_eq!((&store.answered[..], store.forwarded.len()), (&[][..], 0));
    store.hear_leader(3, 1);
    assert_eq!(store.commands_sent_to(3), [b"a", b"b", b"c"]);
    assert!(matches!(store.forwarded[2].2, ForwardRequest::Query { .. }), "between the commands, as it came");
    assert!(matches!(store.forwarded[4].2, ForwardRequest::ReadIndex { lease: false }));
    assert_eq!((store.forwarded.len(), store.answered.len()), (5, 0));
    let reply = ForwardReply {
        id: store.forwarded[0].1,
        outcome: ForwardOutcome::Applied { reply: Bytes::new(), index: LogIndex(7) },
    };
    store.turn(vec![Input::Messages { from: StoreId(3), messages: vec![PeerMessage::ForwardReply(reply)] }]);
    assert_eq!(store.answered, [(1, Outcome::Applied { reply: Bytes::new(), index: LogIndex(7) })]);
    for _ in 0..20 {
        store.pass(Duration::from_millis(100));
        store.hear_leader(3, 1);
    }
    assert_eq!(store.answered.len(), 1, "nobody is given up who was served");
}

#[test]
fn requests_wait_for_the_replica_here_to_lead_and_are_proposed_once() {
    let mut store = Store::new();
    store.pass(Duration::from_millis(1000));
    let term = |store: &Store| store.worker.status(REGION).unwrap().term.get();
    // Within the waiting time it campaigns and wins.
    while store.worker.status(REGION).unwrap().term == Term(0) {
        store.hear(2, 1, Body::PreVoteReply { granted: true });
        store.pass(Duration::from_millis(10));
    }
    store.turn(vec![store.propose(b"first", 1), store.propose(b"second", 2)]);
    assert_eq!((store.logged.len(), store.answered.len()), (0, 0));
    store.hear(2, term(&store), Body::VoteReply { granted: true });
    assert!(store.worker.status(REGION).unwrap().is_leader);
    assert_eq!(store.logged.len(), 2);
    assert!(store.logged[0].ends_with(b"first") && store.logged[1].ends_with(b"second"));
    store.pass(Duration::from_millis(900));
    assert_eq!((store.logged.len(), &store.answered[..]), (2, &[][..]));
}

#[test]
fn who_has_waited_long_enough_is_told_that_there_is_no_leader() {
    let mut store = Store::new();
    store.turn(vec![store.propose(b"a", 1)]);
    store.pass(Duration::from_millis(200));
    store.turn(vec![store.read(2), store.query(3)]);
    store.pass(Duration::from_millis(1790));
    assert_eq!(store.answered, []);
    store.pass(Duration::from_millis(30));
    assert_eq!(store.answered, [(1, NOBODY)]);
    store.pass(Duration::from_millis(200));
    assert_eq!(store.answered, [(1, NOBODY), (2, NOBODY), (3, NOBODY)]);
    store.hear_leader(2, 1);
    assert_eq!(store.forwarded.len(), 0, "what was refused has no effect any more");
}

#[test]
fn the_worker_says_when_a_waiting_time_ends() {
    let mut store = Store::new();
    let mut inputs = vec![store.propose(b"a", 1)];
    while store.answered.is_empty() {
        let mut out = TurnOutput::default();
        let next = store.worker.turn(store.now, &mut inputs, &mut out);
        store.answered.append(&mut out.replies);
        assert!(store.answered.len() == 1 || next <= Time::ZERO.plus(Duration::from_millis(2020)));
        store.now = next.max(store.now);
    }
    assert_eq!(store.answered, [(1, NOBODY)]);
    assert!(store.now >= Time::ZERO.plus(Duration::from_secs(2)));
}

#[test]
fn who_stops_waiting_before_the_waiting_time_is_over_is_told_at_once() {
    let mut store = Store::new();
    store.turn(vec![store.propose_within(b"a", Duration::from_millis(80), 1)]);
    assert_eq!(store.answered, [(1, NOBODY)]);
}

#[test]
fn who_does_not_wait_for_an_election_waits_for_a_shorter_time() {
    let mut store = Store::new();
    store.turn(vec![store.propose_within(b"a", Duration::from_millis(1500), 1)]);
    store.pass(Duration::from_millis(90));
    assert_eq!(store.answered, []);
    store.pass(Duration::from_millis(30));
    assert_eq!(store.answered, [(1, NOBODY)]);
}

#[test]
fn beyond_the_bounds_callers_are_told_at_once() {
    let mut store = Store::new();
    let large = vec![0; 5 << 20];
    store.turn((1..=4).map(|reply| store.propose(&large, reply)).collect());
    assert_eq!(store.answered, [(4, NOBODY)], "there is room for three of these");
    store.turn(vec![store.propose(b"a", 5)]);
    assert_eq!(store.answered.len(), 1);
    store.pass(Duration::from_millis(2020));
    assert_eq!(store.answered.len(), 5);
    store.turn((1..=4).map(|reply| store.propose(&large, reply)).collect());
    assert_eq!(store.answered.len(), 6, "what is given up makes room");

    let mut store = Store::new();
    store.turn((0..1 << 16).map(|reply| store.read(reply)).collect());
    assert_eq!(store.answered, []);
    store.turn(vec![store.read(1 << 16)]);
    assert_eq!(store.answered, [(1 << 16, NOBODY)]);
}

#[test]
fn many_are_given_up_in_bounded_parts() {
    let mut store = Store::new();
    store.turn((0..10_000).map(|reply| store.read(reply)).collect());
    store.now = Time::ZERO.plus(Duration::from_secs(3));
    let mut out = TurnOutput::default();
    let next = store.worker.turn(store.now, &mut Vec::new(), &mut out);
    assert!(out.replies.len() < 5000 && next <= store.now, "{} in one turn", out.replies.len());
    store.answered.append(&mut out.replies);
    store.turn(Vec::new());
    assert!(store.answered.iter().map(|(reply, _)| *reply).eq(0..10_000));
}

#[test]
fn who_waits_for_a_region_that_goes_is_told_at_once() {
    let mut store = Store::following();
    store.turn(vec![Input::Link { peer: StoreId(2), up: None }, store.propose(b"a", 1)]);
    assert_eq!(store.answered, []);
    let mut gone = (*store.worker.status(REGION).unwrap().descriptor).clone();
    gone.replicas.retain(|replica| replica.id != ReplicaId(1));
    gone.epoch = RegionEpoch { conf_version: gone.epoch.conf_version + 1, ..gone.epoch };
    let (gone, committed) = (Arc::new(gone), (LogIndex(0), Term(0)));
    let step = RegionStep::Tell { descriptor: Arc::clone(&gone), merged: false, committed };
    let tell = PeerMessage::Region(RegionMessage { region: REGION, step });
    store.turn(vec![Input::Messages { from: StoreId(3), messages: vec![tell] }]);
    store.pass(Duration::from_millis(100));
    assert!(store.worker.status(REGION).is_none());
    assert_eq!(store.answered, [(1, NOBODY)]);
    store.pass(Duration::from_secs(1));
    assert_eq!(store.answered.len(), 1);
}

#[test]
fn a_leader_that_is_out_of_reach_is_no_leader_and_who_came_first_goes_first_when_it_is_back() {
    let mut store = Store::following();
    store.turn(vec![Input::Link { peer: StoreId(2), up: None }, store.propose(b"a", 1)]);
    store.turn(vec![store.propose(b"b", 2)]);
    assert_eq!((&store.answered[..], store.forwarded.len()), (&[][..], 0));
    store.turn(vec![Input::Link { peer: StoreId(2), up: Some(Incarnation(1)) }]);
    store.turn(vec![store.propose(b"c", 3)]);
    assert_eq!(store.commands_sent_to(2), [b"a", b"b", b"c"]);
}

#[test]
fn who_waits_for_a_silent_leader_goes_when_it_speaks() {
    for is_beat in [true, false] {
        let mut store = Store::following();
        store.now = store.now.plus(Duration::from_millis(1000));
        store.turn(vec![store.propose(b"a", 1), store.read(2)]);
        assert_eq!((&store.answered[..], store.forwarded.len()), (&[][..], 0));
        if is_beat {
            let (from, to, commit) = (ReplicaId(2), ReplicaId(1), LogIndex(0));
            let beats = vec![Beat { region: REGION, from, to, term: Term(1), commit, round: 0 }];
            let beats = PeerMessage::Beats(Beats { beats, ..Beats::default() });
            store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![beats] }]);
        } else {
            store.hear_leader(2, 1);
        }
        assert_eq!(store.commands_sent_to(2), [b"a"]);
        assert_eq!(store.forwarded.len(), 2);
    }
}

#[test]
fn a_promise_to_a_store_that_has_died_keeps_nobody_from_the_next_leader() {
    let epoch = SupportEpoch { incarnation: Incarnation(1), number: 3 };
    let mut store = Store::following();
    store.turn(vec![Input::Support(SupportNews::Given { peer: StoreId(2), epoch })]);
    store.hear(2, 1, Body::Fortify { epoch: epoch.code() });
    store.pass(Duration::from_secs(2));
    // The store is silent, and the replica here believes in its leader: it has promised to.
    assert_eq!(store.worker.status(REGION).unwrap().leader, Some(StoreId(2)));
    store.turn(vec![store.propose(b"a", 1), store.read(2)]);
    store.turn(vec![Input::Support(SupportNews::Withdrawn { peer: StoreId(2), epoch })]);
    store.pass(Duration::from_millis(100));
    store.turn(vec![store.propose(b"b", 3)]);
    assert_eq!((&store.answered[..], store.forwarded.len()), (&[][..], 0));
    store.hear_leader(3, 2);
    assert_eq!(store.commands_sent_to(3), [b"a", b"b"]);
    assert_eq!(store.forwarded.len(), 3);
}

#[test]
fn what_needs_no_leader_is_answered_at_once() {
    let mut store = Store::new();
    let epoch = Some(RegionEpoch { conf_version: 1, version: 0 });
    let deadline = store.now.plus(Duration::from_secs(5));
    let command = Bytes::from_static(b"a");
    let outdated = Input::Propose { region: REGION, epoch, session: None, command: command.into(), deadline, reply: 1 };
    let unknown = Input::Query { region: RegionId(77), epoch: None, query: Bytes::new(), deadline, reply: 2 };
    store.turn(vec![outdated, unknown]);
    assert!(matches!(store.answered[..], [(1, Outcome::EpochMismatch { .. }), (2, Outcome::UnknownRegion)]));
}

#[test]
fn what_another_store_sent_on_is_not_kept() {
    let mut store = Store::new();
    let request = ForwardRequest::Propose { session: None, command: Payload::copy_from_slice(b"a") };
    let forward =
        Forward { id: 1, region: REGION, epoch: RegionEpoch::default(), term: Term(0), timeout_ms: 1000, request };
    store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![PeerMessage::Forward(forward)] }]);
    assert_eq!(store.told, [ForwardOutcome::NotLeader { hint: None }]);
}

#[test]
fn a_leader_keeps_nobody_waiting() {
    let mut store = Store::new();
    store.win();
    store.turn(vec![store.propose(b"a", 1)]);
    assert_eq!(store.logged.len(), 1);
}
