//! The child of a split as a worker sees it that hears of it before its own store has split.

use std::sync::Arc;
use std::time::Duration;

use multiraft::apply::{Cause, Destroyed, Tombstone};
use multiraft::assembly::bootstrap_regions;
use multiraft::logic::{Adopt, ApplyTask, Input, Notice, Residue, TurnOutput, Worker};
use multiraft::{Incarnation, RaftOptions, RegionDescriptor, RegionId, StoreId};
use multiraft_raft::{Body, LogIndex, Message, ReplicaId, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{PeerMessage, RaftMessage, RegionMessage, RegionStep};

use crate::turns::{said, take_turns};
use crate::worker_config::worker_config;

/// Store 1 of three, without regions.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
}

impl Store {
    fn new() -> Self {
        Self::with(Residue::default())
    }

    fn with(residue: Residue) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let worker = Worker::new(worker_config(&[StoreId(2), StoreId(3)]), recovered.token(0), &[], Time::ZERO);
        let worker = worker.with_residue(residue);
        let mut store = Self { worker, log, now: Time::ZERO };
        store.run(vec![link(2), link(3)]);
        store
    }

    /// What it has its applier do, and what it tells the other stores, in a turn and those that follow from it by the log alone.
    fn run(&mut self, inputs: Vec<Input<u32>>) -> (Vec<ApplyTask<u32>>, Vec<(StoreId, PeerMessage)>) {
        let (mut tasks, mut told) = (Vec::new(), Vec::new());
        take_turns((&mut self.worker, &mut self.log), self.now, inputs, |out, _| {
            tasks.append(&mut out.apply);
            told.extend(said(out));
        });
        (tasks, told)
    }
}

fn link(peer: u64) -> Input<u32> {
    Input::Link { peer: StoreId(peer), up: Some(Incarnation(1)) }
}

fn child() -> Arc<RegionDescriptor> {
    Arc::clone(&bootstrap_regions(&[], &[StoreId(1), StoreId(2), StoreId(3)])[1])
}

/// A child whose leader should be on this store.
fn child_at_home() -> Arc<RegionDescriptor> {
    Arc::new(RegionDescriptor { id: RegionId(3), ..(*child()).clone() })
}

fn adopt(child: &Arc<RegionDescriptor>, campaign: bool) -> Input<u32> {
    Input::Adopt(Adopt { descriptor: Arc::clone(child), campaign })
}

/// The child's replica on store 2 asks whether it would get a vote.
fn pre_vote(child: &Arc<RegionDescriptor>) -> Input<u32> {
    asks(child, Body::PreVote { last_index: LogIndex(1), last_term: Term(1) })
}

/// It asks for the vote.
fn vote(child: &Arc<RegionDescriptor>) -> Input<u32> {
    asks(child, Body::Vote { last_index: LogIndex(1), last_term: Term(1), transfer: false })
}

fn asks(child: &Arc<RegionDescriptor>, body: Body) -> Input<u32> {
    let [to, from] = [1, 2].map(|store| child.replica_on(StoreId(store)).unwrap().id);
    let message = Message { from, to, term: Term(2), body };
    let message = PeerMessage::Raft(RaftMessage { region: child.id, message, descriptor: Some(Arc::clone(child)) });
    Input::Messages { from: StoreId(2), messages: vec![message] }
}

fn created(child: &RegionDescriptor, allowed: bool) -> Input<u32> {
    Input::Created { region: child.id, replica: child.replica_on(StoreId(1)).unwrap().id, allowed }
}

fn asks_to_create(tasks: &[ApplyTask<u32>]) -> Vec<(RegionId, ReplicaId)> {
    let asked = |task: &ApplyTask<u32>| match task {
        ApplyTask::Create { region, replica } => Some((*region, *replica)),
        _ => None,
    };
    tasks.iter().filter_map(asked).collect()
}

/// Who is told what of this kind.
fn told(said: &[(StoreId, PeerMessage)], is_it: impl Fn(&Body) -> bool) -> Vec<StoreId> {
    let told = |(to, message): &(StoreId, PeerMessage)| match message {
        PeerMessage::Raft(RaftMessage { message, .. }) if is_it(&message.body) => Some(*to),
        _ => None,
    };
    said.iter().filter_map(told).collect()
}

fn grants(said: &[(StoreId, PeerMessage)]) -> Vec<StoreId> {
    told(said, |body| *body == Body::PreVoteReply { granted: true })
}

fn votes(said: &[(StoreId, PeerMessage)]) -> Vec<StoreId> {
    told(said, |body| *body == Body::VoteReply { granted: true })
}

/// Who is asked by this store's own replica, at once or in the rounds of a heartbeat interval.
fn campaigns(store: &mut Store, inputs: Vec<Input<u32>>) -> Vec<StoreId> {
    let (_, mut said) = store.run(inputs);
    for _ in 0..4 {
        store.now = store.now.plus(Duration::from_millis(50));
        said.extend(store.run(Vec::new()).1);
    }
    told(&said, |body| matches!(body, Body::PreVote { .. } | Body::Vote { .. }))
}

#[test]
fn a_vote_asked_for_while_the_child_is_on_its_way_to_its_worker_is_given_when_it_comes() {
    let (mut store, child) = (Store::new(), child());
    let (tasks, _) = store.run(vec![pre_vote(&child)]);
    assert_eq!(asks_to_create(&tasks), [(child.id, child.replica_on(StoreId(1)).unwrap().id)]);
    // The applier has just made the child's state; the news of that comes by way of the parent's worker.
    let (_, said) = store.run(vec![created(&child, false)]);
    assert_eq!(grants(&said), []);
    let (_, said) = store.run(vec![adopt(&child, false)]);
    assert_eq!(grants(&said), [StoreId(2)]);
}

#[test]
fn a_child_that_does_not_come_is_not_waited_for_for_ever() {
    let (mut store, child) = (Store::new(), child());
    store.run(vec![pre_vote(&child)]);
    store.run(vec![created(&child, false)]);
    let (tasks, _) = store.run(vec![pre_vote(&child)]);
    assert_eq!(asks_to_create(&tasks), [], "it is waited for");
    store.now = store.now.plus(Duration::from_secs(6));
    let (tasks, _) = store.run(vec![link(2), pre_vote(&child)]);
    assert_eq!(asks_to_create(&tasks).len(), 1);
    let (_, said) = store.run(vec![created(&child, true)]);
    assert_eq!(grants(&said), [StoreId(2)]);
}

/// A child goes on without its replica here, and store 2 tells so: what becomes of it, and up to where it is committed.
fn removal(child: &RegionDescriptor) -> (Arc<RegionDescriptor>, (LogIndex, Term), Input<u32>) {
    let mut without = child.clone();
    without.epoch.conf_version += 1;
    without.replicas.retain(|replica| replica.store != StoreId(1));
    let (known, committed) = (Arc::new(without), (LogIndex(7), Term(2)));
    let step = RegionStep::Tell { descriptor: Arc::clone(&known), merged: false, committed };
    let told = PeerMessage::Region(RegionMessage { region: child.id, step });
    (known, committed, Input::Messages { from: StoreId(2), messages: vec![told] })
}

#[test]
fn a_child_that_was_removed_before_its_store_had_split_does_not_come_to_life_by_the_split() {
    for is_destroyed in [false, true] {
        let (mut store, child) = (Store::new(), child());
        store.run(vec![pre_vote(&child)]);
        store.run(vec![created(&child, true)]);
        let (known, committed, told) = removal(&child);
        let (mut tasks, _) = store.run(vec![told]);
        store.now = store.now.plus(Duration::from_millis(100));
        tasks.extend(store.run(Vec::new()).0);
        assert!(tasks.iter().any(|task| matches!(task, ApplyTask::Destroy { .. })), "{tasks:?}");
        // Before the applier comes to that, it has split; the news of it overtakes what it has removed, or comes after.
        let replica = child.replica_on(StoreId(1)).unwrap().id;
        let tombstone = Tombstone {
            replica,
            descriptor: Arc::clone(&known),
            cause: Cause::Removed,
            version: 2,
            absorbed: Default::default(),
            committed,
        };
        let destroyed = Destroyed { region: child.id, known, committed, tombstone: Some(tombstone) };
        let gone = Input::Destroyed(destroyed);
        let adopt = adopt(&child, true);
        let news = if is_destroyed { [gone, adopt] } else { [adopt, gone] };
        for one in news {
            let (tasks, said) = store.run(vec![one]);
            assert!(said.is_empty() && tasks.is_empty(), "{said:?} {tasks:?}");
        }
        store.now = store.now.plus(Duration::from_secs(60));
        let (_, said) = store.run(vec![pre_vote(&child)]);
        assert!(matches!(said[..], [(StoreId(2), PeerMessage::Region(_))]), "it is told that it is behind: {said:?}");
    }
}

#[test]
fn a_removal_that_finds_no_space_is_tried_again_after_a_while() {
    let (mut store, child) = (Store::new(), child());
    store.run(vec![pre_vote(&child)]);
    store.run(vec![created(&child, true)]);
    let (known, committed, told) = removal(&child);
    store.run(vec![told]);
    store.now = store.now.plus(Duration::from_millis(100));
    let destroy = ApplyTask::Destroy { region: child.id, known: Arc::clone(&known), cause: Cause::Removed, committed };
    assert_eq!(store.run(Vec::new()).0, [destroy]);
    for _ in 0..3 {
        let (region, known) = (child.id, Arc::clone(&known));
        let put_off = Input::Destroyed(Destroyed { region, known: Arc::clone(&known), committed, tombstone: None });
        assert_eq!(store.run(vec![put_off]).0, [], "a full disk is not asked without a pause");
        store.now = store.now.plus(Duration::from_millis(100));
        let again = ApplyTask::Destroy { region, known, cause: Cause::Removed, committed };
        assert_eq!(store.run(Vec::new()).0, [again], "what is known to be committed is not forgotten");
    }
}

#[test]
fn a_childs_first_leader_is_not_unseated_by_a_replica_that_has_voted_for_it() {
    let (mut store, child) = (Store::new(), child_at_home());
    let (_, said) = store.run(vec![adopt(&child, false), vote(&child)]);
    assert_eq!(votes(&said), [StoreId(2)]);
    assert_eq!(campaigns(&mut store, Vec::new()), [], "its leader should be here, and is another already");
}

#[test]
fn a_childs_replica_that_was_asked_for_its_vote_before_its_store_had_split_does_not_campaign_beside_the_parents_leader()
{
    let (mut store, child) = (Store::new(), child());
    store.run(vec![vote(&child)]);
    let (_, said) = store.run(vec![created(&child, true)]);
    assert_eq!(votes(&said), [StoreId(2)]);
    assert_eq!(campaigns(&mut store, vec![adopt(&child, true)]), []);
}

#[test]
fn a_childs_home_waits_with_a_campaign_until_the_replica_beside_the_parents_leader_has_had_its_turn() {
    let (mut store, child) = (Store::new(), child_at_home());
    let (_, mut said) = store.run(vec![adopt(&child, false)]);
    store.now = store.now.plus(RaftOptions::default().heartbeat_interval - Duration::from_millis(1));
    said.extend(store.run(Vec::new()).1);
    assert_eq!(told(&said, |body| matches!(body, Body::PreVote { .. })), []);
    assert_eq!(campaigns(&mut store, Vec::new())[..2], [StoreId(2), StoreId(3)], "nobody has begun");
}

#[test]
fn a_child_whose_vote_the_log_may_have_lost_is_named_and_goes_once_it_is_replaced() {
    let mut store = Store::with(Residue { may_lack: true, ..Residue::default() });
    let child = child();
    let mut out = TurnOutput::default();
    store.worker.turn(store.now, &mut vec![adopt(&child, true)], &mut out);
    assert!(store.worker.status(child.id).is_none() && out.apply.is_empty());
    let named: Vec<RegionId> = out.notices.iter().filter_map(set_aside).collect();
    assert_eq!(named, [child.id]);
    assert_eq!(store.worker.led_page(0, 1024).aside, [(child.id, child.replica_on(StoreId(1)).unwrap().id)]);
    // It gives no vote, and asks what becomes of it.
    let (tasks, said) = store.run(vec![vote(&child)]);
    assert_eq!((tasks, said.len()), (Vec::new(), 0));
    store.now = store.now.plus(std::time::Duration::from_secs(1));
    let (_, said) = store.run(Vec::new());
    let asks = |message: &PeerMessage| matches!(message, PeerMessage::Region(about) if matches!(about.step, RegionStep::Ask { .. }));
    assert_eq!(said.iter().filter(|(_, message)| asks(message)).count(), 2, "{said:?}");
    let mut without = RegionDescriptor::clone(&child);
    without.replicas.retain(|replica| replica.store != StoreId(1));
    without.epoch.conf_version += 1;
    let step = RegionStep::Tell { descriptor: Arc::new(without), merged: false, committed: (LogIndex(3), Term(2)) };
    let told = PeerMessage::Region(RegionMessage { region: child.id, step });
    let (tasks, _) = store.run(vec![Input::Messages { from: StoreId(2), messages: vec![told] }]);
    assert!(matches!(&tasks[..], [ApplyTask::Destroy { region, .. }] if *region == child.id), "{tasks:?}");
}

fn set_aside(notice: &Notice) -> Option<RegionId> {
    if let Notice::SetAside { region, .. } = notice { Some(*region) } else { None }
}
