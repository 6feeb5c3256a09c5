//! What is recorded of entries that change nothing, and when.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, LogIndex, Payload, RegionEpoch, RegionId, Term};
use multiraft_storage::state::SimStore;
use multiraft_storage::{SimDisk, StateStore};

use crate::apply::merge_tests::{Keys, NoSnapshots, OWN, SOURCE, Store, TARGET, handle, run};
use crate::apply::{AppliedBatch, ApplyEnd, Backend, Cause};
use crate::logic::{ApplyTask, Outcome, Packed, ReplyTo};
use crate::region::command::Command;
use crate::snapshots::SnapshotFiles;

const EPOCH: RegionEpoch = RegionEpoch { conf_version: 1, version: 1 };

fn store() -> (Store, SimStore) {
    let files = SnapshotFiles::open_on(Arc::new(SimDisk::new(1))).unwrap();
    let disk = SimStore::new();
    (Store::new(Backend::shared(Arc::new(Keys), Arc::new(disk.clone())).of_store(OWN, &files), true), disk)
}

fn task(region: RegionId, index: u64, kind: EntryKind, data: impl Into<Payload>) -> ApplyTask<()> {
    let entry = Entry { term: Term(index), index: LogIndex(index), kind, data: data.into() };
    ApplyTask::Entries {
        handle: handle(region),
        entries: vec![entry],
        replies: vec![(LogIndex(index), ReplyTo::Caller(()))],
    }
}

/// The first entry of a new leader.
fn leads(region: RegionId, index: u64) -> ApplyTask<()> {
    task(region, index, EntryKind::Empty, Bytes::new())
}

fn writes(region: RegionId, index: u64) -> ApplyTask<()> {
    task(region, index, EntryKind::Command, Command::encode(EPOCH, None, b"k"))
}

/// How far the state store says that each region has applied, and in which term.
fn recorded(store: &Store) -> Vec<(u64, u64)> {
    store.backend.regions().unwrap().iter().map(|region| (region.index.get(), region.term.get())).collect()
}

fn applied(batch: &AppliedBatch<()>) -> Vec<(RegionId, u64)> {
    batch.applied().map(|done| (done.handle.region, done.index.get())).collect()
}

#[test]
fn the_entry_of_a_new_leader_is_recorded_with_the_next_checkpoint() {
    let (mut store, disk) = store();
    let before = disk.operations();
    for index in [2, 3] {
        assert_eq!(applied(&run(&mut store.source, leads(SOURCE, index))), [(SOURCE, index)]);
    }
    assert_eq!((disk.operations(), recorded(&store)), (before, vec![(1, 1), (1, 1)]), "nothing was written");
    assert_eq!(store.source.capture(SOURCE).unwrap().unwrap().index, LogIndex(3), "the state is that of the third");
    let dirty: BTreeMap<_, _> =
        store.source.take_dirty().unwrap().into_iter().map(|(id, dirty)| (id, dirty.applied)).collect();
    assert_eq!(dirty, BTreeMap::from([(SOURCE, LogIndex(3))]));
    assert_eq!(recorded(&store), [(3, 3), (1, 1)], "the log may be cut by what is recorded");
    assert_eq!(store.source.take_dirty().unwrap(), BTreeMap::new());
}

#[test]
fn a_write_records_what_came_before_it() {
    let (mut store, disk) = store();
    run(&mut store.source, leads(SOURCE, 2));
    run(&mut store.source, writes(SOURCE, 3));
    assert_eq!(recorded(&store), [(3, 3), (1, 1)]);
    let before = disk.operations();
    let dirty = store.source.take_dirty().unwrap();
    assert_eq!((dirty.len(), dirty[&SOURCE].applied, disk.operations()), (1, LogIndex(3), before));
}

#[test]
fn without_space_what_lags_goes_on_lagging_and_the_log_is_not_cut() {
    let (mut store, disk) = store();
    run(&mut store.source, writes(SOURCE, 2));
    run(&mut store.source, leads(SOURCE, 3));
    disk.set_disk_full(true);
    let dirty = store.source.take_dirty().unwrap();
    assert_eq!(dirty[&SOURCE].applied, LogIndex(2), "what is recorded");
    assert_eq!(store.source.take_dirty().unwrap(), BTreeMap::new());
    assert!(store.source.record_all().is_err());
    disk.set_disk_full(false);
    assert_eq!(store.source.take_dirty().unwrap()[&SOURCE].applied, LogIndex(3));
    assert_eq!(recorded(&store), [(3, 3), (1, 1)]);
}

#[test]
fn nothing_is_recorded_of_a_region_that_is_gone() {
    let (mut store, disk) = store();
    run(&mut store.source, leads(SOURCE, 2));
    let known = Arc::clone(&store.backend.regions().unwrap()[0].descriptor);
    run(
        &mut store.source,
        ApplyTask::Destroy { region: SOURCE, known, cause: Cause::Removed, committed: Default::default() },
    );
    let before = disk.operations();
    assert_eq!(store.source.take_dirty().unwrap(), BTreeMap::new());
    assert_eq!(disk.operations(), before);
    assert_eq!(disk.view().get(&crate::region::keys::applied(SOURCE)).unwrap(), None);
}

#[test]
fn of_a_frozen_region_everything_is_recorded_at_once() {
    let (mut store, _) = store();
    store.freeze();
    run(&mut store.source, leads(SOURCE, 3));
    assert_eq!(recorded(&store)[0], (3, 3));
}

#[test]
fn beside_a_stalled_batch_only_regions_of_which_nothing_waits_go_on() {
    // Both regions belong to one applier.
    let (store, disk) = store();
    let mut both = store.backend.applier(store.backend.regions().unwrap());
    disk.set_disk_full(true);
    let (stalled, end) = both.apply(vec![writes(SOURCE, 2)], &NoSnapshots);
    let ApplyEnd::Stalled { rest } = end else { panic!("{end:?}") };
    assert!(rest.is_empty() && applied(&stalled) == [(SOURCE, 2)]);

    let (mut beside, rest) =
        both.apply_beside(vec![leads(SOURCE, 3), leads(TARGET, 2), writes(TARGET, 3), leads(TARGET, 4)]);
    assert_eq!(applied(&beside), [(TARGET, 2)]);
    assert_eq!(beside.replies.drain(..).map(|(_, outcome)| outcome).collect::<Vec<_>>(), [Outcome::Done]);
    assert_eq!(rest, [leads(SOURCE, 3), writes(TARGET, 3), leads(TARGET, 4)], "in order");
    let (beside, rest) = both.apply_beside(rest);
    assert_eq!((applied(&beside), rest.len()), (vec![], 3), "they still wait");
    assert_eq!(both.take_dirty().unwrap().get(&TARGET), None, "and nothing is written");

    disk.set_disk_full(false);
    both.retry().unwrap();
    let (batch, end) = both.apply(rest, &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    assert_eq!(applied(&batch), [(SOURCE, 3), (TARGET, 3), (TARGET, 4)]);
    both.record_all().unwrap();
    assert_eq!(recorded(&store), [(3, 3), (4, 4)]);
}

#[test]
fn what_is_left_of_a_stalled_batch_keeps_its_region_waiting() {
    let (store, disk) = store();
    let mut both = store.backend.applier(store.backend.regions().unwrap());
    disk.set_disk_full(true);
    let known = Arc::clone(&store.backend.regions().unwrap()[1].descriptor);
    let gone = ApplyTask::Destroy { region: TARGET, known, cause: Cause::Removed, committed: Default::default() };
    let (_, end) = both.apply(vec![writes(SOURCE, 2), gone], &NoSnapshots);
    let ApplyEnd::Stalled { rest } = end else { panic!("{end:?}") };
    assert_eq!(rest.len(), 1);
    let (beside, rest) = both.apply_beside(vec![leads(TARGET, 2)]);
    assert_eq!((applied(&beside), rest.len()), (vec![], 1), "it comes after the removal");
}

fn rests(store: &Store, region: RegionId) -> ApplyTask<()> {
    let regions = store.backend.regions().unwrap();
    let descriptor = &regions.iter().find(|known| known.descriptor.id == region).unwrap().descriptor;
    ApplyTask::Rest { packed: Packed::new(descriptor) }
}

#[test]
fn a_region_that_has_rested_goes_on_where_it_was() {
    let (mut store, disk) = store();
    run(&mut store.source, writes(SOURCE, 2));
    run(&mut store.source, leads(SOURCE, 3));
    let rest = rests(&store, SOURCE);
    run(&mut store.source, rest);
    assert_eq!(store.source.capture(SOURCE).unwrap().unwrap().index, LogIndex(3));
    assert_eq!(store.source.take_dirty().unwrap()[&SOURCE].applied, LogIndex(3));
    assert_eq!(recorded(&store), [(3, 3), (1, 1)], "what lags is told while it rests");
    run(&mut store.source, writes(SOURCE, 4));
    assert_eq!(recorded(&store), [(4, 4), (1, 1)]);
    let rest = rests(&store, SOURCE);
    run(&mut store.source, rest);
    store.freeze_at(5);
    assert_eq!(recorded(&store)[0], (5, 1));
    let known = Arc::clone(&store.backend.regions().unwrap()[1].descriptor);
    let rest = rests(&store, TARGET);
    run(&mut store.target, rest);
    run(
        &mut store.target,
        ApplyTask::Destroy { region: TARGET, known, cause: Cause::Removed, committed: Default::default() },
    );
    assert_eq!(disk.view().get(&crate::region::keys::descriptor(TARGET)).unwrap(), None);
}

#[test]
fn beside_a_stalled_batch_nothing_waits_for_a_region_that_comes_to_rest() {
    let (store, disk) = store();
    let mut both = store.backend.applier(store.backend.regions().unwrap());
    disk.set_disk_full(true);
    let (_, end) = both.apply(vec![writes(SOURCE, 2), rests(&store, TARGET)], &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Stalled { .. }), "{end:?}");
    let (beside, rest) = both.apply_beside(vec![rests(&store, TARGET), leads(TARGET, 2)]);
    assert_eq!((applied(&beside), rest.len()), (vec![(TARGET, 2)], 0));
}

#[test]
fn an_applier_does_not_wait_for_the_catalogue_to_say_that_a_region_rests() {
    let (mut store, _) = store();
    let (rest, backend) = (rests(&store, SOURCE), store.backend.clone());
    let taken = backend.catalogue.lock();
    run(&mut store.source, rest);
    assert!(!taken.rests(SOURCE));
    drop(taken);
    store.source.take_dirty().unwrap();
    assert!(backend.catalogue.lock().rests(SOURCE));
}
