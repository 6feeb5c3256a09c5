//! What a merge is made of: which regions may be merged, what the frozen source remembers, what the target keeps for ever.
//! The protocol is that of `docs/regions.md`.
//!
//! ```text
//! frozen record:    format (1) | varint index of the freeze | descriptor of the target, as the freeze names it
//! absorbed record:  format (1) | count varint | count x ( varint region | varint its frozen version )
//! ```

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, Role, StoreId};
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::region::check::FencedReplicas;
use crate::region::command::{get_varint, put_varint};

const FORMAT: u8 = 1;

/// When a frozen region may be tried again: it is absorbed by then, or rolled back.
pub(crate) const FROZEN_RETRY: Duration = Duration::from_millis(50);

/// The name of a frozen region's record.
pub(crate) const FROZEN: &[u8] = b"frozen";
/// The name of the record of what a region has absorbed.
pub(crate) const ABSORBED: &[u8] = b"absorbed";

/// What a frozen region remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The entry that froze it.
    pub index: LogIndex,
    /// The region that is to absorb it, at exactly this epoch.
    pub target: Arc<RegionDescriptor>,
}

impl Frozen {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        put_varint(&mut out, self.index.get());
        let mut target = Vec::new();
        encode_descriptor(&self.target, &mut target);
        out.put_slice(&target);
        out.freeze()
    }

    pub(crate) fn decode(stored: &Bytes) -> Option<Self> {
        let mut at = 1;
        if *stored.first()? != FORMAT {
            return None;
        }
        let index = LogIndex(get_varint(stored, &mut at)?);
        Some(Self { index, target: Arc::new(decode_descriptor(&stored.slice(at..)).ok()?) })
    }
}

/// What a region has absorbed: each source with its version when it was frozen. The one proof that a merge took place (F5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absorbed(pub Vec<(RegionId, u64)>);

impl Absorbed {
    /// Whether `source`, frozen at this version, is among them.
    #[must_use]
    pub fn contains(&self, source: RegionId, version: u64) -> bool {
        self.0.contains(&(source, version))
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        put_varint(&mut out, self.0.len() as u64);
        for (region, version) in &self.0 {
            put_varint(&mut out, region.get());
            put_varint(&mut out, *version);
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
            all.push((RegionId(get_varint(stored, &mut at)?), get_varint(stored, &mut at)?));
        }
        (at == stored.len()).then_some(Self(all))
    }
}

/// How a region stands with merges, in both parts: as source and as target; and which of its replicas a consistency check has
/// fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeState {
    /// It is frozen.
    pub frozen: Option<Arc<Frozen>>,
    /// What it has absorbed.
    pub absorbed: Arc<Absorbed>,
    /// Its replicas that are out of service.
    pub fenced: Arc<FencedReplicas>,
}

impl MergeState {
    /// What the region's own records say.
    pub(crate) fn of_records(frozen: Option<Bytes>, absorbed: Option<Bytes>, fenced: Option<Bytes>) -> Self {
        Self {
            frozen: frozen.and_then(|stored| Frozen::decode(&stored)).map(Arc::new),
            absorbed: absorbed.and_then(|stored| Absorbed::decode(&stored)).map_or_else(nothing_absorbed, Arc::new),
            fenced: fenced.and_then(|stored| FencedReplicas::decode(&stored)).map_or_else(nobody_fenced, Arc::new),
        }
    }
}

impl Default for MergeState {
    fn default() -> Self {
        Self { frozen: None, absorbed: nothing_absorbed(), fenced: nobody_fenced() }
    }
}

/// What most regions have absorbed, once for all of them.
pub(crate) fn nothing_absorbed() -> Arc<Absorbed> {
    static NOTHING: LazyLock<Arc<Absorbed>> = LazyLock::new(Arc::default);
    Arc::clone(&NOTHING)
}

fn nobody_fenced() -> Arc<FencedReplicas> {
    static NOBODY: LazyLock<Arc<FencedReplicas>> = LazyLock::new(Arc::default);
    Arc::clone(&NOBODY)
}

/// Why two regions cannot be merged as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeFault {
    /// They are one region.
    #[error("a region cannot be merged with itself")]
    Itself,
    /// One of them is the root.
    #[error("the root region owns no keys and cannot be merged")]
    Root,
    /// Their ranges do not touch.
    #[error("only neighbours can be merged: the range of one must begin where the other's ends")]
    NotNeighbours,
    /// One of them is changing its replicas.
    #[error("one of the regions is in a joint configuration: try again when it has left it")]
    Joint,
    /// They are on different stores, or in different roles there.
    #[error("the regions must have replicas of the same kind on the same stores")]
    Apart,
}

/// Where the replicas of a region are, and of which kind.
fn places(region: &RegionDescriptor) -> Vec<(StoreId, Role)> {
    let mut places: Vec<_> = region.replicas.iter().map(|replica| (replica.store, replica.role)).collect();
    places.sort_unstable();
    places
}

/// Whether two regions have replicas of the same kinds on the same stores.
pub(crate) fn are_together(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    places(one) == places(other)
}

/// Whether the ranges of two regions touch.
pub(crate) fn are_neighbours(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    let touches = |left: &KeyRange, right: &KeyRange| !left.end.is_empty() && left.end == right.start;
    touches(&one.range, &other.range) || touches(&other.range, &one.range)
}

/// Checks whether `source` can be absorbed by `target`, wherever their replicas are.
///
/// # Errors
/// [`MergeFault`].
pub(crate) fn check_merge(source: &RegionDescriptor, target: &RegionDescriptor) -> Result<(), MergeFault> {
    if source.id == target.id {
        return Err(MergeFault::Itself);
    }
    if source.id == RegionId::ROOT || target.id == RegionId::ROOT {
        return Err(MergeFault::Root);
    }
    if !are_neighbours(source, target) {
        return Err(MergeFault::NotNeighbours);
    }
    let is_joint = |region: &RegionDescriptor| region.replicas.iter().any(|replica| replica.role.is_joint());
    if is_joint(source) || is_joint(target) {
        return Err(MergeFault::Joint);
    }
    Ok(())
}

/// What the target is after it has absorbed the frozen `source`: newer than both (M6).
pub(crate) fn merged(source: &RegionDescriptor, target: &RegionDescriptor) -> RegionDescriptor {
    let range = if target.range.end == source.range.start && !target.range.end.is_empty() {
        KeyRange { start: target.range.start.clone(), end: source.range.end.clone() }
    } else {
        KeyRange { start: source.range.start.clone(), end: target.range.end.clone() }
    };
    let version = source.epoch.version.max(target.epoch.version) + 1;
    RegionDescriptor { range, epoch: RegionEpoch { version, ..target.epoch }, ..target.clone() }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{Replica, ReplicaId};

    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> RegionDescriptor {
        let range = KeyRange { start: Bytes::from_static(start.as_bytes()), end: Bytes::from_static(end.as_bytes()) };
        let replica = |store| Replica { id: ReplicaId(id * 10 + store), store: StoreId(store), role: Role::Voter };
        let epoch = RegionEpoch { conf_version: 1, version };
        RegionDescriptor { id: RegionId(id), range, epoch, replicas: vec![replica(1), replica(2)] }
    }

    #[test]
    fn only_neighbours_merge() {
        let (left, right) = (region(2, "a", "m", 1), region(3, "m", "", 1));
        assert_eq!(check_merge(&left, &right), Ok(()));
        assert_eq!(check_merge(&right, &left), Ok(()));
        assert_eq!(check_merge(&left, &left), Err(MergeFault::Itself));
        assert_eq!(check_merge(&region(1, "", "", 1), &left), Err(MergeFault::Root));
        assert_eq!(check_merge(&left, &region(3, "n", "", 1)), Err(MergeFault::NotNeighbours));
        // The end of the key space is not its beginning.
        assert_eq!(check_merge(&region(2, "", "m", 1), &region(3, "n", "", 1)), Err(MergeFault::NotNeighbours));
        let mut joint = right.clone();
        joint.replicas[0].role = Role::DemotingVoter;
        assert_eq!(check_merge(&left, &joint), Err(MergeFault::Joint));
        assert!(are_together(&left, &right));
        joint.replicas[0].role = Role::Learner;
        assert!(!are_together(&left, &joint));
    }

    #[test]
    fn the_merged_region_covers_both_and_is_newer_than_both() {
        let (left, right) = (region(2, "a", "m", 9), region(3, "m", "", 4));
        for (source, target) in [(&left, &right), (&right, &left)] {
            let whole = merged(source, target);
            assert_eq!((&whole.range.start[..], &whole.range.end[..]), (&b"a"[..], &b""[..]));
            assert_eq!((whole.id, whole.epoch.version), (target.id, 10));
        }
    }

    #[test]
    fn records_survive_a_round_trip_and_refuse_cuts() {
        let frozen = Frozen { index: LogIndex(300), target: Arc::new(region(3, "m", "", 4)) };
        let stored = frozen.encode();
        assert_eq!(Frozen::decode(&stored), Some(frozen));
        let absorbed = Absorbed(vec![(RegionId(2), 900), (RegionId(5), 1)]);
        let list = absorbed.encode();
        assert_eq!(Absorbed::decode(&list), Some(absorbed));
        for len in 0..stored.len() {
            assert_eq!(Frozen::decode(&stored.slice(..len)), None);
        }
        for len in 0..list.len() {
            assert_eq!(Absorbed::decode(&list[..len]), None);
        }
    }
}
