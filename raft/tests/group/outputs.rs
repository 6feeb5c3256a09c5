//! Whole outputs of single turns, compared as lists.

use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{
    AppendOutcome, Body, ChangeOp, Entry, Event, Fetch, FetchPurpose, Gated, Group, HardState, LogStep, LogTicket,
    Membership, MembershipChange, Message, Options, Output, Payload, ProposeError, ReadReady, ReadRefused, ReplicaId,
    RestoreError, Restored, Role, SnapshotOutcome, Term, Time,
};

use crate::disk::Proof;
use crate::hand::{Hand, NOW, append, command, from_me, id, proof, proposals, restored, ticket, voters, x};

fn accept(match_index: u64) -> Body {
    Body::AppendReply(AppendOutcome::Accepted { match_index: x(match_index) })
}

#[test]
fn all_proposals_of_a_turn_travel_in_one_append_per_follower() {
    let mut hand = Hand::leader(Options::default(), 3);
    assert_eq!(hand.propose(&["a"]), x(7));
    assert_eq!(hand.propose(&["b", "c"]), x(8));
    let entries = vec![command(7, 2, "a"), command(8, 2, "b"), command(9, 2, "c")];
    let expected = Output {
        messages: vec![
            from_me(2, 2, append((6, 2), 6, entries.clone())),
            from_me(3, 2, append((6, 2), 6, entries.clone())),
        ],
        log: vec![LogStep::Append(entries)],
        hard_state: Some(HardState { term: Term(2), vote: id(1), commit: x(6) }),
        ..Output::new()
    };
    assert_eq!(hand.turn(), expected);
    assert_eq!(hand.turn(), Output::new(), "nothing is said twice");
}

#[test]
fn append_is_split_by_size_and_pipelined() {
    let options = Options { max_append_bytes: 2 * (Entry::OVERHEAD + 1), ..Options::default() };
    let mut hand = Hand::leader(options, 2);
    hand.propose(&["a", "b", "c"]);
    let messages = hand.turn().messages;
    let expected = vec![
        from_me(2, 2, append((6, 2), 6, vec![command(7, 2, "a"), command(8, 2, "b")])),
        from_me(2, 2, append((8, 2), 6, vec![command(9, 2, "c")])),
    ];
    assert_eq!(messages, expected);
}

#[test]
fn leader_counts_itself_only_when_its_own_disk_has_the_entry() {
    let mut hand = Hand::leader(Options::default(), 3);
    hand.propose(&["a"]);
    hand.turn();
    hand.accepted(2, 7);
    let out = hand.turn();
    assert_eq!((out.committed, hand.group.commit_index()), (vec![], x(6)), "one of three");
    hand.accepted(3, 7);
    let out = hand.turn();
    assert_eq!(hand.group.commit_index(), x(7), "two of three, without the leader's own disk");
    assert_eq!(out.committed, vec![], "but it is not applied before it is durable here");
    hand.flush();
    assert_eq!(hand.turn().committed, vec![command(7, 2, "a")]);
}

#[test]
fn follower_answers_all_appends_of_a_turn_once_and_after_the_flush() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a")]));
    hand.hear(2, 2, append((6, 2), 6, vec![command(7, 2, "b")]));
    hand.hear(2, 2, Body::Heartbeat { commit: x(5), round: 3 });
    hand.hear(2, 2, Body::Heartbeat { commit: x(5), round: 4 });
    let out = hand.turn();
    let expected = Output {
        messages: vec![from_me(2, 2, Body::HeartbeatReply { round: 4 })],
        gated: vec![Gated::new(ticket(1), from_me(2, 2, accept(7)))],
        log: vec![LogStep::Append(vec![command(6, 2, "a"), command(7, 2, "b")])],
        hard_state: Some(HardState { term: Term(2), vote: ReplicaId::ZERO, commit: x(6) }),
        events: vec![Event::LeaderChanged { leader: Some(id(2)), term: Term(2) }],
        ..Output::new()
    };
    assert_eq!(out, expected);
    hand.flush();
    let expected = Output { committed: vec![command(6, 2, "a")], ..Output::new() };
    assert_eq!(hand.turn(), expected, "committed and durable");
}

#[test]
fn answer_that_asserts_nothing_new_waits_for_the_newest_flush_all_the_same() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a")]));
    hand.turn();
    // A probe at a point that has long been durable: its answer tells of x6, too.
    hand.hear(2, 2, append((5, 1), 0, vec![]));
    let out = hand.turn();
    assert_eq!(out.gated, [Gated::new(ticket(1), from_me(2, 2, accept(6)))]);
    hand.flush();
    hand.hear(2, 2, append((5, 1), 0, vec![]));
    let out = hand.turn();
    let expected = [Gated::new(ticket(1), from_me(2, 2, accept(6)))];
    assert_eq!(out.gated, expected, "nothing is under way: the flush that has happened will do");
    assert!(out.gated.into_iter().all(|gated| gated.release(&proof(1)).is_ok()));
}

#[test]
fn gate_of_a_group_that_wrote_nothing_yet_is_what_was_durable_at_start() {
    let restored = Restored { hard_state: HardState { vote: id(2), ..restored(3).hard_state }, ..restored(3) };
    let mut group: Group<Proof> = Group::new(Arc::new(Options::default()), id(1), restored, 1, NOW);
    let vote = Body::Vote { last_index: x(5), last_term: Term(1), transfer: false };
    let ask = multiraft_raft::Message { from: id(2), to: id(1), term: Term(1), body: vote };
    group.handle_message(NOW, ask);
    let mut out = Output::new();
    group.poll_output(NOW, LogTicket { lane: 4, seq: 77 }, &mut out);
    let reply = from_me(2, 1, Body::VoteReply { granted: true });
    assert_eq!(out.gated, [Gated::new(LogTicket { lane: 4, seq: 0 }, reply)]);
    assert_eq!((out.log, out.hard_state), (vec![], None), "the vote is on disk already");
}

#[test]
fn flush_of_another_lane_proves_nothing() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a")]));
    hand.turn();
    hand.group.on_flushed(NOW, &Proof { lane: 1, seq: 99 });
    assert_eq!(hand.group.stable_index(), x(5));
    hand.group.on_flushed(NOW, &proof(0));
    assert_eq!(hand.group.stable_index(), x(5));
    hand.flush();
    assert_eq!(hand.group.stable_index(), x(6));
}

#[test]
fn overwritten_append_does_not_become_stable_by_its_own_completion() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a"), command(7, 2, "b"), command(8, 2, "c")]));
    hand.turn();
    hand.hear(3, 3, append((6, 2), 5, vec![command(7, 3, "x"), command(8, 3, "y")]));
    let out = hand.turn();
    assert_eq!(out.log, [LogStep::Append(vec![command(7, 3, "x"), command(8, 3, "y")])]);
    hand.group.on_flushed(NOW, &proof(1));
    assert_eq!(hand.group.stable_index(), x(6), "what the first append has left standing, and no more");
    hand.group.on_flushed(NOW, &proof(2));
    assert_eq!(hand.group.stable_index(), x(8));
}

#[test]
fn conflict_within_one_turn_reaches_the_log_as_one_append() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a"), command(7, 2, "b")]));
    hand.hear(3, 3, append((6, 2), 5, vec![command(7, 3, "x")]));
    let out = hand.turn();
    assert_eq!(out.log, [LogStep::Append(vec![command(6, 2, "a"), command(7, 3, "x")])]);
    assert_eq!(out.gated, [Gated::new(ticket(1), from_me(3, 3, accept(7)))], "only the new leader is answered");
}

#[test]
fn reads_of_a_turn_share_one_round() {
    let mut hand = Hand::leader(Options::default(), 3);
    assert_eq!(hand.group.read_index(NOW, 10), Ok(()));
    assert_eq!(hand.group.read_index(NOW, 11), Ok(()));
    let beat = Body::Heartbeat { commit: x(6), round: 1 };
    let expected = Output { messages: vec![from_me(2, 2, beat.clone()), from_me(3, 2, beat)], ..Output::new() };
    assert_eq!(hand.turn(), expected);
    hand.hear(3, 2, Body::HeartbeatReply { round: 7 });
    assert_eq!(hand.turn(), Output::new(), "an answer to a round that was never asked is none");
    hand.hear(3, 2, Body::HeartbeatReply { round: 1 });
    let reads = [10, 11].map(|context| ReadReady { context, index: x(6) }).to_vec();
    assert_eq!(hand.turn(), Output { reads, ..Output::new() });
}

#[test]
fn waiting_reads_are_bounded() {
    let mut hand = Hand::leader(Options { max_pending_reads: 2, ..Options::default() }, 3);
    assert_eq!(hand.group.read_index(NOW, 1), Ok(()));
    hand.turn();
    assert_eq!(hand.group.read_index(NOW, 2), Ok(()));
    assert_eq!(hand.group.read_index(NOW, 3), Err(ReadRefused::Busy { limit: 2 }));
    hand.turn();
    hand.hear(2, 2, Body::HeartbeatReply { round: 2 });
    assert_eq!(hand.turn().reads.len(), 2);
    assert_eq!(hand.group.read_index(NOW, 3), Ok(()));
}

#[test]
fn uncommitted_proposals_are_bounded_and_given_back() {
    let limit = 3 * (Entry::OVERHEAD + 1);
    let mut hand = Hand::leader(Options { max_uncommitted_bytes: limit, ..Options::default() }, 3);
    hand.propose(&["a", "b"]);
    let mut more = proposals(&["c", "d"]);
    let refused = hand.group.propose(NOW, &mut more);
    assert_eq!(refused, Err(ProposeError::Busy { uncommitted_bytes: 2 * (Entry::OVERHEAD + 1), limit }));
    assert_eq!(more, proposals(&["c", "d"]), "all or none");
    hand.turn();
    hand.flush();
    hand.accepted(2, 8);
    hand.turn();
    assert_eq!(hand.group.propose(NOW, &mut more), Ok(x(9)), "what has committed makes room");
    hand.turn();
    hand.flush();
    hand.accepted(2, 10);
    hand.turn();
    let mut large = vec![multiraft_raft::Proposal {
        kind: multiraft_raft::EntryKind::Command,
        data: Payload::from(vec![0; 10 * limit]),
    }];
    assert_eq!(hand.group.propose(NOW, &mut large), Ok(x(11)), "something larger than the limit passes alone");
    assert!(matches!(hand.group.propose(NOW, &mut proposals(&["e"])), Err(ProposeError::Busy { .. })));
}

#[test]
fn membership_change_does_not_come_as_an_ordinary_proposal() {
    let mut hand = Hand::leader(Options::default(), 3);
    let data = MembershipChange::Simple(ChangeOp::Remove { id: id(3) }).encode(b"");
    let mut smuggled =
        vec![multiraft_raft::Proposal { kind: multiraft_raft::EntryKind::Membership, data: data.into() }];
    assert_eq!(hand.group.propose(NOW, &mut smuggled), Err(ProposeError::MembershipAmongProposals));
    assert_eq!(smuggled.len(), 1);
}

#[test]
fn committed_entries_are_bounded_per_turn_and_until_they_are_applied() {
    let one = Entry::OVERHEAD + 1;
    let options = Options { max_committed_bytes: 2 * one, max_applying_bytes: 3 * one, ..Options::default() };
    let mut hand = Hand::follower(options, 3);
    let entries = (6..=12).map(|index| command(index, 2, "a")).collect();
    hand.hear(2, 2, append((5, 1), 12, entries));
    hand.turn();
    hand.flush();
    let handed_out = |hand: &mut Hand| {
        let out = hand.turn();
        (out.committed.iter().map(|entry| entry.index.get()).collect::<Vec<_>>(), out.more)
    };
    assert_eq!(handed_out(&mut hand), (vec![6, 7], true));
    assert_eq!(handed_out(&mut hand), (vec![8, 9], false), "no use to poll again before something is applied");
    assert_eq!(handed_out(&mut hand), (vec![], false));
    hand.group.on_applied(NOW, x(8));
    assert_eq!(handed_out(&mut hand), (vec![10, 11], false), "x9 is still being applied");
    hand.group.on_applied(NOW, x(11));
    assert_eq!(handed_out(&mut hand), (vec![12], false));
}

#[test]
fn entries_that_left_memory_are_fetched_to_be_applied() {
    let mut found = restored(3);
    found.log.last_index = x(8);
    found.log.runs = vec![multiraft_raft::TermRun { start: x(6), term: Term(1) }];
    found.hard_state.commit = x(8);
    let mut hand = Hand { group: Group::new(Arc::new(Options::default()), id(1), found, 1, NOW), seq: 0, now: NOW };
    let fetch =
        Fetch { from: x(6), to: x(8), max_bytes: Options::default().max_committed_bytes, purpose: FetchPurpose::Apply };
    assert_eq!(hand.turn(), Output { fetches: vec![fetch], ..Output::new() });
    assert_eq!(hand.turn(), Output::new(), "asked once");
    hand.group.fetch_failed(NOW, fetch);
    assert_eq!(hand.turn(), Output::new());
    hand.now = hand.group.next_deadline();
    assert_eq!(hand.now, NOW.plus(Duration::from_millis(100)));
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.turn().fetches, [fetch], "and again after a while");
    let entries = vec![command(6, 1, "a"), command(7, 1, "b")];
    hand.group.on_fetched(hand.now, fetch, entries.clone());
    let out = hand.turn();
    assert_eq!(out.committed, entries);
    assert_eq!(out.fetches, [Fetch { from: x(8), ..fetch }], "the rest");
    hand.group.on_fetched(hand.now, Fetch { from: x(8), ..fetch }, vec![command(8, 2, "not this one")]);
    assert_eq!(hand.turn().committed, vec![], "an entry of another term is not the one");
}

#[test]
fn snapshot_resets_a_log_that_lacks_its_entry_and_keeps_one_that_has_it() {
    let mut hand = Hand::follower(Options::default(), 3);
    hand.hear(2, 2, append((5, 1), 5, vec![command(6, 2, "a"), command(7, 2, "b"), command(8, 2, "c")]));
    hand.turn();
    assert!(!hand.group.would_install(x(7), Term(2)), "the log has it");
    assert!(hand.group.restore(NOW, x(7), Term(2), voters(3)));
    assert_eq!((hand.group.last_index(), hand.group.applied_index()), (x(8), x(7)), "x8 may be acknowledged: it stays");
    let out = hand.turn();
    assert_eq!(out.log, vec![]);
    assert_eq!(out.gated, [Gated::new(ticket(1), from_me(2, 2, accept(8)))]);

    assert!(hand.group.would_install(x(20), Term(2)));
    assert!(hand.group.restore(NOW, x(20), Term(2), voters(3)));
    let out = hand.turn();
    assert_eq!(out.log, [LogStep::Reset { index: x(20), term: Term(2) }]);
    assert_eq!(out.gated, [Gated::new(ticket(3), from_me(2, 2, accept(20)))]);
    assert!(!hand.group.restore(NOW, x(20), Term(2), voters(3)), "no news");
    assert!(!hand.group.would_install(x(19), Term(2)));

    // The completion of what was written before says nothing about the new log.
    hand.hear(2, 2, append((20, 2), 20, vec![command(21, 2, "d")]));
    hand.turn();
    hand.group.on_flushed(NOW, &proof(1));
    assert_eq!(hand.group.stable_index(), x(20));
}

#[test]
fn a_witness_is_sent_only_what_is_durable_at_the_leader() {
    let roles = vec![(id(1), Role::Voter), (id(2), Role::Voter), (id(3), Role::Witness)];
    let found = Restored { membership: Membership::from_roles(roles), ..restored(3) };
    let options = Options { pre_vote: false, ..Options::default() };
    let mut hand = Hand { group: Group::new(Arc::new(options), id(1), found, 1, NOW), seq: 0, now: NOW };
    hand.group.campaign(NOW);
    hand.turn();
    hand.flush();
    hand.hear(2, 2, Body::VoteReply { granted: true });
    hand.turn();
    hand.flush();
    hand.turn();
    hand.accepted(2, 6);
    hand.accepted(3, 6);
    hand.turn();
    hand.propose(&["a"]);
    let sent_to = |out: Output<Proof>| -> Vec<u64> {
        let brings = |message: &&Message| matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty());
        out.messages.iter().filter(brings).map(|message| message.to.get()).collect()
    };
    assert_eq!(sent_to(hand.turn()), [2]);
    hand.flush();
    assert_eq!(sent_to(hand.turn()), [3]);
}

#[test]
fn what_a_leader_that_is_to_go_commits_and_shows_witnesses_a_voter_that_stays_holds() {
    let roles =
        vec![(id(1), Role::OutgoingVoter), (id(2), Role::Voter), (id(3), Role::Witness), (id(4), Role::Witness)];
    let found = Restored { membership: Membership::from_roles(roles), ..restored(4) };
    let options = Options { pre_vote: false, ..Options::default() };
    let mut hand = Hand { group: Group::new(Arc::new(options), id(1), found, 1, NOW), seq: 0, now: NOW };
    hand.group.campaign(NOW);
    hand.turn();
    hand.flush();
    hand.hear(3, 2, Body::VoteReply { granted: true });
    hand.hear(4, 2, Body::VoteReply { granted: true });
    let sent_to = |out: Output<Proof>| -> Vec<u64> {
        let brings = |message: &&Message| matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty());
        out.messages.iter().filter(brings).map(|message| message.to.get()).collect()
    };
    assert_eq!(sent_to(hand.turn()), [2], "the voter that stays comes first");
    hand.flush();
    assert_eq!(sent_to(hand.turn()), []);
    // Three of four in one half and two of three in the other: with the leader all data would go.
    hand.accepted(3, 6);
    hand.accepted(4, 6);
    hand.turn();
    assert_eq!(hand.group.commit_index(), x(5));
    hand.accepted(2, 6);
    hand.turn();
    assert_eq!(hand.group.commit_index(), x(6));
}

#[test]
fn a_witness_is_sent_what_another_voter_holds_before_it_is_durable_at_the_leader() {
    let roles = vec![(id(1), Role::Voter), (id(2), Role::Voter), (id(3), Role::Witness)];
    let found = Restored { membership: Membership::from_roles(roles), ..restored(3) };
    let options = Options { pre_vote: false, ..Options::default() };
    let mut hand = Hand { group: Group::new(Arc::new(options), id(1), found, 1, NOW), seq: 0, now: NOW };
    hand.group.campaign(NOW);
    hand.turn();
    hand.flush();
    hand.hear(2, 2, Body::VoteReply { granted: true });
    hand.turn();
    hand.flush();
    hand.accepted(2, 6);
    hand.accepted(3, 6);
    hand.turn();
    hand.propose(&["a"]);
    hand.turn();
    hand.accepted(2, 7);
    let out = hand.turn();
    let brings = |message: &Message| matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty());
    assert!(out.messages.iter().any(|message| message.to == id(3) && brings(message)), "{out:?}");
}

#[test]
fn a_replica_that_cannot_apply_an_entry_takes_a_snapshot_and_keeps_its_log() {
    let mut hand = Hand::follower(Options::default(), 3);
    let entries = (6..=9).map(|index| command(index, 2, "a")).collect();
    hand.hear(2, 2, append((5, 1), 8, entries));
    hand.turn();
    hand.flush();
    assert_eq!(hand.turn().committed.len(), 3);
    hand.group.on_applied(NOW, x(6));
    assert!(!hand.group.would_install(x(8), Term(2)), "it has all of that");
    hand.group.on_stalled(x(7));
    assert!(!hand.group.would_install(x(6), Term(2)), "that would not help");
    assert!(!hand.group.restore(NOW, x(6), Term(2), voters(3)));
    assert!(hand.group.would_install(x(7), Term(2)) && hand.group.would_install(x(8), Term(2)));
    assert!(hand.group.restore(NOW, x(7), Term(2), voters(3)));
    assert_eq!((hand.group.applied_index(), hand.group.last_index()), (x(7), x(9)));
    assert_eq!(hand.turn().log, vec![], "the log stays");
    hand.group.on_applied(NOW, x(8));
    assert!(!hand.group.would_install(x(8), Term(2)), "it goes on by itself");
    hand.hear(2, 2, append((9, 2), 9, vec![]));
    assert_eq!(hand.turn().committed, [command(9, 2, "a")]);
}

#[test]
fn snapshot_is_asked_for_once_until_its_end_is_reported() {
    let mut hand = Hand::leader(Options::default(), 2);
    hand.propose(&["a"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 7);
    hand.turn();
    hand.group.on_applied(NOW, x(7));
    hand.group.compact(x(7));
    assert_eq!(hand.turn().log, [LogStep::Truncate { index: x(7), term: Term(2) }]);
    let refuse = Body::AppendReply(AppendOutcome::Rejected { prev_index: x(8), hint_index: x(6), hint_term: Term(2) });
    // The follower cannot have lost x7, so this is stale: dropped.
    hand.hear(2, 2, refuse);
    assert_eq!(hand.turn().snapshots, vec![]);

    // A new member has nothing.
    let grown = voters(3);
    hand.group.on_membership_applied(NOW, x(8), grown);
    assert_eq!(hand.turn().messages, [from_me(3, 2, append((7, 2), 0, vec![]))]);
    let refuse = AppendOutcome::Rejected { prev_index: x(7), hint_index: x(0), hint_term: Term(0) };
    hand.hear(3, 2, Body::AppendReply(refuse));
    assert_eq!(hand.turn(), Output { snapshots: vec![id(3)], ..Output::new() });
    hand.hear(3, 2, Body::HeartbeatReply { round: 0 });
    assert_eq!(hand.turn(), Output::new());
    hand.group.on_snapshot_sent(NOW, id(3), SnapshotOutcome::Unreachable);
    assert_eq!(hand.turn(), Output::new(), "not before it is there again");
    hand.hear(3, 2, Body::HeartbeatReply { round: 0 });
    assert_eq!(hand.turn().snapshots, [id(3)]);
    hand.group.on_snapshot_sent(NOW, id(3), SnapshotOutcome::Installed);
    hand.accepted(3, 7);
    assert_eq!(hand.turn().snapshots, vec![]);
    assert_eq!(hand.group.match_index(id(3)), Some(x(7)));
}

#[test]
fn heartbeats_fall_on_the_grid() {
    let mut hand = Hand::leader(Options::default(), 2);
    hand.now = Time(NOW.0 + 100_000_000);
    assert_eq!(hand.group.next_deadline(), hand.now);
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.turn().messages, [from_me(2, 2, Body::Heartbeat { commit: x(6), round: 0 })]);
    hand.now = Time(NOW.0 + 217_000_000);
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.group.next_deadline(), Time(NOW.0 + 300_000_000), "a late beat does not move the next");
}

#[test]
fn replica_without_a_part_in_elections_waits_for_nothing() {
    let mut stranger: Group<Proof> = Group::new(Arc::new(Options::default()), id(9), Restored::default(), 1, NOW);
    assert_eq!(stranger.next_deadline(), Time::NEVER);
    stranger.campaign(NOW);
    let mut out = Output::new();
    stranger.poll_output(NOW, ticket(1), &mut out);
    assert_eq!(out, Output::new());

    let mut lazy = Hand::follower(Options::default(), 3);
    lazy.group.set_priority(NOW, multiraft_raft::Priority::NEVER);
    assert_eq!(lazy.group.next_deadline(), Time::NEVER);
    lazy.group.campaign(NOW);
    assert_eq!(lazy.turn().messages.len(), 2, "it campaigns when it is told to");
}

#[test]
fn what_does_not_fit_together_is_not_started() {
    let with = |change: fn(&mut Restored)| {
        let mut found = restored(3);
        change(&mut found);
        found.validate()
    };
    assert_eq!(restored(3).validate(), Ok(()));
    assert_eq!(Restored::default().validate(), Ok(()));
    assert_eq!(
        with(|found| found.applied = x(4)),
        Err(RestoreError::StateBehindLog { applied: x(4), truncated: x(5) })
    );
    assert_eq!(with(|found| found.applied = x(6)), Err(RestoreError::LogBehindState { applied: x(6), last: x(5) }));
    assert_eq!(
        with(|found| found.hard_state.term = Term(0)),
        Err(RestoreError::TermBehindLog { term: Term(0), last_term: Term(1) })
    );
    assert_eq!(with(|found| found.log.last_index = x(6)), Err(RestoreError::MalformedLog));
}

#[test]
fn output_is_reused_without_new_memory() {
    let mut hand = Hand::leader(Options::default(), 3);
    let mut out = Output::new();
    hand.group.poll_output(NOW, ticket(50), &mut out);
    assert!(out.is_empty());
    assert_eq!(out.messages.capacity() + out.log.capacity() + out.committed.capacity(), 0, "nothing to say, no memory");
    hand.propose(&["a"]);
    hand.group.poll_output(NOW, ticket(51), &mut out);
    let capacity = out.messages.capacity();
    out.clear();
    assert!(out.is_empty() && out.messages.capacity() == capacity);
}

#[test]
fn entries_that_left_memory_are_fetched_to_be_sent() {
    let options = Options { max_cached_bytes: 0, ..Options::default() };
    let mut hand = Hand::leader(options.clone(), 3);
    hand.group.pause_peer(id(3));
    hand.propose(&["a", "b"]);
    hand.turn();
    hand.flush();
    hand.accepted(2, 8);
    hand.turn();
    hand.group.resume_peer(id(3));
    let fetch = Fetch { from: x(7), to: x(8), max_bytes: options.max_append_bytes, purpose: FetchPurpose::Send(id(3)) };
    assert_eq!(hand.turn(), Output { fetches: vec![fetch], ..Output::new() });
    hand.group.fetch_failed(NOW, fetch);
    assert_eq!(hand.turn(), Output::new());
    hand.now = hand.group.next_deadline();
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.turn().fetches, [fetch], "again at the next heartbeat");
    hand.group.on_fetched(hand.now, fetch, vec![command(7, 1, "not this one")]);
    assert_eq!(hand.turn(), Output::new(), "an entry of another term is not the one");
    hand.now = hand.group.next_deadline();
    hand.group.handle_deadline(hand.now);
    assert_eq!(hand.turn().fetches, [fetch]);
    let entries = vec![command(7, 2, "a"), command(8, 2, "b")];
    hand.group.on_fetched(hand.now, fetch, entries.clone());
    assert_eq!(hand.turn().messages, [from_me(3, 2, append((6, 2), 8, entries))]);
}

#[test]
fn woken_group_waits_anew() {
    let mut follower = Hand::follower(Options::default(), 3);
    follower.hear(2, 2, Body::Heartbeat { commit: x(5), round: 0 });
    follower.turn();
    let later = NOW.plus(Duration::from_secs(3600));
    follower.group.wake(later);
    assert!(follower.group.next_deadline() >= later.plus(Options::default().election_timeout_min));

    let mut leader = Hand::leader(Options::default(), 3);
    leader.group.wake(later);
    leader.now = leader.group.next_deadline();
    assert_eq!(leader.now, later.next_multiple(Options::default().heartbeat_interval));
    leader.group.handle_deadline(leader.now);
    assert!(leader.group.is_leader(), "its followers were not asked for an hour, so their silence means nothing");
}

#[test]
fn a_refused_transfer_is_given_up_at_once_and_proposals_go_on() {
    let mut hand = Hand::leader(Options::default(), 3);
    hand.group.transfer_leader(NOW, id(2)).unwrap();
    assert_eq!(hand.turn().messages, [from_me(2, 2, Body::TimeoutNow)]);
    assert!(!hand.group.on_transfer_refused(id(3)), "it was not asked");
    assert!(hand.group.on_transfer_refused(id(2)));
    assert!(!hand.group.on_transfer_refused(id(2)), "that one is over");
    let out = hand.turn();
    assert_eq!((out.messages, out.events), (vec![], vec![Event::TransferAborted { to: id(2) }]));
    assert_eq!(hand.propose(&["a"]), x(7));
    hand.group.transfer_leader(NOW, id(3)).unwrap();
}
