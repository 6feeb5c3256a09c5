//! Snapshots among entries that are applied in the same batch.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Entry, EntryKind, LogIndex, Payload, RegionDescriptor, RegionEpoch, RegionId, StoreId, Term};
use multiraft_transport::{CaptureId, SnapshotHeader};

use super::merge_tests::{OWN, SOURCE, Store, TARGET, handle, region, run};
use super::*;
use crate::logic::{AdminCommand, Input};
use crate::region::command::Command;

/// A snapshot that has arrived.
struct Arrived {
    header: SnapshotHeader,
    chunks: Vec<Bytes>,
}

impl ReceivedSnapshots for Arrived {
    fn open(&self, _: StoreId, _: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        Ok(Box::new(self.chunks.clone().into_iter().map(Ok)))
    }

    fn discard(&self, _: StoreId, _: &SnapshotHeader) {}
}

impl Arrived {
    fn of(applier: &Applier, region: RegionId) -> Self {
        let source = applier.capture(region).unwrap().unwrap();
        let header = SnapshotHeader {
            transfer: 1,
            region,
            to: source.descriptor.replica_on(OWN).unwrap().id,
            index: source.index,
            index_term: source.term,
            descriptor: Arc::clone(&source.descriptor),
            absorbed: source.absorbed.encode(),
            first_chunk: 0,
            capture: CaptureId { store: StoreId(9), incarnation: Default::default(), number: 1 },
        };
        let mut chunks = Vec::new();
        source
            .stream(&mut |chunk| {
                chunks.push(chunk);
                Ok(())
            })
            .unwrap();
        Self { header, chunks }
    }

    fn install(&self) -> ApplyTask<()> {
        ApplyTask::Install { handle: handle(self.header.region), from: StoreId(9), header: self.header.clone() }
    }
}

fn entries(region: RegionId, entries: Vec<Entry>) -> ApplyTask<()> {
    ApplyTask::Entries { handle: handle(region), entries, replies: Vec::new() }
}

fn empty(index: u64) -> Entry {
    Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Empty, data: Payload::new() }
}

fn second(command: &AdminCommand) -> Entry {
    let data = Command::encode_admin(RegionEpoch { conf_version: 1, version: 1 }, &command.encode());
    Entry { kind: EntryKind::Command, data, ..empty(2) }
}

/// The entry of the target that absorbs the source.
fn commit(source: &Arc<RegionDescriptor>) -> Entry {
    second(&AdminCommand::CommitMerge { index: LogIndex(2), source: Arc::clone(source) })
}

/// The entry of the source that freezes it.
fn freeze() -> Entry {
    second(&AdminCommand::Freeze { target: region(TARGET, "m", "") })
}

/// What a worker hears of a batch, in order.
fn heard(mut batch: AppliedBatch<()>) -> Vec<(&'static str, RegionId, u64)> {
    let inputs = batch.take_inputs().into_iter();
    inputs
        .flat_map(|input| match input {
            Input::Applied(applied) => {
                applied.iter().map(|done| ("applied", done.handle.region, done.index.get())).collect()
            }
            Input::SnapshotInstalled(done) => {
                let what = if done.installed { "installed" } else { "not installed" };
                vec![(what, done.handle.region, done.header.index.get())]
            }
            Input::Stalled { handle, index } => vec![("stalled", handle.region, index.get())],
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_worker_hears_of_a_snapshot_before_it_hears_of_what_was_applied_after_it() {
    let mut there = Store::shared(true);
    let frozen = there.freeze();
    run(&mut there.target, entries(TARGET, vec![commit(&frozen), empty(3)]));
    let arrived = Arrived::of(&there.target, TARGET);
    let mut here = Store::shared(false);
    // The log has come further by itself meanwhile. What the snapshot has absorbed is news, and what was applied since newer.
    let tasks = vec![arrived.install(), entries(TARGET, vec![commit(&frozen), empty(3), empty(4)])];
    let (batch, end) = here.target.apply(tasks, &arrived);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    assert_eq!(heard(batch), [("installed", TARGET, 3), ("applied", TARGET, 2), ("applied", TARGET, 4)]);
}

#[test]
fn a_worker_hears_of_a_snapshot_before_it_hears_that_its_region_was_absorbed() {
    let mut there = Store::shared(true);
    let frozen = there.freeze();
    let arrived = Arrived::of(&there.source, SOURCE);
    let here = Store::shared(true);
    let mut both = here.backend.applier(here.backend.regions().unwrap());
    let (batch, end) = both.apply(vec![arrived.install(), entries(TARGET, vec![commit(&frozen)])], &arrived);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    assert_eq!(heard(batch), [("installed", SOURCE, 2), ("applied", TARGET, 2)]);
    // The other way round it is refused.
    let here = Store::shared(true);
    let mut both = here.backend.applier(here.backend.regions().unwrap());
    run(&mut both, entries(SOURCE, vec![freeze()]));
    let (batch, _) = both.apply(vec![entries(TARGET, vec![commit(&frozen)]), arrived.install()], &arrived);
    assert_eq!(heard(batch), [("applied", TARGET, 2), ("not installed", SOURCE, 2)]);
}

#[test]
fn entries_that_wait_for_a_source_go_on_behind_the_snapshot_that_comes_instead() {
    let mut there = Store::shared(true);
    let frozen = there.freeze();
    run(&mut there.target, entries(TARGET, vec![commit(&frozen), empty(3)]));
    let arrived = Arrived::of(&there.target, TARGET);
    let mut here = Store::shared(false);
    // What is applied after the merge comes while the snapshot is on its way, before it and after it.
    let tasks = vec![
        entries(TARGET, vec![commit(&frozen), empty(3), empty(4)]),
        arrived.install(),
        entries(TARGET, vec![empty(5)]),
    ];
    let (batch, end) = here.target.apply(tasks, &arrived);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    assert!(batch.parked.is_empty(), "nothing waits any more: {:?}", batch.parked);
    assert_eq!(here.target.applied(TARGET).unwrap().index, LogIndex(5));
    let expected = [
        ("stalled", TARGET, 2),
        ("installed", TARGET, 3),
        ("applied", TARGET, 2),
        ("applied", TARGET, 4),
        ("applied", TARGET, 5),
    ];
    assert_eq!(heard(batch), expected);
}
