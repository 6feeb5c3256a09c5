//! Replicas of this store that are out of service: fenced, or damaged. Their states are still there, so that nobody else takes
//! their keys, but nothing is read from them and nothing of them is passed on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiraft_raft::RegionId;

/// Which regions have such a replica here. Shared by appliers and by whoever looks something up.
#[derive(Debug, Default)]
pub(crate) struct Barred {
    /// Almost always zero: a look-up then costs no lock.
    count: AtomicUsize,
    regions: Mutex<BTreeSet<RegionId>>,
}

impl Barred {
    /// Nothing is read from this region from now on.
    pub(crate) fn insert(&self, region: RegionId) {
        let mut regions = self.lock();
        regions.insert(region);
        self.count.store(regions.len(), Ordering::SeqCst);
    }

    /// Its state is gone.
    pub(crate) fn remove(&self, region: RegionId) {
        let mut regions = self.lock();
        regions.remove(&region);
        self.count.store(regions.len(), Ordering::SeqCst);
    }

    pub(crate) fn contains(&self, region: RegionId) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.lock().contains(&region)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<RegionId>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use multiraft_raft::{
        Entry, EntryKind, KeyRange, LogIndex, RegionDescriptor, RegionEpoch, Replica, ReplicaId, Role, StoreId, Term,
    };
    use multiraft_storage::{SimDisk, SimStore};

    use super::*;
    use crate::apply::{AppliedRegion, ApplyEnd, Backend};
    use crate::error::ReadError;
    use crate::logic::{AdminCommand, ApplyTask, MergeState, RegionHandle, StateDigest};
    use crate::region::command::Command;
    use crate::snapshots::{Received, SnapshotFiles};
    use crate::{ApplyContext, RegionView, StateError, StateMachine, StateTxn};

    struct Nothing;

    impl StateMachine for Nothing {
        fn apply(&self, _: ApplyContext<'_>, _: &[u8], _: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
            Ok(Bytes::new())
        }

        fn lookup(&self, _: &RegionView<'_>, _: &[u8]) -> Result<Bytes, StateError> {
            Ok(Bytes::new())
        }
    }

    #[test]
    fn a_fenced_replica_is_not_read_from_also_while_its_fencing_waits_for_space() {
        let replica = |id| Replica { id: ReplicaId(id), store: StoreId(id), role: Role::Voter };
        let epoch = RegionEpoch { conf_version: 1, version: 1 };
        let (id, range) = (RegionId(2), KeyRange { start: Bytes::new(), end: Bytes::new() });
        let descriptor = Arc::new(RegionDescriptor { id, range, epoch, replicas: [1, 2, 3].map(replica).to_vec() });
        let (disk, store) = (SimDisk::new(1), Arc::new(SimStore::new()));
        let files = SnapshotFiles::open_on(Arc::new(disk)).expect("an empty disk");
        let received = Received::new(&files, false).expect("an empty disk");
        let backend = Backend::shared(Arc::new(Nothing), store.clone()).of_store(StoreId(1), &files);
        backend.create_regions(&[Arc::clone(&descriptor)]).expect("there is space");
        let (index, term) = (LogIndex(1), Term(1));
        let start = AppliedRegion { descriptor, index, term, installed: true, merge: MergeState::default() };
        backend.hold(std::slice::from_ref(&start), std::iter::empty());
        let mut applier = backend.applier([start]);
        assert_eq!(backend.lookup(id, None, b""), Ok(Bytes::new()));
        let replicas = vec![ReplicaId(1)];
        let fence = AdminCommand::FenceReplicas { index, expected: StateDigest([7; 32]), replicas };
        let data = Command::encode_admin(epoch, &fence.encode());
        let entries = vec![Entry { index: LogIndex(2), term, kind: EntryKind::Command, data }];
        let handle = RegionHandle { region: id, slot: 0, generation: 0 };
        store.set_disk_full(true);
        let task: ApplyTask<u32> = ApplyTask::Entries { handle, entries, replies: Vec::new() };
        let (batch, end) = applier.apply(vec![task], &received);
        assert!(matches!(end, ApplyEnd::Stalled { .. }), "{end:?}");
        assert_eq!(batch.applied().count(), 1);
        assert_eq!(backend.lookup(id, None, b""), Err(ReadError::UnknownRegion { region: id }));
        store.set_disk_full(false);
        applier.retry().expect("there is space again");
        assert!(backend.is_barred(id));
    }
}
