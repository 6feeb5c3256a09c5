//! Snapshots on their way out: a thread that sends for each transfer, as many at once as the workers' logic allows, and one
//! that writes for each capture. The writer is held up by nothing but this store's disk, so that a captured view is given back
//! soon; who sends follows him, or reads again what was sent before a break.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use multiraft_raft::{ReplicaId, StoreId};
use multiraft_router::Mailbox;
use multiraft_transport::{CaptureId, SnapshotChunk, SnapshotHeader, Transport};

use crate::apply::SnapshotSource;
use crate::logic::{Input, KeptSnapshot, SnapshotTask};
use crate::shell::apply::ApplyWork;
use crate::shell::jobs::{Job, Jobs, Report};
use crate::shell::receive::Receiving;
use crate::shell::worker::Work;
use crate::snapshots::{Captured, Captures};

/// How often a worker hears that chunks are still moving.
pub(super) const MOVING_INTERVAL: Duration = Duration::from_secs(1);
/// How often a thread that waits for this store itself looks whether it is still wanted.
const WANTED_INTERVAL: Duration = Duration::from_millis(50);

/// Starts the threads that send.
pub(super) struct Streams {
    transport: Arc<Transport>,
    mailboxes: Vec<Mailbox<Work>>,
    /// Gone once the store has stopped.
    captures: RwLock<Option<Arc<Captures>>>,
    senders: Arc<Jobs<u64>>,
    writers: Arc<Jobs<CaptureId>>,
}

/// One transfer.
struct Order {
    transfer: u64,
    to: StoreId,
    replica: ReplicaId,
    first_chunk: u64,
    capture: CaptureId,
}

/// Where what is to be sent comes from.
enum From {
    Kept(Arc<Captured>),
    Asked(Receiver<Vec<SnapshotSource>>),
}

impl Streams {
    pub(super) fn new(transport: Arc<Transport>, mailboxes: Vec<Mailbox<Work>>, captures: Captures) -> Self {
        Self {
            transport,
            mailboxes,
            captures: RwLock::new(Some(Arc::new(captures))),
            senders: Jobs::new("multiraft-snapshot-out", "out"),
            writers: Jobs::new("multiraft-snapshot-write", "write"),
        }
    }

    /// Does what a worker's logic wants done about snapshots.
    pub(super) fn on_task(
        self: &Arc<Self>,
        worker: usize,
        task: SnapshotTask,
        apply: &Sender<ApplyWork>,
        receiving: &Arc<Receiving>,
    ) {
        match task {
            SnapshotTask::Discard { from, header } => {
                // No room: the next start removes it.
                let _ = apply.try_send(ApplyWork::Discard(from, header));
            }
            SnapshotTask::Expect { from, transfer, region } => receiving.expect(from, transfer, region),
            SnapshotTask::Cancel { from: Some(from), transfer } => {
                receiving.cancel(from, transfer, &self.mailboxes[worker]);
            }
            SnapshotTask::Cancel { from: None, transfer } => {
                // If it has ended already, that was told.
                self.senders.cancel(transfer);
            }
            SnapshotTask::Release { capture } => {
                if let Some(captures) = self.captures() {
                    captures.release(capture);
                }
            }
            SnapshotTask::Forget { region, capture } => receiving.forget(region, capture),
            SnapshotTask::Send { handle, transfer, to, replica, first_chunk, capture } => {
                let from = match self.captures().and_then(|captures| captures.get(capture)) {
                    Some(captured) => From::Kept(captured),
                    None => {
                        let (sender, captured) = bounded(1);
                        // No room: nothing comes back, and the transfer is reported as failed.
                        let _ = apply.try_send(ApplyWork::CaptureFor(handle.region, replica, sender));
                        From::Asked(captured)
                    }
                };
                self.start(worker, Order { transfer, to, replica, first_chunk, capture }, from);
            }
        }
    }

    fn start(self: &Arc<Self>, worker: usize, order: Order, from: From) {
        let (transfer, streams) = (order.transfer, Arc::clone(self));
        let failed = Input::SnapshotSent { transfer, sent: false, kept: None };
        let mut report = Report::new(self.mailboxes[worker].clone(), failed);
        let send = move |job: &Job| {
            let sent = streams.send(worker, &order, from, job);
            if let Err(error) = &sent {
                tracing::warn!(peer = %order.to, %error, "a snapshot could not be sent");
            }
            let kept = streams.captures().and_then(|captures| captures.kept(order.capture));
            report.set(Input::SnapshotSent { transfer, sent: sent.is_ok(), kept });
        };
        if let Err(error) = self.senders.start(transfer, send) {
            // What was to be reported was dropped with the job, and so told.
            tracing::error!(%error, "no thread to send a snapshot with");
        }
    }

    fn captures(&self) -> Option<Arc<Captures>> {
        self.captures.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, worker: usize, order: &Order, from: From, job: &Job) -> io::Result<()> {
        let captured = match from {
            From::Kept(captured) => captured,
            From::Asked(_) if order.first_chunk > 0 => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "what was captured is not there any more"));
            }
            From::Asked(captured) => self.write(order.capture, wait_for(&captured, job)?)?,
        };
        let KeptSnapshot { region, index, index_term, descriptor, .. } = captured.describe();
        let header = SnapshotHeader {
            transfer: order.transfer,
            region,
            to: order.replica,
            index,
            index_term,
            descriptor,
            absorbed: captured.absorbed(),
            first_chunk: order.first_chunk,
            capture: order.capture,
        };
        let mut sender = self.transport.open_snapshot(order.to, header).map_err(io::Error::other)?;
        job.waits_for(sender.canceller());
        let (mut told, mut number) = (Instant::now(), order.first_chunk);
        loop {
            let chunk = read(&captured, number, job)?;
            number += 1;
            let is_last = chunk.last;
            sender.send_blocking(chunk).map_err(io::Error::other)?;
            if is_last {
                return sender.finish_blocking().map_err(io::Error::other);
            }
            if told.elapsed() > MOVING_INTERVAL {
                told = Instant::now();
                let moving = Input::SnapshotMoving { from: None, transfer: order.transfer };
                let _ = self.mailboxes[worker].send_reserved(Work::Input(moving));
            }
        }
    }

    /// Writes a captured state out, on a thread of its own, to where transfers read it.
    fn write(&self, name: CaptureId, source: SnapshotSource) -> io::Result<Arc<Captured>> {
        let captures = self.captures().ok_or_else(|| io::Error::other("the store has stopped"))?;
        let captured = captures.insert(name, &source);
        // Who writes does not keep it alive: when nobody wants it any more, he finds it gone with the next chunk.
        let place = Arc::downgrade(&captured);
        self.writers.start(name, move |job| Captured::fill(&place, source, &|| job.is_cancelled()))?;
        Ok(captured)
    }

    /// Ends all transfers, waits for their threads, and lets go of the files.
    pub(super) fn stop(&self) {
        self.senders.stop();
        self.captures.write().unwrap_or_else(PoisonError::into_inner).take();
        self.writers.stop();
    }
}

fn cancelled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the transfer was given up")
}

fn wait_for(captured: &Receiver<Vec<SnapshotSource>>, job: &Job) -> io::Result<SnapshotSource> {
    loop {
        match captured.recv_timeout(WANTED_INTERVAL) {
            Ok(mut sources) => return sources.pop().ok_or_else(|| io::Error::other("there is nothing to capture")),
            Err(RecvTimeoutError::Timeout) if !job.is_cancelled() => {}
            Err(RecvTimeoutError::Timeout) => return Err(cancelled()),
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the state could not be captured")),
        }
    }
}

fn read(captured: &Captured, number: u64, job: &Job) -> io::Result<SnapshotChunk> {
    loop {
        if let Some(chunk) = captured.chunk(number, WANTED_INTERVAL)? {
            return Ok(chunk);
        }
        if job.is_cancelled() {
            return Err(cancelled());
        }
    }
}
