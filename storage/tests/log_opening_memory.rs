//! What opening a log takes in memory while it is at it, counted by an allocator.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it has counted")]

mod log_harness;

use std::sync::Arc;

use log_harness::{batch, record, sized_entry};
use multiraft_storage::disk::SimDisk;
use multiraft_storage::log::{GroupRecord, LogChange, LogOptions, LogWriter};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// How much more than before, and than in the end, is allocated while the log is opened.
fn peak(disk: &SimDisk, options: LogOptions, threads: usize) -> usize {
    let options = LogOptions { opening_threads: threads, ..options };
    ALLOCATED.reset_peak_usage();
    let opened = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    let (peak, held) = (ALLOCATED.peak_usage(), ALLOCATED.current_usage());
    drop(opened);
    peak - held
}

/// A log of about so many bytes that was written by these commits.
fn log(options: LogOptions, bytes: usize, mut records: impl FnMut(u64) -> Vec<GroupRecord>) -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut log, ..) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    for seq in 1.. {
        log.commit(vec![batch(0, seq, records(seq))]).unwrap();
        if log.stats().bytes >= bytes as u64 {
            break;
        }
    }
    disk
}

#[test]
fn opening_takes_a_few_pieces_of_memory_however_large_log_and_segments_are() {
    let options = LogOptions { segment_bytes: 32 << 20, garbage_percent: 100_000, ..LogOptions::default() };
    let entries = log(options, 48 * MIB, |seq| {
        let first = 16 * (seq - 1) + 1;
        vec![record(1, LogChange::Append((first..first + 16).map(|index| sized_entry(1, index, 4_000)).collect()))]
    });
    // No record is smaller.
    let removals = log(options, 48 * MIB, |_| (1..=2_000).map(|region| record(region, LogChange::Remove)).collect());
    for (what, disk) in [("entries", entries), ("removals", removals)] {
        for (threads, bound) in [(1, MIB), (2, 2 * 12 * MIB), (4, 4 * 12 * MIB)] {
            let peak = peak(&disk, options, threads);
            println!("{what}: {threads} threads take {} KiB", peak >> 10);
            assert!(peak <= bound, "{what}: {threads} threads take {peak} bytes");
        }
    }
}
