//! A worker's way out to the lanes, and what to do when a lane is full.
//!
//! A message that was handed to a link is never dropped while the link lasts, except heartbeats, which are followed by the
//! next. What a full lane does not take waits here, in order; the worker's logic produces no more appends for a full append
//! lane. A peer that takes nothing for so long that the bound is reached loses its link: that is a defined event, growing
//! without bound is not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use multiraft_raft::StoreId;
use multiraft_transport::{Lane, PeerMessage, SendError, Transport};

use crate::logic::{LaneKind, Outgoing};

/// How many messages may wait here for one lane of one peer.
const WAITING_MAX: usize = 1 << 16;

/// One worker's outbox.
pub(super) struct Outbox {
    transport: Arc<Transport>,
    append_lane: Lane,
    /// What full lanes did not take, oldest first; no entry is empty.
    waiting: BTreeMap<(StoreId, Lane), Queue>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Vec<PeerMessage>>,
    messages: usize,
}

impl Outbox {
    pub(super) fn new(transport: Arc<Transport>, worker: usize, append_lanes: usize) -> Self {
        let number = u8::try_from(worker % append_lanes.max(1)).unwrap_or(0);
        Self { transport, append_lane: Lane::Append(number), waiting: BTreeMap::new() }
    }

    /// Sends a turn's messages; appends to `full` the peers whose append lane is full now.
    pub(super) fn send(&mut self, sends: &mut Vec<Outgoing>, full: &mut Vec<StoreId>) {
        for Outgoing { to, lane, mut messages } in sends.drain(..) {
            let lane = match lane {
                LaneKind::Liveness => Lane::Liveness,
                LaneKind::Control => Lane::Control,
                LaneKind::Append => self.append_lane,
            };
            if !self.waiting.contains_key(&(to, lane)) && !self.put(to, lane, &mut messages) {
                continue;
            }
            if lane == self.append_lane {
                full.push(to);
            }
            self.keep(to, lane, messages);
        }
    }

    fn keep(&mut self, to: StoreId, lane: Lane, mut messages: Vec<PeerMessage>) {
        messages.retain(|message| !matches!(message, PeerMessage::Beats(_) | PeerMessage::BeatReplies(_)));
        if messages.is_empty() {
            return;
        }
        let queue = self.waiting.entry((to, lane)).or_default();
        queue.messages += messages.len();
        queue.batches.push_back(messages);
        if queue.messages > WAITING_MAX {
            tracing::warn!(peer = %to, ?lane, "the peer takes nothing any more: the link is closed");
            self.transport.disconnect(to);
            self.on_link_lost(to);
        }
    }

    /// Tries again what waits.
    pub(super) fn retry(&mut self) {
        let lanes: Vec<(StoreId, Lane)> = self.waiting.keys().copied().collect();
        for key in lanes {
            let Some(mut queue) = self.waiting.remove(&key) else { continue };
            while let Some(batch) = queue.batches.front_mut() {
                let messages = batch.len();
                if self.put(key.0, key.1, batch) {
                    break;
                }
                queue.messages -= messages;
                queue.batches.pop_front();
            }
            if !queue.batches.is_empty() {
                self.waiting.insert(key, queue);
            }
        }
    }

    /// Whether anything waits.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The link to a peer is gone, and with it all that was to go over it.
    pub(super) fn on_link_lost(&mut self, peer: StoreId) {
        self.waiting.retain(|(to, _), _| *to != peer);
    }

    /// Hands messages to a lane; returns whether it was full, which leaves them as they are.
    fn put(&self, to: StoreId, lane: Lane, messages: &mut Vec<PeerMessage>) -> bool {
        match self.transport.hand_over(to, lane, messages) {
            Ok(()) => false,
            Err(SendError::Full) => true,
            // Without a link there is nowhere to send: the logic is told of links apart, and sends anew.
            Err(SendError::NotConnected | SendError::UnknownPeer) => false,
            Err(error) => {
                tracing::error!(peer = %to, %error, "messages could not be sent");
                false
            }
        }
    }
}
