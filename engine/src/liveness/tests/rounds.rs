//! Rounds: which epoch is supported now (R1).

use multiraft_transport::{SupportRound, SupportRoundAnswer};

use super::*;
use crate::liveness::round_answered;

fn round(core: &mut Liveness, ms: u64, incarnation: u64) -> Option<u64> {
    let asked = SupportRound { incarnation: Incarnation(incarnation), round: 300, number: 1 };
    let out = take(core, ms, SupportMessage::Round(asked));
    let [(to, SupportMessage::RoundAnswer(answer))] = out.sends[..] else { panic!("{:?}", out.sends) };
    let asker = Incarnation(incarnation);
    assert_eq!((to, answer.asker, answer.round, answer.incarnation), (PEER, asker, 300, OWN_LIFE));
    answer.number
}

#[test]
fn r1_the_answer_names_the_epoch_that_is_supported_now() {
    let mut core = begun();
    assert_eq!(round(&mut core, 5, 5), None);
    ask(&mut core, 10, heartbeat((5, 3), 1, 1));
    assert_eq!(round(&mut core, 20, 5), Some(3));
    ask(&mut core, 30, heartbeat((5, 4), 2, 0));
    assert_eq!(round(&mut core, 40, 5), None, "known is not supported");
}

#[test]
fn r1_a_number_is_told_to_its_own_incarnation_only() {
    let mut core = begun();
    ask(&mut core, 10, heartbeat((5, 1), 1, 1));
    assert_eq!(round(&mut core, 20, 6), None);
    let late = SupportRound { incarnation: Incarnation(5), round: 1, number: 1 };
    assert_eq!(take(&mut core, 30, SupportMessage::Round(late)).sends, [], "of an earlier life");
}

#[test]
fn r1_an_answer_reaches_the_worker_of_the_incarnation_that_asked() {
    let answer = SupportRoundAnswer { asker: OWN_LIFE, round: 9, incarnation: Incarnation(5), number: Some(3) };
    let told = SupportNews::RoundAnswered { peer: PEER, round: 9, by: Incarnation(5), number: Some(3) };
    assert_eq!(round_answered(OWN_LIFE, PEER, &answer), Some(told));
    assert_eq!(round_answered(Incarnation(8), PEER, &answer), None);
}
