//! Putting a store together from what its disk holds: which regions may start, and which must not.
//!
//! Shared by the shell and the simulator. A region whose records do not fit together is kept out of service: a replica that
//! lost something it once promised must not vote or acknowledge as if it had never had it.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    KeyRange, LogIndex, LogSummary, Membership, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Restored,
    Role, StoreId, Term,
};
use multiraft_storage::Recovered;

use crate::apply::AppliedRegion;
use crate::logic::RegionStart;

/// What a store starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    /// The regions that may start, in order of id.
    pub starts: Vec<RegionStart>,
    /// The regions that must not, with the reason.
    pub damaged: Vec<(RegionId, String)>,
}

/// Fits the state's regions to the log's groups.
#[must_use]
pub fn assemble(regions: Vec<AppliedRegion>, recovered: &Recovered) -> Assembled {
    let mut assembled = Assembled::default();
    for (descriptor, applied, applied_term) in regions {
        let id = descriptor.id;
        if recovered.is_suspect(id) {
            let reason = "the log may have lost records of this region: replace this replica";
            assembled.damaged.push((id, reason.to_owned()));
            continue;
        }
        let group = recovered.groups.get(&id).cloned().unwrap_or_default();
        let start = RegionStart { descriptor, hard_state: group.hard_state, log: group.log, applied, applied_term };
        match check(&start) {
            Ok(()) => assembled.starts.push(start),
            Err(reason) => assembled.damaged.push((id, reason)),
        }
    }
    assembled.starts.sort_by_key(|start| start.descriptor.id);
    assembled
}

/// Whether state and log of a region fit together.
fn check(start: &RegionStart) -> Result<(), String> {
    // The state may be ahead of the log: a snapshot was installed, and the crash came before the log's reset. The log then
    // begins anew after the state.
    let follows = start.log.term(start.applied) == Some(start.applied_term);
    if !follows && start.applied >= start.log.truncated_index && start.applied > LogIndex::ZERO {
        return Ok(());
    }
    let restored = Restored {
        hard_state: start.hard_state,
        log: start.log.clone(),
        applied: start.applied,
        membership: Membership::from_replicas(&start.descriptor.replicas),
    };
    restored.validate().map_err(|error| error.to_string())
}

/// The regions of a new cluster: the root, and one region for each piece of the key space between `boundaries`, all on
/// `stores`. Every store derives the same regions from the same arguments.
#[must_use]
pub fn bootstrap_regions(boundaries: &[Bytes], stores: &[StoreId]) -> Vec<Arc<RegionDescriptor>> {
    let mut stores = stores.to_vec();
    stores.sort_unstable();
    let replicas: Vec<Replica> =
        stores.iter().zip(1..).map(|(&store, id)| Replica { id: ReplicaId(id), store, role: Role::Voter }).collect();
    let region = |id: u64, start: Bytes, end: Bytes| {
        let range = KeyRange { start, end };
        let replicas = replicas.clone();
        Arc::new(RegionDescriptor { id: RegionId(id), range, epoch: RegionEpoch::FIRST, replicas })
    };
    let mut regions = vec![region(RegionId::ROOT.get(), Bytes::new(), Bytes::new())];
    let mut start = Bytes::new();
    let ends = boundaries.iter().cloned().chain(std::iter::once(Bytes::new()));
    for (end, id) in ends.zip(RegionId::ROOT.get() + 1..) {
        regions.push(region(id, start, end.clone()));
        start = end;
    }
    regions
}

/// A region that has seen nothing: for tests and simulations that start without a disk.
#[must_use]
pub fn empty_start(descriptor: Arc<RegionDescriptor>) -> RegionStart {
    RegionStart {
        descriptor,
        hard_state: multiraft_raft::HardState::default(),
        log: LogSummary::default(),
        applied: LogIndex::ZERO,
        applied_term: Term::ZERO,
    }
}
