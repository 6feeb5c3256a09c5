//! What a region is: its id, its key range, its epoch and its replicas.

use std::fmt;

use bytes::Bytes;

use crate::{RegionId, ReplicaId, StoreId};

/// Counts the changes of a region, so that whoever knew it before a change can be told so.
///
/// Two descriptors of one region are equal if and only if their epochs are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RegionEpoch {
    /// Grows with each change of the replicas.
    pub conf_version: u64,
    /// Grows with each change of the key range.
    pub version: u64,
}

impl RegionEpoch {
    /// The epoch of a region made at bootstrap.
    pub const FIRST: Self = Self { conf_version: 1, version: 1 };

    /// Whether either counter lies behind `other`'s.
    #[must_use]
    pub fn is_behind(self, other: Self) -> bool {
        self.conf_version < other.conf_version || self.version < other.version
    }
}

impl fmt::Debug for RegionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.conf_version, self.version)
    }
}

impl fmt::Display for RegionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.conf_version, self.version)
    }
}

/// The keys from `start` (included) to `end` (excluded); an empty `end` means "to the end of the key space".
///
/// Keys compare as byte strings.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key that belongs to it; empty is the smallest key.
    pub start: Bytes,
    /// The first key that no longer belongs to it, or empty.
    pub end: Bytes,
}

impl KeyRange {
    /// All keys.
    #[must_use]
    pub const fn full() -> Self {
        Self { start: Bytes::new(), end: Bytes::new() }
    }

    /// Whether `key` lies inside.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        // No start at all is asked first: comparing with nothing, at no real address, is slow on some processors.
        (self.start.is_empty() || self.start.as_ref() <= key) && (self.end.is_empty() || key < self.end.as_ref())
    }

    /// Whether the two share a key.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        (self.end.is_empty() || other.start < self.end) && (other.end.is_empty() || self.start < other.end)
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start.escape_ascii(), self.end.escape_ascii())
    }
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Votes, and counts for commit.
    Voter = 0,
    /// Receives the log; does not count.
    Learner = 1,
    /// Votes and keeps log metadata, holds no data.
    Witness = 2,
    /// Joint consensus: a voter of the incoming configuration only.
    IncomingVoter = 3,
    /// Joint consensus: a voter of the outgoing configuration only; gone when the joint state is left.
    OutgoingVoter = 4,
    /// Joint consensus: a voter of the outgoing configuration that becomes a learner when the joint state is left.
    DemotingVoter = 5,
}

impl Role {
    /// Counts in the incoming (or only) configuration's quorum.
    #[must_use]
    pub const fn votes_incoming(self) -> bool {
        matches!(self, Self::Voter | Self::Witness | Self::IncomingVoter)
    }

    /// Counts in the outgoing configuration's quorum while the group is joint.
    #[must_use]
    pub const fn votes_outgoing(self) -> bool {
        matches!(self, Self::Voter | Self::Witness | Self::OutgoingVoter | Self::DemotingVoter)
    }

    /// Exists only in a joint configuration.
    #[must_use]
    pub const fn is_joint(self) -> bool {
        matches!(self, Self::IncomingVoter | Self::OutgoingVoter | Self::DemotingVoter)
    }
}

/// One member of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica {
    /// Its name, never reused.
    pub id: ReplicaId,
    /// Where it lives.
    pub store: StoreId,
    /// What it is.
    pub role: Role,
}

/// Everything that all stores must agree on about a region.
///
/// Invariant: replicas ascend in id; no two share a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDescriptor {
    /// Its name.
    pub id: RegionId,
    /// The keys it owns. Empty start and end in the root region do not mean "all keys": the root owns none.
    pub range: KeyRange,
    /// How often it has changed.
    pub epoch: RegionEpoch,
    /// Its members.
    pub replicas: Vec<Replica>,
}

impl RegionDescriptor {
    /// The member that lives on `store`.
    #[must_use]
    pub fn replica_on(&self, store: StoreId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// The member with this id.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// Whether this region owns `key`. The root region owns none.
    #[must_use]
    pub fn owns(&self, key: &[u8]) -> bool {
        self.id != RegionId::ROOT && self.range.contains(key)
    }
}
