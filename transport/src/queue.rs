//! What waits to be sent on one lane of one peer.
//!
//! Any thread puts messages in, encoding them straight into the frame under construction; the link thread takes frames
//! out. Bound in bytes: a batch is taken while less than the limit is queued, so that a lane holds at most the limit
//! plus one batch, and any single batch gets through an empty lane.
//!
//! Invariant: a frame is handed out only to the writer of the session that the queue was opened for; nothing queued in
//! one session is sent in another.

use std::collections::VecDeque;

use crate::{Frame, FrameBuilder, Limits, PeerMessage, WIRE_VERSION, codec::version_of};

/// The pending messages of one lane.
#[derive(Debug)]
pub(crate) struct SendQueue {
    limit_bytes: usize,
    frame_target_bytes: usize,
    /// The connection that may take frames out; zero while there is none.
    session: u64,
    /// Of that connection.
    version: u16,
    /// Frames that are complete, oldest first.
    sealed: VecDeque<Frame>,
    sealed_bytes: usize,
    /// The frame under construction.
    builder: FrameBuilder,
    /// Handed to the writer, not yet to QUIC.
    in_flight_bytes: usize,
    /// Somebody was told that there is no room, and waits to hear that there is.
    full_told: bool,
    /// The writer has found nothing to do and waits to be woken.
    writer_is_idle: bool,
}

/// What came of putting messages in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// They will be sent. `wake`: the writer was idle and nobody has woken it yet.
    Queued { wake: bool },
    /// No room; told once there is.
    Full,
    /// There is no connection.
    Closed,
}

impl SendQueue {
    pub(crate) fn new(limit_bytes: usize, frame_target_bytes: usize) -> Self {
        Self {
            limit_bytes,
            frame_target_bytes,
            session: 0,
            version: WIRE_VERSION,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            builder: FrameBuilder::new(),
            in_flight_bytes: 0,
            full_told: false,
            writer_is_idle: false,
        }
    }

    pub(crate) fn open(&mut self, session: u64, version: u16) {
        self.close();
        self.session = session;
        self.version = version;
    }

    /// Drops what is queued.
    pub(crate) fn close(&mut self) {
        *self = Self::new(self.limit_bytes, self.frame_target_bytes);
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.sealed_bytes + self.builder.len() + self.in_flight_bytes
    }

    /// Takes all of `messages` or none. Each must fit into a frame of its own. Those that the other end does not know yet are left out.
    pub(crate) fn put(&mut self, messages: &[PeerMessage], limits: &Limits) -> Put {
        if self.session == 0 {
            return Put::Closed;
        }
        if self.queued_bytes() >= self.limit_bytes {
            self.full_told = true;
            return Put::Full;
        }
        for message in messages {
            if self.version < WIRE_VERSION && version_of(message) > self.version {
                continue;
            }
            let is_long_enough = self.builder.len() >= self.frame_target_bytes;
            if !self.builder.is_empty() && (is_long_enough || !self.builder.has_room(message, limits)) {
                self.seal();
            }
            self.builder.push(message);
        }
        let wake = self.writer_is_idle && !self.is_empty();
        self.writer_is_idle &= !wake;
        Put::Queued { wake }
    }

    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.builder.is_empty()
    }

    fn seal(&mut self) {
        let frame = self.builder.take();
        self.sealed_bytes += frame.wire_len();
        self.sealed.push_back(frame);
    }

    /// The next frame for the writer of `session`. `None`: there is nothing, the writer is to wait until woken.
    pub(crate) fn take(&mut self, session: u64) -> Option<Frame> {
        if session != self.session {
            return None;
        }
        if self.sealed.is_empty() && !self.builder.is_empty() {
            self.seal();
        }
        let frame = self.sealed.pop_front();
        match &frame {
            Some(frame) => {
                self.sealed_bytes -= frame.wire_len();
                self.in_flight_bytes = frame.wire_len();
            }
            None => self.writer_is_idle = true,
        }
        frame
    }

    /// The frame taken last is QUIC's now. True: who was told `Full` is to hear that there is room.
    pub(crate) fn written(&mut self, session: u64) -> bool {
        if session != self.session {
            return false;
        }
        self.in_flight_bytes = 0;
        let is_ready = self.full_told && self.queued_bytes() <= self.limit_bytes / 2;
        self.full_told &= !is_ready;
        is_ready
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use multiraft_raft::{Payload, RegionEpoch, RegionId, Term};

    use super::*;
    use crate::{Forward, ForwardRequest};

    pub(crate) fn message(id: u64, length: usize) -> PeerMessage {
        PeerMessage::Forward(Forward {
            id,
            region: RegionId(1),
            epoch: RegionEpoch::FIRST,
            term: Term(1),
            timeout_ms: 1,
            request: ForwardRequest::Propose { session: None, command: Payload::from(vec![0; length]) },
        })
    }

    fn queue() -> SendQueue {
        let mut queue = SendQueue::new(1000, 600);
        queue.open(7, WIRE_VERSION);
        queue
    }

    #[test]
    fn the_writer_is_woken_once_for_all_that_is_put_while_it_sleeps() {
        let (mut queue, limits) = (queue(), Limits::default());
        assert_eq!(queue.put(&[message(1, 1)], &limits), Put::Queued { wake: false });
        assert!(queue.take(7).is_some());
        assert!(queue.take(7).is_none());
        assert_eq!(queue.put(&[message(2, 1)], &limits), Put::Queued { wake: true });
        assert_eq!(queue.put(&[message(3, 1), message(4, 1)], &limits), Put::Queued { wake: false });
        assert_eq!(queue.take(7).map(|frame| frame.message_count()), Some(3));
    }

    #[test]
    fn full_is_told_and_taken_back_below_half() {
        let (mut queue, limits) = (queue(), Limits::default());
        for id in 0..2 {
            assert_eq!(queue.put(&[message(id, 700)], &limits), Put::Queued { wake: false });
        }
        assert_eq!(queue.put(&[message(2, 1)], &limits), Put::Full);
        assert!(queue.take(7).is_some());
        assert_eq!(queue.put(&[message(2, 1)], &limits), Put::Full, "in flight counts");
        assert!(!queue.written(7), "700 of 1000 are left");
        assert!(queue.take(7).is_some());
        assert!(queue.written(7));
        assert!(!queue.written(7), "told once");
        assert_eq!(queue.queued_bytes(), 0);
    }

    #[test]
    fn a_writer_of_an_earlier_session_gets_nothing() {
        let (mut queue, limits) = (queue(), Limits::default());
        queue.put(&[message(1, 1)], &limits);
        queue.open(8, WIRE_VERSION);
        assert!(queue.take(8).is_none(), "what was queued before is gone");
        assert_eq!(queue.put(&[message(2, 1)], &limits), Put::Queued { wake: true });
        assert!(queue.take(7).is_none());
        assert!(queue.take(8).is_some());
        queue.close();
        assert_eq!(queue.put(&[message(2, 1)], &limits), Put::Closed);
    }
}
