//! One line of a trace: an event at one replica, in the trace format of etcd's Raft.

use multiraft_raft::{AppendOutcome, Body, Group, LogIndex, Membership, Message, ReplicaId, RoleKind, Term};
use serde_json::{Value, json};

use super::replica::Flushed;

/// What of a replica's state a line shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) id: ReplicaId,
    pub(super) term: Term,
    pub(super) vote: ReplicaId,
    pub(super) commit: LogIndex,
    pub(super) role: RoleKind,
    pub(super) last: LogIndex,
    pub(super) voters: Vec<ReplicaId>,
}

impl View {
    pub(super) fn of(group: &Group<Flushed>) -> Self {
        Self {
            id: group.id(),
            term: group.term(),
            vote: group.vote().unwrap_or_default(),
            commit: group.commit_index(),
            role: group.role(),
            last: group.last_index(),
            voters: voters(group.membership()),
        }
    }

    /// The line of an event that shows this state.
    pub(super) fn line(&self, name: &str) -> Value {
        let role = match self.role {
            RoleKind::Leader => "StateLeader",
            RoleKind::Candidate => "StateCandidate",
            RoleKind::PreCandidate => "StatePreCandidate",
            RoleKind::Follower => "StateFollower",
        };
        json!({"tag": "trace", "event": {
            "name": name,
            "nid": self.id.to_string(),
            "state": {"term": self.term.get(), "vote": self.vote.to_string(), "commit": self.commit.get()},
            "role": role,
            "log": self.last.get(),
            "conf": [names(&self.voters), []],
        }})
    }

    /// The line of an event about a message.
    pub(super) fn message_line(&self, name: &str, message: &Value) -> Value {
        let mut line = self.line(name);
        line["event"]["msg"] = message.clone();
        line
    }
}

pub(super) fn voters(membership: &Membership) -> Vec<ReplicaId> {
    membership.incoming_voters().collect()
}

pub(super) fn names(ids: &[ReplicaId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// What kind of event sending or receiving a message is: append or vote, request or response.
pub(super) fn family(message: &Value) -> &'static str {
    match message["type"].as_str() {
        Some("MsgVote") => "RequestVoteRequest",
        Some("MsgVoteResp") => "RequestVoteResponse",
        Some("MsgAppResp" | "MsgHeartbeatResp") => "AppendEntriesResponse",
        _ => "AppendEntriesRequest",
    }
}

/// A message as the trace shows it. `commit` is the sender's commit index.
pub(super) fn message_of(message: &Message, commit: LogIndex) -> Option<Value> {
    let mut shown = blank(message.from, message.to, message.term);
    match &message.body {
        Body::Vote { last_index, last_term, .. } => {
            shown["type"] = "MsgVote".into();
            shown["index"] = last_index.get().into();
            shown["logTerm"] = last_term.get().into();
        }
        Body::VoteReply { granted } => {
            shown["type"] = "MsgVoteResp".into();
            shown["reject"] = (!granted).into();
        }
        Body::Append { prev_index, prev_term, entries, .. } => {
            // The receiver commits no further than the append reaches, so that is what the message is worth.
            let reach = prev_index.plus(entries.len() as u64);
            shown["type"] = "MsgApp".into();
            shown["index"] = prev_index.get().into();
            shown["logTerm"] = prev_term.get().into();
            shown["entries"] = entries.len().into();
            shown["commit"] = commit.min(reach).get().into();
        }
        Body::AppendReply(AppendOutcome::Accepted { match_index }) => {
            shown["type"] = "MsgAppResp".into();
            shown["index"] = match_index.get().into();
        }
        Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term }) => {
            shown["type"] = "MsgAppResp".into();
            shown["index"] = prev_index.get().into();
            shown["logTerm"] = hint_term.get().into();
            shown["reject"] = true.into();
            shown["rejectHint"] = hint_index.get().into();
        }
        Body::Heartbeat { commit, .. } => {
            shown["type"] = "MsgHeartbeat".into();
            shown["commit"] = commit.get().into();
        }
        Body::HeartbeatReply { .. } => shown["type"] = "MsgHeartbeatResp".into(),
        Body::PreVote { .. }
        | Body::PreVoteReply { .. }
        | Body::TimeoutNow
        | Body::Promised
        | Body::Fortify { .. }
        | Body::Fortified { .. }
        | Body::Release
        | Body::Released
        | Body::AskLeader { .. } => return None,
    }
    Some(shown)
}

/// A snapshot that stands for `index`.
pub(super) fn snapshot(from: ReplicaId, to: ReplicaId, term: Term, index: LogIndex) -> Value {
    let mut shown = blank(from, to, term);
    shown["type"] = "MsgSnap".into();
    shown["entries"] = index.get().into();
    shown
}

/// What a leader tells itself about its own log.
pub(super) fn own_append(id: ReplicaId, term: Term, last: LogIndex) -> Value {
    let mut shown = blank(id, id, term);
    shown["type"] = "MsgAppResp".into();
    shown["index"] = last.get().into();
    shown
}

/// A candidate's vote for itself.
pub(super) fn own_vote(id: ReplicaId, term: Term) -> Value {
    let mut shown = blank(id, id, term);
    shown["type"] = "MsgVoteResp".into();
    shown
}

fn blank(from: ReplicaId, to: ReplicaId, term: Term) -> Value {
    json!({
        "type": "", "term": term.get(), "from": from.to_string(), "to": to.to_string(), "entries": 0, "logTerm": 0,
        "index": 0, "commit": 0, "vote": "0", "reject": false, "rejectHint": 0,
    })
}
