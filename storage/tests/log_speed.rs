//! What encoding and recovery cost. Prints; run it with
//! `cargo test --release -p multiraft-storage --test log_speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log_harness::{batch, record, sized_entry};
use multiraft_storage::disk::{Disk, DiskFile, RealDisk};
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

/// How long this thread has run: other programs on the machine do not count, waiting for a disk neither.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// A disk that keeps nothing: what is left is the log's own work.
#[derive(Debug)]
struct Nowhere;

impl Disk for Nowhere {
    fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Nowhere))
    }

    fn open(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn nonce(&self) -> u64 {
        1
    }

    fn describe(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl DiskFile for Nowhere {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
}

#[test]
#[ignore = "a measurement"]
fn an_entry_costs_little_to_write() {
    let many = (20_000, 1, 16);
    let shapes = [(1, 1024, 16), (1, 1024, 128), (64, 16, 16), (64, 16, 128), (1024, 1, 16), (1024, 1, 128), many];
    for (groups, each, size) in shapes {
        let options = LogOptions { garbage_percent: 100_000, ..LogOptions::default() };
        let (mut log, ..) = LogWriter::open(Arc::new(Nowhere), options).unwrap();
        let mut spent = Duration::ZERO;
        let rounds = 400.min(400_000 / (groups * each));
        let all = batches(groups, each, size, rounds);
        for batch in all {
            let begun = on_cpu();
            log.commit(vec![batch]).unwrap();
            spent += on_cpu() - begun;
        }
        let per_entry = spent.as_nanos() / u128::from(rounds * groups * each);
        println!("{groups:5} groups x {each:4} entries of {size:3} bytes: {per_entry:4} ns an entry");
    }
}

#[test]
#[ignore = "a measurement"]
fn recovery_is_fast() {
    for (groups, each, size) in [(1000, 1, 64), (100, 10, 128), (100, 10, 1024), (100_000, 1, 64)] {
        let dir = tempfile::tempdir().unwrap();
        // Only this thread's time is looked at.
        let options = LogOptions { garbage_percent: 100_000, opening_threads: 1, ..LogOptions::default() };
        let open = || LogWriter::open(Arc::new(RealDisk::open(dir.path()).unwrap()), options).unwrap();
        let (mut log, ..) = open();
        let mut all = batches(groups, each, size, 60_000_000 / (groups * each * (size as u64 + 64)));
        for (round, one) in all.iter_mut().enumerate() {
            one.ticket.seq = round as u64 + 1;
        }
        while !all.is_empty() {
            log.commit(all.drain(..all.len().min(50)).collect()).unwrap();
        }
        let written = log.stats().bytes;
        drop(log);
        let begun = on_cpu();
        let (_, reader, recovered) = open();
        let took = on_cpu() - begun;
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
