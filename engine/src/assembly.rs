//! Putting a store together from what its disk holds: which regions may start, and which must not.
//!
//! Shared by the shell and the simulator. A region whose records do not fit together is kept out of service: a replica that
//! lost something it once promised must not vote or acknowledge as if it had never had it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    HardState, Incarnation, KeyRange, LogIndex, LogSummary, Membership, RegionDescriptor, RegionEpoch, RegionId,
    Replica, ReplicaId, Restored, Role, StoreId, Term,
};
use multiraft_storage::Recovered;

use crate::apply::{AppliedRegion, Tombstone};
use crate::logic::{MergeState, RegionStart, Residue};

/// What a store starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    /// The regions that may start, in order of id.
    pub starts: Vec<RegionStart>,
    /// The regions that must not, with the reason.
    pub damaged: Vec<(RegionId, String)>,
    /// Those among them that have a state here.
    pub held: Vec<AppliedRegion>,
    /// What there is of replicas without state, or out of service.
    pub residue: Residue,
}

impl Assembled {
    /// Keeps the replicas of this store out that their regions have fenced.
    pub fn keep_fenced_out(&mut self, store: StoreId) {
        let is_fenced = |start: &mut RegionStart| {
            start.descriptor.replica_on(store).is_some_and(|own| start.merge.fenced.contains(own.id))
        };
        for start in self.starts.extract_if(.., is_fenced).collect::<Vec<_>>() {
            let RegionStart { descriptor, applied, applied_term, installed, merge, hard_state, .. } = start;
            let region = descriptor.id;
            self.damaged.push((region, FENCED_REASON.to_owned()));
            // What it has promised is known, and holds for the replica that comes after it.
            self.residue.orphans.insert(region, HardState { commit: LogIndex::ZERO, ..hard_state });
            self.set_aside(AppliedRegion { descriptor, index: applied, term: applied_term, installed, merge });
        }
    }

    fn set_aside(&mut self, region: AppliedRegion) {
        let newest = region.descriptor.replicas.iter().map(|replica| replica.id).max();
        let id = region.descriptor.id;
        self.residue.suspects.insert(id, newest.unwrap_or(ReplicaId(u64::MAX)));
        self.residue.held.insert(id, Arc::clone(&region.descriptor));
        self.held.push(region);
    }
}

/// Why a fenced replica does not start.
pub(crate) const FENCED_REASON: &str =
    "a consistency check has found another state here than the region's: replace this replica";

/// Fits the regions and tombstones that the state knows to the log's groups.
#[must_use]
pub fn assemble(
    regions: Vec<AppliedRegion>,
    tombstones: BTreeMap<RegionId, Tombstone>,
    recovered: &Recovered,
) -> Assembled {
    let mut assembled = Assembled::default();
    assembled.residue.tombstones = tombstones;
    assembled.residue.may_lack = recovered.may_lack_groups();
    let known: BTreeSet<RegionId> = regions.iter().map(|region| region.descriptor.id).collect();
    for (&region, group) in recovered.groups.iter().filter(|(region, _)| !known.contains(region)) {
        let residue = &mut assembled.residue;
        let is_gone = residue.tombstones.contains_key(&region);
        if is_gone || group.log.last_index == LogIndex::ZERO {
            // What was voted here is kept for whatever replica of the region comes next (C5).
            residue.orphans.insert(region, HardState { commit: LogIndex::ZERO, ..group.hard_state });
            if is_gone && group.log.last_index > LogIndex::ZERO {
                // Entries of a replica that is gone: a replica without state has none.
                residue.leftovers.push(region);
            }
        } else {
            // Its records stay in the log.
            assembled.damaged.push((region, "the log has entries of this region and the state does not".to_owned()));
        }
    }
    let never = ReplicaId(u64::MAX);
    let unknown = recovered.suspects.iter().filter(|region| !known.contains(region));
    assembled.residue.suspects.extend(unknown.map(|region| (*region, never)));
    assembled.residue.suspects.extend(assembled.damaged.iter().map(|(region, _)| (*region, never)));
    for region in regions {
        let id = region.descriptor.id;
        if recovered.is_suspect(id) {
            let reason = "the log may have lost records of this region: replace this replica";
            assembled.damaged.push((id, reason.to_owned()));
            assembled.set_aside(region);
            continue;
        }
        let group = recovered.groups.get(&id).cloned().unwrap_or_default();
        let (hard_state, log) = (group.hard_state, group.log);
        let AppliedRegion { descriptor, index: applied, term: applied_term, installed, merge } = region.clone();
        let start = RegionStart { descriptor, hard_state, log, applied, applied_term, installed, merge };
        match check(&start) {
            Ok(()) => assembled.starts.push(start),
            Err(reason) => {
                assembled.damaged.push((id, reason));
                assembled.set_aside(region);
            }
        }
    }
    assembled.starts.sort_by_key(|start| start.descriptor.id);
    assembled
}

/// The first incarnation of a store that is known, has lost all that it had, and begins anew at this time of day, counted from 1970. It has
/// to be above all that the store can have had: seconds grow faster than starts, and stay below 2^32 until 2106. Where the time of day is
/// wrong, peers refuse it.
#[must_use]
pub fn rejoined_incarnation(since_1970: Duration) -> Incarnation {
    Incarnation(since_1970.as_secs().clamp(1, u64::from(u32::MAX) / 2))
}

/// Whether state and log of a region fit together.
fn check(start: &RegionStart) -> Result<(), String> {
    // A state may be ahead of its log only if it is a snapshot that was installed, and the crash came before the log's reset:
    // the log then begins anew after it. Entries are applied only once they are durable in the log, so any other state that
    // is ahead means that the log has lost some.
    if start.log.term(start.applied) != Some(start.applied_term) {
        if start.installed && start.applied >= start.log.truncated_index {
            return Ok(());
        }
        let (applied, last) = (start.applied, start.log.last_index);
        return Err(format!(
            "the state has entries up to {applied} applied, which the log (last entry {last}) contradicts"
        ));
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
        hard_state: HardState::default(),
        log: LogSummary::default(),
        applied: LogIndex::ZERO,
        applied_term: Term::ZERO,
        installed: false,
        merge: MergeState::default(),
    }
}
