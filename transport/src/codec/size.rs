//! What a message takes: at most on the wire, about in memory.

use std::mem::size_of;

use multiraft_raft::{Body, Entry, RegionDescriptor, Replica};

use super::varint::VARINT_MAX;
use crate::{Beat, BeatReply, ForwardOutcome, ForwardRequest, PeerMessage, RegionMessage, RegionStep, SnapshotStep};

/// Tag, address and the numbers of any message, each at its longest.
const FIXED_MAX: usize = 1 + 12 * VARINT_MAX + 16;
/// Flags, and six numbers that are all unexpected.
const BEAT_MAX: usize = 1 + 6 * VARINT_MAX;
/// The head with the length, and a term.
const ENTRY_MAX: usize = 2 * VARINT_MAX;
const REPLICA_MAX: usize = 1 + 2 * VARINT_MAX;

/// A bound on the bytes that `message` takes in any frame, close for large messages.
pub(super) fn size_max(message: &PeerMessage) -> usize {
    FIXED_MAX
        + descriptor(message).map_or(0, descriptor_size_max)
        + match message {
            PeerMessage::Raft(raft) => match &raft.message.body {
                Body::Append { entries, .. } => entries.iter().map(|entry| ENTRY_MAX + entry.data.len()).sum(),
                _ => 0,
            },
            PeerMessage::Beats(beats) => beats.beats.len() * BEAT_MAX,
            PeerMessage::BeatReplies(replies) => replies.replies.len() * BEAT_MAX,
            _ => payload(message),
        }
}

/// How many list elements `message` has.
pub(super) fn items(message: &PeerMessage) -> usize {
    descriptor(message).map_or(0, |descriptor| descriptor.replicas.len())
        + match message {
            PeerMessage::Raft(raft) => match &raft.message.body {
                Body::Append { entries, .. } => entries.len(),
                _ => 0,
            },
            PeerMessage::Beats(beats) => beats.beats.len(),
            PeerMessage::BeatReplies(replies) => replies.replies.len(),
            _ => 0,
        }
}

/// About how much memory decoded messages take, their payloads included: what a receiver's budget is charged with.
#[must_use]
pub fn footprint(messages: &[PeerMessage]) -> usize {
    messages.iter().map(|message| size_of::<PeerMessage>() + heap(message)).sum()
}

fn heap(message: &PeerMessage) -> usize {
    descriptor(message).map_or(0, descriptor_footprint)
        + match message {
            PeerMessage::Raft(raft) => match &raft.message.body {
                Body::Append { entries, .. } => entries.iter().map(|entry| size_of::<Entry>() + entry.data.len()).sum(),
                _ => 0,
            },
            PeerMessage::Beats(beats) => beats.beats.len() * size_of::<Beat>(),
            PeerMessage::BeatReplies(replies) => replies.replies.len() * size_of::<BeatReply>(),
            _ => payload(message),
        }
}

fn descriptor(message: &PeerMessage) -> Option<&RegionDescriptor> {
    match message {
        PeerMessage::Raft(raft) => raft.descriptor.as_deref(),
        PeerMessage::ForwardReply(reply) => match &reply.outcome {
            ForwardOutcome::EpochMismatch { current } => Some(current),
            _ => None,
        },
        PeerMessage::Snapshot(snapshot) => match &snapshot.step {
            SnapshotStep::Offer { descriptor, .. } => Some(descriptor),
            _ => None,
        },
        PeerMessage::Region(region) => match &region.step {
            RegionStep::Tell { descriptor, .. } => Some(descriptor),
            _ => None,
        },
        _ => None,
    }
}

fn payload(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Forward(forward) => match &forward.request {
            ForwardRequest::Propose { command, .. } => command.len(),
            ForwardRequest::Admin { request } => request.len(),
            ForwardRequest::Query { query } => query.len(),
            ForwardRequest::Locate { key } => key.as_ref().map_or(0, bytes::Bytes::len),
            _ => 0,
        },
        PeerMessage::Region(RegionMessage { step: RegionStep::Digest { answer, .. }, .. }) => answer.len(),
        PeerMessage::ForwardReply(reply) => match &reply.outcome {
            ForwardOutcome::Applied { reply, .. } => reply.len(),
            ForwardOutcome::Answered { answer } => answer.len(),
            ForwardOutcome::Refused { reason } => reason.len(),
            ForwardOutcome::Changed { regions } => {
                let size = |region: &RegionDescriptor| descriptor_size_max(region).max(descriptor_footprint(region));
                regions.iter().map(|region| size(region)).sum()
            }
            _ => 0,
        },
        _ => 0,
    }
}

fn keys(descriptor: &RegionDescriptor) -> usize {
    descriptor.range.start.len() + descriptor.range.end.len()
}

fn descriptor_size_max(descriptor: &RegionDescriptor) -> usize {
    1 + 6 * VARINT_MAX + keys(descriptor) + descriptor.replicas.len() * REPLICA_MAX
}

fn descriptor_footprint(descriptor: &RegionDescriptor) -> usize {
    size_of::<RegionDescriptor>() + keys(descriptor) + descriptor.replicas.len() * size_of::<Replica>()
}
