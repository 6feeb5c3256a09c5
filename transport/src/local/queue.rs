//! What waits on one lane, in one direction, of one link.
//!
//! Any thread puts messages in, the receiver's link thread takes frames out. Bound in bytes of memory: a batch is taken while less
//! than the limit is queued, so that a lane holds at most the limit plus one batch, and any single batch gets through an empty lane.
//! The frame that was taken last counts until the next is asked for, since its receiver may be waiting for room.
//!
//! Invariant: no frame is empty, and none begins before the one ahead of it has reached the target.

use std::collections::VecDeque;

use crate::{PeerMessage, footprint};

/// Messages that are delivered together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) messages: Vec<PeerMessage>,
    /// What they take in memory, about.
    pub(super) bytes: usize,
}

/// The pending messages of one lane.
#[derive(Debug)]
pub(super) struct Queue {
    limit_bytes: usize,
    frame_target_bytes: usize,
    is_closed: bool,
    frames: VecDeque<Frame>,
    /// Of the frames, and of the one that was taken last.
    bytes: usize,
    taken_bytes: usize,
    /// Somebody was told that there is no room, and waits to hear that there is.
    full_told: bool,
    /// The reader has found nothing to do and waits to be woken.
    reader_is_idle: bool,
}

/// What came of putting messages in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// They will be delivered. `wake`: the reader was idle and nobody has woken it yet.
    Queued { wake: bool },
    /// No room; told once there is.
    Full,
    /// The link is over.
    Closed,
}

/// What the reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// `None`: there is nothing, the reader is to wait until woken.
    pub(super) frame: Option<Frame>,
    /// Who was told `Full` is to hear that there is room.
    pub(super) is_ready: bool,
    /// What waits, this frame included.
    pub(super) queued_bytes: usize,
}

impl Queue {
    pub(super) fn new(limit_bytes: usize, frame_target_bytes: usize) -> Self {
        Self {
            limit_bytes,
            frame_target_bytes,
            is_closed: false,
            frames: VecDeque::new(),
            bytes: 0,
            taken_bytes: 0,
            full_told: false,
            reader_is_idle: false,
        }
    }

    /// Takes nothing any more, and drops what is queued.
    pub(super) fn close(&mut self) {
        *self = Self { is_closed: true, ..Self::new(self.limit_bytes, self.frame_target_bytes) };
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes all of `messages`, which are `bytes` in memory, and leaves it empty; or none.
    pub(super) fn put(&mut self, messages: &mut Vec<PeerMessage>, bytes: usize) -> Put {
        if self.is_closed {
            return Put::Closed;
        }
        if self.bytes >= self.limit_bytes {
            self.full_told = true;
            return Put::Full;
        }
        self.bytes += bytes;
        if bytes <= self.frame_target_bytes {
            self.push(messages, bytes);
        } else {
            for message in messages.drain(..) {
                let mut alone = vec![message];
                let bytes = footprint(&alone);
                self.push(&mut alone, bytes);
            }
        }
        let wake = self.reader_is_idle && !self.frames.is_empty();
        self.reader_is_idle &= !wake;
        Put::Queued { wake }
    }

    fn push(&mut self, messages: &mut Vec<PeerMessage>, bytes: usize) {
        match self.frames.back_mut() {
            Some(last) if last.bytes < self.frame_target_bytes => {
                last.messages.append(messages);
                last.bytes += bytes;
            }
            _ if messages.is_empty() => {}
            _ => self.frames.push_back(Frame { messages: std::mem::take(messages), bytes }),
        }
    }

    /// The next frame; the one before has been delivered.
    pub(super) fn take(&mut self) -> Taken {
        self.bytes -= std::mem::take(&mut self.taken_bytes);
        let is_ready = self.full_told && self.bytes <= self.limit_bytes / 2;
        self.full_told &= !is_ready;
        let frame = self.frames.pop_front();
        match &frame {
            Some(frame) => self.taken_bytes = frame.bytes,
            None => self.reader_is_idle = true,
        }
        Taken { frame, is_ready, queued_bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::message;

    fn put(queue: &mut Queue, messages: &[PeerMessage]) -> Put {
        let mut batch = messages.to_vec();
        let put = queue.put(&mut batch, footprint(messages));
        assert_eq!(batch.len(), if matches!(put, Put::Queued { .. }) { 0 } else { messages.len() }, "all or none");
        put
    }

    fn taken(queue: &mut Queue) -> Option<Vec<PeerMessage>> {
        queue.take().frame.map(|frame| frame.messages)
    }

    #[test]
    fn the_reader_is_woken_once_for_all_that_is_put_while_it_sleeps() {
        let mut queue = Queue::new(10_000, 6000);
        assert_eq!(put(&mut queue, &[message(1, 1)]), Put::Queued { wake: false });
        assert_eq!(taken(&mut queue), Some(vec![message(1, 1)]));
        assert_eq!(taken(&mut queue), None);
        assert_eq!(put(&mut queue, &[]), Put::Queued { wake: false });
        assert_eq!(put(&mut queue, &[message(2, 1)]), Put::Queued { wake: true });
        assert_eq!(put(&mut queue, &[message(3, 1), message(4, 1)]), Put::Queued { wake: false });
        assert_eq!(taken(&mut queue), Some(vec![message(2, 1), message(3, 1), message(4, 1)]));
    }

    #[test]
    fn full_is_told_and_taken_back_below_half() {
        let mut queue = Queue::new(10_000, 6000);
        for id in 0..2 {
            assert_eq!(put(&mut queue, &[message(id, 7000)]), Put::Queued { wake: false });
        }
        assert_eq!(put(&mut queue, &[message(2, 1)]), Put::Full);
        assert!(!queue.take().is_ready);
        assert_eq!(put(&mut queue, &[message(2, 1)]), Put::Full, "what was taken last counts");
        assert!(!queue.take().is_ready, "7000 of 10000 are left");
        assert!(queue.take().is_ready);
        assert!(!queue.take().is_ready, "told once");
        assert_eq!(queue.queued_bytes(), 0);
    }

    #[test]
    fn a_batch_that_is_longer_than_a_frame_is_cut() {
        let mut queue = Queue::new(100_000, 6000);
        let batch: Vec<_> = (0..4).map(|id| message(id, 4000)).collect();
        assert_eq!(put(&mut queue, &batch), Put::Queued { wake: false });
        assert_eq!(taken(&mut queue), Some(batch[..2].to_vec()));
        assert_eq!(taken(&mut queue), Some(batch[2..].to_vec()));
        assert_eq!(taken(&mut queue), None);
        assert_eq!(queue.queued_bytes(), 0);
    }

    #[test]
    fn what_is_closed_holds_nothing_and_takes_nothing() {
        let mut queue = Queue::new(10_000, 6000);
        put(&mut queue, &[message(1, 1)]);
        queue.close();
        assert_eq!(queue.take().frame, None);
        assert_eq!(put(&mut queue, &[message(2, 1)]), Put::Closed);
        assert_eq!(queue.queued_bytes(), 0);
    }
}
