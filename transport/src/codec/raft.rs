//! Raft messages: who and where as differences to the message before, entries without their indexes.

use std::sync::Arc;

use multiraft_raft::{AppendOutcome, Body, Entry, EntryKind, LogIndex, Message, RegionId, ReplicaId, Term};

use super::{
    WireError, WireFault,
    descriptor::{encode_descriptor, read_descriptor},
    frame::{Context, kind},
    reader::Reader,
    varint::{put_delta, put_varint},
};
use crate::RaftMessage;

/// Region, sender, receiver and term are the previous message's.
const SAME_ADDRESS: u8 = 0x20;
/// A descriptor follows the address.
const DESCRIPTOR: u8 = 0x40;
/// The body's one boolean.
const YES: u8 = 0x80;

/// In an entry's head: its term differs from the one before and follows.
const NEW_TERM: u64 = 1;
/// In an entry's head: where its kind stands.
const KIND_SHIFT: u32 = 1;
/// In an entry's head: where its length stands.
const LENGTH_SHIFT: u32 = 3;

impl Context {
    pub(super) fn put_raft(&mut self, out: &mut Vec<u8>, raft: &RaftMessage) {
        let Message { from, to, term, body } = &raft.message;
        let (kind, yes) = kind_of(body);
        let same = (raft.region.0, from.0, to.0, term.0) == (self.region, self.from, self.to, self.term);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(kind | flag(same, SAME_ADDRESS) | flag(raft.descriptor.is_some(), DESCRIPTOR) | flag(yes, YES));
        if !same {
            put_delta(out, self.region, raft.region.0);
            put_delta(out, self.from, from.0);
            put_delta(out, from.0, to.0);
            put_delta(out, self.term, term.0);
            (self.region, self.from, self.to, self.term) = (raft.region.0, from.0, to.0, term.0);
        }
        if let Some(descriptor) = &raft.descriptor {
            encode_descriptor(descriptor, out);
        }
        self.put_body(out, body);
    }

    fn put_body(&mut self, out: &mut Vec<u8>, body: &Body) {
        match body {
            Body::PreVote { last_index, last_term } | Body::Vote { last_index, last_term, .. } => {
                self.put_index(out, *last_index);
                put_delta(out, self.term, last_term.0);
            }
            Body::Append { prev_index, prev_term, commit, entries } => {
                self.put_index(out, *prev_index);
                put_delta(out, self.term, prev_term.0);
                put_delta(out, prev_index.0, commit.0);
                put_varint(out, entries.len() as u64);
                self.put_entries(out, entries);
            }
            Body::AppendReply(AppendOutcome::Accepted { match_index }) => self.put_index(out, *match_index),
            Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term }) => {
                self.put_index(out, *prev_index);
                put_delta(out, prev_index.0, hint_index.0);
                put_delta(out, self.term, hint_term.0);
            }
            Body::Heartbeat { commit, round } => {
                self.put_index(out, *commit);
                put_varint(out, *round);
            }
            Body::HeartbeatReply { round } => put_varint(out, *round),
            Body::Fortify { epoch } | Body::Fortified { epoch } => put_varint(out, *epoch),
            Body::AskLeader { own_term } => put_delta(out, self.term, own_term.0),
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::TimeoutNow
            | Body::Promised
            | Body::Release
            | Body::Released => {}
        }
    }

    fn put_entries(&mut self, out: &mut Vec<u8>, entries: &[Entry]) {
        let mut term = self.term;
        for entry in entries {
            self.index = self.index.wrapping_add(1);
            // The wire has no place for indexes: a gap would move entries silently at the other end.
            assert!(entry.index.0 == self.index, "the entries of an append are not consecutive from prev_index + 1");
            let head = (entry.data.len() as u64) << LENGTH_SHIFT | (entry.kind as u64) << KIND_SHIFT;
            if entry.term.0 == term {
                put_varint(out, head);
            } else {
                put_varint(out, head | NEW_TERM);
                put_delta(out, term, entry.term.0);
                term = entry.term.0;
            }
            out.extend_from_slice(&entry.data);
        }
    }

    fn put_index(&mut self, out: &mut Vec<u8>, index: LogIndex) {
        put_delta(out, self.index, index.0);
        self.index = index.0;
    }

    /// Reads what follows the tag of a Raft message.
    pub(super) fn read_raft(&mut self, reader: &mut Reader<'_>, tag: u8) -> Result<RaftMessage, WireError> {
        if tag & SAME_ADDRESS == 0 {
            self.region = reader.delta(self.region)?;
            self.from = reader.delta(self.from)?;
            self.to = reader.delta(self.from)?;
            self.term = reader.delta(self.term)?;
        }
        let descriptor = if tag & DESCRIPTOR == 0 { None } else { Some(Arc::new(read_descriptor(reader)?)) };
        let body = self.read_body(reader, tag & kind::MASK, tag & YES != 0)?;
        let message = Message { from: ReplicaId(self.from), to: ReplicaId(self.to), term: Term(self.term), body };
        Ok(RaftMessage { region: RegionId(self.region), message, descriptor })
    }

    fn read_body(&mut self, reader: &mut Reader<'_>, kind: u8, yes: bool) -> Result<Body, WireError> {
        if yes && !matches!(kind, kind::PRE_VOTE_REPLY | kind::VOTE | kind::VOTE_REPLY) {
            return reader.fail(WireFault::Unknown { what: "flag of this message", value: YES });
        }
        Ok(match kind {
            kind::PRE_VOTE => {
                let (last_index, last_term) = (self.read_index(reader)?, self.read_term(reader)?);
                Body::PreVote { last_index, last_term }
            }
            kind::PRE_VOTE_REPLY => Body::PreVoteReply { granted: yes },
            kind::VOTE => {
                let (last_index, last_term) = (self.read_index(reader)?, self.read_term(reader)?);
                Body::Vote { last_index, last_term, transfer: yes }
            }
            kind::VOTE_REPLY => Body::VoteReply { granted: yes },
            kind::APPEND => {
                let (prev_index, prev_term) = (self.read_index(reader)?, self.read_term(reader)?);
                let commit = LogIndex(reader.delta(prev_index.0)?);
                Body::Append { prev_index, prev_term, commit, entries: self.read_entries(reader)? }
            }
            kind::ACCEPTED => Body::AppendReply(AppendOutcome::Accepted { match_index: self.read_index(reader)? }),
            kind::REJECTED => {
                let prev_index = self.read_index(reader)?;
                let hint_index = LogIndex(reader.delta(prev_index.0)?);
                let hint_term = self.read_term(reader)?;
                Body::AppendReply(AppendOutcome::Rejected { prev_index, hint_index, hint_term })
            }
            kind::HEARTBEAT => Body::Heartbeat { commit: self.read_index(reader)?, round: reader.varint()? },
            kind::HEARTBEAT_REPLY => Body::HeartbeatReply { round: reader.varint()? },
            kind::TIMEOUT_NOW => Body::TimeoutNow,
            kind::PROMISED => Body::Promised,
            kind::FORTIFY => Body::Fortify { epoch: reader.varint()? },
            kind::FORTIFIED => Body::Fortified { epoch: reader.varint()? },
            kind::RELEASE => Body::Release,
            kind::RELEASED => Body::Released,
            kind::ASK_LEADER => Body::AskLeader { own_term: self.read_term(reader)? },
            value => return reader.fail(WireFault::Unknown { what: "kind of message", value }),
        })
    }

    fn read_entries(&mut self, reader: &mut Reader<'_>) -> Result<Vec<Entry>, WireError> {
        let count = reader.count("entries", 1)?;
        if self.index.checked_add(count as u64).is_none() {
            return reader.fail(WireFault::Invalid("entries beyond the largest index"));
        }
        let mut entries = Vec::with_capacity(count);
        let mut term = self.term;
        for _ in 0..count {
            self.index += 1;
            let head = reader.varint()?;
            let kind = match head >> KIND_SHIFT & 3 {
                0 => EntryKind::Empty,
                1 => EntryKind::Command,
                2 => EntryKind::Membership,
                value => return reader.fail(WireFault::Unknown { what: "kind of entry", value: value as u8 }),
            };
            if head & NEW_TERM != 0 {
                term = reader.delta(term)?;
            }
            let data = reader.data_of(head >> LENGTH_SHIFT, "an entry")?;
            entries.push(Entry { term: Term(term), index: LogIndex(self.index), kind, data });
        }
        Ok(entries)
    }

    fn read_index(&mut self, reader: &mut Reader<'_>) -> Result<LogIndex, WireError> {
        self.index = reader.delta(self.index)?;
        Ok(LogIndex(self.index))
    }

    fn read_term(&self, reader: &mut Reader<'_>) -> Result<Term, WireError> {
        Ok(Term(reader.delta(self.term)?))
    }
}

/// The body's number on the wire, and its boolean if it has one.
fn kind_of(body: &Body) -> (u8, bool) {
    match body {
        Body::PreVote { .. } => (kind::PRE_VOTE, false),
        Body::PreVoteReply { granted } => (kind::PRE_VOTE_REPLY, *granted),
        Body::Vote { transfer, .. } => (kind::VOTE, *transfer),
        Body::VoteReply { granted } => (kind::VOTE_REPLY, *granted),
        Body::Append { .. } => (kind::APPEND, false),
        Body::AppendReply(AppendOutcome::Accepted { .. }) => (kind::ACCEPTED, false),
        Body::AppendReply(AppendOutcome::Rejected { .. }) => (kind::REJECTED, false),
        Body::Heartbeat { .. } => (kind::HEARTBEAT, false),
        Body::HeartbeatReply { .. } => (kind::HEARTBEAT_REPLY, false),
        Body::TimeoutNow => (kind::TIMEOUT_NOW, false),
        Body::Promised => (kind::PROMISED, false),
        Body::Fortify { .. } => (kind::FORTIFY, false),
        Body::Fortified { .. } => (kind::FORTIFIED, false),
        Body::Release => (kind::RELEASE, false),
        Body::Released => (kind::RELEASED, false),
        Body::AskLeader { .. } => (kind::ASK_LEADER, false),
    }
}
