//! The sending side of a snapshot stream.
//!
//! ```text
//! sender                                    receiver
//!   | -- length, header; length, chunk ... ---> |
//!   | <-- bytes read since the last time ------ |   32 bits, little-endian, again and again
//!   | -- end ---------------------------------> |
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::{Connection, SendStream};
use tokio::sync::{mpsc, oneshot};

use super::{ACK_BYTES, SnapshotCanceller, SnapshotError, blocking::block_on};
use crate::{
    SnapshotChunk, SnapshotHeader,
    codec::{CHUNK_PREFIX_MAX, encode_chunk_prefix, encode_snapshot_header},
    link::{CloseCode, Input},
    peer::Peer,
    shared::Shared,
};

/// How much is written before the throttle and the window are asked again.
const PIECE_BYTES: usize = 8 << 10;

/// Below all lanes.
const PRIORITY: i32 = -1;

/// How long a stream may wait to be opened; the peer bounds how many there are.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the chunks of one snapshot. Dropping it without [`SnapshotSender::finish`] breaks the transfer off.
#[derive(Debug)]
pub struct SnapshotSender {
    commands: mpsc::Sender<Command>,
    outcome: oneshot::Receiver<Result<(), SnapshotError>>,
    chunk_bytes_max: usize,
    /// The number of the next chunk; `None` after the last.
    due: Option<u64>,
    canceller: SnapshotCanceller,
}

/// What is asked of whoever carries a transfer.
#[derive(Debug)]
pub(crate) enum Command {
    Chunk(SnapshotChunk),
    /// There are no more.
    Finish,
}

/// The other end of a [`SnapshotSender`]: what carries its chunks over.
pub(crate) struct Carrier {
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Dropped without a word: the link was lost.
    pub(crate) report: oneshot::Sender<Result<(), SnapshotError>>,
    pub(crate) given_up: SnapshotCanceller,
}

/// Begins a transfer over the present link to `peer`.
pub(crate) fn open(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    header: SnapshotHeader,
) -> Result<SnapshotSender, SnapshotError> {
    let connection = peer.state().link.as_ref().map(|link| link.connection.clone());
    let connection = connection.ok_or(SnapshotError::NotConnected(peer.id))?;
    let (sender, carrier) = SnapshotSender::new(header.first_chunk, shared.config.limits.chunk_bytes_max);
    let (shared_, peer) = (Arc::clone(shared), Arc::clone(peer));
    shared.runtime.spawn(async move {
        let Carrier { commands, report, given_up } = carrier;
        let result = run(&shared_, &peer, &connection, &header, commands, &given_up).await;
        // Nobody may be waiting any more.
        let _ = report.send(result);
    });
    Ok(sender)
}

impl SnapshotSender {
    pub(crate) fn new(first_chunk: u64, chunk_bytes_max: usize) -> (Self, Carrier) {
        // One chunk waits here while one is on its way: enough to keep the stream busy.
        let (sender, commands) = mpsc::channel(1);
        let (report, outcome) = oneshot::channel();
        let canceller = SnapshotCanceller::default();
        let carrier = Carrier { commands, report, given_up: canceller.clone() };
        (Self { commands: sender, outcome, chunk_bytes_max, due: Some(first_chunk), canceller }, carrier)
    }

    /// What gives the transfer up from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> SnapshotCanceller {
        self.canceller.clone()
    }

    /// Hands over the next chunk; waits while the one before has not gone out.
    ///
    /// # Errors
    /// The transfer is over, or the chunk is not the next one.
    pub async fn send(&mut self, chunk: SnapshotChunk) -> Result<(), SnapshotError> {
        if self.due != Some(chunk.number) {
            return Err(SnapshotError::OutOfOrder { expected: self.due.unwrap_or(u64::MAX), found: chunk.number });
        }
        if chunk.data.len() > self.chunk_bytes_max {
            return Err(SnapshotError::ChunkTooLarge { bytes: chunk.data.len(), limit: self.chunk_bytes_max });
        }
        let due = if chunk.last { None } else { chunk.number.checked_add(1) };
        match self.commands.send(Command::Chunk(chunk)).await {
            Ok(()) => {
                self.due = due;
                Ok(())
            }
            Err(_) => Err(self.failure().await),
        }
    }

    /// [`SnapshotSender::send`] for a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn send_blocking(&mut self, chunk: SnapshotChunk) -> Result<(), SnapshotError> {
        block_on(self.send(chunk))
    }

    /// Waits until the receiver has read everything. It has not installed it then: that is told in a message.
    ///
    /// # Errors
    /// The transfer broke.
    pub async fn finish(mut self) -> Result<(), SnapshotError> {
        if self.commands.send(Command::Finish).await.is_err() {
            return Err(self.failure().await);
        }
        (&mut self.outcome).await.unwrap_or(Err(SnapshotError::LinkLost))
    }

    /// [`SnapshotSender::finish`] for a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn finish_blocking(self) -> Result<(), SnapshotError> {
        block_on(self.finish())
    }

    /// Why the task has ended.
    async fn failure(&mut self) -> SnapshotError {
        match (&mut self.outcome).await {
            Ok(Err(error)) => error,
            _ => SnapshotError::LinkLost,
        }
    }
}

async fn run(
    shared: &Shared,
    peer: &Peer,
    connection: &Connection,
    header: &SnapshotHeader,
    commands: mpsc::Receiver<Command>,
    given_up: &SnapshotCanceller,
) -> Result<(), SnapshotError> {
    let opening = tokio::time::timeout(OPEN_TIMEOUT, connection.open_bi());
    let opened = tokio::select! {
        opened = opening => opened,
        () = given_up.cancelled() => return Err(SnapshotError::Cancelled),
    };
    let (send, recv) = opened.map_err(|_| SnapshotError::Abandoned)?.map_err(|_| SnapshotError::LinkLost)?;
    // An error means that the stream is over, which the first write tells too.
    let _ = send.set_priority(PRIORITY);
    let window = shared.config.snapshots.window_bytes;
    let mut output = Output { shared, peer, send, acks: Input::new(recv), window, unread: 0 };
    let sent = tokio::select! {
        sent = output.run(header, commands) => sent,
        () = given_up.cancelled() => Err(SnapshotError::Cancelled),
    };
    if sent.is_err() {
        // The receiver must not take what it has for the whole. An error means that the stream is over already.
        let _ = output.send.reset(CloseCode::Requested.number());
    }
    sent
}

/// The stream, never with more than the window on its way.
struct Output<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    send: SendStream,
    acks: Input,
    window: usize,
    /// Written and not yet told to be read.
    unread: usize,
}

impl Output<'_> {
    async fn run(
        &mut self,
        header: &SnapshotHeader,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), SnapshotError> {
        let mut prefix = vec![0; 4];
        encode_snapshot_header(header, &mut prefix);
        self.record(prefix, Bytes::new()).await?;
        while let Some(command) = commands.recv().await {
            match command {
                Command::Chunk(chunk) => {
                    let mut prefix = Vec::with_capacity(4 + CHUNK_PREFIX_MAX);
                    prefix.resize(4, 0);
                    encode_chunk_prefix(&chunk, &mut prefix);
                    self.record(prefix, chunk.data).await?;
                }
                Command::Finish => return self.finish().await,
            }
        }
        // Dropped without finish.
        Err(SnapshotError::Abandoned)
    }

    /// Writes a record: its length goes into the first four bytes of `prefix`.
    async fn record(&mut self, mut prefix: Vec<u8>, data: Bytes) -> Result<(), SnapshotError> {
        let length = u32::try_from(prefix.len() - 4 + data.len()).expect("a chunk is far below 4 GiB");
        prefix[..4].copy_from_slice(&length.to_le_bytes());
        self.pieces(prefix.into()).await?;
        self.pieces(data).await
    }

    async fn pieces(&mut self, mut data: Bytes) -> Result<(), SnapshotError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            let length = piece.len();
            while self.unread + length > self.window {
                self.read_ack().await?;
            }
            self.shared.throttle.pass(length).await;
            self.send.write_chunk(piece).await.map_err(|error| broken(&error))?;
            self.unread += length;
            self.peer.metrics.snapshot_bytes_sent.add(length as u64);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SnapshotError> {
        self.send.finish().map_err(|_| SnapshotError::Abandoned)?;
        while self.unread > 0 {
            self.read_ack().await?;
        }
        Ok(())
    }

    async fn read_ack(&mut self) -> Result<(), SnapshotError> {
        match self.acks.array::<4>().await {
            Ok(Some(read)) => {
                // More than was sent would be a broken peer's; it gains nothing by it but the stream's own window.
                self.unread = self.unread.saturating_sub(u32::from_le_bytes(read) as usize);
                Ok(())
            }
            Ok(None) => Err(SnapshotError::Abandoned),
            Err(error) => Err(if error.is_reset() { SnapshotError::Abandoned } else { SnapshotError::LinkLost }),
        }
    }
}

fn broken(error: &quinn::WriteError) -> SnapshotError {
    match error {
        quinn::WriteError::Stopped(_) => SnapshotError::Abandoned,
        _ => SnapshotError::LinkLost,
    }
}

/// Checks at the start that a window lets transfers go on at all.
pub(crate) fn window_is_wide_enough(window: usize) -> bool {
    window >= 2 * ACK_BYTES.max(PIECE_BYTES)
}
