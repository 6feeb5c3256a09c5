//! The supporter's side: what a heartbeat does, and when support ends (L3, L5, L7, L8).

use super::*;

/// A core that supports (5, 1) of the peer since moment 10, thus until 1010.
fn supporting() -> Liveness {
    let mut core = begun();
    assert_eq!(ask(&mut core, 10, heartbeat((5, 1), 1, 1)), (Some(SUPPORTED), vec![given(5, 1)]));
    core
}

fn supported_until(core: &mut Liveness, last_ms: u64) {
    let no_progress = |core: &mut Liveness, ms: u64| {
        let mut out = LivenessOutput::default();
        core.tick(at(ms), false, &mut out);
        out.news
    };
    assert_eq!(no_progress(core, last_ms), []);
    assert!(core.given(PEER).is_some());
    let mut out = LivenessOutput::default();
    core.tick(Time(at(last_ms).0 + 1), false, &mut out);
    assert!(matches!(out.news[..], [SupportNews::Withdrawn { .. }]), "{:?}", out.news);
}

#[test]
fn l3_what_is_older_or_doubled_is_dropped() {
    let mut core = begun();
    ask(&mut core, 10, heartbeat((5, 2), 4, 1));
    assert_eq!(core.given(PEER), Some(epoch(5, 2)));
    for old in [(4, 9), (5, 1)] {
        assert_eq!(ask(&mut core, 20, heartbeat(old, 9, 1)), (None, vec![]), "{old:?}");
    }
    for sequence in [3, 4] {
        assert_eq!(ask(&mut core, 20, heartbeat((5, 2), sequence, 1)), (None, vec![]));
    }
    // Nor does it end the support later.
    supported_until(&mut core, 1010);
}

#[test]
fn l3_a_doubled_heartbeat_of_an_old_epoch_with_a_higher_sequence_is_dropped() {
    let mut core = begun();
    ask(&mut core, 10, heartbeat((5, 1), 1, 1));
    ask(&mut core, 20, heartbeat((5, 2), 3, 1));
    assert_eq!(ask(&mut core, 30, heartbeat((5, 1), 9, 1)), (None, vec![]));
    assert_eq!(core.given(PEER), Some(epoch(5, 2)));
}

#[test]
fn l3_a_higher_epoch_withdraws_the_lower_first() {
    let mut core = supporting();
    let (verdict, news) = ask(&mut core, 20, heartbeat((5, 2), 2, 1));
    assert_eq!((verdict, news), (Some(SUPPORTED), vec![withdrawn(5, 1), given(5, 2)]));
    // Also if it gets no support itself, and if it is of the next incarnation, which counts from one again.
    let (verdict, news) = ask(&mut core, 30, heartbeat((6, 1), 1, 0));
    assert_eq!((verdict, news), (Some(SupportVerdict::NotNow), vec![withdrawn(5, 2)]));
    assert_eq!(core.given(PEER), None);
}

#[test]
fn l3_a_withdrawn_epoch_is_told_so_for_ever() {
    let mut core = supporting();
    supported_until(&mut core, 1010);
    tick(&mut core, 1050);
    for (ms, sequence) in [(1060, 2), (1100, 3), (9000, 4)] {
        let asked = heartbeat((5, 1), sequence, 2);
        assert_eq!(ask(&mut core, ms, asked), (Some(SupportVerdict::Withdrawn), vec![]));
    }
    assert_eq!(core.given(PEER), None);
}

#[test]
fn l3_a_peer_that_was_removed_does_not_get_a_withdrawn_epoch_back() {
    let mut core = supporting();
    supported_until(&mut core, 1010);
    core.remove_peer(at(1020), PEER, &mut LivenessOutput::default());
    core.add_peer(at(1030), PEER);
    tick(&mut core, 1040);
    assert_eq!(ask(&mut core, 1050, heartbeat((5, 1), 2, 2)).0, Some(SupportVerdict::Withdrawn));
}

#[test]
fn l3_support_lasts_for_the_lesser_of_wish_and_setting_and_is_never_shortened() {
    let mut core = begun();
    let asked = SupportHeartbeat { wish_ms: 5000, ..heartbeat((5, 1), 1, 1) };
    assert_eq!(ask(&mut core, 10, asked).0, Some(SUPPORTED));
    let asked = SupportHeartbeat { wish_ms: 300, ..heartbeat((5, 1), 2, 1) };
    assert_eq!(ask(&mut core, 20, asked).0, Some(SupportVerdict::Supported { duration_ms: 300 }));
    supported_until(&mut core, 1010);
}

#[test]
fn l3_the_time_counts_at_which_the_message_was_taken_in() {
    let mut core = begun();
    // The clock was read before by somebody else: the core never goes back.
    tick(&mut core, 50);
    ask(&mut core, 40, heartbeat((5, 1), 1, 1));
    supported_until(&mut core, 1050);
}

#[test]
fn l3_answers_name_both_incarnations_the_heartbeat_and_a_sequence_of_their_own() {
    let mut core = begun();
    let out = take(&mut core, 10, SupportMessage::Heartbeat(heartbeat((5, 3), 8, 1)));
    let answer = SupportAnswer {
        asker: Incarnation(5),
        number: 3,
        answered: 8,
        incarnation: OWN_LIFE,
        sequence: 2,
        verdict: SUPPORTED,
    };
    assert_eq!(out.sends, [(PEER, SupportMessage::Answer(answer))]);
    assert_eq!(heartbeats(&tick(&mut core, 100))[0].sequence, 3, "one count for both");
}

#[test]
fn l4_the_answer_to_a_renewal_leaves_with_the_next_heartbeat_if_it_is_still_true() {
    let mut core = supporting();
    let out = take(&mut core, 50, SupportMessage::Heartbeat(heartbeat((5, 1), 2, 1)));
    assert_eq!(out.sends, []);
    let out = take(&mut core, 60, SupportMessage::Heartbeat(heartbeat((5, 1), 3, 1)));
    assert_eq!(out.sends, []);
    let sends = tick(&mut core, 100).sends;
    let [(_, SupportMessage::Answer(answer)), (_, SupportMessage::Heartbeat(beat))] = &sends[..] else {
        panic!("{sends:?}")
    };
    assert_eq!((answer.answered, answer.verdict), (3, SUPPORTED), "the newest");
    assert_eq!(beat.sequence, answer.sequence + 1);
    // A store that does not get on with its work still answers.
    take(&mut core, 110, SupportMessage::Heartbeat(heartbeat((5, 1), 4, beat.sequence)));
    let mut out = LivenessOutput::default();
    core.tick(at(200), false, &mut out);
    assert!(matches!(out.sends[..], [(_, SupportMessage::Answer(_))]), "{:?}", out.sends);
    // What has been withdrawn in between is not confirmed.
    take(&mut core, 210, SupportMessage::Heartbeat(heartbeat((5, 1), 5, beat.sequence)));
    take(&mut core, 220, SupportMessage::Heartbeat(heartbeat((5, 2), 6, 0)));
    let sends = tick(&mut core, 300).sends;
    assert!(sends.iter().all(|(_, message)| crate::liveness::confirms(message).is_none()), "{sends:?}");
}

#[test]
fn l5_who_has_not_heard_this_store_lately_is_not_renewed() {
    let mut core = supporting();
    // Sequence 1 was sent at 0.
    assert_eq!(ask(&mut core, 500, heartbeat((5, 1), 2, 1)).0, Some(SUPPORTED));
    assert_eq!(ask(&mut core, 501, heartbeat((5, 1), 3, 1)), (Some(SupportVerdict::NotNow), vec![]));
    assert_eq!(
        ask(&mut core, 502, heartbeat((5, 1), 4, 3)).0,
        Some(SUPPORTED),
        "the answer of moment 500 keeps it fresh too"
    );
    assert_eq!(ask(&mut core, 503, heartbeat((5, 1), 5, 99)).0, Some(SupportVerdict::NotNow), "99 was never sent");
    let of_another_life = SupportHeartbeat { heard: (Incarnation(6), 3), ..heartbeat((5, 1), 6, 3) };
    assert_eq!(ask(&mut core, 504, of_another_life).0, Some(SupportVerdict::NotNow));
    supported_until(&mut core, 1502);
}

#[test]
fn l5_a_cut_of_one_way_ends_support_after_freshness_and_duration() {
    let mut core = supporting();
    // The peer is heard, and hears nothing.
    let mut last = None;
    for tenth in 1..=20 {
        let (verdict, _) = ask(&mut core, tenth * 100, heartbeat((5, 1), tenth + 1, 2));
        if verdict == Some(SUPPORTED) {
            last = Some(tenth * 100);
        }
    }
    assert_eq!(last, Some(500));
    let mut again = supporting();
    (1..=5).for_each(|tenth| drop(ask(&mut again, tenth * 100, heartbeat((5, 1), tenth + 1, 2))));
    supported_until(&mut again, 1500);
}

#[test]
fn l5_two_heartbeats_are_enough_at_first_contact() {
    let (mut one, mut other) = (core_of(1, 2), core_of(2, 1));
    let mut waiting: Vec<(StoreId, SupportMessage)> = Vec::new();
    for tenth in 0..2 {
        for (core, peer) in [(&mut one, StoreId(2)), (&mut other, StoreId(1))] {
            let mut out = LivenessOutput::default();
            core.tick(at(tenth * 100), true, &mut out);
            assert!(out.sends.iter().all(|(to, _)| *to == peer));
            waiting.extend(out.sends);
        }
        while !waiting.is_empty() {
            for (to, message) in std::mem::take(&mut waiting) {
                let mut out = LivenessOutput::default();
                let (core, from) = if to == StoreId(1) { (&mut one, StoreId(2)) } else { (&mut other, StoreId(1)) };
                core.handle(at(tenth * 100 + 1), from, &message, &mut out);
                waiting.extend(out.sends);
            }
        }
    }
    for (core, peer) in [(&one, StoreId(2)), (&other, StoreId(1))] {
        assert!(core.held(peer).is_some());
        assert_eq!((core.given(peer), core.asks_at(peer)), (Some(epoch(7, 1)), Some(1)));
    }
}

fn core_of(store: u64, peer: u64) -> Liveness {
    let config = LivenessConfig {
        store: StoreId(store),
        incarnation: OWN_LIFE,
        options: options(),
        promised_before: Duration::ZERO,
    };
    let mut core = Liveness::new(config, at(0));
    core.add_peer(at(0), StoreId(peer));
    core
}

#[test]
fn l7_what_waits_is_taken_in_before_anything_is_withdrawn() {
    let mut core = supporting();
    (1..=10).for_each(|tenth| drop(tick(&mut core, tenth * 100)));
    // Long over; but the renewal was there already, and time withdraws nothing before the next tick.
    let (verdict, news) = ask(&mut core, 1300, heartbeat((5, 1), 2, 10));
    assert_eq!((verdict, news), (Some(SUPPORTED), vec![]));
    supported_until(&mut core, 2300);
}

#[test]
fn l7_support_ends_after_its_last_moment_and_the_core_asks_to_be_called_then() {
    let mut core = supporting();
    for tenth in 1..=10 {
        assert_eq!(tick(&mut core, tenth * 100).news, []);
    }
    assert_eq!(core.next_deadline(), Time(at(1010).0 + 1));
    assert_eq!(tick(&mut core, 1010).news, []);
    let mut out = LivenessOutput::default();
    core.tick(core.next_deadline(), true, &mut out);
    assert_eq!(out.news, [withdrawn(5, 1)]);
    assert_eq!(core.counters().withdrawals, 1);
}

#[test]
fn l7_nothing_confirms_after_the_withdrawal() {
    let mut core = supporting();
    supported_until(&mut core, 1010);
    tick(&mut core, 1050);
    let round = multiraft_transport::SupportRound { incarnation: Incarnation(5), round: 1, number: 1 };
    let asked = SupportMessage::Heartbeat(heartbeat((5, 1), 2, 2));
    for message in [SupportMessage::Round(round), asked] {
        for (_, answer) in take(&mut core, 1060, message).sends {
            assert_eq!(super::super::confirms(&answer), None, "{answer:?}");
        }
    }
}

#[test]
fn l8_nothing_else_withdraws_before_its_time() {
    let mut core = supporting();
    core.remove_peer(at(20), PEER, &mut LivenessOutput::default());
    core.give_up(at(20), PEER, &mut LivenessOutput::default());
    // Another incarnation of the peer that asks for nothing yet.
    let round = multiraft_transport::SupportRound { incarnation: Incarnation(6), round: 1, number: 1 };
    assert!(!take(&mut core, 30, SupportMessage::Round(round)).news.contains(&withdrawn(5, 1)));
    let answered = answer(6, 1, 1, SupportVerdict::Withdrawn);
    assert!(!take(&mut core, 30, answered).news.contains(&withdrawn(5, 1)));
    core.farewell(at(40), &mut LivenessOutput::default());
    supported_until(&mut core, 1010);
}
