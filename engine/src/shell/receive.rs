//! Snapshots on their way in: one thread each, only those that the workers' logic has accepted.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use multiraft_raft::{RegionId, StoreId};
use multiraft_router::Mailbox;
use multiraft_transport::{SnapshotHeader, SnapshotReceiver};

use crate::apply::{Chunks, ReceivedSnapshots};
use crate::logic::{Input, worker_of};
use crate::shell::streams::MOVING_INTERVAL;
use crate::shell::worker::Work;
use crate::snapshots::Received;

/// How many accepted transfers are remembered at most; older ones are forgotten and their streams refused.
const EXPECTED_MAX: usize = 1024;

/// Receives what is expected.
pub(super) struct Receiving {
    /// Gone once the store has stopped, whoever still holds the link's handler.
    received: RwLock<Option<Received>>,
    expected: Mutex<BTreeMap<(StoreId, u64), RegionId>>,
}

impl Receiving {
    pub(super) fn new(received: Received) -> Self {
        Self { received: RwLock::new(Some(received)), expected: Mutex::default() }
    }

    /// Lets go of the files.
    pub(super) fn close(&self) {
        self.received.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn with<T>(&self, act: impl FnOnce(&Received) -> io::Result<T>) -> io::Result<T> {
        let received = self.received.read().unwrap_or_else(PoisonError::into_inner);
        received.as_ref().map_or_else(|| Err(io::Error::other("the store has stopped")), act)
    }

    /// From now on, this transfer may come.
    pub(super) fn expect(&self, from: StoreId, transfer: u64, region: RegionId) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if expected.len() >= EXPECTED_MAX {
            expected.pop_first();
        }
        expected.insert((from, transfer), region);
    }

    /// A peer has opened a stream. Called on the link thread.
    pub(super) fn begin(
        self: &Arc<Self>,
        from: StoreId,
        header: SnapshotHeader,
        stream: SnapshotReceiver,
        mailboxes: &[Mailbox<Work>],
    ) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let region = expected.remove(&(from, header.transfer));
        drop(expected);
        if region != Some(header.region) {
            tracing::warn!(peer = %from, region = %header.region, "a snapshot that nobody asked for was refused");
            return;
        }
        let mailbox = mailboxes[worker_of(header.region, mailboxes.len())].clone();
        let receiving = Arc::clone(self);
        let transfer = header.transfer;
        let lost = mailbox.clone();
        let receive = move || {
            let moving = || {
                let _ = mailbox.send_reserved(Work::Input(Input::SnapshotMoving { from: Some(from), transfer }));
            };
            let input = match receiving.receive(from, &header, stream, &moving) {
                Ok(()) => Input::SnapshotReceived { from, header },
                Err(error) => {
                    tracing::warn!(peer = %from, region = %header.region, %error, "a snapshot did not arrive whole");
                    Input::SnapshotLost { from, transfer }
                }
            };
            let _ = mailbox.send_reserved(Work::Input(input));
        };
        let thread = std::thread::Builder::new().name("multiraft-snapshot-in".to_owned());
        if let Err(error) = thread.spawn(receive) {
            tracing::error!(%error, "no thread to receive a snapshot with");
            let _ = lost.send_reserved(Work::Input(Input::SnapshotLost { from, transfer }));
        }
    }

    fn receive(
        &self,
        from: StoreId,
        header: &SnapshotHeader,
        mut stream: SnapshotReceiver,
        moving: &dyn Fn(),
    ) -> io::Result<()> {
        let mut writer = self.with(|received| received.begin(header))?;
        let mut told = Instant::now();
        loop {
            let chunk = stream.next_blocking().map_err(io::Error::other)?;
            let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?;
            if chunk.number != writer.chunks() || crc32c::crc32c(&chunk.data) != chunk.crc {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is out of order or damaged"));
            }
            writer.append(&chunk.data)?;
            if told.elapsed() > MOVING_INTERVAL {
                told = Instant::now();
                moving();
            }
            if chunk.last {
                return self.with(|received| {
                    received.on_whole(from, header, writer);
                    Ok(())
                });
            }
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
