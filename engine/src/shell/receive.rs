//! Snapshots on their way in: one thread each, only those that the workers' logic has accepted.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use multiraft_raft::{RegionId, StoreId};
use multiraft_router::Mailbox;
use multiraft_transport::{CaptureId, SnapshotHeader, SnapshotReceiver};

use crate::apply::{Chunks, ReceivedSnapshots};
use crate::logic::{Input, KeptSnapshot, worker_of};
use crate::shell::jobs::{Job, Jobs, Report};
use crate::shell::streams::MOVING_INTERVAL;
use crate::shell::worker::Work;
use crate::snapshots::{Received, Reception};

/// Receives what is expected.
pub(super) struct Receiving {
    /// Gone once the store has stopped, whoever still holds the link's handler.
    received: RwLock<Option<Received>>,
    /// Accepted, and not begun. The workers' logic bounds how many.
    expected: Mutex<BTreeMap<(StoreId, u64), RegionId>>,
    receivers: Arc<Jobs<(StoreId, u64)>>,
}

impl Receiving {
    pub(super) fn new(received: Received) -> Self {
        Self {
            received: RwLock::new(Some(received)),
            expected: Mutex::default(),
            receivers: Jobs::new("multiraft-snapshot-in", "in"),
        }
    }

    /// Ends all transfers, waits for their threads, and lets go of the files.
    pub(super) fn stop(&self) {
        self.receivers.stop();
        self.received.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn with<T>(&self, act: impl FnOnce(&Received) -> io::Result<T>) -> io::Result<T> {
        let received = self.received.read().unwrap_or_else(PoisonError::into_inner);
        received.as_ref().map_or_else(|| Err(io::Error::other("the store has stopped")), act)
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<(StoreId, u64), RegionId>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has accepted a transfer.
    pub(super) fn expect(&self, from: StoreId, transfer: u64, region: RegionId) {
        self.expected().insert((from, transfer), region);
    }

    /// A worker has given a transfer up: its thread ends and tells so, or if there is none, this does.
    pub(super) fn cancel(&self, from: StoreId, transfer: u64, mailbox: &Mailbox<Work>) {
        // A stream that comes now takes its name out of the list while it is held, and is on the other list then.
        let mut expected = self.expected();
        if self.receivers.cancel((from, transfer)) {
            return;
        }
        let region = expected.remove(&(from, transfer));
        let kept = region.and_then(|region| self.with(|received| Ok(received.kept(region))).ok().flatten());
        let _ = mailbox.send_reserved(Work::Input(Input::SnapshotLost { from, transfer, kept }));
    }

    /// What is kept of a broken transfer is of no use any more.
    pub(super) fn forget(&self, region: RegionId, capture: CaptureId) {
        let _ = self.with(|received| {
            received.forget(region, capture);
            Ok(())
        });
    }

    /// A stream has come in. Runs on the link thread: the rest happens elsewhere.
    pub(super) fn begin(
        self: &Arc<Self>,
        from: StoreId,
        header: SnapshotHeader,
        stream: SnapshotReceiver,
        mailboxes: &[Mailbox<Work>],
    ) {
        let name = (from, header.transfer);
        let mut expected = self.expected();
        if expected.get(&name) != Some(&header.region) {
            tracing::warn!(peer = %from, region = %header.region, "a snapshot that nobody asked for was refused");
            return;
        }
        expected.remove(&name);
        let mailbox = mailboxes[worker_of(header.region, mailboxes.len())].clone();
        let receiving = Arc::clone(self);
        let lost = Input::SnapshotLost { from, transfer: name.1, kept: None };
        let mut report = Report::new(mailbox.clone(), lost);
        let receive = move |job: &Job| {
            job.waits_for(stream.canceller());
            let moving = || {
                let _ =
                    mailbox.send_reserved(Work::Input(Input::SnapshotMoving { from: Some(from), transfer: name.1 }));
            };
            let end = match receiving.receive(from, &header, stream, &moving) {
                Ok(()) => Input::SnapshotReceived { from, header },
                Err((error, kept)) => {
                    tracing::warn!(peer = %from, region = %header.region, %error, "a snapshot did not arrive whole");
                    Input::SnapshotLost { from, transfer: name.1, kept }
                }
            };
            report.set(end);
        };
        if let Err(error) = self.receivers.start(name, receive) {
            // What was to be reported was dropped with the job, and so told.
            tracing::error!(%error, "no thread to receive a snapshot with");
        }
    }

    /// Receives to the end. What has come of a snapshot that breaks off is kept.
    fn receive(
        &self,
        from: StoreId,
        header: &SnapshotHeader,
        stream: SnapshotReceiver,
        moving: &dyn Fn(),
    ) -> Result<(), (io::Error, Option<KeptSnapshot>)> {
        let mut reception = self.with(|received| received.begin(header)).map_err(|error| (error, None))?;
        match take_all(&mut reception, stream, moving) {
            Ok(()) => self
                .with(|received| {
                    received.on_whole(from, header, reception);
                    Ok(())
                })
                .map_err(|error| (error, None)),
            Err(error) => {
                let kept = self.with(|received| Ok(received.keep(reception))).ok().flatten();
                Err((error, kept))
            }
        }
    }
}

fn take_all(reception: &mut Reception, mut stream: SnapshotReceiver, moving: &dyn Fn()) -> io::Result<()> {
    let mut told = Instant::now();
    loop {
        let chunk = stream.next_blocking().map_err(io::Error::other)?;
        let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?;
        reception.take(&chunk)?;
        if chunk.last {
            return Ok(());
        }
        if told.elapsed() > MOVING_INTERVAL {
            told = Instant::now();
            moving();
        }
    }
}

impl ReceivedSnapshots for Receiving {
    fn open(&self, from: StoreId, header: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        self.with(|received| received.open(from, header))
    }

    fn discard(&self, from: StoreId, header: &SnapshotHeader) {
        // After a stop there is nothing to remove: the next start does.
        let _ = self.with(|received| {
            received.discard(from, header);
            Ok(())
        });
    }
}
