//! Messages that come too late, or say more than they may: they change nothing.

use multiraft_raft::{AppendOutcome, Body, Flow, LogStep, Message, Options, Output, RoleKind, Term};

use crate::hand::{Hand, NOW, append, command, from_me, id, proof, voters, x};

fn reject(prev_index: u64, hint_index: u64, hint_term: u64) -> Body {
    Body::AppendReply(AppendOutcome::Rejected {
        prev_index: x(prev_index),
        hint_index: x(hint_index),
        hint_term: Term(hint_term),
    })
}

#[test]
fn stale_rejection_does_not_stop_the_pipeline() {
    let mut hand = Hand::leader(Options::default(), 2);
    hand.propose(&["a"]);
    hand.turn();
    hand.accepted(2, 7);
    hand.turn();
    // At what is known to match, below it, and beyond what was ever sent.
    for prev_index in [7, 6, 5, 8, 99] {
        hand.hear(2, 2, reject(prev_index, 5, 1));
        assert_eq!(hand.turn(), Output::new(), "rejection of {prev_index}");
        assert_eq!(hand.group.status().peers[0].flow, Flow::Replicate);
        assert_eq!(hand.group.status().peers[0].next, x(8));
    }
}

#[test]
fn only_the_answer_to_the_probe_itself_moves_the_probe() {
    let mut hand = Hand::leader(Options::default(), 2);
    hand.propose(&["a", "b", "c"]);
    hand.turn();
    hand.propose(&["d"]);
    hand.turn();
    hand.hear(2, 2, reject(9, 8, 2));
    let probe = from_me(2, 2, append((8, 2), 6, vec![command(9, 2, "c"), command(10, 2, "d")]));
    assert_eq!(hand.turn().messages, [probe]);
    // What is still answered of the old pipeline says nothing about the probe.
    for prev_index in [6, 7, 9, 10] {
        hand.hear(2, 2, reject(prev_index, 6, 2));
        assert_eq!(hand.turn(), Output::new(), "rejection of {prev_index}");
    }
    hand.accepted(2, 7);
    assert_eq!(hand.turn(), Output::new(), "an answer to an earlier append does not end the probe");
    assert_eq!(hand.group.status().peers[0].flow, Flow::Probe);
    hand.hear(2, 2, reject(8, 7, 2));
    let entries = vec![command(8, 2, "b"), command(9, 2, "c"), command(10, 2, "d")];
    assert_eq!(hand.turn().messages, [from_me(2, 2, append((7, 2), 6, entries))]);
    hand.hear(2, 2, reject(8, 7, 2));
    assert_eq!(hand.turn(), Output::new(), "nor does the same answer count twice");
}

#[test]
fn own_vote_counts_only_when_it_is_durable() {
    let mut hand = Hand::follower(Options { pre_vote: false, ..Options::default() }, 3);
    hand.group.campaign(NOW);
    hand.turn();
    hand.hear(2, 2, Body::VoteReply { granted: true });
    hand.turn();
    assert_eq!(hand.group.role(), RoleKind::Candidate);
    hand.group.on_flushed(NOW, &proof(0));
    assert_eq!(hand.group.role(), RoleKind::Candidate);
    hand.flush();
    assert_eq!(hand.group.role(), RoleKind::Leader);
}

#[test]
fn vote_that_became_durable_for_an_older_campaign_does_not_count_for_this_one() {
    let mut hand = Hand::follower(Options { pre_vote: false, ..Options::default() }, 1);
    hand.group.campaign(NOW);
    hand.turn();
    hand.group.campaign(NOW);
    hand.turn();
    hand.group.on_flushed(NOW, &proof(1));
    assert_eq!((hand.group.role(), hand.group.term()), (RoleKind::Candidate, Term(3)));
    hand.group.on_flushed(NOW, &proof(2));
    assert_eq!(hand.group.role(), RoleKind::Leader);
}

#[test]
fn who_asks_in_vain_with_a_newer_log_is_let_ask_again_first_but_once_only() {
    let options = Options { pre_vote: false, ..Options::default() };
    let (longest, range) = (options.election_timeout_max, options.election_timeout_max - options.election_timeout_min);
    let mut hand = Hand::follower(options, 3);
    let vote = |last| Body::Vote { last_index: x(last), last_term: Term(1), transfer: false };
    hand.hear(2, 5, vote(5));
    let drawn = hand.group.next_deadline();
    assert!(drawn < NOW.plus(longest));
    hand.hear(3, 4, vote(5));
    assert_eq!(hand.group.next_deadline(), drawn, "its log is no newer");
    hand.hear(3, 4, vote(6));
    let later = hand.group.next_deadline();
    assert!(later >= NOW.plus(longest) && later < NOW.plus(longest + range));
    hand.hear(3, 5, vote(6));
    assert_eq!(hand.group.next_deadline(), later, "it has waited for it");
    hand.group.campaign(NOW);
    let drawn = hand.group.next_deadline();
    hand.hear(3, 6, vote(6));
    assert!(drawn < NOW.plus(longest) && hand.group.next_deadline() >= NOW.plus(longest));
    let granted: Vec<_> = hand.turn().messages.into_iter().map(|message| (message.to, message.body)).collect();
    assert_eq!(granted, vec![(id(3), Body::VoteReply { granted: false }); 4]);
}

#[test]
fn grant_of_an_earlier_pre_vote_does_not_count() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.group.campaign(NOW);
    hand.turn();
    // Somebody else's campaign brings it to term 2 before the grant for term 2 arrives.
    hand.hear(3, 2, Body::Vote { last_index: x(5), last_term: Term(1), transfer: false });
    hand.group.campaign(NOW);
    hand.turn();
    assert_eq!((hand.group.role(), hand.group.term()), (RoleKind::PreCandidate, Term(2)));
    hand.hear(2, 2, Body::PreVoteReply { granted: true });
    assert_eq!(hand.group.role(), RoleKind::PreCandidate);
    hand.hear(2, 3, Body::PreVoteReply { granted: true });
    assert_eq!((hand.group.role(), hand.group.term()), (RoleKind::Candidate, Term(3)));
}

#[test]
fn grant_of_a_term_that_nobody_asked_for_changes_nothing() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 9, Body::PreVoteReply { granted: true });
    hand.hear(2, 9, Body::PreVote { last_index: x(9), last_term: Term(8) });
    assert_eq!((hand.group.role(), hand.group.term()), (RoleKind::Follower, Term(1)));
}

#[test]
fn commit_index_of_a_leader_counts_only_as_far_as_the_logs_agree() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a"), command(7, 2, "b"), command(8, 2, "c")]));
    hand.turn();
    hand.flush();
    // The leader of term 3 has another x7 and x8, committed, and finds out that x6 agrees.
    hand.hear(3, 3, append((6, 2), 8, vec![]));
    hand.turn();
    assert_eq!(hand.group.commit_index(), x(6));
}

#[test]
fn completion_from_before_a_snapshot_says_nothing_about_the_new_log() {
    let mut hand = Hand::follower(Options::default(), 3);
    let old = (6..=30).map(|index| command(index, 2, "old")).collect();
    hand.hear(2, 2, append((5, 1), 5, old));
    hand.turn();
    assert!(hand.group.restore(NOW, x(20), Term(3), voters(3)));
    hand.hear(3, 3, append((20, 3), 20, vec![command(21, 3, "new"), command(22, 3, "new")]));
    let out = hand.turn();
    assert_eq!(out.log[0], LogStep::Reset { index: x(20), term: Term(3) });
    hand.group.on_flushed(NOW, &proof(1));
    assert_eq!(hand.group.stable_index(), x(20));
    hand.group.on_flushed(NOW, &proof(2));
    assert_eq!(hand.group.stable_index(), x(22));
}

#[test]
fn no_snapshot_is_made_for_a_follower_that_does_not_answer() {
    let mut hand = Hand::leader(Options::default(), 2);
    hand.propose(&["a"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 7);
    hand.turn();
    hand.group.on_applied(NOW, x(7));
    hand.group.compact(x(6));
    hand.turn();
    // A new member is known to have nothing, and then falls silent.
    hand.group.on_membership_applied(NOW, x(8), voters(3));
    hand.turn();
    hand.hear(3, 2, Body::HeartbeatReply { round: 0 });
    hand.now = NOW.plus(std::time::Duration::from_secs(2));
    hand.hear(2, 2, Body::HeartbeatReply { round: 0 });
    hand.hear(3, 1, reject(7, 0, 0));
    assert_eq!(hand.turn().snapshots, vec![], "an answer of an older term is none");
    hand.group.on_peer_unreachable(hand.now, id(3));
    hand.hear(3, 2, reject(7, 0, 0));
    assert_eq!(hand.turn().snapshots, [id(3)]);
}

#[test]
fn message_for_somebody_else_is_not_read() {
    let mut hand = Hand::follower(Options::default(), 3);
    let body = Body::Heartbeat { commit: x(5), round: 0 };
    for (from, to) in [(2, 3), (1, 1), (0, 1)] {
        let message = Message { from: id(from), to: id(to), term: Term(9), body: body.clone() };
        hand.group.handle_message(NOW, message);
    }
    assert_eq!(hand.turn(), Output::new());
}

/// A follower's answer is overdue when it speaks again; before it can be asked its lane is full, the log is cut meanwhile, and when the lane has
/// room again nothing more was heard of it: no append fits what it holds, and a snapshot is made only for who is there.
#[test]
fn an_overdue_answer_is_not_asked_for_below_the_start_of_the_log() {
    let mut hand = Hand::leader(Options { check_quorum: false, ..Options::default() }, 3);
    hand.propose(&["a", "b"]);
    hand.turn();
    hand.flush();
    hand.turn();
    hand.group.pause_peer(id(3));
    hand.now = hand.now.plus(Options::default().heartbeat_interval * 2);
    hand.hear(3, 2, Body::HeartbeatReply { round: 0 });
    hand.propose(&["c"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 9);
    hand.turn();
    hand.group.on_applied(hand.now, x(9));
    hand.group.compact(x(9));
    hand.turn();
    hand.flush();
    hand.now = hand.now.plus(Options::default().election_timeout_max);
    hand.group.resume_peer(id(3));
    let out = hand.turn();
    assert!(out.snapshots.is_empty());
    let appends = out.messages.iter().filter(|message| matches!(message.body, Body::Append { .. }));
    assert_eq!(appends.filter(|append| append.to == id(3)).count(), 0);
    // It gets one when it is heard.
    hand.hear(3, 2, Body::HeartbeatReply { round: 0 });
    assert_eq!(hand.turn().snapshots, [id(3)]);
}
