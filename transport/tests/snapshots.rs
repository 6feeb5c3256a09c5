//! Snapshots: whole, resumed, held up, broken off, slowed down; and what they do to everybody else.

#![allow(clippy::print_stdout, reason = "tests tell what they measured")]

#[macro_use]
mod support;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use multiraft_raft::{
    Incarnation, KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_transport::{CaptureId, Lane, SnapshotChunk, SnapshotError, SnapshotHeader};
use support::{Net, Store, message, pair, pair_of};

on_every_network! {
    a_snapshot_arrives_whole_and_blocking_threads_can_take_part,
    a_broken_transfer_is_resumed_from_the_first_missing_chunk,
    either_side_can_give_a_transfer_up,
    chunks_out_of_order_or_too_long_are_refused_at_the_sender,
    a_receiver_that_does_not_read_holds_up_its_sender_only,
    the_throttle_holds_all_transfers_together,
    bulk_does_not_delay_small_messages,
    a_sender_that_waits_for_a_dead_receiver_is_freed_by_its_canceller,
    a_receiver_that_waits_for_a_dead_sender_is_freed_by_its_canceller_and_tells_the_sender,
    a_transfer_that_breaks_again_and_again_sends_little_twice,
    the_receivers_throttle_holds_all_transfers_together,
}

fn header(first_chunk: u64) -> SnapshotHeader {
    let descriptor = RegionDescriptor {
        id: RegionId(7),
        range: KeyRange::full(),
        epoch: RegionEpoch::FIRST,
        replicas: vec![Replica { id: ReplicaId(1), store: StoreId(1), role: Role::Voter }],
    };
    SnapshotHeader {
        absorbed: Bytes::from_static(&[1, 0]),
        transfer: 9,
        region: RegionId(7),
        to: ReplicaId(2),
        index: LogIndex(100),
        index_term: Term(3),
        descriptor: Arc::new(descriptor),
        first_chunk,
        capture: CaptureId { store: StoreId(1), incarnation: Incarnation(1), number: 9 },
    }
}

fn chunk(number: u64, last: bool, length: usize) -> SnapshotChunk {
    let whole_crc = if last { 77 } else { 0 };
    SnapshotChunk { number, last, data: Bytes::from(vec![number as u8; length]), crc: number as u32, whole_crc }
}

fn a_snapshot_arrives_whole_and_blocking_threads_can_take_part(net: &Net) {
    let (a, b) = pair(net);
    // Chunks of all sizes, also longer than the window and empty.
    let lengths = [0, 1, 1000, 100_000, 1 << 20, 4 << 20, 5];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
            for (number, length) in lengths.into_iter().enumerate() {
                let last = number + 1 == lengths.len();
                sender.send_blocking(chunk(number as u64, last, length)).expect("sent");
            }
            sender.finish_blocking().expect("all was read");
        });
        let (from, found, mut stream) = b.events.snapshot();
        assert_eq!((from, found), (StoreId(1), header(0)));
        for (number, length) in lengths.into_iter().enumerate() {
            let last = number + 1 == lengths.len();
            assert_eq!(stream.next_blocking(), Ok(Some(chunk(number as u64, last, length))));
        }
        assert_eq!(stream.next_blocking(), Ok(None));
    });
}

fn a_broken_transfer_is_resumed_from_the_first_missing_chunk(net: &Net) {
    let (a, b) = pair(net);
    let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    for number in 0..2 {
        sender.send_blocking(chunk(number, false, 1000)).expect("sent");
    }
    let (_, _, mut stream) = b.events.snapshot();
    for number in 0..2 {
        assert_eq!(stream.next_blocking(), Ok(Some(chunk(number, false, 1000))));
    }
    a.transport.disconnect(StoreId(2));
    assert_eq!(stream.next_blocking(), Err(SnapshotError::LinkLost));
    assert_eq!(sender.finish_blocking(), Err(SnapshotError::LinkLost));
    for store in [&a, &b] {
        store.events.down();
        store.events.up();
    }
    let mut sender = a.transport.open_snapshot(StoreId(2), header(2)).expect("up again");
    sender.send_blocking(chunk(2, true, 1000)).expect("sent");
    let (_, found, mut stream) = b.events.snapshot();
    assert_eq!(found.first_chunk, 2);
    assert_eq!(stream.next_blocking(), Ok(Some(chunk(2, true, 1000))));
    assert_eq!(stream.next_blocking(), Ok(None));
    sender.finish_blocking().expect("all was read");
}

fn either_side_can_give_a_transfer_up(net: &Net) {
    let (a, b) = pair(net);
    // The sender goes.
    let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    sender.send_blocking(chunk(0, false, 10)).expect("sent");
    let (_, _, mut stream) = b.events.snapshot();
    assert_eq!(stream.next_blocking(), Ok(Some(chunk(0, false, 10))));
    drop(sender);
    assert_eq!(stream.next_blocking(), Err(SnapshotError::Abandoned));
    // The receiver goes.
    let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    let (_, _, stream) = b.events.snapshot();
    drop(stream);
    let error = (0..).find_map(|number| sender.send_blocking(chunk(number, false, 100_000)).err());
    assert_eq!(error, Some(SnapshotError::Abandoned));
    // The link does not mind.
    a.transport.send(StoreId(2), Lane::Control, &[message(1, 1)]).expect("up");
    assert_eq!(b.events.messages(Lane::Control, 1), [message(1, 1)]);
    assert_eq!((a.events.link_events_left(), b.events.link_events_left()), (0, 0));
}

fn chunks_out_of_order_or_too_long_are_refused_at_the_sender(net: &Net) {
    let (a, _b) = pair(net);
    let mut sender = a.transport.open_snapshot(StoreId(2), header(3)).expect("up");
    let error = sender.send_blocking(chunk(4, false, 1));
    assert_eq!(error, Err(SnapshotError::OutOfOrder { expected: 3, found: 4 }));
    let limit = 4 << 20;
    let error = sender.send_blocking(chunk(3, false, limit + 1));
    assert_eq!(error, Err(SnapshotError::ChunkTooLarge { bytes: limit + 1, limit }));
    sender.send_blocking(chunk(3, true, 1)).expect("sent");
    assert!(matches!(sender.send_blocking(chunk(4, true, 1)), Err(SnapshotError::OutOfOrder { .. })));
    assert_eq!(a.transport.open_snapshot(StoreId(3), header(0)).err(), Some(SnapshotError::NotConnected(StoreId(3))));
}

fn a_receiver_that_does_not_read_holds_up_its_sender_only(net: &Net) {
    let (a, b) = pair(net);
    let mut stuck = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    let (_, _, mut unread) = b.events.snapshot();
    let mut going = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    let (_, _, mut read) = b.events.snapshot();
    thread::scope(|scope| {
        let stuck = scope.spawn(move || {
            (0..8)
                .for_each(|number| stuck.send_blocking(chunk(number, number == 7, 1 << 20)).expect("sent in the end"));
            stuck.finish_blocking()
        });
        let going = scope.spawn(move || {
            (0..8).for_each(|number| going.send_blocking(chunk(number, number == 7, 1 << 20)).expect("sent"));
            going.finish_blocking()
        });
        for number in 0..8 {
            assert_eq!(read.next_blocking(), Ok(Some(chunk(number, number == 7, 1 << 20))));
        }
        assert_eq!(going.join().expect("no panic"), Ok(()));
        assert!(!stuck.is_finished());
        for number in 0..8 {
            assert_eq!(unread.next_blocking(), Ok(Some(chunk(number, number == 7, 1 << 20))));
        }
        assert_eq!(stuck.join().expect("no panic"), Ok(()));
    });
}

/// How long two transfers of a mebibyte each take, side by side.
fn time_of_two(a: &Store, b: &Store) -> Duration {
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
            let (_, _, mut stream) = b.events.snapshot();
            scope.spawn(move || {
                sender.send_blocking(chunk(0, true, 1 << 20)).expect("sent");
                sender.finish_blocking().expect("all was read");
            });
            scope.spawn(move || while stream.next_blocking().expect("whole").is_some() {});
        }
    });
    started.elapsed()
}

fn the_throttle_holds_all_transfers_together(net: &Net) {
    let mut config = net.config(1, 1);
    config.snapshots.bytes_per_second = 4 << 20;
    let (a, b) = pair_of(config, net.config(2, 1));
    let took = time_of_two(&a, &b);
    println!("2 MiB at 4 MiB/s took {took:?}");
    // Half a second, less the burst.
    assert!(took >= Duration::from_millis(460), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Round trips of small messages, in microseconds, sorted.
fn round_trips(a: &support::Store, b: &support::Store, count: u64) -> Vec<u128> {
    let mut times: Vec<_> = (0..count)
        .map(|id| {
            let started = Instant::now();
            a.transport.send(StoreId(2), Lane::Control, &[message(id, 100)]).expect("room");
            b.events.messages(Lane::Control, 1);
            b.transport.send(StoreId(1), Lane::Control, &[message(id, 100)]).expect("room");
            a.events.messages(Lane::Control, 1);
            started.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times
}

fn bulk_does_not_delay_small_messages(net: &Net) {
    let mut config = net.config(1, 1);
    config.snapshots.bytes_per_second = 1 << 40;
    let (a, b) = pair_of(config, net.config(2, 1));
    let show = |what, times: &[u128]| {
        println!("{what}: p50 {} us, p99 {} us", times[times.len() / 2], times[times.len() * 99 / 100]);
    };
    let quiet = round_trips(&a, &b, 500);
    show("quiet", &quiet);
    let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    let (_, _, mut stream) = b.events.snapshot();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let loaded = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let last = is_over.load(std::sync::atomic::Ordering::Relaxed);
                sender.send_blocking(chunk(number, last, 1 << 20)).expect("sent");
                if last {
                    break;
                }
            }
        });
        scope.spawn(move || {
            let (started, mut bytes) = (Instant::now(), 0);
            while let Some(chunk) = stream.next_blocking().expect("whole") {
                bytes += chunk.data.len();
            }
            println!("bulk: {:.0} MB/s", bytes as f64 / started.elapsed().as_secs_f64() / 1e6);
        });
        let loaded = round_trips(&a, &b, 500);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        loaded
    });
    show("beside bulk", &loaded);
    // Loose: other tests share the machine.
    assert!(loaded[loaded.len() * 99 / 100] < 100_000, "{loaded:?}");
}

fn a_sender_that_waits_for_a_dead_receiver_is_freed_by_its_canceller(net: &Net) {
    let (a, b) = pair(net);
    let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    // Never read, and never dropped.
    let (_, _, mut unread) = b.events.snapshot();
    let canceller = sender.canceller();
    let error = thread::scope(|scope| {
        let stuck =
            scope.spawn(move || (0..).find_map(|number| sender.send_blocking(chunk(number, false, 1 << 20)).err()));
        while snapshot_bytes_sent(&a) < 100_000 {
            thread::yield_now();
        }
        assert!(!stuck.is_finished());
        canceller.cancel();
        stuck.join().expect("no panic")
    });
    assert_eq!(error, Some(SnapshotError::Cancelled));
    // The receiver learns it too, after what had arrived before.
    let end = (0..).find_map(|_| unread.next_blocking().err());
    assert_eq!(end, Some(SnapshotError::Abandoned));
}

fn a_receiver_that_waits_for_a_dead_sender_is_freed_by_its_canceller_and_tells_the_sender(net: &Net) {
    let (a, b) = pair(net);
    let mut sender = a.transport.open_snapshot(StoreId(2), header(0)).expect("up");
    let (_, _, mut stream) = b.events.snapshot();
    let canceller = stream.canceller();
    thread::scope(|scope| {
        let stuck = scope.spawn(move || stream.next_blocking());
        canceller.cancel();
        assert_eq!(stuck.join().expect("no panic"), Err(SnapshotError::Cancelled));
    });
    let error = (0..).find_map(|number| sender.send_blocking(chunk(number, false, 100_000)).err());
    assert_eq!(error, Some(SnapshotError::Abandoned));
}

fn a_transfer_that_breaks_again_and_again_sends_little_twice(net: &Net) {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: u64 = 64;
    let (a, b) = pair(net);
    let mut next = 0;
    let mut streams = 0;
    while next < CHUNKS {
        streams += 1;
        let mut sender = a.transport.open_snapshot(StoreId(2), header(next)).expect("up");
        let (_, found, mut stream) = b.events.snapshot();
        assert_eq!(found.first_chunk, next);
        // Each link but the last breaks when ten more chunks have arrived.
        let breaks_at = next + 10;
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in found.first_chunk..CHUNKS {
                    if sender.send_blocking(chunk(number, number + 1 == CHUNKS, CHUNK)).is_err() {
                        return;
                    }
                }
                let _ = sender.finish_blocking();
            });
            while let Ok(Some(received)) = stream.next_blocking() {
                assert_eq!(received, chunk(next, next + 1 == CHUNKS, CHUNK));
                next += 1;
                if next == breaks_at && next < CHUNKS {
                    a.transport.disconnect(StoreId(2));
                }
            }
        });
        if next < CHUNKS {
            for store in [&a, &b] {
                store.events.down();
                store.events.up();
            }
        }
    }
    let (sent, needed) = (snapshot_bytes_sent(&a), CHUNKS * CHUNK as u64);
    println!("{needed} bytes in {streams} streams: {} bytes sent beyond them", sent - needed);
    assert!(streams > 5);
    // What a break costs: a window that was on its way, the chunk that was not whole, and a header.
    let config = multiraft_transport::SnapshotConfig::default();
    let each = config.window_bytes as u64 + 2 * CHUNK as u64;
    assert!(sent - needed <= streams * each, "{sent} bytes for {needed}");
}

fn the_receivers_throttle_holds_all_transfers_together(net: &Net) {
    let mut config = net.config(2, 1);
    config.snapshots.receive_bytes_per_second = 4 << 20;
    let mut fast = net.config(1, 1);
    fast.snapshots.bytes_per_second = 0;
    let (a, b) = pair_of(fast, config);
    let took = time_of_two(&a, &b);
    // Half a second, less the burst.
    assert!(took >= Duration::from_millis(460), "{took:?}");
}

/// What a store has sent of snapshots to all others.
fn snapshot_bytes_sent(store: &support::Store) -> u64 {
    store.transport.status().iter().map(|peer| peer.snapshot_bytes_sent).sum()
}
