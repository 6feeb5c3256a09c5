//! What encoding and recovery cost. Prints; run it with
//! `cargo test --release -p multiraft-storage --test log_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::sync::Arc;
use std::time::Instant;

use log_harness::{batch, record, sized_entry};
use multiraft_storage::disk::{RealDisk, SimDisk};
use multiraft_storage::log::{LogBatch, LogChange, LogOptions, LogWriter};

fn batches(groups: u64, each: u64, size: usize, rounds: u64) -> Vec<LogBatch> {
    let turn = |round: u64| {
        let entries = |group: u64| {
            let first = round * each + 1;
            record(
                group + 1,
                LogChange::Append((first..first + each).map(|index| sized_entry(1, index, size)).collect()),
            )
        };
        batch(0, round + 1, (0..groups).map(entries).collect())
    };
    (0..rounds).map(turn).collect()
}

#[test]
#[ignore = "a measurement"]
fn an_entry_costs_little_to_write() {
    for (groups, each, size) in
        [(1, 1024, 16), (1, 1024, 128), (64, 16, 16), (64, 16, 128), (1024, 1, 16), (1024, 1, 128)]
    {
        let options = LogOptions { garbage_percent: 100_000, ..LogOptions::default() };
        let (mut log, ..) = LogWriter::open(Arc::new(SimDisk::new(1)), options).unwrap();
        let mut spent = std::time::Duration::ZERO;
        let all = batches(groups, each, size, 400);
        for batch in all {
            let begun = Instant::now();
            log.commit(vec![batch]).unwrap();
            spent += begun.elapsed();
        }
        let per_entry = spent.as_nanos() / (400 * u128::from(groups * each));
        println!(
            "{groups:5} groups x {each:4} entries of {size:3} bytes: {per_entry:4} ns an entry, simulated disk included"
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn recovery_is_fast() {
    for (groups, each, size) in [(1000, 1, 64), (100, 10, 128), (100, 10, 1024)] {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { garbage_percent: 100_000, ..LogOptions::default() };
        let open = || LogWriter::open(Arc::new(RealDisk::open(dir.path()).unwrap()), options).unwrap();
        let (mut log, ..) = open();
        let mut written = 0;
        for (round, mut one) in
            batches(groups, each, size, u64::MAX.min(2_500_000 / (groups * each * (1 + size as u64 / 128))))
                .into_iter()
                .enumerate()
        {
            one.ticket.seq = round as u64 + 1;
            log.commit(vec![one]).unwrap();
            written = log.stats().bytes;
        }
        drop(log);
        let begun = Instant::now();
        let (_, reader, recovered) = open();
        let took = begun.elapsed();
        assert_eq!(recovered.groups.len() as u64, groups);
        println!(
            "{groups:5} groups x {each:4} entries of {size:4} bytes: {:4} MB in {:6.3} s, {:5.0} MB/s; index {} MB",
            written >> 20,
            took.as_secs_f64(),
            written as f64 / 1e6 / took.as_secs_f64(),
            reader.index_bytes() >> 20
        );
    }
}
