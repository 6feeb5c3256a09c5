//! What the replicas of one group say to each other.
//!
//! A message names replicas, not stores, and not its region: whoever carries it adds both. `term` is the sender's term,
//! except in [`Body::PreVote`], where it is the term that the sender would campaign in, and in [`Body::Release`],
//! [`Body::Released`] and [`Body::AskLeader`], where it is the term of the leadership in question.

use crate::{Entry, LogIndex, Payload, ReplicaId, Term};

/// One message from one replica to another of the same group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub from: ReplicaId,
    /// To whom.
    pub to: ReplicaId,
    /// The sender's term (in a pre-vote request: the term it would campaign in).
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" Changes nobody's term (dissertation, section 9.6).
    PreVote {
        /// The candidate's last log position.
        last_index: LogIndex,
        /// The term there.
        last_term: Term,
    },
    /// Answer to a pre-vote. When granted, the message's term is the asked-for term, else the answerer's own.
    PreVoteReply {
        /// Whether it would vote.
        granted: bool,
    },
    /// "Vote for me" (dissertation, figure 3.1).
    Vote {
        /// The candidate's last log position.
        last_index: LogIndex,
        /// The term there.
        last_term: Term,
        /// Set in a campaign that the leader itself asked for: it overrides "I have a live leader".
        transfer: bool,
    },
    /// Answer to a vote request. A grant asserts that the vote is durable.
    VoteReply {
        /// Whether it voted for the asker.
        granted: bool,
    },
    /// Entries that follow `prev_index`, and the commit index (dissertation, figure 3.1). Without entries: a probe, or the
    /// news of a commit.
    Append {
        /// The position before the first entry.
        prev_index: LogIndex,
        /// The term there.
        prev_term: Term,
        /// The leader's commit index.
        commit: LogIndex,
        /// Consecutive entries from `prev_index + 1`.
        entries: Vec<Entry>,
    },
    /// Answer to an append or to an installed snapshot. `Accepted` asserts durability.
    AppendReply(AppendOutcome),
    /// A leader's sign of life. Carried for all groups of a store pair in one message.
    Heartbeat {
        /// The commit index as far as the receiver is known to hold it.
        commit: LogIndex,
        /// The newest read round that the leader has open; zero if none. See [`Body::HeartbeatReply`].
        round: u64,
    },
    /// Answer to a heartbeat: the receiver acknowledged the sender as leader of the term when `round` was open
    /// (dissertation, section 6.4).
    HeartbeatReply {
        /// The round that the heartbeat carried.
        round: u64,
    },
    /// "Campaign at once" (dissertation, section 3.10).
    TimeoutNow,
    /// Answer to a pre-vote: refused because of a promise to a leader, which may end before a leader is heard again.
    Promised,
    /// A leader asks a follower to promise votes for no other, and not to campaign, while the follower's store supports the
    /// leader's in this period (`docs/liveness.md`, F1).
    Fortify {
        /// The period of support.
        epoch: u64,
    },
    /// Answer to [`Body::Fortify`]: promised.
    Fortified {
        /// The period of support.
        epoch: u64,
    },
    /// The sender no longer leads the message's term, which may be an earlier one than its own: what was promised to it as the
    /// leader of that term has no point any more.
    Release,
    /// Answer to [`Body::Release`], in the same term.
    Released,
    /// "Do you lead the message's term?" Asked by a replica that has promised, answered with [`Body::Fortify`] or
    /// [`Body::Release`].
    AskLeader {
        /// The asker's term.
        own_term: Term,
    },
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Everything up to `match_index` equals the leader's log and is durable here.
    Accepted {
        /// The last position known to match.
        match_index: LogIndex,
    },
    /// The entry at `prev_index` is not the leader's.
    Rejected {
        /// The `prev_index` that was refused; tells a stale rejection from a fresh one.
        prev_index: LogIndex,
        /// Where the leader may try next: no entry after this one can match.
        hint_index: LogIndex,
        /// The term at `hint_index` here; lets the leader skip a whole term at once.
        hint_term: Term,
    },
}

/// Data proposed to a group, before it has a place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// What kind of entry it becomes.
    pub kind: crate::EntryKind,
    /// The payload.
    pub data: Payload,
}
