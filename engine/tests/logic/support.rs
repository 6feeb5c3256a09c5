//! What a worker makes of support between stores: promises, rest, reads in bulk and by lease (`docs/liveness.md`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::apply::{Cause, Tombstone};
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::liveness::{Held, SupportEpoch, SupportNews};
use multiraft::logic::{
    Absorbed, AdminRequest, Applied, ApplyTask, Freshness, Input, Outcome, TurnOutput, Worker, WorkerConfig,
};
use multiraft::{Incarnation, LogIndex, RegionDescriptor, RegionEpoch, RegionId, StoreId};
use multiraft_raft::{
    AppendOutcome, Body, ChangeOp, EntryKind, MembershipChange, Message, Payload, ReplicaId, Term, Time,
};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{
    Beat, BeatReplies, BeatReply, PeerMessage, RaftMessage, RegionMessage, RegionStep, SupportMessage,
};

use crate::turns::{heard, take_turns};
use crate::worker_config::worker_config;

pub(crate) const REGION: RegionId = RegionId(2);
const OTHERS: [u64; 2] = [2, 3];

fn epoch(number: u64) -> SupportEpoch {
    SupportEpoch { incarnation: Incarnation(1), number }
}

/// One worker of store 1, whose replica of the region is number 1, beside stores 2 and 3, or as many as are asked for.
pub(crate) struct Store {
    others: Vec<u64>,
    pub(crate) worker: Worker<u32>,
    log: LogWriter,
    pub(crate) now: Time,
    /// What the worker said since it was last asked.
    pub(crate) said: Vec<(u64, PeerMessage)>,
    pub(crate) answered: Vec<(u32, Outcome)>,
    pub(crate) beats: Vec<Beat>,
    /// What the next membership change makes of the region.
    becomes: Option<Arc<RegionDescriptor>>,
}

impl Store {
    pub(crate) fn new(change: impl FnOnce(&mut WorkerConfig)) -> Self {
        Self::among(3, change)
    }

    fn among(count: u64, change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let stores: Vec<StoreId> = (1..=count).map(StoreId).collect();
        let starts: Vec<_> = bootstrap_regions(&[], &stores)[1..].iter().cloned().map(empty_start).collect();
        let mut config = worker_config(&stores[1..]);
        change(&mut config);
        let worker = Worker::new(config, recovered.token(0), &starts, Time::ZERO);
        let mut store = Self {
            others: (2..=count).collect(),
            worker,
            log,
            now: Time::ZERO,
            said: Vec::new(),
            answered: Vec::new(),
            beats: Vec::new(),
            becomes: None,
        };
        for peer in store.others.clone() {
            store.turn(vec![Input::Link { peer: StoreId(peer), up: Some(Incarnation(1)) }]);
        }
        store
    }

    /// A turn with one proposal.
    pub(crate) fn write(&mut self, reply: u32) {
        let (deadline, command) = (self.now.plus(Duration::from_secs(5)), Payload::copy_from_slice(b"a"));
        self.turn(vec![Input::Propose { region: REGION, epoch: None, session: None, command, deadline, reply }]);
    }

    /// Takes a turn, and carries out all that follows from it on this store.
    pub(crate) fn turn(&mut self, inputs: Vec<Input<u32>>) {
        let Self { worker, log, now, said, answered, beats, becomes, .. } = self;
        take_turns((worker, log), *now, inputs, |out, inputs| {
            for send in &mut out.sends {
                said.extend(send.messages.drain(..).map(|message| (send.to.get(), message)));
            }
            beats.extend(out.beats.drain(..).flat_map(|share| share.beats));
            answered.append(&mut out.replies);
            let applied: Vec<_> = out.apply.iter().filter_map(|task| applied(task, becomes)).collect();
            if !applied.is_empty() {
                inputs.push(Input::Applied(applied));
            }
        });
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 10 {
            self.now = self.now.plus(Duration::from_millis(10));
            self.turn(Vec::new());
        }
    }

    pub(crate) fn hear(&mut self, from: u64, term: u64, body: Body) {
        self.turn(vec![heard(REGION, (from, 1), term, body)]);
    }

    pub(crate) fn news(&mut self, news: SupportNews) {
        self.turn(vec![Input::Support(news)]);
    }

    pub(crate) fn hold(&mut self, peer: u64, number: u64, until: Time) -> Held {
        let support = Held::new(number, Incarnation(1), until);
        self.news(SupportNews::Held { peer: StoreId(peer), support: support.clone() });
        support
    }

    fn give(&mut self, peer: u64, number: u64) {
        self.news(SupportNews::Given { peer: StoreId(peer), epoch: epoch(number) });
    }

    /// What was said about the region since the last time, as (to, body).
    pub(crate) fn bodies(&mut self) -> Vec<(u64, Body)> {
        let said = std::mem::take(&mut self.said).into_iter();
        said.filter_map(|(to, message)| match message {
            PeerMessage::Raft(raft) => Some((to, raft.message.body)),
            _ => None,
        })
        .collect()
    }

    pub(crate) fn rounds(&mut self) -> Vec<(u64, u64)> {
        let said = std::mem::take(&mut self.said).into_iter();
        said.filter_map(|(to, message)| match message {
            PeerMessage::Support(SupportMessage::Round(round)) => Some((to, round.round)),
            _ => None,
        })
        .collect()
    }

    fn is_leader(&self) -> bool {
        self.worker.status(REGION).unwrap().is_leader
    }

    /// Answers the heartbeats that left.
    pub(crate) fn answer_beats(&mut self) -> usize {
        let beats = std::mem::take(&mut self.beats);
        let count = beats.len();
        for beat in beats {
            let Beat { region, from, to, term, round, .. } = beat;
            let reply = BeatReply { region, from: to, to: from, term, round };
            let replies = BeatReplies { replies: vec![reply], ..BeatReplies::default() };
            let messages = vec![PeerMessage::BeatReplies(replies)];
            self.turn(vec![Input::Messages { from: StoreId(to.get()), messages }]);
        }
        count
    }

    /// Leads the region, with everything told.
    fn leading(change: impl FnOnce(&mut WorkerConfig)) -> Self {
        Self::leading_among(3, change)
    }

    pub(crate) fn leading_among(count: u64, change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let mut store = Self::among(count, change);
        store.pass(Duration::from_millis(2500));
        let term = store.worker.status(REGION).unwrap().term;
        if !store.is_leader() {
            let enough = store.others[..store.others.len() / 2].to_vec();
            enough.iter().for_each(|peer| store.hear(*peer, term.get() + 1, Body::PreVoteReply { granted: true }));
            enough.iter().for_each(|peer| store.hear(*peer, term.get() + 1, Body::VoteReply { granted: true }));
        }
        assert!(store.is_leader());
        store.accept_all();
        store
    }

    /// The followers hold everything.
    pub(crate) fn accept_all(&mut self) {
        let status = self.worker.status(REGION).unwrap();
        for peer in self.others.clone() {
            let outcome = AppendOutcome::Accepted { match_index: status.last_index };
            self.hear(peer, status.term.get(), Body::AppendReply(outcome));
        }
    }

    fn promise_all(&mut self, numbers: [u64; 2]) {
        let term = self.worker.status(REGION).unwrap().term.get();
        for (peer, number) in OTHERS.into_iter().zip(numbers) {
            self.hear(peer, term, Body::Fortified { epoch: epoch(number).code() });
        }
    }

    /// A leader that both followers have promised, under epochs 5 and 6.
    pub(crate) fn fortified(change: impl FnOnce(&mut WorkerConfig), until: Time) -> (Self, [Held; 2]) {
        let mut store = Self::leading(change);
        let held = [store.hold(2, 5, until), store.hold(3, 6, until)];
        store.pass(Duration::from_millis(100));
        let asked: Vec<_> =
            store.bodies().into_iter().filter(|(_, body)| matches!(body, Body::Fortify { .. })).collect();
        let ask = |to, number| (to, Body::Fortify { epoch: epoch(number).code() });
        assert_eq!(asked, [ask(2, 5), ask(3, 6)]);
        store.promise_all([5, 6]);
        (store, held)
    }

    fn resting() -> Self {
        let (mut store, _) = Self::fortified(|_| (), Time::ZERO);
        for _ in 0..4 {
            store.pass(Duration::from_millis(100));
            store.answer_beats();
        }
        store.pass(Duration::from_secs(2));
        assert_eq!(store.answer_beats(), 0, "it rests");
        assert!(store.is_leader() && store.worker.counters().rests == 1);
        store.said.clear();
        store
    }

    fn read(&mut self, reply: u32) {
        self.read_as(Freshness::Linearizable, reply);
    }

    pub(crate) fn read_as(&mut self, freshness: Freshness, reply: u32) {
        let deadline = self.now.plus(Duration::from_secs(5));
        self.turn(vec![Input::Read { region: REGION, epoch: None, freshness, deadline, reply }]);
    }

    pub(crate) fn term(&self) -> Term {
        self.worker.status(REGION).unwrap().term
    }

    pub(crate) fn acknowledgement(&self, peer: u64, match_index: LogIndex) -> Input<u32> {
        let body = Body::AppendReply(AppendOutcome::Accepted { match_index });
        heard(REGION, (peer, 1), self.term().get(), body)
    }

    /// What a turn has handed out is applied.
    pub(crate) fn apply(&mut self, out: &TurnOutput<u32>) {
        let applied = out.apply.iter().filter_map(|task| applied(task, &None)).collect();
        self.turn(vec![Input::Applied(applied)]);
    }

    fn answer_round(&mut self, peer: u64, round: u64, number: Option<u64>) {
        let (peer, by) = (StoreId(peer), Incarnation(1));
        self.news(SupportNews::RoundAnswered { peer, round, by, number });
    }

    /// A follower of store 2 in term 1.
    fn following() -> Self {
        let mut store = Self::new(|_| ());
        let body = Body::Append { prev_index: LogIndex(0), prev_term: Term(0), commit: LogIndex(0), entries: vec![] };
        store.hear(2, 1, body);
        store.said.clear();
        store
    }
}

fn applied(task: &ApplyTask<u32>, becomes: &Option<Arc<RegionDescriptor>>) -> Option<Applied> {
    let ApplyTask::Entries { handle, entries, .. } = task else { return None };
    let cost = entries.iter().map(multiraft_raft::Entry::cost).sum();
    let index = entries.last()?.index;
    let changes = entries.iter().filter(|entry| entry.kind == EntryKind::Membership);
    let memberships = changes.map(|entry| (entry.index, becomes.clone())).collect();
    Some(Applied { handle: *handle, index, cost, memberships, split: None, change: None })
}

#[test]
fn a_transfer_that_is_asked_for_in_the_turn_that_wins_the_election_is_not_over_with_it() {
    let mut store = Store::new(|_| {});
    store.pass(Duration::from_millis(2500));
    let term = store.term().get() + 1;
    store.hear(2, term, Body::PreVoteReply { granted: true });
    let (region, to, deadline) = (REGION, StoreId(3), store.now.plus(Duration::from_secs(5)));
    let vote = heard(REGION, (2, 1), term, Body::VoteReply { granted: true });
    store.turn(vec![vote, Input::Transfer { region, to, deadline, reply: 1 }]);
    assert!(store.is_leader());
    store.accept_all();
    assert_eq!(store.answered, [], "nothing is decided yet");
    assert!(store.bodies().contains(&(3, Body::TimeoutNow)));
    let (prev_index, prev_term, commit) = (LogIndex(1), Term(term), LogIndex(1));
    store.hear(3, term + 1, Body::Append { prev_index, prev_term, commit, entries: Vec::new() });
    assert_eq!(store.answered, [(1, Outcome::Done)]);
}

#[test]
fn a_leader_rests_and_its_heartbeats_end_until_it_is_asked_for_something() {
    let mut store = Store::resting();
    store.write(1);
    assert_eq!(store.bodies().iter().filter(|(_, body)| matches!(body, Body::Append { .. })).count(), 2);
    store.accept_all();
    for _ in 0..5 {
        store.pass(Duration::from_millis(100));
        store.answer_beats();
    }
    store.pass(Duration::from_secs(2));
    assert_eq!(store.answer_beats(), 0);
    assert_eq!(store.worker.counters().rests, 2);
}

#[test]
fn the_loss_of_support_wakes_only_whom_it_costs_the_quorum_and_a_return_whom_it_was_missing_to() {
    let mut store = Store::resting();
    store.news(SupportNews::Lost { peer: StoreId(3) });
    store.pass(Duration::from_millis(300));
    assert_eq!(store.answer_beats(), 0, "store 2 is enough");
    store.news(SupportNews::Lost { peer: StoreId(2) });
    store.pass(Duration::from_millis(300));
    assert!(!store.beats.is_empty());
    store.pass(Duration::from_secs(2));
    assert!(!store.is_leader(), "nobody answered");
    let released = store.bodies().into_iter().filter(|(_, body)| *body == Body::Release).count();
    assert!(released >= 2, "who had promised is released, again and again");

    let mut store = Store::resting();
    store.news(SupportNews::Lost { peer: StoreId(3) });
    // A write that store 3 does not get; then the group comes to rest without it.
    store.write(1);
    let status = store.worker.status(REGION).unwrap();
    let outcome = AppendOutcome::Accepted { match_index: status.last_index };
    store.hear(2, status.term.get(), Body::AppendReply(outcome));
    for _ in 0..5 {
        store.pass(Duration::from_millis(100));
        store.beats.retain(|beat| beat.to == ReplicaId(2));
        store.answer_beats();
    }
    store.pass(Duration::from_secs(1));
    assert_eq!((store.beats.len(), store.worker.counters().rests), (0, 2), "a dead store keeps nobody awake");
    store.hold(3, 6, Time::ZERO);
    store.pass(Duration::from_millis(200));
    assert!(store.beats.iter().any(|beat| beat.to == ReplicaId(3)));
}

#[test]
fn reads_of_a_resting_leader_share_a_round_of_stores_and_do_not_wake_it() {
    let mut store = Store::resting();
    let deadline = store.now.plus(Duration::from_secs(5));
    let read = |reply| Input::Read { region: REGION, epoch: None, freshness: Freshness::Linearizable, deadline, reply };
    store.turn(vec![read(1), read(2)]);
    let rounds = store.rounds();
    let [(2, round), (3, other)] = rounds[..] else { panic!("{rounds:?}") };
    assert_eq!(round, other);
    let (index, term) = (LogIndex(1), store.worker.status(REGION).unwrap().term);
    assert!(store.answered.is_empty());
    // Neither an answer that confirms another epoch, nor one that confirms none.
    store.answer_round(2, round, Some(4));
    store.answer_round(3, round, None);
    assert!(store.answered.is_empty());
    store.answer_round(2, round, Some(5));
    let answer = Outcome::ReadAt { index, term };
    assert_eq!(store.answered, [(1, answer.clone()), (2, answer.clone())]);
    // A later round's answer serves an earlier one's reads.
    store.answered.clear();
    store.read(3);
    store.read(4);
    let later = store.rounds().last().unwrap().1;
    store.answer_round(3, later, Some(6));
    assert_eq!(store.answered, [(3, answer.clone()), (4, answer)]);
    store.pass(Duration::from_secs(1));
    assert_eq!(store.answer_beats(), 0);
    assert_eq!((store.worker.counters().rounds, store.worker.counters().reads_by_round), (3, 4));
}

#[test]
fn a_round_that_fails_leaves_the_reads_to_the_group() {
    let mut store = Store::resting();
    store.read(1);
    store.pass(Duration::from_millis(110));
    assert!(store.answered.is_empty() && !store.beats.is_empty() || !store.said.is_empty());
    let asked: Vec<Beat> = std::mem::take(&mut store.said)
        .into_iter()
        .filter_map(|(_, message)| match message {
            PeerMessage::Beats(beats) => Some(beats.beats),
            _ => None,
        })
        .flatten()
        .collect();
    store.beats = asked;
    store.answer_beats();
    let (index, term) = (LogIndex(1), store.worker.status(REGION).unwrap().term);
    assert_eq!(store.answered, [(1, Outcome::ReadAt { index, term })]);
}

#[test]
fn a_lease_serves_while_a_quorum_of_support_holds_at_a_moment_after_the_read_came_in() {
    let (mut store, held) = Store::fortified(|config| config.leases = true, Time::ZERO);
    let (index, term) = (LogIndex(1), store.worker.status(REGION).unwrap().term);
    let served = |reply| vec![(reply, Outcome::ReadAt { index, term })];
    store.read_as(Freshness::Lease, 1);
    assert!(store.answered.is_empty() && store.rounds().len() == 2, "held, but not for certain: a round");
    let support = Held::new(5, Incarnation(1), store.now.plus(Duration::from_millis(500)));
    store.news(SupportNews::Held { peer: StoreId(2), support });
    store.read_as(Freshness::Lease, 2);
    assert_eq!(std::mem::take(&mut store.answered), served(2));
    assert_eq!((store.rounds(), store.worker.counters().reads_by_lease), (vec![], 1));
    store.read(9);
    assert_eq!(store.rounds().len(), 2, "who asks for no lease gets a round");
    store.now = store.now.plus(Duration::from_millis(500));
    store.read_as(Freshness::Lease, 3);
    assert!(!store.answered.contains(&served(3)[0]), "the moment itself is past it");
    drop(held);

    let (mut store, _) = Store::fortified(|config| config.leases = false, Time::NEVER);
    store.read_as(Freshness::Lease, 1);
    assert!(store.answered.is_empty() && store.rounds().len() == 2, "not without the embedder's word");
}

#[test]
fn neither_rounds_nor_leases_serve_a_leader_that_has_offered_its_place() {
    let (mut store, _) = Store::fortified(|config| config.leases = true, Time::NEVER);
    store.read_as(Freshness::Lease, 1);
    assert_eq!(store.answered.len(), 1);
    let deadline = store.now.plus(Duration::from_secs(5));
    store.turn(vec![Input::Transfer { region: REGION, to: StoreId(2), deadline, reply: 2 }]);
    assert!(store.bodies().contains(&(2, Body::TimeoutNow)));
    store.read_as(Freshness::Lease, 3);
    assert_eq!((store.answered.len(), store.rounds()), (1, vec![]));
}

#[test]
fn a_read_of_a_bounded_age_is_served_from_what_was_confirmed_lately() {
    let second = Freshness::Within(Duration::from_secs(1));
    let mut store = Store::resting();
    store.read_as(second, 1);
    let round = store.rounds()[0].1;
    store.pass(Duration::from_millis(50));
    store.answer_round(2, round, Some(5));
    assert_eq!(store.answered.len(), 1, "nothing was known: it was linearizable");
    // Its age counts from when the round was begun.
    store.pass(Duration::from_millis(940));
    store.news(SupportNews::Lost { peer: StoreId(2) });
    store.read_as(second, 2);
    assert_eq!((store.answered.len(), store.worker.counters().reads_by_age), (2, 1));
    store.pass(Duration::from_millis(20));
    store.read_as(second, 3);
    assert_eq!((store.answered.len(), store.rounds().len()), (2, 1), "too old: a round of the one store that is left");
    let five = Freshness::Within(Duration::from_secs(5));
    store.read_as(five, 4);
    assert_eq!(store.answered.len(), 3);
    // Whoever knows of a merge that this replica has not come to may ask for keys that are not its own yet.
    let read = |version, reply| Input::Read {
        region: REGION,
        epoch: Some(RegionEpoch { conf_version: 1, version }),
        freshness: five,
        deadline: Time::NEVER,
        reply,
    };
    store.turn(vec![read(2, 5)]);
    assert_eq!(store.answered.len(), 3, "it is to be linearizable");
    store.turn(vec![read(1, 6)]);
    assert_eq!((store.answered.len(), store.worker.counters().reads_by_age), (4, 3));
}

#[test]
fn a_promise_is_made_only_under_support_that_is_given_and_ends_with_it() {
    let fortify = |number| Body::Fortify { epoch: epoch(number).code() };
    let mut store = Store::following();
    store.hear(2, 1, fortify(3));
    assert_eq!(store.bodies(), [], "no support is given");
    store.give(2, 3);
    store.hear(2, 1, fortify(2));
    assert_eq!(store.bodies(), []);
    store.hear(2, 1, fortify(3));
    assert_eq!(store.bodies(), [(2, Body::Fortified { epoch: epoch(3).code() })]);
    store.pass(Duration::from_secs(10));
    assert!(store.bodies().is_empty(), "it waits for nothing");
    store.news(SupportNews::Withdrawn { peer: StoreId(2), epoch: epoch(2) });
    store.pass(Duration::from_secs(1));
    assert!(store.bodies().is_empty(), "that was another epoch");
    store.news(SupportNews::Withdrawn { peer: StoreId(2), epoch: epoch(3) });
    store.pass(Duration::from_millis(120));
    let asked = store.bodies();
    assert!(asked.iter().any(|(to, body)| *to == 3 && matches!(body, Body::PreVote { .. })), "{asked:?}");
    store.hear(2, 1, fortify(3));
    assert!(!store.bodies().contains(&(2, Body::Fortified { epoch: epoch(3).code() })), "withdrawn for good");
}

#[test]
fn after_a_start_nobody_votes_or_campaigns_before_old_promises_have_run_out() {
    let mut store = Store::new(|config| config.awaits_vote = true);
    let pre_vote = Body::PreVote { last_index: LogIndex(9), last_term: Term(1) };
    let vote = Body::Vote { last_index: LogIndex(9), last_term: Term(1), transfer: true };
    store.hear(2, 2, pre_vote);
    store.hear(2, 2, vote.clone());
    store.pass(Duration::from_secs(5));
    assert!(store.bodies().is_empty());
    // Appends it does take.
    let body = Body::Append { prev_index: LogIndex(0), prev_term: Term(0), commit: LogIndex(0), entries: vec![] };
    store.hear(2, 1, body);
    assert_eq!(store.bodies().len(), 1);
    store.hear(2, 1, Body::TimeoutNow);
    assert_eq!(store.bodies(), [(2, Body::TimeoutNow)], "the offer goes back");
    store.news(SupportNews::MayVote);
    store.hear(3, 2, vote);
    assert!(store.bodies().contains(&(3, Body::VoteReply { granted: true })));
}

#[test]
fn who_is_heard_and_cannot_hear_keeps_no_leader_awake() {
    let pre_vote = |store: &Store| {
        let status = store.worker.status(REGION).unwrap();
        let last_term = status.term;
        (status.term.get() + 1, Body::PreVote { last_index: status.last_index, last_term })
    };
    let mut store = Store::resting();
    store.news(SupportNews::Lost { peer: StoreId(3) });
    let (term, body) = pre_vote(&store);
    store.hear(3, term, body);
    store.pass(Duration::from_millis(500));
    assert_eq!((store.beats.len(), store.bodies().len()), (0, 0));
    // With support it is a member that needs its leader.
    store.hold(3, 7, Time::ZERO);
    let (term, body) = pre_vote(&store);
    store.hear(3, term, body);
    store.pass(Duration::from_millis(200));
    assert!(!store.beats.is_empty() && store.is_leader());

    // Likewise a learner or a witness, which never asks for votes.
    let mut store = Store::resting();
    let epoch = store.worker.status(REGION).unwrap().descriptor.epoch;
    let step = RegionStep::Ask { replica: ReplicaId(3), epoch };
    let about = PeerMessage::Region(RegionMessage { region: REGION, step });
    store.turn(vec![Input::Messages { from: StoreId(3), messages: vec![about] }]);
    store.pass(Duration::from_millis(200));
    assert!(!store.beats.is_empty());
}

#[test]
fn a_replica_that_hears_no_leader_asks_stores_of_other_regions_too_since_its_own_may_all_be_dead() {
    let mut store = Store::new(|_| ());
    let others: Vec<u64> = (4..=9).collect();
    for peer in &others {
        store.turn(vec![Input::Link { peer: StoreId(*peer), up: Some(Incarnation(1)) }]);
        store.hold(*peer, 1, Time::ZERO);
    }
    let mut asked = || {
        store.said.clear();
        store.pass(Duration::from_secs(10));
        let asks = |message: &PeerMessage| matches!(message, PeerMessage::Region(about) if matches!(about.step, RegionStep::Ask { .. }));
        let mut asked: Vec<u64> = store.said.iter().filter(|(_, said)| asks(said)).map(|(to, _)| *to).collect();
        asked.sort_unstable();
        asked
    };
    let (first, second) = (asked(), asked());
    for asked in [&first, &second] {
        assert_eq!((&asked[..2], asked.len()), (&OTHERS[..], 6), "{asked:?}");
    }
    assert!(others.iter().all(|other| first.contains(other) || second.contains(other)), "{first:?}, {second:?}");
}

#[test]
fn whoever_misses_a_leader_has_the_replica_ask_for_its_region_soon() {
    let requests: [fn(Time) -> Input<u32>; 3] = [
        |deadline| Input::Read { region: REGION, epoch: None, freshness: Freshness::Linearizable, deadline, reply: 1 },
        |deadline| Input::Query { region: REGION, epoch: None, query: Bytes::new(), deadline, reply: 1 },
        |deadline| {
            let command = Bytes::from_static(b"a");
            Input::Propose { region: REGION, epoch: None, session: None, command: command.into(), deadline, reply: 1 }
        },
    ];
    // Who would not wait for a leader, and who is put aside until there is one.
    let waits = [Duration::from_millis(1), Duration::from_secs(5)];
    for (request, wait) in requests.into_iter().flat_map(|request| waits.map(|wait| (request, wait))) {
        let mut store = Store::new(|_| ());
        let mut asked = |after: Duration| {
            store.pass(after);
            store.said.clear();
            store.turn(vec![request(store.now.plus(wait))]);
            let asks = |message: &PeerMessage| matches!(message, PeerMessage::Region(about) if matches!(about.step, RegionStep::Ask { .. }));
            store.said.iter().filter(|(_, said)| asks(said)).map(|(to, _)| *to).collect::<Vec<u64>>()
        };
        assert!(asked(Duration::from_millis(2_900)).is_empty(), "its leader may be about to be elected");
        assert_eq!(asked(Duration::from_millis(100)), OTHERS);
        assert!(asked(Duration::from_millis(2_900)).is_empty(), "not with each request");
        assert_eq!(asked(Duration::from_millis(100)), OTHERS);
    }
}

#[test]
fn a_member_that_is_removed_is_let_go_of_what_it_promised() {
    let (mut store, _) = Store::fortified(|_| (), Time::ZERO);
    let mut descriptor = (*store.worker.status(REGION).unwrap().descriptor).clone();
    descriptor.replicas.retain(|replica| replica.id != ReplicaId(3));
    descriptor.epoch.conf_version += 1;
    store.becomes = Some(Arc::new(descriptor));
    let request = AdminRequest::Membership(MembershipChange::Simple(ChangeOp::Remove { id: ReplicaId(3) }));
    let deadline = store.now.plus(Duration::from_secs(5));
    store.turn(vec![Input::Admin { region: REGION, epoch: None, request, deadline, reply: 1 }]);
    store.said.clear();
    store.accept_all();
    assert!(store.bodies().contains(&(3, Body::Release)), "it would sleep for ever");
}

#[test]
fn a_voter_is_not_removed_if_the_rest_are_no_majority_of_the_living() {
    let remove = |id| AdminRequest::Membership(MembershipChange::Simple(ChangeOp::Remove { id: ReplicaId(id) }));
    let ask = |store: &mut Store, request| {
        store.answered.clear();
        let deadline = store.now.plus(Duration::from_secs(5));
        store.turn(vec![Input::Admin { region: REGION, epoch: None, request, deadline, reply: 1 }]);
        store.answered.pop().map(|(_, outcome)| outcome)
    };
    let mut store = Store::leading_among(3, |_| ());
    store.turn(vec![Input::Link { peer: StoreId(3), up: None }]);
    match ask(&mut store, remove(2)) {
        Some(Outcome::Refused { reason }) => assert!(reason.contains("without store 3"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(&mut store, remove(3)), None, "the one that is not heard of may go: it is proposed");
}

#[test]
fn a_leader_whose_replica_goes_leaves_nobody_bound() {
    let (mut store, _) = Store::fortified(|_| (), Time::ZERO);
    let status = store.worker.status(REGION).unwrap();
    // It is absorbed by its neighbour, while it leads.
    let tombstone = Tombstone {
        replica: ReplicaId(1),
        descriptor: Arc::clone(&status.descriptor),
        cause: Cause::Merged,
        version: status.descriptor.epoch.version,
        absorbed: Absorbed::default(),
        committed: (LogIndex(1), status.term),
    };
    store.turn(vec![Input::Absorbed { tombstone }]);
    let told = |store: &mut Store| {
        let mut told = Vec::new();
        for (to, message) in std::mem::take(&mut store.said) {
            if let PeerMessage::Region(RegionMessage { step: RegionStep::NotLed { .. }, .. }) = message {
                told.push(to);
            }
        }
        told
    };
    store.pass(Duration::from_millis(60));
    assert_eq!(told(&mut store), [2, 3]);
    // One answers, the other has no such replica any more and says so; before that they are told again.
    store.hear(2, status.term.get(), Body::Released);
    store.pass(Duration::from_secs(1));
    let again = told(&mut store);
    assert!(!again.is_empty() && again.iter().all(|to| *to == 3), "{again:?}");
    let step = RegionStep::NotPromised { replica: ReplicaId(3), to: ReplicaId(1), term: status.term };
    let about = PeerMessage::Region(RegionMessage { region: REGION, step });
    store.turn(vec![Input::Messages { from: StoreId(3), messages: vec![about] }]);
    store.pass(Duration::from_secs(2));
    assert_eq!(told(&mut store), [0; 0]);
}

#[test]
fn who_is_gone_is_answered_for() {
    let mut store = Store::following();
    let ask = |region, to, body| {
        let message = Message { from: ReplicaId(7), to: ReplicaId(to), term: Term(1), body };
        let raft = PeerMessage::Raft(RaftMessage { region: RegionId(region), message, descriptor: None });
        vec![Input::Messages { from: StoreId(2), messages: vec![raft] }]
    };
    store.turn(ask(77, 5, Body::AskLeader { own_term: Term(4) }));
    store.turn(ask(REGION.get(), 9, Body::AskLeader { own_term: Term(4) }));
    store.turn(ask(77, 5, Body::Release));
    let steps: Vec<_> = std::mem::take(&mut store.said)
        .into_iter()
        .filter_map(|(_, message)| match message {
            PeerMessage::Region(about) => Some(about.step),
            _ => None,
        })
        .collect();
    let (to, term) = (ReplicaId(7), Term(1));
    let gone = |replica| RegionStep::NotLed { replica: ReplicaId(replica), to, term };
    assert_eq!(steps, [gone(5), gone(9), RegionStep::NotPromised { replica: ReplicaId(5), to, term }]);
    // And such an answer is taken for what it says.
    store.give(2, 3);
    store.hear(2, 1, Body::Fortify { epoch: epoch(3).code() });
    store.said.clear();
    let step = RegionStep::NotLed { replica: ReplicaId(2), to: ReplicaId(1), term };
    let about = PeerMessage::Region(RegionMessage { region: REGION, step });
    store.turn(vec![Input::Messages { from: StoreId(2), messages: vec![about] }]);
    store.pass(Duration::from_secs(3));
    assert!(store.bodies().iter().any(|(_, body)| matches!(body, Body::PreVote { .. })));
}
