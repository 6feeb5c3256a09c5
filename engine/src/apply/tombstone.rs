//! What is left of a replica that is gone for good.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{LogIndex, RegionDescriptor, ReplicaId, Term};
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::region::command::{get_varint, put_varint};
use crate::region::merge::Absorbed;

const FORMAT: u8 = 1;

/// Why a replica is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// It was removed from its region.
    Removed = 0,
    /// Its region was absorbed by a neighbour.
    Merged = 1,
}

/// How far both halves of a region's epoch go on when it is recovered: further than the dead can have come unseen.
pub(crate) const RECOVERY_LEAP: u64 = 1 << 20;

/// What is left of a replica that is gone for good. Durable before its log and hard state go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The highest id that a replica of the region had here.
    pub replica: ReplicaId,
    /// The region when it was last heard of.
    pub descriptor: Arc<RegionDescriptor>,
    /// Why.
    pub cause: Cause,
    /// The version of the last state that the replica itself had, and what its region had absorbed in that very state: proof for
    /// others, after it is gone. `descriptor` may be newer, told by others.
    pub version: u64,
    /// See `version`.
    pub absorbed: Absorbed,
    /// The last entry of the region's log that was known here to be committed, by index and term; zeros: none.
    pub committed: (LogIndex, Term),
}

impl Tombstone {
    /// Whether a replica of this id may not come to be here.
    #[must_use]
    pub fn forbids(&self, replica: ReplicaId) -> bool {
        replica <= self.replica || self.cause == Cause::Merged
    }

    /// Whether `known` is of a life that a recovery has begun since: beyond this by a leap, in both halves of its epoch.
    pub(crate) fn is_before_recovery(&self, known: &RegionDescriptor) -> bool {
        let (own, its) = (self.descriptor.epoch, known.epoch);
        let leaps = |own: u64, its: u64| its.saturating_sub(own) >= RECOVERY_LEAP / 2;
        leaps(own.conf_version, its.conf_version) && leaps(own.version, its.version)
    }

    /// The stored form: `format (1) | cause (1) | varint replica | varint index | varint term | varint version | varint length
    /// | absorbed | descriptor`.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u8(self.cause as u8);
        put_varint(&mut out, self.replica.get());
        put_varint(&mut out, self.committed.0.get());
        put_varint(&mut out, self.committed.1.get());
        put_varint(&mut out, self.version);
        let absorbed = self.absorbed.encode();
        put_varint(&mut out, absorbed.len() as u64);
        out.put_slice(&absorbed);
        let mut descriptor = Vec::new();
        encode_descriptor(&self.descriptor, &mut descriptor);
        out.put_slice(&descriptor);
        out.freeze()
    }

    pub(crate) fn decode(stored: &Bytes) -> Option<Self> {
        let cause = match (*stored.first()?, *stored.get(1)?) {
            (FORMAT, 0) => Cause::Removed,
            (FORMAT, 1) => Cause::Merged,
            _ => return None,
        };
        let mut at = 2;
        let replica = ReplicaId(get_varint(stored, &mut at)?);
        let committed = (LogIndex(get_varint(stored, &mut at)?), Term(get_varint(stored, &mut at)?));
        let version = get_varint(stored, &mut at)?;
        let length = usize::try_from(get_varint(stored, &mut at)?).ok()?;
        let end = at.checked_add(length).filter(|end| *end <= stored.len())?;
        let absorbed = Absorbed::decode(&stored[at..end])?;
        let descriptor = Arc::new(decode_descriptor(&stored.slice(end..)).ok()?);
        Some(Self { replica, descriptor, cause, version, absorbed, committed })
    }
}

/// Which of two committed entries is the later one. In one history of a region the higher index has no lower term; a recovery begins
/// another one, at any index, in a term beyond all before.
pub(crate) fn later_of(one: (LogIndex, Term), other: (LogIndex, Term)) -> (LogIndex, Term) {
    if (other.1, other.0) > (one.1, one.0) { other } else { one }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{KeyRange, RegionEpoch, RegionId, Replica, Role, StoreId};

    use super::*;

    fn region() -> Arc<RegionDescriptor> {
        let range = KeyRange { start: Bytes::from_static(b"m"), end: Bytes::new() };
        let replicas = vec![Replica { id: ReplicaId(31), store: StoreId(1), role: Role::Voter }];
        let epoch = RegionEpoch { conf_version: 1, version: 2 };
        Arc::new(RegionDescriptor { id: RegionId(3), range, epoch, replicas })
    }

    #[test]
    fn tombstones_survive_a_round_trip() {
        for cause in [Cause::Removed, Cause::Merged] {
            let descriptor = region();
            let absorbed = Absorbed(vec![(RegionId(9), 4)]);
            let (replica, version, committed) = (ReplicaId(300), 400, (LogIndex(1000), Term(7)));
            let tombstone = Tombstone { replica, descriptor, cause, version, absorbed, committed };
            let stored = tombstone.encode();
            assert_eq!(Tombstone::decode(&stored), Some(tombstone));
            for len in 0..stored.len() {
                assert_eq!(Tombstone::decode(&stored.slice(..len)), None);
            }
        }
    }
}
