//! An apply thread: one for each worker, beside the commit path.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use multiraft_raft::{RegionId, ReplicaId, StoreId};
use multiraft_router::Mailbox;
use multiraft_storage::StateError;
use multiraft_transport::{ForwardOutcome, ForwardReply, Lane, PeerMessage, SnapshotHeader, Transport};

use crate::apply::{AppliedBatch, Applier, ApplyEnd, Backend, Dirty, ReceivedSnapshots, SnapshotSource};
use crate::error::ReadError;
use crate::logic::{ApplyTask, DiskUse, Input, LookupTask, Outcome, ReplyTo, wire_outcome};
use crate::shell::Completion;
use crate::shell::answers::Answers;
use crate::shell::check::Digests;
use crate::shell::fault::{Fault, PanicGuard};
use crate::shell::progress::ApplyProgress;
use crate::shell::receive::Receiving;
use crate::shell::worker::{Work, deliver_local};

/// How many tasks become one atomic write at most: a bound on how long a caller waits for others.
const TASKS_PER_WRITE: usize = 512;
/// When to look again whether what is parked can go on.
const PARKED_RETRY: Duration = Duration::from_millis(20);
/// How many pieces of work are held while there is no space; queries behind more have to wait.
const HELD_MAX: usize = 1024;
/// How long to wait for space.
const NO_SPACE_RETRY: Duration = Duration::from_millis(100);

/// The largest answer that is sent to another store.
const REPLY_BYTES_MAX: usize = 8 << 20;
/// How many bytes of answers are handed to a lane at a time.
const REPLIES_AT_ONCE_BYTES: usize = 1 << 20;

/// What an apply thread is asked to do, in order.
pub(super) enum ApplyWork {
    /// Carry these out.
    Tasks(Vec<ApplyTask<Completion>>),
    /// Answer these from the state of this instant.
    Lookups(Vec<LookupTask<Completion>>),
    /// Which regions have applied since the last checkpoint?
    Dirty(Sender<BTreeMap<RegionId, Dirty>>),
    /// Remove a received snapshot that is of no use.
    Discard(StoreId, SnapshotHeader),
    /// The state of these regions, as of now.
    Capture(Vec<RegionId>, Sender<Vec<SnapshotSource>>),
    /// What a replica is sent of a region's state, of the moment when it is reached.
    CaptureFor(RegionId, ReplicaId, Sender<Vec<SnapshotSource>>),
}

/// One worker's apply thread.
pub(super) struct ApplyThread {
    pub(super) applier: Applier,
    pub(super) backend: Backend,
    pub(super) work: Receiver<ApplyWork>,
    pub(super) worker: Mailbox<Work>,
    pub(super) transport: Arc<Transport>,
    pub(super) receiving: Arc<Receiving>,
    pub(super) digests: Digests,
    pub(super) fault: Fault,
    pub(super) index: usize,
    pub(super) store: StoreId,
    /// The mailboxes of all workers, for answers to this store itself.
    pub(super) workers: Vec<Mailbox<Work>>,
    /// Tasks that wait for a neighbour's freeze; they come before all else.
    pub(super) parked: Vec<ApplyTask<Completion>>,
    /// The store is being stopped with a batch that found no space: nothing may be applied after it.
    pub(super) is_stalled: bool,
    /// What was taken from the queue and is still to be done, in order, before anything else there.
    pub(super) held: VecDeque<ApplyWork>,
    pub(super) progress: ApplyProgress,
    pub(super) answers: Answers,
}

impl ApplyThread {
    /// Starts it. It ends when all senders of work are gone.
    pub(super) fn start(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("multiraft-apply-{}", self.index)).spawn(move || self.run())
    }

    fn run(mut self) {
        let _guard = PanicGuard { fault: self.fault.clone(), thread: "apply" };
        loop {
            let Some(work) = self.held.pop_front().or_else(|| self.receive()) else {
                return self.record_all();
            };
            match work {
                ApplyWork::Tasks(mut tasks) => {
                    // What has queued up meanwhile shares the write.
                    while tasks.len() < TASKS_PER_WRITE {
                        match self.held.pop_front().or_else(|| self.work.try_recv().ok()) {
                            Some(ApplyWork::Tasks(more)) => tasks.extend(more),
                            Some(other) => {
                                self.held.push_front(other);
                                break;
                            }
                            None => break,
                        }
                    }
                    self.apply(tasks);
                }
                other => self.do_aside(other),
            }
        }
    }

    /// The store stops, in order: what it leaves tells how far it has come.
    fn record_all(&mut self) {
        if self.is_stalled || self.fault.is_set() {
            return;
        }
        if let Err(error) = self.applier.record_all() {
            tracing::warn!(%error, "some regions have applied more than is recorded: the next start does it again");
        }
    }

    /// Work that writes nothing. It may take long, which is a standstill only if something waits behind it.
    fn do_aside(&mut self, work: ApplyWork) {
        match work {
            ApplyWork::Tasks(tasks) => self.apply(tasks),
            ApplyWork::Lookups(lookups) => self.look_up(lookups),
            ApplyWork::Dirty(reply) => {
                let dirty = self.applier.take_dirty().unwrap_or_else(|error| {
                    self.fault.set(format!("what was applied could not be recorded: {error}"));
                    BTreeMap::new()
                });
                let _ = reply.send(dirty);
            }
            ApplyWork::Capture(regions, reply) => {
                self.capture(&regions, |region| self.applier.capture(region), &reply);
            }
            ApplyWork::CaptureFor(region, replica, reply) => {
                self.capture(&[region], |region| self.applier.capture_for(region, replica), &reply);
            }
            ApplyWork::Discard(from, header) => self.receiving.discard(from, &header),
        }
        self.progress.on_start();
        self.progress.on_end();
    }

    /// The next work; what is parked is tried again every now and then.
    fn receive(&self) -> Option<ApplyWork> {
        if self.parked.is_empty() {
            return self.work.recv().ok();
        }
        match self.work.recv_timeout(PARKED_RETRY) {
            Ok(work) => Some(work),
            Err(RecvTimeoutError::Timeout) => Some(ApplyWork::Tasks(Vec::new())),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn apply(&mut self, mut tasks: Vec<ApplyTask<Completion>>) {
        if !self.parked.is_empty() {
            let behind = std::mem::replace(&mut tasks, std::mem::take(&mut self.parked));
            tasks.extend(behind);
        }
        while !tasks.is_empty() && !self.fault.is_set() && !self.is_stalled {
            let started = Instant::now();
            self.progress.on_start();
            let count = tasks.len();
            let (mut batch, end) = self.applier.apply(std::mem::take(&mut tasks), &*self.receiving);
            self.parked.append(&mut batch.parked);
            match end {
                ApplyEnd::Done => self.deliver(batch),
                ApplyEnd::Stalled { rest } => {
                    self.is_stalled = !self.wait_for_space();
                    if !self.is_stalled {
                        self.deliver(batch);
                    }
                    tasks = rest;
                }
                ApplyEnd::Failed(error) => self.fault.set(format!("committed entries could not be applied: {error}")),
            }
            self.progress.on_end();
            metrics::histogram!("apply_batch_seconds").record(started.elapsed().as_secs_f64());
            metrics::histogram!("apply_batch_tasks").record(count as f64);
        }
    }

    /// Waits until the state store takes what it had no space for; false if the store has stopped meanwhile.
    fn wait_for_space(&mut self) -> bool {
        tracing::error!("the state store's disk is full: applying waits for space");
        self.tell_full(true);
        loop {
            // The only thing to wait for is somebody else freeing space.
            self.progress.on_end();
            self.answer_for(NO_SPACE_RETRY);
            self.progress.on_start();
            match self.applier.retry() {
                Ok(()) => {
                    self.tell_full(false);
                    return true;
                }
                Err(StateError::NoSpace { .. }) if !self.fault.ends_waiting() => {}
                Err(StateError::NoSpace { .. }) => return false,
                Err(error) => {
                    self.fault.set(format!("committed entries could not be applied: {error}"));
                    return false;
                }
            }
        }
    }

    /// Answers queries for so long, applies what writes nothing, and holds what else comes. A query is handed out once what it
    /// must see is in the state: it need not wait for anything in front of it.
    fn answer_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        for work in std::mem::take(&mut self.held) {
            match work {
                ApplyWork::Lookups(lookups) => self.look_up(lookups),
                ApplyWork::Tasks(tasks) => self.apply_beside(tasks),
                other => self.held.push_back(other),
            }
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let work = if self.held.len() < HELD_MAX {
                self.work.recv_timeout(left)
            } else {
                Err(RecvTimeoutError::Disconnected)
            };
            match work {
                Ok(ApplyWork::Lookups(lookups)) => self.look_up(lookups),
                Ok(ApplyWork::Tasks(tasks)) => self.apply_beside(tasks),
                Ok(other) => self.held.push_back(other),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    #[allow(clippy::disallowed_methods, reason = "nothing signals free disk space")]
                    std::thread::sleep(left);
                    return;
                }
            }
        }
    }

    /// Beside a stalled batch.
    fn apply_beside(&mut self, tasks: Vec<ApplyTask<Completion>>) {
        let (batch, rest) = self.applier.apply_beside(tasks);
        if !batch.effects.is_empty() {
            self.deliver(batch);
        }
        if !rest.is_empty() {
            self.held.push_back(ApplyWork::Tasks(rest));
        }
    }

    fn tell_full(&self, full: bool) {
        // The disk is the store's: all its workers have to know, also those that have written nothing since.
        for worker in &self.workers {
            let _ = worker.send_reserved(Work::Input(Input::DiskFull { disk: DiskUse::State, full }));
        }
    }

    fn deliver(&self, mut batch: AppliedBatch<Completion>) {
        self.answers.give(std::mem::take(&mut batch.replies));
        self.send_replies(std::mem::take(&mut batch.peer_replies));
        for input in batch.take_inputs() {
            let _ = self.worker.send_reserved(Work::Input(input));
        }
        for task in batch.checks {
            self.digests.take(task, &self.worker);
        }
    }

    /// Answers queries. An answer to another store leaves as soon as there are enough bytes of them: they are not gathered
    /// beyond that.
    fn look_up(&self, lookups: Vec<LookupTask<Completion>>) {
        let mut replies = Vec::new();
        let mut bytes = 0;
        for LookupTask { region, epoch, query, to } in lookups {
            // What the embedder's machine makes of a query must not take the applier with it.
            let lookup = || self.backend.lookup(region, epoch, &query);
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(lookup)).unwrap_or_else(|_| {
                Err(ReadError::State { reason: "the state machine panicked over the query".to_owned() })
            });
            let outcome = match found {
                Ok(answer) => Outcome::Answered { answer },
                Err(ReadError::EpochMismatch { current }) => Outcome::EpochMismatch { current },
                Err(ReadError::UnknownRegion { .. }) => Outcome::UnknownRegion,
                Err(error) => Outcome::Refused { reason: error.to_string() },
            };
            match to {
                ReplyTo::Caller(reply) => reply.complete(outcome),
                ReplyTo::Peer { store, id } => {
                    let outcome = within_limit(outcome);
                    if let Outcome::Answered { answer } = &outcome {
                        bytes += answer.len();
                    }
                    replies.push((store, ForwardReply { id, outcome: wire_outcome(outcome) }));
                    if bytes > REPLIES_AT_ONCE_BYTES {
                        self.send_replies(std::mem::take(&mut replies));
                        bytes = 0;
                    }
                }
            }
        }
        self.send_replies(replies);
    }

    fn send_replies(&self, replies: Vec<(StoreId, ForwardReply)>) {
        let mut by_store: BTreeMap<StoreId, (usize, Vec<PeerMessage>)> = BTreeMap::new();
        for (store, mut reply) in replies {
            let mut bytes = 64;
            if let ForwardOutcome::Applied { reply: answer, .. } | ForwardOutcome::Answered { answer } = &reply.outcome
            {
                bytes += answer.len();
            }
            if bytes > REPLY_BYTES_MAX {
                tracing::error!(
                    bytes,
                    limit = REPLY_BYTES_MAX,
                    "an answer is too large to be sent on: keep answers small"
                );
                reply.outcome = ForwardOutcome::Uncertain;
                bytes = 64;
            }
            let (size, messages) = by_store.entry(store).or_default();
            *size += bytes;
            messages.push(PeerMessage::ForwardReply(reply));
            if *size > REPLIES_AT_ONCE_BYTES {
                let messages = std::mem::take(messages);
                *size = 0;
                self.send(store, messages);
            }
        }
        for (store, (_, messages)) in by_store {
            self.send(store, messages);
        }
    }

    fn send(&self, store: StoreId, mut messages: Vec<PeerMessage>) {
        if messages.is_empty() {
            return;
        }
        if store == self.store {
            return deliver_local(&self.workers, store, messages);
        }
        // An answer that cannot be sent is an unknown outcome at the other end.
        if let Err(error) = self.transport.hand_over(store, Lane::Control, &mut messages) {
            tracing::debug!(peer = %store, %error, "answers could not be sent");
        }
    }

    fn capture(
        &self,
        regions: &[RegionId],
        capture: impl Fn(RegionId) -> Result<Option<SnapshotSource>, StateError>,
        reply: &Sender<Vec<SnapshotSource>>,
    ) {
        let mut sources = Vec::with_capacity(regions.len());
        for &region in regions.iter().filter(|region| !self.backend.is_barred(**region)) {
            match capture(region) {
                Ok(source) => sources.extend(source),
                Err(error) => tracing::error!(%region, %error, "a region's state could not be captured"),
            }
        }
        let _ = reply.send(sources);
    }
}

/// An answer that is too large to be sent to another store says so: asking again would not make it smaller.
fn within_limit(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Answered { answer } if answer.len() + 64 > REPLY_BYTES_MAX => Outcome::Refused {
            reason: format!(
                "the answer has {} bytes, more than the {REPLY_BYTES_MAX} that are sent to another store: ask for less at once",
                answer.len()
            ),
        },
        outcome => outcome,
    }
}
