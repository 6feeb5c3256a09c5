//! What a snapshot store keeps, finds, removes and takes up again.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionId, Term};
use multiraft_storage::{
    SnapshotError, SnapshotId, SnapshotInfo, SnapshotItem, SnapshotStore,
    disk::{CrashStyle, Disk, RealDisk, SimDisk},
    snapshot::CHUNK_BYTES_MAX,
};

fn id(region: u64, index: u64) -> SnapshotId {
    SnapshotId { region: RegionId(region), index: LogIndex(index), term: Term(index / 10 + 1) }
}

/// The contents tell the snapshot.
fn item(region: u64, index: u64) -> SnapshotItem {
    let chunks = (0..3).map(|chunk| Bytes::from(format!("chunk {chunk} of {region} at {index}"))).collect();
    SnapshotItem { id: id(region, index), header: format!("header of {region} at {index}").into(), chunks }
}

fn open(disk: &SimDisk) -> SnapshotStore {
    let (store, damaged) = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
    assert_eq!(damaged, []);
    store
}

fn index_of(store: &SnapshotStore, region: u64) -> Option<u64> {
    store.latest(RegionId(region)).map(|info| info.id.index.get())
}

fn read(store: &SnapshotStore, region: u64) -> Option<SnapshotItem> {
    let mut reader = store.read(RegionId(region)).unwrap()?;
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    assert_eq!(reader.chunks(), chunks.len() as u64);
    Some(SnapshotItem { id: reader.id(), header: reader.header().clone(), chunks })
}

#[track_caller]
fn assert_reads(store: &SnapshotStore, region: u64, index: u64) {
    let (found, want) = (read(store, region).expect("it is saved"), item(region, index));
    assert_eq!((found.id, &found.header, &found.chunks), (want.id, &want.header, &want.chunks));
}

fn containers(disk: &SimDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| name.starts_with("snap-")).count()
}

#[test]
fn a_saved_snapshot_comes_back_after_a_crash() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    assert!(read(&store, 7).is_none());
    store.save(item(7, 100)).unwrap();
    assert_reads(&store, 7, 100);
    disk.crash(CrashStyle::LoseAll, 0);
    let store = open(&disk);
    assert_reads(&store, 7, 100);
    let bytes = item(7, 100).chunks.iter().map(|chunk| chunk.len() as u64).sum();
    assert_eq!(store.list(), [SnapshotInfo { id: id(7, 100), chunks: 3, bytes }]);
    store.verify(RegionId(7)).unwrap();
    store.verify(RegionId(8)).unwrap();
}

#[test]
fn a_newer_snapshot_replaces_an_older_one_and_its_file() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    for index in [10, 20, 20, 30] {
        store.save(item(7, index)).unwrap();
        assert_eq!(containers(&disk), 1);
    }
    assert_reads(&store, 7, 30);
    assert!(matches!(
        store.save(item(7, 29)),
        Err(SnapshotError::Older { saved: LogIndex(30), given: LogIndex(29), .. })
    ));
    assert!(matches!(store.begin(id(7, 29), b""), Err(SnapshotError::Older { .. })));
    assert!(matches!(store.receive(id(7, 29), b""), Err(SnapshotError::Older { .. })));
    assert_reads(&open(&disk), 7, 30);
}

#[test]
fn ten_thousand_regions_cost_the_syncs_of_one() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let before = disk.syncs();
    store.save(item(1, 1)).unwrap();
    let one = disk.syncs() - before;
    store.save_many((1..=10_000).map(|region| item(region, 5)).collect()).unwrap();
    // One more, as a large file is made durable before it waits for its turn; and one as the first region's old file goes.
    assert!(disk.syncs() - before - one <= one + 2, "{one} and {}", disk.syncs() - before - one);
    assert_eq!(store.list().len(), 10_000);
    disk.crash(CrashStyle::LoseAll, 0);
    let store = open(&disk);
    (1..=10_000).step_by(777).for_each(|region| assert_reads(&store, region, 5));
    assert_eq!(containers(&disk), 1);
}

#[test]
fn a_shared_file_stays_until_all_its_snapshots_are_superseded() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.save_many((1..=3).map(|region| item(region, 5)).collect()).unwrap();
    store.save(item(1, 6)).unwrap();
    store.save(item(2, 6)).unwrap();
    assert_eq!(containers(&disk), 3);
    assert_reads(&store, 3, 5);
    store.save(item(3, 6)).unwrap();
    assert_eq!(containers(&disk), 3);
    (1..=3).for_each(|region| assert_reads(&open(&disk), region, 6));
}

#[test]
fn a_removed_snapshot_stays_removed_and_leaves_nothing() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.save_many(vec![item(1, 5), item(2, 5)]).unwrap();
    store.remove(RegionId(1)).unwrap();
    store.remove_many(&[RegionId(1), RegionId(99)]).unwrap();
    assert_eq!(index_of(&store, 1), None);
    disk.crash(CrashStyle::LoseAll, 0);
    let store = open(&disk);
    assert_eq!((index_of(&store, 1), index_of(&store, 2)), (None, Some(5)));
    // After a removal a lower index is no step back.
    store.save(item(1, 3)).unwrap();
    assert_eq!(index_of(&open(&disk), 1), Some(3));
    store.remove_many(&[RegionId(1), RegionId(2)]).unwrap();
    assert_eq!((store.list(), containers(&disk)), (vec![], 0));
    assert_eq!(open(&disk).list(), []);
}

#[test]
fn compaction_keeps_what_counts_and_drops_the_rest() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.save_many((1..=100).map(|region| item(region, 5)).collect()).unwrap();
    store.save_many((1..=95).map(|region| item(region, 6)).collect()).unwrap();
    store.remove(RegionId(96)).unwrap();
    assert_eq!(containers(&disk), 3);
    let used = disk.used();
    assert!(store.compact(u64::MAX).unwrap());
    assert!(disk.used() < used);
    assert!(!store.compact(u64::MAX).unwrap());
    disk.crash(CrashStyle::LoseAll, 0);
    for store in [&store, &open(&disk)] {
        assert_eq!(store.list().len(), 99);
        assert_eq!((index_of(store, 1), index_of(store, 96), index_of(store, 100)), (Some(6), None, Some(5)));
    }
    assert_reads(&open(&disk), 100, 5);
}

#[test]
fn many_small_files_are_put_together() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (1..=100).for_each(|region| store.save(item(region, 5)).unwrap());
    assert_eq!(containers(&disk), 100);
    // A bound on the work: about a tenth of it at once.
    let bytes = store.list().iter().map(|info| info.bytes).sum::<u64>() / 10;
    assert!(store.compact(bytes).unwrap());
    assert!((85..=95).contains(&containers(&disk)));
    while store.compact(u64::MAX).unwrap() {}
    assert!(containers(&disk) <= 64);
    let store = open(&disk);
    (1..=100).for_each(|region| assert_reads(&store, region, 5));
}

#[test]
fn a_reader_goes_on_while_its_snapshot_is_superseded() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.save(item(7, 10)).unwrap();
    let mut reader = store.read(RegionId(7)).unwrap().unwrap();
    assert_eq!(reader.next_chunk().unwrap().unwrap(), item(7, 10).chunks[0]);
    store.save(item(7, 20)).unwrap();
    store.save(item(7, 30)).unwrap();
    assert_eq!(containers(&disk), 2);
    assert_eq!(reader.next_chunk().unwrap().unwrap(), item(7, 10).chunks[1]);
    assert_eq!(reader.next_chunk().unwrap().unwrap(), item(7, 10).chunks[2]);
    assert_eq!(reader.next_chunk().unwrap(), None);
    assert_eq!(reader.next_chunk().unwrap(), None);
    drop(reader);
    store.save(item(7, 40)).unwrap();
    assert_eq!(containers(&disk), 1);
}

#[test]
fn a_local_snapshot_counts_from_its_finish_on() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let want = item(7, 10);
    let mut writer = store.begin(want.id, &want.header).unwrap();
    want.chunks.iter().for_each(|chunk| writer.append(chunk).unwrap());
    assert_eq!((writer.id(), writer.chunks()), (want.id, 3));
    assert_eq!(index_of(&store, 7), None);
    let info = writer.finish().unwrap();
    assert_eq!(store.latest(RegionId(7)), Some(info));
    disk.crash(CrashStyle::LoseAll, 0);
    assert_reads(&open(&disk), 7, 10);

    let store = open(&disk);
    for is_aborted in [false, true] {
        let mut writer = store.begin(id(7, 20), b"").unwrap();
        writer.append(&vec![1; 1_000_000]).unwrap();
        if is_aborted {
            writer.abort();
        } else {
            drop(writer);
        }
        assert_eq!(disk.list().unwrap().len(), 1);
    }
    // What a crash leaves of one is cleaned up.
    let mut writer = store.begin(id(7, 20), b"").unwrap();
    writer.append(&vec![1; 1_000_000]).unwrap();
    disk.crash(CrashStyle::KeepAll, 0);
    std::mem::forget(writer);
    assert_eq!(disk.list().unwrap().len(), 2);
    assert_reads(&open(&disk), 7, 10);
    assert_eq!(disk.list().unwrap().len(), 1);
}

fn chunk(number: u64) -> Vec<u8> {
    (0..50_000 + number * 1_000).map(|at| (at * (number + 1)) as u8).collect()
}

#[test]
fn a_received_snapshot_is_taken_up_where_it_was_left() {
    for (style, seed) in [CrashStyle::KeepAll, CrashStyle::Mix, CrashStyle::LoseAll]
        .into_iter()
        .flat_map(|style| (0..8).map(move |seed| (style, seed)))
    {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        let mut writer = store.receive(id(7, 10), b"header").unwrap();
        (0..7).for_each(|number| writer.append(&chunk(number)).unwrap());
        drop(writer);
        assert_eq!(store.receive(id(7, 10), b"header").unwrap().chunks(), 7, "it is taken up within the process");
        disk.sync_dir().unwrap();
        disk.crash(style, seed);
        let store = open(&disk);
        assert_eq!(store.partials().unwrap(), [id(7, 10)]);
        let mut writer = store.receive(id(7, 10), b"header").unwrap();
        let kept = writer.chunks();
        assert!(kept <= 7 && (style != CrashStyle::KeepAll || kept == 7));
        (kept..9).for_each(|number| writer.append(&chunk(number)).unwrap());
        let info = writer.finish().unwrap();
        assert_eq!(info.chunks, 9);
        disk.crash(CrashStyle::LoseAll, seed);
        let store = open(&disk);
        assert_eq!(store.partials().unwrap(), []);
        let mut reader = store.read(RegionId(7)).unwrap().unwrap();
        assert_eq!(reader.header(), "header");
        (0..9).for_each(|number| assert_eq!(reader.next_chunk().unwrap().unwrap(), chunk(number)));
        assert_eq!(reader.next_chunk().unwrap(), None);
    }
}

#[test]
fn what_was_received_of_another_snapshot_is_not_taken_up() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let mut writer = store.receive(id(7, 10), b"header").unwrap();
    writer.append(b"chunk").unwrap();
    drop(writer);
    assert_eq!(store.receive(id(7, 11), b"header").unwrap().chunks(), 0);
    assert_eq!(store.receive(id(8, 10), b"header").unwrap().chunks(), 0);
    assert_eq!(store.receive(id(7, 10), b"another").unwrap().chunks(), 0);
    assert_eq!(store.partials().unwrap(), [id(7, 10), id(7, 11), id(8, 10)]);
    store.discard_partials(|partial| partial.region == RegionId(8)).unwrap();
    assert_eq!(store.partials().unwrap(), [id(8, 10)]);
    store.receive(id(8, 10), b"header").unwrap().abort();
    assert_eq!(store.partials().unwrap(), []);
}

#[test]
fn a_shorter_end_than_what_was_left_is_found_all_the_same() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let mut writer = store.receive(id(7, 10), b"").unwrap();
    writer.append(b"first").unwrap();
    writer.append(&vec![1; 20_000_000 / 3]).unwrap();
    drop(writer);
    let name = disk.list().unwrap().pop().unwrap();
    assert!(disk.corrupt(&name, 2_000_000, 1));
    let mut writer = store.receive(id(7, 10), b"").unwrap();
    assert_eq!(writer.chunks(), 1);
    writer.append(b"second").unwrap();
    writer.finish().unwrap();
    let mut reader = open(&disk).read(RegionId(7)).unwrap().unwrap();
    assert_eq!(reader.next_chunk().unwrap().unwrap(), "first");
    assert_eq!(reader.next_chunk().unwrap().unwrap(), "second");
    assert_eq!(reader.next_chunk().unwrap(), None);
}

#[test]
fn a_full_disk_fails_the_save_and_nothing_else() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.save(item(7, 10)).unwrap();
    disk.set_capacity(Some(disk.used() + 1_000));
    let mut large = item(7, 20);
    large.chunks.push(vec![1; 1_000_000].into());
    assert!(matches!(store.save(large.clone()), Err(SnapshotError::NoSpace { .. })));
    let mut writer = store.receive(id(8, 20), b"").unwrap();
    writer.append(&[1; 700]).unwrap();
    assert!(matches!(writer.finish(), Err(SnapshotError::NoSpace { .. })) || disk.used() < 1_000_000);
    assert_reads(&store, 7, 10);
    disk.set_capacity(None);
    store.save(large).unwrap();
    assert_eq!(index_of(&open(&disk), 7), Some(20));
}

#[test]
fn a_received_snapshot_survives_a_full_disk_at_its_finish() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let mut writer = store.receive(id(8, 20), b"").unwrap();
    (0..9).for_each(|number| writer.append(&chunk(number)).unwrap());
    drop(writer);
    let writer = store.receive(id(8, 20), b"").unwrap();
    disk.set_capacity(Some(disk.used()));
    assert!(matches!(writer.finish(), Err(SnapshotError::NoSpace { .. })));
    disk.set_capacity(None);
    let writer = store.receive(id(8, 20), b"").unwrap();
    assert_eq!(writer.chunks(), 9);
    writer.finish().unwrap();
    store.verify(RegionId(8)).unwrap();
}

#[test]
fn after_a_failed_sync_nothing_is_saved_any_more() {
    for syncs in 0..2 {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        store.save(item(7, 10)).unwrap();
        disk.fail_sync_after(syncs);
        assert!(store.save(item(7, 20)).is_err());
        assert!(matches!(store.save(item(7, 30)), Err(SnapshotError::Poisoned { .. })));
        assert!(matches!(store.remove(RegionId(7)), Err(SnapshotError::Poisoned { .. })));
        assert!(matches!(store.receive(id(7, 30), b""), Err(SnapshotError::Poisoned { .. })));
        assert_reads(&store, 7, 10);
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let store = open(&SimDisk::new(1));
    let mut long = item(7, 10);
    long.chunks.push(vec![0; CHUNK_BYTES_MAX + 1].into());
    assert!(matches!(store.save(long), Err(SnapshotError::TooLong { .. })));
    let mut long = item(7, 10);
    long.header = vec![0; multiraft_storage::snapshot::HEADER_BYTES_MAX + 1].into();
    assert!(matches!(store.save(long), Err(SnapshotError::TooLong { .. })));
    let mut longest = item(7, 10);
    longest.header = vec![1; multiraft_storage::snapshot::HEADER_BYTES_MAX].into();
    longest.chunks = vec![vec![2; CHUNK_BYTES_MAX].into(), Bytes::new()];
    store.save(longest.clone()).unwrap();
    assert_eq!(read(&store, 7).unwrap().chunks, longest.chunks);
}

#[test]
fn damage_is_named_and_the_other_files_go_on() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.save_many(vec![item(1, 5), item(2, 5)]).unwrap();
    let name = disk.list().unwrap().pop().unwrap();
    store.save(item(3, 5)).unwrap();
    let len = disk.content(&name).unwrap().len() as u64;

    // In the data: found when it is read, with its region.
    let torn = disk.fork();
    assert!(torn.corrupt(&name, 32 + 12 + 24 + 15 + 12 + 3, 4));
    let error = open(&torn).verify(RegionId(1)).unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { region: Some(RegionId(1)), offset: 32.., .. }), "{error}");
    open(&torn).verify(RegionId(2)).unwrap();

    // At the end: found at once, with all regions.
    let torn = disk.fork();
    assert!(torn.corrupt(&name, len - 5, 4));
    let (store, damaged) = SnapshotStore::open(Arc::new(torn.clone())).unwrap();
    assert_eq!(damaged.len(), 1);
    assert_eq!((&damaged[0].file, &damaged[0].regions), (&torn.describe(&name), &vec![RegionId(1), RegionId(2)]));
    assert_eq!((index_of(&store, 1), index_of(&store, 3)), (None, Some(5)));
    store.save(item(1, 6)).unwrap();
    assert!(torn.content(&name).is_some(), "damaged files are left for the operator");

    // Cut off.
    let torn = disk.fork();
    torn.install(&name, &disk.content(&name).unwrap()[..len as usize / 2]);
    let (_, damaged) = SnapshotStore::open(Arc::new(torn)).unwrap();
    assert_eq!(damaged[0].regions.first(), Some(&RegionId(1)));
}

#[test]
fn it_works_in_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SnapshotStore::open(Arc::new(RealDisk::open(dir.path()).unwrap())).unwrap().0;
    let store = open();
    store.save_many((1..=500).map(|region| item(region, 5)).collect()).unwrap();
    let mut writer = store.receive(id(7, 10), b"header").unwrap();
    (0..20).for_each(|number| writer.append(&chunk(number)).unwrap());
    drop((writer, store));
    let store = open();
    let writer = store.receive(id(7, 10), b"header").unwrap();
    assert_eq!(writer.chunks(), 20);
    writer.finish().unwrap();
    store.remove(RegionId(9)).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.list().len(), 499);
    assert_eq!(index_of(&store, 7), Some(10));
    assert_reads(&store, 500, 5);
    store.verify(RegionId(7)).unwrap();
}
