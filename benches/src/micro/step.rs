//! One Raft group of three voters, of which one is here.

use std::sync::Arc;

use bytes::Bytes;
use multiraft::Config;
use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, FlushProof, Group, LogIndex, LogTicket, Membership, Message, Output,
    Payload, Proposal, ReplicaId, Restored, Role, RoleKind, Term, Time,
};

use super::count::in_the_count;

const OWN: ReplicaId = ReplicaId(1);
const OTHERS: [ReplicaId; 2] = [ReplicaId(2), ReplicaId(3)];
const NOW: Time = Time(1_000_000_000);
const COMMAND: &[u8] = &[7; 24];

/// Everything up to this place is durable: there is no disk here that could say otherwise.
#[derive(Clone, Debug)]
struct Proof(u64);

impl FlushProof for Proof {
    fn covers(&self, ticket: LogTicket) -> bool {
        ticket.seq <= self.0
    }
}

/// The group with its driver.
struct Driven {
    group: Group<Proof>,
    out: Output<Proof>,
    seq: u64,
}

impl Driven {
    fn new(seed: u64) -> Self {
        let roles = [OWN, OTHERS[0], OTHERS[1]].map(|id| (id, Role::Voter));
        let restored = Restored { membership: Membership::from_roles(roles.to_vec()), ..Restored::default() };
        let group = Group::new(Arc::new(Config::default().raft), OWN, restored, seed, NOW);
        Self { group, out: Output::new(), seq: 0 }
    }

    /// A turn: what it wants logged is durable at once, and what is committed is applied. Gives how many entries that were.
    fn turn(&mut self) -> u64 {
        let applied = self.poll();
        let proof = Proof(self.seq);
        for gated in self.out.gated.drain(..) {
            assert!(gated.release(&proof).is_ok(), "everything is durable");
        }
        self.out.clear();
        applied + if self.group.on_flushed(NOW, &proof) { self.poll() } else { 0 }
    }

    fn poll(&mut self) -> u64 {
        self.seq += 1;
        self.group.poll_output(NOW, LogTicket { lane: 0, seq: self.seq }, &mut self.out);
        if let Some(last) = self.out.committed.last() {
            self.group.on_applied(NOW, last.index);
        }
        self.out.committed.len() as u64
    }

    fn hear(&mut self, from: ReplicaId, term: Term, body: Body) {
        self.group.handle_message(NOW, Message { from, to: OWN, term, body });
    }
}

/// A leader takes `steps` proposals, one after the other, each acknowledged by both followers, committed and applied.
pub(super) fn lead(steps: u64, seed: u64) -> u64 {
    let mut driven = Driven::new(seed);
    let term = Term(1);
    driven.group.campaign(NOW);
    driven.turn();
    driven.hear(OTHERS[0], term, Body::PreVoteReply { granted: true });
    driven.turn();
    driven.hear(OTHERS[0], term, Body::VoteReply { granted: true });
    driven.turn();
    assert!(driven.group.status().role == RoleKind::Leader, "it has all votes that it needs");
    let answer = |driven: &mut Driven, match_index: LogIndex| {
        for from in OTHERS {
            let outcome = AppendOutcome::Accepted { match_index };
            if !driven.group.absorb_accepted(NOW, from, term, match_index) {
                driven.hear(from, term, Body::AppendReply(outcome));
            }
        }
        driven.turn()
    };
    // The leader's own first entry.
    let mut applied = answer(&mut driven, LogIndex(1));
    for step in 0..steps {
        let mut proposals = vec![Proposal { kind: EntryKind::Command, data: Payload::copy_from_slice(COMMAND) }];
        applied += in_the_count(|| {
            driven.group.propose(NOW, &mut proposals).expect("a leader without a backlog takes a proposal");
            let early = driven.turn();
            early + answer(&mut driven, LogIndex(step + 2))
        });
    }
    assert_eq!(applied, steps + 1, "everything is committed and applied");
    steps
}

/// A follower takes `steps` appends of one entry each, of which each commits the one before.
pub(super) fn follow(steps: u64, seed: u64) -> u64 {
    let mut driven = Driven::new(seed);
    let term = Term(1);
    let mut applied = 0;
    for step in 0..steps {
        let (prev_index, prev_term) = (LogIndex(step), if step == 0 { Term::ZERO } else { term });
        let data = Bytes::from_static(COMMAND);
        let entries = vec![Entry { term, index: LogIndex(step + 1), kind: EntryKind::Command, data: data.into() }];
        let body = Body::Append { prev_index, prev_term, commit: prev_index, entries };
        applied += in_the_count(|| {
            driven.hear(OTHERS[0], term, body);
            driven.turn()
        });
    }
    assert_eq!(applied, steps - 1, "all but the last is committed and applied");
    steps
}
