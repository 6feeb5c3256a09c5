//! The asker's side: epochs, heartbeats, what is held (L1, L2, L4, L6, L11).

use super::*;

/// A core that holds the peer's support from its heartbeat at moment 0, as the fifth incarnation of the peer has answered.
fn holding() -> Liveness {
    let mut core = begun();
    assert_eq!(take(&mut core, 10, answer(5, 1, 1, SUPPORTED)).news, [held(5, 1, 0)]);
    core
}

#[test]
fn l1_epochs_begin_at_one_and_go_on_when_withdrawn() {
    let mut core = holding();
    assert_eq!(core.asks_at(PEER), Some(1));
    let out = take(&mut core, 20, answer(5, 1, 1, SupportVerdict::Withdrawn));
    assert_eq!(out.news, [LOST]);
    assert_eq!(heartbeats(&tick(&mut core, 100))[0].number, 2);
    // What comes late of the old epoch counts for nothing, whatever it says.
    assert_eq!(take(&mut core, 110, answer(5, 1, 1, SUPPORTED)).news, []);
    assert_eq!(take(&mut core, 110, answer(5, 1, 1, SupportVerdict::Withdrawn)).news, []);
    assert_eq!((core.asks_at(PEER), core.held(PEER)), (Some(2), None));
}

#[test]
fn l1_another_incarnation_of_the_peer_ends_the_epoch_whatever_message_tells_of_it() {
    let round =
        SupportMessage::Round(multiraft_transport::SupportRound { incarnation: Incarnation(6), round: 1, number: 1 });
    let asked = SupportMessage::Heartbeat(heartbeat((6, 1), 1, 0));
    for message in [answer(6, 1, 1, SUPPORTED), round, asked] {
        let mut core = holding();
        assert_eq!(take(&mut core, 20, message).news, [LOST], "{message:?}");
        assert_eq!((core.asks_at(PEER), core.held(PEER)), (Some(2), None));
        assert_eq!(heartbeats(&tick(&mut core, 100))[0].number, 2);
        // The earlier life of the peer is not listened to any more.
        assert_eq!(take(&mut core, 110, answer(5, 2, 2, SUPPORTED)).news, []);
        assert_eq!(core.asks_at(PEER), Some(2));
    }
}

#[test]
fn l1_an_epoch_that_is_given_up_ends_for_every_thread_before_the_next_is_asked_for() {
    let mut core = begun();
    let news = take(&mut core, 10, answer(5, 1, 1, SUPPORTED)).news;
    let [SupportNews::Held { support, .. }] = &news[..] else { panic!("{news:?}") };
    let mut out = LivenessOutput::default();
    core.give_up(at(20), PEER, &mut out);
    assert_eq!((out.news, out.sends.len()), (vec![LOST], 0));
    assert_eq!(support.until(), Time::ZERO);
    assert_eq!(heartbeats(&tick(&mut core, 100))[0].number, 2);
}

#[test]
fn l1_a_peer_that_is_removed_and_comes_back_is_asked_at_a_new_epoch_with_later_sequences() {
    let mut core = holding();
    let mut out = LivenessOutput::default();
    core.remove_peer(at(20), PEER, &mut out);
    assert_eq!((out.news, core.asks_at(PEER)), (vec![LOST], None));
    assert_eq!(heartbeats(&tick(&mut core, 100)), []);
    assert_eq!(take(&mut core, 110, answer(5, 2, 1, SUPPORTED)).news, [], "nothing is asked of it");
    core.add_peer(at(200), PEER);
    let next = heartbeats(&tick(&mut core, 200));
    assert_eq!((next[0].number, next[0].sequence), (2, 2));
}

#[test]
fn l2_one_heartbeat_an_interval_says_what_is_needed_and_sequences_grow() {
    let mut core = core(Duration::ZERO);
    let first = SupportHeartbeat {
        incarnation: OWN_LIFE,
        number: 1,
        sequence: 1,
        heard: (Incarnation::ZERO, 0),
        wish_ms: 1000,
        farewell: false,
    };
    assert_eq!(heartbeats(&tick(&mut core, 0)), [first]);
    assert_eq!(core.next_deadline(), at(100));
    assert_eq!(heartbeats(&tick(&mut core, 99)), []);
    take(&mut core, 99, answer(5, 1, 1, SupportVerdict::NotNow));
    let second = SupportHeartbeat { sequence: 2, heard: (Incarnation(5), 1), ..first };
    assert_eq!(heartbeats(&tick(&mut core, 100)), [second]);
    // A store that was late does not send at once what it has not sent meanwhile.
    assert_eq!(heartbeats(&tick(&mut core, 550)).len(), 1);
    assert_eq!(core.next_deadline(), at(650));
}

#[test]
fn l2_an_older_message_does_not_set_back_what_was_heard() {
    let mut core = begun();
    take(&mut core, 10, SupportMessage::Heartbeat(heartbeat((5, 1), 9, 1)));
    take(&mut core, 20, SupportMessage::Heartbeat(heartbeat((5, 1), 8, 1)));
    take(&mut core, 30, SupportMessage::Heartbeat(heartbeat((4, 1), 99, 1)));
    assert_eq!(heartbeats(&tick(&mut core, 100))[0].heard, (Incarnation(5), 9));
}

#[test]
fn l4_support_is_held_from_the_sending_of_the_heartbeat_that_was_answered() {
    let mut core = begun();
    tick(&mut core, 100);
    tick(&mut core, 200);
    // Sequence 2 was sent at 100.
    assert_eq!(take(&mut core, 250, answer(5, 1, 2, SUPPORTED)).news, [held(5, 1, 100)]);
    // An answer that comes late, to an earlier heartbeat, makes it no longer.
    assert_eq!(take(&mut core, 260, answer(5, 1, 1, SUPPORTED)).news, []);
    assert_eq!(core.held(PEER).unwrap().until(), Time(at(100).0 + LEASE));
    // A renewal is seen in what the workers hold, and is no news.
    assert_eq!(take(&mut core, 270, answer(5, 1, 3, SUPPORTED)).news, []);
    assert_eq!(core.held(PEER).unwrap().until(), Time(at(200).0 + LEASE));
}

#[test]
fn l4_a_shorter_support_is_held_for_shorter_and_never_for_longer_than_was_asked_for() {
    let mut core = begun();
    take(&mut core, 10, answer(5, 1, 1, SupportVerdict::Supported { duration_ms: 500 }));
    assert_eq!(core.held(PEER).unwrap().until(), Time(LEASE / 2));
    take(&mut core, 20, answer(5, 1, 1, SupportVerdict::Supported { duration_ms: 9000 }));
    assert_eq!(core.held(PEER).unwrap().until(), Time(LEASE));
}

#[test]
fn l4_an_answer_for_another_epoch_incarnation_or_heartbeat_counts_for_nothing() {
    let mut core = begun();
    let SupportMessage::Answer(good) = answer(5, 1, 1, SUPPORTED) else { unreachable!() };
    let wrong = [
        SupportAnswer { asker: Incarnation(6), ..good },
        SupportAnswer { number: 2, ..good },
        SupportAnswer { answered: 2, ..good },
        SupportAnswer { incarnation: Incarnation::ZERO, ..good },
    ];
    for answer in wrong {
        assert_eq!(take(&mut core, 10, SupportMessage::Answer(answer)).news, [], "{answer:?}");
    }
    assert_eq!(take(&mut core, 10, SupportMessage::Answer(good)).news, [held(5, 1, 0)]);
}

#[test]
fn l4_not_now_takes_nothing_away() {
    let mut core = holding();
    assert_eq!(take(&mut core, 20, answer(5, 1, 1, SupportVerdict::NotNow)).news, []);
    assert!(core.held(PEER).is_some());
}

#[test]
fn l6_no_heartbeat_leaves_while_nothing_moves_and_none_is_made_up_for() {
    let mut core = begun();
    for ms in [100, 200, 300] {
        let mut out = LivenessOutput::default();
        core.tick(at(ms), false, &mut out);
        assert_eq!(out.sends, []);
    }
    assert_eq!(core.counters().withheld, 3);
    assert_eq!(heartbeats(&tick(&mut core, 350)), []);
    assert_eq!(heartbeats(&tick(&mut core, 400)).iter().map(|one| one.sequence).collect::<Vec<_>>(), [2]);
}

#[test]
fn l6_answers_are_given_while_nothing_moves() {
    let mut core = begun();
    core.tick(at(100), false, &mut LivenessOutput::default());
    assert_eq!(ask(&mut core, 110, heartbeat((5, 1), 1, 1)).0, Some(SUPPORTED));
}

#[test]
fn l11_what_has_run_out_is_lost_and_the_same_epoch_may_come_back() {
    let mut core = holding();
    (1..=9).for_each(|tenth| assert_eq!(tick(&mut core, tenth * 100).news, []));
    assert_eq!(core.next_deadline(), Time(LEASE), "the end of what is held comes before the next heartbeat");
    let mut out = LivenessOutput::default();
    core.tick(Time(LEASE), true, &mut out);
    assert_eq!(out.news, [LOST]);
    assert_eq!((core.asks_at(PEER), core.held(PEER)), (Some(1), None), "a loss is no withdrawal");
    // Sequence 7 was sent at 600.
    assert_eq!(take(&mut core, 990, answer(5, 1, 7, SUPPORTED)).news, [held(5, 1, 600)]);
}

#[test]
fn l11_an_answer_that_comes_too_late_brings_nothing_back() {
    let mut core = begun();
    assert_eq!(take(&mut core, 981, answer(5, 1, 1, SUPPORTED)).news, []);
    assert_eq!(core.held(PEER), None);
}
