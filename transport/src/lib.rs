//! One QUIC link per pair of stores.

mod message;

pub use message::{
    Beat, BeatReplies, BeatReply, Beats, Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage,
    RaftMessage, SessionId, SessionSeq, SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotStep,
};
