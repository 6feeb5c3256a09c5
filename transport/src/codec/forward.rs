//! Callers' requests on their way to the leader, and the answers.

use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionEpoch, RegionId, StoreId, Term};

use super::{
    WireError, WireFault,
    descriptor::{encode_descriptor, read_descriptor},
    frame::{Context, kind},
    reader::Reader,
    varint::{put_bytes, put_delta, put_varint},
};
use crate::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, SessionId, SessionSeq};

const PROPOSE: u8 = 0;
const PROPOSE_IN_SESSION: u8 = 1;
/// The session is that of the last request of this frame that named one.
const PROPOSE_IN_SAME_SESSION: u8 = 2;
const READ_INDEX: u8 = 3;
const TRANSFER: u8 = 4;
const ADMIN: u8 = 5;
const QUERY: u8 = 6;
const LOCATE: u8 = 7;
const LOCATE_KEY: u8 = 8;
const READ_INDEX_BY_LEASE: u8 = 9;

const APPLIED: u8 = 0;
const READ_AT: u8 = 1;
const DONE: u8 = 2;
const NOT_LEADER: u8 = 3;
const NOT_LEADER_BUT: u8 = 4;
const EPOCH_MISMATCH: u8 = 5;
const UNKNOWN_REGION: u8 = 6;
const BUSY: u8 = 7;
const SESSION_EXPIRED: u8 = 8;
const UNCERTAIN: u8 = 9;
const REFUSED: u8 = 10;
const CHANGED: u8 = 11;
const NO_SPACE: u8 = 12;
const ANSWERED: u8 = 13;
const LEADS: u8 = 14;

/// A descriptor takes at least its format, id, bounds, epoch and count.
const DESCRIPTOR_MIN: usize = 7;

impl Context {
    pub(super) fn put_forward(&mut self, out: &mut Vec<u8>, forward: &Forward) {
        out.push(kind::FORWARD);
        put_delta(out, self.forward, forward.id);
        put_delta(out, self.region, forward.region.0);
        (self.forward, self.region) = (forward.id, forward.region.0);
        put_varint(out, forward.epoch.conf_version);
        put_varint(out, forward.epoch.version);
        put_delta(out, self.term, forward.term.0);
        self.term = forward.term.0;
        put_varint(out, u64::from(forward.timeout_ms));
        match &forward.request {
            ForwardRequest::Propose { session: None, command } => {
                out.push(PROPOSE);
                put_bytes(out, command);
            }
            ForwardRequest::Propose { session: Some(session), command } => {
                if session.session.0 == self.session {
                    out.push(PROPOSE_IN_SAME_SESSION);
                } else {
                    out.push(PROPOSE_IN_SESSION);
                    out.extend_from_slice(&session.session.0.to_le_bytes());
                    self.session = session.session.0;
                }
                put_delta(out, self.opened, session.opened.0);
                self.opened = session.opened.0;
                put_varint(out, session.sequence);
                put_delta(out, session.sequence, session.acknowledged);
                put_bytes(out, command);
            }
            ForwardRequest::ReadIndex { lease: false } => out.push(READ_INDEX),
            ForwardRequest::ReadIndex { lease: true } => out.push(READ_INDEX_BY_LEASE),
            ForwardRequest::Transfer { to } => {
                out.push(TRANSFER);
                put_varint(out, to.0);
            }
            ForwardRequest::Admin { request } => {
                out.push(ADMIN);
                put_bytes(out, request);
            }
            ForwardRequest::Query { query } => {
                out.push(QUERY);
                put_bytes(out, query);
            }
            ForwardRequest::Locate { key: None } => out.push(LOCATE),
            ForwardRequest::Locate { key: Some(key) } => {
                out.push(LOCATE_KEY);
                put_bytes(out, key);
            }
        }
    }

    pub(super) fn read_forward(&mut self, reader: &mut Reader<'_>) -> Result<Forward, WireError> {
        self.forward = reader.delta(self.forward)?;
        self.region = reader.delta(self.region)?;
        let epoch = RegionEpoch { conf_version: reader.varint()?, version: reader.varint()? };
        self.term = reader.delta(self.term)?;
        let timeout_ms = reader.varint_u32()?;
        let request = match reader.byte("a request")? {
            PROPOSE => ForwardRequest::Propose { session: None, command: reader.data("a command")? },
            request @ (PROPOSE_IN_SESSION | PROPOSE_IN_SAME_SESSION) => {
                if request == PROPOSE_IN_SESSION {
                    self.session = u128::from_le_bytes(reader.array("a session")?);
                }
                self.opened = reader.delta(self.opened)?;
                let (session, opened) = (SessionId(self.session), LogIndex(self.opened));
                let sequence = reader.varint()?;
                let acknowledged = reader.delta(sequence)?;
                let session = Some(SessionSeq { session, opened, sequence, acknowledged });
                ForwardRequest::Propose { session, command: reader.data("a command")? }
            }
            READ_INDEX => ForwardRequest::ReadIndex { lease: false },
            READ_INDEX_BY_LEASE => ForwardRequest::ReadIndex { lease: true },
            TRANSFER => ForwardRequest::Transfer { to: StoreId(reader.varint()?) },
            ADMIN => ForwardRequest::Admin { request: reader.payload("an admin request")? },
            QUERY => ForwardRequest::Query { query: reader.payload("a query")? },
            LOCATE => ForwardRequest::Locate { key: None },
            LOCATE_KEY => ForwardRequest::Locate { key: Some(reader.payload("a key")?) },
            value => return reader.fail(WireFault::Unknown { what: "request", value }),
        };
        let (region, term) = (RegionId(self.region), Term(self.term));
        Ok(Forward { id: self.forward, region, epoch, term, timeout_ms, request })
    }

    pub(super) fn put_forward_reply(&mut self, out: &mut Vec<u8>, reply: &ForwardReply) {
        out.push(kind::FORWARD_REPLY);
        put_delta(out, self.forward, reply.id);
        self.forward = reply.id;
        match &reply.outcome {
            ForwardOutcome::Applied { reply, index } => {
                out.push(APPLIED);
                self.put_outcome_index(out, *index);
                put_bytes(out, reply);
            }
            ForwardOutcome::ReadAt { index, term } => {
                out.push(READ_AT);
                self.put_outcome_index(out, *index);
                put_delta(out, self.term, term.0);
                self.term = term.0;
            }
            ForwardOutcome::Leads { term } => {
                out.push(LEADS);
                put_varint(out, term.0);
            }
            ForwardOutcome::Answered { answer } => {
                out.push(ANSWERED);
                put_bytes(out, answer);
            }
            ForwardOutcome::Done => out.push(DONE),
            ForwardOutcome::NotLeader { hint: None } => out.push(NOT_LEADER),
            ForwardOutcome::NotLeader { hint: Some(store) } => {
                out.push(NOT_LEADER_BUT);
                put_varint(out, store.0);
            }
            ForwardOutcome::EpochMismatch { current } => {
                out.push(EPOCH_MISMATCH);
                encode_descriptor(current, out);
            }
            ForwardOutcome::UnknownRegion => out.push(UNKNOWN_REGION),
            ForwardOutcome::Busy { retry_after_ms } => {
                out.push(BUSY);
                put_varint(out, u64::from(*retry_after_ms));
            }
            ForwardOutcome::NoSpace => out.push(NO_SPACE),
            ForwardOutcome::SessionExpired => out.push(SESSION_EXPIRED),
            ForwardOutcome::Uncertain => out.push(UNCERTAIN),
            ForwardOutcome::Refused { reason } => {
                out.push(REFUSED);
                put_bytes(out, reason.as_bytes());
            }
            ForwardOutcome::Changed { regions } => {
                out.push(CHANGED);
                put_varint(out, regions.len() as u64);
                for region in regions {
                    encode_descriptor(region, out);
                }
            }
        }
    }

    pub(super) fn read_forward_reply(&mut self, reader: &mut Reader<'_>) -> Result<ForwardReply, WireError> {
        self.forward = reader.delta(self.forward)?;
        let outcome = match reader.byte("an outcome")? {
            APPLIED => {
                let index = self.read_outcome_index(reader)?;
                ForwardOutcome::Applied { index, reply: reader.payload("a reply")? }
            }
            READ_AT => {
                let index = self.read_outcome_index(reader)?;
                self.term = reader.delta(self.term)?;
                ForwardOutcome::ReadAt { index, term: Term(self.term) }
            }
            DONE => ForwardOutcome::Done,
            NOT_LEADER => ForwardOutcome::NotLeader { hint: None },
            NOT_LEADER_BUT => ForwardOutcome::NotLeader { hint: Some(StoreId(reader.varint()?)) },
            EPOCH_MISMATCH => ForwardOutcome::EpochMismatch { current: Arc::new(read_descriptor(reader)?) },
            UNKNOWN_REGION => ForwardOutcome::UnknownRegion,
            BUSY => ForwardOutcome::Busy { retry_after_ms: reader.varint_u32()? },
            NO_SPACE => ForwardOutcome::NoSpace,
            SESSION_EXPIRED => ForwardOutcome::SessionExpired,
            UNCERTAIN => ForwardOutcome::Uncertain,
            CHANGED => {
                let count = reader.count("regions", DESCRIPTOR_MIN)?;
                let regions = (0..count).map(|_| read_descriptor(reader).map(Arc::new));
                ForwardOutcome::Changed { regions: regions.collect::<Result<_, _>>()? }
            }
            LEADS => ForwardOutcome::Leads { term: Term(reader.varint()?) },
            ANSWERED => ForwardOutcome::Answered { answer: reader.payload("an answer")? },
            REFUSED => {
                let reason = reader.payload("a reason")?;
                match std::str::from_utf8(&reason) {
                    Ok(reason) => ForwardOutcome::Refused { reason: reason.to_owned() },
                    Err(_) => return reader.fail(WireFault::Invalid("the reason is not UTF-8")),
                }
            }
            value => return reader.fail(WireFault::Unknown { what: "outcome", value }),
        };
        Ok(ForwardReply { id: self.forward, outcome })
    }

    fn put_outcome_index(&mut self, out: &mut Vec<u8>, index: LogIndex) {
        put_delta(out, self.index, index.0);
        self.index = index.0;
    }

    fn read_outcome_index(&mut self, reader: &mut Reader<'_>) -> Result<LogIndex, WireError> {
        self.index = reader.delta(self.index)?;
        Ok(LogIndex(self.index))
    }
}
