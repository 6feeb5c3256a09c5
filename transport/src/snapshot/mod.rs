//! Snapshots: streams of chunks, below all lanes.
//!
//! Each transfer is a bidirectional stream of its own. What QUIC's priorities cannot do, because data once on its way is
//! ahead of whatever comes after, a window does: the sender keeps at most
//! [`SnapshotConfig::window_bytes`](crate::SnapshotConfig) unacknowledged, the receiver acknowledges what it has *read*.
//! So bulk never fills the path's buffers, and a receiver that is slow holds up its own transfer only. A throttle over
//! all transfers, in either direction, comes on top.

mod blocking;
mod cancel;
mod receive;
mod send;
mod throttle;

pub use cancel::SnapshotCanceller;
pub use receive::SnapshotReceiver;
pub use send::SnapshotSender;

pub(crate) use receive::receive;
pub(crate) use send::{Carrier, Command, OPEN_TIMEOUT, open, window_is_wide_enough};
pub(crate) use throttle::Throttle;

/// How much a receiver reads before it acknowledges; a window must hold two of these.
pub(crate) const ACK_BYTES: usize = 8 << 10;

/// Why a snapshot did not get through. The transfer can be resumed with a new stream, from the first chunk that the
/// receiver lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no link to that peer.
    #[error("there is no link to store {0}: wait until it is up")]
    NotConnected(multiraft_raft::StoreId),
    /// The link went down in the middle.
    #[error("the link went down during the transfer: resume it when the link is up")]
    LinkLost,
    /// The other side gave the transfer up.
    #[error("the other side gave the transfer up")]
    Abandoned,
    /// The transfer was given up here, by its [`SnapshotCanceller`].
    #[error("the transfer was given up here")]
    Cancelled,
    /// The chunk is longer than the limits allow.
    #[error("a chunk of {bytes} bytes where at most {limit} are allowed: cut smaller chunks")]
    ChunkTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The chunks are not consecutive from the header's first, or go on after the last.
    #[error("chunk {found} where chunk {expected} was due")]
    OutOfOrder {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
}
