//! What the log holds in memory for a group that nobody writes for, counted by an allocator.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it has counted")]

mod log_harness;

use std::sync::Arc;

use log_harness::{Dice, batch, record, sized_entry};
use multiraft_raft::{HardState, LogIndex, ReplicaId, Term};
use multiraft_storage::disk::{Disk, SimDisk};
use multiraft_storage::log::{GroupRecord, LogBatch, LogChange, LogOptions, LogWriter};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// A quiet group holds no more than this, in bytes, the sweep's lists, tables and half-empty chunks included.
const QUIET_MAX: usize = 60;

fn hard_state(region: u64, term: u64, commit: u64) -> Option<HardState> {
    Some(HardState { term: Term(term), vote: ReplicaId(3 * region + term % 3), commit: LogIndex(commit) })
}

/// What a group leaves in the log that elects a leader, and takes a write or two. One in ten has dropped an entry.
fn lives(region: u64, entries: u64) -> Vec<GroupRecord> {
    let voted = GroupRecord { hard_state: hard_state(region, 1, 0), ..record(region, LogChange::None) };
    let entry = |index| GroupRecord {
        hard_state: hard_state(region, 1, index - 1),
        ..record(region, LogChange::Append(vec![sized_entry(1, index, 40)]))
    };
    let dropped = record(region, LogChange::Truncate { index: LogIndex(1), term: Term(1) });
    std::iter::once(voted)
        .chain((1..=entries).map(entry))
        .chain((region.is_multiple_of(10)).then_some(dropped))
        .collect()
}

/// Batches of a few groups each, in which each group's records are spread over the whole time.
fn commit_all(log: &mut LogWriter, groups: u64, entries: u64) {
    let mut dice = Dice(7);
    let mut order: Vec<u64> = (1..=groups).collect();
    let mut left: Vec<_> = order.iter().map(|region| lives(*region, entries).into_iter()).collect();
    let mut seq = 0;
    while !order.is_empty() {
        for at in (1..order.len()).rev() {
            order.swap(at, dice.below(at as u64 + 1) as usize);
        }
        for regions in order.chunks(500) {
            seq += 1;
            let records = regions.iter().filter_map(|region| left[*region as usize - 1].next()).collect();
            log.commit(vec![LogBatch { ..batch(0, seq, records) }]).unwrap();
        }
        order.retain(|region| left[*region as usize - 1].len() > 0);
    }
}

/// The bytes that a log holds at rest: after it was written, and after it was opened again. The disk is not counted.
fn held(groups: u64, entries: u64) -> [usize; 2] {
    let disk = SimDisk::new(1);
    let options = LogOptions { garbage_percent: 100_000, ..LogOptions::default() };
    let open = || LogWriter::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options).unwrap();
    let (mut log, reader, recovered) = open();
    drop(recovered);
    commit_all(&mut log, groups, entries);
    while log.maintain().unwrap() {}
    assert_eq!(reader.regions().len() as u64, groups);
    let hold = |log: LogWriter, reader| {
        let before = ALLOCATED.current_usage();
        drop((log, reader));
        before - ALLOCATED.current_usage()
    };
    let written = hold(log, reader);
    let (log, reader, recovered) = open();
    assert_eq!(recovered.groups.len() as u64, groups);
    drop(recovered);
    [written, hold(log, reader)]
}

#[test]
fn a_quiet_group_holds_next_to_nothing() {
    let empty = held(0, 0);
    for (groups, entries) in [(10_000, 1), (100_000, 3)] {
        let full = held(groups, entries);
        let each = [0, 1].map(|at| (full[at] - empty[at]) as f64 / groups as f64);
        println!("{groups} groups of {entries} entries: {:.1} bytes a group, {:.1} after a restart", each[0], each[1]);
        assert!(each.iter().all(|each| *each <= QUIET_MAX as f64), "{each:?} bytes a group");
    }
}
