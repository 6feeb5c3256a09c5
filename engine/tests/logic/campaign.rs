//! Many groups that lose their leader at once: who campaigns when, as a lone worker has it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::liveness::{SupportEpoch, SupportNews};
use multiraft::logic::{Input, Worker, WorkerConfig};
use multiraft::{Incarnation, LogIndex, RegionId, StoreId};
use multiraft_raft::{Body, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{PeerMessage, RaftMessage};

use crate::turns::{heard, take_turns};
use crate::worker_config::worker_config;

/// How many campaigns of a worker may be under way.
const AT_ONCE: usize = 512;

fn epoch() -> SupportEpoch {
    SupportEpoch { incarnation: Incarnation(1), number: 3 }
}

/// One worker of one of three stores, with replicas of many regions; a replica's number is that of its store.
struct Store {
    own: u64,
    worker: Worker<u32>,
    log: LogWriter,
    now: Time,
    regions: Vec<RegionId>,
    /// What was said since it was last asked.
    said: Vec<(u64, RaftMessage)>,
}

impl Store {
    /// A follower in all regions that has promised store 3, which leads them in term 2.
    fn promised(own: u64, regions: u32) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
        let keys: Vec<Bytes> = (1..regions).map(|key| Bytes::copy_from_slice(&key.to_be_bytes())).collect();
        let starts: Vec<_> = bootstrap_regions(&keys, &stores)[1..].iter().cloned().map(empty_start).collect();
        let others: Vec<StoreId> = stores.into_iter().filter(|store| store.get() != own).collect();
        let config = WorkerConfig { store: StoreId(own), ..worker_config(&others) };
        let worker = Worker::new(config, recovered.token(0), &starts, Time::ZERO);
        let regions = starts.iter().map(|start| start.descriptor.id).collect();
        let mut store = Self { own, worker, log, now: Time::ZERO, regions, said: Vec::new() };
        for peer in others {
            store.turn(vec![Input::Link { peer, up: Some(Incarnation(1)) }]);
        }
        store.turn(vec![Input::Support(SupportNews::Given { peer: StoreId(3), epoch: epoch() })]);
        for region in store.regions.clone() {
            let (prev_index, prev_term, commit) = (LogIndex(0), Term(0), LogIndex(0));
            store.hear(region, 3, 2, Body::Append { prev_index, prev_term, commit, entries: Vec::new() });
            store.hear(region, 3, 2, Body::Fortify { epoch: epoch().code() });
        }
        store.said.clear();
        store
    }

    /// Store 3 is dead, and others were heard lately.
    fn withdraw(&mut self, heard: &[u64]) {
        self.now = self.now.plus(Duration::from_millis(1500));
        self.turn(heard.iter().map(|peer| Input::Messages { from: StoreId(*peer), messages: Vec::new() }).collect());
        self.turn(vec![Input::Support(SupportNews::Withdrawn { peer: StoreId(3), epoch: epoch() })]);
    }

    fn turn(&mut self, inputs: Vec<Input<u32>>) {
        let Self { worker, log, now, said, .. } = self;
        take_turns((worker, log), *now, inputs, |out, _| {
            for send in &mut out.sends {
                for message in send.messages.drain(..) {
                    if let PeerMessage::Raft(raft) = message {
                        said.push((send.to.get(), raft));
                    }
                }
            }
        });
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 10 {
            self.now = self.now.plus(Duration::from_millis(10));
            self.turn(Vec::new());
        }
    }

    fn hear(&mut self, region: RegionId, from: u64, term: u64, body: Body) {
        self.turn(vec![heard(region, (from, self.own), term, body)]);
    }

    /// The regions for which pre-votes were asked of a store since the last time.
    fn asked(&mut self, of: u64) -> BTreeSet<RegionId> {
        let said = std::mem::take(&mut self.said).into_iter();
        let asked = said.filter(|(to, raft)| *to == of && matches!(raft.message.body, Body::PreVote { .. }));
        asked.map(|(_, raft)| raft.region).collect()
    }

    /// Those who ask for a pre-vote are asked for one by another store: where it is granted.
    fn grants(&mut self, to: u64, regions: &BTreeSet<RegionId>) -> BTreeSet<RegionId> {
        self.said.clear();
        for region in regions {
            let body = Body::PreVote { last_index: LogIndex(0), last_term: Term(0) };
            self.hear(*region, to, 3, body);
        }
        let said = std::mem::take(&mut self.said).into_iter();
        let granted = said.filter(|(_, raft)| raft.message.body == Body::PreVoteReply { granted: true });
        granted.map(|(_, raft)| raft.region).collect()
    }
}

#[test]
fn of_two_that_ask_each_other_for_pre_votes_one_lets_the_other_pass() {
    let mut asking: Vec<_> = [1, 2].map(|own| Store::promised(own, 40)).into();
    let all: Vec<_> = asking
        .iter_mut()
        .map(|store| {
            let other = 3 - store.own;
            store.withdraw(&[other]);
            store.pass(Duration::from_millis(60));
            store.asked(other)
        })
        .collect();
    assert!(all[0].len() == 40 && all[0] == all[1], "the second in line has not been asked in time");
    let by_first = asking[0].grants(2, &all[0]);
    let by_second = asking[1].grants(1, &all[0]);
    assert!(by_first.is_disjoint(&by_second));
    assert_eq!(by_first.len() + by_second.len(), 40, "and only one");
    assert!(by_first.len() > 10 && by_second.len() > 10, "each about as often");
}

#[test]
fn who_was_put_off_because_of_a_promise_lets_the_other_pass() {
    let mut store = Store::promised(1, 40);
    store.withdraw(&[2]);
    let asked = store.asked(2);
    for region in &asked {
        store.hear(*region, 2, 2, Body::Promised);
    }
    assert_eq!(store.grants(2, &asked), asked);
}

#[test]
fn who_is_asked_while_it_stands_in_line_does_not_campaign_as_well() {
    let mut store = Store::promised(1, 40);
    store.withdraw(&[2]);
    let first = store.asked(2);
    let others: BTreeSet<_> = store.regions.iter().copied().filter(|region| !first.contains(region)).collect();
    assert!(first.len() > 10 && others.len() > 10);
    assert_eq!(store.grants(2, &others), others);
    store.pass(Duration::from_millis(900));
    assert!(store.asked(2).is_disjoint(&others), "as long as an election takes");
    store.pass(Duration::from_millis(2200));
    store.turn(vec![Input::Messages { from: StoreId(2), messages: Vec::new() }]);
    store.pass(Duration::from_millis(100));
    assert!(store.asked(2).is_superset(&others), "nobody was elected");
}

#[test]
fn so_many_campaigns_are_under_way_and_each_that_ends_makes_room_for_the_next() {
    let mut store = Store::promised(1, 2000);
    store.withdraw(&[2]);
    let first = store.asked(2);
    assert_eq!(first.len(), AT_ONCE);
    store.pass(Duration::from_millis(200));
    assert_eq!(store.asked(2), BTreeSet::new());
    // Three have a leader now: two follow, one leads.
    let ended: Vec<_> = first.iter().copied().take(3).collect();
    for region in &ended[..2] {
        let (prev_index, prev_term, commit) = (LogIndex(0), Term(0), LogIndex(0));
        store.hear(*region, 2, 3, Body::Append { prev_index, prev_term, commit, entries: Vec::new() });
    }
    store.hear(ended[2], 2, 3, Body::PreVoteReply { granted: true });
    store.hear(ended[2], 2, 3, Body::VoteReply { granted: true });
    assert!(store.worker.status(ended[2]).unwrap().is_leader);
    let next = store.asked(2);
    assert_eq!(next.len(), 3);
    assert!(next.is_disjoint(&first));
}

#[test]
fn who_gets_no_answer_stands_in_line_again_behind_the_others() {
    let mut store = Store::promised(1, 1200);
    store.withdraw(&[2]);
    let mut asked = store.asked(2);
    let mut waits = 0;
    while asked.len() < 1200 {
        waits += 1;
        assert!(waits < 100, "{} of 1200", asked.len());
        store.pass(Duration::from_millis(100));
        store.turn(vec![Input::Messages { from: StoreId(2), messages: Vec::new() }]);
        asked.extend(store.asked(2));
    }
    assert!(waits <= 60, "a few election timeouts: {waits}");
}

#[test]
fn whoever_cannot_win_takes_nobodys_place() {
    let mut store = Store::promised(1, 1200);
    store.turn(vec![Input::Link { peer: StoreId(2), up: None }]);
    store.withdraw(&[]);
    store.pass(Duration::from_millis(100));
    let campaigns = store.regions.iter().filter(|region| store.worker.status(**region).unwrap().leader.is_none());
    assert!(campaigns.count() == 1200, "all of them ask, for what it is worth");
}
