//! What the log's tests share: short makers of batches, and a model of what a log must hold.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its share of this")]

pub mod harness;

use std::sync::Arc;

use multiraft_raft::{Entry, EntryKind, HardState, LogIndex, LogTicket, Payload, RegionId, ReplicaId, Term};
use multiraft_storage::disk::SimDisk;
use multiraft_storage::log::{GroupRecord, LogBatch, LogChange, LogOptions, LogReader, LogWriter, Recovered};

pub fn open(disk: &SimDisk) -> (LogWriter, LogReader, Recovered) {
    LogWriter::open(Arc::new(disk.clone()), LogOptions::small()).unwrap()
}

pub fn batch(lane: u32, seq: u64, records: Vec<GroupRecord>) -> LogBatch {
    LogBatch { ticket: LogTicket { lane, seq }, records }
}

pub fn record(region: u64, log: LogChange) -> GroupRecord {
    GroupRecord { region: RegionId(region), log, hard_state: None }
}

pub fn entry(term: u64, index: u64) -> Entry {
    sized_entry(term, index, 10 + index as usize % 7)
}

pub fn sized_entry(term: u64, index: u64, size: usize) -> Entry {
    let data: Vec<u8> = (0..size).map(|at| (term * 31 + index * 7 + at as u64) as u8).collect();
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Command, data: Payload::from(data) }
}

pub fn append(region: u64, first: u64, term: u64, count: u64) -> GroupRecord {
    record(region, LogChange::Append((first..first + count).map(|index| entry(term, index)).collect()))
}

pub fn hard_state(region: u64, term: u64) -> GroupRecord {
    let hard_state = HardState { term: Term(term), vote: ReplicaId(1), commit: LogIndex(0) };
    GroupRecord { hard_state: Some(hard_state), ..record(region, LogChange::None) }
}

/// A small generator: tests depend on their seed only.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}
