//! Power cuts at every operation: what was acknowledged is there, each batch is there whole or not at all, and a crash is
//! never taken for damage.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::sync::Arc;

use log_harness::harness::{Maker, Model};
use log_harness::{append, batch, open};
use multiraft_raft::{LogIndex, RegionId};
use multiraft_storage::disk::{CrashStyle, SimDisk};
use multiraft_storage::log::{CommitError, LogOptions, LogWriter};

const STYLES: [CrashStyle; 3] = [CrashStyle::KeepAll, CrashStyle::LoseAll, CrashStyle::Mix];

/// Runs random commits until the power goes, which it does after `operations`. Answers false if it did not.
///
/// Then checks that the log holds what was acknowledged, and of the last commit a prefix of its batches.
fn run_into_power_cut(
    disk: &SimDisk,
    maker: &mut Maker,
    model: &mut Model,
    operations: u64,
    style: CrashStyle,
    seed: u64,
) -> bool {
    let context = format!("cut after {operations} operations, {style:?}, seed {seed}");
    disk.cut_power_after(operations);
    let mut in_doubt = Vec::new();
    let mut cut = true;
    if let Ok((mut log, ..)) = LogWriter::open(Arc::new(disk.clone()), LogOptions::small()) {
        maker.restart_tickets();
        cut = false;
        for step in 0..18 {
            let batches = maker.batches(model);
            match log.commit(batches.clone()) {
                Ok(_) => batches.iter().for_each(|batch| model.apply(batch)),
                Err(CommitError::Poisoned(_)) => {
                    in_doubt = batches;
                    cut = true;
                    break;
                }
                Err(error) => panic!("{context}: {error}"),
            }
            if step % 4 == 0 && matches!(log.maintain(), Err(CommitError::Poisoned(_))) {
                cut = true;
                break;
            }
        }
    }
    disk.crash(style, seed);
    let (_log, reader, recovered) = open(disk);
    assert!(recovered.damage.is_empty() && recovered.suspects.is_empty(), "{context}: {:?}", recovered.damage);
    // Which prefix of the last commit is there shows in the summaries; the check to the byte follows.
    let mut candidates = vec![model.clone()];
    for batch in &in_doubt {
        let mut next = candidates.last().unwrap().clone();
        next.apply(batch);
        candidates.push(next);
    }
    let matches = |model: &Model| {
        let regions: std::collections::BTreeSet<RegionId> =
            reader.regions().into_iter().chain(model.groups.keys().copied()).collect();
        regions.iter().all(|region| {
            let want = model.groups.get(region).cloned().unwrap_or_default();
            reader.summary(*region).unwrap_or_default() == want.summary()
                && reader.hard_state(*region).unwrap_or_default() == want.hard_state
                && (want.entries.is_empty()
                    || reader
                        .read(*region, want.entries[0].index, LogIndex(want.last_index()), usize::MAX)
                        .is_ok_and(|read| read == want.entries))
        })
    };
    let Some(found) = candidates.into_iter().find(matches) else {
        model.check(&reader, &context);
        panic!("{context}: neither what was acknowledged nor a prefix of what was in doubt");
    };
    *model = found;
    cut
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    for seed in 0..2 {
        for operations in 0.. {
            let disk = SimDisk::new(seed);
            let (mut maker, mut model) = (Maker::new(seed), Model::default());
            maker.entry_bytes_max = 3000;
            let style = STYLES[(seed + operations) as usize % 3];
            if !run_into_power_cut(&disk, &mut maker, &mut model, operations, style, seed * 1000 + operations) {
                assert!(operations > 60, "the run is long enough to mean something");
                break;
            }
        }
    }
}

#[test]
fn a_log_survives_one_power_cut_after_another() {
    for seed in 100..130 {
        let disk = SimDisk::new(seed);
        let (mut maker, mut model) = (Maker::new(seed), Model::default());
        maker.entry_bytes_max = 2000;
        for life in 0..12 {
            let operations = maker.dice.below(60);
            let style = STYLES[maker.dice.below(3) as usize];
            run_into_power_cut(&disk, &mut maker, &mut model, operations, style, seed * 100 + life);
        }
    }
}

#[test]
fn a_torn_tail_is_cut_and_said() {
    let mut torn = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (mut log, ..) = open(&disk);
        log.commit(vec![batch(0, 1, vec![append(1, 1, 1, 5)])]).unwrap();
        // The write gets through, its sync does not.
        disk.cut_power_after(1);
        assert!(log.commit(vec![batch(0, 2, vec![append(1, 6, 1, 400)])]).is_err());
        disk.crash(CrashStyle::Mix, seed);
        let (mut log, reader, recovered) = open(&disk);
        assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
        let last = reader.summary(RegionId(1)).unwrap().last_index;
        assert!([5, 405].contains(&last.0), "all or nothing: {last:?}");
        torn += usize::from(recovered.torn.is_some());
        // Writing goes on over what was cut.
        log.commit(vec![batch(0, 1, vec![append(1, last.0 + 1, 2, 1)])]).unwrap();
        drop(log);
        let (_, reader, recovered) = open(&disk);
        assert!(recovered.damage.is_empty() && recovered.torn.is_none());
        assert_eq!(reader.summary(RegionId(1)).unwrap().last_index, last.next());
    }
    assert!(torn > 5, "{torn}");
}

#[test]
fn what_a_failed_sync_left_in_memory_is_made_durable_before_it_counts() {
    let disk = SimDisk::new(1);
    let (mut log, ..) = open(&disk);
    disk.fail_sync_after(0);
    assert!(matches!(log.commit(vec![batch(0, 1, vec![append(1, 1, 1, 5)])]), Err(CommitError::Poisoned(_))));
    let syncs = disk.syncs();
    for _ in 0..3 {
        let again = log.commit(vec![batch(0, 1, vec![append(1, 1, 1, 5)])]);
        assert!(matches!(again, Err(CommitError::Poisoned(_))));
        assert!(matches!(log.maintain(), Err(CommitError::Poisoned(_))));
    }
    assert_eq!(disk.syncs(), syncs, "no sync is tried again");
    drop(log);
    // Only the process died: its successor sees the write in the system's memory.
    disk.crash(CrashStyle::KeepAll, 0);
    let (log, reader, _) = open(&disk);
    let seen = reader.summary(RegionId(1));
    drop(log);
    disk.crash(CrashStyle::LoseAll, 0);
    assert_eq!(open(&disk).1.summary(RegionId(1)), seen);
}
