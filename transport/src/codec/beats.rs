//! Heartbeats of thousands of groups: each one is written as what differs from what the one before suggests.
//!
//! A beat starts with a byte of flags, one for each number that is not as predicted; those numbers follow. The
//! prediction is the previous beat moved on by the same step: groups made together have ids in step.

use multiraft_raft::{Incarnation, LogIndex, RegionId, ReplicaId, Term};

use super::{
    WireError, WireFault,
    frame::kind,
    reader::Reader,
    varint::{put_delta, put_varint},
};
use crate::{Beat, BeatReplies, BeatReply, Beats};

const REGION: u8 = 0x01;
const FROM: u8 = 0x02;
const TO: u8 = 0x04;
const TERM: u8 = 0x08;
const ROUND: u8 = 0x10;
const COMMIT: u8 = 0x20;
const KNOWN: u8 = REGION | FROM | TO | TERM | ROUND | COMMIT;

/// What a beat and its answer have in common.
#[derive(Clone, Copy)]
struct Row {
    region: u64,
    from: u64,
    to: u64,
    term: u64,
    round: u64,
    commit: u64,
}

/// What the next row is expected to be.
#[derive(Default)]
struct Prediction {
    region: u64,
    region_step: u64,
    from: u64,
    from_step: u64,
    /// `to - from`.
    gap: u64,
    term: u64,
    round: u64,
    commit: u64,
}

impl Prediction {
    fn region(&self) -> u64 {
        self.region.wrapping_add(self.region_step)
    }

    fn from(&self) -> u64 {
        self.from.wrapping_add(self.from_step)
    }

    fn put(&mut self, out: &mut Vec<u8>, row: &Row) {
        let head = out.len();
        out.push(0);
        let mut flags = 0;
        let mut put = |flag: u8, predicted: u64, found: u64| {
            if predicted != found {
                flags |= flag;
                put_delta(out, predicted, found);
            }
        };
        put(REGION, self.region(), row.region);
        put(FROM, self.from(), row.from);
        put(TO, row.from.wrapping_add(self.gap), row.to);
        put(TERM, self.term, row.term);
        put(ROUND, self.round, row.round);
        put(COMMIT, self.commit, row.commit);
        out[head] = flags;
        self.learn(row);
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<Row, WireError> {
        let flags = reader.byte("a beat")?;
        if flags & !KNOWN != 0 {
            return reader.fail(WireFault::Unknown { what: "flags of a beat", value: flags });
        }
        let mut read = |flag: u8, predicted: u64| {
            if flags & flag == 0 { Ok(predicted) } else { reader.delta(predicted) }
        };
        let region = read(REGION, self.region())?;
        let from = read(FROM, self.from())?;
        let to = read(TO, from.wrapping_add(self.gap))?;
        let term = read(TERM, self.term)?;
        let round = read(ROUND, self.round)?;
        let commit = read(COMMIT, self.commit)?;
        let row = Row { region, from, to, term, round, commit };
        self.learn(&row);
        Ok(row)
    }

    fn learn(&mut self, row: &Row) {
        self.region_step = row.region.wrapping_sub(self.region);
        self.from_step = row.from.wrapping_sub(self.from);
        self.gap = row.to.wrapping_sub(row.from);
        (self.region, self.from) = (row.region, row.from);
        (self.term, self.round, self.commit) = (row.term, row.round, row.commit);
    }
}

pub(super) fn put_beats(out: &mut Vec<u8>, beats: &Beats) {
    out.push(kind::BEATS);
    put_varint(out, beats.incarnation.0);
    put_varint(out, beats.epoch);
    put_varint(out, beats.sequence);
    put_varint(out, beats.heard.0.0);
    put_varint(out, beats.heard.1);
    put_varint(out, beats.beats.len() as u64);
    let mut prediction = Prediction::default();
    for &Beat { region, from, to, term, commit, round } in &beats.beats {
        let row = Row { region: region.0, from: from.0, to: to.0, term: term.0, round, commit: commit.0 };
        prediction.put(out, &row);
    }
}

pub(super) fn read_beats(reader: &mut Reader<'_>) -> Result<Beats, WireError> {
    let incarnation = Incarnation(reader.varint()?);
    let epoch = reader.varint()?;
    let sequence = reader.varint()?;
    let heard = (Incarnation(reader.varint()?), reader.varint()?);
    let count = reader.count("beats", 1)?;
    let mut beats = Vec::with_capacity(count);
    let mut prediction = Prediction::default();
    for _ in 0..count {
        let row = prediction.read(reader)?;
        beats.push(Beat {
            region: RegionId(row.region),
            from: ReplicaId(row.from),
            to: ReplicaId(row.to),
            term: Term(row.term),
            commit: LogIndex(row.commit),
            round: row.round,
        });
    }
    Ok(Beats { incarnation, epoch, sequence, heard, beats })
}

pub(super) fn put_beat_replies(out: &mut Vec<u8>, replies: &BeatReplies) {
    out.push(kind::BEAT_REPLIES);
    put_varint(out, replies.incarnation.0);
    put_varint(out, replies.epoch);
    put_varint(out, replies.sequence);
    put_varint(out, replies.replies.len() as u64);
    let mut prediction = Prediction::default();
    for &BeatReply { region, from, to, term, round } in &replies.replies {
        let row = Row { region: region.0, from: from.0, to: to.0, term: term.0, round, commit: 0 };
        prediction.put(out, &row);
    }
}

pub(super) fn read_beat_replies(reader: &mut Reader<'_>) -> Result<BeatReplies, WireError> {
    let incarnation = Incarnation(reader.varint()?);
    let epoch = reader.varint()?;
    let sequence = reader.varint()?;
    let count = reader.count("replies", 1)?;
    let mut replies = Vec::with_capacity(count);
    let mut prediction = Prediction::default();
    for _ in 0..count {
        let row = prediction.read(reader)?;
        if row.commit != 0 {
            return reader.fail(WireFault::Unknown { what: "flags of a reply", value: COMMIT });
        }
        replies.push(BeatReply {
            region: RegionId(row.region),
            from: ReplicaId(row.from),
            to: ReplicaId(row.to),
            term: Term(row.term),
            round: row.round,
        });
    }
    Ok(BeatReplies { incarnation, epoch, sequence, replies })
}
