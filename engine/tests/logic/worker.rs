//! A worker's turns, input by input: outputs compared as data.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::apply::{Cause, Tombstone};
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::logic::{
    AdminRequest, Applied, ApplyTask, DiskUse, Freshness, Input, LaneKind, LookupTask, Outcome, ReplyTo, Residue,
    SnapshotTask, TurnOutput, Worker, WorkerConfig,
};
use multiraft::{Incarnation, LogIndex, RegionEpoch, RegionId, StoreId};
use multiraft_raft::{
    AppendOutcome, Body, ChangeOp, Entry, EntryKind, MembershipChange, Message, Payload, ReplicaId, Term, Time,
};
use multiraft_storage::{LogBatch, LogOptions, LogWriter, SimDisk};
use multiraft_transport::{
    Beat, Beats, CaptureId, Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage, RaftMessage,
    RegionMessage, RegionStep, SnapshotHeader, SnapshotMessage, SnapshotStep,
};

use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);

/// One worker with a real log on a simulated disk.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
}

impl Store {
    fn new(stores: u64) -> Self {
        Self::restarted(stores, Incarnation(1))
    }

    fn restarted(stores: u64, incarnation: Incarnation) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let stores: Vec<StoreId> = (1..=stores).map(StoreId).collect();
        let regions = bootstrap_regions(&[], &stores);
        let starts: Vec<_> = regions[1..].iter().cloned().map(empty_start).collect();
        let config = WorkerConfig { incarnation, ..worker_config(&stores[1..]) };
        let worker = Worker::new(config, recovered.token(0), &starts, Time::ZERO);
        Self { worker, log, now: Time::ZERO }
    }

    fn turn(&mut self, inputs: Vec<Input<u32>>) -> TurnOutput<u32> {
        let mut inputs = inputs;
        let mut out = TurnOutput::default();
        self.worker.turn(self.now, &mut inputs, &mut out);
        out
    }

    /// Makes a turn's append durable and lets the worker know.
    fn flush(&mut self, out: &mut TurnOutput<u32>) -> TurnOutput<u32> {
        let records = std::mem::take(&mut out.log);
        let tokens = self.log.commit(vec![LogBatch { ticket: out.ticket, records }]).unwrap();
        self.turn(tokens.into_iter().map(|token| Input::Flushed { token }).collect())
    }

    /// Makes every append durable at once, until nothing more happens; reports what was handed out as applied.
    fn settle(&mut self, mut out: TurnOutput<u32>) -> Vec<ApplyTask<u32>> {
        let mut tasks = Vec::new();
        loop {
            let applied = out.apply.iter().map(report).collect::<Vec<_>>();
            tasks.append(&mut out.apply);
            if !out.log.is_empty() {
                out = self.flush(&mut out);
            } else if applied.is_empty() {
                return tasks;
            } else {
                out = self.turn(vec![Input::Applied(applied)]);
            }
        }
    }

    fn after(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    fn propose(&self, command: &'static [u8], reply: u32) -> Input<u32> {
        let deadline = self.now.plus(Duration::from_secs(5));
        let command = Bytes::from_static(command);
        Input::Propose { region: REGION, epoch: None, session: None, command: command.into(), deadline, reply }
    }

    /// Learns that store 2 leads.
    fn follow(&mut self) {
        let up = |peer| Input::Link { peer: StoreId(peer), up: Some(Incarnation(1)) };
        let body =
            Body::Append { prev_index: LogIndex(0), prev_term: Term(0), commit: LogIndex(0), entries: Vec::new() };
        let message = Message { from: ReplicaId(2), to: ReplicaId(1), term: Term(1), body };
        let append = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
        let out = self.turn(vec![up(2), up(3), Input::Messages { from: StoreId(2), messages: vec![append] }]);
        self.settle(out);
    }

    /// What a replica of the region says to the one here.
    fn hear(&mut self, from: u64, term: u64, body: Body) -> TurnOutput<u32> {
        let message = Message { from: ReplicaId(from), to: ReplicaId(1), term: Term(term), body };
        let said = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
        self.turn(vec![Input::Messages { from: StoreId(from), messages: vec![said] }])
    }

    /// Store 2, which leads in `term`, hands leadership over.
    fn take_over(&mut self, term: u64) {
        let body =
            Body::Append { prev_index: LogIndex(0), prev_term: Term(0), commit: LogIndex(0), entries: Vec::new() };
        let out = self.hear(2, term, body);
        self.settle(out);
        let out = self.hear(2, term, Body::TimeoutNow);
        self.settle(out);
        let out = self.hear(3, term + 1, Body::VoteReply { granted: true });
        self.settle(out);
        assert!(self.worker.status(REGION).unwrap().is_leader);
    }

    /// The one region becomes a leader without anybody else to ask.
    fn lead_alone() -> Self {
        let mut store = Self::new(1);
        store.after(Duration::from_millis(100));
        let out = store.turn(Vec::new());
        store.settle(out);
        store
    }
}

fn report(task: &ApplyTask<u32>) -> Applied {
    let ApplyTask::Entries { handle, entries, .. } = task else { panic!("no snapshot was sent") };
    let cost = entries.iter().map(multiraft_raft::Entry::cost).sum();
    Applied {
        handle: *handle,
        index: entries.last().unwrap().index,
        cost,
        memberships: Vec::new(),
        split: None,
        change: None,
    }
}

fn replies(tasks: &[ApplyTask<u32>]) -> Vec<(u64, ReplyTo<u32>)> {
    let of = |task: &ApplyTask<u32>| match task {
        ApplyTask::Entries { replies, .. } => replies.clone(),
        _ => Vec::new(),
    };
    tasks.iter().flat_map(of).map(|(index, reply)| (index.get(), reply)).collect()
}

#[test]
fn commands_of_one_turn_become_one_append_and_are_applied_only_after_its_flush() {
    let mut store = Store::lead_alone();
    let mut out = store.turn(vec![store.propose(b"a", 1), store.propose(b"b", 2)]);
    assert_eq!((out.log.len(), out.apply.len(), out.replies.len()), (1, 0, 0));
    let again = store.turn(Vec::new());
    assert_eq!((again.log.len(), again.apply.len()), (0, 0), "nothing happens before the flush");
    let flushed = store.flush(&mut out);
    assert_eq!(replies(&flushed.apply), [(2, ReplyTo::Caller(1)), (3, ReplyTo::Caller(2))]);
}

#[test]
fn a_command_whose_caller_has_stopped_waiting_is_refused_without_effect() {
    let mut store = Store::lead_alone();
    let late = store.propose(b"a", 1);
    store.after(Duration::from_secs(5));
    let out = store.turn(vec![late]);
    assert_eq!(out.replies, [(1, Outcome::NotLeader { hint: None })]);
    assert!(out.log.is_empty());
}

#[test]
fn a_command_for_another_epoch_is_refused_with_the_current_descriptor() {
    let mut store = Store::lead_alone();
    let Input::Propose { region, session, command, deadline, reply, .. } = store.propose(b"a", 1) else { return };
    let epoch = Some(RegionEpoch { conf_version: 1, version: 0 });
    let out = store.turn(vec![Input::Propose { region, epoch, session, command, deadline, reply }]);
    let current = store.worker.status(REGION).unwrap().descriptor;
    assert_eq!(out.replies, [(1, Outcome::EpochMismatch { current })]);
}

#[test]
fn a_caller_that_knows_more_than_the_worker_is_not_sent_away_with_old_news() {
    let mut store = Store::lead_alone();
    let Input::Propose { region, session, command, deadline, .. } = store.propose(b"a", 1) else { return };
    let epoch = Some(RegionEpoch { conf_version: 2, version: 2 });
    let propose = Input::Propose { region, epoch, session, command, deadline, reply: 1 };
    let read = Input::Read { region, epoch, freshness: Freshness::Linearizable, deadline, reply: 2 };
    let request = AdminRequest::Membership(MembershipChange::Simple(ChangeOp::Remove { id: ReplicaId(9) }));
    let admin = Input::Admin { region, epoch, request, deadline, reply: 3 };
    let out = store.turn(vec![propose, read, admin]);
    assert!(matches!(out.replies[0], (3, Outcome::Busy { .. })), "a change waits: {:?}", out.replies);
    let term = store.worker.status(REGION).unwrap().term;
    assert_eq!(out.replies[1..], [(2, Outcome::ReadAt { index: LogIndex(1), term })], "the lookup decides");
    assert_eq!(out.log.len(), 1, "what applies the command decides");
}

#[test]
fn a_read_is_served_once_its_index_is_applied() {
    let mut store = Store::lead_alone();
    let deadline = store.now.plus(Duration::from_secs(5));
    let term = store.worker.status(REGION).unwrap().term;
    let read = |reply| Input::Read { region: REGION, epoch: None, freshness: Freshness::Linearizable, deadline, reply };
    assert_eq!(store.turn(vec![read(1)]).replies, [(1, Outcome::ReadAt { index: LogIndex(1), term })]);
    let mut out = store.turn(vec![store.propose(b"a", 2)]);
    let flushed = store.flush(&mut out);
    let waits = store.turn(vec![read(3)]);
    assert_eq!(waits.replies, [], "committed, but not applied yet");
    let applied = flushed.apply.iter().map(report).collect();
    assert_eq!(store.turn(vec![Input::Applied(applied)]).replies, [(3, Outcome::ReadAt { index: LogIndex(2), term })]);
}

#[test]
fn a_query_of_another_store_waits_for_its_round_and_its_index_and_is_then_looked_up() {
    let mut store = Store::lead_alone();
    let epoch = store.worker.status(REGION).unwrap().descriptor.epoch;
    let mut next = 0;
    let mut ask = |epoch| {
        next += 1;
        let request = ForwardRequest::Query { query: Bytes::from_static(b"q") };
        let forward = Forward { id: next, region: REGION, epoch, term: Term(0), timeout_ms: 1000, request };
        Input::Messages { from: StoreId(2), messages: vec![PeerMessage::Forward(forward)] }
    };
    let task = |id, epoch| LookupTask {
        region: REGION,
        epoch,
        query: Bytes::from_static(b"q"),
        to: ReplyTo::Peer { store: StoreId(2), id },
    };
    assert_eq!(store.turn(vec![ask(epoch)]).lookups, [task(1, Some(epoch))]);
    let mut out = store.turn(vec![store.propose(b"a", 2)]);
    let flushed = store.flush(&mut out);
    assert_eq!(store.turn(vec![ask(RegionEpoch::default())]).lookups, [], "committed, but not applied yet");
    let applied = flushed.apply.iter().map(report).collect();
    assert_eq!(store.turn(vec![Input::Applied(applied)]).lookups, [task(2, Some(epoch))], "of this instant's region");
    let other = RegionEpoch { version: epoch.version - 1, ..epoch };
    let out = store.turn(vec![ask(other)]);
    let current = store.worker.status(REGION).unwrap().descriptor;
    let refusal = PeerMessage::ForwardReply(ForwardReply { id: 3, outcome: ForwardOutcome::EpochMismatch { current } });
    assert_eq!((out.lookups.len(), &out.sends[0].messages), (0, &vec![refusal]));
}

#[test]
fn a_sender_without_a_replica_is_told_the_term_before_its_command_is_taken() {
    let mut store = Store::lead_alone();
    let term = store.worker.status(REGION).unwrap().term;
    let mut send = |id, term| {
        let request = ForwardRequest::Propose { session: None, command: Payload::copy_from_slice(b"a") };
        let forward = Forward { id, region: REGION, epoch: RegionEpoch::default(), term, timeout_ms: 1000, request };
        store.turn(vec![Input::Messages { from: StoreId(3), messages: vec![PeerMessage::Forward(forward)] }])
    };
    let out = send(1, Term(0));
    let told = PeerMessage::ForwardReply(ForwardReply { id: 1, outcome: ForwardOutcome::Leads { term } });
    assert_eq!((out.log.len(), &out.sends[0].messages), (0, &vec![told]));
    assert_eq!(send(2, term).log.len(), 1);
}

#[test]
fn queries_that_wait_are_bounded_in_bytes() {
    let mut store = Store::lead_alone();
    let mut out = store.turn(vec![store.propose(b"a", 1)]);
    store.flush(&mut out);
    let ask = |id| {
        let request = ForwardRequest::Query { query: Bytes::from(vec![0; 400 << 10]) };
        let forward =
            Forward { id, region: REGION, epoch: RegionEpoch::default(), term: Term(0), timeout_ms: 1000, request };
        Input::Messages { from: StoreId(2), messages: vec![PeerMessage::Forward(forward)] }
    };
    let refused = |out: &TurnOutput<u32>| out.sends.iter().map(|sent| sent.messages.len()).sum::<usize>();
    assert_eq!(refused(&store.turn((0..3).map(ask).collect())), 0);
    assert_eq!(refused(&store.turn((3..5).map(ask).collect())), 2, "a megabyte waits already");
    store.turn(vec![Input::Damaged { region: REGION }]);
    assert_eq!(store.worker.status(REGION), None);
}

/// Store 1 of three follows store 2.
fn follower() -> Store {
    let mut store = Store::new(3);
    store.follow();
    store
}

/// The others hold all that it has.
fn leader_of_three() -> Store {
    let mut store = follower();
    store.take_over(1);
    for voter in [2, 3] {
        let accepted = AppendOutcome::Accepted { match_index: LogIndex(1) };
        let out = store.hear(voter, 2, Body::AppendReply(accepted));
        store.settle(out);
    }
    store
}

/// The one request in a turn's output; it names the term that store 2 leads in.
fn sent_forward(out: &TurnOutput<u32>) -> (u64, ForwardRequest) {
    let append = out.sends.iter().find(|sent| sent.to == StoreId(2) && sent.lane == LaneKind::Append).unwrap();
    match &append.messages[..] {
        [PeerMessage::Forward(forward)] => {
            assert_eq!(forward.term, Term(1));
            (forward.id, forward.request.clone())
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_followers_read_learns_of_the_commit_with_the_leaders_answer() {
    let mut store = follower();
    let entry = |index| Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Empty, data: Payload::new() };
    let append = |prev: u64, entry| {
        let (prev_index, prev_term) = (LogIndex(prev), Term(prev.min(1)));
        let body = Body::Append { prev_index, prev_term, commit: LogIndex(0), entries: vec![entry] };
        let message = Message { from: ReplicaId(2), to: ReplicaId(1), term: Term(1), body };
        let append = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
        Input::Messages { from: StoreId(2), messages: vec![append] }
    };
    let out = store.turn(vec![append(0, entry(1))]);
    store.settle(out);
    let deadline = store.now.plus(Duration::from_secs(5));
    let out = store.turn(vec![Input::Read {
        region: REGION,
        epoch: None,
        freshness: Freshness::Linearizable,
        deadline,
        reply: 7,
    }]);
    let (id, _) = sent_forward(&out);
    // Its second entry is committed, and has not arrived yet.
    let outcome = ForwardOutcome::ReadAt { index: LogIndex(2), term: Term(1) };
    let answer = PeerMessage::ForwardReply(ForwardReply { id, outcome });
    let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![answer] }]);
    assert_eq!(out.apply.iter().map(|task| report(task).index).collect::<Vec<_>>(), [LogIndex(1)]);
    let applied = out.apply.iter().map(report).collect();
    assert_eq!(store.turn(vec![Input::Applied(applied)]).replies, []);
    let mut out = store.turn(vec![append(1, entry(2))]);
    let out = store.flush(&mut out);
    assert_eq!(out.apply.iter().map(|task| report(task).index).collect::<Vec<_>>(), [LogIndex(2)]);
    let applied = out.apply.iter().map(report).collect();
    let replies = store.turn(vec![Input::Applied(applied)]).replies;
    assert_eq!(replies, [(7, Outcome::ReadAt { index: LogIndex(2), term: Term(1) })]);
}

#[test]
fn a_followers_command_goes_to_the_leader_and_its_answer_comes_back() {
    let mut store = follower();
    let out = store.turn(vec![store.propose(b"a", 1)]);
    let (id, request) = sent_forward(&out);
    assert_eq!(request, ForwardRequest::Propose { session: None, command: Payload::copy_from_slice(b"a") });
    let outcome = ForwardOutcome::Applied { reply: Bytes::from_static(b"done"), index: LogIndex(9) };
    let reply = PeerMessage::ForwardReply(ForwardReply { id, outcome });
    let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![reply.clone()] }]);
    let answer = Outcome::Applied { reply: Bytes::from_static(b"done"), index: LogIndex(9) };
    assert_eq!(out.replies, [(1, answer)]);
    let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![reply] }]);
    assert_eq!(out.replies, [], "a second answer finds nobody");
}

#[test]
fn a_command_sent_on_for_an_earlier_term_of_a_leader_comes_too_late() {
    let mut store = follower();
    store.take_over(1);
    store.take_over(3);
    let propose = ForwardRequest::Propose { session: None, command: Payload::copy_from_slice(b"a") };
    let forward = |id, term, request| {
        let epoch = RegionEpoch::default();
        let forward = Forward { id, region: REGION, epoch, term: Term(term), timeout_ms: 5000, request };
        Input::Messages { from: StoreId(3), messages: vec![PeerMessage::Forward(forward)] }
    };
    let answers = |out: &TurnOutput<u32>| {
        let messages = out.sends.iter().filter(|sent| sent.to == StoreId(3)).flat_map(|sent| &sent.messages);
        let of = |message: &PeerMessage| match message {
            PeerMessage::ForwardReply(reply) => Some(reply.clone()),
            _ => None,
        };
        messages.filter_map(of).collect::<Vec<_>>()
    };
    let refused = |id| ForwardReply { id, outcome: ForwardOutcome::NotLeader { hint: Some(StoreId(1)) } };
    // Sent in term 2, which this store led; what its caller proposed afterwards went to the leader of term 3.
    let out = store.turn(vec![forward(1, 2, propose.clone()), forward(2, 5, propose.clone())]);
    assert_eq!((answers(&out), out.log.len()), (vec![refused(1), refused(2)], 0));
    // A question for the index of a read has no effect that could come too late.
    let out = store.turn(vec![forward(3, 2, ForwardRequest::ReadIndex { lease: false }), forward(4, 4, propose)]);
    assert_eq!((answers(&out), out.log.len()), (Vec::new(), 1));
}

#[test]
fn a_forwarded_command_is_of_unknown_outcome_when_the_link_is_lost_or_the_time_is_over() {
    let mut store = follower();
    store.turn(vec![store.propose(b"a", 1)]);
    let out = store.turn(vec![Input::Link { peer: StoreId(2), up: None }]);
    assert_eq!(out.replies, [(1, Outcome::Uncertain)]);

    let mut store = follower();
    store.turn(vec![store.propose(b"a", 2)]);
    store.after(Duration::from_secs(6));
    assert_eq!(store.turn(Vec::new()).replies, [(2, Outcome::Uncertain)]);
}

#[test]
fn a_command_is_not_sent_on_into_a_full_lane() {
    let mut store = follower();
    let out = store.turn(vec![Input::LaneFull { peer: StoreId(2) }, store.propose(b"a", 1)]);
    assert!(matches!(out.replies[..], [(1, Outcome::Busy { .. })]), "{:?}", out.replies);
    let out = store.turn(vec![Input::LaneReady { peer: StoreId(2) }, store.propose(b"a", 2)]);
    assert!(matches!(sent_forward(&out).1, ForwardRequest::Propose { .. }));
}

#[test]
fn completions_for_an_earlier_life_of_a_slot_are_dropped() {
    let mut store = Store::lead_alone();
    let mut out = store.turn(vec![store.propose(b"a", 1)]);
    let flushed = store.flush(&mut out);
    let mut applied: Vec<Applied> = flushed.apply.iter().map(report).collect();
    applied[0].handle.generation += 1;
    store.turn(vec![Input::Applied(applied)]);
    assert_eq!(store.worker.status(REGION).unwrap().applied, LogIndex(1));
}

#[test]
fn a_damaged_region_answers_those_who_wait_and_takes_no_part_any_more() {
    let mut store = Store::lead_alone();
    store.turn(vec![store.propose(b"a", 1)]);
    let out = store.turn(vec![Input::Damaged { region: REGION }, store.propose(b"b", 2)]);
    assert_eq!(out.replies, [(1, Outcome::Uncertain), (2, Outcome::UnknownRegion)]);
    assert!(out.log.is_empty());
}

#[test]
fn a_full_disk_refuses_commands_and_says_which_store() {
    let mut store = Store::lead_alone();
    let out = store.turn(vec![Input::DiskFull { disk: DiskUse::Log, full: true }, store.propose(b"a", 1)]);
    assert_eq!(out.replies, [(1, Outcome::NoSpace { store: StoreId(1) })]);
    let out = store.turn(vec![Input::DiskFull { disk: DiskUse::Log, full: false }, store.propose(b"a", 2)]);
    assert_eq!(out.log.len(), 1);

    let mut store = follower();
    let out = store.turn(vec![store.propose(b"a", 1)]);
    let (id, _) = sent_forward(&out);
    let reply = PeerMessage::ForwardReply(ForwardReply { id, outcome: ForwardOutcome::NoSpace });
    let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![reply] }]);
    assert_eq!(out.replies, [(1, Outcome::NoSpace { store: StoreId(2) })]);
}

/// Whether leadership is offered to a store, or sent back to it.
fn offers(out: &TurnOutput<u32>, to: u64) -> bool {
    let is_offer = |message: &PeerMessage| matches!(message, PeerMessage::Raft(RaftMessage { message, .. }) if message.body == Body::TimeoutNow);
    out.sends.iter().any(|sent| sent.to == StoreId(to) && sent.messages.iter().any(is_offer))
}

#[test]
fn a_store_with_little_space_takes_no_leadership_over_though_nothing_was_refused() {
    let mut store = follower();
    store.turn(vec![Input::DiskScarce { is_scarce: true }]);
    assert!(offers(&store.hear(2, 1, Body::TimeoutNow), 2), "sent back");
    assert_eq!(store.worker.status(REGION).unwrap().term, Term(1), "it does not campaign");
    store.turn(vec![Input::DiskScarce { is_scarce: false }]);
    assert!(!offers(&store.hear(2, 1, Body::TimeoutNow), 2));
    assert_eq!(store.worker.status(REGION).unwrap().term, Term(2));
    // What it leads, it goes on with: commands are refused once the disk is full.
    let mut store = Store::lead_alone();
    let out = store.turn(vec![Input::DiskScarce { is_scarce: true }, store.propose(b"a", 1)]);
    assert_eq!((out.log.len(), &out.replies[..]), (1, &[][..]));
}

#[test]
fn a_slow_store_hands_its_leaders_over_and_takes_none_until_it_is_well() {
    let mut store = leader_of_three();
    let first = store.turn(vec![Input::Slow { is_slow: true }]);
    let (first, other) = if offers(&first, 2) { (2, 3) } else { (3, 2) };
    // That one is slow, too: the offer comes back. A while later the other one gets one.
    let out = store.hear(first, 2, Body::TimeoutNow);
    assert!(!offers(&out, other) && !offers(&out, first), "all may be slow, and each offer has its price");
    store.settle(out);
    let mut offered = Vec::new();
    for millis in (200..=4_400).step_by(200) {
        store.after(Duration::from_millis(200));
        for voter in [2, 3] {
            let out = store.hear(voter, 2, Body::HeartbeatReply { round: 0 });
            offered.extend([2, 3].into_iter().filter(|to| offers(&out, *to)).map(|to| (to, millis)));
            store.settle(out);
        }
    }
    assert!(matches!(offered[..], [(to, 3_800..=4_200)] if to == other), "{offered:?}");
    // Who leads elsewhere offers this store nothing that it takes.
    let leads = Body::Heartbeat { commit: LogIndex(1), round: 0 };
    let out = store.hear(other, 3, leads);
    store.settle(out);
    assert!(!store.worker.status(REGION).unwrap().is_leader);
    assert!(offers(&store.hear(other, 3, Body::TimeoutNow), other), "sent back");
    store.turn(vec![Input::Slow { is_slow: false }]);
    assert!(!offers(&store.hear(other, 3, Body::TimeoutNow), other));
    assert_eq!(store.worker.status(REGION).unwrap().term, Term(4), "it campaigns");
}

#[test]
fn a_leader_that_is_to_be_removed_hands_over_to_a_store_that_takes_it() {
    let mut store = leader_of_three();
    let removed = |store: &mut Store| {
        let change = MembershipChange::Simple(ChangeOp::Remove { id: ReplicaId(1) });
        let (request, deadline) = (AdminRequest::Membership(change), store.now.plus(Duration::from_secs(5)));
        store.turn(vec![Input::Admin { region: REGION, epoch: None, request, deadline, reply: 9 }])
    };
    let first = removed(&mut store);
    let (first, other) = if offers(&first, 2) { (2, 3) } else { (3, 2) };
    // It has no disk left: the offer comes back.
    store.hear(first, 2, Body::TimeoutNow);
    let second = removed(&mut store);
    assert!(offers(&second, other) && !offers(&second, first));
}

#[test]
fn an_answer_to_an_earlier_life_of_the_store_settles_nothing() {
    let mut old = follower();
    let out = old.turn(vec![old.propose(b"before the restart", 1)]);
    let (id, _) = sent_forward(&out);
    let mut store = Store::restarted(3, Incarnation(2));
    store.follow();
    store.turn(vec![store.propose(b"after it", 2)]);
    let outcome = ForwardOutcome::Applied { reply: Bytes::from_static(b"done"), index: LogIndex(9) };
    let reply = PeerMessage::ForwardReply(ForwardReply { id, outcome });
    let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![reply] }]);
    assert_eq!(out.replies, []);
}

#[test]
fn a_new_link_has_room_again() {
    let mut store = follower();
    store.turn(vec![Input::LaneFull { peer: StoreId(2) }]);
    let link = |up| Input::Link { peer: StoreId(2), up };
    let out = store.turn(vec![link(None), Input::LaneFull { peer: StoreId(2) }, link(Some(Incarnation(2)))]);
    assert_eq!(out.replies, []);
    let out = store.turn(vec![store.propose(b"a", 1)]);
    assert!(matches!(sent_forward(&out).1, ForwardRequest::Propose { .. }));
}

fn beats(term: u64, from: u64) -> Input<u32> {
    let (region, to, commit) = (REGION, ReplicaId(1), LogIndex(0));
    let beat = Beat { region, from: ReplicaId(from), to, term: Term(term), commit, round: 5 };
    let beats = Beats { incarnation: Incarnation(1), sequence: 1, beats: vec![beat], ..Beats::default() };
    Input::Messages { from: StoreId(from), messages: vec![PeerMessage::Beats(beats)] }
}

fn beat_replies(out: &TurnOutput<u32>) -> Vec<(StoreId, u64, u64)> {
    let of = |sent: &multiraft::logic::Outgoing| match &sent.messages[..] {
        [PeerMessage::BeatReplies(replies)] => {
            replies.replies.iter().map(|reply| (sent.to, reply.term.get(), reply.round)).collect()
        }
        _ => Vec::new(),
    };
    out.sends.iter().flat_map(of).collect()
}

#[test]
fn a_quiet_heartbeat_is_answered_and_keeps_the_follower_from_campaigning() {
    let mut store = follower();
    for _ in 0..20 {
        store.after(Duration::from_millis(400));
        let out = store.turn(vec![beats(1, 2)]);
        assert_eq!(beat_replies(&out), [(StoreId(2), 1, 5)]);
        assert!(out.log.is_empty() && out.sends.len() == 1, "{out:?}");
    }
    store.after(Duration::from_secs(3));
    let asks = |out: &TurnOutput<u32>| format!("{out:?}").contains("PreVote");
    assert!(asks(&store.turn(Vec::new())), "without heartbeats it asks whether to campaign");
}

#[test]
fn heartbeats_of_another_term_or_leader_are_no_quiet_ones() {
    let mut store = follower();
    let out = store.turn(vec![beats(3, 3)]);
    assert_eq!(store.worker.status(REGION).unwrap().leader, Some(StoreId(3)));
    assert_eq!(out.log.len(), 1, "the new term is made durable");
    let out = store.turn(vec![beats(1, 2)]);
    assert_eq!(beat_replies(&out), [(StoreId(2), 3, 0)], "the old leader is told of the new term");
}

const SNAPSHOT: (LogIndex, Term) = (LogIndex(5), Term(1));

/// A leader on that store offers a snapshot.
fn offer(from: u64, term: u64, transfer: u64) -> Input<u32> {
    let descriptor = bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1].clone();
    let step =
        SnapshotStep::Offer { index: SNAPSHOT.0, index_term: SNAPSHOT.1, descriptor, size_hint: 0, capture: None };
    let (from_id, to, term) = (ReplicaId(from), ReplicaId(1), Term(term));
    let message = SnapshotMessage { transfer, region: REGION, from: from_id, to, term, step };
    Input::Messages { from: StoreId(from), messages: vec![PeerMessage::Snapshot(message)] }
}

/// The first entries of the log, up to the offered snapshot's, by the leader on store 2.
fn entries_instead_of_a_snapshot() -> Input<u32> {
    let entry = |index| multiraft_raft::Entry {
        term: SNAPSHOT.1,
        index: LogIndex(index),
        kind: multiraft_raft::EntryKind::Empty,
        data: Payload::new(),
    };
    let entries = (1..=SNAPSHOT.0.get()).map(entry).collect();
    let body = Body::Append { prev_index: LogIndex(0), prev_term: Term(0), commit: LogIndex(0), entries };
    let message = Message { from: ReplicaId(2), to: ReplicaId(1), term: Term(1), body };
    let append = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
    Input::Messages { from: StoreId(2), messages: vec![append] }
}

/// The steps of snapshot conversations that a turn sends: to whom, about which transfer.
fn snapshot_steps(out: &TurnOutput<u32>) -> Vec<(u64, u64, SnapshotStep)> {
    let mut steps = Vec::new();
    for sent in &out.sends {
        for message in &sent.messages {
            if let PeerMessage::Snapshot(snapshot) = message {
                steps.push((sent.to.get(), snapshot.transfer, snapshot.step.clone()));
            }
        }
    }
    steps
}

#[test]
fn the_sender_of_a_snapshot_that_is_of_no_use_or_lost_is_told_so() {
    let mut store = follower();
    let out = store.turn(vec![offer(2, 1, 7)]);
    assert_eq!(snapshot_steps(&out), [(2, 7, SnapshotStep::Accept { first_chunk: 0 })]);
    store.turn(vec![entries_instead_of_a_snapshot()]);
    let header = SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: 7,
        region: REGION,
        to: ReplicaId(1),
        index: SNAPSHOT.0,
        index_term: SNAPSHOT.1,
        descriptor: bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1].clone(),
        first_chunk: 0,
        capture: CaptureId { store: StoreId(2), incarnation: Incarnation(1), number: 1 },
    };
    let out = store.turn(vec![Input::SnapshotReceived { from: StoreId(2), header }]);
    assert_eq!(snapshot_steps(&out), [(2, 7, SnapshotStep::Finished { installed: false })]);
    assert!(matches!(out.snapshots[..], [SnapshotTask::Discard { from: StoreId(2), .. }]), "{:?}", out.snapshots);
    assert!(out.apply.is_empty(), "{:?}", out.apply);

    let mut store = follower();
    store.turn(vec![offer(2, 1, 8)]);
    let out = store.turn(vec![Input::SnapshotLost { from: StoreId(2), transfer: 8, kept: None }]);
    assert_eq!(snapshot_steps(&out), [(2, 8, SnapshotStep::Finished { installed: false })]);
}

#[test]
fn a_new_leaders_offer_does_not_wait_for_an_old_leaders_snapshot() {
    let mut store = follower();
    store.turn(vec![offer(2, 1, 7)]);
    store.turn(vec![beats(3, 3)]);
    let out = store.turn(vec![offer(3, 3, 9)]);
    assert!(matches!(snapshot_steps(&out)[..], [(3, 9, SnapshotStep::Refuse { retry_after_ms: 1.. })]));
    assert!(matches!(out.snapshots[..], [SnapshotTask::Cancel { from: Some(StoreId(2)), transfer: 7 }]));
    let out = store.turn(vec![Input::SnapshotLost { from: StoreId(2), transfer: 7, kept: None }]);
    assert_eq!(snapshot_steps(&out), [(2, 7, SnapshotStep::Finished { installed: false })]);
    let out = store.turn(vec![offer(3, 3, 10)]);
    assert_eq!(snapshot_steps(&out), [(3, 10, SnapshotStep::Accept { first_chunk: 0 })]);
    // The old leader does not get the place back.
    let out = store.turn(vec![offer(2, 1, 11)]);
    assert!(matches!(snapshot_steps(&out)[..], [(2, 11, SnapshotStep::Refuse { retry_after_ms: 1.. })]));
    assert!(out.snapshots.is_empty(), "{:?}", out.snapshots);
}

#[test]
fn a_damaged_replica_is_not_made_anew_by_a_message_and_a_later_one_is() {
    let mut store = follower();
    store.turn(vec![Input::Damaged { region: REGION }]);
    for (replica, is_made) in [(1, false), (4, true)] {
        let mut descriptor = (*bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1]).clone();
        descriptor.replicas[0].id = ReplicaId(replica);
        let body = Body::Vote { last_index: LogIndex(9), last_term: Term(1), transfer: false };
        let message = Message { from: ReplicaId(2), to: ReplicaId(replica), term: Term(5), body };
        let vote = RaftMessage { region: REGION, message, descriptor: Some(Arc::new(descriptor)) };
        let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![PeerMessage::Raft(vote)] }]);
        let made = out.apply.iter().any(|task| matches!(task, ApplyTask::Create { .. }));
        assert_eq!(made, is_made, "{out:?}");
        assert!(out.log.is_empty() && out.sends.is_empty(), "{out:?}");
    }
}

#[test]
fn a_replica_that_was_removed_before_its_region_was_merged_goes_and_one_that_was_not_stays() {
    for (is_listed, goes) in [(false, true), (true, false)] {
        let mut store = follower();
        let mut descriptor = (*bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1]).clone();
        descriptor.epoch.conf_version += 1;
        descriptor.epoch.version += 1;
        if !is_listed {
            descriptor.replicas.remove(0);
        }
        let (descriptor, committed) = (Arc::new(descriptor), (LogIndex(9), Term(1)));
        let step = RegionStep::Tell { descriptor, merged: true, committed };
        let told = PeerMessage::Region(RegionMessage { region: REGION, step });
        let told = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![told] }]);
        store.after(Duration::from_millis(100));
        let next = store.turn(Vec::new());
        let went =
            [told, next].iter().any(|out| out.apply.iter().any(|task| matches!(task, ApplyTask::Destroy { .. })));
        assert_eq!(went, goes, "it is {}listed", if is_listed { "" } else { "not " });
    }
}

#[test]
fn a_leader_whose_follower_is_gone_for_good_is_told_so_when_its_heartbeat_comes() {
    let (_, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
    let mut last = (*bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1]).clone();
    last.epoch.conf_version += 1;
    last.replicas.remove(1);
    let (descriptor, committed) = (Arc::new(last), (LogIndex(9), Term(2)));
    for (replica, cause) in [(1, Cause::Removed), (1, Cause::Merged), (0, Cause::Removed)] {
        let (replica, known) = (ReplicaId(replica), Arc::clone(&descriptor));
        let tombstone =
            Tombstone { replica, descriptor: known, cause, version: 1, absorbed: Default::default(), committed };
        let mut residue = Residue::default();
        residue.tombstones.insert(REGION, tombstone);
        let worker: Worker<u32> = Worker::new(worker_config(&[StoreId(2)]), recovered.token(0), &[], Time::ZERO);
        let mut worker = worker.with_residue(residue);
        let beat =
            Beat { region: REGION, from: ReplicaId(2), to: ReplicaId(1), term: Term(2), commit: LogIndex(9), round: 0 };
        let beats = PeerMessage::Beats(Beats { beats: vec![beat], ..Beats::default() });
        let up = Input::Link { peer: StoreId(2), up: Some(Incarnation(1)) };
        let mut out = TurnOutput::default();
        worker.turn(Time::ZERO, &mut vec![up, Input::Messages { from: StoreId(2), messages: vec![beats] }], &mut out);
        let merged = cause == Cause::Merged;
        let tell = RegionStep::Tell { descriptor: Arc::clone(&descriptor), merged, committed };
        let told = PeerMessage::Region(RegionMessage { region: REGION, step: tell });
        let is_told = out.sends.iter().any(|sent| sent.to == StoreId(2) && sent.messages.contains(&told));
        // A tombstone of an earlier replica says nothing about this one.
        assert_eq!(is_told, replica == ReplicaId(1), "{out:?}");
    }
}

/// Without a check of its quorum such a one would lead for ever, and its store could not be given the region's replica again.
#[test]
fn a_leader_that_was_removed_is_told_so_by_a_store_that_has_a_later_replica() {
    let heartbeat = Body::Heartbeat { commit: LogIndex(1), round: 0 };
    let fortify = Body::Fortify { epoch: 1 };
    let append = Body::Append { prev_index: LogIndex(1), prev_term: Term(1), commit: LogIndex(1), entries: Vec::new() };
    for body in [heartbeat, fortify, append] {
        // The sender's replica, whom it means, and whether it has to be told.
        for (sender, meant, is_told) in [(9, 0, true), (2, 0, false), (9, 1, false)] {
            let mut store = follower();
            let own = Arc::clone(&bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1]);
            let message = Message { from: ReplicaId(sender), to: ReplicaId(meant), term: Term(2), body: body.clone() };
            let speaks = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
            let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![speaks] }]);
            let tells = |message: &PeerMessage| match message {
                PeerMessage::Region(RegionMessage {
                    step: RegionStep::Tell { descriptor, merged: false, .. }, ..
                }) => *descriptor == own,
                _ => false,
            };
            let told = out.sends.iter().any(|sent| sent.to == StoreId(2) && sent.messages.iter().any(tells));
            assert_eq!(told, is_told, "{sender} to {meant}: {out:?}");
        }
    }
}

#[test]
fn a_candidate_that_was_removed_is_told_so_by_those_whom_it_asks_for_votes() {
    for (past, is_told) in [(1, true), (0, false)] {
        let mut store = follower();
        let own = Arc::clone(&bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1]);
        let mut its = (*own).clone();
        its.epoch.conf_version -= past;
        its.replicas[1].id = ReplicaId(9);
        let body = Body::PreVote { last_index: LogIndex(1), last_term: Term(1) };
        let message = Message { from: ReplicaId(9), to: ReplicaId(1), term: Term(2), body };
        let asks = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: Some(Arc::new(its)) });
        let out = store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![asks] }]);
        let tells = |message: &PeerMessage| match message {
            PeerMessage::Region(RegionMessage { step: RegionStep::Tell { descriptor, merged: false, .. }, .. }) => {
                *descriptor == own
            }
            _ => false,
        };
        let told = out.sends.iter().any(|sent| sent.to == StoreId(2) && sent.messages.iter().any(tells));
        assert_eq!(told, is_told, "{out:?}");
    }
}
