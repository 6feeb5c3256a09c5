//! What a worker lists for callers that read without it (R2a and R4 of `docs/liveness.md`): in step with each turn, before
//! anything of the turn leaves.

use std::sync::Arc;
use std::time::Duration;

use multiraft::liveness::SupportNews;
use multiraft::logic::{Asker, Freshness, Input, Leases, Look, Outcome, TurnOutput};
use multiraft::{LogIndex, StoreId};
use multiraft_raft::{Body, Term, Time};
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage};

use crate::support::{REGION, Store};

/// A leader that both followers have promised, with leases until `until`, and what it lists; read once.
fn listed(until: Time) -> (Store, Arc<Leases>) {
    let leases = Arc::new(Leases::default());
    let (mut store, _) = Store::fortified(|config| config.leases = true, until);
    store.worker = std::mem::replace(&mut store.worker, Store::new(|_| ()).worker).with_leases(Arc::clone(&leases));
    assert_eq!(leases.standing(REGION), None, "nobody has read");
    store.read_as(Freshness::Lease, 1);
    (store, leases)
}

/// What a store is told that has no replica, by a lease.
fn index_at(leases: &Leases, now: Time) -> Option<(LogIndex, Term)> {
    leases.index_for(REGION, &Asker { store: StoreId(9), term: Term::ZERO, lease_at: Some(now) })
}

fn is_here(leases: &Leases, now: Time) -> bool {
    matches!(leases.look(REGION, None, Some(now)), Look::Here { .. })
}

#[test]
fn a_region_is_listed_once_it_is_read_by_lease_and_renewed_without_its_worker() {
    let (mut store, leases) = listed(Time::NEVER);
    assert!(is_here(&leases, store.now));
    assert_eq!(index_at(&leases, store.now), Some((LogIndex(1), store.term())));
    let held = [store.hold(2, 5, store.now.plus(Duration::from_secs(1))), store.hold(3, 6, Time::ZERO)];
    store.read_as(Freshness::Lease, 2);
    assert!(is_here(&leases, store.now), "one of two is enough");
    assert!(!is_here(&leases, held[0].until()));
    store.news(SupportNews::Lost { peer: StoreId(2) });
    assert_eq!(store.worker.listed_wrongly(), None);
}

#[test]
fn without_the_embedders_word_no_lease_is_listed() {
    let leases = Arc::new(Leases::default());
    let (mut store, _) = Store::fortified(|config| config.leases = false, Time::NEVER);
    store.worker = std::mem::replace(&mut store.worker, Store::new(|_| ()).worker).with_leases(Arc::clone(&leases));
    store.read_as(Freshness::Lease, 1);
    assert!(leases.standing(REGION).is_some());
    assert!(!is_here(&leases, store.now) && index_at(&leases, store.now).is_none());
}

/// Takes one turn and carries nothing out: what stands in the list by then holds before anything has left.
fn turn_only(store: &mut Store, mut inputs: Vec<Input<u32>>) -> TurnOutput<u32> {
    let mut out = TurnOutput::default();
    store.worker.turn(store.now, &mut inputs, &mut out);
    out
}

#[test]
fn a_lease_is_taken_back_before_leadership_is_offered() {
    let (mut store, leases) = listed(Time::NEVER);
    let deadline = store.now.plus(Duration::from_secs(5));
    let transfer = Input::Transfer { region: REGION, to: StoreId(2), deadline, reply: 2 };
    let out = turn_only(&mut store, vec![transfer]);
    let offers =
        |message: &PeerMessage| matches!(message, PeerMessage::Raft(raft) if raft.message.body == Body::TimeoutNow);
    assert!(out.sends.iter().flat_map(|sent| &sent.messages).any(offers));
    assert!(!is_here(&leases, store.now) && index_at(&leases, store.now).is_none());
}

#[test]
fn a_leader_that_steps_down_lists_the_next_one() {
    let (mut store, leases) = listed(Time::NEVER);
    let term = store.term().get() + 1;
    let body = Body::Append { prev_index: LogIndex(1), prev_term: store.term(), commit: LogIndex(1), entries: vec![] };
    store.hear(3, term, body);
    let there = leases.look(REGION, None, Some(store.now));
    assert!(matches!(there, Look::There { leader: StoreId(3), term: Term(at), .. } if at == term), "{there:?}");
    assert!(index_at(&leases, store.now).is_none());
}

#[test]
fn what_is_committed_is_in_the_index_before_anybody_hears_of_it_and_read_here_once_it_is_applied() {
    let (mut store, leases) = listed(Time::NEVER);
    store.write(2);
    assert!(is_here(&leases, store.now), "not committed yet");
    let acknowledged = store.acknowledgement(2, LogIndex(2));
    let out = turn_only(&mut store, vec![acknowledged]);
    assert_eq!(out.apply.len(), 1, "committed, and on its way to the state");
    assert!(!is_here(&leases, store.now));
    assert_eq!(index_at(&leases, store.now), Some((LogIndex(2), store.term())), "others wait for it themselves");
    store.apply(&out);
    assert!(is_here(&leases, store.now));
}

#[test]
fn a_read_that_a_leader_elsewhere_has_confirmed_waits_for_its_index() {
    let (mut store, leases) = listed(Time::NEVER);
    let (region, index, term, asked) = (REGION, LogIndex(2), store.term(), store.now);
    store.answered.clear();
    store.turn(vec![Input::ReadConfirmed { region, index, term, asked, reply: 7 }]);
    assert!(store.answered.is_empty() && !leases.holds(REGION, index));
    store.write(2);
    let acknowledged = store.acknowledgement(2, index);
    store.turn(vec![acknowledged]);
    assert!(store.answered.contains(&(7, Outcome::ReadAt { index, term })) && leases.holds(REGION, index));
}

/// Asks as another store, whose replica is in `term`.
fn ask(store: &mut Store, from: u64, (id, lease, term): (u64, bool, Term)) {
    store.said.clear();
    let request = ForwardRequest::ReadIndex { lease };
    let epoch = multiraft::RegionEpoch::default();
    let forward = PeerMessage::Forward(Forward { id, region: REGION, epoch, term, timeout_ms: 1000, request });
    store.turn(vec![Input::Messages { from: StoreId(from), messages: vec![forward] }]);
}

fn answers(store: &Store) -> Vec<(u64, PeerMessage)> {
    store.said.iter().filter(|(_, said)| matches!(said, PeerMessage::ForwardReply(_))).cloned().collect()
}

#[test]
fn a_question_by_lease_of_another_store_is_answered_by_the_lease() {
    let (mut store, _) = listed(Time::NEVER);
    let outcome = ForwardOutcome::ReadAt { index: LogIndex(1), term: store.term() };
    ask(&mut store, 2, (1, true, Term::ZERO));
    assert_eq!(answers(&store), [(2, PeerMessage::ForwardReply(ForwardReply { id: 1, outcome }))]);
    ask(&mut store, 2, (2, false, Term::ZERO));
    assert_eq!((answers(&store), store.rounds().len()), (vec![], 2), "this one gets a round");
}

#[test]
fn the_word_of_a_voter_in_the_leaders_term_completes_a_quorum_of_three() {
    let (mut store, leases) = listed(Time::ZERO);
    let term = store.term();
    let outcome = ForwardOutcome::ReadAt { index: LogIndex(1), term };
    for (id, lease) in [(1, false), (2, true)] {
        ask(&mut store, 3, (id, lease, term));
        assert_eq!(answers(&store), [(3, PeerMessage::ForwardReply(ForwardReply { id, outcome: outcome.clone() }))]);
        assert_eq!(store.rounds(), []);
    }
    let of = |store, term| leases.index_for(REGION, &Asker { store: StoreId(store), term, lease_at: None });
    assert_eq!([2, 3, 4].map(|store| of(store, term).is_some()), [true, true, false], "the last is no voter");
    let (before, after) = (Term(term.get() - 1), Term(term.get() + 1));
    assert_eq!([of(2, before), of(2, after), of(2, Term::ZERO)], [None; 3], "of another term, or of none");
}

#[test]
fn the_word_of_one_voter_is_not_enough_of_five() {
    let leases = Arc::new(Leases::default());
    let mut store = Store::leading_among(5, |_| ());
    store.worker = std::mem::replace(&mut store.worker, Store::new(|_| ()).worker).with_leases(Arc::clone(&leases));
    let term = store.term();
    ask(&mut store, 2, (1, false, term));
    assert_eq!(answers(&store), []);
    let standing = leases.standing(REGION).unwrap();
    assert_eq!((standing.term, standing.lease.is_some()), (term, true));
    assert_eq!(leases.index_for(REGION, &Asker { store: StoreId(2), term, lease_at: None }), None);
}

#[test]
fn a_voters_word_does_not_confirm_a_leader_that_offers_leadership() {
    let (mut store, leases) = listed(Time::NEVER);
    let (term, deadline) = (store.term(), store.now.plus(Duration::from_secs(5)));
    turn_only(&mut store, vec![Input::Transfer { region: REGION, to: StoreId(2), deadline, reply: 2 }]);
    assert_eq!(leases.index_for(REGION, &Asker { store: StoreId(3), term, lease_at: None }), None);
    ask(&mut store, 3, (1, false, term));
    assert_eq!(answers(&store), []);
}

#[test]
fn what_nobody_reads_any_more_is_taken_off() {
    let (mut store, leases) = listed(Time::NEVER);
    for _ in 0..60 {
        store.pass(Duration::from_millis(100));
        store.answer_beats();
    }
    store.pass(Duration::from_secs(20));
    assert_eq!(leases.standing(REGION), None);
    store.read_as(Freshness::Lease, 2);
    assert!(is_here(&leases, store.now));
}
