//! Frames: the messages that were pending for one lane at one moment, as one piece of bytes.
//!
//! A frame is the messages one after the other, nothing before, between or after; inside, numbers are differences to
//! what came before in the same frame. So a frame stands for itself: nothing carries over from one to the next.

use bytes::Bytes;

use super::{
    Limits, TooLarge, WireError, WireFault,
    reader::Reader,
    size::{items, size_max},
};
use crate::PeerMessage;

/// How many bytes of length stand before a frame on a stream (little-endian).
pub const FRAME_PREFIX: usize = 4;

/// The room that a builder keeps from one frame to the next, at most.
const KEPT_CAPACITY: usize = 64 << 10;

/// What room for decoded messages is made by.
const TYPICAL_MESSAGE: usize = 64;

/// The numbers of the kinds of messages: the low five bits of a tag.
pub(super) mod kind {
    pub(crate) const MASK: u8 = 0x1f;
    pub(crate) const PRE_VOTE: u8 = 0;
    pub(crate) const PRE_VOTE_REPLY: u8 = 1;
    pub(crate) const VOTE: u8 = 2;
    pub(crate) const VOTE_REPLY: u8 = 3;
    pub(crate) const APPEND: u8 = 4;
    pub(crate) const ACCEPTED: u8 = 5;
    pub(crate) const REJECTED: u8 = 6;
    pub(crate) const HEARTBEAT: u8 = 7;
    pub(crate) const HEARTBEAT_REPLY: u8 = 8;
    pub(crate) const TIMEOUT_NOW: u8 = 9;
    pub(crate) const PROMISED: u8 = 10;
    pub(crate) const FORTIFY: u8 = 11;
    pub(crate) const FORTIFIED: u8 = 12;
    pub(crate) const RELEASE: u8 = 13;
    pub(crate) const RELEASED: u8 = 14;
    pub(crate) const ASK_LEADER: u8 = 15;
    /// The first number that is not a Raft message's.
    pub(crate) const STORE_FIRST: u8 = 16;
    pub(crate) const BEATS: u8 = 16;
    pub(crate) const BEAT_REPLIES: u8 = 17;
    pub(crate) const FORWARD: u8 = 18;
    pub(crate) const FORWARD_REPLY: u8 = 19;
    pub(crate) const SNAPSHOT: u8 = 20;
    pub(crate) const REGION: u8 = 21;
    pub(crate) const SUPPORT_HEARTBEAT: u8 = 22;
    pub(crate) const SUPPORT_ANSWER: u8 = 23;
    pub(crate) const SUPPORT_ROUND: u8 = 24;
    pub(crate) const SUPPORT_ROUND_ANSWER: u8 = 25;
    /// The whole tag of a heartbeat that says farewell.
    pub(crate) const SUPPORT_FAREWELL: u8 = SUPPORT_HEARTBEAT | 0x80;
}

/// What later messages of a frame are written as differences to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    pub(super) region: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) forward: u64,
    pub(super) session: u128,
    pub(super) opened: u64,
}

/// One encoded frame, with its length before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    wire: Bytes,
    messages: usize,
}

impl Frame {
    /// What [`decode_frame`] reads.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.wire.slice(FRAME_PREFIX..)
    }

    /// What goes onto a stream: the length of the body, then the body.
    #[must_use]
    pub fn into_wire(self) -> Bytes {
        self.wire
    }

    /// The length on a stream.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.wire.len()
    }

    /// How many messages are in it.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.messages
    }
}

/// Gathers messages into a frame. One per lane; append-only until [`FrameBuilder::take`].
#[derive(Debug)]
pub struct FrameBuilder {
    /// Invariant: the first [`FRAME_PREFIX`] bytes are kept free for the length.
    buffer: Vec<u8>,
    context: Context,
    messages: usize,
    items: usize,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// An empty frame.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: vec![0; FRAME_PREFIX], context: Context::default(), messages: 0, items: 0 }
    }

    /// The length of the body so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len() - FRAME_PREFIX
    }

    /// Whether nothing was pushed since the last [`FrameBuilder::take`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// How many messages were pushed since the last [`FrameBuilder::take`].
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.messages
    }

    /// Whether `message` may be pushed onto this frame without breaking `limits`.
    #[must_use]
    pub fn has_room(&self, message: &PeerMessage, limits: &Limits) -> bool {
        self.messages < limits.messages_max
            && self.items + items(message) <= limits.items_max
            && self.len() + size_max(message) <= limits.frame_bytes_max
    }

    /// Appends a message.
    ///
    /// Does not look at limits: ask [`FrameBuilder::has_room`] first where the other end has some.
    ///
    /// # Panics
    /// If the entries of an append are not consecutive from `prev_index + 1`: that is an invariant of the message, and
    /// the wire has no place for anything else.
    pub fn push(&mut self, message: &PeerMessage) {
        self.messages += 1;
        self.items += items(message);
        let (context, out) = (&mut self.context, &mut self.buffer);
        match message {
            PeerMessage::Raft(raft) => context.put_raft(out, raft),
            PeerMessage::Beats(beats) => super::beats::put_beats(out, beats),
            PeerMessage::BeatReplies(replies) => super::beats::put_beat_replies(out, replies),
            PeerMessage::Forward(forward) => context.put_forward(out, forward),
            PeerMessage::ForwardReply(reply) => context.put_forward_reply(out, reply),
            PeerMessage::Snapshot(snapshot) => context.put_snapshot(out, snapshot),
            PeerMessage::Region(region) => context.put_region(out, region),
            PeerMessage::Support(support) => super::support::put_support(out, support),
        }
    }

    /// Hands out the frame and starts the next one.
    ///
    /// # Panics
    /// If the body is longer than 4 GiB: [`FrameBuilder::has_room`] was not asked.
    #[must_use]
    pub fn take(&mut self) -> Frame {
        let length = u32::try_from(self.len()).expect("limits keep a frame below 4 GiB");
        let kept = self.buffer.len().clamp(FRAME_PREFIX, KEPT_CAPACITY);
        let mut wire = std::mem::replace(&mut self.buffer, Vec::with_capacity(kept));
        self.buffer.resize(FRAME_PREFIX, 0);
        wire[..FRAME_PREFIX].copy_from_slice(&length.to_le_bytes());
        let frame = Frame { wire: wire.into(), messages: self.messages };
        (self.context, self.messages, self.items) = (Context::default(), 0, 0);
        frame
    }
}

impl Limits {
    /// Whether `message` fits into a frame of its own.
    ///
    /// # Errors
    /// It does not: nothing of it can be sent.
    pub fn admit(&self, message: &PeerMessage) -> Result<(), TooLarge> {
        let (bytes, items) = (size_max(message), items(message));
        if bytes <= self.frame_bytes_max && items <= self.items_max {
            return Ok(());
        }
        Err(TooLarge { bytes, bytes_max: self.frame_bytes_max, items, items_max: self.items_max })
    }
}

/// Reads the body of a frame.
///
/// # Errors
/// The bytes are no frame of this format, or one beyond `limits`.
pub fn decode_frame(bytes: &Bytes, limits: &Limits) -> Result<Vec<PeerMessage>, WireError> {
    let limit = |what, found: usize, limit: usize| WireError {
        offset: 0,
        fault: WireFault::Limit { what, found: found as u64, limit: limit as u64 },
    };
    if bytes.len() > limits.frame_bytes_max {
        return Err(limit("bytes of frame", bytes.len(), limits.frame_bytes_max));
    }
    let mut reader = Reader::new(bytes, limits.items_max);
    let mut context = Context::default();
    // A guess that costs little where it is wrong.
    let mut messages = Vec::with_capacity((bytes.len() / TYPICAL_MESSAGE).min(1024));
    while !reader.is_at_end() {
        if messages.len() == limits.messages_max {
            let WireError { fault, .. } = limit("messages", messages.len() + 1, limits.messages_max);
            return reader.fail(fault);
        }
        messages.push(read_message(&mut reader, &mut context)?);
    }
    Ok(messages)
}

fn read_message(reader: &mut Reader<'_>, context: &mut Context) -> Result<PeerMessage, WireError> {
    let offset = reader.offset();
    let tag = reader.byte("a message")?;
    if tag & kind::MASK < kind::STORE_FIRST {
        return context.read_raft(reader, tag).map(PeerMessage::Raft);
    }
    match tag {
        kind::BEATS => super::beats::read_beats(reader).map(PeerMessage::Beats),
        kind::BEAT_REPLIES => super::beats::read_beat_replies(reader).map(PeerMessage::BeatReplies),
        kind::FORWARD => context.read_forward(reader).map(PeerMessage::Forward),
        kind::FORWARD_REPLY => context.read_forward_reply(reader).map(PeerMessage::ForwardReply),
        kind::SNAPSHOT => context.read_snapshot(reader).map(PeerMessage::Snapshot),
        kind::REGION => context.read_region(reader).map(PeerMessage::Region),
        kind::SUPPORT_HEARTBEAT => super::support::read_heartbeat(reader, false).map(PeerMessage::Support),
        kind::SUPPORT_FAREWELL => super::support::read_heartbeat(reader, true).map(PeerMessage::Support),
        kind::SUPPORT_ANSWER => super::support::read_answer(reader).map(PeerMessage::Support),
        kind::SUPPORT_ROUND => super::support::read_round(reader).map(PeerMessage::Support),
        kind::SUPPORT_ROUND_ANSWER => super::support::read_round_answer(reader).map(PeerMessage::Support),
        value => Err(WireError { offset, fault: WireFault::Unknown { what: "kind of message", value } }),
    }
}
