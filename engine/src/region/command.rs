//! The envelope of a command in the log.
//!
//! ```text
//! version (1) | flags (1): bit 0 session, bit 1 admin, bit 2 bare
//! conf_version varint | version varint           the epoch that the command was proposed under
//! [ session u128 | opened varint | sequence varint | acknowledged varint ]
//! the embedder's command, or with bit 1 one of the engine's own, to the end
//! ```
//!
//! With bit 2 nothing follows: of an embedder's command a witness gets only that there is one.
//!
//! Which kind of command checks and bumps which half of the epoch is a frozen table, see [`EpochRule`]: the replicas must
//! agree on it for ever.

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{Entry, EntryKind, LogIndex, Payload, RegionEpoch};
use multiraft_transport::{SessionId, SessionSeq};

/// The format of the envelope.
const VERSION: u8 = 1;
const FLAG_SESSION: u8 = 1;
const FLAG_ADMIN: u8 = 2;
const FLAG_BARE: u8 = 4;
/// Version, flags, a session's id, and five numbers at their longest.
const HEAD_MAX: usize = 2 + 16 + 5 * 10;
const BARE: &[u8] = &[VERSION, FLAG_BARE];

/// What a kind of command does with the region's epoch. The table is part of the replicated protocol: entries are never
/// changed, only added, with a new format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochRule {
    /// The command is refused at apply if the region's `version` has moved since it was proposed.
    pub(crate) checks_version: bool,
    /// The same for `conf_version`.
    pub(crate) checks_conf_version: bool,
    /// Carrying it out moves `version`.
    pub(crate) bumps_version: bool,
    /// Carrying it out moves `conf_version`.
    pub(crate) bumps_conf_version: bool,
}

impl EpochRule {
    /// An embedder's command: the key range must be what the caller thought, the replicas do not matter.
    pub(crate) const COMMAND: Self =
        Self { checks_version: true, checks_conf_version: false, bumps_version: false, bumps_conf_version: false };
    /// A membership change.
    pub(crate) const MEMBERSHIP: Self =
        Self { checks_version: true, checks_conf_version: true, bumps_version: false, bumps_conf_version: true };

    /// A split.
    pub(crate) const SPLIT: Self =
        Self { checks_version: true, checks_conf_version: true, bumps_version: true, bumps_conf_version: false };

    /// Freeze, commit and fence of a merge.
    pub(crate) const MERGE: Self =
        Self { checks_version: true, checks_conf_version: true, bumps_version: true, bumps_conf_version: false };

    /// A consistency check, and the fencing of replicas that it finds: about the replicas and the range of that moment.
    pub(crate) const CHECK: Self =
        Self { checks_version: true, checks_conf_version: true, bumps_version: false, bumps_conf_version: false };

    /// Whether a command proposed under `proposed` may take effect in a region that is at `current`.
    pub(crate) fn admits(self, proposed: RegionEpoch, current: RegionEpoch) -> bool {
        (!self.checks_version || proposed.version == current.version)
            && (!self.checks_conf_version || proposed.conf_version == current.conf_version)
    }

    /// Whether a region at `current` is past what was proposed under. What is neither admitted nor outdated comes from a caller
    /// that has heard of a change before this replica's worker has: the worker catches up, or the caller errs.
    pub(crate) fn is_outdated(self, proposed: RegionEpoch, current: RegionEpoch) -> bool {
        (self.checks_version && proposed.version < current.version)
            || (self.checks_conf_version && proposed.conf_version < current.conf_version)
    }
}

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command<'e> {
    /// The epoch it was proposed under.
    pub(crate) epoch: RegionEpoch,
    /// The session it belongs to.
    pub(crate) session: Option<SessionSeq>,
    /// It changes the region itself: `data` is the engine's.
    pub(crate) admin: bool,
    /// What the state machine gets.
    pub(crate) data: &'e [u8],
}

/// What a witness has of an entry.
#[must_use]
pub fn bared(entry: Entry) -> Entry {
    Command::bared(entry)
}

/// Whether an entry is one that only a witness has.
#[must_use]
pub fn is_bare(entry: &Entry) -> bool {
    Command::is_bare(&entry.data)
}

impl<'e> Command<'e> {
    /// The log form.
    pub(crate) fn encode(epoch: RegionEpoch, session: Option<SessionSeq>, data: &[u8]) -> Payload {
        let flags = if session.is_some() { FLAG_SESSION } else { 0 };
        Payload::concat(head(&mut [0; HEAD_MAX], flags, epoch, session), data)
    }

    /// The log form of a command that changes the region itself.
    pub(crate) fn encode_admin(epoch: RegionEpoch, data: &[u8]) -> Payload {
        Payload::concat(head(&mut [0; HEAD_MAX], FLAG_ADMIN, epoch, None), data)
    }

    /// Whether an entry's data is a command that changes the region itself.
    pub(crate) fn is_admin(entry: &[u8]) -> bool {
        entry.get(1).is_some_and(|flags| flags & FLAG_ADMIN != 0)
    }

    /// What a witness gets of an entry: an embedder's command says nothing any more, all else is as it was.
    pub(crate) fn bared(entry: Entry) -> Entry {
        let says_something = entry.kind == EntryKind::Command && !Self::is_admin(&entry.data);
        if says_something { Entry { data: BARE.into(), ..entry } } else { entry }
    }

    /// Whether an entry's data is what a witness has of a command.
    pub(crate) fn is_bare(entry: &[u8]) -> bool {
        entry == BARE
    }

    /// Reads the log form. `None`: not of this format; a newer program wrote it or memory is damaged.
    pub(crate) fn decode(entry: &'e [u8]) -> Option<Self> {
        let mut at = 0;
        let (version, flags) = (*entry.first()?, *entry.get(1)?);
        if version != VERSION || ![0, FLAG_SESSION, FLAG_ADMIN].contains(&flags) {
            return None;
        }
        at += 2;
        let epoch = get_epoch(entry, &mut at)?;
        let session = if flags & FLAG_SESSION != 0 {
            let id: [u8; 16] = entry.get(at..at + 16)?.try_into().ok()?;
            at += 16;
            Some(SessionSeq {
                session: SessionId(u128::from_be_bytes(id)),
                opened: LogIndex(get_varint(entry, &mut at)?),
                sequence: get_varint(entry, &mut at)?,
                acknowledged: get_varint(entry, &mut at)?,
            })
        } else {
            None
        };
        Some(Self { epoch, session, admin: flags & FLAG_ADMIN != 0, data: &entry[at..] })
    }
}

/// Writes what stands before a command into `bytes`: there need be no allocation for it.
fn head(bytes: &mut [u8; HEAD_MAX], flags: u8, epoch: RegionEpoch, session: Option<SessionSeq>) -> &[u8] {
    let mut out = &mut bytes[..];
    out.put_slice(&[VERSION, flags]);
    put_varint(&mut out, epoch.conf_version);
    put_varint(&mut out, epoch.version);
    if let Some(seq) = session {
        out.put_u128(seq.session.0);
        put_varint(&mut out, seq.opened.get());
        put_varint(&mut out, seq.sequence);
        put_varint(&mut out, seq.acknowledged);
    }
    let len = HEAD_MAX - out.len();
    &bytes[..len]
}

/// The context of a membership change: the epoch that it was proposed under.
pub(crate) fn encode_epoch(epoch: RegionEpoch) -> Bytes {
    let mut out = BytesMut::new();
    put_varint(&mut out, epoch.conf_version);
    put_varint(&mut out, epoch.version);
    out.freeze()
}

/// Reads the epoch that a membership change was proposed under; it is the whole context of the entry.
pub(crate) fn decode_epoch(context: &[u8]) -> Option<RegionEpoch> {
    let mut at = 0;
    get_epoch(context, &mut at).filter(|_| at == context.len())
}

fn get_epoch(bytes: &[u8], at: &mut usize) -> Option<RegionEpoch> {
    Some(RegionEpoch { conf_version: get_varint(bytes, at)?, version: get_varint(bytes, at)? })
}

/// Appends a LEB128 varint.
pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a LEB128 varint at `*at` and moves on. `None` if it is cut off or does not fit.
pub(crate) fn get_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_survives_a_round_trip() {
        let epoch = RegionEpoch { conf_version: 300, version: u64::MAX };
        let session =
            SessionSeq { session: SessionId(7 << 100), opened: LogIndex(3), sequence: 128, acknowledged: 127 };
        for session in [None, Some(session)] {
            let entry = Command::encode(epoch, session, b"payload");
            let back = Command::decode(&entry).expect("just encoded");
            assert_eq!(back, Command { epoch, session, admin: false, data: b"payload" });
        }
    }

    #[test]
    fn of_a_command_a_witness_gets_nothing_and_of_all_else_everything() {
        let epoch = RegionEpoch { conf_version: 1, version: 1 };
        let entry = |kind, data| Entry { term: multiraft_raft::Term(3), index: LogIndex(9), kind, data };
        let command = entry(EntryKind::Command, Command::encode(epoch, None, b"a secret"));
        let bare = Command::bared(command.clone());
        assert!(Command::is_bare(&bare.data) && !Command::is_bare(&command.data));
        assert_eq!((bare.term, bare.index, bare.kind), (command.term, command.index, command.kind));
        assert_eq!(Command::bared(bare.clone()), bare);
        let admin = entry(EntryKind::Command, Command::encode_admin(epoch, b"split"));
        let others = [
            admin,
            entry(EntryKind::Membership, Payload::copy_from_slice(b"add")),
            entry(EntryKind::Empty, Payload::new()),
        ];
        for other in others {
            assert_eq!(Command::bared(other.clone()), other);
        }
    }

    #[test]
    fn cut_or_foreign_envelopes_are_refused() {
        let epoch = RegionEpoch { conf_version: 1, version: 1 };
        let session = SessionSeq { session: SessionId(1), opened: LogIndex(3), sequence: 1, acknowledged: 0 };
        let entry = Command::encode(epoch, Some(session), b"");
        for len in 0..entry.len() {
            assert_eq!(Command::decode(&entry[..len]), None, "cut at {len}");
        }
        assert_eq!(Command::decode(&[9, 0, 1, 1]), None);
        assert_eq!(Command::decode(&[1, 4, 1, 1]), None);
    }

    #[test]
    fn a_users_command_minds_the_range_and_not_the_replicas() {
        let old = RegionEpoch { conf_version: 1, version: 1 };
        assert!(EpochRule::COMMAND.admits(old, RegionEpoch { conf_version: 2, version: 1 }));
        assert!(!EpochRule::COMMAND.admits(old, RegionEpoch { conf_version: 1, version: 2 }));
        assert!(!EpochRule::MEMBERSHIP.admits(old, RegionEpoch { conf_version: 2, version: 1 }));
        assert!(EpochRule::COMMAND.is_outdated(old, RegionEpoch { conf_version: 1, version: 2 }));
        assert!(!EpochRule::COMMAND.is_outdated(RegionEpoch { conf_version: 1, version: 2 }, old));
    }
}
