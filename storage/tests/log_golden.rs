//! Format version 1, to the byte: files written by the first release open for ever, and today's code writes the same.
//!
//! A difference means that the format has changed and needs a new version, with files of its own beside these; or that the
//! policy which gives space back has, and then other records are written: look which. `MULTIRAFT_WRITE_GOLDEN=1` writes the
//! files anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::path::PathBuf;
use std::sync::Arc;

use log_harness::{append, batch, entry, hard_state, record};
use multiraft_raft::{EntryKind, LogIndex, Payload, RegionId, Term};
use multiraft_storage::disk::{Disk, SimDisk};
use multiraft_storage::log::{LogChange, LogError, LogOptions, LogWriter};

fn options() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, ..LogOptions::small() }
}

/// A log of three segments with a record of each kind, the oldest segment gone.
fn write() -> SimDisk {
    let disk = SimDisk::new(0x0123_4567_89ab_cdef);
    let (mut log, ..) = LogWriter::open(Arc::new(disk.clone()), options()).unwrap();
    let mut empty = entry(1, 1);
    (empty.kind, empty.data) = (EntryKind::Empty, Payload::new());
    let mut membership = entry(1, 2);
    membership.kind = EntryKind::Membership;
    log.commit(vec![batch(
        0,
        1,
        vec![
            record(1, LogChange::Append(vec![empty, membership])),
            hard_state(1, 1),
            append(2, 1, 1, 3),
            append(3, 1, 1, 1),
        ],
    )])
    .unwrap();
    for seq in 2..50 {
        log.commit(vec![batch(0, seq, vec![append(4, (seq - 2) * 40 + 1, seq / 10 + 1, 40)])]).unwrap();
        if seq > 20 {
            let truncate = LogChange::Truncate { index: LogIndex((seq - 20) * 40), term: Term((seq - 19) / 10 + 1) };
            log.commit(vec![batch(1, seq, vec![record(4, truncate)])]).unwrap();
        }
    }
    let reset = LogChange::Reset { index: LogIndex(9), term: Term(2) };
    log.commit(vec![batch(0, 50, vec![record(2, reset), append(2, 10, 2, 1), record(3, LogChange::Remove)])]).unwrap();
    disk
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The files that matter, without the zeros at their ends and without spares.
fn image(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().unwrap().into_iter().filter(|name| !name.starts_with("spare"));
    names.map(|name| (name.clone(), disk.content(&name).unwrap())).collect()
}

#[test]
fn the_golden_log_of_version_1_opens_and_is_written_the_same() {
    let written = image(&write());
    if std::env::var("MULTIRAFT_WRITE_GOLDEN").is_ok() {
        for (name, content) in &written {
            std::fs::write(golden().join(format!("log-v1-{name}")), content).unwrap();
        }
    }
    let disk = SimDisk::new(0);
    let mut files = 0;
    for (name, content) in &written {
        let golden = std::fs::read(golden().join(format!("log-v1-{name}"))).unwrap();
        assert!(&golden == content, "{name}: the bytes written have changed; the format needs a new version");
        disk.install(name, &golden);
        files += 1;
    }
    assert!(files >= 3 && !written.iter().any(|(name, _)| name == "seg-0000000001"), "its oldest segment is gone");
    check(disk);
}

/// The same log, of a time when more was written again to give space back: other segments, other records.
#[test]
fn what_an_earlier_policy_left_opens_as_well() {
    let disk = SimDisk::new(0);
    for name in ["LOG", "seg-0000000013", "seg-0000000014"] {
        disk.install(name, &std::fs::read(golden().join(format!("log-v1-{name}"))).unwrap());
    }
    check(disk);
}

fn check(disk: SimDisk) {
    let (_, reader, recovered) = LogWriter::open(Arc::new(disk), options()).unwrap();
    assert!(recovered.damage.is_empty() && recovered.torn.is_none(), "{:?}", recovered.damage);
    assert_eq!(recovered.groups.keys().copied().collect::<Vec<_>>(), [1, 2, 4].map(RegionId));
    let read = |region, from| reader.read(RegionId(region), LogIndex(from), LogIndex(9999), usize::MAX).unwrap();
    let kinds: Vec<_> = read(1, 1).iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Empty, EntryKind::Membership]);
    assert_eq!(read(2, 10), [entry(2, 10)]);
    assert_eq!(reader.hard_state(RegionId(1)).unwrap().term, Term(1));
    assert_eq!(reader.summary(RegionId(2)).unwrap().truncated_index, LogIndex(9));
    let four = reader.summary(RegionId(4)).unwrap();
    assert_eq!((four.truncated_index, four.last_index), (LogIndex(29 * 40), LogIndex(48 * 40)));
    assert_eq!(read(4, four.first_index().0)[0], entry(four.runs[0].term.0, four.first_index().0));
}

#[test]
fn a_newer_format_is_refused_with_both_versions_named() {
    let disk = write();
    let mut meta = disk.content("LOG").unwrap();
    meta[8] = 2;
    let crc = crc32c::crc32c(&meta[..28]);
    meta[28..].copy_from_slice(&crc.to_le_bytes());
    disk.install("LOG", &meta);
    let error = LogWriter::open(Arc::new(disk), options()).unwrap_err();
    assert!(matches!(error, LogError::NewerFormat { found: 2, supported: 1, .. }), "{error}");
}
