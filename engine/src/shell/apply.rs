//! An apply thread: one for each worker, beside the commit path.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use multiraft_raft::RegionId;
use multiraft_router::Mailbox;
use multiraft_storage::StateError;
use multiraft_transport::{Lane, PeerMessage, Transport};

use crate::apply::{AppliedBatch, Applier, ApplyEnd, Dirty, SnapshotSource};
use crate::logic::{ApplyTask, Input};
use crate::shell::Completion;
use crate::shell::fault::Fault;
use crate::shell::receive::Receiving;
use crate::shell::worker::Work;

/// How many tasks become one atomic write at most: a bound on how long a caller waits for others.
const TASKS_PER_WRITE: usize = 512;
/// How long to wait for space.
const NO_SPACE_RETRY: Duration = Duration::from_millis(100);

/// What an apply thread is asked to do, in order.
pub(super) enum ApplyWork {
    /// Carry these out.
    Tasks(Vec<ApplyTask<Completion>>),
    /// Which regions have applied since the last checkpoint?
    Dirty(Sender<BTreeMap<RegionId, Dirty>>),
    /// The state of these regions, as of now.
    Capture(Vec<RegionId>, Sender<Vec<SnapshotSource>>),
}

/// One worker's apply thread.
pub(super) struct ApplyThread {
    pub(super) applier: Applier,
    pub(super) work: Receiver<ApplyWork>,
    pub(super) worker: Mailbox<Work>,
    pub(super) transport: Arc<Transport>,
    pub(super) receiving: Arc<Receiving>,
    pub(super) fault: Fault,
    pub(super) index: usize,
}

impl ApplyThread {
    /// Starts it. It ends when all senders of work are gone.
    pub(super) fn start(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("multiraft-apply-{}", self.index)).spawn(move || self.run())
    }

    fn run(mut self) {
        let mut next = None;
        loop {
            let Some(work) = next.take().or_else(|| self.work.recv().ok()) else {
                return;
            };
            match work {
                ApplyWork::Tasks(mut tasks) => {
                    // What has queued up meanwhile shares the write.
                    while tasks.len() < TASKS_PER_WRITE {
                        match self.work.try_recv() {
                            Ok(ApplyWork::Tasks(more)) => tasks.extend(more),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.apply(tasks);
                }
                ApplyWork::Dirty(reply) => {
                    let _ = reply.send(self.applier.take_dirty());
                }
                ApplyWork::Capture(regions, reply) => self.capture(&regions, &reply),
            }
        }
    }

    fn apply(&mut self, mut tasks: Vec<ApplyTask<Completion>>) {
        while !tasks.is_empty() && !self.fault.is_set() {
            let started = Instant::now();
            let count = tasks.len();
            let (batch, end) = self.applier.apply(std::mem::take(&mut tasks), &*self.receiving);
            match end {
                ApplyEnd::Done => self.deliver(batch),
                ApplyEnd::Stalled { rest } => {
                    if self.wait_for_space() {
                        self.deliver(batch);
                    }
                    tasks = rest;
                }
                ApplyEnd::Failed(error) => self.fault.set(format!("committed entries could not be applied: {error}")),
            }
            metrics::histogram!("apply_batch_seconds").record(started.elapsed().as_secs_f64());
            metrics::histogram!("apply_batch_tasks").record(count as f64);
        }
    }

    /// Waits until the state store takes what it had no space for; false if the store has stopped meanwhile.
    fn wait_for_space(&mut self) -> bool {
        tracing::error!("the state store's disk is full: applying waits for space");
        loop {
            // The only thing to wait for is somebody else freeing space.
            #[allow(clippy::disallowed_methods, reason = "nothing signals free disk space")]
            std::thread::sleep(NO_SPACE_RETRY);
            match self.applier.retry() {
                Ok(()) => return true,
                Err(StateError::NoSpace { .. }) if !self.fault.is_set() => {}
                Err(error) => {
                    self.fault.set(format!("committed entries could not be applied: {error}"));
                    return false;
                }
            }
        }
    }

    fn deliver(&self, batch: AppliedBatch<Completion>) {
        for (reply, outcome) in batch.replies {
            reply.complete(outcome);
        }
        self.send_replies(batch.peer_replies);
        if !batch.applied.is_empty() {
            let _ = self.worker.send_reserved(Work::Input(Input::Applied(batch.applied)));
        }
        for done in batch.installed {
            let _ = self.worker.send_reserved(Work::Input(Input::SnapshotInstalled(done)));
        }
    }

    fn send_replies(&self, replies: Vec<(multiraft_raft::StoreId, multiraft_transport::ForwardReply)>) {
        let mut by_store: BTreeMap<_, Vec<PeerMessage>> = BTreeMap::new();
        for (store, reply) in replies {
            by_store.entry(store).or_default().push(PeerMessage::ForwardReply(reply));
        }
        for (store, messages) in by_store {
            // An answer that cannot be sent is an unknown outcome at the other end.
            if let Err(error) = self.transport.send(store, Lane::Control, &messages) {
                tracing::debug!(peer = %store, %error, "answers could not be sent");
            }
        }
    }

    fn capture(&self, regions: &[RegionId], reply: &Sender<Vec<SnapshotSource>>) {
        let mut sources = Vec::with_capacity(regions.len());
        for &region in regions {
            match self.applier.capture(region) {
                Ok(source) => sources.extend(source),
                Err(error) => tracing::error!(%region, %error, "a region's state could not be captured"),
            }
        }
        let _ = reply.send(sources);
    }
}
