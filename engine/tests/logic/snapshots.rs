//! The snapshot conversation as a worker leads it: inputs, times, and the outputs compared as data.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::logic::{
    Applied, ApplyTask, Input, KeptSnapshot, MergeState, RegionHandle, SnapshotInstalled, SnapshotLimits, SnapshotTask,
    TurnOutput, Worker, WorkerConfig,
};
use multiraft::{Incarnation, LogIndex, RaftOptions, RegionDescriptor, RegionId, StoreId};
use multiraft_raft::{AppendOutcome, Body, Entry, EntryKind, Message, Payload, RegionEpoch, ReplicaId, Term, Time};
use multiraft_storage::{LogBatch, LogOptions, LogWriter, SimDisk};
use multiraft_transport::{
    BeatReplies, BeatReply, CaptureId, PeerMessage, RaftMessage, SnapshotHeader, SnapshotMessage, SnapshotStep,
};

use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);
const STEP: Duration = Duration::from_millis(50);
const THIRD: StoreId = StoreId(3);

fn limits() -> SnapshotLimits {
    SnapshotLimits {
        step_timeout: Duration::from_secs(30),
        hold_entries: 1000,
        hold_bytes: 1 << 20,
        kept_for: Duration::from_secs(60),
        kept_count: 2,
        kept_bytes: 1 << 20,
        retry_min: Duration::from_millis(500),
        retry_max: Duration::from_secs(60),
    }
}

/// Store 1, with two others that the test plays: store 2 takes and acknowledges everything; store 3 has nothing, says so, and
/// leaves the snapshot conversation to the test.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
    descriptor: Arc<RegionDescriptor>,
    /// What the worker wants done about snapshots, and what it has told store 3.
    tasks: Vec<SnapshotTask>,
    told: Vec<SnapshotMessage>,
    /// How often the applier was asked to install a snapshot.
    installs: usize,
    /// What store 3 has, as it tells.
    third_has: LogIndex,
    is_third_up: bool,
}

impl Store {
    fn new(limits: SnapshotLimits, raft: RaftOptions) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
        let descriptor = Arc::clone(&bootstrap_regions(&[], &stores)[1]);
        let config = WorkerConfig {
            raft: Arc::new(raft),
            compact_entries: 10,
            compact_keep_entries: 0,
            snapshots: limits,
            ..worker_config(&stores[1..])
        };
        let worker = Worker::new(config, recovered.token(0), &[empty_start(Arc::clone(&descriptor))], Time::ZERO);
        let (tasks, told, third_has) = (Vec::new(), Vec::new(), LogIndex::ZERO);
        let (now, installs, is_third_up) = (Time::ZERO, 0, false);
        let mut store = Self { worker, log, now, descriptor, tasks, told, installs, third_has, is_third_up };
        store.link(StoreId(2), true);
        store.link(THIRD, true);
        store
    }

    /// A follower of store 2, which need not be heard of again.
    fn follower(limits: SnapshotLimits) -> Self {
        let hour = Duration::from_secs(3600);
        Self::following(
            limits,
            RaftOptions { election_timeout_min: hour, election_timeout_max: hour * 2, ..RaftOptions::default() },
        )
    }

    fn following(limits: SnapshotLimits, raft_options: RaftOptions) -> Self {
        let mut store = Self::new(limits, raft_options);
        let (prev_index, prev_term) = (LogIndex::ZERO, Term::ZERO);
        let body = Body::Append { prev_index, prev_term, commit: LogIndex::ZERO, entries: Vec::new() };
        store.run(vec![raft(2, 1, body)]);
        store
    }

    /// The leader of a log that begins after what store 3 has.
    fn leader(limits: SnapshotLimits) -> Self {
        let mut store = Self::following(limits, RaftOptions::default());
        store.run(vec![raft(2, 1, Body::TimeoutNow)]);
        assert!(store.worker.status(REGION).unwrap().is_leader);
        store.write(20);
        store.checkpoint();
        assert!(store.first().get() > 1);
        store.wait(Duration::from_secs(1));
        store
    }

    fn link(&mut self, peer: StoreId, up: bool) {
        if peer == THIRD {
            self.is_third_up = up;
        }
        self.run(vec![Input::Link { peer, up: up.then_some(Incarnation(1)) }]);
    }

    fn first(&self) -> LogIndex {
        self.worker.status(REGION).unwrap().first_index
    }

    fn last(&self) -> LogIndex {
        self.worker.status(REGION).unwrap().last_index
    }

    fn handle(&self) -> RegionHandle {
        self.worker.handles().next().unwrap()
    }

    /// Runs turns, with the answers of the log, the applier and the peers, until nothing more happens.
    fn run(&mut self, inputs: Vec<Input<u32>>) {
        let mut inputs = inputs;
        for _ in 0..100 {
            let mut out = TurnOutput::default();
            self.worker.turn(self.now, &mut inputs, &mut out);
            inputs = self.answers(out);
            if inputs.is_empty() {
                return;
            }
        }
        panic!("no end of it");
    }

    fn answers(&mut self, mut out: TurnOutput<u32>) -> Vec<Input<u32>> {
        let mut inputs = Vec::new();
        self.tasks.append(&mut out.snapshots);
        if !out.log.is_empty() {
            let batch = LogBatch { ticket: out.ticket, records: std::mem::take(&mut out.log) };
            inputs.extend(self.log.commit(vec![batch]).unwrap().into_iter().map(|token| Input::Flushed { token }));
        }
        self.installs += out.apply.iter().filter(|task| matches!(task, ApplyTask::Install { .. })).count();
        let applied: Vec<Applied> = out.apply.iter().filter_map(applied).collect();
        if !applied.is_empty() {
            inputs.push(Input::Applied(applied));
        }
        for sent in out.sends {
            for message in sent.messages {
                match message {
                    PeerMessage::Raft(raft) => inputs.extend(self.peer(sent.to, raft.message)),
                    PeerMessage::Snapshot(message) => self.told.push(message),
                    _ => {}
                }
            }
        }
        for share in out.beats.into_iter().filter(|share| share.to != THIRD || self.is_third_up) {
            let reply = |beat: &multiraft_transport::Beat| BeatReply {
                region: beat.region,
                from: beat.to,
                to: beat.from,
                term: beat.term,
                round: beat.round,
            };
            let replies: Vec<BeatReply> = share.beats.iter().map(reply).collect();
            if !replies.is_empty() {
                let replies = BeatReplies { incarnation: Incarnation(1), epoch: 0, sequence: 1, replies };
                inputs.push(Input::Messages { from: share.to, messages: vec![PeerMessage::BeatReplies(replies)] });
            }
        }
        inputs
    }

    fn peer(&self, store: StoreId, message: Message) -> Option<Input<u32>> {
        let term = message.term.get();
        if store == THIRD && !self.is_third_up {
            return None;
        }
        match message.body {
            Body::PreVote { .. } => Some(raft(store.get(), term, Body::PreVoteReply { granted: true })),
            Body::Vote { .. } => Some(raft(store.get(), term, Body::VoteReply { granted: true })),
            Body::Append { prev_index, entries, .. } => {
                let outcome = if store == THIRD && prev_index > self.third_has {
                    let hint_index = self.third_has;
                    // All that is written here is of one term.
                    let hint_term = if hint_index == LogIndex::ZERO { Term::ZERO } else { Term(2) };
                    AppendOutcome::Rejected { prev_index, hint_index, hint_term }
                } else {
                    let match_index = entries.last().map_or(prev_index, |entry| entry.index);
                    AppendOutcome::Accepted { match_index }
                };
                Some(raft(store.get(), term, Body::AppendReply(outcome)))
            }
            _ => None,
        }
    }

    fn write(&mut self, commands: usize) {
        let deadline = self.now.plus(Duration::from_secs(5));
        let propose = |_| Input::Propose {
            region: REGION,
            epoch: None,
            session: None,
            command: Payload::copy_from_slice(b"0123456789012345678901234567890123456789"),
            deadline,
            reply: 1,
        };
        self.run((0..commands).map(propose).collect());
    }

    fn checkpoint(&mut self) {
        let applied = self.worker.status(REGION).unwrap().applied;
        self.run(vec![Input::Checkpointed(vec![(REGION, applied)])]);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while self.now < end {
            self.now = self.now.plus(STEP);
            self.run(Vec::new());
        }
    }

    /// What was said to store 3 since this was last asked.
    fn told(&mut self) -> Vec<SnapshotStep> {
        std::mem::take(&mut self.told).into_iter().map(|message| message.step).collect()
    }

    fn tasks(&mut self) -> Vec<SnapshotTask> {
        std::mem::take(&mut self.tasks)
    }

    /// The one offer that was made since, with its transfer.
    fn offer(&mut self) -> (u64, LogIndex, Option<CaptureId>, u64) {
        let told = std::mem::take(&mut self.told);
        let [SnapshotMessage { transfer, step: SnapshotStep::Offer { index, capture, size_hint, .. }, .. }] = told[..]
        else {
            panic!("one offer is wanted, not {told:?}")
        };
        (transfer, index, capture, size_hint)
    }

    /// Store 3 says something.
    fn third_says(&mut self, transfer: u64, step: SnapshotStep) {
        self.says(3, transfer, step);
    }

    fn says(&mut self, from: u64, transfer: u64, step: SnapshotStep) {
        let (region, to, term) = (REGION, ReplicaId(1), Term(1));
        let message = SnapshotMessage { transfer, region, from: ReplicaId(from), to, term, step };
        self.run(vec![Input::Messages { from: StoreId(from), messages: vec![PeerMessage::Snapshot(message)] }]);
    }

    fn kept(&self, capture: CaptureId, index: LogIndex, chunks: u64, bytes: u64) -> Option<KeptSnapshot> {
        let descriptor = Arc::clone(&self.descriptor);
        Some(KeptSnapshot { region: REGION, capture, index, index_term: Term(2), descriptor, chunks, bytes })
    }

    /// A transfer of which nothing is kept, up to where the stream runs: its name and the capture's.
    fn streaming(&mut self) -> (u64, LogIndex, CaptureId) {
        let (transfer, index, capture, _) = self.offer();
        assert_eq!(capture, None);
        self.third_says(transfer, SnapshotStep::Accept { first_chunk: 0 });
        let name = CaptureId { store: StoreId(1), incarnation: Incarnation(1), number: transfer };
        assert_eq!(self.tasks(), [send(self.handle(), transfer, 0, name)]);
        (transfer, index, name)
    }
}

fn send(handle: RegionHandle, transfer: u64, first_chunk: u64, capture: CaptureId) -> SnapshotTask {
    SnapshotTask::Send { handle, transfer, to: THIRD, replica: ReplicaId(3), first_chunk, capture }
}

fn raft(from: u64, term: u64, body: Body) -> Input<u32> {
    let message = Message { from: ReplicaId(from), to: ReplicaId(1), term: Term(term), body };
    let message = PeerMessage::Raft(RaftMessage { region: REGION, message, descriptor: None });
    Input::Messages { from: StoreId(from), messages: vec![message] }
}

fn applied(task: &ApplyTask<u32>) -> Option<Applied> {
    let ApplyTask::Entries { handle, entries, .. } = task else { return None };
    let cost = entries.iter().map(multiraft_raft::Entry::cost).sum();
    Some(Applied {
        handle: *handle,
        index: entries.last().unwrap().index,
        cost,
        memberships: Vec::new(),
        split: None,
        change: None,
    })
}

#[test]
fn a_broken_transfer_goes_on_from_the_chunk_that_the_receiver_lacks() {
    let mut store = Store::leader(limits());
    let (transfer, index, capture) = store.streaming();
    // More is written, and the log would be cut: not while the follower is on its way to it.
    store.write(50);
    store.checkpoint();
    store.link(THIRD, false);
    assert_eq!(store.tasks(), [SnapshotTask::Cancel { from: None, transfer }]);
    let kept = store.kept(capture, index, 9, 4000);
    store.run(vec![Input::SnapshotSent { transfer, sent: false, kept: kept.clone() }]);
    store.link(THIRD, true);
    store.wait(Duration::from_secs(1));
    let (again, same_index, offered, size) = store.offer();
    assert_eq!((same_index, offered, size), (index, Some(capture), 4000));
    store.third_says(again, SnapshotStep::Accept { first_chunk: 5 });
    assert_eq!(store.tasks(), [send(store.handle(), again, 5, capture)]);
    assert_eq!(store.worker.counters().snapshots_resumed, 1);
    // It arrives: nothing is kept any more, and the log may be cut once the follower has caught up.
    store.run(vec![Input::SnapshotSent { transfer: again, sent: true, kept }]);
    assert_eq!((store.tasks(), store.first() <= index.next()), (vec![], true));
    store.third_has = index;
    store.third_says(again, SnapshotStep::Finished { installed: true });
    assert_eq!(store.tasks(), [SnapshotTask::Release { capture }]);
    store.wait(Duration::from_secs(2));
    store.third_has = store.last();
    store.wait(Duration::from_secs(15));
    store.checkpoint();
    assert!(store.first() > index.next(), "the log is cut in the end");
    assert_eq!(store.told(), [], "one snapshot was enough");
}

#[test]
fn the_next_offer_waits_until_the_cancelled_stream_has_ended() {
    let mut store = Store::leader(limits());
    let (transfer, index, capture) = store.streaming();
    store.link(THIRD, false);
    store.link(THIRD, true);
    store.wait(Duration::from_secs(5));
    assert_eq!(store.told(), []);
    let kept = store.kept(capture, index, 9, 4000);
    store.run(vec![Input::SnapshotSent { transfer, sent: false, kept }]);
    store.wait(STEP * 2);
    assert_eq!(store.offer().2, Some(capture));
}

#[test]
fn a_capture_that_the_follower_would_refuse_however_often_is_not_offered_to_it() {
    // Made before the follower became a member, and before the region was split.
    let is_old: [fn(&mut RegionDescriptor); 2] = [
        |descriptor| descriptor.replicas.retain(|replica| replica.store != THIRD),
        |descriptor| descriptor.epoch.version -= 1,
    ];
    for is_old in is_old {
        let mut store = Store::leader(limits());
        let (transfer, index, capture) = store.streaming();
        store.link(THIRD, false);
        assert_eq!(store.tasks(), [SnapshotTask::Cancel { from: None, transfer }]);
        let mut kept = store.kept(capture, index, 9, 4000).unwrap();
        is_old(Arc::make_mut(&mut kept.descriptor));
        store.run(vec![Input::SnapshotSent { transfer, sent: false, kept: Some(kept) }]);
        store.link(THIRD, true);
        store.wait(Duration::from_secs(1));
        assert_eq!(store.offer().2, None);
    }
}

#[test]
fn a_receiver_cannot_have_chunks_of_what_was_not_offered() {
    let mut store = Store::leader(limits());
    let (transfer, ..) = store.offer();
    store.third_says(transfer, SnapshotStep::Accept { first_chunk: 5 });
    assert_eq!(store.tasks(), []);
    assert_eq!(store.worker.counters().snapshots_failed, 1);
}

#[test]
fn what_was_captured_is_let_go_after_a_while_and_when_the_log_has_moved_on() {
    let mut store = Store::leader(SnapshotLimits { hold_entries: 100, ..limits() });
    let (transfer, index, capture) = store.streaming();
    store.link(THIRD, false);
    let kept = store.kept(capture, index, 9, 4000);
    store.run(vec![Input::SnapshotSent { transfer, sent: false, kept }]);
    store.tasks();
    // More than may be held: who has chunks of the old one would get nowhere with it.
    store.write(150);
    store.checkpoint();
    assert!(store.first() > index.next());
    store.link(THIRD, true);
    store.wait(Duration::from_secs(2));
    let (_, newer, offered, _) = store.offer();
    assert!(newer > index && offered.is_none());
    store.wait(Duration::from_secs(59));
    assert!(store.tasks().contains(&SnapshotTask::Release { capture }));
}

#[test]
fn a_receiver_that_never_finishes_neither_holds_the_log_nor_keeps_anybody_busy() {
    let mut store = Store::leader(SnapshotLimits { hold_entries: 100, hold_bytes: 1 << 20, ..limits() });
    let (mut offers, mut kept_longest, mut streams) = (0, 0, 0);
    let start = store.now;
    while store.now.since(start) < Duration::from_secs(1200) {
        for message in std::mem::take(&mut store.told) {
            if let SnapshotStep::Offer { .. } = message.step {
                offers += 1;
                store.third_says(message.transfer, SnapshotStep::Accept { first_chunk: 0 });
            }
        }
        for task in store.tasks() {
            match task {
                SnapshotTask::Send { .. } => streams += 1,
                // The thread ends, as it must, and has nothing to keep.
                SnapshotTask::Cancel { transfer, .. } => {
                    store.run(vec![Input::SnapshotSent { transfer, sent: false, kept: None }]);
                }
                _ => {}
            }
        }
        store.write(10);
        store.checkpoint();
        store.wait(Duration::from_secs(1));
        kept_longest = kept_longest.max(store.last().since(store.first()));
    }
    // Each takes the 30 s of a step, and the pause before the next grows to a minute.
    println!("{offers} offers, {streams} streams in 20 minutes, a log of {kept_longest} entries at most");
    assert!((10..20).contains(&offers), "{offers}");
    assert_eq!(offers, streams);
    // Held: 100. Written between two checkpoints: 10. Cut from 10 on.
    assert!((90..=130).contains(&kept_longest), "{kept_longest}");
}

#[test]
fn a_receiver_whose_log_was_cut_again_gets_the_next_one_later_and_later() {
    let mut store = Store::leader(SnapshotLimits { hold_entries: 20, ..limits() });
    let mut moments = Vec::new();
    while moments.len() < 6 {
        store.wait(STEP);
        let Some(message) = store.told.pop() else { continue };
        let SnapshotStep::Offer { index, .. } = message.step else { panic!("{message:?}") };
        moments.push(store.now);
        let transfer = message.transfer;
        store.third_says(transfer, SnapshotStep::Accept { first_chunk: 0 });
        // So slow that the log has moved on when it is installed.
        store.write(50);
        store.checkpoint();
        store.run(vec![Input::SnapshotSent { transfer, sent: true, kept: None }]);
        store.third_has = index;
        store.third_says(transfer, SnapshotStep::Finished { installed: true });
    }
    let pauses: Vec<Duration> = moments.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    println!("{pauses:?}");
    assert!(pauses.is_sorted() && pauses[4] > pauses[0] * 8, "{pauses:?}");
}

#[test]
fn a_refused_offer_leaves_the_store_alone_for_a_moment() {
    let mut store = Store::leader(limits());
    for _ in 0..5 {
        let (transfer, ..) = store.offer();
        store.third_says(transfer, SnapshotStep::Refuse { retry_after_ms: 1000 });
        store.wait(Duration::from_millis(900));
        assert_eq!((store.told(), store.tasks()), (vec![], vec![]));
        store.wait(Duration::from_millis(200));
    }
}

#[test]
fn a_region_that_goes_takes_its_transfers_along() {
    let mut store = Store::leader(limits());
    let (transfer, index, capture) = store.streaming();
    store.run(vec![Input::Damaged { region: REGION }]);
    assert_eq!(store.tasks(), [SnapshotTask::Cancel { from: None, transfer }]);
    let kept = store.kept(capture, index, 9, 4000);
    store.run(vec![Input::SnapshotSent { transfer, sent: false, kept }]);
    store.wait(STEP);
    assert_eq!(store.tasks(), [SnapshotTask::Release { capture }]);
}

fn capture(number: u64) -> CaptureId {
    CaptureId { store: StoreId(2), incarnation: Incarnation(4), number }
}

impl Store {
    /// Store 2 offers a snapshot; what it is told.
    fn offered(&mut self, transfer: u64, capture: Option<CaptureId>) -> SnapshotStep {
        let descriptor = Arc::clone(&self.descriptor);
        let (index, index_term) = (LogIndex(500), Term(1));
        self.says(2, transfer, SnapshotStep::Offer { index, index_term, descriptor, size_hint: 0, capture });
        let [step] = &self.told()[..] else { panic!("one answer is wanted") };
        step.clone()
    }

    fn lost(&mut self, transfer: u64, kept: Option<KeptSnapshot>) {
        self.run(vec![Input::SnapshotLost { from: StoreId(2), transfer, kept }]);
    }

    /// What the stream of a transfer begins with.
    fn header(&self, transfer: u64) -> SnapshotHeader {
        SnapshotHeader {
            absorbed: Bytes::from_static(&[1, 0]),
            transfer,
            region: REGION,
            to: ReplicaId(1),
            index: LogIndex(500),
            index_term: Term(1),
            descriptor: Arc::clone(&self.descriptor),
            first_chunk: 0,
            capture: capture(transfer),
        }
    }

    /// A snapshot is offered, and arrives whole.
    fn receive(&mut self, transfer: u64) {
        assert_eq!(self.offered(transfer, None), SnapshotStep::Accept { first_chunk: 0 });
        let header = self.header(transfer);
        self.run(vec![Input::SnapshotReceived { from: StoreId(2), header }]);
    }

    /// The applier could not install it yet; or has.
    fn tried(&mut self, transfer: u64, installed: bool) {
        let (handle, from, header, merge) = (self.handle(), StoreId(2), self.header(transfer), MergeState::default());
        let waits = !installed;
        let done = SnapshotInstalled { handle, from, header, installed, waits, merge, covered: Vec::new() };
        self.run(vec![Input::SnapshotInstalled(done)]);
    }
}

fn expect(transfer: u64) -> SnapshotTask {
    SnapshotTask::Expect { from: StoreId(2), transfer, region: REGION }
}

#[test]
fn chunks_of_the_offered_capture_are_not_asked_for_again_and_those_of_another_are_forgotten() {
    let mut store = Store::follower(limits());
    assert_eq!(store.offered(1, None), SnapshotStep::Accept { first_chunk: 0 });
    let kept = store.kept(capture(1), LogIndex(500), 7, 900);
    store.lost(1, kept.clone());
    assert_eq!(store.told(), [SnapshotStep::Finished { installed: false }]);
    store.tasks();
    // The same again: from where it broke off. It breaks off once more.
    assert_eq!(store.offered(2, Some(capture(1))), SnapshotStep::Accept { first_chunk: 7 });
    store.lost(2, kept);
    store.wait(STEP);
    assert_eq!(store.tasks(), [expect(2)]);
    store.told();
    // Another capture of the same index may be cut otherwise: nothing of the old one is of use.
    assert_eq!(store.offered(3, Some(capture(2))), SnapshotStep::Accept { first_chunk: 0 });
    assert_eq!(store.tasks(), [SnapshotTask::Forget { region: REGION, capture: capture(1) }, expect(3)]);
    assert_eq!(store.worker.counters().snapshots_taken_up, 1);
}

#[test]
fn a_snapshot_tells_what_the_region_is_also_if_the_log_has_come_as_far_meanwhile() {
    let mut store = Store::follower(limits());
    let newer = RegionEpoch { conf_version: 1, version: 9 };
    let descriptor = Arc::new(RegionDescriptor { epoch: newer, ..(*store.descriptor).clone() });
    let (index, index_term) = (LogIndex(3), Term(1));
    let (offered, size_hint) = (Arc::clone(&store.descriptor), 0);
    store.says(2, 1, SnapshotStep::Offer { index, index_term, descriptor: offered, size_hint, capture: None });
    let header = SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: 1,
        region: REGION,
        to: ReplicaId(1),
        index,
        index_term,
        descriptor: Arc::clone(&descriptor),
        first_chunk: 0,
        capture: capture(1),
    };
    store.run(vec![Input::SnapshotReceived { from: StoreId(2), header: header.clone() }]);
    // While it is installed, entries come; the applier skips what the snapshot includes, and does not tell what they did.
    let empty = |index| Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Empty, data: Payload::new() };
    let (prev_index, prev_term, commit) = (LogIndex::ZERO, Term::ZERO, index);
    store.run(vec![raft(2, 1, Body::Append { prev_index, prev_term, commit, entries: (1..=3).map(empty).collect() })]);
    let (handle, from, merge) = (store.handle(), StoreId(2), MergeState::default());
    let done = SnapshotInstalled { handle, from, header, installed: true, waits: false, merge, covered: Vec::new() };
    store.run(vec![Input::SnapshotInstalled(done)]);
    assert_eq!(store.worker.status(REGION).unwrap().descriptor, descriptor);
}

#[test]
fn a_part_is_kept_for_a_bounded_time() {
    let mut store = Store::follower(limits());
    store.offered(1, None);
    let kept = store.kept(capture(1), LogIndex(500), 7, 900);
    store.lost(1, kept);
    store.tasks();
    store.wait(Duration::from_secs(59));
    assert_eq!(store.tasks(), []);
    store.wait(Duration::from_secs(2));
    assert_eq!(store.tasks(), [SnapshotTask::Forget { region: REGION, capture: capture(1) }]);
    store.told();
    assert_eq!(store.offered(2, Some(capture(1))), SnapshotStep::Accept { first_chunk: 0 });
}

#[test]
fn a_silent_stream_is_cancelled_and_its_region_takes_no_other_before_it_has_ended() {
    let mut store = Store::follower(limits());
    store.offered(1, None);
    for _ in 0..10 {
        store.wait(Duration::from_secs(20));
        store.run(vec![Input::SnapshotMoving { from: Some(StoreId(2)), transfer: 1 }]);
    }
    assert_eq!(store.tasks(), [expect(1)], "it moves");
    store.wait(Duration::from_secs(31));
    let cancel = SnapshotTask::Cancel { from: Some(StoreId(2)), transfer: 1 };
    assert_eq!(store.tasks(), [cancel]);
    store.told();
    assert_eq!(store.offered(2, None), SnapshotStep::Refuse { retry_after_ms: 200 });
    store.lost(1, None);
    assert_eq!(store.told(), [SnapshotStep::Finished { installed: false }]);
    assert_eq!(store.offered(3, None), SnapshotStep::Accept { first_chunk: 0 });
}

#[test]
fn a_new_offer_of_the_same_leader_ends_its_earlier_transfer() {
    let mut store = Store::follower(limits());
    store.offered(1, None);
    assert_eq!(store.offered(2, None), SnapshotStep::Refuse { retry_after_ms: 200 });
    assert_eq!(store.tasks(), [expect(1), SnapshotTask::Cancel { from: Some(StoreId(2)), transfer: 1 }]);
    // It had just become whole when it was given up.
    let header = store.header(1);
    let from = StoreId(2);
    store.run(vec![Input::SnapshotReceived { from, header: header.clone() }]);
    assert_eq!(store.tasks(), [SnapshotTask::Discard { from, header }]);
    assert_eq!(store.told(), [SnapshotStep::Finished { installed: false }]);
    assert_eq!(store.offered(3, None), SnapshotStep::Accept { first_chunk: 0 });
}

#[test]
fn a_snapshot_that_waits_for_another_region_is_installed_a_moment_later_and_not_sent_again() {
    let mut store = Store::follower(limits());
    store.receive(1);
    for tries in 1..=10 {
        assert_eq!(store.installs, tries);
        store.tried(1, false);
        assert_eq!((store.told(), store.installs), (vec![], tries), "not before a moment has passed");
        store.wait(STEP);
    }
    store.tried(1, true);
    assert_eq!(store.told(), [SnapshotStep::Finished { installed: true }]);
    assert_eq!(store.tasks(), [expect(1)], "it is kept meanwhile");
    assert_eq!(store.worker.counters().snapshots_installed, 1);
}

#[test]
fn a_snapshot_that_waits_for_too_long_or_for_a_newer_one_is_given_up() {
    let mut store = Store::follower(limits());
    let discard = |store: &Store, transfer| SnapshotTask::Discard { from: StoreId(2), header: store.header(transfer) };
    store.receive(1);
    store.tried(1, false);
    store.wait(Duration::from_secs(6));
    store.tried(1, false);
    assert_eq!(store.told(), [SnapshotStep::Finished { installed: false }]);
    assert_eq!(store.tasks(), [expect(1), discard(&store, 1)]);
    // A new one takes the place of one that waits, at once.
    store.receive(2);
    store.tried(2, false);
    store.tasks();
    store.receive(3);
    assert_eq!(store.tasks(), [discard(&store, 2), expect(3)]);
    let installs = store.installs;
    store.wait(STEP * 10);
    assert_eq!(store.installs, installs, "nothing waits");
}
