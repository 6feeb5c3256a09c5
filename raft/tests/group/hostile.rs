//! Whatever a peer sends, a replica does not panic, and keeps what it has committed.

use std::sync::Arc;

use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, Event, LogIndex, Message, Options, Payload, Replica as Member, ReplicaId,
    Role, StoreId, Term, Time,
};
use proptest::prelude::*;

use crate::replica::Replica;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0..14u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn term() -> impl Strategy<Value = Term> {
    prop_oneof![60 => 0..5u64, 1 => number()].prop_map(Term)
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex)
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let well_formed = (5..12u64, prop::collection::vec(0..2u64, 0..5)).prop_map(|(first, rises)| {
        let mut term = 1;
        let entry = |(at, rise): (usize, &u64)| {
            term += rise;
            Entry {
                term: Term(term),
                index: LogIndex(first + at as u64),
                kind: if *rise == 0 { EntryKind::Command } else { EntryKind::Membership },
                data: Payload::copy_from_slice(b"junk"),
            }
        };
        rises.iter().enumerate().map(entry).collect::<Vec<_>>()
    });
    let malformed = prop::collection::vec(
        (term(), index()).prop_map(|(term, index)| Entry { term, index, kind: EntryKind::Empty, data: Payload::new() }),
        0..4,
    );
    prop_oneof![4 => well_formed, 1 => malformed]
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        1 => (index(), term()).prop_map(|(last_index, last_term)| Body::PreVote { last_index, last_term }),
        1 => any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        1 => (index(), term(), any::<bool>())
            .prop_map(|(last_index, last_term, transfer)| Body::Vote { last_index, last_term, transfer }),
        1 => any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        6 => (any::<bool>(), index(), term(), index(), entries()).prop_map(
            |(fitting, prev_index, prev_term, commit, entries)| {
                let prev_index = match entries.first() {
                    Some(first) if fitting => LogIndex(first.index.get().saturating_sub(1)),
                    _ => prev_index,
                };
                Body::Append { prev_index, prev_term, commit, entries }
            }
        ),
        1 => index().prop_map(|match_index| Body::AppendReply(AppendOutcome::Accepted { match_index })),
        1 => (index(), index(), term()).prop_map(|(prev_index, hint_index, hint_term)| {
            Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term })
        }),
        1 => (index(), number()).prop_map(|(commit, round)| Body::Heartbeat { commit, round }),
        1 => number().prop_map(|round| Body::HeartbeatReply { round }),
        1 => Just(Body::TimeoutNow),
        1 => prop_oneof![Just(Body::Promised), Just(Body::Release), Just(Body::Released)],
        1 => number().prop_map(|epoch| Body::Fortify { epoch }),
        1 => number().prop_map(|epoch| Body::Fortified { epoch }),
        1 => term().prop_map(|own_term| Body::AskLeader { own_term }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Message(Message),
    Turn,
    Flush,
    Deadline,
    Compact,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let message = (0..5u64, 0..3u64, term(), body()).prop_map(|(from, to, term, body)| Message {
        from: ReplicaId(from),
        to: ReplicaId(to.min(1)),
        term,
        body,
    });
    let step = prop_oneof![
        12 => message.prop_map(Step::Message),
        2 => Just(Step::Turn),
        3 => Just(Step::Flush),
        2 => Just(Step::Deadline),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

fn members() -> Vec<Member> {
    (1..=3).map(|n| Member { id: ReplicaId(n), store: StoreId(n), role: Role::Voter }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_message_makes_a_replica_panic_or_lose_what_is_committed(steps in steps()) {
        let options = Arc::new(Options::default());
        let mut now = Time(1_000_000_000);
        let mut replica = Replica::bootstrap(&options, ReplicaId(1), members(), 1, now);
        let mut net = Vec::new();
        for step in steps {
            let (commit, term) = (replica.group.commit_index(), replica.group.term());
            let committed = replica.group.term_at(commit);
            match step {
                Step::Message(message) => replica.group.handle_message(now, message),
                Step::Turn => {}
                Step::Flush => drop(replica.flush(now, 1, &mut net)),
                Step::Deadline => {
                    now = now.max(replica.group.next_deadline().min(Time(now.0 + 3_000_000_000)));
                    replica.group.handle_deadline(now);
                }
                Step::Compact => {
                    replica.group.compact(replica.group.applied_index());
                }
                Step::Restart => {
                    while replica.flush(now, 1, &mut net) {}
                    replica.restart(&options, 7, now);
                    continue;
                }
            }
            prop_assert!(replica.group.term() >= term, "a term never falls");
            prop_assert!(replica.group.commit_index() >= commit, "what is committed stays so");
            if commit >= replica.group.first_index() {
                prop_assert_eq!(replica.group.term_at(commit), committed, "what is committed is not replaced");
            }
            replica.turn(now, &mut net);
            replica.answer_fetches(now);
            let handed_out = replica.to_apply.iter().map(|entry| entry.index).max();
            replica.to_apply.clear();
            if let Some(index) = handed_out {
                replica.state.applied = index;
                replica.state.applied_term = replica.group.term_at(index).expect("it was handed out");
                replica.group.on_applied(now, index);
            }
        }
    }
}

fn append(term: u64, prev: (u64, u64), commit: u64, entries: &[(u64, u64)]) -> Message {
    let entry = |(index, term): &(u64, u64)| Entry {
        term: Term(*term),
        index: LogIndex(*index),
        kind: EntryKind::Command,
        data: Payload::new(),
    };
    let body = Body::Append {
        prev_index: LogIndex(prev.0),
        prev_term: Term(prev.1),
        commit: LogIndex(commit),
        entries: entries.iter().map(entry).collect(),
    };
    Message { from: ReplicaId(2), to: ReplicaId(1), term: Term(term), body }
}

fn events_after(messages: &[Message]) -> Vec<Event> {
    let options = Arc::new(Options::default());
    let now = Time(1_000_000_000);
    let mut replica = Replica::bootstrap(&options, ReplicaId(1), members(), 1, now);
    for message in messages {
        replica.group.handle_message(now, message.clone());
    }
    replica.turn(now, &mut Vec::new());
    replica.out.events.clone()
}

#[test]
fn leader_that_contradicts_a_committed_entry_is_named_and_not_followed() {
    let contradicted = |index| Event::PeerContradicts { from: ReplicaId(2), index: LogIndex(index) };
    // A committed entry, by another entry.
    let events = events_after(&[append(2, (5, 1), 6, &[(6, 2)]), append(3, (5, 1), 6, &[(6, 3)])]);
    assert_eq!(events.last(), Some(&contradicted(6)));
    // A committed entry, by what is said to stand before others.
    let events = events_after(&[append(2, (5, 1), 6, &[(6, 2)]), append(3, (6, 3), 6, &[(7, 3)])]);
    assert_eq!(events.last(), Some(&contradicted(6)));
    // A compacted entry.
    let events = events_after(&[append(3, (4, 1), 5, &[(5, 3), (6, 3)])]);
    assert_eq!(events.last(), Some(&contradicted(5)));
    // What the same leader has sent before.
    let events = events_after(&[append(3, (5, 1), 5, &[(6, 2)]), append(3, (5, 1), 5, &[(6, 3)])]);
    assert_eq!(events.last(), Some(&contradicted(6)));
}
