//! The log's single writer: turns batches into frames, one write and one sync each, and keeps the index.
//!
//! No thread and no queue: [`SharedLog`](super::SharedLog) adds those. The order of each commit is the invariant that all
//! else rests on: encode, write, sync, then the index, then the token. Nobody sees a record that is not durable, and no
//! token exists for one. At most one frame is unsynced at any time, so damage that is followed by a sound frame cannot be
//! a torn write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use multiraft_raft::{LogIndex, LogTicket, RegionId};
use rustc_hash::FxHashMap;

use super::batch::{FlushToken, GroupRecord, LogBatch};
use super::error::{CommitError, LogError, StepError};
use super::format::{Footer, Loc, SegmentHeader};
use super::index::Index;
use super::ledger::Ledger;
use super::options::LogOptions;
use super::reader::LogReader;
use super::recovery::{self, Recovered};
use super::segment::{Segments, Spare, SpareJob, footer_regions};
use super::staging::{BATCH_BYTES_MAX, Staging, batch_bound, is_light};
use super::stats::{Counters, LogStats};
use super::sweep::Sweep;
use crate::disk::Disk;

/// The lane of records that nobody waits for; callers' lanes are lower.
const OWN_LANE: u32 = u32::MAX;

/// The writing end of a log; there is one.
#[derive(Debug)]
pub struct LogWriter {
    pub(super) segments: Segments,
    pub(super) index: Arc<Index>,
    pub(super) ledger: Ledger,
    pub(super) staging: Staging,
    pub(super) sweep: Sweep,
    /// Segments below it hold nothing that is needed; the next frame will say so.
    pub(super) floor: u32,
    pub(super) settled: u32,
    /// The newest durable ticket of each lane.
    lanes: FxHashMap<u32, u64>,
    pub(super) counters: Arc<Counters>,
    poison: Option<Arc<str>>,
}

impl LogWriter {
    /// Opens the log on a disk, or makes one there if the disk holds none. What was recovered is durable when this
    /// returns, however the last process ended.
    ///
    /// # Errors
    /// [`LogError`]. Damaged records are no error: they are named in [`Recovered::damage`].
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Self, LogReader, Recovered), LogError> {
        recovery::open(disk, options.bounded())
    }

    pub(super) fn assemble(segments: Segments, index: Arc<Index>, ledger: Ledger, floor: u32, settled: u32) -> Self {
        let staging = Staging::new(segments.options.record_bytes_max);
        let sweep = Sweep::new(&index, segments.active.segment.number);
        while index.rest() {}
        let counters = Arc::new(Counters::default());
        let lanes = FxHashMap::default();
        let writer = Self { segments, index, ledger, staging, sweep, floor, settled, lanes, counters, poison: None };
        writer.publish_sizes();
        writer
    }

    /// Makes batches durable: one write and one sync for all, unless a segment fills up. Answers the newest token of each
    /// lane. Batches of one lane must come in the order of their tickets.
    ///
    /// # Errors
    /// See [`CommitError`] for what is durable then.
    pub fn commit(&mut self, batches: Vec<LogBatch>) -> Result<Vec<FlushToken>, CommitError> {
        self.check_sound()?;
        self.check_batches(&batches)?;
        let mut tokens = Vec::new();
        let mut queue = VecDeque::from(batches);
        while !queue.is_empty() {
            self.sweep.on_commit(self.segments.active.segment.number);
            match self.commit_frame(&mut queue) {
                Ok(committed) => merge_tokens(&mut tokens, committed),
                Err(FrameError::Invalid(error)) => return Err(error),
                Err(FrameError::Step(error)) => return Err(self.on_error(error, tokens, queue)),
            }
        }
        Ok(tokens)
    }

    /// Makes records durable that no lane waits for.
    pub(super) fn commit_unticketed(&mut self, records: Vec<GroupRecord>) -> Result<(), CommitError> {
        let seq = self.lanes.get(&OWN_LANE).copied().unwrap_or(0) + 1;
        self.commit(vec![LogBatch { ticket: LogTicket { lane: OWN_LANE, seq }, records }]).map(drop)
    }

    /// Whether the log holds durable entries of the group up to that index.
    pub(super) fn truncates_something(&self, region: RegionId, upto: LogIndex) -> bool {
        self.index.tip(region).is_some_and(|tip| !tip.suspect && tip.truncated < upto.0 && upto.0 <= tip.last_index)
    }

    /// Does a bounded piece of the log's own work when there is nothing to commit: writes living records of the oldest
    /// segment again, lets emptied segments go. Answers whether there is more to do at once.
    ///
    /// # Errors
    /// As [`LogWriter::commit`].
    pub fn maintain(&mut self) -> Result<bool, CommitError> {
        self.maintain_or_rest(true)
    }

    /// The same; memory that the next batches are likely to need again is given back only if it `rests`.
    pub(super) fn maintain_or_rest(&mut self, rests: bool) -> Result<bool, CommitError> {
        self.check_sound()?;
        self.maintain_step(rests).map_err(|error| self.on_error(error, Vec::new(), VecDeque::new()))
    }

    /// Takes note that every region which a damage made suspect has been dealt with: replaced, or found sound by other
    /// means. From here on nobody is suspect because of damage found so far, and damaged segments may go. Durable when it
    /// returns.
    ///
    /// # Errors
    /// As [`LogWriter::commit`].
    pub fn settle_damage(&mut self) -> Result<(), CommitError> {
        self.check_sound()?;
        self.settled = self.segments.active.segment.number;
        self.sweep.unpin();
        self.begin_frame();
        self.flush(0).map_err(|error| self.on_error(error, Vec::new(), VecDeque::new()))
    }

    /// The work of making a spare segment, if one is missing and nobody is at it: to be run beside the writer, its result
    /// to be given to [`LogWriter::on_spare_job`]. Without it the writer makes spares itself when it runs out.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        if self.poison.is_some() { None } else { self.segments.spare_job() }
    }

    /// Takes what a [`SpareJob`] made, or `None` if it failed.
    pub fn on_spare_job(&mut self, spare: Option<Spare>) {
        self.segments.on_spare_job(spare);
        self.publish_sizes();
    }

    /// The log's numbers.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.counters.read()
    }

    /// The choices it was opened with.
    #[must_use]
    pub fn options(&self) -> &LogOptions {
        &self.segments.options
    }

    /// Commits as many batches from the front of the queue as fit the active segment, or rolls over if none does.
    fn commit_frame(&mut self, queue: &mut VecDeque<LogBatch>) -> Result<Vec<FlushToken>, FrameError> {
        let options = self.segments.options;
        self.begin_frame();
        let bounds: Vec<usize> = queue.iter().map(|batch| batch_bound(batch, options.record_bytes_max)).collect();
        let front = bounds.first().copied().unwrap_or(0);
        if self.staging.bytes() + front > self.segments.active.room() {
            self.roll(front, queue.iter().all(is_light))?;
            return Ok(Vec::new());
        }
        // Moves take what is left beside the first batch: else they could fill each new segment before it.
        let budget = (2 * bounds.iter().sum::<usize>()).max(options.rewrite_step_bytes as usize);
        self.stage_moves(budget, front);
        let mut count = 0;
        for (batch, bound) in queue.iter().zip(bounds) {
            if self.staging.bytes() + bound > self.segments.active.room() {
                break;
            }
            self.staging.add_batch(batch, &self.index).map_err(|invalid| CommitError::Invalid {
                lane: batch.ticket.lane,
                region: invalid.region,
                why: invalid.why,
            })?;
            count += 1;
        }
        if !self.staging.is_empty() {
            self.flush(count)?;
        }
        let committed: Vec<LogBatch> = queue.drain(..count).collect();
        Ok(self.tokens_of(committed.into_iter()))
    }

    /// Checks what can be checked before anything is written.
    fn check_batches(&self, batches: &[LogBatch]) -> Result<(), CommitError> {
        let mut newest = FxHashMap::default();
        for batch in batches {
            let LogTicket { lane, seq } = batch.ticket;
            let region = batch.records.first().map(|record| record.region).unwrap_or_default();
            let known = newest.entry(lane).or_insert_with(|| self.lanes.get(&lane).copied().unwrap_or(0));
            if seq <= *known {
                return Err(CommitError::Invalid { lane, region, why: "its ticket does not ascend" });
            }
            *known = seq;
            if batch_bound(batch, self.segments.options.record_bytes_max) > BATCH_BYTES_MAX {
                return Err(CommitError::Invalid { lane, region, why: "it is larger than any segment" });
            }
        }
        Ok(())
    }

    fn tokens_of(&mut self, batches: impl Iterator<Item = LogBatch>) -> Vec<FlushToken> {
        let mut tokens = Vec::new();
        for batch in batches {
            self.lanes.insert(batch.ticket.lane, batch.ticket.seq);
            merge_tokens(&mut tokens, [FlushToken::after_flush(batch.ticket)]);
        }
        tokens
    }

    pub(super) fn begin_frame(&mut self) {
        self.abandon_moves();
        let active = &self.segments.active;
        self.staging.begin(Loc { segment: active.segment.number, offset: active.end }, active.segment.seed);
    }

    /// Writes the staged frame, syncs it, and only then lets the index know.
    pub(super) fn flush(&mut self, batches: usize) -> Result<(), StepError> {
        let floor = self.floor;
        let bytes = self.staging.close(floor, self.settled);
        let active = &mut self.segments.active;
        let file = &active.segment.file;
        let describe = || self.segments.disk.describe(&active.segment.name);
        file.append_at(bytes, u64::from(active.end)).map_err(|source| StepError::new(describe(), source))?;
        let begun = Instant::now();
        file.sync_data().map_err(|source| StepError::failed(describe(), source))?;
        let took = begun.elapsed();
        let length = bytes.len();
        active.end += length as u32;
        for record in &self.staging.records {
            if record.prev.segment != active.segment.number {
                active.regions.push(record.region);
            }
            match record.kind {
                super::record::RecordKind::Remove => drop(active.removed.insert(record.region, record.at.offset)),
                _ if record.prev == Loc::NONE => drop(active.removed.remove(&record.region)),
                _ => {}
            }
            if self.index.apply(record, &mut self.ledger) {
                self.sweep.on_new_group(record.region, record.at.segment);
            }
        }
        self.counters.on_frame(batches as u64, self.staging.entries, length as u64, self.staging.rewritten, took);
        self.on_moves_durable();
        self.index.on_frame();
        self.segments.release_below(floor);
        self.ledger.forget_below(floor);
        self.publish_sizes();
        Ok(())
    }

    fn maintain_step(&mut self, rests: bool) -> Result<bool, StepError> {
        self.begin_frame();
        let step = self.segments.options.rewrite_step_bytes as usize;
        let blocked = self.stage_moves(step, 0);
        let floor_is_news = self.segments.table.first().is_some_and(|first| first < self.floor);
        if !self.staging.is_empty() || floor_is_news {
            self.flush(0)?;
        } else if let Some(bound) = blocked {
            self.roll(bound, self.sweep.is_pressed())?;
        } else {
            return Ok(rests && self.rest());
        }
        Ok(true)
    }

    /// Nothing is to be done: gives memory back, piece by piece. Answers whether there is more.
    fn rest(&mut self) -> bool {
        self.staging.give_back();
        self.index.rest()
    }

    /// Goes on in the next segment, which has room for a batch of that bound.
    pub(super) fn roll(&mut self, bound: usize, may_use_reserve: bool) -> Result<(), StepError> {
        let footer = self.footer();
        let capacity = self.segments.options.capacity_for(bound + super::format::FRAME_HEADER);
        let header = SegmentHeader {
            segment: footer.segment + 1,
            log_id: self.segments.log_id,
            capacity,
            previous_end: footer.end,
            floor: self.floor,
            settled: self.settled,
        };
        self.segments.roll(capacity, may_use_reserve, &footer, header)?;
        self.publish_sizes();
        Ok(())
    }

    /// What seals the active segment.
    fn footer(&mut self) -> Footer {
        let active = &mut self.segments.active;
        let mut regions: Vec<RegionId> = active.regions.iter().collect();
        regions.sort_unstable();
        regions.dedup();
        active.regions = regions.iter().copied().collect();
        let number = active.segment.number;
        let regions = footer_regions(&self.index, number, &regions, &active.removed);
        Footer {
            segment: number,
            end: active.end,
            over_damage: false,
            floor: self.floor,
            settled: self.settled,
            regions,
        }
    }

    fn check_sound(&self) -> Result<(), CommitError> {
        self.poison.as_ref().map_or(Ok(()), |cause| Err(CommitError::Poisoned(Arc::clone(cause))))
    }

    /// An error of the disk becomes one of the commit; all but "no space" is final.
    fn on_error(&mut self, error: StepError, durable: Vec<FlushToken>, left: VecDeque<LogBatch>) -> CommitError {
        match error {
            StepError::NoSpace { .. } => {
                self.sweep.on_no_space();
                CommitError::NoSpace { durable, left: left.into() }
            }
            StepError::Failed { file, source } => {
                let cause: Arc<str> = format!("{file}: {source}").into();
                self.poison = Some(Arc::clone(&cause));
                CommitError::Poisoned(cause)
            }
        }
    }

    pub(super) fn publish_sizes(&self) {
        let disk = self.segments.bytes() + self.segments.spare_bytes();
        let (segments, spares) = (self.segments.count(), self.segments.spares.len());
        self.counters.on_sizes(disk, self.ledger.total(), segments, spares);
    }
}

/// How gathering and writing one frame fails.
enum FrameError {
    Invalid(CommitError),
    Step(StepError),
}

impl From<CommitError> for FrameError {
    fn from(error: CommitError) -> Self {
        Self::Invalid(error)
    }
}

impl From<StepError> for FrameError {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

/// Keeps the newest token of each lane.
fn merge_tokens(tokens: &mut Vec<FlushToken>, newer: impl IntoIterator<Item = FlushToken>) {
    for token in newer {
        match tokens.iter_mut().find(|known| known.upto().lane == token.upto().lane) {
            Some(known) => *known = token,
            None => tokens.push(token),
        }
    }
}
