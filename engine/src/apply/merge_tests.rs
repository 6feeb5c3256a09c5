//! Merges as two appliers of one store carry them out, beside each other.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    Entry, EntryKind, KeyRange, LogIndex, Payload, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role,
    StoreId, Term,
};
use multiraft_storage::state::SimStore;
use multiraft_storage::{SimDisk, StateError};
use multiraft_transport::SnapshotHeader;

use super::*;
use crate::logic::{AdminCommand, RegionHandle};
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};
use crate::region::command::Command;
use crate::region::merge::Absorbed;
use crate::snapshots::SnapshotFiles;

pub(super) const SOURCE: RegionId = RegionId(2);
pub(super) const TARGET: RegionId = RegionId(3);
pub(super) const OWN: StoreId = StoreId(1);

/// Every command is a key, and its own value.
pub(super) struct Keys;

impl StateMachine for Keys {
    fn apply(&self, _: ApplyContext<'_>, key: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let _ = state.put(key, Bytes::copy_from_slice(key));
        Ok(Bytes::new())
    }

    fn lookup(&self, view: &RegionView<'_>, key: &[u8]) -> Result<Bytes, StateError> {
        Ok(view.get(key)?.unwrap_or_default())
    }
}

pub(super) struct NoSnapshots;

impl ReceivedSnapshots for NoSnapshots {
    fn open(&self, _: StoreId, _: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn discard(&self, _: StoreId, _: &SnapshotHeader) {}
}

pub(super) fn region(id: RegionId, start: &'static str, end: &'static str) -> Arc<RegionDescriptor> {
    let range = KeyRange { start: Bytes::from_static(start.as_bytes()), end: Bytes::from_static(end.as_bytes()) };
    let replicas = vec![Replica { id: ReplicaId(id.get() * 10), store: OWN, role: Role::Voter }];
    Arc::new(RegionDescriptor { id, range, epoch: RegionEpoch { conf_version: 1, version: 1 }, replicas })
}

pub(super) fn handle(region: RegionId) -> RegionHandle {
    RegionHandle { region, slot: 0, generation: 0 }
}

/// A store with a source and a target, each with an applier of its own.
pub(super) struct Store {
    pub(super) backend: Backend,
    pub(super) source: Applier,
    pub(super) target: Applier,
}

impl Store {
    pub(super) fn new(backend: Backend, with_source: bool) -> Self {
        let regions = [region(SOURCE, "", "m"), region(TARGET, "m", "")];
        let regions: Vec<_> = regions.into_iter().filter(|one| with_source || one.id == TARGET).collect();
        backend.create_regions(&regions).unwrap();
        let known = backend.regions().unwrap();
        let mut entries = backend.catalogue.lock();
        let states = known.iter().map(|one| (Arc::clone(&one.descriptor), None, Arc::default()));
        entries.begin(OWN, states, std::iter::empty());
        drop(entries);
        let of = |id| known.iter().filter(|one| one.descriptor.id == id).cloned().collect::<Vec<_>>();
        Self { source: backend.applier(of(SOURCE)), target: backend.applier(of(TARGET)), backend }
    }

    pub(super) fn shared(with_source: bool) -> Self {
        let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(1))).unwrap();
        let store = Arc::new(SimStore::new());
        Self::new(Backend::shared(Arc::new(Keys), store).of_store(OWN, &files), with_source)
    }

    pub(super) fn freeze(&mut self) -> Arc<RegionDescriptor> {
        self.freeze_at(2)
    }

    pub(super) fn freeze_at(&mut self, index: u64) -> Arc<RegionDescriptor> {
        let target = region(TARGET, "m", "");
        let done = admin(&mut self.source, SOURCE, index, &AdminCommand::Freeze { target });
        let Some(RegionChange::Frozen { region, .. }) = change(&done) else { panic!("it is frozen: {done:?}") };
        region
    }
}

fn admin(applier: &mut Applier, region: RegionId, index: u64, command: &AdminCommand) -> AppliedBatch<()> {
    let epoch = RegionEpoch { conf_version: 1, version: 1 };
    entry(applier, region, index, Command::encode_admin(epoch, &command.encode()))
}

pub(super) fn entry(applier: &mut Applier, region: RegionId, index: u64, data: impl Into<Payload>) -> AppliedBatch<()> {
    let entry = Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, data: data.into() };
    run(applier, ApplyTask::Entries { handle: handle(region), entries: vec![entry], replies: Vec::new() })
}

pub(super) fn run(applier: &mut Applier, task: ApplyTask<()>) -> AppliedBatch<()> {
    let (batch, end) = applier.apply(vec![task], &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    batch
}

/// What the first of the applied entries has made of its region.
fn change(batch: &AppliedBatch<()>) -> Option<RegionChange> {
    batch.applied().next().unwrap().change.clone()
}

fn destroyed(mut batch: AppliedBatch<()>) -> Destroyed {
    match batch.effects.pop() {
        Some(Effect::Destroyed(destroyed)) => destroyed,
        other => panic!("{other:?}"),
    }
}

fn commit(source: &Arc<RegionDescriptor>) -> AdminCommand {
    AdminCommand::CommitMerge { index: LogIndex(2), source: Arc::clone(source) }
}

#[test]
fn a_region_that_another_applier_has_absorbed_is_not_captured() {
    let mut store = Store::shared(true);
    let frozen = store.freeze();
    assert!(store.source.capture(SOURCE).unwrap().is_some());
    let done = admin(&mut store.target, TARGET, 2, &commit(&frozen));
    assert!(matches!(change(&done), Some(RegionChange::Merged { .. })), "{done:?}");
    assert!(store.source.capture(SOURCE).unwrap().is_none(), "its records are gone, its keys another's");
}

#[test]
fn a_target_that_finds_no_source_beside_it_says_that_it_needs_a_snapshot() {
    let mut store = Store::shared(false);
    let epoch = RegionEpoch { conf_version: 1, version: 2 };
    let frozen = Arc::new(RegionDescriptor { epoch, ..(*region(SOURCE, "", "m")).clone() });
    let done = admin(&mut store.target, TARGET, 2, &commit(&frozen));
    assert_eq!((done.applied().count(), done.parked.len()), (0, 1), "it is not skipped");
    let is_it =
        |effect: &Effect| matches!(effect, Effect::Stalled(at, index) if (*at, index.get()) == (handle(TARGET), 2));
    assert!(done.effects.len() == 1 && is_it(&done.effects[0]), "{done:?}");
}

#[test]
fn a_target_whose_source_has_not_come_to_its_freeze_waits() {
    let mut store = Store::shared(true);
    let epoch = RegionEpoch { conf_version: 1, version: 2 };
    let frozen = Arc::new(RegionDescriptor { epoch, ..(*region(SOURCE, "", "m")).clone() });
    let done = admin(&mut store.target, TARGET, 2, &commit(&frozen));
    assert_eq!((done.parked.len(), done.effects.len()), (1, 0));
}

#[test]
fn a_frozen_region_goes_once_its_target_is_known_to_be_gone_from_here() {
    let mut store = Store::shared(true);
    let epoch = RegionEpoch { conf_version: 1, version: 1 };
    entry(&mut store.source, SOURCE, 2, Command::encode(epoch, None, b"a"));
    let target = region(TARGET, "m", "");
    let done = admin(&mut store.source, SOURCE, 3, &AdminCommand::Freeze { target });
    assert!(change(&done).is_some());
    let release = |store: &mut Store| -> Vec<Tombstone> {
        let released = run(&mut store.source, ApplyTask::Release { region: SOURCE }).effects.into_iter();
        released
            .filter_map(|effect| if let Effect::Released(tombstone) = effect { Some(tombstone) } else { None })
            .collect()
    };
    assert_eq!(release(&mut store), [], "the target is here");
    // The target's replica is removed before it has come to the merge, and is told of a later version.
    let epoch = RegionEpoch { conf_version: 2, version: 3 };
    let known = Arc::new(RegionDescriptor { epoch, replicas: Vec::new(), ..(*region(TARGET, "", "")).clone() });
    let cause = Cause::Removed;
    run(&mut store.target, ApplyTask::Destroy { region: TARGET, known, cause, committed: Default::default() });
    let released = release(&mut store);
    assert_eq!(released.len(), 1);
    assert_eq!((released[0].cause, released[0].version), (Cause::Merged, 2));
    assert_eq!(store.backend.regions().unwrap(), []);
    assert_eq!(store.backend.tombstones().unwrap().get(&SOURCE), released.first());
    assert!(store.source.capture(SOURCE).unwrap().is_none());
}

#[test]
fn a_child_is_not_lost_to_what_a_checkpoint_has_written_of_a_buried_region() {
    let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(1))).unwrap();
    let store = Arc::new(multiraft_storage::state::MemStore::new());
    let backend = Backend::shared(Arc::new(Keys), store).of_store(OWN, &files);
    let source = region(SOURCE, "", "m");
    let tombstone = Entries::default().tombstone_of(SOURCE, &source, Cause::Merged, Default::default());
    files.bury(&BTreeMap::from([(SOURCE, tombstone)]), SOURCE).unwrap();
    // Captured before the source was absorbed, and written after it. Its range went to a target that was split again.
    let late = SnapshotSource { index: LogIndex(7), ..backend.first_snapshot(&source) };
    let epoch = RegionEpoch { conf_version: 1, version: 5 };
    let child = Arc::new(RegionDescriptor { epoch, ..(*region(TARGET, "", "c")).clone() });
    files.save(vec![late, backend.first_snapshot(&child)]).unwrap();
    let restored = files.restore_all(&backend);
    assert_eq!(restored.regions.iter().map(|one| one.descriptor.id).collect::<Vec<_>>(), [TARGET]);
}

#[test]
fn what_a_state_has_absorbed_is_buried_whatever_a_crash_has_left() {
    let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(1))).unwrap();
    let backend = || {
        let store = Arc::new(multiraft_storage::state::MemStore::new());
        Backend::shared(Arc::new(Keys), store).of_store(OWN, &files)
    };
    // The target's merged state is durable; the crash came before the source's tombstone.
    let source = SnapshotSource { index: LogIndex(7), ..backend().first_snapshot(&region(SOURCE, "", "m")) };
    let absorbed = Arc::new(Absorbed(vec![(SOURCE, 1)]));
    let target = SnapshotSource { index: LogIndex(9), absorbed, ..backend().first_snapshot(&region(TARGET, "", "")) };
    files.save(vec![source, target]).unwrap();
    for start in 0..2 {
        let backend = backend();
        let restored = files.restore_all(&backend);
        let back: Vec<RegionId> = restored.regions.iter().map(|region| region.descriptor.id).collect();
        assert_eq!((back, restored.damaged), (vec![TARGET], vec![]), "start {start}");
        let tombstones = backend.tombstones().unwrap();
        let tombstone = tombstones.get(&SOURCE).unwrap();
        assert_eq!((tombstone.cause, tombstone.version, tombstone.replica), (Cause::Merged, 1, ReplicaId(20)));
    }
}

#[test]
fn a_childs_replica_is_removed_after_the_split_that_gives_it_its_state() {
    let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(1))).unwrap();
    let disk = SimStore::new();
    let mut store = Store::new(Backend::shared(Arc::new(Keys), Arc::new(disk.clone())).of_store(OWN, &files), true);
    entry(&mut store.source, SOURCE, 2, Command::encode(RegionEpoch { conf_version: 1, version: 1 }, None, b"k"));
    let child = RegionId(4);
    let split = AdminCommand::Split {
        children: vec![crate::logic::Child { start: Bytes::from("g"), region: child, replicas: vec![ReplicaId(40)] }],
    };
    let data = Command::encode_admin(RegionEpoch { conf_version: 1, version: 1 }, &split.encode());
    let entry = Entry { term: Term(1), index: LogIndex(3), kind: EntryKind::Command, data };
    let task = ApplyTask::<()>::Entries { handle: handle(SOURCE), entries: vec![entry], replies: Vec::new() };
    disk.set_disk_full(true);
    let (_, end) = store.source.apply(vec![task], &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Stalled { .. }), "{end:?}");
    disk.set_disk_full(false);

    // The child's own applier hears of its removal before the split is written.
    let epoch = RegionEpoch { conf_version: 2, version: 2 };
    let known = Arc::new(RegionDescriptor { epoch, replicas: Vec::new(), ..(*region(child, "g", "m")).clone() });
    let committed = (LogIndex(9), Term(2));
    let mut destroy = || {
        let known = Arc::clone(&known);
        let task = ApplyTask::Destroy { region: child, known, cause: Cause::Removed, committed };
        destroyed(run(&mut store.target, task))
    };
    let put_off = destroy();
    assert_eq!((put_off.tombstone, put_off.committed), (None, committed));
    store.source.retry().unwrap();
    let has_data = || {
        let (start, end) = crate::region::keys::data_range(&region(child, "g", "m").range);
        multiraft_storage::StateStore::view(&disk).scan(&start, &end, 1).unwrap().len()
    };
    assert_eq!(has_data(), 1, "the split has given it its keys");
    let tombstone = destroy().tombstone.expect("now it goes");
    assert_eq!((tombstone.replica, tombstone.committed), (ReplicaId(40), committed));
    assert_eq!(has_data(), 0, "nobody here owns these keys");
    assert!(store.backend.regions().unwrap().iter().all(|found| found.descriptor.id != child));
}

#[test]
fn the_range_of_a_replica_is_taken_until_its_removal_is_written() {
    let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(1))).unwrap();
    let disk = SimStore::new();
    let mut store = Store::new(Backend::shared(Arc::new(Keys), Arc::new(disk.clone())).of_store(OWN, &files), true);
    let epoch = RegionEpoch { conf_version: 2, version: 1 };
    let known = Arc::new(RegionDescriptor { epoch, replicas: Vec::new(), ..(*region(SOURCE, "", "m")).clone() });
    let mut destroy = || {
        let known = Arc::clone(&known);
        let task = ApplyTask::Destroy { region: SOURCE, known, cause: Cause::Removed, committed: Default::default() };
        destroyed(run(&mut store.source, task)).tombstone
    };
    // A neighbour has absorbed the region elsewhere and given its keys to a child, whose snapshot comes here.
    let epoch = RegionEpoch { conf_version: 1, version: 9 };
    let other = Arc::new(RegionDescriptor { epoch, ..(*region(RegionId(4), "c", "g")).clone() });
    let clearance = || store.backend.catalogue.lock().clearance(&other, &Absorbed::default());
    disk.set_disk_full(true);
    assert_eq!(destroy(), None);
    assert_eq!(clearance(), catalogue::Clearance::Wait, "the removal that is still to come would take its keys");
    disk.set_disk_full(false);
    assert!(destroy().is_some());
    assert_eq!(clearance(), catalogue::Clearance::Clear(Vec::new()));
}
