//! The bytes of snapshot files: as they were when the format was released, and when they are damaged.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionId, Term};
use multiraft_storage::{
    SnapshotId, SnapshotItem, SnapshotStore,
    disk::{Disk, SimDisk},
};
use proptest::{collection::vec, prelude::*};

/// Written by version 1. Never to be changed: files of that version are out there.
const GOLDEN_V1: &[u8] = include_bytes!("snapshot_golden/v1.snap");
const NAME: &str = "snap-0000000000000003";

fn golden_items() -> Vec<SnapshotItem> {
    let item = |region, index, term, header: &'static str, chunks: &[&'static str]| SnapshotItem {
        id: SnapshotId { region: RegionId(region), index: LogIndex(index), term: Term(term) },
        header: header.into(),
        chunks: chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect(),
    };
    vec![
        item(2, 1_000, 7, "descriptor of region two", &["first chunk", "", "third chunk"]),
        item(u64::MAX, u64::MAX, u64::MAX, "", &[]),
        item(3, 5, 1, "h", &["x"]),
    ]
}

fn read_all(store: &SnapshotStore) -> Result<Vec<SnapshotItem>, String> {
    let mut items = Vec::new();
    for info in store.list() {
        let mut reader = store.read(info.id.region).map_err(|error| error.to_string())?.expect("it is in the list");
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk().map_err(|error| error.to_string())? {
            chunks.push(chunk);
        }
        items.push(SnapshotItem { id: reader.id(), header: reader.header().clone(), chunks });
    }
    Ok(items)
}

fn same(found: &[SnapshotItem], want: &[SnapshotItem]) -> bool {
    let plain = |items: &[SnapshotItem]| {
        let mut plain: Vec<_> =
            items.iter().map(|item| (item.id.region, item.id, item.header.clone(), item.chunks.clone())).collect();
        plain.sort_by_key(|(region, ..)| *region);
        plain.into_iter().map(|(_, id, header, chunks)| (id, header, chunks)).collect::<Vec<_>>()
    };
    plain(found) == plain(want)
}

fn written() -> Vec<u8> {
    let disk = SimDisk::new(0x0123_4567_89ab_cdef);
    SnapshotStore::open(Arc::new(disk.clone())).unwrap().0.save_many(golden_items()).unwrap();
    assert_eq!(disk.list().unwrap(), [NAME]);
    disk.content(NAME).unwrap()
}

fn store_with(bytes: &[u8]) -> (SnapshotStore, usize) {
    let disk = SimDisk::new(1);
    disk.install(NAME, bytes);
    let (store, damaged) = SnapshotStore::open(Arc::new(disk)).unwrap();
    (store, damaged.len())
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    let (store, damaged) = store_with(GOLDEN_V1);
    assert_eq!(damaged, 0);
    assert!(same(&read_all(&store).unwrap(), &golden_items()));
    assert!(written() == GOLDEN_V1, "the bytes have changed: that is a new version of the format");
}

/// Writes the golden file of the present version.
#[test]
#[ignore = "run once for each released version"]
fn write_the_golden_file() {
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshot_golden/v1.snap"), written()).unwrap();
}

/// A file either gives back what was saved, or an error.
fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let (store, damaged) = store_with(bytes);
    let Ok(found) = read_all(&store) else { return Ok(false) };
    if damaged > 0 {
        prop_assert!(found.is_empty());
        return Ok(false);
    }
    prop_assert!(same(&found, &golden_items()), "wrong data: {:?}", found);
    Ok(true)
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let good = written();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert!(!check(&bytes).unwrap(), "bit {bit} at {at}");
        }
        assert!(!check(&good[..at]).unwrap(), "cut at {at}");
    }
    assert!(!check(&[&good[..], b"\0"].concat()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_files_never_give_wrong_data(
        writes in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 1..40)), 1..4),
        moved in proptest::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..80usize)),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = written();
        for (at, with) in writes {
            let at = at.index(bytes.len());
            let len = with.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&with[..len]);
        }
        if let Some((from, to, len)) = moved {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let len = len.min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check(&bytes)?;
    }

    #[test]
    fn any_bytes_are_refused(bytes in vec(any::<u8>(), 0..300), start in any::<bool>()) {
        let bytes = if start { [&GOLDEN_V1[..32], &bytes[..]].concat() } else { bytes };
        prop_assert!(!check(&bytes)?);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_is_saved_comes_back(snapshots in vec((vec(any::<u8>(), 0..200), vec(vec(any::<u8>(), 0..2_000), 0..8)), 1..10)) {
        let items: Vec<SnapshotItem> = snapshots.into_iter().enumerate().map(|(number, (header, chunks))| SnapshotItem {
            id: SnapshotId { region: RegionId(number as u64), index: LogIndex(9), term: Term(2) },
            header: header.into(),
            chunks: chunks.into_iter().map(Bytes::from).collect(),
        }).collect();
        let disk = SimDisk::new(1);
        SnapshotStore::open(Arc::new(disk.clone())).unwrap().0.save_many(items.clone()).unwrap();
        let (store, _) = SnapshotStore::open(Arc::new(disk)).unwrap();
        prop_assert!(same(&read_all(&store).unwrap(), &items));
    }
}
