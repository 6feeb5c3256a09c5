//! The receiving side of a snapshot stream.

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{ACK_BYTES, SnapshotCanceller, SnapshotError, blocking::block_on};
use crate::{
    SnapshotChunk,
    codec::{CHUNK_PREFIX_MAX, decode_snapshot_chunk, decode_snapshot_header},
    link::{CloseCode, Input, InputError},
    peer::Peer,
    shared::Shared,
};

/// The chunks of one snapshot, in order. Dropping it gives the transfer up.
#[derive(Debug)]
pub struct SnapshotReceiver {
    chunks: mpsc::Receiver<Result<SnapshotChunk, SnapshotError>>,
    is_over: bool,
    canceller: SnapshotCanceller,
}

impl SnapshotReceiver {
    /// Gives out what comes on `chunks`; that it ends early means that the link was lost.
    pub(crate) fn new(chunks: mpsc::Receiver<Result<SnapshotChunk, SnapshotError>>) -> Self {
        Self { chunks, is_over: false, canceller: SnapshotCanceller::default() }
    }

    /// What gives the transfer up from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> SnapshotCanceller {
        self.canceller.clone()
    }

    /// The next chunk; `None` after the last. While nobody asks, the sender is held up.
    ///
    /// # Errors
    /// The transfer broke off: what came so far stands, a new stream may go on from there.
    pub async fn next(&mut self) -> Result<Option<SnapshotChunk>, SnapshotError> {
        if self.is_over {
            return Ok(None);
        }
        let next = tokio::select! {
            next = self.chunks.recv() => next,
            () = self.canceller.cancelled() => return Err(SnapshotError::Cancelled),
        };
        match next {
            Some(Ok(chunk)) => {
                self.is_over = chunk.last;
                Ok(Some(chunk))
            }
            Some(Err(error)) => Err(error),
            None => Err(SnapshotError::LinkLost),
        }
    }

    /// [`SnapshotReceiver::next`] for a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn next_blocking(&mut self) -> Result<Option<SnapshotChunk>, SnapshotError> {
        block_on(self.next())
    }
}

/// Runs one incoming transfer.
///
/// # Errors
/// The peer broke the protocol: the link is to be closed.
pub(crate) async fn receive(
    shared: &Shared,
    peer: &Peer,
    session: u64,
    send: SendStream,
    recv: RecvStream,
) -> Result<(), String> {
    let mut stream = ChunkStream { shared, peer, input: Input::new(recv), acks: send, unacknowledged: 0 };
    let limits = &shared.config.limits;
    let header = match stream.record(limits.chunk_bytes_max).await {
        Ok(Some(bytes)) => decode_snapshot_header(&bytes, limits).map_err(|error| error.to_string())?,
        Ok(None) | Err(RecordError::Broken(_)) => return Ok(()),
        Err(RecordError::TooLong(length)) => return Err(format!("a header of {length} bytes")),
    };
    let mut due = Some(header.first_chunk);
    // One chunk waits here while one is read.
    let (chunks, receiver) = mpsc::channel(1);
    if !peer.is_current(session) {
        return Ok(());
    }
    shared.handler.on_snapshot(peer.id, header, SnapshotReceiver::new(receiver));
    while let Some(expected) = due {
        // Room first: what nobody takes is not read, and its sender is held up.
        let Ok(place) = chunks.reserve().await else { break };
        let record = tokio::select! {
            record = stream.record(limits.chunk_bytes_max + CHUNK_PREFIX_MAX) => record,
            // Nobody takes the next chunk any more: its sender is told, and need not even be alive for that.
            () = chunks.closed() => break,
        };
        let bytes = match record {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                place.send(Err(SnapshotError::Abandoned));
                return Ok(());
            }
            Err(RecordError::Broken(error)) => {
                place.send(Err(error));
                return Ok(());
            }
            Err(RecordError::TooLong(length)) => return Err(format!("a chunk of {length} bytes")),
        };
        let chunk = decode_snapshot_chunk(&bytes, limits).map_err(|error| error.to_string())?;
        if chunk.number != expected {
            return Err(SnapshotError::OutOfOrder { expected, found: chunk.number }.to_string());
        }
        due = if chunk.last { None } else { chunk.number.checked_add(1) };
        place.send(Ok(chunk));
    }
    stream.close(due.is_none()).await;
    Ok(())
}

enum RecordError {
    Broken(SnapshotError),
    TooLong(usize),
}

/// Records from a stream, acknowledged as they are read.
struct ChunkStream<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    input: Input,
    acks: SendStream,
    unacknowledged: usize,
}

impl ChunkStream<'_> {
    /// The next record; `None` at the end of the stream.
    async fn record(&mut self, length_max: usize) -> Result<Option<Bytes>, RecordError> {
        let length = match self.input.array::<4>().await {
            Ok(Some(length)) => u32::from_le_bytes(length) as usize,
            Ok(None) => return Ok(None),
            Err(error) => return Err(RecordError::Broken(broken(&error))),
        };
        if length > length_max {
            return Err(RecordError::TooLong(length));
        }
        self.unacknowledged += 4;
        let mut record = BytesMut::with_capacity(length);
        while record.len() < length {
            let missing = length - record.len();
            let piece = match self.input.some(missing).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Err(RecordError::Broken(SnapshotError::Abandoned)),
                Err(error) => return Err(RecordError::Broken(broken(&error.into()))),
            };
            record.extend_from_slice(&piece);
            self.unacknowledged += piece.len();
            // What is not acknowledged holds up its sender.
            self.shared.receive_throttle.pass(piece.len()).await;
            if self.unacknowledged >= ACK_BYTES {
                self.acknowledge().await;
            }
        }
        Ok(Some(record.freeze()))
    }

    async fn acknowledge(&mut self) {
        let read = std::mem::take(&mut self.unacknowledged);
        self.peer.metrics.snapshot_bytes_received.add(read as u64);
        let read = u32::try_from(read).expect("a few kilobytes");
        // An error means that the stream is over, which the next read tells too.
        let _ = self.acks.write_all(&read.to_le_bytes()).await;
    }

    /// Ends the stream: all was read, or nobody wants the rest.
    async fn close(mut self, is_complete: bool) {
        if is_complete {
            self.acknowledge().await;
        } else {
            self.input.stop(CloseCode::Requested);
        }
        let _ = self.acks.finish();
    }
}

fn broken(error: &InputError) -> SnapshotError {
    if error.is_reset() { SnapshotError::Abandoned } else { SnapshotError::LinkLost }
}
