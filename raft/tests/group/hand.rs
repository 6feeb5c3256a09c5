//! A group driven by hand, turn by turn, so that a test can compare whole outputs.

use std::sync::Arc;

use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, Group, HardState, LogIndex, LogSummary, LogTicket, Membership, Message,
    Options, Output, Payload, Proposal, ReplicaId, Restored, Role, Term, Time,
};

use crate::disk::Proof;

pub const NOW: Time = Time(1_000_000_000);

pub fn id(n: u64) -> ReplicaId {
    ReplicaId(n)
}

pub fn x(n: u64) -> LogIndex {
    LogIndex(n)
}

pub fn ticket(seq: u64) -> LogTicket {
    LogTicket { lane: 0, seq }
}

pub fn proof(seq: u64) -> Proof {
    Proof { lane: 0, seq }
}

pub fn voters(count: u64) -> Membership {
    Membership::from_roles((1..=count).map(|n| (id(n), Role::Voter)).collect())
}

/// What a member finds whose log begins after x5/t1.
pub fn restored(count: u64) -> Restored {
    Restored {
        hard_state: HardState { term: Term(1), vote: ReplicaId::ZERO, commit: x(5) },
        log: LogSummary { truncated_index: x(5), truncated_term: Term(1), last_index: x(5), runs: vec![] },
        applied: x(5),
        membership: voters(count),
    }
}

/// Replica 1, and the turns that it has had.
pub struct Hand {
    pub group: Group<Proof>,
    pub seq: u64,
    pub now: Time,
}

impl Hand {
    pub fn follower(options: Options, count: u64) -> Self {
        Self { group: Group::new(Arc::new(options), id(1), restored(count), 1, NOW), seq: 0, now: NOW }
    }

    /// Leader of term 2, with x6/t2 committed and everything told to everybody.
    pub fn leader(options: Options, count: u64) -> Self {
        let mut hand = Self::follower(Options { pre_vote: false, ..options }, count);
        hand.group.campaign(NOW);
        hand.turn();
        hand.flush();
        for voter in 2..=count {
            hand.hear(voter, 2, Body::VoteReply { granted: true });
        }
        hand.turn();
        hand.flush();
        for voter in 2..=count {
            hand.accepted(voter, 6);
        }
        hand.turn();
        hand.group.on_applied(NOW, x(6));
        hand.turn();
        assert!(hand.group.is_leader() && hand.group.commit_index() == x(6));
        hand
    }

    pub fn turn(&mut self) -> Output<Proof> {
        self.seq += 1;
        let mut out = Output::new();
        self.group.poll_output(self.now, ticket(self.seq), &mut out);
        out
    }

    /// Everything handed out so far becomes durable.
    pub fn flush(&mut self) {
        self.group.on_flushed(self.now, &proof(self.seq));
    }

    pub fn hear(&mut self, from: u64, term: u64, body: Body) {
        self.group.handle_message(self.now, Message { from: id(from), to: id(1), term: Term(term), body });
    }

    pub fn accepted(&mut self, from: u64, match_index: u64) {
        let outcome = AppendOutcome::Accepted { match_index: x(match_index) };
        self.hear(from, self.group.term().get(), Body::AppendReply(outcome));
    }

    pub fn propose(&mut self, data: &[&'static str]) -> LogIndex {
        self.group.propose(self.now, &mut proposals(data)).expect("the leader takes it")
    }
}

pub fn proposals(data: &[&'static str]) -> Vec<Proposal> {
    let proposal =
        |data: &&'static str| Proposal { kind: EntryKind::Command, data: Payload::copy_from_slice(data.as_bytes()) };
    data.iter().map(proposal).collect()
}

pub fn command(index: u64, term: u64, data: &'static str) -> Entry {
    Entry {
        term: Term(term),
        index: x(index),
        kind: EntryKind::Command,
        data: Payload::copy_from_slice(data.as_bytes()),
    }
}

pub fn append(prev: (u64, u64), commit: u64, entries: Vec<Entry>) -> Body {
    Body::Append { prev_index: x(prev.0), prev_term: Term(prev.1), commit: x(commit), entries }
}

pub fn from_me(to: u64, term: u64, body: Body) -> Message {
    Message { from: id(1), to: id(to), term: Term(term), body }
}
