//! What a consistency check is made of: digests of replicas' states at one index, what they say when laid side by side, and
//! which replicas a region has fenced because of it. The protocol is that of `docs/consistency-check.md`.
//!
//! ```text
//! answer:   0 | digest (32)     1: the machine offers none     2: there is none, and there will be none
//! fenced:   format (1) | varint count | count x ( varint replica | varint index | digest expected there (32) )
//! report:   format (1) | varint index | expected | varint count | count x ( varint replica | varint store | outcome (1)
//!           | fenced (1) | digest ) | descriptor       a digest that may be missing: 0, or 1 and its 32 bytes
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{LogIndex, RegionDescriptor, ReplicaId, Role, StoreId};
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::region::command::{get_varint, put_varint};

const FORMAT: u8 = 1;
const DIGEST_BYTES: usize = 32;

/// The name of the record of the replicas that a region has fenced.
pub(crate) const FENCED: &[u8] = b"fenced";

/// SHA-256 over all that is replicated of a region's state at one index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateDigest(pub [u8; DIGEST_BYTES]);

impl StateDigest {
    pub(crate) fn read(bytes: &[u8], at: &mut usize) -> Option<Self> {
        let digest = bytes.get(*at..*at + DIGEST_BYTES)?.try_into().ok().map(Self);
        *at += DIGEST_BYTES;
        digest
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateDigest({self})")
    }
}

/// What a replica says when it is asked for its digest at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestAnswer {
    /// This is it.
    Digest(StateDigest),
    /// Its state machine offers none.
    NotSupported,
    /// It has passed the index without taking one (by a snapshot, or before a restart), or could not, or has let it go.
    Missing,
}

impl DigestAnswer {
    pub(crate) fn encode(self) -> Bytes {
        match self {
            Self::Digest(digest) => [&[0][..], &digest.0].concat().into(),
            Self::NotSupported => Bytes::from_static(&[1]),
            Self::Missing => Bytes::from_static(&[2]),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, digest) => digest.try_into().ok().map(StateDigest).map(Self::Digest),
            (1, []) => Some(Self::NotSupported),
            (2, []) => Some(Self::Missing),
            _ => None,
        }
    }
}

/// A replica that is kept out of service because its state is not the region's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FencedReplica {
    /// Which.
    pub replica: ReplicaId,
    /// The index at which it was found out.
    pub index: LogIndex,
    /// What a quorum had there.
    pub expected: StateDigest,
}

/// The replicas that a region has fenced and not removed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FencedReplicas(pub Vec<FencedReplica>);

impl FencedReplicas {
    /// Whether this replica is among them.
    #[must_use]
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.0.iter().any(|fenced| fenced.replica == replica)
    }

    /// The list with `more` of the region's replicas on it and without those that are none of the region's any more; `None`:
    /// too few voters would be left to elect a leader.
    pub(crate) fn with(&self, region: &RegionDescriptor, more: &[FencedReplica]) -> Option<Self> {
        let fresh = more.iter().filter(|fenced| !self.contains(fenced.replica));
        let all = self.0.iter().chain(fresh).filter(|fenced| region.replica(fenced.replica).is_some());
        let fenced = Self(all.copied().collect());
        let voters = || region.replicas.iter().filter(|replica| replica.role.votes_incoming());
        let left = voters().filter(|voter| !fenced.contains(voter.id)).count();
        (left >= quorum(voters().count())).then_some(fenced)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        put_varint(&mut out, self.0.len() as u64);
        for FencedReplica { replica, index, expected } in &self.0 {
            put_varint(&mut out, replica.get());
            put_varint(&mut out, index.get());
            out.put_slice(&expected.0);
        }
        out.freeze()
    }

    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
        let mut at = 1;
        if *stored.first()? != FORMAT {
            return None;
        }
        let count = get_varint(stored, &mut at)?;
        let mut all = Vec::new();
        for _ in 0..count {
            let replica = ReplicaId(get_varint(stored, &mut at)?);
            let index = LogIndex(get_varint(stored, &mut at)?);
            all.push(FencedReplica { replica, index, expected: StateDigest::read(stored, &mut at)? });
        }
        (at == stored.len()).then_some(Self(all))
    }
}

/// What a check found out about one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum CheckOutcome {
    /// Its state is what it has to be.
    Same = 0,
    /// Its state is another one.
    Different = 1,
    /// It did not say: its store is down, it was behind, restarted since, or is out of service.
    NoAnswer = 2,
    /// Its state machine offers no digest, see [`OwnState::digest`](crate::OwnState::digest).
    NotSupported = 3,
    /// It holds no data.
    Witness = 4,
}

/// One replica in a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaCheck {
    /// The replica.
    pub replica: ReplicaId,
    /// Its store.
    pub store: StoreId,
    /// What was found out.
    pub outcome: CheckOutcome,
    /// The digest of its state, if it gave one.
    pub digest: Option<StateDigest>,
    /// The region has fenced it, now or earlier: it is out of service until it is replaced.
    pub fenced: bool,
}

/// What a consistency check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// The region, when the digests were compared.
    pub region: Arc<RegionDescriptor>,
    /// The index at which all states were taken.
    pub index: LogIndex,
    /// The digest that a quorum of the voters has, or else more than half of the replicas that gave one. `None`: no digest has
    /// that, so nobody can say which replica is right.
    pub expected: Option<StateDigest>,
    /// The replicas, in the descriptor's order.
    pub replicas: Vec<ReplicaCheck>,
}

impl CheckReport {
    /// Whether no replica's state was found to be another than it has to be. Those that did not answer are not judged.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.differing().next().is_none()
    }

    /// The replicas whose state is not what it has to be.
    pub fn differing(&self) -> impl Iterator<Item = &ReplicaCheck> {
        self.replicas.iter().filter(|replica| replica.outcome == CheckOutcome::Different)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        put_varint(&mut out, self.index.get());
        put_digest(&mut out, self.expected);
        put_varint(&mut out, self.replicas.len() as u64);
        for replica in &self.replicas {
            put_varint(&mut out, replica.replica.get());
            put_varint(&mut out, replica.store.get());
            out.put_u8(replica.outcome as u8);
            out.put_u8(u8::from(replica.fenced));
            put_digest(&mut out, replica.digest);
        }
        let mut descriptor = Vec::new();
        encode_descriptor(&self.region, &mut descriptor);
        out.put_slice(&descriptor);
        out.freeze()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut at = 1;
        if *bytes.first()? != FORMAT {
            return None;
        }
        let index = LogIndex(get_varint(bytes, &mut at)?);
        let expected = read_digest(bytes, &mut at)?;
        let count = get_varint(bytes, &mut at)?;
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(ReplicaCheck {
                replica: ReplicaId(get_varint(bytes, &mut at)?),
                store: StoreId(get_varint(bytes, &mut at)?),
                outcome: read_outcome(*bytes.get(at)?)?,
                fenced: read_flag(*bytes.get(at + 1)?)?,
                digest: {
                    at += 2;
                    read_digest(bytes, &mut at)?
                },
            });
        }
        let region = Arc::new(decode_descriptor(&bytes.slice(at..)).ok()?);
        Some(Self { region, index, expected, replicas })
    }
}

fn put_digest(out: &mut BytesMut, digest: Option<StateDigest>) {
    out.put_u8(u8::from(digest.is_some()));
    out.put_slice(digest.as_ref().map_or(&[], |digest| &digest.0));
}

fn read_digest(bytes: &[u8], at: &mut usize) -> Option<Option<StateDigest>> {
    let is_there = read_flag(*bytes.get(*at)?)?;
    *at += 1;
    if is_there { StateDigest::read(bytes, at).map(Some) } else { Some(None) }
}

fn read_flag(byte: u8) -> Option<bool> {
    (byte <= 1).then_some(byte == 1)
}

fn read_outcome(byte: u8) -> Option<CheckOutcome> {
    use CheckOutcome::{Different, NoAnswer, NotSupported, Same, Witness};
    [Same, Different, NoAnswer, NotSupported, Witness].into_iter().find(|outcome| *outcome as u8 == byte)
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Lays the answers side by side: what the region's replicas are, and which of them to fence.
///
/// A replica is fenced only if a quorum of the voters has one and the same other digest: those can elect a leader and go on,
/// whoever else is down.
pub(crate) fn judge(
    region: &Arc<RegionDescriptor>,
    index: LogIndex,
    fenced: &FencedReplicas,
    answers: &BTreeMap<ReplicaId, DigestAnswer>,
) -> (CheckReport, Vec<FencedReplica>) {
    let digest_of = |id: ReplicaId| match answers.get(&id) {
        Some(DigestAnswer::Digest(digest)) => Some(*digest),
        _ => None,
    };
    let holders = || region.replicas.iter().filter(|replica| replica.role != Role::Witness);
    let mut counts: BTreeMap<StateDigest, (usize, usize)> = BTreeMap::new();
    for replica in holders() {
        let Some(digest) = digest_of(replica.id) else { continue };
        let (all, voters) = counts.entry(digest).or_default();
        *all += 1;
        *voters += usize::from(replica.role.votes_incoming());
    }
    let told: usize = counts.values().map(|(all, _)| all).sum();
    let needed = quorum(region.replicas.iter().filter(|replica| replica.role.votes_incoming()).count());
    let proven = counts.iter().find(|(_, (_, voters))| *voters >= needed).map(|(digest, _)| *digest);
    let expected = proven.or_else(|| counts.iter().find(|(_, (all, _))| 2 * all > told).map(|(digest, _)| *digest));
    let check = |replica: &multiraft_raft::Replica| {
        let digest = digest_of(replica.id).filter(|_| replica.role != Role::Witness);
        let outcome = match (answers.get(&replica.id), digest) {
            _ if replica.role == Role::Witness => CheckOutcome::Witness,
            (_, Some(digest)) if Some(digest) == expected => CheckOutcome::Same,
            (_, Some(_)) => CheckOutcome::Different,
            (Some(DigestAnswer::NotSupported), None) => CheckOutcome::NotSupported,
            _ => CheckOutcome::NoAnswer,
        };
        let fenced = fenced.contains(replica.id);
        ReplicaCheck { replica: replica.id, store: replica.store, outcome, digest, fenced }
    };
    let replicas: Vec<ReplicaCheck> = region.replicas.iter().map(check).collect();
    let report = CheckReport { region: Arc::clone(region), index, expected, replicas };
    let to_fence = proven.map_or_else(Vec::new, |expected| {
        let fresh = report.differing().filter(|replica| !replica.fenced);
        fresh.map(|replica| FencedReplica { replica: replica.replica, index, expected }).collect()
    });
    (report, to_fence)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
