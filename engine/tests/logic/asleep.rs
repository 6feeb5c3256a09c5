//! Replicas that sleep in their packed form, and what finds them all the same.

use std::time::Duration;

use multiraft::logic::{Input, WorkerConfig};
use multiraft::{LogIndex, RegionId};
use multiraft_raft::{Body, Time};

use crate::support::{REGION, Store};

/// A leader that rests, and has been packed.
fn packed(change: impl FnOnce(&mut WorkerConfig)) -> Store {
    let (mut store, _) = Store::fortified(change, Time::ZERO);
    for _ in 0..4 {
        store.pass(Duration::from_millis(100));
        store.answer_beats();
    }
    store.pass(Duration::from_secs(2));
    let counters = store.worker.counters();
    assert_eq!((counters.rests, counters.packed, counters.unpacked), (1, 1, 0));
    store.bodies();
    store
}

fn offers(store: &mut Store) -> Vec<u64> {
    let said = store.bodies().into_iter();
    said.filter_map(|(to, body)| (body == Body::TimeoutNow).then_some(to)).collect()
}

#[test]
fn who_is_looked_at_sleeps_on() {
    let store = packed(|_| ());
    let status = store.worker.status(REGION).unwrap();
    assert!(status.is_leader && status.asleep);
    assert_eq!(store.worker.led().led, 1);
    assert_eq!(store.worker.led_page(0, 100).led.len(), 1);
    assert_eq!(store.worker.counters().unpacked, 0);
}

#[test]
fn a_sleeping_leader_goes_where_it_belongs_once_it_has_stayed_long_enough() {
    // The region's leader belongs to the third of its replicas.
    assert_eq!(REGION, RegionId(2));
    let mut store = packed(|config| config.balance_leaders = true);
    assert_eq!(offers(&mut store), [0; 0]);
    store.pass(Duration::from_secs(2));
    let offers = offers(&mut store);
    assert!(!offers.is_empty() && offers.iter().all(|to| *to == 3), "{offers:?}");
}

#[test]
fn a_sleeping_leader_is_handed_over_before_its_store_stops() {
    let mut store = packed(|_| ());
    store.turn(vec![Input::Handover]);
    store.pass(Duration::from_millis(500));
    assert_eq!(offers(&mut store).len(), 1);
}

#[test]
fn a_checkpoint_passes_over_who_sleeps() {
    let mut store = packed(|_| ());
    let applied = store.worker.status(REGION).unwrap().applied;
    store.turn(vec![Input::Checkpointed(vec![(REGION, applied), (RegionId(77), LogIndex(3))])]);
    assert_eq!(store.worker.counters().unpacked, 0);
}

#[test]
fn who_is_woken_is_packed_again_once_nothing_has_happened_to_it_for_long() {
    let mut store = packed(|_| ());
    let term = store.term().get();
    store.hear(2, term, Body::HeartbeatReply { round: 0 });
    assert_eq!(store.worker.counters().unpacked, 1);
    store.pass(Duration::from_secs(3));
    let counters = store.worker.counters();
    assert_eq!((counters.packed, counters.unpacked), (2, 1));
    assert_eq!(store.answer_beats(), 0, "what woke it was no reason to beat");
}
