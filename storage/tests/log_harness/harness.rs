//! A model of what a log must hold, and runs of random batches against it.

use std::collections::BTreeMap;

use multiraft_raft::{Entry, HardState, LogIndex, LogSummary, RegionId, ReplicaId, Term, TermRun};
use multiraft_storage::disk::SimDisk;
use multiraft_storage::log::{GroupRecord, LogBatch, LogChange, LogReader, LogWriter, Recovered};

use super::{Dice, batch, open, sized_entry};

/// One group as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub hard_state: HardState,
    pub truncated: (u64, u64),
    pub entries: Vec<Entry>,
}

impl ModelGroup {
    pub fn last_index(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    pub fn summary(&self) -> LogSummary {
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|run| run.term != entry.term) {
                runs.push(TermRun { start: entry.index, term: entry.term });
            }
        }
        LogSummary {
            truncated_index: LogIndex(self.truncated.0),
            truncated_term: Term(self.truncated.1),
            last_index: LogIndex(self.last_index()),
            runs,
        }
    }
}

/// All groups as they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub groups: BTreeMap<RegionId, ModelGroup>,
}

impl Model {
    pub fn apply(&mut self, batch: &LogBatch) {
        for record in &batch.records {
            if record.log == LogChange::Remove {
                self.groups.remove(&record.region);
            }
            let group = self.groups.entry(record.region).or_default();
            match &record.log {
                LogChange::None | LogChange::Remove => {}
                LogChange::Append(entries) => {
                    if let Some(first) = entries.first() {
                        group.entries.truncate((first.index.0 - group.truncated.0 - 1) as usize);
                        group.entries.extend_from_slice(entries);
                    }
                }
                LogChange::Truncate { index, term } => {
                    if index.0 > group.truncated.0 {
                        group.entries.drain(..(index.0 - group.truncated.0) as usize);
                        group.truncated = (index.0, term.0);
                    }
                }
                LogChange::Reset { index, term } => {
                    group.entries.clear();
                    group.truncated = (index.0, term.0);
                }
            }
            if let Some(hard_state) = record.hard_state {
                group.hard_state = hard_state;
            }
        }
        self.groups.retain(|_, group| *group != ModelGroup::default());
    }

    /// Checks what one group of an opened log holds, to the byte.
    pub fn check_group(&self, region: RegionId, reader: &LogReader, context: &str) {
        let blank = ModelGroup::default();
        let want = self.groups.get(&region).unwrap_or(&blank);
        let summary = reader.summary(region).unwrap_or_default();
        assert_eq!(summary, want.summary(), "{context}: {region:?}");
        assert_eq!(reader.hard_state(region).unwrap_or_default(), want.hard_state, "{context}: {region:?}");
        if !want.entries.is_empty() {
            let read = reader.read(region, summary.first_index(), summary.last_index, usize::MAX).unwrap();
            assert_eq!(read, want.entries, "{context}: {region:?}");
        }
    }

    /// Checks all that an opened log holds.
    pub fn check(&self, reader: &LogReader, context: &str) {
        let mut regions = reader.regions();
        regions.extend(self.groups.keys());
        for region in regions {
            self.check_group(region, reader, context);
        }
    }
}

/// Makes random batches that keep the log's contract.
#[derive(Clone)]
pub struct Maker {
    pub dice: Dice,
    pub regions: u64,
    pub hot: u64,
    pub entry_bytes_max: u64,
    seqs: BTreeMap<u32, u64>,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), regions: 24, hot: 4, entry_bytes_max: 300, seqs: BTreeMap::new() }
    }

    /// Tickets begin anew, as after opening a log.
    pub fn restart_tickets(&mut self) {
        self.seqs.clear();
    }

    /// Batches of a few lanes, each made under the model as it will be after those before.
    pub fn batches(&mut self, model: &Model) -> Vec<LogBatch> {
        let mut model = model.clone();
        let count = 1 + self.dice.below(4);
        let mut made = Vec::new();
        for _ in 0..count {
            let lane = self.dice.below(3) as u32;
            let seq = self.seqs.entry(lane).or_default();
            *seq += 1;
            let seq = *seq;
            let mut one = batch(lane, seq, Vec::new());
            for _ in 0..self.dice.below(5) {
                let record = self.record(&model);
                let step = batch(lane, seq, vec![record]);
                model.apply(&step);
                one.records.extend(step.records);
            }
            made.push(one);
        }
        made
    }

    fn record(&mut self, model: &Model) -> GroupRecord {
        let cold = self.dice.below(8) == 0;
        let region = RegionId(1 + self.dice.below(if cold { self.regions } else { self.hot }));
        let group = model.groups.get(&region).cloned().unwrap_or_default();
        let log = self.change(&group);
        let hard_state = (self.dice.below(3) == 0).then(|| HardState {
            term: Term(1 + self.dice.below(50)),
            vote: ReplicaId(self.dice.below(4)),
            commit: LogIndex(self.dice.below(100)),
        });
        GroupRecord { region, log, hard_state }
    }

    fn change(&mut self, group: &ModelGroup) -> LogChange {
        let last = group.last_index();
        let live = group.entries.len() as u64;
        match self.dice.below(20) {
            0 => LogChange::None,
            1..=4 if live > 0 => {
                let index = group.truncated.0 + 1 + self.dice.below(live);
                let term = group.entries[(index - group.truncated.0 - 1) as usize].term;
                LogChange::Truncate { index: LogIndex(index), term }
            }
            5 if self.dice.below(3) == 0 => {
                LogChange::Reset { index: LogIndex(last + self.dice.below(10)), term: Term(1 + self.dice.below(50)) }
            }
            6 if self.dice.below(3) == 0 => LogChange::Remove,
            _ => {
                let back = if live > 0 && self.dice.below(4) == 0 { self.dice.below(live.min(5)) + 1 } else { 0 };
                let first = last + 1 - back;
                let before = first.checked_sub(group.truncated.0 + 2).map(|at| group.entries[at as usize].term.0);
                let mut term = before.unwrap_or(group.truncated.1) + u64::from(back > 0 || self.dice.below(8) == 0);
                let count = 1 + self.dice.below(6);
                let mut entries = Vec::new();
                for index in first..first + count {
                    entries.push(sized_entry(term, index, self.dice.below(self.entry_bytes_max) as usize));
                    term += u64::from(self.dice.below(10) == 0);
                }
                LogChange::Append(entries)
            }
        }
    }
}

/// A log under random batches, with its model beside it.
pub struct Run {
    pub disk: SimDisk,
    pub model: Model,
    pub maker: Maker,
    pub log: Option<(LogWriter, LogReader)>,
}

impl Run {
    pub fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let (log, reader, _) = open(&disk);
        Self { disk, model: Model::default(), maker: Maker::new(seed), log: Some((log, reader)) }
    }

    /// Goes on with a log that is there; the caller opens it.
    pub fn resume(seed: u64, disk: SimDisk, model: Model) -> Self {
        Self { disk, model, maker: Maker::new(seed), log: None }
    }

    /// Commits some batches; all must become durable.
    pub fn step(&mut self) {
        let batches = self.maker.batches(&self.model);
        for batch in &batches {
            self.model.apply(batch);
        }
        let (log, _) = self.log.as_mut().unwrap();
        log.commit(batches).unwrap();
    }

    /// Closes, opens and checks everything. No damage, nothing torn.
    pub fn reopen_and_check(&mut self) -> Recovered {
        self.model.check(&self.log.as_ref().unwrap().1, "before closing");
        self.log = None;
        let (log, reader, recovered) = open(&self.disk);
        assert!(recovered.damage.is_empty() && recovered.suspects.is_empty(), "{:?}", recovered.damage);
        assert!(recovered.torn.is_none());
        self.model.check(&reader, "after opening");
        self.log = Some((log, reader));
        self.maker.restart_tickets();
        recovered
    }
}
