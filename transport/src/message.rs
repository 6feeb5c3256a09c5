//! What two stores say to each other: the messages of all their common groups, and what they carry around them.
//!
//! This file holds plain data only; the codec turns it into bytes. A message says which replica of which region it
//! is for; the store at the other end is known from the link.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    Incarnation, LogIndex, Message, Payload, RegionDescriptor, RegionEpoch, RegionId, ReplicaId, StoreId, Term,
};

use crate::SupportMessage;

/// One message from one store to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// From a replica to a replica of the same group.
    Raft(RaftMessage),
    /// The heartbeats of every awake group that the sender leads, for this peer, in one message.
    Beats(Beats),
    /// The answers to [`PeerMessage::Beats`], likewise in one message.
    BeatReplies(BeatReplies),
    /// A caller's command or read, sent on to the store that leads the region.
    Forward(Forward),
    /// What became of a [`PeerMessage::Forward`].
    ForwardReply(ForwardReply),
    /// The snapshot conversation, without the chunks (these have streams of their own).
    Snapshot(SnapshotMessage),
    /// About a region as such, from store to store.
    Region(RegionMessage),
    /// Of the support between the two stores. Heartbeats and their answers belong on the lane for liveness, rounds and theirs on
    /// that for control: see [`SupportMessage::lane`].
    Support(SupportMessage),
}

/// A Raft message with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftMessage {
    /// The group.
    pub region: RegionId,
    /// What is said.
    pub message: Message,
    /// The sender's descriptor, sent by leaders and candidates while the receiver may not know the region: a replica is
    /// created only on the strength of it.
    pub descriptor: Option<Arc<RegionDescriptor>>,
}

/// The heartbeats of all awake groups from one store to another.
///
/// It is also a sign of life of the store, for those who wait for its groups. Support between stores has messages of its own:
/// [`SupportMessage`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beats {
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// Always zero: a place in the format that nothing uses.
    pub epoch: u64,
    /// Grows with each message from this incarnation.
    pub sequence: u64,
    /// Always zeros, like `epoch`.
    pub heard: (Incarnation, u64),
    /// One for each awake group that the sender leads and that has a replica on the receiver.
    pub beats: Vec<Beat>,
}

/// One group's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The group.
    pub region: RegionId,
    /// The leader.
    pub from: ReplicaId,
    /// The follower.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// See [`multiraft_raft::Body::Heartbeat`].
    pub commit: LogIndex,
    /// See [`multiraft_raft::Body::Heartbeat`].
    pub round: u64,
}

/// The answers to one or more [`Beats`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeatReplies {
    /// The answering store's incarnation.
    pub incarnation: Incarnation,
    /// Always zero: a place in the format that nothing uses.
    pub epoch: u64,
    /// The newest [`Beats::sequence`] seen.
    pub sequence: u64,
    /// One for each beat whose sender is acknowledged as leader.
    pub replies: Vec<BeatReply>,
}

/// One group's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatReply {
    /// The group.
    pub region: RegionId,
    /// The follower.
    pub from: ReplicaId,
    /// The leader.
    pub to: ReplicaId,
    /// The follower's term.
    pub term: Term,
    /// The round that the beat carried.
    pub round: u64,
}

/// Names one proposal of one session, so that it takes effect at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionSeq {
    /// The session; unique for ever: the store that opened it, its incarnation, a counter.
    pub session: SessionId,
    /// The log index of the command that opened the session in this region; zero in that command itself. Tells a session
    /// that the region has forgotten from one that it never saw.
    pub opened: LogIndex,
    /// The place in the session, from one; zero in the command that opens it.
    pub sequence: u64,
    /// Every sequence up to here has been answered to the caller: its reply need not be kept.
    pub acknowledged: u64,
}

/// The name of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

/// A caller's request on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The sender's name for it, unique in its incarnation; comes back in the reply.
    pub id: u64,
    /// The region it is for.
    pub region: RegionId,
    /// The epoch that the caller had in mind.
    pub epoch: RegionEpoch,
    /// The term in which the receiver leads the region, as far as the sender knows. A command is proposed in this term or not
    /// at all: one that was held up on its way must not come after what its caller has since had done by other leaders.
    pub term: Term,
    /// How long the caller still waits, in milliseconds.
    pub timeout_ms: u32,
    /// What is asked.
    pub request: ForwardRequest,
}

/// What a forwarded request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardRequest {
    /// Propose a command.
    Propose {
        /// The session it belongs to, if any.
        session: Option<SessionSeq>,
        /// The command.
        command: Payload,
    },
    /// Confirm leadership, and tell the index that a linearizable read must wait for.
    ReadIndex {
        /// It may be confirmed by the leader's lease.
        lease: bool,
    },
    /// Hand leadership over to this store.
    Transfer {
        /// The new leader's store.
        to: StoreId,
    },
    /// Change the region itself: its replicas or its range. The engine's own encoding.
    Admin {
        /// What is wanted.
        request: Bytes,
    },
    /// Confirm leadership, then ask the state machine there: a linearizable read for a store without a replica.
    Query {
        /// The query.
        query: Bytes,
    },
    /// Which region owns a key, or (without one) what is the region that this is addressed to, as far as the receiving store
    /// has heard? A hint: any store answers, from what it knows, and a region checks key and epoch again.
    Locate {
        /// The key.
        key: Option<Bytes>,
    },
}

/// What became of a forwarded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardReply {
    /// [`Forward::id`].
    pub id: u64,
    /// The outcome.
    pub outcome: ForwardOutcome,
}

/// The outcomes of a forwarded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// Committed and applied; what the state machine answered, and the index of the entry.
    Applied {
        /// The state machine's answer.
        reply: Bytes,
        /// Where in the log it stands.
        index: LogIndex,
    },
    /// A linearizable read may be served once this index is applied.
    ReadAt {
        /// The index.
        index: LogIndex,
        /// A term whose leader had committed it.
        term: Term,
    },
    /// What the state machine answered to a query.
    Answered {
        /// Its answer.
        answer: Bytes,
    },
    /// This store leads the region, in this term, which the sender of a command did not know. Nothing was done.
    Leads {
        /// The term.
        term: Term,
    },
    /// Done, with nothing to tell (a transfer).
    Done,
    /// This store does not lead the region. Nothing was done.
    NotLeader {
        /// Who may lead it.
        hint: Option<StoreId>,
    },
    /// The region has changed. Nothing was done.
    EpochMismatch {
        /// What it is now.
        current: Arc<RegionDescriptor>,
    },
    /// The region is not known here. Nothing was done.
    UnknownRegion,
    /// Too much to do. Nothing was done.
    Busy {
        /// When to try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// The answering store leads the region, and its disk is full. Nothing was done.
    NoSpace,
    /// The region no longer remembers the session. Nothing was done by this attempt.
    SessionExpired,
    /// It may have taken effect, or may yet.
    Uncertain,
    /// Refused for good. Nothing was done.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// The region has been changed as was asked for.
    Changed {
        /// What has come of it, in key order.
        regions: Vec<Arc<RegionDescriptor>>,
    },
}

/// What stores tell each other about a region when replicas come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMessage {
    /// The region.
    pub region: RegionId,
    /// What is said.
    pub step: RegionStep,
}

/// What is said about a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionStep {
    /// "My replica hears of no leader. What do you know of the region?"
    Ask {
        /// The replica of the store that asks.
        replica: ReplicaId,
        /// The epoch at which that replica is.
        epoch: RegionEpoch,
    },
    /// "It has come this far": told to a store whose replica is behind or gone from it.
    Tell {
        /// The region as it is known at the sender.
        descriptor: Arc<RegionDescriptor>,
        /// It has been absorbed by a neighbour, and this is what it was last.
        merged: bool,
        /// An entry of its log that is known to be committed, by index and term; zeros: none. Who holds that very entry may take
        /// it and all before it for committed: those that could have said so may all be gone by now.
        committed: (LogIndex, Term),
    },
    /// "Are you frozen by this entry, durably?"
    AskFrozen {
        /// The entry.
        index: LogIndex,
    },
    /// "What is the digest of your state, as of this entry, which is a consistency check?"
    AskDigest {
        /// The entry.
        index: LogIndex,
    },
    /// "This is it", or "there is none".
    Digest {
        /// The replica of the store that says so.
        replica: ReplicaId,
        /// The entry.
        index: LogIndex,
        /// In the engine's own encoding.
        answer: Bytes,
    },
    /// "My replica cannot apply this entry, and never will: it needs a snapshot that stands for it." To the region's leader.
    NeedSnapshot {
        /// The replica of the store that asks.
        replica: ReplicaId,
        /// The entry.
        index: LogIndex,
    },
    /// "That replica, which is not here, leads nothing": answer to [`Body::AskLeader`](multiraft_raft::Body::AskLeader).
    NotLed {
        /// Who was asked.
        replica: ReplicaId,
        /// Who asked.
        to: ReplicaId,
        /// In which term it was said to lead.
        term: Term,
    },
    /// "This store has begun anew, on an empty disk: of its replicas up to this one it has none, and never will."
    BegunAnew {
        /// The last of them.
        above: ReplicaId,
    },
    /// "That replica, which is not here, is bound by no promise": answer to [`Body::Release`](multiraft_raft::Body::Release).
    NotPromised {
        /// Who was released.
        replica: ReplicaId,
        /// By whom.
        to: ReplicaId,
        /// As the leader of which term.
        term: Term,
    },
    /// "Yes."
    IsFrozen {
        /// The replica of the store that says so.
        replica: ReplicaId,
        /// The entry.
        index: LogIndex,
    },
}

/// The snapshot conversation: the sender offers, the receiver accepts or refuses before the sender scans anything, chunks
/// travel on a stream of their own, the receiver tells when it has installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMessage {
    /// The sender's name for the transfer, unique in its incarnation.
    pub transfer: u64,
    /// The region.
    pub region: RegionId,
    /// The replica that sends.
    pub from: ReplicaId,
    /// The replica that receives.
    pub to: ReplicaId,
    /// The sending replica's term.
    pub term: Term,
    /// What is said.
    pub step: SnapshotStep,
}

/// Names the bytes of one captured snapshot: whoever captures gives a new name each time, so that chunks of two captures are
/// never taken for parts of one, also if both stand for the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaptureId {
    /// The store that captured it.
    pub store: StoreId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Unique in that incarnation.
    pub number: u64,
}

/// The steps of the snapshot conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// "I have a snapshot at about this index for you."
    Offer {
        /// The index of the capture, or the sender's applied index if nothing is captured yet.
        index: LogIndex,
        /// The term there.
        index_term: Term,
        /// The region as of that index.
        descriptor: Arc<RegionDescriptor>,
        /// How many bytes, as far as the sender knows; zero: not known.
        size_hint: u64,
        /// The capture that would be sent, if there is one already: a receiver that has chunks of it needs only the others.
        capture: Option<CaptureId>,
    },
    /// "Send it", starting with this chunk (more than zero when a broken transfer is resumed).
    Accept {
        /// The first chunk wanted. More than zero only in answer to an offer that names a capture.
        first_chunk: u64,
    },
    /// "Not now" or "not needed".
    Refuse {
        /// When to ask again, in milliseconds; zero: not needed.
        retry_after_ms: u32,
    },
    /// The receiver has installed it durably, or given up.
    Finished {
        /// Whether it is installed.
        installed: bool,
    },
}

/// The first thing on a snapshot stream: what the chunks that follow make up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// [`SnapshotMessage::transfer`].
    pub transfer: u64,
    /// The region.
    pub region: RegionId,
    /// The replica that receives.
    pub to: ReplicaId,
    /// The log index that the snapshot stands for.
    pub index: LogIndex,
    /// The term there.
    pub index_term: Term,
    /// The region as of that index.
    pub descriptor: Arc<RegionDescriptor>,
    /// What the region has absorbed, in the engine's own encoding.
    pub absorbed: Bytes,
    /// The number of the first chunk on this stream.
    pub first_chunk: u64,
    /// Whose chunks they are.
    pub capture: CaptureId,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Its place, from zero.
    pub number: u64,
    /// Whether none follows.
    pub last: bool,
    /// The bytes, at most the chunk limit.
    pub data: Bytes,
    /// crc32c of `data`, kept end to end.
    pub crc: u32,
    /// On the last chunk: crc32c of the data of all chunks, one after the other, those of earlier streams included. Else zero.
    pub whole_crc: u32,
}
