//! What a log keeps: everything that was committed, through closing and opening again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::sync::Arc;

use log_harness::{append, batch, entry, hard_state, harness, open, record};
use multiraft_raft::{FlushProof, LogIndex, LogTicket, RegionId, Term};
use multiraft_storage::disk::{RealDisk, SimDisk};
use multiraft_storage::log::{CommitError, LogChange, LogOptions, LogReadError, LogWriter};

#[test]
fn what_is_committed_is_read_back_before_and_after_opening_again() {
    let disk = SimDisk::new(1);
    let (mut log, reader, recovered) = open(&disk);
    assert!(recovered.groups.is_empty() && recovered.damage.is_empty());
    let tokens = log
        .commit(vec![
            batch(0, 1, vec![append(7, 1, 1, 3)]),
            batch(1, 1, vec![append(8, 1, 2, 2), hard_state(9, 4)]),
            batch(0, 2, vec![append(7, 4, 2, 1)]),
        ])
        .unwrap();
    let covered = |lane, seq| tokens.iter().any(|token| token.covers(LogTicket { lane, seq }));
    assert!(covered(0, 1) && covered(0, 2) && covered(1, 1));
    assert!(!covered(0, 3) && !covered(2, 1));
    let before = reader.read(RegionId(7), LogIndex(1), LogIndex(9), usize::MAX).unwrap();
    assert_eq!(before, [entry(1, 1), entry(1, 2), entry(1, 3), entry(2, 4)]);

    drop((log, reader));
    let (_log, reader, recovered) = open(&disk);
    assert_eq!(recovered.groups.len(), 3);
    assert_eq!(recovered.groups[&RegionId(9)].hard_state.term, Term(4));
    assert_eq!(recovered.groups[&RegionId(7)].log.last_term(), Term(2));
    assert_eq!(reader.read(RegionId(7), LogIndex(1), LogIndex(9), usize::MAX).unwrap(), before);
    assert!(recovered.token(5).covers(LogTicket { lane: 5, seq: 0 }));
    assert!(!recovered.token(5).covers(LogTicket { lane: 5, seq: 1 }));
}

#[test]
fn one_commit_is_one_write_and_one_sync() {
    let disk = SimDisk::new(1);
    let (mut log, ..) = open(&disk);
    let (operations, syncs) = (disk.operations(), disk.syncs());
    let batches =
        (0..8).map(|lane| batch(lane, 1, (1..20).map(|n| append(u64::from(lane) * 100 + n, 1, 1, 2)).collect()));
    log.commit(batches.collect()).unwrap();
    assert_eq!((disk.operations() - operations, disk.syncs() - syncs), (2, 1));
}

#[test]
fn reads_are_bounded_in_bytes_but_answer_at_least_one_entry() {
    let disk = SimDisk::new(1);
    let (mut log, reader, _) = open(&disk);
    log.commit(vec![batch(0, 1, vec![append(7, 1, 1, 10)])]).unwrap();
    let read = |from, to, bytes| reader.read(RegionId(7), LogIndex(from), LogIndex(to), bytes).unwrap();
    assert_eq!(read(3, 10, 0), [entry(1, 3)]);
    let two = entry(1, 3).cost() + entry(1, 4).cost();
    assert_eq!(read(3, 10, two), [entry(1, 3), entry(1, 4)]);
    assert_eq!(read(9, 99, usize::MAX), [entry(1, 9), entry(1, 10)]);
}

#[test]
fn truncation_reset_and_removal_show_in_what_may_be_read() {
    let disk = SimDisk::new(1);
    let (mut log, reader, _) = open(&disk);
    log.commit(vec![batch(0, 1, vec![append(7, 1, 1, 10), append(8, 1, 1, 10), append(9, 1, 1, 1)])]).unwrap();
    log.commit(vec![batch(
        0,
        2,
        vec![
            record(7, LogChange::Truncate { index: LogIndex(4), term: Term(1) }),
            record(8, LogChange::Reset { index: LogIndex(50), term: Term(3) }),
            record(9, LogChange::Remove),
        ],
    )])
    .unwrap();
    for reader in [reader, open(&disk).1] {
        let read = |region, from| reader.read(RegionId(region), LogIndex(from), LogIndex(99), usize::MAX);
        assert!(matches!(read(7, 4), Err(LogReadError::Compacted { first: LogIndex(5), .. })));
        assert_eq!(read(7, 5).unwrap().len(), 6);
        assert!(matches!(read(8, 51), Err(LogReadError::Beyond { last: LogIndex(50), .. })));
        assert!(matches!(read(9, 1), Err(LogReadError::UnknownRegion(RegionId(9)))));
        assert_eq!(reader.summary(RegionId(8)).unwrap().last_term(), Term(3));
    }
}

#[test]
fn a_batch_that_breaks_the_contract_is_refused_without_a_trace() {
    let disk = SimDisk::new(1);
    let (mut log, reader, _) = open(&disk);
    log.commit(vec![batch(0, 1, vec![append(7, 1, 1, 3)])]).unwrap();
    let refused = [
        append(7, 5, 1, 1),
        append(6, 2, 1, 1),
        record(7, LogChange::Truncate { index: LogIndex(4), term: Term(1) }),
        record(7, LogChange::Append(vec![entry(1, 4), entry(1, 6)])),
        record(7, LogChange::Append(vec![entry(2, 4), entry(1, 5)])),
    ];
    for bad in refused {
        let error = log.commit(vec![batch(0, 2, vec![append(5, 1, 1, 1), bad])]).unwrap_err();
        assert!(matches!(error, CommitError::Invalid { .. }), "{error}");
        assert_eq!(reader.regions(), [RegionId(7)]);
    }
    assert!(matches!(log.commit(vec![batch(0, 1, vec![])]), Err(CommitError::Invalid { .. })), "a ticket twice");
    log.commit(vec![batch(0, 2, vec![append(7, 4, 1, 1)])]).unwrap();
}

#[test]
fn a_log_spans_segments_and_a_batch_may_be_larger_than_one() {
    let disk = SimDisk::new(1);
    let (mut log, _, _) = open(&disk);
    for n in 0..300 {
        log.commit(vec![batch(0, n + 1, vec![append(n % 50, n / 50 * 20 + 1, 1, 20)])]).unwrap();
    }
    let large: Vec<_> = (0..200).map(|n| log_harness::sized_entry(1, 121 + n, 1000)).collect();
    log.commit(vec![batch(0, 301, vec![record(7, LogChange::Append(large.clone()))])]).unwrap();
    log.commit(vec![batch(0, 302, vec![append(8, 121, 1, 1)])]).unwrap();
    assert!(log.stats().segments > 2);
    drop(log);
    let (_log, reader, recovered) = open(&disk);
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    assert_eq!(recovered.groups.len(), 50);
    assert_eq!(reader.read(RegionId(7), LogIndex(121), LogIndex(999), usize::MAX).unwrap(), large);
    assert_eq!(reader.read(RegionId(8), LogIndex(1), LogIndex(999), usize::MAX).unwrap().len(), 121);
}

#[test]
fn a_log_on_a_real_disk_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
    for round in 0..3 {
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let (mut log, reader, recovered) = LogWriter::open(disk, options).unwrap();
        assert!(recovered.damage.is_empty() && recovered.torn.is_none());
        for n in 0..50 {
            log.commit(vec![batch(0, n + 1, vec![append(n, round * 100 + 1, 1, 100)])]).unwrap();
        }
        assert_eq!(
            reader.read(RegionId(3), LogIndex(1), LogIndex(999), usize::MAX).unwrap().len() as u64,
            round * 100 + 100
        );
    }
}

#[test]
fn the_harness_model_agrees_on_a_long_run() {
    let mut run = harness::Run::new(11);
    for _ in 0..400 {
        run.step();
    }
    run.reopen_and_check();
}
