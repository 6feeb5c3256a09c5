//! Start and stop of a store (L9, L10).

use super::*;

#[test]
fn l9_a_farewell_gives_the_epoch_up_and_uses_nothing_from_before_it_is_sent() {
    let mut core = begun();
    let news = take(&mut core, 10, answer(5, 1, 1, SUPPORTED)).news;
    let [SupportNews::Held { support, .. }] = &news[..] else { panic!("{news:?}") };
    let mut out = LivenessOutput::default();
    core.farewell(at(20), &mut out);
    assert_eq!((&out.news, support.until()), (&vec![LOST], Time::ZERO));
    let said = heartbeats(&out);
    assert_eq!((said[0].number, said[0].sequence, said[0].farewell), (1, 2, true));
    // Nothing brings it back, and nothing is asked for any more.
    assert_eq!(take(&mut core, 30, answer(5, 1, 1, SUPPORTED)).news, []);
    assert_eq!(take(&mut core, 30, answer(5, 1, 2, SupportVerdict::Withdrawn)).news, []);
    assert_eq!(heartbeats(&tick(&mut core, 100)), []);
    let mut again = LivenessOutput::default();
    core.farewell(at(110), &mut again);
    assert_eq!(again.sends, []);
}

#[test]
fn l9_a_peers_farewell_withdraws_at_once_and_for_good() {
    let mut core = begun();
    ask(&mut core, 10, heartbeat((5, 1), 1, 1));
    let farewell = SupportHeartbeat { farewell: true, ..heartbeat((5, 1), 2, 1) };
    assert_eq!(ask(&mut core, 20, farewell), (Some(SupportVerdict::Withdrawn), vec![withdrawn(5, 1)]));
    assert_eq!(ask(&mut core, 30, heartbeat((5, 1), 3, 1)), (Some(SupportVerdict::Withdrawn), vec![]));
    // One that was never supported is not supported later either.
    let farewell = SupportHeartbeat { farewell: true, ..heartbeat((5, 2), 4, 1) };
    assert_eq!(ask(&mut core, 40, farewell), (Some(SupportVerdict::Withdrawn), vec![]));
    assert_eq!(ask(&mut core, 50, heartbeat((5, 2), 5, 1)), (Some(SupportVerdict::Withdrawn), vec![]));
}

#[test]
fn l9_a_store_that_stops_supports_nothing_new_and_keeps_what_it_has_promised() {
    let mut core = begun();
    ask(&mut core, 10, heartbeat((5, 1), 1, 1));
    core.farewell(at(20), &mut LivenessOutput::default());
    assert_eq!(ask(&mut core, 30, heartbeat((5, 1), 2, 1)).0, Some(SUPPORTED));
    let (verdict, news) = ask(&mut core, 40, heartbeat((5, 2), 3, 1));
    assert_eq!((verdict, news), (Some(SupportVerdict::NotNow), vec![withdrawn(5, 1)]));
}

#[test]
fn l10_nobody_votes_before_the_longest_promise_of_earlier_lives_has_passed() {
    let mut core = core(Duration::from_secs(2));
    assert!(!tick(&mut core, 0).news.contains(&SupportNews::MayVote));
    for tenth in 1..=20 {
        assert_eq!(tick(&mut core, tenth * 100).news, [], "{tenth}");
    }
    assert!(!core.may_vote());
    assert_eq!(core.next_deadline(), Time(at(2000).0 + 1));
    assert_eq!(tick(&mut core, 2001).news, [SupportNews::MayVote]);
    assert!(core.may_vote());
    assert_eq!(tick(&mut core, 2100).news, [], "it is said once");
}

#[test]
fn l10_a_store_that_waits_gives_support() {
    let mut core = core(Duration::from_secs(2));
    tick(&mut core, 0);
    assert_eq!(ask(&mut core, 10, heartbeat((5, 1), 1, 1)), (Some(SUPPORTED), vec![given(5, 1)]));
}

#[test]
fn l10_a_new_store_waits_for_nothing() {
    let mut core = core(Duration::ZERO);
    assert_eq!(tick(&mut core, 0).news, [SupportNews::MayVote]);
}
