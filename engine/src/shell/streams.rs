//! Snapshots on their way out: one thread each, as many at once as the workers' logic allows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use multiraft_raft::StoreId;
use multiraft_router::Mailbox;
use multiraft_transport::{SnapshotChunk, SnapshotHeader, Transport};

use crate::apply::SnapshotSource;
use crate::logic::{Input, SnapshotTask};
use crate::shell::apply::ApplyWork;
use crate::shell::receive::Receiving;
use crate::shell::worker::Work;

/// How often a worker hears that chunks are still moving.
pub(super) const MOVING_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the threads that send.
pub(super) struct Streams {
    pub(super) transport: Arc<Transport>,
    pub(super) mailboxes: Vec<Mailbox<Work>>,
}

impl Streams {
    /// Does what a worker's logic wants done about snapshots.
    pub(super) fn on_task(
        self: &Arc<Self>,
        worker: usize,
        task: SnapshotTask,
        apply: &Sender<ApplyWork>,
        receiving: &Receiving,
    ) {
        match task {
            SnapshotTask::Discard { from, header } => {
                // No room: the next start removes it.
                let _ = apply.try_send(ApplyWork::Discard(from, header));
            }
            SnapshotTask::Expect { from, transfer, region } => receiving.expect(from, transfer, region),
            SnapshotTask::Send { handle, transfer, to, replica, first_chunk } => {
                let (sender, captured) = bounded(1);
                // No room: nothing comes back, and the transfer is reported as failed.
                let _ = apply.try_send(ApplyWork::Capture(vec![handle.region], sender));
                let streams = Arc::clone(self);
                let send = move || {
                    let source = captured.recv().ok().and_then(|mut sources: Vec<SnapshotSource>| sources.pop());
                    let sent = source.is_some_and(|source| {
                        let header = SnapshotHeader {
                            transfer,
                            region: handle.region,
                            to: replica,
                            index: source.index,
                            index_term: source.term,
                            descriptor: Arc::clone(&source.descriptor),
                            first_chunk,
                        };
                        streams.stream(worker, to, header, source)
                    });
                    let done = Input::SnapshotSent { transfer, sent };
                    let _ = streams.mailboxes[worker].send_reserved(Work::Input(done));
                };
                let thread = std::thread::Builder::new().name("multiraft-snapshot-out".to_owned());
                if let Err(error) = thread.spawn(send) {
                    tracing::error!(%error, "no thread to send a snapshot with");
                    let done = Input::SnapshotSent { transfer, sent: false };
                    let _ = self.mailboxes[worker].send_reserved(Work::Input(done));
                }
            }
        }
    }

    fn stream(&self, worker: usize, to: StoreId, header: SnapshotHeader, source: SnapshotSource) -> bool {
        let (region, transfer) = (header.region, header.transfer);
        let mut told = Instant::now();
        let attempt = || -> std::io::Result<()> {
            let mut sender = self.transport.open_snapshot(to, header).map_err(std::io::Error::other)?;
            // One chunk is held back, so that the last one can be marked.
            let mut held: Option<SnapshotChunk> = None;
            let mut number = 0;
            source.stream(&mut |data| {
                let chunk = SnapshotChunk { number, last: false, crc: crc32c::crc32c(&data), data };
                number += 1;
                if told.elapsed() > MOVING_INTERVAL {
                    told = Instant::now();
                    let moving = Input::SnapshotMoving { from: None, transfer };
                    let _ = self.mailboxes[worker].send_reserved(Work::Input(moving));
                }
                match held.replace(chunk) {
                    Some(before) => sender.send_blocking(before).map_err(std::io::Error::other),
                    None => Ok(()),
                }
            })?;
            let data = bytes::Bytes::new();
            let mut last = held.unwrap_or(SnapshotChunk { number, last: true, crc: crc32c::crc32c(&data), data });
            last.last = true;
            sender.send_blocking(last).map_err(std::io::Error::other)?;
            sender.finish_blocking().map_err(std::io::Error::other)
        };
        match attempt() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%region, peer = %to, %error, "a snapshot could not be sent");
                false
            }
        }
    }
}
