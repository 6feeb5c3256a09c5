//! Exactly-once proposals: what a region remembers of each session (Ongaro's dissertation, section 6.3).
//!
//! A session numbers its proposals from one. The region keeps, per session, which sequences it has applied and what they
//! answered; a proposal that comes again gets the kept answer and has no second effect. The record is a *set* of sequences,
//! not a high-water mark, so that commands of one session may arrive in any order, a split may copy records and a merge may
//! unite them.
//!
//! A session is opened in each region that it is used in, by a command of its own (sequence zero), and is named there by the
//! log index of that command too: so an attempt of a session that the region has forgotten is told from one of a session
//! that it never saw, and is refused instead of applied twice.
//!
//! ```text
//! format (1) | opened varint | last_used varint | floor varint | count varint
//! count x ( sequence - previous varint | index varint | length varint | reply )
//! if there are any: count varint | count x ( another name varint )
//! ```

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::LogIndex;
use multiraft_transport::{SessionId, SessionSeq};

use crate::region::command::{get_varint, put_varint};

const FORMAT: u8 = 1;

/// The most answers kept of one session: a session may have this many proposals in flight.
pub(crate) const WINDOW: usize = 1024;

/// The most sessions that a region remembers; the least recently used is forgotten first. Part of the replicated protocol:
/// all replicas must forget the same one.
pub(crate) const MAX_SESSIONS: usize = 4096;

/// What a region remembers of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    /// The log index of the command that opened it.
    opened: LogIndex,
    /// The log index of the last command of the session; the least recently used sessions go first.
    last_used: LogIndex,
    /// Every sequence up to here was applied or given up, and its answer was acknowledged.
    floor: u64,
    /// The applied sequences above the floor, with their answers.
    applied: BTreeMap<u64, (LogIndex, Bytes)>,
    /// The names under which it was opened in regions that this one has absorbed, ascending: what was sent to them may come here.
    other_names: Vec<LogIndex>,
}

/// The most other names that are kept; beyond, the lowest go, and what comes under them is refused.
const OTHER_NAMES_MAX: usize = 16;

/// The most bytes of answers kept of one session.
pub(crate) const WINDOW_BYTES: usize = 1 << 20;

/// The sessions of a region that absorbs another at `index`, within the limit: of all, the least recently used go first.
pub(crate) fn unite_sessions(
    mut here: BTreeMap<SessionId, SessionRecord>,
    there: BTreeMap<SessionId, SessionRecord>,
    index: LogIndex,
) -> BTreeMap<SessionId, SessionRecord> {
    for (id, record) in there {
        let united = SessionRecord::united(here.remove(&id), record, index);
        here.insert(id, united);
    }
    let surplus = here.len().saturating_sub(MAX_SESSIONS);
    let mut by_age: Vec<(LogIndex, SessionId)> = here.iter().map(|(id, record)| (record.last_used(), *id)).collect();
    by_age.sort_unstable();
    for (_, id) in by_age.into_iter().take(surplus) {
        here.remove(&id);
    }
    here
}

/// What to do with a command of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new: apply it, then [`SessionRecord::record`].
    Apply,
    /// It was applied before, at this index, with this answer.
    Repeat(LogIndex, Bytes),
    /// Its answer was acknowledged long ago, or the session is not the one that the region knows: nothing can be said.
    Expired,
    /// Too many answers are not acknowledged yet: try again when some are.
    Full,
}

impl SessionRecord {
    /// A session that the command at `index` opens.
    pub(crate) fn open(index: LogIndex) -> Self {
        Self { opened: index, last_used: index, ..Self::default() }
    }

    /// The log index of the command that opened it.
    pub(crate) fn opened(&self) -> LogIndex {
        self.opened
    }

    /// Decides what a command means.
    pub(crate) fn admit(&self, seq: SessionSeq) -> Admission {
        if seq.opened != self.opened && !self.other_names.contains(&seq.opened) {
            return Admission::Expired;
        }
        if let Some((index, reply)) = self.applied.get(&seq.sequence) {
            return Admission::Repeat(*index, reply.clone());
        }
        if seq.sequence <= self.floor || seq.sequence == 0 {
            return Admission::Expired;
        }
        let kept = self.applied.range(seq.acknowledged.saturating_add(1)..);
        let (count, bytes) = kept.fold((0, 0), |(count, bytes), (_, (_, reply))| (count + 1, bytes + reply.len()));
        if count >= WINDOW || bytes >= WINDOW_BYTES { Admission::Full } else { Admission::Apply }
    }

    /// Remembers that a command was applied, and forgets what the caller has acknowledged.
    pub(crate) fn record(&mut self, seq: SessionSeq, index: LogIndex, reply: Bytes) {
        self.last_used = index;
        self.applied.insert(seq.sequence, (index, reply));
        let acknowledged = seq.acknowledged.min(seq.sequence.saturating_sub(1));
        if acknowledged > self.floor {
            self.floor = acknowledged;
            self.applied = self.applied.split_off(&(acknowledged + 1));
        }
    }

    /// What a region knows of a session after it has absorbed another that knows it too (or `None`): every command that either
    /// has applied. An answer that one of them was told is acknowledged is so for both: sequences are the session's, not the
    /// region's.
    pub(crate) fn united(here: Option<Self>, there: Self, index: LogIndex) -> Self {
        let Some(mut here) = here else { return Self { last_used: index, ..there } };
        here.floor = here.floor.max(there.floor);
        here.applied.extend(there.applied);
        here.applied = here.applied.split_off(&(here.floor + 1));
        here.last_used = here.last_used.max(index);
        here.other_names.extend(there.other_names);
        here.other_names.push(there.opened);
        here.other_names.retain(|name| *name != here.opened);
        here.other_names.sort_unstable();
        here.other_names.dedup();
        let surplus = here.other_names.len().saturating_sub(OTHER_NAMES_MAX);
        here.other_names.drain(..surplus);
        here
    }

    /// When it was last used.
    pub(crate) fn last_used(&self) -> LogIndex {
        self.last_used
    }

    /// The stored form.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 + self.applied.len() * 16);
        out.put_u8(FORMAT);
        put_varint(&mut out, self.opened.get());
        put_varint(&mut out, self.last_used.get());
        put_varint(&mut out, self.floor);
        put_varint(&mut out, self.applied.len() as u64);
        let mut previous = self.floor;
        for (&sequence, (index, reply)) in &self.applied {
            put_varint(&mut out, sequence - previous);
            put_varint(&mut out, index.get());
            put_varint(&mut out, reply.len() as u64);
            out.put_slice(reply);
            previous = sequence;
        }
        if !self.other_names.is_empty() {
            put_varint(&mut out, self.other_names.len() as u64);
            self.other_names.iter().for_each(|name| put_varint(&mut out, name.get()));
        }
        out.freeze()
    }

    /// Reads the stored form; `None` if it is damaged or of another format.
    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
        let mut at = 1;
        if *stored.first()? != FORMAT {
            return None;
        }
        let opened = LogIndex(get_varint(stored, &mut at)?);
        let last_used = LogIndex(get_varint(stored, &mut at)?);
        let floor = get_varint(stored, &mut at)?;
        let count = get_varint(stored, &mut at)?;
        let mut applied = BTreeMap::new();
        let mut previous = floor;
        for _ in 0..count {
            let sequence = previous.checked_add(get_varint(stored, &mut at)?)?;
            let index = LogIndex(get_varint(stored, &mut at)?);
            let length = usize::try_from(get_varint(stored, &mut at)?).ok()?;
            let reply = stored.get(at..at.checked_add(length)?)?;
            at += length;
            applied.insert(sequence, (index, Bytes::copy_from_slice(reply)));
            previous = sequence;
        }
        let mut other_names = Vec::new();
        if at < stored.len() {
            let count = get_varint(stored, &mut at)?;
            for _ in 0..count {
                other_names.push(LogIndex(get_varint(stored, &mut at)?));
            }
        }
        (at == stored.len()).then_some(Self { opened, last_used, floor, applied, other_names })
    }
}

#[cfg(test)]
mod tests {
    use multiraft_transport::SessionId;

    use super::*;

    fn seq(sequence: u64, acknowledged: u64) -> SessionSeq {
        SessionSeq { session: SessionId(1), opened: LogIndex(7), sequence, acknowledged }
    }

    #[test]
    fn a_repeated_command_gets_its_first_answer() {
        let mut record = SessionRecord::open(LogIndex(7));
        assert_eq!(record.admit(seq(2, 0)), Admission::Apply);
        record.record(seq(2, 0), LogIndex(5), Bytes::from_static(b"two"));
        assert_eq!(record.admit(seq(1, 0)), Admission::Apply, "sequences may arrive in any order");
        assert_eq!(record.admit(seq(2, 1)), Admission::Repeat(LogIndex(5), Bytes::from_static(b"two")));
    }

    #[test]
    fn an_attempt_of_a_forgotten_session_is_refused() {
        let record = SessionRecord::open(LogIndex(9));
        assert_eq!(record.admit(seq(1, 0)), Admission::Expired);
    }

    #[test]
    fn acknowledged_answers_are_forgotten_and_never_applied_again() {
        let mut record = SessionRecord::open(LogIndex(7));
        record.record(seq(1, 0), LogIndex(1), Bytes::new());
        record.record(seq(3, 2), LogIndex(2), Bytes::new());
        assert_eq!(record.admit(seq(1, 0)), Admission::Expired);
        assert_eq!(record.admit(seq(2, 0)), Admission::Expired);
        assert_eq!(record.admit(seq(4, 3)), Admission::Apply);
    }

    #[test]
    fn a_merged_region_knows_a_session_by_the_names_of_both() {
        let (mut here, mut there) = (SessionRecord::open(LogIndex(7)), SessionRecord::open(LogIndex(20)));
        here.record(seq(1, 0), LogIndex(9), Bytes::from_static(b"one"));
        let named = |sequence| SessionSeq { opened: LogIndex(20), ..seq(sequence, 0) };
        there.record(named(2), LogIndex(21), Bytes::from_static(b"two"));
        let united = SessionRecord::united(Some(here), there, LogIndex(30));
        assert_eq!(united.admit(named(2)), Admission::Repeat(LogIndex(21), Bytes::from_static(b"two")));
        assert_eq!(united.admit(seq(1, 0)), Admission::Repeat(LogIndex(9), Bytes::from_static(b"one")));
        assert_eq!(united.admit(SessionSeq { opened: LogIndex(8), ..seq(3, 0) }), Admission::Expired);
        let stored = united.encode();
        assert_eq!(SessionRecord::decode(&stored), Some(united));
    }

    #[test]
    fn a_session_with_too_many_unacknowledged_answers_is_refused_until_it_acknowledges() {
        let mut record = SessionRecord::open(LogIndex(7));
        for n in 1..=WINDOW as u64 {
            record.record(seq(n, 0), LogIndex(n), Bytes::new());
        }
        let next = WINDOW as u64 + 1;
        assert_eq!(record.admit(seq(next, 0)), Admission::Full);
        assert_eq!(record.admit(seq(next, 1)), Admission::Apply);
    }

    #[test]
    fn the_stored_form_survives_a_round_trip_and_refuses_cuts() {
        let mut record = SessionRecord::open(LogIndex(7));
        record.record(seq(4, 2), LogIndex(900), Bytes::from_static(b"four"));
        record.record(seq(9, 2), LogIndex(901), Bytes::new());
        let stored = record.encode();
        assert_eq!(SessionRecord::decode(&stored), Some(record));
        for len in 0..stored.len() {
            assert_eq!(SessionRecord::decode(&stored[..len]), None, "cut at {len}");
        }
    }
}
