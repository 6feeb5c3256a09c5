//! What the engine keeps of each region besides its Raft group: where its records lie, and what its commands look like.

pub(crate) mod admin;
pub(crate) mod beside;
pub(crate) mod check;
pub(crate) mod command;
pub(crate) mod keys;
pub(crate) mod merge;
pub(crate) mod packed;
pub(crate) mod sessions;
pub(crate) mod stores;

use multiraft_raft::{RegionDescriptor, Role, StoreId};

/// Whether a store has a replica of a region that holds its data: not a witness, nor one that was removed and is still there.
pub(crate) fn holds_data(region: &RegionDescriptor, store: StoreId) -> bool {
    region.replica_on(store).is_some_and(|replica| replica.role != Role::Witness)
}

/// Whether a store's replica of a region is one without data.
pub(crate) fn is_witness(region: &RegionDescriptor, store: StoreId) -> bool {
    region.replica_on(store).is_some_and(|replica| replica.role == Role::Witness)
}
