//! What a group costs: tens of thousands of them share a store.

use bytes::Bytes;
use multiraft_raft::{Body, EntryKind, Options, Payload, Proposal};

use crate::hand::{Hand, append, command, x};

#[test]
fn idle_replicas_are_small() {
    let mut follower = Hand::follower(Options::default(), 3);
    follower.turn();
    assert!(follower.group.memory_bytes() < 700, "{} bytes", follower.group.memory_bytes());

    let mut leader = Hand::leader(Options::default(), 3);
    leader.group.release_memory();
    assert!(leader.group.memory_bytes() < 1400, "{} bytes", leader.group.memory_bytes());
}

#[test]
fn a_group_of_which_nothing_is_under_way_is_packed_in_few_bytes() {
    let packed = |hand: &Hand| {
        let mut packed = Vec::new();
        assert!(hand.group.pack(hand.group.membership(), &mut packed));
        packed.len()
    };
    let mut follower = Hand::follower(Options::default(), 3);
    follower.turn();
    assert!(packed(&follower) <= 50, "{} bytes", packed(&follower));

    let mut leader = Hand::leader(Options::default(), 3);
    leader.flush();
    assert!(packed(&leader) <= 90, "{} bytes", packed(&leader));
}

#[test]
fn busy_leader_gives_its_memory_back() {
    let mut hand = Hand::leader(Options::default(), 3);
    hand.group.release_memory();
    let before = hand.group.memory_bytes();
    for _ in 0..200 {
        let data = Bytes::from(vec![0; 10_000]);
        hand.group
            .propose(hand.now, &mut vec![Proposal { kind: EntryKind::Command, data: data.into() }])
            .expect("there is room");
        hand.turn();
    }
    let busy = hand.group.memory_bytes();
    assert!(busy > 2_000_000, "{busy} bytes: what is not durable stays in memory");
    hand.flush();
    hand.accepted(2, 206);
    hand.accepted(3, 206);
    hand.turn();
    hand.group.on_applied(hand.now, x(206));
    let cached = hand.group.memory_bytes();
    assert!(cached < 1_100_000, "{cached} bytes: the cache is limited");
    hand.group.release_memory();
    assert_eq!(hand.group.memory_bytes(), before);
}

#[test]
fn a_leader_keeps_entries_while_a_follower_lacks_them_and_few_after() {
    let mut hand = Hand::leader(Options::default(), 3);
    for _ in 0..200 {
        let data = Payload::from(vec![0; 1000]);
        hand.group.propose(hand.now, &mut vec![Proposal { kind: EntryKind::Command, data }]).expect("there is room");
        hand.turn();
    }
    hand.flush();
    hand.accepted(2, 206);
    hand.turn();
    hand.group.on_applied(hand.now, x(206));
    let lacked = hand.group.memory_bytes();
    assert!(lacked > 200_000, "{lacked} bytes: the third holds none of it");
    hand.accepted(3, 106);
    hand.propose(&["a"]);
    hand.turn();
    let half = hand.group.memory_bytes();
    assert!(half > 100_000 && half < 150_000, "{half} bytes");
    hand.accepted(3, 206);
    hand.propose(&["b"]);
    hand.turn();
    let few = hand.group.memory_bytes();
    assert!(few < 50_000, "{few} bytes, most of them room for entries and for appends to come");
}

#[test]
fn follower_that_applies_slowly_keeps_a_bounded_cache() {
    let options = Options { max_cached_bytes: 10_000, max_uncommitted_bytes: 50_000, ..Options::default() };
    let mut hand = Hand::follower(options, 3);
    for index in 6..2000 {
        let mut entry = command(index, 2, "");
        entry.data = Payload::from(vec![0; 1000]);
        // Never committed, so never handed out; but durable, so it can be read back.
        hand.hear(2, 2, append((index - 1, if index == 6 { 1 } else { 2 }), 5, vec![entry]));
        hand.turn();
        hand.flush();
        hand.turn();
    }
    assert!(hand.group.memory_bytes() < 200_000, "{} bytes", hand.group.memory_bytes());
}

#[test]
fn empty_windows_are_given_back_at_the_next_heartbeat() {
    let mut hand = Hand::leader(Options::default(), 3);
    hand.group.release_memory();
    let before = hand.group.memory_bytes();
    for round in 0..100 {
        hand.group
            .propose(hand.now, &mut vec![Proposal { kind: EntryKind::Command, data: Payload::new() }])
            .expect("there is room");
        hand.turn();
        assert_eq!(hand.group.status().peers[0].inflight_appends, round + 1);
    }
    hand.accepted(2, 106);
    hand.accepted(3, 106);
    let busy = hand.group.memory_bytes();
    hand.now = hand.group.next_deadline();
    hand.group.handle_deadline(hand.now);
    let after = hand.group.memory_bytes();
    assert!(busy - after >= 2 * 100 * 16, "{before} before, {busy} busy, {after} after the heartbeat");
    hand.hear(2, 2, Body::HeartbeatReply { round: 0 });
}
