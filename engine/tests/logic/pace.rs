//! How often heartbeats leave.

use std::time::Duration;

use multiraft_raft::Time;
use multiraft_transport::PeerMessage;

use crate::support::Store;

/// Answers all heartbeats, those of a round that does not wait for the others too; how many there were.
fn answered(store: &mut Store) -> usize {
    let at_once: Vec<_> = std::mem::take(&mut store.said)
        .into_iter()
        .filter_map(|(_, message)| if let PeerMessage::Beats(beats) = message { Some(beats.beats) } else { None })
        .flatten()
        .collect();
    store.beats.extend(at_once);
    store.answer_beats()
}

/// The heartbeats of three seconds in which a region is written to every 40 ms, and of the two after.
fn beats(beats_at_once: usize) -> (usize, usize) {
    let (mut store, _held) = Store::fortified(|config| config.beats_at_once = beats_at_once, Time::ZERO);
    answered(&mut store);
    let mut busy = 0;
    for _ in 0..75 {
        store.write(1);
        store.accept_all();
        store.pass(Duration::from_millis(40));
        busy += answered(&mut store);
    }
    let mut idle = 0;
    for _ in 0..20 {
        store.pass(Duration::from_millis(100));
        idle += answered(&mut store);
    }
    assert_eq!(store.worker.counters().rests, 1, "it comes to rest all the same");
    (busy, idle)
}

#[test]
fn groups_that_are_written_to_put_their_heartbeats_off_where_there_are_many() {
    let (busy, idle) = beats(256);
    assert!((58..=62).contains(&busy), "two each interval: {busy}");
    let (busy_of_many, idle_of_many) = beats(1);
    assert!((14..=18).contains(&busy_of_many), "two each four intervals: {busy_of_many}");
    assert!(idle <= 2 && idle_of_many == 2, "one round tells of the last commit: {idle}, {idle_of_many}");
}
