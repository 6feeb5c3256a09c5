//! What a transport tells its owner.

use multiraft_raft::{Incarnation, StoreId};
use tokio::sync::OwnedSemaphorePermit;

use crate::{Lane, PeerMessage, SnapshotHeader, SnapshotReceiver};

/// The owner's side of a transport. All methods are called on the one link thread: they must hand things on and
/// return, whatever blocks in them blocks all links.
///
/// For each connection: [`LinkEvent::Up`] once, then frames, snapshots and ready lanes, then [`LinkEvent::Down`] once.
/// Connections of one peer never overlap. Lanes are empty when a link comes up: what was `Full` before is ready.
///
/// A method that panics costs the link that it was called for.
pub trait Handler: Send + Sync + 'static {
    /// A frame has arrived.
    fn on_frame(&self, frame: ReceivedFrame);

    /// A link is up, or down.
    fn on_link(&self, peer: StoreId, event: LinkEvent);

    /// A lane for which [`Transport::send`](crate::Transport::send) said `Full` has room again: it is below half.
    fn on_lane_ready(&self, peer: StoreId, lane: Lane);

    /// A peer has begun to send a snapshot. Dropping `stream` refuses it.
    fn on_snapshot(&self, from: StoreId, header: SnapshotHeader, stream: SnapshotReceiver);

    /// A peer says that this store was declared dead, see [`TransportConfig::fenced`](crate::TransportConfig::fenced): whatever this
    /// store holds is of the past. Said at every dial.
    fn on_fenced(&self, by: StoreId, reason: &str) {
        let _ = (by, reason);
    }
}

/// Messages that arrived together.
#[derive(Debug)]
pub struct ReceivedFrame {
    /// Who sent them: proven by its certificate.
    pub from: StoreId,
    /// The connection they came over, see [`LinkEvent::Up`].
    pub session: u64,
    /// The lane they came on.
    pub lane: Lane,
    /// The messages, in the order in which they were sent.
    pub messages: Vec<PeerMessage>,
    /// Keep it as long as the messages take up memory.
    pub permit: Permit,
}

/// Stands for the memory of received messages. Dropping it, on any thread, gives that back to the lane's receive
/// budget; while the budget is used up, the lane is not read and its sender is held up.
#[derive(Debug)]
#[must_use = "dropping the permit at once makes the receive budget void"]
pub struct Permit {
    permits: Option<OwnedSemaphorePermit>,
}

impl Permit {
    pub(crate) fn new(permits: OwnedSemaphorePermit) -> Self {
        Self { permits: Some(permits) }
    }

    /// A permit that holds nothing, for messages that came by other means than a link.
    pub fn none() -> Self {
        Self { permits: None }
    }

    /// How many bytes of the budget it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// What became of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It can be used.
    Up {
        /// The peer's incarnation.
        incarnation: Incarnation,
        /// Names the connection; grows.
        session: u64,
    },
    /// It is gone, with all that was still waiting to be sent.
    Down {
        /// The connection, as in [`LinkEvent::Up`].
        session: u64,
        /// Why.
        reason: DownReason,
    },
}

/// Why a link went down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownReason {
    /// A newer connection of the same peer took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// This side was asked to close it.
    #[error("closed on request")]
    Requested,
    /// This side stops.
    #[error("this store is shutting down")]
    Shutdown,
    /// The peer closed it and said why.
    #[error("closed by the peer: {0}")]
    ClosedByPeer(String),
    /// Nothing was heard for the idle timeout.
    #[error("nothing heard for the idle timeout")]
    TimedOut,
    /// The peer broke the protocol: its version or its memory is suspect.
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
    /// Something broke on this side: a handler panicked.
    #[error("failed on this side: {0}")]
    Internal(String),
    /// Something else, told by the QUIC layer.
    #[error("connection lost: {0}")]
    Lost(String),
}
