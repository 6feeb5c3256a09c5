//! Measurements, not checks: `cargo test --release -p multiraft-storage --test state_speed -- --ignored --nocapture`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft_storage::{MemStore, SledConfig, SledStore, StateBatch, StateStore};

/// A full-period walk through 64 bits: keys without order, the same in every run.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("user/{:016x}", scattered(number)).into_bytes())
}

/// Writes `count` puts in batches of `size`, over `keys` different keys; answers the time spent in the store and the longest
/// single batch.
fn put(store: &dyn StateStore, count: u64, keys: u64, size: u64) -> (Duration, Duration) {
    let (mut total, mut longest) = (Duration::ZERO, Duration::ZERO);
    for first in (0..count).step_by(size as usize) {
        let mut batch = StateBatch::new();
        for number in first..(first + size).min(count) {
            batch.put(key(number % keys), Bytes::copy_from_slice(&number.to_be_bytes()));
        }
        let start = Instant::now();
        store.write(batch).unwrap();
        let took = start.elapsed();
        total += took;
        longest = longest.max(took);
    }
    (total, longest)
}

fn report(what: &str, count: u64, (total, longest): (Duration, Duration)) {
    println!("{what:<60} {:>7.2} M puts/s, longest batch {longest:?}", count as f64 / total.as_secs_f64() / 1e6);
}

#[test]
#[ignore = "a measurement"]
fn mem_store_puts() {
    for (keys, size) in [(10_000, 500), (100_000, 500), (1_000_000, 500), (1_000_000, 5_000)] {
        let store = MemStore::new();
        report(&format!("mem: {keys} new keys, {size} a batch"), keys, put(&store, keys, keys, size));
        report(&format!("mem: {keys} keys overwritten, {size} a batch"), 2_000_000, put(&store, 2_000_000, keys, size));
        let mut snapshot = store.snapshot(b"", b"").unwrap();
        report(&format!("mem: {keys} keys, under an open snapshot"), 1_000_000, put(&store, 1_000_000, keys, size));
        let (start, mut pairs) = (Instant::now(), 0);
        loop {
            let chunk = snapshot.next_chunk(256 * 1024).unwrap().len();
            if chunk == 0 {
                break;
            }
            pairs += chunk;
        }
        println!("mem: scan of {pairs} pairs took {:?}", start.elapsed());
    }
}

/// What the standard library's map does with the same batches: a yardstick, without views, snapshots or locks.
#[test]
#[ignore = "a measurement"]
fn btree_map_puts() {
    for (keys, size) in [(10_000, 500), (100_000, 500), (1_000_000, 500)] {
        let mut map = std::collections::BTreeMap::new();
        for round in ["new", "overwritten"] {
            let mut total = Duration::ZERO;
            for first in (0..keys).step_by(size) {
                let mut batch = StateBatch::new();
                (first..first + size as u64).for_each(|number| batch.put(key(number), number.to_be_bytes().to_vec()));
                let start = Instant::now();
                for op in batch.into_ops() {
                    if let multiraft_storage::StateOp::Put { key, value } = op {
                        map.insert(key, value);
                    }
                }
                total += start.elapsed();
            }
            report(&format!("BTreeMap: {keys} {round} keys, {size} a batch"), keys, (total, Duration::ZERO));
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn sled_store_puts() {
    for keys in [10_000, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path(), SledConfig::default()).unwrap();
        report(&format!("sled: {keys} new keys, 500 a batch"), keys, put(&store, keys, keys, 500));
        report(&format!("sled: {keys} keys overwritten, 500 a batch"), 100_000, put(&store, 100_000, keys, 500));
        let start = Instant::now();
        store.flush().unwrap();
        println!("sled: flush of what is left took {:?}", start.elapsed());
        let start = Instant::now();
        for number in 0..10 {
            put(&store, 500, 500 + number, 500);
            store.flush().unwrap();
        }
        println!("sled: a batch of 500 and a flush take {:?}", start.elapsed() / 10);
        let _snapshot = store.snapshot(b"", b"").unwrap();
        report(&format!("sled: {keys} keys, under an open snapshot"), 50_000, put(&store, 50_000, keys, 500));
    }
}
