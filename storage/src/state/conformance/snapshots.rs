//! Snapshots: one instant, piece by piece, whatever is written meanwhile.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;

use super::{Open, drain, keys, put, scan, write};
use crate::state::{StateBatch, StateStore};

/// A chunk holds at least one pair, and no second one that would carry it beyond its bytes; after the last one all are empty.
///
/// # Panics
/// If not.
pub fn chunks_are_bounded_and_never_empty_before_the_end<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    write(&store, |batch| {
        (0..100u8).for_each(|number| batch.put(vec![number], vec![number; if number == 50 { 10_000 } else { 99 }]));
    });
    let all = scan(&store, b"", b"");
    for max_bytes in [0, 1, 100, 250, 1_000, 5_000, 1 << 20] {
        let mut snapshot = store.snapshot(b"", b"").expect("a snapshot is opened");
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            let chunk = snapshot.next_chunk(max_bytes).expect("a chunk is read");
            assert!(!chunk.is_empty(), "an empty chunk before the end");
            let bytes: usize = chunk.iter().map(|(key, value)| key.len() + value.len()).sum();
            let last = chunk.last().map_or(0, |(key, value)| key.len() + value.len());
            assert!(
                chunk.len() == 1 || bytes - last < max_bytes.max(1),
                "{} pairs of {bytes} bytes in a chunk of {max_bytes}",
                chunk.len()
            );
            seen.extend(chunk);
        }
        assert_eq!(seen, all);
        assert!(snapshot.next_chunk(max_bytes).expect("a chunk is read").is_empty());
        assert!(snapshot.next_chunk(max_bytes).expect("a chunk is read").is_empty());
    }
}

/// Several open snapshots show each its own instant and range.
///
/// # Panics
/// If not.
pub fn snapshots_are_independent<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    put(&store, &[("a", "1"), ("c", "1"), ("e", "1")]);
    let mut first = store.snapshot(b"", b"").expect("a snapshot is opened");
    let first_want = scan(&store, b"", b"");
    write(&store, |batch| {
        batch.put("a", "2");
        batch.put("b", "2");
        batch.delete("c");
    });
    let mut second = store.snapshot(b"b", b"e").expect("a snapshot is opened");
    let second_want = scan(&store, b"b", b"e");
    let mut dropped = store.snapshot(b"", b"").expect("a snapshot is opened");
    assert_eq!(keys(&dropped.next_chunk(1).expect("a chunk is read")), [b"a"]);
    write(&store, |batch| {
        batch.delete("a");
        batch.put("b", "3");
        batch.put("c", "3");
        batch.put("e", "3");
    });
    drop(dropped);
    assert_eq!(drain(&mut *second, 1), second_want);
    assert_eq!(drain(&mut *first, 1), first_want);
    assert_eq!(keys(&scan(&store, b"", b"")), [b"b", b"c", b"e"]);
}

/// What a range removal takes from the store stays in the snapshots that were open.
///
/// # Panics
/// If not.
pub fn delete_range_does_not_reach_into_a_snapshot<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    write(&store, |batch| (0..1_000u32).for_each(|number| batch.put(number.to_be_bytes().to_vec(), vec![1; 10])));
    let want = scan(&store, b"", b"");
    let mut snapshot = store.snapshot(b"", b"").expect("a snapshot is opened");
    let mut seen = snapshot.next_chunk(1_000).expect("a chunk is read");
    write(&store, |batch| {
        batch.delete_range("", "");
        batch.put(500u32.to_be_bytes().to_vec(), "new");
    });
    let mut later = store.snapshot(b"", b"").expect("a snapshot is opened");
    seen.extend(snapshot.next_chunk(1_000).expect("a chunk is read"));
    write(&store, |batch| batch.put(999u32.to_be_bytes().to_vec(), "new"));
    seen.extend(drain(&mut *snapshot, 1_000));
    assert_eq!(seen, want);
    assert_eq!(keys(&drain(&mut *later, 1_000)), [500u32.to_be_bytes()]);
}

/// While a writer overwrites, removes and adds, in the order of the scan and against it, a snapshot reads what was there when
/// it was opened.
///
/// # Panics
/// If not.
pub fn snapshot_stands_still_under_writers<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    const KEYS: u32 = 1_000;
    let store = open(Open::Fresh);
    let key = |number: u32| Bytes::from(format!("k{number:06}"));
    write(&store, |batch| (0..KEYS).step_by(2).for_each(|number| batch.put(key(number), "0")));
    let (done, between_writes) = (AtomicBool::new(false), Mutex::new(()));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 0u32;
            while !done.load(Ordering::Acquire) {
                round += 1;
                let mut batch = StateBatch::new();
                for step in 0..20 {
                    let number = round.wrapping_mul(7_919).wrapping_add(step * 37) % KEYS;
                    if round.wrapping_add(step).is_multiple_of(3) {
                        batch.delete(key(number));
                    } else {
                        batch.put(key(number), round.to_string());
                    }
                }
                if round.is_multiple_of(16) {
                    batch.delete_range(key(round % KEYS), key((round + 40) % KEYS));
                }
                let _turn = between_writes.lock().expect("nobody panics with it");
                store.write(batch).expect("a batch is written");
            }
        });
        for _ in 0..10 {
            let (want, mut snapshot) = {
                let _paused = between_writes.lock().expect("nobody panics with it");
                let snapshot = store.snapshot(&key(100), &key(900)).expect("a snapshot is opened");
                (scan(&store, &key(100), &key(900)), snapshot)
            };
            assert_eq!(drain(&mut *snapshot, 300), want, "the snapshot moved");
        }
        done.store(true, Ordering::Release);
        writer.join().expect("the writer does not panic");
    });
}
