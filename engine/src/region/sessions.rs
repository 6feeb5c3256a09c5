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

/// Under this name, which no session has, a region keeps the highest name of all sessions that it has forgotten. It lies among
/// the sessions, so that a split copies it and a snapshot carries it with them.
pub(crate) const FORGOTTEN: SessionId = SessionId(u128::MAX);

/// Forgets the least recently used sessions beyond [`MAX_SESSIONS`]; which these were.
pub(crate) fn forget_surplus(sessions: &mut BTreeMap<SessionId, SessionRecord>) -> Vec<SessionId> {
    let named = || sessions.iter().filter(|(id, _)| **id != FORGOTTEN);
    let surplus = named().count().saturating_sub(MAX_SESSIONS);
    if surplus == 0 {
        return Vec::new();
    }
    let mut by_age: Vec<(LogIndex, SessionId)> = named().map(|(id, record)| (record.last_used, *id)).collect();
    by_age.sort_unstable();
    let forgotten: Vec<SessionId> = by_age.into_iter().take(surplus).map(|(_, id)| id).collect();
    let records = forgotten.iter().filter_map(|id| sessions.remove(id));
    let highest = records.filter_map(|record| record.names().max()).max().unwrap_or_default();
    let mark = sessions.entry(FORGOTTEN).or_default();
    mark.opened = mark.opened.max(highest);
    forgotten
}

/// The sessions of a region that absorbs another at `index`, within the limit: of all, the least recently used go first.
///
/// Two regions may have come from one by a split, and one of them may have forgotten since what the other still knows: a command
/// that only the first has carried out would be new to the record of the second. So a name counts no longer if one side
/// does not know it and may have forgotten it.
pub(crate) fn unite_sessions(
    mut here: BTreeMap<SessionId, SessionRecord>,
    mut there: BTreeMap<SessionId, SessionRecord>,
    index: LogIndex,
) -> BTreeMap<SessionId, SessionRecord> {
    let forgotten = |sessions: &mut BTreeMap<SessionId, SessionRecord>| {
        sessions.remove(&FORGOTTEN).map_or(LogIndex::ZERO, |mark| mark.opened)
    };
    let forgotten = (forgotten(&mut here), forgotten(&mut there));
    let mut united = BTreeMap::new();
    for (id, record) in here {
        united.extend(
            SessionRecord::united(Some(record), there.remove(&id), forgotten, index).map(|record| (id, record)),
        );
    }
    for (id, record) in there {
        united.extend(SessionRecord::united(None, Some(record), forgotten, index).map(|record| (id, record)));
    }
    let highest = forgotten.0.max(forgotten.1);
    if highest > LogIndex::ZERO {
        united.insert(FORGOTTEN, SessionRecord { opened: highest, ..SessionRecord::default() });
    }
    forget_surplus(&mut united);
    united
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

    /// The names under which commands of it are taken.
    fn names(&self) -> impl Iterator<Item = LogIndex> + '_ {
        std::iter::once(self.opened).chain(self.other_names.iter().copied())
    }

    /// What a region knows of a session after it has absorbed another, of which at least one knows it: every command that either
    /// has applied. An answer that one of them was told is acknowledged is so for both: sequences are the session's, not the
    /// region's. `None` if under none of its names can be told any more what was applied; `forgotten` are the highest
    /// names of what either has forgotten.
    fn united(
        here: Option<Self>,
        there: Option<Self>,
        forgotten: (LogIndex, LogIndex),
        index: LogIndex,
    ) -> Option<Self> {
        let names = |record: &Option<Self>| record.iter().flat_map(Self::names).collect::<Vec<_>>();
        let (names_here, names_there) = (names(&here), names(&there));
        let counts = |name: &LogIndex| {
            (names_here.contains(name) || *name > forgotten.0) && (names_there.contains(name) || *name > forgotten.1)
        };
        let mut names: Vec<LogIndex> = names_here.iter().chain(&names_there).copied().filter(counts).collect();
        let opened = *names.first()?;
        names.retain(|name| *name != opened);
        names.sort_unstable();
        names.dedup();
        names.drain(..names.len().saturating_sub(OTHER_NAMES_MAX));
        let is_news = there.is_some();
        let mut united = here.unwrap_or_default();
        let there = there.unwrap_or_default();
        united.floor = united.floor.max(there.floor);
        united.applied.extend(there.applied);
        united.applied = united.applied.split_off(&(united.floor + 1));
        if is_news {
            united.last_used = united.last_used.max(index);
        }
        (united.opened, united.other_names) = (opened, names);
        Some(united)
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
        let united = SessionRecord::united(Some(here), Some(there), Default::default(), LogIndex(30)).unwrap();
        assert_eq!(united.admit(named(2)), Admission::Repeat(LogIndex(21), Bytes::from_static(b"two")));
        assert_eq!(united.admit(seq(1, 0)), Admission::Repeat(LogIndex(9), Bytes::from_static(b"one")));
        assert_eq!(united.admit(SessionSeq { opened: LogIndex(8), ..seq(3, 0) }), Admission::Expired);
        let stored = united.encode();
        assert_eq!(SessionRecord::decode(&stored), Some(united));
    }

    #[test]
    fn what_one_side_has_forgotten_is_not_applied_again_by_what_the_other_knows() {
        let here = SessionId(1);
        let mut parent = BTreeMap::from([(here, SessionRecord::open(LogIndex(7)))]);
        let mut child = parent.clone();
        // The child applies a command, and forgets the session over the many that are opened there.
        child.get_mut(&here).unwrap().record(seq(1, 0), LogIndex(8), Bytes::new());
        let others =
            (0..MAX_SESSIONS as u64).map(|n| (SessionId(2 + u128::from(n)), SessionRecord::open(LogIndex(100 + n))));
        child.extend(others);
        assert_eq!(forget_surplus(&mut child), [here]);
        assert!(forget_surplus(&mut child).is_empty());
        // What no relation of the child has opened, and what it may know, stays.
        let stranger = SessionId(u128::MAX - 1);
        parent.insert(stranger, SessionRecord::open(LogIndex(9)));
        child.retain(|id, _| id.0 < 4 || *id == FORGOTTEN);
        for united in [
            unite_sessions(parent.clone(), child.clone(), LogIndex(200)),
            unite_sessions(child.clone(), parent.clone(), LogIndex(200)),
        ] {
            let known: Vec<u128> = united.keys().map(|id| id.0).collect();
            assert_eq!(known, [2, 3, stranger.0, FORGOTTEN.0]);
            assert_eq!(united[&FORGOTTEN].opened, LogIndex(7));
        }
        // Opened anew in the child, it is known there by another name; by the old one nothing is told.
        child.insert(here, SessionRecord::open(LogIndex(150)));
        let united = unite_sessions(parent, child, LogIndex(200));
        assert_eq!(united[&here].admit(seq(1, 0)), Admission::Expired);
        assert_eq!(united[&here].admit(SessionSeq { opened: LogIndex(150), ..seq(1, 0) }), Admission::Apply);
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
