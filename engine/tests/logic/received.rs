//! What a store keeps of captures that it sends and of snapshots that come in, on a simulated disk.

use std::sync::Arc;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft::snapshots::{Received, Reception, SnapshotFiles};
use multiraft::{Incarnation, LogIndex, RegionId, StoreId, Term};
use multiraft_raft::ReplicaId;
use multiraft_storage::{Disk, SimDisk};
use multiraft_transport::{CaptureId, SnapshotChunk, SnapshotHeader};

const REGION: RegionId = RegionId(2);

fn received() -> (SimDisk, Received) {
    let disk = SimDisk::new(5);
    let files = SnapshotFiles::open_on(Arc::new(disk.clone())).unwrap();
    (disk, Received::new(&files, false).unwrap())
}

fn capture(number: u64) -> CaptureId {
    CaptureId { store: StoreId(1), incarnation: Incarnation(1), number }
}

fn header(number: u64, first_chunk: u64) -> SnapshotHeader {
    SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: number,
        region: REGION,
        to: ReplicaId(2),
        index: LogIndex(100),
        index_term: Term(3),
        descriptor: Arc::clone(&bootstrap_regions(&[], &[StoreId(1), StoreId(2)])[1]),
        first_chunk,
        capture: capture(number),
    }
}

/// Chunk `number` of four.
fn chunk(number: u64) -> SnapshotChunk {
    let data = |number: u64| Bytes::from(vec![number as u8; 100]);
    let whole = (0..4).flat_map(data).collect::<Vec<u8>>();
    let last = number == 3;
    let whole_crc = if last { crc32c::crc32c(&whole) } else { 0 };
    SnapshotChunk { number, last, crc: crc32c::crc32c(&data(number)), data: data(number), whole_crc }
}

fn begun(received: &Received, chunks: u64) -> Reception {
    let mut reception = received.begin(&header(1, 0)).unwrap();
    (0..chunks).for_each(|number| reception.take(&chunk(number)).unwrap());
    reception
}

#[test]
fn a_transfer_of_the_same_capture_goes_on_with_what_is_there() {
    let (_, received) = received();
    let kept = received.keep(begun(&received, 2)).unwrap();
    assert_eq!((kept.region, kept.capture, kept.chunks, kept.bytes), (REGION, capture(1), 2, 200));
    assert_eq!(received.kept(REGION), Some(kept));
    let mut reception = received.begin(&header(1, 2)).unwrap();
    reception.take(&chunk(2)).unwrap();
    reception.take(&chunk(3)).unwrap();
    assert_eq!(received.kept(REGION), None);
}

#[test]
fn chunks_of_two_captures_are_never_put_together() {
    let (disk, received) = received();
    received.keep(begun(&received, 2)).unwrap();
    // The same region, index and term, from another scan.
    assert!(received.begin(&header(2, 2)).is_err());
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    // A sender that is wrong about the first chunk.
    received.keep(begun(&received, 2)).unwrap();
    assert!(received.begin(&header(1, 1)).is_err());
    // Should the names ever be wrong, the sum over the whole is as well.
    received.keep(begun(&received, 2)).unwrap();
    let mut reception = received.begin(&header(1, 2)).unwrap();
    let other = Bytes::from_static(b"of another scan");
    let other = SnapshotChunk { number: 2, last: false, crc: crc32c::crc32c(&other), data: other, whole_crc: 0 };
    reception.take(&other).unwrap();
    assert!(reception.take(&chunk(3)).is_err());
    assert_eq!(received.keep(reception), None, "nothing of it is worth anything");
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}

#[test]
fn damaged_and_misplaced_chunks_are_refused_and_what_came_before_stands() {
    let (_, received) = received();
    let mut reception = begun(&received, 2);
    assert!(reception.take(&chunk(3)).is_err());
    assert!(reception.take(&SnapshotChunk { crc: 1, ..chunk(2) }).is_err());
    assert_eq!(received.keep(reception).unwrap().chunks, 2);
}

#[test]
fn what_is_forgotten_or_begun_anew_leaves_no_file() {
    let (disk, received) = received();
    received.keep(begun(&received, 2)).unwrap();
    received.forget(REGION, capture(9));
    assert!(received.kept(REGION).is_some(), "that was another one");
    received.forget(REGION, capture(1));
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    received.keep(begun(&received, 2)).unwrap();
    drop(received.begin(&header(2, 0)).unwrap());
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    // Nothing at all was received.
    assert_eq!(received.keep(begun(&received, 0)), None);
}

#[test]
fn a_full_disk_ends_a_reception_for_good() {
    let (disk, received) = received();
    disk.set_capacity(Some(1000));
    let mut reception = received.begin(&header(1, 0)).unwrap();
    let data = Bytes::from(vec![7; 1 << 20]);
    let large = SnapshotChunk { number: 0, last: false, crc: crc32c::crc32c(&data), data, whole_crc: 0 };
    assert!(reception.take(&large).is_err());
    assert_eq!(received.keep(reception), None);
}
