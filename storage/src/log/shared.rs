//! The log as a service: a thread around the writer, a bounded queue in front of it.
//!
//! While one write is being synced, the batches of the next gather in the queue. Submitting never blocks. The order of one
//! lane is never changed; what waits for space waits in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use multiraft_raft::{LogIndex, RegionId};

use super::batch::{FlushToken, GroupRecord, LogBatch, LogChange};
use super::error::CommitError;
use super::segment::{Spare, SpareJob};
use super::staging::{BATCH_BYTES_MAX, batch_bound, is_light};
use super::stats::Counters;
use super::writer::LogWriter;

/// How often a log without space looks whether there is some again.
const SPACE_RETRY: Duration = Duration::from_millis(50);

/// What the writer needs to write it keeps for so long after the last batch: many busy groups leave it nothing to do every now and then.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long the attempt to make a spare segment rests after it has failed. A writer that needs one meanwhile tries by itself.
const SPARE_RETRY: Duration = Duration::from_secs(1);

/// A write of so many records, one for each group and turn, says that more are on their way...
const GATHER_FROM: usize = 5;
/// ...and what has come is enough.
const GATHER_BYTES: usize = 1 << 20;

/// Who wants to know what became durable. Called on the log's thread, in order: must be quick and must not block.
pub trait FlushListener: Send {
    /// Everything up to these tokens is durable: the newest of each lane that moved.
    fn on_flushed(&mut self, tokens: &[FlushToken]);

    /// The log cannot go on as it did.
    fn on_failed(&mut self, failure: LogFailure);

    /// A living record of these regions turned out to be damaged while the log was at work: replace their replicas.
    fn on_damaged(&mut self, regions: &[RegionId]);
}

/// What a [`FlushListener`] is told when things go wrong, or are well again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFailure {
    /// Final: nothing more becomes durable. Stop the store.
    Poisoned {
        /// What failed.
        cause: Arc<str>,
    },
    /// Batches with entries wait until there is space; told once. Batches without entries still go, except behind one of
    /// their lane that waits; truncations take effect even there. Move leaders away, truncate, free space.
    NoSpace {
        /// The lanes that wait.
        lanes: Vec<u32>,
    },
    /// There is space again, and everything that waited is durable.
    SpaceReturned,
}

/// Why a batch was not taken. Each gives it back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full: try again after the next flush.
    #[error("the log's queue is full: try again after the next flush")]
    Busy(LogBatch),
    /// The batch is larger than any segment can be: make it smaller.
    #[error("the batch is larger than the log can write at once: make it smaller")]
    TooLarge(LogBatch),
    /// The log is poisoned or shut down: stop.
    #[error("the log is closed, by shutdown or after a failure: stop the store")]
    Closed(LogBatch),
}

/// Whether the log gets on with its work, as two looks tell: it stands still if it has work in both and no round lies between
/// them. A log that waits for space goes round all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogProgress {
    /// How often its writer has come to the end of a write, or found nothing to write.
    pub rounds: u64,
    /// Whether batches were taken that are not durable yet.
    pub has_work: bool,
}

/// The log's service. Dropping it shuts it down.
#[derive(Debug)]
pub struct SharedLog {
    queue: Arc<Queue>,
    record_bytes_max: u32,
    threads: Vec<JoinHandle<()>>,
}

impl SharedLog {
    /// Starts the writer's thread, and one beside it that makes spare segments.
    ///
    /// # Errors
    /// What the system says if it gives no thread.
    pub fn start(writer: LogWriter, listener: Box<dyn FlushListener>) -> std::io::Result<Self> {
        let options = *writer.options();
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            wake: Condvar::new(),
            bytes: AtomicUsize::new(0),
            bytes_max: options.queue_bytes_max,
            rounds: AtomicU64::new(0),
        });
        let (jobs, todo) = crossbeam_channel::bounded::<SpareJob>(1);
        let mut log = Self { queue, record_bytes_max: options.record_bytes_max, threads: Vec::new() };
        let queue = Arc::clone(&log.queue);
        log.threads.push(thread::Builder::new().name("log-spares".into()).spawn(move || {
            make_spares(&todo, &queue);
        })?);
        let queue = Arc::clone(&log.queue);
        log.threads.push(thread::Builder::new().name("log-writer".into()).spawn(move || {
            let counters = Arc::clone(&writer.counters);
            Service {
                queue,
                writer,
                listener,
                jobs,
                counters,
                waiting: VecDeque::new(),
                told_no_space: false,
                write_bytes_max: options.write_bytes_max,
                gather: options.gather,
                gathers_until: None,
                rests_at: Some(Instant::now()),
            }
            .run();
        })?);
        Ok(log)
    }

    /// Hands in a batch. Never blocks. Tickets of one lane must come in their order.
    ///
    /// # Errors
    /// [`SubmitError`] gives the batch back.
    pub fn submit(&self, batch: LogBatch) -> Result<(), SubmitError> {
        let bytes = batch_bound(&batch, self.record_bytes_max);
        if bytes > BATCH_BYTES_MAX {
            return Err(SubmitError::TooLarge(batch));
        }
        self.queue.push(batch, bytes)
    }

    /// A look at how the writer gets on.
    #[must_use]
    pub fn progress(&self) -> LogProgress {
        // The rounds first: one that ends in between is missed, never counted for work that comes after it.
        let rounds = self.queue.rounds.load(Ordering::Acquire);
        LogProgress { rounds, has_work: self.queue.bytes.load(Ordering::Acquire) > 0 }
    }

    /// Says that all damage found so far is dealt with; see [`LogWriter::settle_damage`].
    pub fn settle_damage(&self) {
        let mut state = self.queue.lock();
        state.settle = true;
        self.queue.wake.notify_one();
    }

    /// Stops taking batches, makes durable what waits, and ends the threads. What waits for space is given up.
    pub fn shutdown(mut self) {
        self.close_and_join();
    }

    fn close_and_join(&mut self) {
        self.queue.lock().closing = true;
        self.queue.wake.notify_one();
        // The writer ends first; the other one then finds its channel closed.
        for thread in self.threads.drain(..).rev() {
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
    }
}

impl Drop for SharedLog {
    fn drop(&mut self) {
        self.close_and_join();
    }
}

/// Makes spare segments until the writer ends. A writer that hears of a failure asks again at its next commit: it hears a
/// while later, so that a busy log on a full disk does not try all the time.
fn make_spares(todo: &crossbeam_channel::Receiver<SpareJob>, queue: &Queue) {
    let mut has_failed = false;
    while let Ok(job) = todo.recv() {
        let made = job.run();
        let failed_before = std::mem::replace(&mut has_failed, made.is_err());
        if let Err(error) = &made {
            if !failed_before {
                tracing::warn!(%error, "no spare log segment could be made: tried again every now and then");
            }
            // Nobody asks before the answer; the end of the writer is noticed at once.
            let _ = todo.recv_timeout(SPARE_RETRY);
        }
        queue.on_spare(made.ok());
    }
}

/// What stands between the submitters and the writer's thread.
#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
    /// Of all batches taken and not yet durable.
    bytes: AtomicUsize,
    bytes_max: usize,
    /// How often the writer has come to the end of a write, or found nothing to write.
    rounds: AtomicU64,
}

#[derive(Debug, Default)]
struct QueueState {
    batches: Vec<(LogBatch, usize)>,
    /// What the other thread has made; the inner `None` if it could not.
    spare: Option<Option<Spare>>,
    settle: bool,
    closing: bool,
    /// Nothing is taken any more.
    closed: bool,
    /// The writer waits to be woken.
    idle: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, batch: LogBatch, bytes: usize) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closed || state.closing {
            return Err(SubmitError::Closed(batch));
        }
        let waiting = self.bytes.load(Ordering::Relaxed);
        // One batch always finds its way in, however large.
        if waiting > 0 && waiting + bytes > self.bytes_max {
            return Err(SubmitError::Busy(batch));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        state.batches.push((batch, bytes));
        if std::mem::take(&mut state.idle) {
            drop(state);
            self.wake.notify_one();
        }
        Ok(())
    }

    fn on_spare(&self, spare: Option<Spare>) {
        let mut state = self.lock();
        state.spare = Some(spare);
        if std::mem::take(&mut state.idle) {
            self.wake.notify_one();
        }
    }
}

/// What the writer's thread is to do next.
struct Work {
    batches: Vec<(LogBatch, usize)>,
    spare: Option<Option<Spare>>,
    settle: bool,
    closing: bool,
}

/// The writer's thread.
struct Service {
    queue: Arc<Queue>,
    writer: LogWriter,
    listener: Box<dyn FlushListener>,
    jobs: crossbeam_channel::Sender<SpareJob>,
    counters: Arc<Counters>,
    /// Taken from the queue, not durable yet for want of space; in order.
    waiting: VecDeque<(LogBatch, usize)>,
    told_no_space: bool,
    /// See [`super::LogOptions::write_bytes_max`].
    write_bytes_max: usize,
    /// See [`super::LogOptions::gather`].
    gather: Duration,
    /// Before this a write waits for what else may come.
    gathers_until: Option<Instant>,
    /// If nothing is written until then, memory is given back; `None`: it was.
    rests_at: Option<Instant>,
}

impl Service {
    fn run(mut self) {
        let mut idle_work_left = true;
        loop {
            if let Some(job) = self.writer.spare_job()
                && self.jobs.try_send(job).is_err()
            {
                self.writer.on_spare_job(None);
            }
            let work = self.next_work(idle_work_left);
            if let Some(spare) = work.spare {
                self.writer.on_spare_job(spare);
            }
            let has_batches = !work.batches.is_empty();
            if has_batches {
                let records: usize = work.batches.iter().map(|(batch, _)| batch.records.len()).sum();
                self.rests_at = Some(Instant::now() + REST_AFTER);
                self.gathers_until = (records >= GATHER_FROM).then(|| Instant::now() + self.gather);
            }
            let outcome = self.commit(work.batches).and_then(|()| {
                if work.settle {
                    self.writer.settle_damage()?;
                }
                idle_work_left = has_batches || self.maintain()?;
                Ok(())
            });
            self.tell_damage();
            self.queue.rounds.fetch_add(1, Ordering::Release);
            match outcome {
                Ok(()) => {}
                Err(CommitError::NoSpace { .. }) => idle_work_left = false,
                Err(error) => return self.fail(error.to_string().into()),
            }
            if work.closing && !has_batches {
                return;
            }
        }
    }

    /// Some of the log's own work; says whether more is left to be done at once.
    fn maintain(&mut self) -> Result<bool, CommitError> {
        let rests = self.rests_at.is_some_and(|at| at <= Instant::now());
        let more = self.writer.maintain_or_rest(rests)?;
        if rests && !more {
            self.rests_at = None;
        }
        Ok(more)
    }

    /// Waits until there is something to do. Does not wait if `idle_work_left`.
    fn next_work(&self, idle_work_left: bool) -> Work {
        let mut state = self.queue.lock();
        while state.batches.is_empty() && state.spare.is_none() && !state.settle && !state.closing && !idle_work_left {
            state.idle = true;
            let wait = match self.rests_at {
                _ if !self.waiting.is_empty() => SPACE_RETRY,
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => {
                    state = self.queue.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let woken = self.queue.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = woken.0;
            if woken.1.timed_out() || !self.waiting.is_empty() {
                break;
            }
        }
        state.idle = false;
        if let Some(until) = self.gathers_until.filter(|_| !state.batches.is_empty()) {
            // Nobody who hands in a batch wakes it meanwhile.
            while !state.closing && self.queue.bytes.load(Ordering::Relaxed) < GATHER_BYTES {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.queue.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Work {
            batches: std::mem::take(&mut state.batches),
            spare: state.spare.take(),
            settle: std::mem::take(&mut state.settle),
            closing: state.closing,
        }
    }

    fn commit(&mut self, batches: Vec<(LogBatch, usize)>) -> Result<(), CommitError> {
        self.waiting.extend(batches);
        if self.waiting.is_empty() {
            return Ok(());
        }
        if self.told_no_space {
            // What can be gained from within comes first.
            self.truncate_early()?;
            while self.writer.maintain()? {}
        }
        match self.commit_waiting() {
            Err(CommitError::NoSpace { .. }) => {}
            other => {
                if other.is_ok() && std::mem::take(&mut self.told_no_space) {
                    self.listener.on_failed(LogFailure::SpaceReturned);
                }
                return other;
            }
        }
        // Lanes whose first batches hold no entries may go on with those.
        let mut heavy = BTreeMap::new();
        let (light, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(batch, _)| {
                !*heavy
                    .entry(batch.ticket.lane)
                    .and_modify(|heavy| *heavy |= !is_light(batch))
                    .or_insert(!is_light(batch))
            });
        let outcome = self.commit_some(light);
        self.waiting.extend(rest);
        if !self.told_no_space {
            self.told_no_space = true;
            let mut lanes: Vec<u32> = self.waiting.iter().map(|(batch, _)| batch.ticket.lane).collect();
            lanes.sort_unstable();
            lanes.dedup();
            self.listener.on_failed(LogFailure::NoSpace { lanes });
        }
        outcome
    }

    /// Carries out truncations that wait behind entries of their own lane: else a log whose lanes all wait could never free
    /// space itself. An early truncation is harmless: what it drops is not needed, whatever comes before it, as long as it
    /// lies within what is durable and nothing that waits before it touches the same entries. In its place it is found done.
    fn truncate_early(&mut self) -> Result<(), CommitError> {
        let mut touched_from: BTreeMap<RegionId, LogIndex> = BTreeMap::new();
        let mut early = Vec::new();
        for record in self.waiting.iter().flat_map(|(batch, _)| &batch.records) {
            let region = record.region;
            let untouched = touched_from.get(&region).copied().unwrap_or(LogIndex(u64::MAX));
            match &record.log {
                LogChange::None => {}
                LogChange::Append(entries) => {
                    let first = entries.first().map_or(untouched, |first| first.index);
                    touched_from.insert(region, untouched.min(first));
                }
                LogChange::Reset { .. } | LogChange::Remove => {
                    touched_from.insert(region, LogIndex(0));
                }
                LogChange::Truncate { index, term } => {
                    if *index < untouched && self.writer.truncates_something(region, *index) {
                        let log = LogChange::Truncate { index: *index, term: *term };
                        early.push(GroupRecord { region, log, hard_state: None });
                    }
                }
            }
        }
        if early.is_empty() { Ok(()) } else { self.writer.commit_unticketed(early) }
    }

    /// Commits what waits, a part at a time: whoever stands in front is not held up by all who stand behind.
    fn commit_waiting(&mut self) -> Result<(), CommitError> {
        while !self.waiting.is_empty() {
            let mut bytes = 0;
            let fits = |(_, size): &&(LogBatch, usize)| {
                let is_room = bytes < self.write_bytes_max;
                bytes += size;
                is_room
            };
            let count = self.waiting.iter().take_while(fits).count().max(1);
            let rest = self.waiting.split_off(count);
            let part = std::mem::replace(&mut self.waiting, rest);
            self.commit_some(part)?;
            self.queue.rounds.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Commits batches and tells who is durable; what found no space is put in front of what waits.
    fn commit_some(&mut self, batches: VecDeque<(LogBatch, usize)>) -> Result<(), CommitError> {
        if batches.is_empty() {
            return Ok(());
        }
        let (batches, sizes): (Vec<LogBatch>, Vec<usize>) = batches.into_iter().unzip();
        let outcome = self.writer.commit(batches);
        let (tokens, outcome, left) = match outcome {
            Ok(tokens) => (tokens, Ok(()), Vec::new()),
            Err(CommitError::NoSpace { durable, left }) => {
                (durable, Err(CommitError::NoSpace { durable: Vec::new(), left: Vec::new() }), left)
            }
            Err(error) => (Vec::new(), Err(error), Vec::new()),
        };
        let done = sizes.len() - left.len();
        let freed: usize = sizes[..done].iter().sum();
        let bytes = self.queue.bytes.fetch_sub(freed, Ordering::Relaxed) - freed;
        Counters::set(&self.counters.queue_bytes, bytes as u64);
        metrics::gauge!("log_queue_bytes").set(bytes as f64);
        for waiting in left.into_iter().zip(sizes.into_iter().skip(done)).rev() {
            self.waiting.push_front(waiting);
        }
        if !tokens.is_empty() {
            self.listener.on_flushed(&tokens);
        }
        outcome
    }

    fn tell_damage(&mut self) {
        let regions = self.writer.take_damaged();
        if !regions.is_empty() {
            self.listener.on_damaged(&regions);
        }
    }

    /// Nothing more becomes durable: says so, and takes nothing any more.
    fn fail(&mut self, cause: Arc<str>) {
        self.queue.lock().closed = true;
        tracing::error!(%cause, "the log stops");
        self.listener.on_failed(LogFailure::Poisoned { cause });
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if thread::panicking() {
            self.fail("the log's thread has panicked on a broken invariant".into());
        }
        self.queue.lock().closed = true;
    }
}
