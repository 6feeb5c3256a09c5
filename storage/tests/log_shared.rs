//! The log as a service: many submitters, one thread, bounded, in order, final when it fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log_harness::{append, batch, hard_state, open, record, sized_entry};
use multiraft_raft::{LogIndex, LogTicket, RegionId, Term};
use multiraft_storage::disk::{Disk, DiskFile, SimDisk};
use multiraft_storage::log::{
    FlushListener, FlushToken, LogChange, LogFailure, LogOptions, LogReader, LogWriter, SharedLog, SubmitError,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than it takes to make a spare segment in memory and to look for space again.
const LAST_SPARE: Duration = Duration::from_millis(500);

#[derive(Debug, PartialEq)]
enum Heard {
    Flushed(Vec<LogTicket>),
    Failed(LogFailure),
}

/// Passes on what it hears; blocks the log's thread while nobody listens, which is how tests hold it still.
struct Ear(Sender<Heard>);

impl FlushListener for Ear {
    fn on_flushed(&mut self, tokens: &[FlushToken]) {
        let _ = self.0.send(Heard::Flushed(tokens.iter().map(FlushToken::upto).collect()));
    }

    fn on_failed(&mut self, failure: LogFailure) {
        let _ = self.0.send(Heard::Failed(failure));
    }

    fn on_damaged(&mut self, regions: &[RegionId]) {
        panic!("nothing is damaged here: {regions:?}");
    }
}

fn start(disk: &SimDisk, capacity: usize) -> (SharedLog, LogReader, Receiver<Heard>) {
    start_with(disk, capacity, LogOptions::small())
}

fn start_with(disk: &SimDisk, capacity: usize, options: LogOptions) -> (SharedLog, LogReader, Receiver<Heard>) {
    let (writer, reader, _) = LogWriter::open(Arc::new(disk.clone()), options).unwrap();
    let (ear, heard) = bounded(capacity);
    (SharedLog::start(writer, Box::new(Ear(ear))).unwrap(), reader, heard)
}

/// Waits until every lane in `wanted` is durable up to its ticket.
fn wait_for(heard: &Receiver<Heard>, wanted: &BTreeMap<u32, u64>) {
    let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
    while wanted.iter().any(|(lane, seq)| seen.get(lane) < Some(seq)) {
        match heard.recv_timeout(PATIENCE).expect("the log reports in time") {
            Heard::Flushed(tickets) => {
                for LogTicket { lane, seq } in tickets {
                    assert!(seen.insert(lane, seq).unwrap_or(0) < seq, "tokens of a lane ascend");
                }
            }
            Heard::Failed(failure) => panic!("{failure:?}"),
        }
    }
}

/// Waits until no spare segment is being made any more: its syncs would be taken for the writer's.
fn wait_for_spares(disk: &SimDisk) {
    let (mut syncs, mut since) = (disk.syncs(), Instant::now());
    while since.elapsed() < LAST_SPARE {
        std::thread::yield_now();
        if disk.syncs() != syncs {
            (syncs, since) = (disk.syncs(), Instant::now());
        }
    }
}

#[test]
fn batches_of_many_lanes_share_syncs_and_all_become_durable() {
    let disk = SimDisk::new(1);
    let (log, reader, heard) = start(&disk, 10_000);
    std::thread::scope(|scope| {
        for lane in 0..4u32 {
            let log = &log;
            scope.spawn(move || {
                for seq in 1..=200 {
                    let mut next = batch(lane, seq, vec![append(u64::from(lane) + 1, seq, 1, 1)]);
                    while let Err(error) = log.submit(next) {
                        let SubmitError::Busy(again) = error else { panic!("{error}") };
                        next = again;
                        std::thread::yield_now();
                    }
                }
            });
        }
        wait_for(&heard, &(0..4).map(|lane| (lane, 200)).collect());
    });
    assert_eq!(reader.stats().entries, 800);
    assert_eq!(reader.stats().queue_bytes, 0);
    log.shutdown();
    let (_, reader, recovered) = open(&disk);
    assert!(recovered.damage.is_empty());
    assert_eq!(reader.read(RegionId(3), LogIndex(1), LogIndex(200), usize::MAX).unwrap().len(), 200);
}

#[test]
fn shutting_down_makes_durable_what_waits() {
    let disk = SimDisk::new(1);
    let (log, _, heard) = start(&disk, 10_000);
    for seq in 1..=50 {
        log.submit(batch(0, seq, vec![append(1, seq, 1, 1)])).unwrap();
    }
    log.shutdown();
    wait_for(&heard, &BTreeMap::from([(0, 50)]));
    assert_eq!(open(&disk).1.summary(RegionId(1)).unwrap().last_index, LogIndex(50));
}

#[test]
fn a_full_queue_answers_busy_and_gives_the_batch_back() {
    let disk = SimDisk::new(1);
    let options = LogOptions { queue_bytes_max: 20_000, ..LogOptions::small() };
    // Nobody listens: the first report stops the log's thread.
    let (log, _, heard) = start_with(&disk, 0, options);
    let mut seq = 0;
    let refused = loop {
        seq += 1;
        match log.submit(batch(0, seq, vec![append(1, seq, 1, 1)])) {
            Ok(()) => assert!(seq < 1000, "the queue is bounded"),
            Err(error) => break error,
        }
    };
    let SubmitError::Busy(back) = refused else { panic!("{refused}") };
    assert_eq!(back, batch(0, seq, vec![append(1, seq, 1, 1)]));
    wait_for(&heard, &BTreeMap::from([(0, seq - 1)]));
    log.submit(back).unwrap();
    wait_for(&heard, &BTreeMap::from([(0, seq)]));
}

#[test]
fn a_failed_sync_is_final_and_tried_once() {
    let disk = SimDisk::new(1);
    let (log, _, heard) = start(&disk, 100);
    log.submit(batch(0, 1, vec![append(1, 1, 1, 1)])).unwrap();
    wait_for(&heard, &BTreeMap::from([(0, 1)]));
    wait_for_spares(&disk);
    disk.fail_sync_after(0);
    log.submit(batch(0, 2, vec![append(1, 2, 1, 1)])).unwrap();
    let Heard::Failed(LogFailure::Poisoned { cause }) = heard.recv_timeout(PATIENCE).unwrap() else { panic!() };
    assert!(cause.contains("poisoned"), "{cause}");
    let syncs = disk.syncs();
    let refused = log.submit(batch(0, 3, vec![append(1, 3, 1, 1)])).unwrap_err();
    assert!(matches!(refused, SubmitError::Closed(_)));
    log.shutdown();
    assert_eq!(disk.syncs(), syncs);
    assert!(heard.try_recv().is_err());
}

#[test]
fn without_space_entries_wait_in_order_hard_states_go_and_all_goes_when_space_returns() {
    let disk = SimDisk::new(1);
    let (log, reader, heard) = start(&disk, 10_000);
    log.submit(batch(9, 1, vec![append(9, 1, 1, 1)])).unwrap();
    wait_for(&heard, &BTreeMap::from([(9, 1)]));
    disk.set_capacity(Some(disk.used()));
    // Lane 0 fills the disk with entries that all live.
    let mut seq = 0;
    let lanes = loop {
        seq += 1;
        let entries = (0..10).map(|n| sized_entry(1, (seq - 1) * 10 + n + 1, 1000)).collect();
        log.submit(batch(0, seq, vec![record(1, LogChange::Append(entries))])).unwrap();
        match heard.recv_timeout(PATIENCE).unwrap() {
            Heard::Flushed(tickets) => assert_eq!(tickets, [LogTicket { lane: 0, seq }]),
            Heard::Failed(LogFailure::NoSpace { lanes }) => {
                // A spare segment whose making had begun before the disk was full may still come, and with it space.
                let Ok(next) = heard.recv_timeout(LAST_SPARE) else { break lanes };
                assert_eq!(next, Heard::Flushed(vec![LogTicket { lane: 0, seq }]));
                let returned = heard.recv_timeout(PATIENCE).unwrap();
                assert_eq!(returned, Heard::Failed(LogFailure::SpaceReturned));
            }
            Heard::Failed(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(lanes, [0]);
    log.submit(batch(0, seq + 1, vec![hard_state(1, 7)])).unwrap();
    log.submit(batch(1, 1, vec![hard_state(2, 5)])).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Heard::Flushed(vec![LogTicket { lane: 1, seq: 1 }]));
    assert_eq!(reader.hard_state(RegionId(2)).unwrap().term, Term(5));
    assert_eq!(reader.hard_state(RegionId(1)).unwrap().term, Term(0), "it waits behind its lane's entries");

    disk.set_capacity(None);
    let mut told = Vec::new();
    while told.len() < 2 {
        told.push(heard.recv_timeout(PATIENCE).unwrap());
    }
    assert_eq!(told[0], Heard::Flushed(vec![LogTicket { lane: 0, seq: seq + 1 }]));
    assert_eq!(told[1], Heard::Failed(LogFailure::SpaceReturned));
    log.shutdown();
    let (_, reader, recovered) = open(&disk);
    assert!(recovered.damage.is_empty());
    assert_eq!(reader.summary(RegionId(1)).unwrap().last_index, LogIndex(seq * 10));
}

#[test]
fn a_truncation_behind_entries_that_wait_frees_the_space_they_wait_for() {
    let disk = SimDisk::new(1);
    let (log, reader, heard) = start(&disk, 10_000);
    log.submit(batch(9, 1, vec![append(9, 1, 1, 1)])).unwrap();
    wait_for(&heard, &BTreeMap::from([(9, 1)]));
    disk.set_capacity(Some(disk.used() + (256 << 10)));
    let mut seq = 0;
    loop {
        seq += 1;
        let entries = (0..10).map(|n| sized_entry(1, (seq - 1) * 10 + n + 1, 1000)).collect();
        log.submit(batch(0, seq, vec![record(1, LogChange::Append(entries))])).unwrap();
        match heard.recv_timeout(PATIENCE).unwrap() {
            Heard::Flushed(_) => {}
            Heard::Failed(LogFailure::NoSpace { .. }) => break,
            Heard::Failed(other) => panic!("{other:?}"),
        }
    }
    // It names entries that are durable and lie before those that wait.
    let truncate = LogChange::Truncate { index: LogIndex((seq - 1) * 10 - 5), term: Term(1) };
    log.submit(batch(0, seq + 1, vec![record(1, truncate)])).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Heard::Flushed(vec![LogTicket { lane: 0, seq: seq + 1 }]));
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Heard::Failed(LogFailure::SpaceReturned));
    let summary = reader.summary(RegionId(1)).unwrap();
    assert_eq!((summary.truncated_index, summary.last_index), (LogIndex((seq - 1) * 10 - 5), LogIndex(seq * 10)));
}

#[test]
fn a_log_that_stands_still_is_seen_and_one_that_is_done_has_no_work() {
    let disk = SimDisk::new(1);
    // Nobody listens: the first report stops the log's thread.
    let (log, _, heard) = start(&disk, 0);
    let until_idle = || {
        let end = Instant::now() + PATIENCE;
        while log.progress().has_work {
            assert!(Instant::now() < end, "{:?}", log.progress());
            std::thread::yield_now();
        }
    };
    log.submit(batch(0, 1, vec![append(1, 1, 1, 1)])).unwrap();
    until_idle();
    log.submit(batch(0, 2, vec![append(1, 2, 1, 1)])).unwrap();
    let stuck = log.progress();
    assert!(stuck.has_work);
    assert_eq!(log.progress(), stuck);
    wait_for(&heard, &BTreeMap::from([(0, 2)]));
    until_idle();
    // The round ends when the report of it has been taken.
    log.submit(batch(0, 3, vec![append(1, 3, 1, 1)])).unwrap();
    wait_for(&heard, &BTreeMap::from([(0, 3)]));
    assert!(log.progress().rounds > stuck.rounds);
}

#[test]
fn what_has_queued_up_is_written_in_parts_and_each_is_told_when_it_is_durable() {
    let disk = SimDisk::new(1);
    let options = LogOptions { write_bytes_max: 20_000, ..LogOptions::small() };
    // Nobody listens: the first report stops the log's thread, and all others queue up.
    let (log, _, heard) = start_with(&disk, 0, options);
    log.submit(batch(0, 1, vec![append(1, 1, 1, 1)])).unwrap();
    let stuck = log.progress();
    for seq in 2..=21 {
        let entries = LogChange::Append(vec![sized_entry(1, seq, 8_000)]);
        log.submit(batch(0, seq, vec![record(1, entries)])).unwrap();
    }
    let mut reached = 0;
    while reached < 21 {
        let Ok(Heard::Flushed(tickets)) = heard.recv_timeout(PATIENCE) else { panic!("the log reports in time") };
        let upto = tickets.iter().map(|ticket| ticket.seq).max().unwrap();
        assert!((1..=4).contains(&(upto - reached)), "batches {reached} to {upto} are told of together");
        reached = upto;
    }
    log.shutdown();
    assert!(stuck.rounds < 5);
    assert_eq!(open(&disk).1.summary(RegionId(1)).unwrap().last_index, LogIndex(21));
}

#[test]
fn behind_a_write_for_many_groups_the_next_waits_for_more_and_behind_one_for_few_it_does_not() {
    let gather = Duration::from_millis(300);
    let disk = SimDisk::new(1);
    let (log, _, heard) = start_with(&disk, 10_000, LogOptions { gather, ..LogOptions::small() });
    let of_groups = |seq, groups| batch(0, seq, (0..groups).map(|group| append(100 * seq + group, 1, 1, 1)).collect());
    let next = |seq| {
        let Ok(Heard::Flushed(tickets)) = heard.recv_timeout(PATIENCE) else { panic!("the log reports in time") };
        assert_eq!(tickets, [LogTicket { lane: 0, seq }]);
    };
    let begun = Instant::now();
    for seq in 1..=3 {
        log.submit(of_groups(seq, 4)).unwrap();
        next(seq);
    }
    assert!(begun.elapsed() < gather, "it waits for nobody");
    let begun = Instant::now();
    log.submit(of_groups(4, 5)).unwrap();
    next(4);
    assert!(begun.elapsed() < gather);
    log.submit(of_groups(5, 1)).unwrap();
    log.submit(of_groups(6, 1)).unwrap();
    next(6);
    assert!(begun.elapsed() >= gather, "both went with one write");
    // The end waits for nobody either.
    log.submit(of_groups(7, 5)).unwrap();
    next(7);
    let begun = Instant::now();
    log.submit(of_groups(8, 1)).unwrap();
    log.shutdown();
    next(8);
    assert!(begun.elapsed() < gather);
}

/// A disk on which writing zeros for a new segment takes for ever, from a moment on.
#[derive(Debug)]
struct NoZeros {
    inner: SimDisk,
    is_stuck: Arc<AtomicBool>,
}

#[derive(Debug)]
struct NoZerosFile {
    inner: Arc<dyn DiskFile>,
    is_stuck: Arc<AtomicBool>,
}

impl NoZeros {
    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(NoZerosFile { inner, is_stuck: Arc::clone(&self.is_stuck) })
    }
}

impl Disk for NoZeros {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.create(name).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }

    fn nonce(&self) -> u64 {
        self.inner.nonce()
    }

    fn describe(&self, name: &str) -> String {
        self.inner.describe(name)
    }
}

impl DiskFile for NoZerosFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(into, offset)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(from, offset)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        while self.is_stuck.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        self.inner.preallocate(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.inner.preallocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

struct Unstuck(Arc<AtomicBool>);

impl Drop for Unstuck {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[test]
fn a_log_that_fills_segments_faster_than_spares_are_made_does_not_wait_for_them() {
    let (disk, is_stuck) = (SimDisk::new(1), Arc::new(AtomicBool::new(false)));
    let slow = NoZeros { inner: disk.clone(), is_stuck: Arc::clone(&is_stuck) };
    let (writer, _, _) = LogWriter::open(Arc::new(slow), LogOptions::small()).unwrap();
    let (ear, heard) = bounded(10_000);
    is_stuck.store(true, Ordering::Release);
    let log = SharedLog::start(writer, Box::new(Ear(ear))).unwrap();
    // Dropped before the log, which then ends also if this fails.
    let unstuck = Unstuck(is_stuck);
    // Segments of 64 KiB: some five.
    for seq in 1..=40 {
        log.submit(batch(0, seq, vec![record(1, LogChange::Append(vec![sized_entry(1, seq, 8_000)]))])).unwrap();
    }
    wait_for(&heard, &BTreeMap::from([(0, 40)]));
    drop(unstuck);
    log.shutdown();
    assert_eq!(open(&disk).1.summary(RegionId(1)).unwrap().last_index, LogIndex(40));
}
