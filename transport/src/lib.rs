//! One QUIC link per pair of stores.
//!
//! All that two stores tell each other, for all the groups they have in common, goes over one connection: messages of
//! all groups gathered into frames ([`FrameBuilder`]), on a few lanes that never wait for each other ([`Lane`]), and
//! snapshots on streams of their own below them ([`SnapshotSender`]). Both ends prove by certificate which store they
//! are ([`Tls`]). A [`Transport`] runs all links of a store on one thread and tells its [`Handler`] what arrives.
//!
//! Stores of one process can do without: on a [`LocalNetwork`] messages go from one store's queue to another's handler, with the
//! same promises, neither encoded nor encrypted.
//!
//! The codec stands alone: what moves frames by other means, a simulator for one, needs nothing but [`FrameBuilder`]
//! and [`decode_frame`].

mod accept;
mod birth;
mod codec;
mod config;
mod dial;
mod endpoint;
mod handler;
mod lane;
mod link;
mod local;
mod message;
mod metrics;
mod peer;
mod queue;
mod quic;
mod shared;
mod snapshot;
mod socket;
mod status;
mod support;
mod tls;
mod transport;

pub use birth::{Birth, Births};
pub use codec::{
    FRAME_PREFIX, Frame, FrameBuilder, Limits, TooLarge, WIRE_VERSION, WireError, WireFault, decode_descriptor,
    decode_frame, decode_snapshot_chunk, decode_snapshot_header, encode_descriptor, encode_snapshot_chunk,
    encode_snapshot_header, footprint, fuzz_decode,
};
pub use config::{LinkConfig, Network, PeerAddress, QueueConfig, SnapshotConfig, TransportConfig};
pub use handler::{DownReason, Handler, LinkEvent, Permit, ReceivedFrame};
pub use lane::{APPEND_LANES_MAX, Lane};
pub use local::LocalNetwork;
pub use message::{
    Beat, BeatReplies, BeatReply, Beats, CaptureId, Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage,
    RaftMessage, RegionMessage, RegionStep, SessionId, SessionSeq, SnapshotChunk, SnapshotHeader, SnapshotMessage,
    SnapshotStep,
};
pub use snapshot::{SnapshotCanceller, SnapshotError, SnapshotReceiver, SnapshotSender};
pub use status::{LaneStatus, LinkStatus, PeerStatus};
pub use support::{SupportAnswer, SupportHeartbeat, SupportMessage, SupportRound, SupportRoundAnswer, SupportVerdict};
pub use tls::{Tls, TlsError, store_dns_name};
pub use transport::{SendError, Transport, TransportError};
