//! A log is opened in pieces, by one thread or by several: the same comes out, whatever is in it and whatever is damaged.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::io;
use std::sync::Arc;

use log_harness::harness::{Model, Run};
use log_harness::{Dice, batch, record, sized_entry};
use multiraft_raft::{Entry, LogIndex, RegionId};
use multiraft_storage::disk::{CrashStyle, Disk, DiskFile, SimDisk};
use multiraft_storage::log::{LogChange, LogOptions, LogWriter};

/// The disk's page, and the log's piece that one thread takes at a time.
const PAGE: u64 = 4096;
const PIECE: u32 = 1 << 20;

/// All that opening a log gives, and does to its disk; the disk itself stays as it is.
fn outcome(disk: &SimDisk, options: LogOptions, threads: usize) -> Vec<(String, Vec<u8>)> {
    let disk = disk.fork();
    outcome_on(&disk, Arc::new(disk.clone()), options, threads)
}

fn outcome_on(disk: &SimDisk, as_seen: Arc<dyn Disk>, options: LogOptions, threads: usize) -> Vec<(String, Vec<u8>)> {
    let options = LogOptions { opening_threads: threads, ..options };
    let (log, reader, recovered) = LogWriter::open(as_seen, options).unwrap();
    let mut all = Vec::new();
    let mut note = |what: &str, content: Vec<u8>| all.push((what.to_owned(), content));
    note("recovered", format!("{recovered:?}").into_bytes());
    note("stats", format!("{:?}, index of {} bytes", log.stats(), reader.index_bytes()).into_bytes());
    for region in reader.regions() {
        let (summary, hard_state) = (reader.summary(region), reader.hard_state(region));
        let first = summary.as_ref().map_or(LogIndex(1), |summary| summary.first_index());
        let read = reader.read(region, first, LogIndex(u64::MAX), usize::MAX);
        let mut content = format!("{region:?}: {summary:?}, {hard_state:?}, {:?}", read.as_ref().err()).into_bytes();
        for Entry { term, index, kind, data } in read.unwrap_or_default() {
            content.extend(format!("{term:?} {index:?} {kind:?}").into_bytes());
            content.extend_from_slice(&data);
        }
        note("group", content);
    }
    note("disk", format!("{} operations, {} syncs", disk.operations(), disk.syncs()).into_bytes());
    for name in disk.list().unwrap() {
        note(&name, disk.content(&name).unwrap());
    }
    all
}

/// Holds what several numbers of threads make of a log against what one makes of it.
fn check(disk: &SimDisk, options: LogOptions, context: &str) {
    let alone = outcome(disk, options, 1);
    for threads in [0, 2, 3, 8] {
        let together = outcome(disk, options, threads);
        assert_eq!(alone.len(), together.len(), "{context}, {threads} threads");
        for (alone, together) in alone.iter().zip(&together) {
            assert!(alone == together, "{context}, {threads} threads, differs in {}", alone.0);
        }
    }
}

/// A log of some pieces after random batches: overwritten, truncated, reset and removed groups, some of it written again.
fn long_run(seed: u64, options: LogOptions, bytes: u64) -> Run {
    let mut run = Run::resume(seed, SimDisk::new(seed), Model::default());
    run.maker.entry_bytes_max = if options.segment_bytes > PIECE { 30_000 } else { 600 };
    let (log, reader, _) = LogWriter::open(Arc::new(run.disk.clone()), options).unwrap();
    run.log = Some((log, reader));
    let mut written = 0;
    while written < bytes {
        run.step();
        let (log, _) = run.log.as_mut().unwrap();
        log.maintain().unwrap();
        written = log.stats().bytes;
    }
    run
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.starts_with("seg-")).collect()
}

/// What a medium may do to a log: bytes flipped anywhere, in heads of frames, in the last frames, in headers and footers; a
/// segment that is gone.
fn damage(disk: &SimDisk, dice: &mut Dice) -> String {
    let mut done = String::new();
    for _ in 0..=dice.below(4) {
        let names = segments(disk);
        let name = &names[dice.below(names.len() as u64) as usize];
        let content = disk.content(name).unwrap();
        let length = content.len() as u64;
        let frames: Vec<u64> =
            (0..length).step_by(8).filter(|at| content[*at as usize..].starts_with(b"MRFR")).collect();
        let any_frame = frames.get(dice.below(frames.len().max(1) as u64) as usize).copied().unwrap_or(64);
        let at = match dice.below(7) {
            0 => dice.below(64),
            1 => length - 1 - dice.below(120),
            2 => any_frame + dice.below(40),
            3 => frames.last().copied().unwrap_or(64) + dice.below(300),
            4 if names.len() > 1 => {
                disk.remove(name).unwrap();
                disk.sync_dir().unwrap();
                done += &format!(" {name} is gone;");
                continue;
            }
            _ => any_frame + dice.below(6000),
        };
        if disk.corrupt(name, at.min(length - 1), 1 << dice.below(8)) {
            done += &format!(" {name} at {at};");
        }
    }
    done
}

#[test]
fn any_number_of_threads_opens_a_log_alike() {
    for (segment_bytes, bytes, seeds) in [(16 << 10, 150 << 10, 24), (64 << 10, 800 << 10, 12), (3 << 20, 9 << 20, 6)] {
        let options = LogOptions { segment_bytes, ..LogOptions::small() };
        for seed in 0..seeds {
            let context = format!("segments of {segment_bytes} bytes, seed {seed}");
            let mut run = long_run(seed, options, bytes);
            let mut dice = Dice(seed ^ 0x5eed);
            check(&run.disk, options, &context);
            // In the middle of a write, or of the step to the next segment.
            run.disk.cut_power_after(dice.below(12));
            while run.log.as_mut().unwrap().0.commit(run.maker.batches(&run.model)).is_ok() {}
            run.log = None;
            run.disk.crash([CrashStyle::KeepAll, CrashStyle::Mix][(seed % 2) as usize], seed);
            check(&run.disk, options, &format!("{context}, after a power cut"));
            for damaged in 0..3 {
                let disk = run.disk.fork();
                let done = damage(&disk, &mut dice);
                check(&disk, options, &format!("{context}, damage {damaged}:{done}"));
            }
        }
    }
}

#[test]
fn a_frame_longer_than_any_piece_is_read() {
    let disk = SimDisk::new(3);
    let options = LogOptions { segment_bytes: 8 << 20, ..LogOptions::small() };
    let (mut log, ..) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    let mut first = 1;
    for (seq, count) in (1..).zip([3, 300, 1, 900, 2, 40]) {
        let entries = (first..first + count).map(|index| sized_entry(1, index, 5_000)).collect();
        log.commit(vec![batch(0, seq, vec![record(7, LogChange::Append(entries))])]).unwrap();
        first += count;
    }
    drop(log);
    let (_, reader, recovered) = LogWriter::open(Arc::new(disk.fork()), options).unwrap();
    assert!(recovered.damage.is_empty());
    assert_eq!(reader.summary(RegionId(7)).unwrap().last_index, LogIndex(first - 1));
    check(&disk, options, "long frames");
}

/// A disk of which some pages of one file cannot be read.
#[derive(Debug)]
struct Unreadable {
    disk: SimDisk,
    file: String,
    pages: Vec<u64>,
}

#[derive(Debug)]
struct UnreadableFile {
    file: Arc<dyn DiskFile>,
    pages: Vec<u64>,
}

impl Disk for Unreadable {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name)?;
        let pages = if name == self.file { self.pages.clone() } else { Vec::new() };
        Ok(Arc::new(UnreadableFile { file, pages }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }

    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }
}

impl DiskFile for UnreadableFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + into.len() as u64;
        if self.pages.iter().any(|page| offset < (page + 1) * PAGE && page * PAGE < end) {
            return Err(io::Error::other("a bad sector"));
        }
        self.file.read_at(into, offset)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(from, offset)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

#[test]
fn a_page_that_cannot_be_read_is_damage_of_what_is_in_it_and_no_more() {
    let options = LogOptions { segment_bytes: 3 << 20, ..LogOptions::small() };
    let run = long_run(11, options, 9 << 20);
    let mut dice = Dice(11);
    let mut names = segments(&run.disk);
    // Of the last segment, some is read to be written once more: if that fails, so does the opening.
    names.pop();
    for name in names {
        let content = run.disk.content(&name).unwrap();
        let pages: Vec<u64> = (0..3).map(|_| 1 + dice.below(PIECE as u64 / PAGE)).collect();
        let zeroed = run.disk.fork();
        let mut zeros = content.clone();
        pages.iter().for_each(|page| zeros[(page * PAGE) as usize..][..PAGE as usize].fill(0));
        zeroed.install(&name, &zeros);
        let expected = outcome(&zeroed, options, 1);
        let recovered = |outcome: &[(String, Vec<u8>)]| String::from_utf8(outcome[0].1.clone()).unwrap();
        assert!(recovered(&expected).contains("Damage {"), "{}", recovered(&expected));
        for threads in [1, 2] {
            let disk = run.disk.fork();
            let seen = Unreadable { disk: disk.clone(), file: name.clone(), pages: pages.clone() };
            let found = outcome_on(&disk, Arc::new(seen), options, threads);
            assert_eq!(recovered(&found), recovered(&expected), "{name}, pages {pages:?}, {threads} threads");
        }
    }
}
