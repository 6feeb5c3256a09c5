//! The transport's figures: atomics for [`Transport::status`](crate::Transport::status), and the same as metrics.
//!
//! | metric | labels | |
//! |---|---|---|
//! | `multiraft_transport_frames_total` | peer, lane, direction | frames |
//! | `multiraft_transport_messages_total` | peer, lane, direction | messages in them |
//! | `multiraft_transport_bytes_total` | peer, lane, direction | their bytes, before encryption |
//! | `multiraft_transport_queued_bytes` | peer, lane, direction | waiting to be sent, or to be given back by the handler |
//! | `multiraft_transport_budget_waits_total` | peer, lane, direction | how often a lane was not read for lack of budget |
//! | `multiraft_transport_link_up` | peer | 1 while there is a link |
//! | `multiraft_transport_connections_total` | peer | links that came up; all but the first are reconnects |
//! | `multiraft_transport_dial_failures_total` | peer | dials that came to nothing |
//! | `multiraft_transport_handshake_failures_total` | | incoming connections that were turned away |
//! | `multiraft_transport_snapshot_sent_bytes_total` | peer | bytes of snapshots |
//! | `multiraft_transport_snapshot_received_bytes_total` | peer | bytes of snapshots |

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, counter, gauge};
use multiraft_raft::StoreId;

use crate::Lane;

/// A counter that can also be read.
pub(crate) struct Count {
    value: AtomicU64,
    metric: Counter,
}

impl Count {
    fn new(metric: Counter) -> Self {
        Self { value: AtomicU64::new(0), metric }
    }

    pub(crate) fn add(&self, amount: u64) {
        self.value.fetch_add(amount, Ordering::Relaxed);
        self.metric.increment(amount);
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// One lane in one direction.
pub(crate) struct LaneMetrics {
    pub(crate) frames: Count,
    pub(crate) messages: Count,
    pub(crate) bytes: Count,
    /// Bytes waiting: to be sent, or to be given back by the handler.
    pub(crate) queued: Gauge,
    /// How often the lane was not read because its receive budget was used up.
    pub(crate) waits: Count,
}

impl LaneMetrics {
    pub(crate) fn sent(peer: StoreId, lane: Lane) -> Self {
        Self::new(peer, lane, "sent")
    }

    pub(crate) fn received(peer: StoreId, lane: Lane) -> Self {
        Self::new(peer, lane, "received")
    }

    fn new(peer: StoreId, lane: Lane, direction: &'static str) -> Self {
        let labels = [("peer", peer.0.to_string()), ("lane", lane.to_string()), ("direction", direction.to_owned())];
        Self {
            frames: Count::new(counter!("multiraft_transport_frames_total", &labels)),
            messages: Count::new(counter!("multiraft_transport_messages_total", &labels)),
            bytes: Count::new(counter!("multiraft_transport_bytes_total", &labels)),
            queued: gauge!("multiraft_transport_queued_bytes", &labels),
            waits: Count::new(counter!("multiraft_transport_budget_waits_total", &labels)),
        }
    }

    pub(crate) fn frame(&self, messages: usize, bytes: usize) {
        self.frames.add(1);
        self.messages.add(messages as u64);
        self.bytes.add(bytes as u64);
    }
}

/// One peer.
pub(crate) struct PeerMetrics {
    /// Links that came up.
    pub(crate) connections: Count,
    /// Dials that came to nothing.
    pub(crate) dial_failures: Count,
    pub(crate) snapshot_bytes_sent: Count,
    pub(crate) snapshot_bytes_received: Count,
    pub(crate) is_up: Gauge,
}

impl PeerMetrics {
    pub(crate) fn new(peer: StoreId) -> Self {
        let labels = [("peer", peer.0.to_string())];
        Self {
            connections: Count::new(counter!("multiraft_transport_connections_total", &labels)),
            dial_failures: Count::new(counter!("multiraft_transport_dial_failures_total", &labels)),
            snapshot_bytes_sent: Count::new(counter!("multiraft_transport_snapshot_sent_bytes_total", &labels)),
            snapshot_bytes_received: Count::new(counter!("multiraft_transport_snapshot_received_bytes_total", &labels)),
            is_up: gauge!("multiraft_transport_link_up", &labels),
        }
    }
}

/// Counts a connection that was turned away before it was known whose it is.
pub(crate) fn count_stranger() {
    counter!("multiraft_transport_handshake_failures_total").increment(1);
}
