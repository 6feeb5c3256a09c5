//! Chunks of snapshots, handed from the sender's queue to the receiver's by a task on the receiver's link thread.
//!
//! At most three chunks are on their way: one in either queue, one in between. While nobody takes the next, the sender is held up.

use std::sync::Arc;

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};

use super::wire::{End, Wire};
use crate::{
    SnapshotChunk, SnapshotError, SnapshotHeader, SnapshotReceiver, SnapshotSender,
    snapshot::{Carrier, Command, OPEN_TIMEOUT},
};

/// A snapshot that a peer has begun to send.
pub(super) struct Incoming {
    header: SnapshotHeader,
    carrier: Carrier,
}

/// Where the receiver's thread gets its chunks from.
type Chunks = mpsc::Sender<Result<SnapshotChunk, SnapshotError>>;

/// Begins a transfer to the other side of `wire`.
pub(super) fn open(wire: &Wire, side: usize, header: SnapshotHeader) -> Result<SnapshotSender, SnapshotError> {
    let (from, to) = (&wire.ends[side], &wire.ends[1 - side]);
    let (sender, carrier) = SnapshotSender::new(header.first_chunk, from.node.config.limits.chunk_bytes_max);
    to.incoming.try_send(Incoming { header, carrier }).map_err(|error| match error {
        TrySendError::Full(_) => SnapshotError::Abandoned,
        TrySendError::Closed(_) => SnapshotError::NotConnected(to.node.config.store),
    })?;
    Ok(sender)
}

/// Carries one transfer to this side of `wire`. Dropped in the middle, it leaves both sides with a link that was lost.
pub(super) async fn carry(wire: Arc<Wire>, side: usize, incoming: Incoming) {
    let (from, to) = (&wire.ends[1 - side], &wire.ends[side]);
    let Incoming { header, carrier: Carrier { mut commands, report, given_up } } = incoming;
    let place = tokio::select! {
        place = timeout(OPEN_TIMEOUT, Arc::clone(&to.streams).acquire_owned()) => place.ok().and_then(Result::ok).ok_or(SnapshotError::Abandoned),
        () = given_up.cancelled() => Err(SnapshotError::Cancelled),
    };
    let _place = match place {
        Ok(place) => place,
        Err(error) => {
            // Nobody may be waiting any more.
            let _ = report.send(Err(error));
            return;
        }
    };
    // One chunk waits here while one is on its way.
    let (chunks, receiver) = mpsc::channel(1);
    to.node.handler.on_snapshot(from.node.config.store, header, SnapshotReceiver::new(receiver));
    let carried = tokio::select! {
        carried = carry_chunks(from, to, &mut commands, &chunks) => carried,
        () = given_up.cancelled() => Err(SnapshotError::Cancelled),
    };
    let is_whole = carried == Ok(true);
    let _ = report.send(carried.map(drop));
    // Frees the sender, who may wait for room.
    drop(commands);
    if !is_whole {
        // After what has arrived before. The receiver must not take that for the whole.
        let _ = chunks.send(Err(SnapshotError::Abandoned)).await;
    }
}

/// Until the sender has finished; whether the last chunk was among them.
async fn carry_chunks(
    from: &End,
    to: &End,
    commands: &mut mpsc::Receiver<Command>,
    chunks: &Chunks,
) -> Result<bool, SnapshotError> {
    loop {
        // Room first: what nobody takes holds its sender up.
        let place = chunks.reserve().await.map_err(|_| SnapshotError::Abandoned)?;
        let command = tokio::select! {
            command = commands.recv() => command,
            // Nobody takes the next chunk any more: its sender need not even be alive for that.
            () = chunks.closed() => return Err(SnapshotError::Abandoned),
        };
        match command {
            Some(Command::Chunk(chunk)) => {
                let (bytes, is_last) = (chunk.data.len(), chunk.last);
                from.node.throttle.pass(bytes).await;
                from.peer.metrics.snapshot_bytes_sent.add(bytes as u64);
                to.node.receive_throttle.pass(bytes).await;
                to.peer.metrics.snapshot_bytes_received.add(bytes as u64);
                place.send(Ok(chunk));
                if is_last {
                    // The receiver has all and may go.
                    return match commands.recv().await {
                        Some(Command::Finish) => Ok(true),
                        _ => Err(SnapshotError::Abandoned),
                    };
                }
            }
            Some(Command::Finish) => return Ok(false),
            None => return Err(SnapshotError::Abandoned),
        }
    }
}
