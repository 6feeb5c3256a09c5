//! What needs no turn: flushes and answers that decide nothing. And commit indexes that are learnt beside the protocol.

use multiraft_raft::{AppendOutcome, Body, ChangeOp, MembershipChange, Options, RoleKind, Term};

use crate::hand::{Hand, NOW, append, command, from_me, id, x};

fn lazy() -> Options {
    Options { eager_commit: false, ..Options::default() }
}

/// The answer of a follower in term 2; whether it needed no turn.
fn absorbed(hand: &mut Hand, from: u64, match_index: u64) -> bool {
    hand.group.absorb_accepted(hand.now, id(from), Term(2), x(match_index))
}

#[test]
fn a_flush_leaves_something_to_do_only_where_it_decides() {
    let mut hand = Hand::leader(Options::default(), 3);
    hand.propose(&["a"]);
    hand.turn();
    assert!(!hand.group.on_flushed(NOW, &crate::hand::proof(hand.seq)), "the leader alone is no quorum");
    assert!(hand.turn().is_empty());
    hand.propose(&["b"]);
    hand.turn();
    hand.accepted(2, 8);
    hand.turn();
    assert_eq!(hand.group.commit_index(), x(7));
    assert!(hand.group.on_flushed(NOW, &crate::hand::proof(hand.seq)), "now it is one");
    assert_eq!(hand.turn().committed.len(), 1);

    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a")]));
    hand.turn();
    assert!(!hand.group.on_flushed(NOW, &crate::hand::proof(hand.seq)), "its answer is released without the group");
    hand.hear(2, 2, append((6, 2), 7, vec![command(7, 2, "b")]));
    assert_eq!(hand.turn().committed.len(), 1, "the one that is durable here");
    assert!(hand.group.on_flushed(NOW, &crate::hand::proof(hand.seq)), "committed, and durable now");
    assert_eq!(hand.turn().committed.len(), 1);

    let mut hand = Hand::follower(Options { pre_vote: false, ..Options::default() }, 1);
    hand.group.campaign(NOW);
    hand.turn();
    assert!(hand.group.on_flushed(NOW, &crate::hand::proof(hand.seq)));
    assert_eq!(hand.group.role(), RoleKind::Leader);
}

#[test]
fn the_slower_followers_answer_needs_no_turn() {
    let mut hand = Hand::leader(lazy(), 3);
    hand.propose(&["a"]);
    hand.turn();
    hand.flush();
    assert!(!absorbed(&mut hand, 2, 7), "it completes a quorum");
    hand.accepted(2, 7);
    assert_eq!(hand.turn().committed.len(), 1);
    assert!(absorbed(&mut hand, 3, 7));
    assert!(hand.turn().is_empty());
    let peers = hand.group.status().peers;
    assert!(peers.iter().all(|peer| peer.matched == x(7) && peer.inflight_appends == 0), "{peers:?}");
    assert!(absorbed(&mut hand, 3, 7), "once more");
    assert!(!hand.group.absorb_accepted(NOW, id(3), Term(3), x(7)), "of another term");
    assert!(!hand.group.absorb_accepted(NOW, id(9), Term(2), x(7)), "of nobody");
}

#[test]
fn an_answer_that_lets_more_be_sent_needs_a_turn() {
    let mut hand = Hand::leader(Options { max_inflight_appends: 1, ..lazy() }, 3);
    hand.propose(&["a"]);
    hand.turn();
    hand.propose(&["b"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 7);
    let sent = hand.turn().messages;
    assert_eq!(sent, [from_me(2, 2, append((7, 2), 7, vec![command(8, 2, "b")]))]);
    assert!(!absorbed(&mut hand, 3, 7));
    hand.accepted(3, 7);
    let sent = hand.turn().messages;
    assert_eq!(sent, [from_me(3, 2, append((7, 2), 7, vec![command(8, 2, "b")]))]);

    // Told at once of every commit: the answer makes the follower idle, and it does not know yet.
    let mut hand = Hand::leader(Options::default(), 3);
    hand.propose(&["a"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 7);
    hand.turn();
    assert!(!absorbed(&mut hand, 3, 7));
    hand.accepted(3, 7);
    assert_eq!(hand.turn().messages, [from_me(3, 2, append((7, 2), 7, vec![]))]);
}

#[test]
fn what_was_learnt_of_a_commit_counts_as_far_as_the_log_is_the_leaders() {
    let mut hand = Hand::follower(lazy(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a"), command(7, 2, "b")]));
    hand.turn();
    hand.flush();
    hand.group.learn_commit(Term(3), x(6));
    assert_eq!(hand.group.commit_index(), x(5), "the leader of term 3 may have another x6");
    hand.group.learn_commit(Term(2), x(6));
    assert_eq!(hand.group.commit_index(), x(6));
    assert_eq!(hand.turn().committed.len(), 1);
    hand.group.learn_commit(Term(1), x(8));
    assert_eq!(hand.group.commit_index(), x(7), "x8 is not here yet");
    hand.hear(2, 2, append((7, 2), 5, vec![command(8, 2, "c"), command(9, 2, "d")]));
    hand.turn();
    assert_eq!(hand.group.commit_index(), x(8), "now it is");
}

#[test]
fn what_was_learnt_in_one_term_says_nothing_about_what_a_later_leader_sends() {
    let mut hand = Hand::follower(lazy(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a"), command(7, 2, "b")]));
    hand.turn();
    hand.flush();
    // A later leader is heard of, and the log is not known to equal its log.
    hand.hear(3, 3, Body::Heartbeat { commit: x(5), round: 0 });
    hand.turn();
    hand.group.learn_commit(Term(3), x(7));
    assert_eq!(hand.group.commit_index(), x(5));
    hand.hear(3, 3, append((5, 1), 5, vec![command(6, 3, "other")]));
    hand.turn();
    assert_eq!(hand.group.commit_index(), x(6), "its x6 has taken the place of the other one");
    // A probe that finds what was learnt already committed is answered all the same.
    hand.flush();
    hand.hear(3, 3, append((6, 3), 0, vec![]));
    let accepted = Body::AppendReply(AppendOutcome::Accepted { match_index: x(6) });
    let gated = hand.turn().gated;
    assert_eq!(gated.len(), 1);
    assert_eq!(
        gated.into_iter().next().unwrap().release(&crate::hand::proof(hand.seq)).unwrap(),
        from_me(3, 3, accepted)
    );
}

#[test]
fn who_is_removed_hears_of_it_at_once() {
    let mut hand = Hand::leader(lazy(), 3);
    let change = MembershipChange::Simple(ChangeOp::Remove { id: id(3) });
    hand.group.propose_membership(NOW, &change, bytes::Bytes::new()).unwrap();
    hand.turn();
    hand.flush();
    hand.accepted(3, 7);
    let told = hand.turn().messages;
    assert_eq!(told, [from_me(3, 2, append((7, 2), 7, vec![]))], "the other one has not answered yet");
    assert!(!absorbed(&mut hand, 2, 7), "and is told as well");
    hand.accepted(2, 7);
    assert_eq!(hand.turn().messages, [from_me(2, 2, append((7, 2), 7, vec![]))]);
}

#[test]
fn an_entry_in_a_hurry_is_told_at_once_and_the_next_one_is_not() {
    let mut hand = Hand::leader(lazy(), 2);
    let index = hand.propose(&["a"]);
    hand.group.hurry_commit(index);
    hand.turn();
    hand.flush();
    hand.accepted(2, 7);
    assert_eq!(hand.turn().messages, [from_me(2, 2, append((7, 2), 7, vec![]))]);
    hand.propose(&["b"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 8);
    let out = hand.turn();
    assert_eq!((out.messages, out.committed.len()), (vec![], 1));
}
