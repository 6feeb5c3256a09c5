//! Consistency checks at one worker and a real applier: who is asked when, what is proposed, what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::apply::{AppliedRegion, Applier, Backend, Cause, Destroyed, DigestTask, Tombstone};
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::logic::{
    Absorbed, AdminCommand, AdminRequest, ApplyTask, DigestAnswer, Frozen, Input, MergeState, Notice, Outcome, Residue,
    StateDigest, TurnOutput, Worker,
};
use multiraft::snapshots::SnapshotFiles;
use multiraft::{
    Incarnation, LogIndex, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_raft::{Body, Message, Time};
use multiraft_storage::{LogBatch, LogOptions, LogWriter, MemStore, SimDisk};
use multiraft_transport::{PeerMessage, RaftMessage, RegionMessage, RegionStep};

use crate::nothing::{Nothing, apply};
use crate::turns::{said, take_turns};
use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);
const SECOND: StoreId = StoreId(2);
const LEARNER: ReplicaId = ReplicaId(2);

/// Store 1 with one region; its second replica is on store 2, of which the test makes up what it says.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    applier: Applier,
    now: Time,
    replies: Vec<(u32, Outcome)>,
    notices: Vec<Notice>,
    said: Vec<RegionStep>,
    /// Digests that are to be taken.
    digests: Vec<DigestTask>,
}

impl Store {
    /// The second replica is a learner.
    fn leading() -> Self {
        let mut store = Self::new(Role::Learner, MergeState::default());
        store.pass(Duration::from_millis(100));
        assert!(store.worker.status(REGION).unwrap().is_leader);
        store
    }

    fn new(second: Role, merge: MergeState) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let mut descriptor = RegionDescriptor::clone(&bootstrap_regions(&[], &[StoreId(1)])[1]);
        descriptor.range.end = Bytes::from_static(b"m");
        descriptor.replicas.push(Replica { id: LEARNER, store: SECOND, role: second });
        let mut start = empty_start(Arc::new(descriptor));
        start.merge = merge.clone();
        let starts = [start];
        let worker = Worker::new(worker_config(&[SECOND]), recovered.token(0), &starts, Time::ZERO);
        let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(2))).unwrap();
        let backend = Backend::shared(Arc::new(Nothing), Arc::new(MemStore::new())).of_store(StoreId(1), &files);
        backend.begin(&starts, &BTreeMap::new());
        let [start] = starts;
        let (descriptor, index, term) = (start.descriptor, start.applied, start.applied_term);
        let applier = backend.applier([AppliedRegion { descriptor, index, term, installed: false, merge }]);
        let (replies, notices, said, digests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut store = Self { worker, log, applier, now: Time::ZERO, replies, notices, said, digests };
        store.run(vec![Input::Link { peer: SECOND, up: Some(Incarnation(1)) }]);
        store
    }

    /// Takes turns, with every append durable at once, until nothing more happens.
    fn run(&mut self, inputs: Vec<Input<u32>>) {
        take_turns((&mut self.worker, &mut self.log), self.now, inputs, |out, inputs| {
            self.replies.append(&mut out.replies);
            self.notices.append(&mut out.notices);
            self.said.extend(said(out).filter_map(|(_, message)| match message {
                PeerMessage::Region(RegionMessage { step, .. }) => Some(step),
                _ => None,
            }));
            let mut batch = apply(&mut self.applier, out, inputs);
            self.replies.append(&mut batch.replies);
            self.digests.append(&mut batch.checks);
        });
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.run(Vec::new());
    }

    /// Asks the region for something; the answer is there at once.
    fn ask_at(&mut self, region: RegionId, epoch: Option<RegionEpoch>, request: AdminRequest) -> Outcome {
        let deadline = self.now.plus(Duration::from_secs(5));
        self.run(vec![Input::Admin { region, epoch, request, deadline, reply: 1 }]);
        assert_eq!(self.replies.len(), 1);
        self.replies.remove(0).1
    }

    fn ask(&mut self, request: AdminRequest) -> Outcome {
        self.ask_at(REGION, None, request)
    }

    fn check(&mut self) -> LogIndex {
        match self.ask(CHECK) {
            Outcome::Applied { index, .. } => index,
            other => panic!("{other:?}"),
        }
    }

    /// Takes the digests that are to be taken here; the last one.
    fn take_digest(&mut self) -> StateDigest {
        let task = self.digests.pop().unwrap();
        let (handle, index, answer) = (task.handle, task.index, task.run(&|| false));
        self.run(vec![Input::Digest { handle, index, answer }]);
        match answer {
            DigestAnswer::Digest(digest) => digest,
            other => panic!("{other:?}"),
        }
    }

    /// Store 2 says something of the region; what it is told in the same turn.
    fn hear(&mut self, step: RegionStep) -> Vec<RegionStep> {
        self.said.clear();
        let message = PeerMessage::Region(RegionMessage { region: REGION, step });
        self.run(vec![Input::Messages { from: SECOND, messages: vec![message] }]);
        std::mem::take(&mut self.said)
    }

    fn last_index(&self) -> LogIndex {
        self.worker.status(REGION).unwrap().last_index
    }
}

const CHECK: AdminRequest = AdminRequest::Command(AdminCommand::Check);

/// The wire form of a digest: zero, then its bytes.
fn told(digest: StateDigest) -> Bytes {
    [&[0][..], &digest.0].concat().into()
}

#[test]
fn the_leader_asks_until_all_have_answered_and_fences_who_differs() {
    let mut store = Store::leading();
    let index = store.check();
    store.pass(Duration::from_millis(50));
    assert_eq!(store.said.iter().filter(|step| **step == RegionStep::AskDigest { index }).count(), 1);
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Busy { .. }));
    assert!(matches!(store.ask(CHECK), Outcome::Busy { .. }), "one at a time");
    let proven = store.take_digest();
    store.pass(Duration::from_millis(50));
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Busy { .. }), "one has not answered");
    store.said.clear();
    store.pass(Duration::from_millis(200));
    assert_eq!(store.said, [RegionStep::AskDigest { index }], "asked again");
    // What another store says for that replica, or for another index, does not count.
    let wrong = told(StateDigest([7; 32]));
    let other = |replica, index| RegionStep::Digest { replica, index, answer: wrong.clone() };
    store.hear(other(ReplicaId(1), index));
    store.hear(other(LEARNER, index.next()));
    store.hear(RegionStep::Digest { replica: LEARNER, index, answer: Bytes::from_static(&[9]) });
    store.pass(Duration::from_millis(50));
    assert!(!store.notices.iter().any(|notice| matches!(notice, Notice::ReplicasDiffer(_))));
    store.hear(other(LEARNER, index));
    store.pass(Duration::from_millis(50));
    let report = store.notices.iter().find_map(|notice| match notice {
        Notice::ReplicasDiffer(report) => Some(report.clone()),
        _ => None,
    });
    assert_eq!(report.unwrap().expected, Some(proven));
    let fenced = store.notices.iter().filter(|notice| matches!(notice, Notice::ReplicaFenced { store: SECOND, .. }));
    assert_eq!(fenced.count(), 1);
    store.pass(Duration::from_millis(50));
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Applied { .. }));
    let ends = store.notices.iter().filter(|notice| matches!(notice, Notice::Checked { is_consistent: false, .. }));
    assert_eq!(ends.count(), 1);
    // While it is fenced the region is not merged, and it cannot be made the leader.
    let target = RegionDescriptor::clone(&store.worker.status(REGION).unwrap().descriptor);
    let range = multiraft::KeyRange { start: Bytes::from_static(b"m"), end: Bytes::new() };
    let target = Arc::new(RegionDescriptor { id: RegionId(3), range, ..target });
    assert!(matches!(
        store.ask(AdminRequest::Command(AdminCommand::Freeze { target })),
        Outcome::Refused { reason } if reason.contains("fenced")
    ));
    assert_eq!(store.worker.led_page(0, 1024).led[0].fenced, [LEARNER], "whoever plans hears of it");
    let deadline = store.now.plus(Duration::from_secs(5));
    store.run(vec![Input::Transfer { region: REGION, to: SECOND, deadline, reply: 2 }]);
    assert!(matches!(&store.replies.remove(0).1, Outcome::Refused { reason } if reason.contains("fenced")));
    // The fenced one is not asked any more, and told of only once.
    store.said.clear();
    let again = store.check();
    store.take_digest();
    store.pass(Duration::from_millis(50));
    assert_eq!(store.said, []);
    assert!(matches!(store.ask(AdminRequest::Findings { index: again }), Outcome::Applied { .. }));
}

#[test]
fn a_store_without_a_link_is_waited_for_only_shortly() {
    let mut store = Store::leading();
    store.run(vec![Input::Link { peer: SECOND, up: None }]);
    let index = store.check();
    store.take_digest();
    store.pass(Duration::from_millis(50));
    store.pass(Duration::from_millis(1900));
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Busy { .. }));
    store.pass(Duration::from_millis(200));
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Applied { .. }));
    assert!(store.notices.contains(&Notice::Checked { region: REGION, is_consistent: true }));
}

#[test]
fn a_replica_tells_its_digest_for_a_while_and_that_there_is_none() {
    let mut store = Store::leading();
    let before = store.last_index();
    let replica = ReplicaId(1);
    let missing = |index| RegionStep::Digest { replica, index, answer: Bytes::from_static(&[2]) };
    assert_eq!(store.hear(RegionStep::AskDigest { index: before }), [missing(before)], "passed without a check");
    assert_eq!(store.hear(RegionStep::AskDigest { index: before.next() }), [], "it may still come");
    let index = store.check();
    assert_eq!(index, before.next());
    assert_eq!(store.hear(RegionStep::AskDigest { index }), [], "it is being taken");
    let answer = told(store.take_digest());
    assert_eq!(store.hear(RegionStep::AskDigest { index }), [RegionStep::Digest { replica, index, answer }]);
    store.pass(Duration::from_secs(121));
    assert_eq!(store.hear(RegionStep::AskDigest { index }), [missing(index)]);
}

#[test]
fn findings_of_a_check_that_this_leader_has_not_seen_are_gathered_anew() {
    let mut store = Store::leading();
    let index = store.last_index();
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Busy { .. }));
    store.said.clear();
    store.pass(Duration::from_millis(50));
    assert_eq!(store.said, [RegionStep::AskDigest { index }]);
    store.hear(RegionStep::Digest { replica: LEARNER, index, answer: told(StateDigest([7; 32])) });
    store.pass(Duration::from_millis(50));
    assert!(matches!(store.ask(AdminRequest::Findings { index }), Outcome::Applied { .. }));
    assert!(
        store.notices.contains(&Notice::Checked { region: REGION, is_consistent: true }),
        "one alone differs from none"
    );
}

#[test]
fn what_cannot_be_checked_is_refused_and_nothing_is_proposed() {
    let mut store = Store::leading();
    let last = store.last_index();
    let current = store.worker.status(REGION).unwrap().descriptor;
    let epoch = |conf_version, version| Some(RegionEpoch { conf_version, version });
    for outdated in [epoch(0, 1), epoch(1, 0)] {
        assert_eq!(store.ask_at(REGION, outdated, CHECK), Outcome::EpochMismatch { current: current.clone() });
    }
    assert!(matches!(store.ask_at(REGION, epoch(9, 9), CHECK), Outcome::Busy { .. }), "heard of elsewhere");
    let unknown = store.ask_at(RegionId(77), None, CHECK);
    assert!(matches!(unknown, Outcome::UnknownRegion | Outcome::NotLeader { .. }), "{unknown:?}");
    let fence = AdminCommand::FenceReplicas { index: last, expected: StateDigest([7; 32]), replicas: vec![LEARNER] };
    assert!(matches!(store.ask(AdminRequest::Command(fence)), Outcome::Refused { .. }), "nobody outside decides that");
    assert_eq!(store.last_index(), last);
}

#[test]
fn a_frozen_region_is_not_checked() {
    let frozen = Frozen { index: LogIndex(1), target: bootstrap_regions(&[], &[StoreId(1)])[1].clone() };
    let merge = MergeState { frozen: Some(Arc::new(frozen)), ..MergeState::default() };
    let mut store = Store::new(Role::Learner, merge);
    store.pass(Duration::from_millis(100));
    let last = store.last_index();
    println!("{:?}", store.worker.status(REGION));
    assert!(matches!(store.ask(CHECK), Outcome::Busy { .. }));
    assert_eq!(store.last_index(), last);
}

#[test]
fn a_joint_region_is_not_checked() {
    let mut store = Store::new(Role::IncomingVoter, MergeState::default());
    let hear = |store: &mut Store, term, body| {
        let message = Message { from: LEARNER, to: ReplicaId(1), term: Term(term), body };
        let said = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
        store.run(vec![Input::Messages { from: SECOND, messages: vec![said] }]);
    };
    store.pass(Duration::from_secs(5));
    hear(&mut store, 1, Body::PreVoteReply { granted: true });
    hear(&mut store, 1, Body::VoteReply { granted: true });
    assert!(store.worker.status(REGION).unwrap().is_leader);
    // The term's first entry is committed; what leaves the joint configuration is not.
    let first = LogIndex(1);
    hear(&mut store, 1, Body::AppendReply(multiraft_raft::AppendOutcome::Accepted { match_index: first }));
    let last = store.last_index();
    assert!(store.worker.status(REGION).unwrap().descriptor.replicas[1].role.is_joint());
    assert!(matches!(store.ask(CHECK), Outcome::Busy { .. }));
    assert_eq!(store.last_index(), last);
}

#[test]
fn a_replica_out_of_service_asks_and_goes_once_its_region_goes_on_without_it() {
    let (mut log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
    let first = bootstrap_regions(&[], &[StoreId(1), SECOND])[1].clone();
    let at = |conf_version, stores: &[u64]| {
        let replica = |id: &u64| Replica { id: ReplicaId(*id), store: StoreId(*id), role: Role::Voter };
        let epoch = RegionEpoch { conf_version, ..first.epoch };
        let replicas = stores.iter().map(replica).collect();
        Arc::new(RegionDescriptor { epoch, replicas, ..RegionDescriptor::clone(&first) })
    };
    let mut residue = Residue::default();
    residue.suspects.insert(REGION, ReplicaId(2));
    residue.held.insert(REGION, Arc::clone(&first));
    assert!(residue.is_all_held());
    let worker: Worker<u32> = Worker::new(worker_config(&[SECOND]), recovered.token(0), &[], Time::ZERO);
    let mut worker = worker.with_residue(residue);
    assert_eq!(worker.led_page(0, 1024).aside, [(REGION, ReplicaId(1))], "whoever plans hears of it");
    assert_eq!(worker.led_page(1, 1024).aside, [], "once");
    let mut turn = |now, mut inputs: Vec<Input<u32>>| {
        let mut out = TurnOutput::default();
        worker.turn(now, &mut inputs, &mut out);
        out
    };
    let up = Input::Link { peer: SECOND, up: Some(Incarnation(1)) };
    let out = turn(Time::ZERO.plus(Duration::from_millis(100)), vec![up]);
    let ask = RegionStep::Ask { replica: ReplicaId(1), epoch: first.epoch };
    let said = |out: &TurnOutput<u32>, step: &RegionStep| {
        let message = PeerMessage::Region(RegionMessage { region: REGION, step: step.clone() });
        out.sends.iter().any(|sent| sent.to == SECOND && sent.messages.contains(&message))
    };
    assert!(said(&out, &ask));
    let tell = |descriptor| {
        let step = RegionStep::Tell { descriptor, merged: false, committed: (LogIndex(9), Term(2)) };
        let message = PeerMessage::Region(RegionMessage { region: REGION, step });
        Input::Messages { from: SECOND, messages: vec![message] }
    };
    // What is no newer, and what still names it, changes nothing.
    for known in [at(1, &[2]), at(2, &[1, 2])] {
        assert_eq!(turn(Time::ZERO.plus(Duration::from_secs(1)), vec![tell(known)]).apply, []);
    }
    let gone = at(3, &[2]);
    let out = turn(Time::ZERO.plus(Duration::from_secs(2)), vec![tell(gone.clone())]);
    let (known, committed) = (Arc::clone(&gone), (LogIndex(9), Term(2)));
    assert_eq!(out.apply, [ApplyTask::Destroy { region: REGION, known, cause: Cause::Removed, committed }]);
    let again = turn(Time::ZERO.plus(Duration::from_secs(3)), vec![tell(gone.clone())]);
    assert_eq!(again.apply, [], "it is on its way");
    let tombstone = Tombstone {
        replica: ReplicaId(1),
        descriptor: Arc::clone(&gone),
        cause: Cause::Removed,
        version: 1,
        absorbed: Absorbed::default(),
        committed,
    };
    let committed = Default::default();
    let destroyed = Input::Destroyed(Destroyed { region: REGION, known: gone, committed, tombstone: Some(tombstone) });
    let out = turn(Time::ZERO.plus(Duration::from_secs(4)), vec![destroyed]);
    assert!(out.notices.contains(&Notice::Cleared { region: REGION }));
    assert!(out.log.iter().any(|record| record.region == REGION), "its records leave the log");
    log.commit(vec![LogBatch { ticket: out.ticket, records: out.log }]).unwrap();
    let out = turn(Time::ZERO.plus(Duration::from_secs(20)), Vec::new());
    assert!(!said(&out, &ask), "nothing is left to ask for");
    assert_eq!(worker.led_page(0, 1024).aside, []);
}
