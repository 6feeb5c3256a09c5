//! A snapshot on its way out: read while it is written, read again, gone afterwards.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use multiraft_storage::snapshot::{SnapshotError, SnapshotStore, Spool, SpoolChunk};
use multiraft_storage::{Disk, SimDisk};

const NOW: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(20);

fn store() -> (SimDisk, SnapshotStore) {
    let disk = SimDisk::new(3);
    let (store, damaged) = SnapshotStore::open(Arc::new(disk.clone())).unwrap();
    assert!(damaged.is_empty());
    (disk, store)
}

fn data(number: u64) -> Bytes {
    Bytes::from(vec![number as u8; 1000 + number as usize])
}

fn read_all(spool: &Spool, from: u64) -> Vec<SpoolChunk> {
    let mut chunks = Vec::new();
    for number in from.. {
        let chunk = spool.read(number, PATIENCE).unwrap().unwrap();
        let is_last = chunk.is_last;
        chunks.push(chunk);
        if is_last {
            break;
        }
    }
    chunks
}

#[test]
fn a_snapshot_is_read_again_byte_for_byte_from_any_chunk() {
    for memory in [0, 3000, u64::MAX] {
        let (disk, store) = store();
        let spool = store.spool(memory);
        let mut whole = Vec::new();
        for number in 0..20 {
            spool.append(data(number)).unwrap();
            whole.extend_from_slice(&data(number));
        }
        assert_eq!(spool.read(19, NOW).unwrap(), None, "whether it is the last is not known yet");
        spool.finish();
        let first = read_all(&spool, 0);
        assert_eq!(
            first.iter().map(|chunk| chunk.data.clone()).collect::<Vec<_>>(),
            (0..20).map(data).collect::<Vec<_>>()
        );
        assert_eq!(first.last().unwrap().whole_crc, crc32c::crc32c(&whole));
        assert_eq!(read_all(&spool, 13), first[13..]);
        assert_eq!(spool.size(), (20, whole.len() as u64));
        assert_eq!(disk.list().unwrap().len(), usize::from(memory != u64::MAX), "small ones need no file");
        drop(spool);
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn readers_follow_the_writer() {
    let (_, store) = store();
    let spool = store.spool(2500);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read_all(&spool, 0).len())).collect();
        for number in 0..50 {
            spool.append(data(number)).unwrap();
            thread::yield_now();
        }
        spool.finish();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), 50);
        }
    });
}

#[test]
fn giving_up_frees_readers_and_stops_the_writer() {
    let (disk, store) = store();
    let spool = store.spool(0);
    spool.append(data(1)).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| spool.read(0, PATIENCE));
        spool.fail("nobody wants it");
        assert!(matches!(reader.join().unwrap(), Err(SnapshotError::Unfinished { .. })));
    });
    assert!(matches!(spool.append(data(2)), Err(SnapshotError::Unfinished { .. })));
    assert!(!spool.is_good());
    drop(spool);
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}

#[test]
fn an_empty_snapshot_has_one_empty_chunk() {
    let (_, store) = store();
    let spool = store.spool(0);
    spool.finish();
    assert_eq!(read_all(&spool, 0), [SpoolChunk { data: Bytes::new(), is_last: true, whole_crc: 0 }]);
}

#[test]
fn a_full_disk_fails_the_snapshot_and_leaves_nothing() {
    let (disk, store) = store();
    disk.set_capacity(Some(4096));
    let spool = store.spool(0);
    let error = (0..100).find_map(|number| spool.append(data(number)).err()).unwrap();
    assert!(matches!(error, SnapshotError::NoSpace { .. }), "{error}");
    assert!(matches!(spool.read(0, NOW), Err(SnapshotError::Unfinished { .. })));
    drop(spool);
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}
