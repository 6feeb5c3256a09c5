//! How transcripts show things: one line each, in the field's words.

use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, Event, FetchPurpose, HardState, LogStep, MembershipChange, Message, Role,
};

use crate::replica::Replica;

/// `x7/t2 "abc"`.
pub fn entry(entry: &Entry) -> String {
    let what = match entry.kind {
        EntryKind::Empty => "empty".to_owned(),
        EntryKind::Command => format!("\"{}\"", entry.data.escape_ascii()),
        EntryKind::Membership => match MembershipChange::decode(&entry.data) {
            Ok((change, _)) => format!("{change:?}"),
            Err(error) => error.to_string(),
        },
    };
    format!("{:?}/{:?} {what}", entry.index, entry.term)
}

fn entries(entries: &[Entry]) -> String {
    match entries {
        [] => String::new(),
        some => format!(" [{}]", some.iter().map(entry).collect::<Vec<_>>().join(", ")),
    }
}

/// `r1 > r2 t2 Append after x5/t1, commit x5 [x6/t2 empty]`.
pub fn message(message: &Message) -> String {
    let body = match &message.body {
        Body::PreVote { last_index, last_term } => format!("PreVote, log ends {last_index:?}/{last_term:?}"),
        Body::PreVoteReply { granted } => format!("PreVoteReply, {}", yes(*granted)),
        Body::Vote { last_index, last_term, transfer } => {
            let transfer = if *transfer { ", for the leader" } else { "" };
            format!("Vote, log ends {last_index:?}/{last_term:?}{transfer}")
        }
        Body::VoteReply { granted } => format!("VoteReply, {}", yes(*granted)),
        Body::Append { prev_index, prev_term, commit, entries: list } => {
            format!("Append after {prev_index:?}/{prev_term:?}, commit {commit:?}{}", entries(list))
        }
        Body::AppendReply(AppendOutcome::Accepted { match_index }) => format!("AppendReply, holds {match_index:?}"),
        Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term }) => {
            format!("AppendReply, refuses {prev_index:?}, try {hint_index:?}/{hint_term:?}")
        }
        Body::Heartbeat { commit, round } => format!("Heartbeat, commit {commit:?}{}", in_round(*round)),
        Body::HeartbeatReply { round } => format!("HeartbeatReply{}", in_round(*round)),
        Body::TimeoutNow => "TimeoutNow".to_owned(),
        Body::Promised => "Promised".to_owned(),
        Body::Fortify { epoch } => format!("Fortify, epoch {epoch}"),
        Body::Fortified { epoch } => format!("Fortified, epoch {epoch}"),
        Body::Release => "Release".to_owned(),
        Body::Released => "Released".to_owned(),
        Body::AskLeader { own_term } => format!("AskLeader, own term {own_term:?}"),
    };
    format!("{:?} > {:?} {:?} {body}", message.from, message.to, message.term)
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

fn in_round(round: u64) -> String {
    if round == 0 { String::new() } else { format!(", round {round}") }
}

fn hard_state(hard: &HardState) -> String {
    format!("{:?} vote {:?} commit {:?}", hard.term, hard.vote, hard.commit)
}

fn event(event: &Event) -> String {
    match event {
        Event::RoleChanged { role, term } => format!("becomes {role:?} in {term:?}"),
        Event::LeaderChanged { leader: Some(leader), term } => format!("follows {leader:?} in {term:?}"),
        Event::LeaderChanged { leader: None, term } => format!("knows no leader in {term:?}"),
        Event::QuorumLost { term } => format!("has lost its quorum in {term:?}"),
        Event::TransferDone { to } => format!("has handed leadership to {to:?}"),
        Event::TransferAborted { to } => format!("gives up handing leadership to {to:?}"),
        Event::PeerContradicts { from, index } => format!("is contradicted by {from:?} at committed {index:?}"),
        other => format!("{other:?}"),
    }
}

/// What one turn of a replica brought, besides messages.
pub fn turn(replica: &Replica) -> Vec<String> {
    let out = &replica.out;
    let mut lines: Vec<_> = out.events.iter().map(event).collect();
    for step in &out.log {
        lines.push(match step {
            LogStep::Append(list) => format!("writes{}", entries(list)),
            LogStep::Truncate { index, .. } => format!("truncates up to {index:?}"),
            LogStep::Reset { index, term } => format!("resets its log to {index:?}/{term:?}"),
        });
    }
    lines.extend(out.hard_state.iter().map(|hard| format!("writes {}", hard_state(hard))));
    lines.extend(out.reads.iter().map(|read| format!("may serve read {} at {:?}", read.context, read.index)));
    lines.extend(out.reads_failed.iter().map(|read| format!("cannot serve read {read}")));
    lines.extend(out.fetches.iter().map(|fetch| {
        let what_for = match fetch.purpose {
            FetchPurpose::Send(to) => format!("to send to {to:?}"),
            FetchPurpose::Apply => "to apply".to_owned(),
        };
        format!("fetches {:?} to {:?} {what_for}", fetch.from, fetch.to)
    }));
    lines.extend(out.snapshots.iter().map(|to| format!("has a snapshot to make for {to:?}")));
    lines.iter().map(|line| format!("  {:?} {line}", replica.id)).collect()
}

/// Where a replica stands.
pub fn status(replica: &Replica) -> Vec<String> {
    let status = replica.group.status();
    let leader = status.leader.map_or("nobody".to_owned(), |leader| format!("{leader:?}"));
    let mut lines = vec![format!(
        "{:?} {:?} {:?} of {leader}, vote {:?}: log {:?}..={:?}, stable {:?}, commit {:?}, applied {:?}",
        status.id,
        status.term,
        status.role,
        status.vote,
        status.first,
        status.last,
        status.stable,
        status.commit,
        status.applied
    )];
    for peer in &status.peers {
        let paused = if peer.paused { ", paused" } else { "" };
        lines.push(format!(
            "  {:?} {:?} matched {:?} next {:?}, {} in flight{paused}",
            peer.id, peer.flow, peer.matched, peer.next, peer.inflight_appends
        ));
    }
    lines
}

/// `r1 Voter, r4 Learner`.
pub fn members(replica: &Replica) -> String {
    let roles = replica.group.membership().members().iter();
    roles.map(|(id, role): &(_, Role)| format!("{id:?} {role:?}")).collect::<Vec<_>>().join(", ")
}

/// The log as terms: `x1/t1 x2/t1 x3/t2`.
pub fn log(replica: &Replica) -> String {
    let disk = &replica.disk.written;
    let terms = disk.entries.iter().map(|entry| format!("{:?}/{:?}", entry.index, entry.term));
    format!("{:?} {}", replica.id, terms.collect::<Vec<_>>().join(" "))
}
