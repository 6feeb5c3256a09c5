//! The two ends of a lane: one task writes what is queued, one reads what the peer wrote.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use quinn::{Connection, RecvStream, WriteError};

use super::{
    hello::Hello,
    input::{Input, InputError},
};
use crate::{
    Lane, PeerMessage, Permit, ReceivedFrame, WIRE_VERSION,
    codec::version_of,
    decode_frame, footprint,
    peer::{Budget, Peer, SendLane},
    shared::Shared,
};

/// Why a lane's task ended.
#[derive(Debug)]
pub(super) enum LaneEnd {
    /// The connection or the stream is over; the connection knows why.
    Over,
    /// The peer broke the protocol.
    Violation(String),
}

/// Writes one lane until the connection ends. `lane` is one of this store's.
pub(super) async fn write_lane(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    connection: Connection,
    session: u64,
    lane: Lane,
) -> LaneEnd {
    let Some(send_lane) = peer.lane(lane) else { return LaneEnd::Over };
    let Ok(mut stream) = connection.open_uni().await else { return LaneEnd::Over };
    // An error means that the stream is over, which the first write tells too.
    let _ = stream.set_priority(lane.priority());
    let index = u8::try_from(lane.index()).expect("a few lanes");
    if stream.write_all(&[index]).await.is_err() {
        return LaneEnd::Over;
    }
    loop {
        let frame = send_lane.queue().take(session);
        let Some(frame) = frame else {
            if !peer.is_current(session) {
                // The wake-up may have been meant for the next connection's writer.
                send_lane.wake.notify_one();
                return LaneEnd::Over;
            }
            send_lane.wake.notified().await;
            continue;
        };
        send_lane.metrics.frame(frame.message_count(), frame.wire_len());
        match stream.write_chunk(frame.into_wire()).await {
            Ok(()) => {}
            Err(WriteError::Stopped(_)) => return LaneEnd::Violation(format!("{lane} lane: the peer stopped reading")),
            Err(_) => return LaneEnd::Over,
        }
        on_written(&shared, &peer, send_lane, session);
    }
}

fn on_written(shared: &Shared, peer: &Peer, lane: &SendLane, session: u64) {
    let (is_ready, queued) = {
        let mut queue = lane.queue();
        (queue.written(session), queue.queued_bytes())
    };
    lane.metrics.queued.set(queued as f64);
    if is_ready {
        shared.handler.on_lane_ready(peer.id, lane.lane);
    }
}

/// Reads one of the peer's lanes until the connection ends. `seen` has a bit for each lane that was begun.
pub(super) async fn read_lane(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    stream: RecvStream,
    session: u64,
    theirs: Hello,
    seen: Arc<AtomicU32>,
) -> LaneEnd {
    let append_lanes = usize::from(theirs.append_lanes);
    let mut input = Input::new(stream);
    let index = match input.array::<1>().await {
        Ok(Some([index])) => index,
        _ => return LaneEnd::Over,
    };
    let Some(lane) = Lane::from_index(usize::from(index), append_lanes) else {
        return LaneEnd::Violation(format!("there is no lane {index} among {append_lanes} append lanes"));
    };
    if seen.fetch_or(1 << index, Ordering::Relaxed) & (1 << index) != 0 {
        return LaneEnd::Violation(format!("the {lane} lane was begun twice"));
    }
    let budget = peer.budget(lane);
    let mut number = 0_u64;
    loop {
        let (messages, permit) = match read_frame(&shared, &mut input, budget, theirs.version).await {
            Ok(read) => read,
            Err(FrameError::Over) => return LaneEnd::Over,
            Err(FrameError::Bad(what)) => return LaneEnd::Violation(format!("{lane} lane, frame {number}: {what}")),
        };
        if !peer.is_current(session) {
            return LaneEnd::Over;
        }
        number += 1;
        shared.handler.on_frame(ReceivedFrame { from: peer.id, session, lane, messages, permit });
    }
}

enum FrameError {
    Over,
    Bad(String),
}

impl From<InputError> for FrameError {
    fn from(error: InputError) -> Self {
        // A lane lives as long as its connection: without this one the other lanes would go on alone.
        if error.is_reset() { Self::Bad("the stream ended".to_owned()) } else { Self::Over }
    }
}

/// Reads one frame, but only as fast as the handler gives memory back.
async fn read_frame(
    shared: &Shared,
    input: &mut Input,
    budget: &Budget,
    version: u16,
) -> Result<(Vec<PeerMessage>, Permit), FrameError> {
    let prefix = input.array::<4>().await?.ok_or(InputError::Ended)?;
    let length = u32::from_le_bytes(prefix) as usize;
    let limit = shared.config.limits.frame_bytes_max;
    if length > limit {
        return Err(FrameError::Bad(format!("{length} bytes where at most {limit} are allowed")));
    }
    let mut permits = budget.acquire(length).await;
    let body = input.exact(length).await?;
    let messages = decode_frame(&body, &shared.config.limits).map_err(|error| FrameError::Bad(error.to_string()))?;
    drop(body);
    if version < WIRE_VERSION && messages.iter().any(|message| version_of(message) > version) {
        return Err(FrameError::Bad(format!("it holds what version {version} has not")));
    }
    // Decoded, small messages take more than on the wire. Only this task takes from this budget, so waiting for the
    // rest while holding a part cannot lock up.
    let rest = footprint(&messages).min(budget.bytes).saturating_sub(permits.num_permits());
    if rest > 0 {
        permits.merge(budget.acquire(rest).await);
    }
    budget.on_frame(messages.len(), length + prefix.len());
    Ok((messages, Permit::new(permits)))
}
