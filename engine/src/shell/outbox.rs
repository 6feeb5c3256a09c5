//! A worker's way out to the lanes, and what to do when a lane is full.
//!
//! A message that was handed to a link is never dropped while the link lasts: what a full lane does not take waits here, in
//! order, and the worker's logic produces no more appends for it. What waits is bounded by what one turn produces.

use std::collections::VecDeque;
use std::sync::Arc;

use multiraft_raft::StoreId;
use multiraft_transport::{Lane, PeerMessage, SendError, Transport};

use crate::logic::{LaneKind, Outgoing};

/// One worker's outbox.
pub(super) struct Outbox {
    transport: Arc<Transport>,
    append_lane: Lane,
    /// What a full lane did not take, per peer and lane.
    waiting: VecDeque<(StoreId, Lane, Vec<PeerMessage>)>,
}

impl Outbox {
    pub(super) fn new(transport: Arc<Transport>, worker: usize, append_lanes: usize) -> Self {
        let number = u8::try_from(worker % append_lanes.max(1)).unwrap_or(0);
        Self { transport, append_lane: Lane::Append(number), waiting: VecDeque::new() }
    }

    /// Sends a turn's messages; appends to `full` the peers whose append lane is full now.
    pub(super) fn send(&mut self, sends: &mut Vec<Outgoing>, full: &mut Vec<StoreId>) {
        for Outgoing { to, lane, messages } in sends.drain(..) {
            let lane = match lane {
                LaneKind::Liveness => Lane::Liveness,
                LaneKind::Control => Lane::Control,
                LaneKind::Append => self.append_lane,
            };
            let waits = self.waiting.iter().any(|(peer, waiting, _)| (*peer, *waiting) == (to, lane));
            if waits || self.put(to, lane, &messages) {
                self.waiting.push_back((to, lane, messages));
                if lane == self.append_lane {
                    full.push(to);
                }
            }
        }
    }

    /// Tries again what waits; returns whether anything still does.
    pub(super) fn retry(&mut self) -> bool {
        for _ in 0..self.waiting.len() {
            let Some((to, lane, messages)) = self.waiting.pop_front() else { break };
            if self.put(to, lane, &messages) {
                self.waiting.push_back((to, lane, messages));
            }
        }
        !self.waiting.is_empty()
    }

    /// Whether anything waits.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The link to a peer is gone, and with it all that was to go over it.
    pub(super) fn on_link_lost(&mut self, peer: StoreId) {
        self.waiting.retain(|(to, _, _)| *to != peer);
    }

    /// Hands messages to a lane; returns whether it was full.
    fn put(&self, to: StoreId, lane: Lane, messages: &[PeerMessage]) -> bool {
        match self.transport.send(to, lane, messages) {
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
