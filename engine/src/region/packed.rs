//! A region's descriptor in as few bytes as hold it, for those who keep one of every region of a store and seldom look at it.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{RegionDescriptor, RegionId};
use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::region::command::get_varint;

/// A descriptor in its stored form. Clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed(Arc<[u8]>);

impl Packed {
    /// Packs `descriptor`.
    #[must_use]
    pub fn new(descriptor: &RegionDescriptor) -> Self {
        let mut bytes = Vec::with_capacity(96);
        encode_descriptor(descriptor, &mut bytes);
        Self(bytes.into())
    }

    /// Packs `descriptor`, into what it was packed into before if that is the same.
    #[must_use]
    pub fn again(before: Option<&Self>, descriptor: &RegionDescriptor) -> Self {
        let packed = Self::new(descriptor);
        before.filter(|before| **before == packed).cloned().unwrap_or(packed)
    }

    /// The descriptor. Takes its memory anew each time.
    #[must_use]
    pub fn unpack(&self) -> Arc<RegionDescriptor> {
        let bytes = Bytes::copy_from_slice(&self.0);
        Arc::new(decode_descriptor(&bytes).expect("invariant: it was encoded here"))
    }

    /// The region.
    #[must_use]
    pub fn id(&self) -> RegionId {
        // Behind the byte that names the format.
        RegionId(get_varint(&self.0, &mut 1).expect("invariant: it was encoded here"))
    }

    /// Whether both are the same bytes in memory.
    #[cfg(test)]
    pub(crate) fn is_same_memory(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it is exactly `descriptor`.
    #[must_use]
    pub fn is(&self, descriptor: &RegionDescriptor) -> bool {
        let mut bytes = Vec::with_capacity(self.0.len());
        encode_descriptor(descriptor, &mut bytes);
        bytes[..] == self.0[..]
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{KeyRange, RegionEpoch, Replica, ReplicaId, Role, StoreId};

    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let replica = |id, store, role| Replica { id: ReplicaId(id), store: StoreId(store), role };
        let descriptor = RegionDescriptor {
            id: RegionId(70_000),
            range: KeyRange { start: Bytes::from_static(b"00070000"), end: Bytes::from_static(b"00070001") },
            epoch: RegionEpoch { conf_version: 3, version: 300 },
            replicas: vec![
                replica(1, 1, Role::Voter),
                replica(900_002, 2, Role::Witness),
                replica(1 << 40, 3, Role::Learner),
            ],
        };
        let packed = Packed::new(&descriptor);
        assert_eq!(*packed.unpack(), descriptor);
        assert_eq!(packed.id(), descriptor.id);
        assert!(packed.is(&descriptor));
        let newer = RegionDescriptor { epoch: RegionEpoch { conf_version: 4, version: 300 }, ..descriptor };
        assert!(!packed.is(&newer));
    }
}
