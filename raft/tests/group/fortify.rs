//! Promises of followers, and leaders that rest (`docs/liveness.md`, sections F and S).

use std::time::Duration;

use multiraft_raft::{Body, Options, RoleKind, Term, Time};

use crate::hand::{Hand, append, from_me, id, voters, x};

const FORTIFY: Body = Body::Fortify { epoch: 7 };

fn pre_vote(last: (u64, u64)) -> Body {
    Body::PreVote { last_index: x(last.0), last_term: Term(last.1) }
}

fn vote(last: (u64, u64), transfer: bool) -> Body {
    Body::Vote { last_index: x(last.0), last_term: Term(last.1), transfer }
}

/// Replica 1 has promised replica 2, which leads term 2.
fn bound() -> Hand {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, FORTIFY);
    assert_eq!(hand.turn().messages, [from_me(2, 2, Body::Fortified { epoch: 7 })]);
    hand.flush();
    let promise = hand.group.promise().expect("promised");
    assert_eq!((promise.leader, promise.term, promise.epoch), (id(2), Term(2), 7));
    hand
}

fn later(hand: &mut Hand, by: Duration) {
    hand.now = hand.now.plus(by);
}

#[test]
fn who_has_promised_waits_for_no_election_and_votes_for_no_other() {
    let mut hand = bound();
    assert_eq!(hand.group.next_deadline(), Time::NEVER);
    later(&mut hand, Duration::from_secs(60));
    hand.group.handle_deadline(hand.now);
    hand.group.campaign(hand.now);
    assert_eq!(hand.group.role(), RoleKind::Follower);
    hand.turn();
    hand.hear(3, 3, pre_vote((9, 2)));
    let ask = from_me(2, 2, Body::AskLeader { own_term: Term(2) });
    assert_eq!(hand.turn().messages, [ask.clone(), from_me(3, 2, Body::Promised)]);
    // A vote request of a higher term changes nothing, and the leader is asked no more than once an interval.
    hand.hear(3, 3, vote((9, 2), false));
    assert!(hand.turn().messages.is_empty());
    assert_eq!(hand.group.term(), Term(2));
    later(&mut hand, Duration::from_millis(100));
    hand.hear(3, 2, vote((9, 2), false));
    assert_eq!(hand.turn().messages, [ask, from_me(3, 2, Body::VoteReply { granted: false })]);
}

#[test]
fn a_promise_outlives_the_own_term_and_binds_in_it() {
    let mut hand = bound();
    // A late answer of a higher term moves the term on.
    hand.hear(3, 5, Body::VoteReply { granted: false });
    hand.turn();
    hand.flush();
    assert_eq!((hand.group.term(), hand.group.promise().is_some()), (Term(5), true));
    later(&mut hand, Duration::from_secs(5));
    hand.hear(3, 5, vote((9, 2), true));
    assert_eq!(hand.turn().messages, [from_me(3, 5, Body::VoteReply { granted: false })][..0].to_vec());
    assert!(hand.group.promise().is_none(), "the leader of term 4 wanted this one elected");
}

#[test]
fn votes_in_the_own_term_are_refused_too() {
    let mut hand = bound();
    hand.hear(3, 5, Body::VoteReply { granted: false });
    hand.turn();
    hand.flush();
    later(&mut hand, Duration::from_secs(5));
    hand.hear(3, 5, vote((9, 2), false));
    let messages = hand.turn().messages;
    assert_eq!(
        messages,
        [from_me(2, 2, Body::AskLeader { own_term: Term(5) }), from_me(3, 5, Body::VoteReply { granted: false })]
    );
    assert!(hand.group.vote().is_none());
    // Awake, it asks again by itself.
    assert_ne!(hand.group.next_deadline(), Time::NEVER);
    hand.now = hand.group.next_deadline().max(hand.now.plus(Duration::from_millis(100)));
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.turn().messages, [from_me(2, 2, Body::AskLeader { own_term: Term(5) })]);
    assert_eq!(hand.group.role(), RoleKind::Follower);
}

#[test]
fn the_leaders_own_wish_ends_a_promise() {
    let mut hand = bound();
    hand.hear(3, 3, vote((9, 2), true));
    assert_eq!((hand.group.term(), hand.group.vote()), (Term(3), Some(id(3))));
    assert!(hand.group.promise().is_none());

    let mut hand = bound();
    hand.hear(2, 2, Body::TimeoutNow);
    assert_eq!((hand.group.role(), hand.group.term()), (RoleKind::Candidate, Term(3)));
    assert!(hand.group.promise().is_none());

    let mut hand = bound();
    hand.hear(3, 2, Body::TimeoutNow);
    assert!(hand.group.promise().is_some(), "replica 3 does not lead");
}

#[test]
fn a_leader_of_a_later_term_ends_a_promise_and_one_of_an_earlier_is_told() {
    for body in [append((5, 1), 5, vec![]), Body::Heartbeat { commit: x(5), round: 0 }] {
        let mut hand = bound();
        hand.hear(3, 3, body);
        assert!(hand.group.promise().is_none() && hand.group.leader() == Some(id(3)));
        assert_ne!(hand.group.next_deadline(), Time::NEVER);
    }
    let mut hand = bound();
    hand.hear(3, 3, Body::Fortify { epoch: 1 });
    assert_eq!(hand.group.promise().map(|promise| (promise.leader, promise.epoch)), Some((id(3), 1)));
    hand.turn();
    hand.hear(2, 2, FORTIFY);
    assert_eq!(hand.turn().messages, [from_me(2, 3, Body::HeartbeatReply { round: 0 })]);
}

#[test]
fn a_release_counts_for_its_leader_and_term_only_and_is_always_acknowledged() {
    let mut hand = bound();
    hand.hear(3, 2, Body::Release);
    hand.hear(2, 1, Body::Release);
    assert!(hand.group.promise().is_some());
    hand.hear(2, 2, Body::Release);
    assert!(hand.group.promise().is_none());
    assert_ne!(hand.group.next_deadline(), Time::NEVER);
    let released = |to, term| from_me(to, term, Body::Released);
    assert_eq!(hand.turn().messages, [released(3, 2), released(2, 1), released(2, 2)]);
}

#[test]
fn after_a_withdrawal_it_campaigns_when_it_is_told_to() {
    let mut hand = bound();
    hand.hear(2, 2, append((5, 1), 5, vec![]));
    hand.turn();
    hand.group.on_support_withdrawn(hand.now, Duration::from_millis(50));
    assert_eq!(hand.group.next_deadline(), hand.now.plus(Duration::from_millis(50)));
    // What was heard of the leader before is no reason to refuse another.
    hand.hear(3, 3, pre_vote((9, 2)));
    let granted = Body::PreVoteReply { granted: true };
    assert_eq!(hand.turn().messages.last(), Some(&from_me(3, 3, granted)));
    // Who was let pass has the time of an election, once.
    let until = hand.group.next_deadline();
    assert!(until >= hand.now.plus(Options::default().election_timeout_min));
    hand.hear(3, 3, pre_vote((9, 2)));
    hand.turn();
    assert_eq!(hand.group.next_deadline(), until);
    hand.now = until;
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.group.role(), RoleKind::PreCandidate);
}

#[test]
fn a_pre_vote_that_meets_a_promise_is_tried_again_soon_and_then_less_soon() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.now = hand.group.next_deadline();
    let mut waits = Vec::new();
    for _ in 0..5 {
        hand.group.handle_deadline(hand.now);
        hand.turn();
        assert_eq!(hand.group.role(), RoleKind::PreCandidate);
        hand.hear(3, 1, Body::Promised);
        hand.turn();
        let next = hand.group.next_deadline();
        waits.push(next.since(hand.now).as_millis());
        hand.now = next;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1000]);
}

/// A leader of term 2 to which 2 and 3 have promised.
fn fortified() -> Hand {
    let mut hand = Hand::leader(Options { eager_commit: false, ..Options::default() }, 3);
    beat(&mut hand, &[(2, Some(7)), (3, Some(8))]);
    hand.hear(2, 2, Body::Fortified { epoch: 7 });
    hand.hear(3, 2, Body::Fortified { epoch: 8 });
    hand.turn();
    hand
}

/// The next heartbeats, with what is held of the followers' stores. The messages.
fn beat(hand: &mut Hand, supports: &[(u64, Option<u64>)]) -> Vec<multiraft_raft::Message> {
    hand.now = hand.group.next_deadline();
    for (peer, support) in supports {
        hand.group.set_support(id(*peer), *support);
    }
    hand.group.allow_rest(true);
    hand.group.handle_deadline(hand.now);
    hand.turn().messages
}

fn answer(hand: &mut Hand, from: u64, round: u64) {
    hand.hear(from, 2, Body::HeartbeatReply { round });
}

#[test]
fn a_leader_asks_for_promises_under_held_support_until_they_come() {
    let mut hand = Hand::leader(Options::default(), 3);
    let fortify = |to, epoch| from_me(to, 2, Body::Fortify { epoch });
    let messages = beat(&mut hand, &[(2, Some(7)), (3, None)]);
    assert!(messages.contains(&fortify(2, 7)) && messages.len() == 3, "{messages:?}");
    // The answer to a question of another period does not count.
    hand.hear(2, 2, Body::Fortified { epoch: 6 });
    assert!(!hand.group.is_fortified_by(|_, epoch| epoch == 7));
    assert!(beat(&mut hand, &[(2, Some(7)), (3, None)]).contains(&fortify(2, 7)));
    hand.hear(2, 2, Body::Fortified { epoch: 7 });
    assert!(hand.group.is_fortified_by(|peer, epoch| (peer, epoch) == (id(2), 7)));
    assert!(!hand.group.is_fortified_by(|_, epoch| epoch == 8));
    assert_eq!(hand.group.fortified_read_index(), Some(x(6)));
    assert!(!beat(&mut hand, &[(2, Some(7)), (3, None)]).contains(&fortify(2, 7)));
    assert!(beat(&mut hand, &[(2, Some(9)), (3, None)]).contains(&fortify(2, 9)), "a new period");
}

/// A turn of a leader that takes a proposal in and puts its heartbeats off. When they are due, in intervals from now.
fn written(hand: &mut Hand) -> u64 {
    hand.propose(&["a"]);
    hand.turn();
    hand.group.put_off_beats(hand.now, 4);
    let interval = Options::default().heartbeat_interval.as_nanos() as u64;
    (hand.group.next_deadline().0 - hand.now.0).div_ceil(interval)
}

#[test]
fn heartbeats_wait_at_a_fortified_leader_that_is_written_to() {
    let mut hand = fortified();
    beat(&mut hand, &[(2, Some(7)), (3, Some(8))]);
    assert_eq!(written(&mut hand), 5);
    hand.flush();
    hand.accepted(2, 7);
    hand.accepted(3, 7);
    assert!(hand.turn().messages.is_empty(), "news of the commit wait for the heartbeats");
    let beats = beat(&mut hand, &[(2, Some(7)), (3, Some(8))]);
    let news = |beat: &multiraft_raft::Message| matches!(beat.body, Body::Heartbeat { commit, .. } if commit == x(7));
    assert!(beats.len() == 2 && beats.iter().all(news), "{beats:?}");
}

#[test]
fn heartbeats_are_not_put_off_for_ever() {
    let mut hand = fortified();
    beat(&mut hand, &[(2, Some(7)), (3, Some(8))]);
    let (begun, interval) = (hand.now, Options::default().heartbeat_interval);
    for index in 7..100 {
        if hand.group.next_deadline() <= hand.now {
            break;
        }
        written(&mut hand);
        hand.flush();
        hand.accepted(2, index);
        hand.accepted(3, index);
        hand.turn();
        later(&mut hand, interval / 2);
    }
    assert_eq!(hand.now.since(begun), interval * 10, "twice the wait");
}

#[test]
fn heartbeats_do_not_wait_where_a_follower_needs_them() {
    // Support of a store is not held.
    let mut hand = fortified();
    beat(&mut hand, &[(2, Some(7)), (3, None)]);
    assert_eq!(written(&mut hand), 1);
    // It is held anew, and the follower has not promised under it.
    let mut hand = fortified();
    beat(&mut hand, &[(2, Some(7)), (3, Some(9))]);
    assert_eq!(written(&mut hand), 1);
    // The driver has no way to send it anything.
    let mut hand = fortified();
    hand.group.pause_peer(id(3));
    assert_eq!(written(&mut hand), 1);
    // An answer is overdue: only a heartbeat's answer has the leader ask again.
    let mut hand = fortified();
    assert_eq!(written(&mut hand), 5);
    later(&mut hand, Duration::from_millis(150));
    assert!(written(&mut hand) > 1);
    hand.flush();
    hand.accepted(2, 8);
    hand.turn();
    let due = hand.group.next_deadline();
    later(&mut hand, Duration::from_millis(60));
    hand.group.put_off_beats(hand.now, 100);
    assert_eq!(hand.group.next_deadline(), due);
    // Nor at a leader whose followers have promised nothing.
    let mut hand = Hand::leader(Options::default(), 3);
    assert_eq!(written(&mut hand), 1);
}

#[test]
fn a_leader_rests_when_all_have_answered_that_they_have_everything() {
    let mut hand = fortified();
    let held = [(2, Some(7)), (3, Some(8))];
    let messages = beat(&mut hand, &held);
    assert_eq!(messages.len(), 2, "one more round of heartbeats: {messages:?}");
    answer(&mut hand, 2, 1);
    assert_eq!(beat(&mut hand, &held).len(), 2, "replica 3 has not answered");
    answer(&mut hand, 3, 1);
    assert!(beat(&mut hand, &held).is_empty());
    assert!(hand.group.is_resting());
    assert_eq!(hand.group.next_deadline(), Time::NEVER);

    hand.propose(&["a"]);
    assert!(!hand.group.is_resting());
    assert_eq!(hand.turn().messages.len(), 2, "appends");
    assert_ne!(hand.group.next_deadline(), Time::NEVER);
    assert_eq!(beat(&mut hand, &held).len(), 2);
    assert!(hand.group.is_leader(), "nobody had reason to speak while it rested");
}

#[test]
fn a_dead_follower_keeps_no_leader_awake_and_one_that_promises_nothing_does() {
    let mut hand = fortified();
    let held = [(2, Some(7)), (3, None)];
    beat(&mut hand, &held);
    answer(&mut hand, 2, 1);
    beat(&mut hand, &held);
    assert!(hand.group.is_resting());

    let mut hand = fortified();
    let held = [(2, Some(7)), (3, Some(9))];
    for _ in 0..4 {
        beat(&mut hand, &held);
        answer(&mut hand, 2, 1);
        answer(&mut hand, 3, 1);
    }
    assert!(!hand.group.is_resting());
}

#[test]
fn what_calls_for_a_leader_ends_its_rest() {
    let resting = || {
        let mut hand = fortified();
        let held = [(2, Some(7)), (3, Some(8))];
        beat(&mut hand, &held);
        answer(&mut hand, 2, 1);
        answer(&mut hand, 3, 1);
        beat(&mut hand, &held);
        assert!(hand.group.is_resting());
        hand
    };
    let mut hand = resting();
    answer(&mut hand, 2, 1);
    hand.hear(3, 2, Body::Fortified { epoch: 8 });
    assert!(hand.group.is_resting(), "late answers call for nothing");
    hand.hear(3, 3, pre_vote((6, 2)));
    assert!(!hand.group.is_resting());

    let mut hand = resting();
    hand.hear(3, 2, Body::AskLeader { own_term: Term(2) });
    assert_eq!(hand.turn().messages, [from_me(3, 2, Body::Fortify { epoch: 8 })]);
    assert!(!hand.group.is_resting());

    let mut hand = resting();
    hand.group.read_index(hand.now, 1).expect("it leads");
    assert!(!hand.group.is_resting());

    let mut hand = resting();
    hand.group.wake(hand.now);
    assert!(!hand.group.is_resting() && hand.group.next_deadline() != Time::NEVER);
}

#[test]
fn promises_stand_for_signs_of_life_while_support_is_held() {
    let mut hand = fortified();
    let held = [(2, Some(7)), (3, None)];
    for _ in 0..30 {
        beat(&mut hand, &held);
    }
    assert!(hand.group.is_leader(), "replica 2 has promised and its store gives support");
    for _ in 0..30 {
        if hand.group.is_leader() {
            beat(&mut hand, &[(2, None), (3, None)]);
        }
    }
    assert!(!hand.group.is_leader());
}

#[test]
fn who_leads_no_more_releases_until_it_is_acknowledged() {
    let release = |to| from_me(to, 2, Body::Release);
    let mut hand = fortified();
    hand.hear(3, 4, Body::VoteReply { granted: false });
    assert_eq!(hand.turn().messages, [release(2), release(3)]);
    assert_eq!(hand.group.owed_releases(), [(id(2), Term(2)), (id(3), Term(2))]);
    hand.hear(2, 2, Body::Released);
    later(&mut hand, Duration::from_millis(100));
    assert!(hand.group.next_deadline() <= hand.now);
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.turn().messages, [release(3)]);
    hand.hear(3, 2, Body::Released);
    later(&mut hand, Duration::from_millis(500));
    hand.group.handle_deadline(hand.now);
    assert!(hand.turn().messages.is_empty());

    // A member that is removed is released, too: nobody speaks to it any more.
    let mut hand = fortified();
    let change = multiraft_raft::MembershipChange::Simple(multiraft_raft::ChangeOp::Remove { id: id(3) });
    hand.group.propose_membership(hand.now, &change, bytes::Bytes::new()).expect("taken");
    hand.turn();
    hand.group.on_membership_applied(hand.now, x(7), voters(2));
    let messages = hand.turn().messages;
    assert!(messages.contains(&release(3)) && !messages.contains(&release(2)), "{messages:?}");
    // Who never answers is told less and less often.
    let mut times = Vec::new();
    hand.hear(2, 5, Body::VoteReply { granted: false });
    hand.turn();
    hand.hear(2, 2, Body::Released);
    for _ in 0..4000 {
        later(&mut hand, Duration::from_millis(100));
        hand.group.handle_deadline(hand.now);
        let messages = hand.turn().messages;
        times.extend(messages.contains(&release(3)).then_some(hand.now));
    }
    assert!((8..16).contains(&times.len()), "{times:?}");
}

#[test]
fn who_does_not_lead_that_term_says_so() {
    let mut hand = fortified();
    hand.hear(3, 1, Body::AskLeader { own_term: Term(2) });
    assert_eq!(hand.turn().messages, [from_me(3, 1, Body::Release)]);
    // The asker has come to a higher term: this leader follows it there first.
    hand.hear(3, 2, Body::AskLeader { own_term: Term(6) });
    assert!(!hand.group.is_leader() && hand.group.term() == Term(6));
    assert!(hand.turn().messages.contains(&from_me(3, 2, Body::Release)));
}

#[test]
fn reads_by_promises_end_with_the_offer_of_leadership() {
    let mut hand = fortified();
    assert_eq!(hand.group.fortified_read_index(), Some(x(6)));
    hand.group.transfer_leader(hand.now, id(2)).expect("it may");
    assert_eq!(hand.turn().messages, [from_me(2, 2, Body::TimeoutNow)]);
    assert_eq!(hand.group.fortified_read_index(), None);
    // The target takes none: the leader goes on, and has no such reads until its next term.
    assert!(hand.group.on_transfer_refused(id(2)));
    assert_eq!(hand.group.fortified_read_index(), None);
}

#[test]
fn a_new_leader_has_no_promises_and_no_such_reads_before_its_own_entry_is_committed() {
    let mut hand = Hand::follower(Options { pre_vote: false, ..Options::default() }, 3);
    hand.group.campaign(hand.now);
    hand.turn();
    hand.flush();
    hand.hear(2, 2, Body::VoteReply { granted: true });
    hand.turn();
    assert!(hand.group.is_leader() && !hand.group.is_fortified_by(|_, _| true));
    assert_eq!(hand.group.fortified_read_index(), None);
    hand.flush();
    hand.accepted(2, 6);
    hand.turn();
    assert_eq!(hand.group.fortified_read_index(), Some(x(6)));
}

#[test]
fn the_promise_of_a_learner_counts_from_when_it_votes() {
    use multiraft_raft::{ChangeOp, Membership, MembershipChange, Role};
    let mut hand = fortified();
    let with = |role| {
        let members = (1..=4).map(|n| (id(n), if n == 4 { role } else { Role::Voter })).collect();
        Membership::from_roles(members)
    };
    hand.group
        .propose_membership(
            hand.now,
            &MembershipChange::Simple(ChangeOp::AddLearner { id: id(4), store: multiraft_raft::StoreId(4) }),
            bytes::Bytes::new(),
        )
        .expect("taken");
    hand.turn();
    hand.group.on_membership_applied(hand.now, x(7), with(Role::Learner));
    beat(&mut hand, &[(2, Some(7)), (3, Some(8)), (4, Some(9))]);
    hand.hear(4, 2, Body::Fortified { epoch: 9 });
    let only = |hand: &Hand, who: &[u64]| {
        let who: Vec<_> = who.iter().map(|n| id(*n)).collect();
        hand.group.is_fortified_by(|peer, _| who.contains(&peer))
    };
    assert!(!only(&hand, &[4]) && only(&hand, &[2]));
    hand.group.on_membership_applied(hand.now, x(7), with(Role::Voter));
    assert!(!only(&hand, &[4]) && only(&hand, &[2, 4]));
    // Who is no member any more does not count.
    hand.group.on_membership_applied(hand.now, x(7), voters(2));
    assert!(only(&hand, &[2]) && !only(&hand, &[3, 4]));
}
