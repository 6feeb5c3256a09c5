//! Space: the log stays small beside what lives in it, gives back what it frees, and survives a full disk.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::sync::Arc;

use log_harness::harness::Run;
use log_harness::{append, batch, entry, hard_state, open, record, sized_entry};
use multiraft_raft::{LogIndex, RegionId, Term};
use multiraft_storage::disk::{RealDisk, SimDisk};
use multiraft_storage::log::{CommitError, LogBatch, LogChange, LogOptions, LogReader, LogWriter};

/// How large a soak is: a tenth in each dimension unless `MULTIRAFT_LOG_SOAK=full`.
struct Soak {
    groups: u64,
    hot: u64,
    times: u64,
    segment_bytes: u32,
}

impl Soak {
    fn from_env() -> Self {
        if std::env::var("MULTIRAFT_LOG_SOAK").is_ok_and(|value| value == "full") {
            Self { groups: 10_000, hot: 100, times: 20, segment_bytes: 1 << 20 }
        } else {
            Self { groups: 1_000, hot: 20, times: 20, segment_bytes: 64 << 10 }
        }
    }
}

/// Each hot group appends ten entries and keeps the last twenty.
fn hot_turn(soak: &Soak, turn: u64) -> LogBatch {
    let mut records = Vec::new();
    for region in 1..=soak.hot {
        let first = 6 + turn * 10;
        records.push(append(region, first, 1, 10));
        if first > 20 {
            records.push(record(region, LogChange::Truncate { index: LogIndex(first - 10), term: Term(1) }));
        }
    }
    batch(0, turn + 2, records)
}

#[test]
fn a_few_hot_groups_among_many_idle_ones_keep_the_log_small_and_memory_flat() {
    let soak = Soak::from_env();
    let disk = SimDisk::new(1);
    let options = LogOptions { segment_bytes: soak.segment_bytes, ..LogOptions::small() };
    let (mut log, reader, _) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    let idle = |region| vec![append(region, 1, 1, 5), hard_state(region, 1)];
    log.commit(vec![batch(0, 1, (1..=soak.groups).flat_map(idle).collect())]).unwrap();
    let (mut turn, mut most, mut memory) = (0, 0.0_f64, Vec::new());
    let spares = (options.spare_segments + options.recycled_segments) as u64 * u64::from(options.segment_bytes);
    while log.stats().bytes < soak.times * log.stats().disk_bytes.max(1 << 20) {
        log.commit(vec![hot_turn(&soak, turn)]).unwrap();
        turn += 1;
        let stats = log.stats();
        let used = stats.disk_bytes.saturating_sub(spares + u64::from(options.segment_bytes));
        most = most.max(used as f64 / stats.live_bytes as f64);
        if turn % 50 == 0 {
            memory.push(reader.index_bytes());
        }
    }
    assert!(most <= 3.0, "at most three times what lives, beside spares and the segment being written: {most}");
    let (early, late) = (memory[memory.len() / 4], *memory.last().unwrap());
    assert!(late <= early + early / 10, "the index grew from {early} to {late} bytes");
    let each = late / soak.groups as usize;
    assert!(each <= 100, "{each} bytes of index for each group");
    drop(log);
    let (_, reader, recovered) = LogWriter::open(Arc::new(disk), options).unwrap();
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    assert_eq!(recovered.groups.len() as u64, soak.groups);
    let idle = reader.read(RegionId(soak.groups), LogIndex(1), LogIndex(9), usize::MAX).unwrap();
    assert_eq!(idle, (1..=5).map(|index| entry(1, index)).collect::<Vec<_>>());
    assert_eq!(reader.hard_state(RegionId(soak.groups)).unwrap().term, Term(1));
}

#[test]
fn a_log_in_which_everything_lives_writes_nothing_again() {
    let disk = SimDisk::new(1);
    let (mut log, _, _) = open(&disk);
    let mut turn = 0;
    while log.stats().segments < 5 {
        log.commit(vec![batch(0, turn + 1, vec![append(1, turn * 300 + 1, 1, 300)])]).unwrap();
        while log.maintain().unwrap() {}
        turn += 1;
    }
    assert_eq!(log.stats().rewritten_bytes, 0);
}

#[test]
fn what_random_batches_leave_survives_many_rounds_of_the_log() {
    let mut run = Run::new(21);
    run.maker.entry_bytes_max = 1500;
    for _ in 0..6 {
        for _ in 0..150 {
            run.step();
        }
        let (log, _) = run.log.as_mut().unwrap();
        while log.maintain().unwrap() {}
        run.reopen_and_check();
    }
}

#[test]
fn truncating_everything_gives_the_space_back_without_further_writes() {
    let disk = SimDisk::new(1);
    let (mut log, reader, _) = open(&disk);
    for turn in 0..40 {
        log.commit(vec![batch(0, turn + 1, vec![append(1, turn * 300 + 1, 1, 300)])]).unwrap();
    }
    assert!(log.stats().segments > 3);
    log.commit(vec![batch(0, 41, vec![record(1, LogChange::Truncate { index: LogIndex(12_000), term: Term(1) })])])
        .unwrap();
    while log.maintain().unwrap() {}
    assert_eq!(reader.stats().segments, 1);
    let options = LogOptions::small();
    let kept = (1 + options.spare_segments + options.recycled_segments) as u64 * u64::from(options.segment_bytes);
    assert!(reader.stats().disk_bytes <= kept && disk.used() <= kept + 4096);
    assert!(!log.maintain().unwrap(), "an idle log comes to rest");
}

/// Fills the log with living entries until there is no space; answers how many entries there are.
fn fill(log: &mut LogWriter) -> u64 {
    for turn in 0.. {
        let entries = (1..=10).map(|n| sized_entry(1, turn * 10 + n, 1000)).collect();
        match log.commit(vec![batch(0, turn + 1, vec![record(1, LogChange::Append(entries))])]) {
            Ok(tokens) => assert_eq!(tokens.len(), 1),
            Err(CommitError::NoSpace { durable, left }) => {
                assert!(durable.is_empty());
                assert_eq!(left[0].ticket.seq, turn + 1);
                return turn * 10;
            }
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the disk is finite")
}

fn check_full_log(log: &mut LogWriter, reader: &LogReader, make_room: impl FnOnce()) {
    let last = fill(log);
    assert_eq!(reader.summary(RegionId(1)).unwrap().last_index, LogIndex(last));
    // Votes still become durable, and so does what frees space.
    for seq in 1..=100 {
        log.commit(vec![batch(1, seq, vec![hard_state(2 + seq % 7, seq)])]).unwrap();
    }
    let truncate = LogChange::Truncate { index: LogIndex(last - 5), term: Term(1) };
    log.commit(vec![batch(1, 101, vec![record(1, truncate)])]).unwrap();
    while log.maintain().unwrap() {}
    // The log's own space is back: entries go again.
    let again = |log: &mut LogWriter, seq, first| {
        let entries = (0..10).map(|n| sized_entry(1, first + n, 1000)).collect();
        log.commit(vec![batch(0, seq, vec![record(1, LogChange::Append(entries))])])
    };
    let next = last / 10 + 1;
    assert_eq!(again(log, next, last + 1).unwrap().len(), 1);
    // Full once more, and this time space comes from outside.
    let mut turn = 0;
    while !matches!(again(log, next + turn + 1, last + 11 + turn * 10), Err(CommitError::NoSpace { .. })) {
        turn += 1;
    }
    make_room();
    assert_eq!(again(log, next + turn + 1, last + 11 + turn * 10).unwrap().len(), 1);
    assert_eq!(reader.summary(RegionId(1)).unwrap().last_index, LogIndex(last + 20 + turn * 10));
}

#[test]
fn a_full_disk_stops_entries_only_and_loses_nothing() {
    let disk = SimDisk::new(1);
    let (mut log, reader, _) = open(&disk);
    disk.set_capacity(Some(400 << 10));
    check_full_log(&mut log, &reader, || disk.set_capacity(None));
    let want = reader.summary(RegionId(1));
    drop(log);
    let (_, reader, recovered) = open(&disk);
    assert!(recovered.damage.is_empty());
    assert_eq!(reader.summary(RegionId(1)), want);
    assert_eq!(reader.hard_state(RegionId(2 + 100 % 7)).unwrap().term, Term(100));
}

/// A small file system of its own; needs root, and says so where it cannot run.
#[test]
fn a_full_file_system_stops_entries_only_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| std::process::Command::new("mount").args(args).arg(dir.path()).output();
    if !mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).is_ok_and(|output| output.status.success()) {
        println!("skipped: mounting a tmpfs needs root");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let disk = Arc::new(RealDisk::open(dir.path().join("log")).unwrap());
        let options = LogOptions { segment_bytes: 128 << 10, ..LogOptions::small() };
        let (mut log, reader, _) = LogWriter::open(disk, options).unwrap();
        check_full_log(&mut log, &reader, || {
            assert!(mount(&["-o", "remount,size=8m"]).unwrap().status.success());
        });
        drop((log, reader));
    });
    std::process::Command::new("umount").arg(dir.path()).status().unwrap();
    outcome.unwrap();
}
