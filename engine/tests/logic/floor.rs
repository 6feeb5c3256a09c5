//! A store that begins anew on an empty disk, as its worker sees it, and as a leader elsewhere does (`docs/regions.md`).

use std::sync::Arc;
use std::time::Duration;

use multiraft::assembly::bootstrap_regions;
use multiraft::logic::{AdminRequest, Adopt, ApplyTask, Floor, Input, Outcome, Residue, TurnOutput, Worker};
use multiraft::{Incarnation, LogIndex, RegionDescriptor, RegionId, StoreId};
use multiraft_raft::{Body, ChangeOp, MembershipChange, Message, ReplicaId, Term, Time};
use multiraft_storage::{LogOptions, LogWriter, SimDisk};
use multiraft_transport::{Beat, Beats, PeerMessage, RaftMessage, RegionMessage, RegionStep};

use crate::support::{REGION, Store};
use crate::turns::said;
use crate::worker_config::worker_config;

const PEER: StoreId = StoreId(2);
const LAST: ReplicaId = ReplicaId(50);

/// The worker of a store that begins anew, and has its floor or not.
fn worker(floor: Floor) -> Worker<u32> {
    let (_, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
    let stores: Vec<StoreId> = (1..=3).map(StoreId).collect();
    let residue = Residue { floor, ..Residue::default() };
    let worker = Worker::new(worker_config(&stores[1..]), recovered.token(0), &[], Time::ZERO);
    let mut worker = worker.with_residue(residue);
    turn(&mut worker, Input::Link { peer: PEER, up: Some(Incarnation(1)) });
    worker
}

fn turn(worker: &mut Worker<u32>, input: Input<u32>) -> TurnOutput<u32> {
    let mut out = TurnOutput::default();
    worker.turn(Time::ZERO, &mut vec![input], &mut out);
    out
}

/// A region whose replica on this store has this id.
fn region(own: u64) -> Arc<RegionDescriptor> {
    let mut region = (*bootstrap_regions(&[], &[1, 2, 3].map(StoreId))[1]).clone();
    region.replicas[0].id = ReplicaId(own);
    Arc::new(region)
}

fn says(own: u64, body: Body) -> Input<u32> {
    let message = Message { from: ReplicaId(2), to: ReplicaId(own), term: Term(4), body };
    let raft = RaftMessage { region: REGION, message, descriptor: Some(region(own)) };
    Input::Messages { from: PEER, messages: vec![PeerMessage::Raft(raft)] }
}

fn append() -> Body {
    let (prev_index, prev_term) = (LogIndex(9), Term(1));
    Body::Append { prev_index, prev_term, commit: LogIndex(9), entries: Vec::new() }
}

fn pre_vote() -> Body {
    Body::PreVote { last_index: LogIndex(9), last_term: Term(1) }
}

fn vote() -> Body {
    Body::Vote { last_index: LogIndex(9), last_term: Term(1), transfer: false }
}

fn beat(own: u64) -> Input<u32> {
    let (from, to, term) = (ReplicaId(2), ReplicaId(own), Term(4));
    let beat = Beat { region: REGION, from, to, term, commit: LogIndex(9), round: 0 };
    let beats = Beats { beats: vec![beat], ..Beats::default() };
    Input::Messages { from: PEER, messages: vec![PeerMessage::Beats(beats)] }
}

/// The replicas that a message would bring to life.
fn creates(out: &TurnOutput<u32>) -> Vec<ReplicaId> {
    let asked = |task: &ApplyTask<u32>| match task {
        ApplyTask::Create { replica, .. } => Some(*replica),
        _ => None,
    };
    out.apply.iter().filter_map(asked).collect()
}

fn begun_anew() -> Vec<(StoreId, PeerMessage)> {
    vec![(PEER, PeerMessage::Region(RegionMessage { region: REGION, step: RegionStep::BegunAnew { above: LAST } }))]
}

#[test]
fn no_replica_comes_and_nobody_is_answered_before_the_floor_is_known() {
    let mut worker = worker(Floor::Unknown);
    for own in [1, 50, 51, u64::MAX] {
        for input in [says(own, append()), says(own, pre_vote()), says(own, vote()), beat(own)] {
            let mut out = turn(&mut worker, input);
            assert_eq!((creates(&out), said(&mut out).collect::<Vec<_>>()), (vec![], vec![]), "{own}");
        }
    }
    turn(&mut worker, Input::Floor(Floor::Above(LAST)));
    let out = turn(&mut worker, says(51, append()));
    assert_eq!(creates(&out), [ReplicaId(51)]);
}

#[test]
fn a_replica_up_to_the_floor_stays_lost_and_its_leader_is_told() {
    let mut worker = worker(Floor::Above(LAST));
    for own in [1, 50] {
        for input in [says(own, append()), says(own, Body::Fortify { epoch: 7 }), beat(own)] {
            let mut out = turn(&mut worker, input);
            assert_eq!((creates(&out), said(&mut out).collect::<Vec<_>>()), (vec![], begun_anew()), "{own}");
        }
        for input in [says(own, pre_vote()), says(own, vote())] {
            let mut out = turn(&mut worker, input);
            assert_eq!((creates(&out), said(&mut out).collect::<Vec<_>>()), (vec![], vec![]), "{own}");
        }
    }
    for input in [says(51, append()), says(52, vote())] {
        let mut worker = self::worker(Floor::Above(LAST));
        let mut out = turn(&mut worker, input);
        assert_eq!((creates(&out).len(), said(&mut out).count()), (1, 0));
    }
}

#[test]
fn beside_a_later_replica_the_lost_one_is_still_lost() {
    let mut worker = worker(Floor::Above(LAST));
    turn(&mut worker, says(51, append()));
    turn(&mut worker, Input::Created { region: REGION, replica: ReplicaId(51), allowed: true });
    let mut out = turn(&mut worker, beat(50));
    assert!(said(&mut out).any(|told| begun_anew().contains(&told)));
    assert_eq!(worker.handles().count(), 1);
}

/// Its parent's replica here is above the floor, so the split was proposed after this store had begun anew: nothing of the child was ever
/// promised here, whatever ids the split took from an older block.
#[test]
fn a_childs_replica_up_to_the_floor_comes_by_its_parents_split() {
    let mut worker = worker(Floor::Above(LAST));
    let child = region(40);
    let out = turn(&mut worker, says(40, vote()));
    assert_eq!(creates(&out), [], "not by a message");
    turn(&mut worker, Input::Adopt(Adopt { descriptor: Arc::clone(&child), campaign: false }));
    assert_eq!(worker.status(RegionId(2)).map(|status| status.descriptor), Some(child));
}

#[test]
#[should_panic = "keeps it"]
fn a_floor_is_for_good() {
    turn(&mut worker(Floor::Above(LAST)), Input::Floor(Floor::Above(ReplicaId(51))));
}

#[test]
fn ids_are_lost_with_all_that_were_given_away_before() {
    let Floor::Above(last) = Floor::after(100) else { panic!("a floor") };
    assert_eq!(last, ReplicaId(99 + Floor::IDS));
    assert!(Floor::Above(last).bars(last) && !Floor::Above(last).bars(ReplicaId(last.0 + 1)));
    assert!(Floor::Unknown.bars(ReplicaId(u64::MAX)) && !Floor::Whole.bars(ReplicaId(0)));
}

fn ask(store: &mut Store, op: ChangeOp) -> Outcome {
    store.answered.clear();
    let deadline = store.now.plus(Duration::from_secs(5));
    let request = AdminRequest::Membership(MembershipChange::Simple(op));
    store.turn(vec![Input::Admin { region: REGION, epoch: None, request, deadline, reply: 1 }]);
    store.answered.pop().map_or(Outcome::Done, |(_, outcome)| outcome)
}

fn refused(store: &mut Store, op: ChangeOp) -> String {
    match ask(store, op) {
        Outcome::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn told(from: u64, above: u64) -> Input<u32> {
    let step = RegionStep::BegunAnew { above: ReplicaId(above) };
    let message = PeerMessage::Region(RegionMessage { region: REGION, step });
    Input::Messages { from: StoreId(from), messages: vec![message] }
}

#[test]
fn a_leader_counts_a_lost_replica_as_dead_and_tells_whoever_plans() {
    let mut store = Store::leading_among(3, |_| ());
    let fenced = |store: &Store| store.worker.led_page(0, 64).led[0].fenced.clone();
    assert_eq!(fenced(&store), []);
    // Of store 3 it had later ones, or has.
    store.turn(vec![told(2, 50), told(3, 2)]);
    assert_eq!(fenced(&store), [ReplicaId(2)]);
    let reason = refused(&mut store, ChangeOp::Remove { id: ReplicaId(3) });
    assert!(reason.contains("without store 2"), "{reason}");
    assert_eq!(ask(&mut store, ChangeOp::Remove { id: ReplicaId(2) }), Outcome::Done, "it is proposed");
}

#[test]
fn a_replica_whose_store_has_begun_anew_since_its_id_was_given_away_is_not_added_or_promoted() {
    let mut store = Store::leading_among(3, |_| ());
    store.turn(vec![Input::Link { peer: StoreId(4), up: Some(Incarnation(1)) }, told(4, 50)]);
    for op in [
        ChangeOp::AddLearner { id: ReplicaId(50), store: StoreId(4) },
        ChangeOp::AddVoter { id: ReplicaId(50), store: StoreId(4) },
        ChangeOp::AddWitness { id: ReplicaId(50), store: StoreId(4) },
    ] {
        let reason = refused(&mut store, op);
        assert!(reason.contains("try again"), "{reason}");
    }
    assert_eq!(ask(&mut store, ChangeOp::AddLearner { id: ReplicaId(51), store: StoreId(4) }), Outcome::Done);
}
