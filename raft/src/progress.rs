//! What a leader knows about one follower, and what it may send to it.
//!
//! ```text
//!              answer matches                 rejection, or the link was lost
//!   +-------+ ----------------> +-----------+ ----------------+
//!   | Probe |                   | Replicate |                 |
//!   +-------+ <-----------------+-----------+ <---------------+
//!      ^  |                                        (back to Probe)
//!      |  | what it needs next is compacted
//!      |  v
//!   +----------+
//!   | Snapshot |  until its end is reported, or an answer shows that the follower has caught up
//!   +----------+
//! ```
//!
//! *Probe*: one append at a time, until the point where the logs agree is known. *Replicate*: a pipeline of appends, limited
//! by count and bytes. *Snapshot*: nothing.
//!
//! Appends may be lost without notice. A follower that gives signs of life while an append has been unanswered for
//! `retry_at` is asked again, with an append that carries no entries: its answer tells everything that it has, so nothing
//! is sent twice unless it was really lost.
//!
//! Invariants: `matched < next`; what is at or below `matched` is durable at the follower and equals the leader's log.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::group::{Packer, Unpacker};
use crate::{LogIndex, Options, ReplicaId, Time};

/// How appends go to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// One at a time, to find where the logs agree.
    Probe,
    /// In a pipeline.
    Replicate,
    /// Not at all: it gets a snapshot.
    Snapshot,
}

/// Whether entries for the follower are being read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetching {
    Nothing,
    Asked,
    /// Failed; to be asked again at the next heartbeat.
    Failed,
}

/// What a leader knows about one follower.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) id: ReplicaId,
    pub(crate) matched: LogIndex,
    pub(crate) next: LogIndex,
    pub(crate) flow: Flow,
    pub(crate) fetching: Fetching,
    /// Its driver asked for no appends at the moment.
    pub(crate) paused: bool,
    /// It has answered this leader at least once.
    pub(crate) answered: bool,
    /// In `Probe`: one is on its way.
    pub(crate) probing: bool,
    /// In `Probe`: the next one goes without entries, because the last may only be late.
    pub(crate) bare: bool,
    /// In `Replicate`: the answer is overdue, ask with an empty append.
    pub(crate) nudge: bool,
    /// The highest commit index told to it.
    pub(crate) commit_sent: LogIndex,
    /// When it last gave a sign of life.
    pub(crate) heard_at: Time,
    /// A sign of life from here on makes the leader ask again for an answer that is due.
    pub(crate) retry_at: Time,
    /// The newest read round that it has answered.
    pub(crate) acked_round: u64,
    /// The period in which the driver's store holds the support of this follower's, as far as told.
    pub(crate) support: Option<NonZeroU64>,
    /// The period in which it has promised.
    pub(crate) fortified: Option<NonZeroU64>,
    /// It was asked to promise.
    pub(crate) asked: bool,
    window: Window,
}

impl Progress {
    /// A follower of whom nothing is known: the first probe hopes that it has everything up to `last_index`.
    pub(crate) fn new(id: ReplicaId, last_index: LogIndex, now: Time) -> Self {
        Self {
            id,
            matched: LogIndex::ZERO,
            next: last_index.next(),
            flow: Flow::Probe,
            fetching: Fetching::Nothing,
            paused: false,
            answered: false,
            probing: false,
            bare: false,
            nudge: false,
            commit_sent: LogIndex::ZERO,
            heard_at: now,
            retry_at: now,
            acked_round: 0,
            support: None,
            fortified: None,
            asked: false,
            window: Window::default(),
        }
    }

    /// See [`Group::read_ahead`](crate::Group::read_ahead).
    pub(crate) fn read_ahead(&self) -> u64 {
        self.matched.0 ^ self.heard_at.0 ^ self.window.bytes as u64 ^ self.fortified.map_or(0, NonZeroU64::get)
    }

    pub(crate) fn become_probe(&mut self, next: LogIndex) {
        self.flow = Flow::Probe;
        self.next = next.max(self.matched.next());
        self.probing = false;
        self.bare = false;
        self.nudge = false;
        self.window.clear();
    }

    pub(crate) fn become_snapshot(&mut self, applied: LogIndex) {
        self.become_probe(applied.next());
        self.flow = Flow::Snapshot;
    }

    fn become_replicate(&mut self) {
        self.become_probe(self.matched.next());
        self.flow = Flow::Replicate;
    }

    /// Holds the next probe back until the follower gives a sign of life at or after `at`.
    pub(crate) fn hold_until(&mut self, at: Time) {
        self.probing = true;
        self.retry_at = at;
    }

    /// It holds everything up to `match_index`. `truncated` is where the leader's log begins.
    pub(crate) fn on_accepted(&mut self, match_index: LogIndex, truncated: LogIndex, retry_at: Time) {
        self.window.acknowledge(match_index);
        if match_index > self.matched {
            self.matched = match_index;
            self.retry_at = retry_at;
            self.nudge = false;
        }
        match self.flow {
            // Answers to earlier appends than the probe say nothing about the probe.
            Flow::Probe if match_index >= self.next.prev() => self.become_replicate(),
            Flow::Snapshot if match_index >= truncated => self.become_replicate(),
            Flow::Probe | Flow::Snapshot | Flow::Replicate => self.next = self.next.max(self.matched.next()),
        }
    }

    /// It refused an append after `prev_index`; `next` is where to try again. A stale rejection changes nothing.
    pub(crate) fn on_rejected(&mut self, prev_index: LogIndex, next: LogIndex) {
        let fresh = match self.flow {
            Flow::Probe => self.probing && prev_index == self.next.prev(),
            Flow::Replicate => prev_index > self.matched && prev_index < self.next,
            Flow::Snapshot => false,
        };
        if fresh {
            self.become_probe(next);
        }
    }

    /// The link to it was lost, and perhaps what was on its way: nothing more goes out until it gives a sign of life.
    pub(crate) fn on_unreachable(&mut self, now: Time) {
        if self.flow == Flow::Replicate {
            self.become_probe(self.matched.next());
            self.hold_until(now);
        }
    }

    /// It gave a sign of life: asks again for an answer that is overdue.
    pub(crate) fn on_alive(&mut self, now: Time, retry_at: Time) {
        self.heard_at = now;
        self.answered = true;
        if now < self.retry_at {
            return;
        }
        match self.flow {
            Flow::Probe if self.probing => {
                self.probing = false;
                self.retry_at = retry_at;
            }
            Flow::Replicate if !self.window.is_empty() => {
                self.nudge = true;
                self.retry_at = retry_at;
            }
            _ => {}
        }
    }

    /// Nothing was ever heard of what it holds, nor of it at all for `silence`: it may not exist yet, since the append that was to
    /// bring it about was lost, or not any more. Asks anew from the end of the log; whoever lives there says what it lacks.
    pub(crate) fn seek_absent(&mut self, now: Time, silence: Duration, last_index: LogIndex) {
        let waits = self.probing && now < self.retry_at;
        if self.matched == LogIndex::ZERO && self.flow == Flow::Probe && !waits && now.since(self.heard_at) >= silence {
            self.become_probe(last_index.next());
            self.bare = true;
        }
    }

    /// Notes that entries up to `last`, costing `bytes`, are on their way in the pipeline.
    pub(crate) fn on_sent(&mut self, last: LogIndex, bytes: usize, retry_at: Time) {
        if self.window.is_empty() {
            self.retry_at = retry_at;
        }
        self.window.push(last, bytes);
        self.next = last.next();
    }

    pub(crate) fn is_full(&self, options: &Options) -> bool {
        self.window.appends.len() >= options.max_inflight_appends || self.window.bytes >= options.max_inflight_bytes
    }

    /// Nothing sent is unanswered.
    pub(crate) fn is_idle(&self) -> bool {
        self.window.is_empty()
    }

    pub(crate) fn inflight(&self) -> (usize, usize) {
        (self.window.appends.len(), self.window.bytes)
    }

    /// Gives back the window's memory while it is empty.
    pub(crate) fn shrink(&mut self) {
        if self.window.is_empty() {
            self.window.appends = VecDeque::new();
        }
    }

    /// Whether nothing is on its way to it, nor read for it.
    pub(crate) fn is_still(&self) -> bool {
        self.window.is_empty() && self.fetching == Fetching::Nothing
    }

    /// Writes what is known of it, as a leader of a log that ends at `last` and is committed up to `commit` would guess it.
    pub(crate) fn pack(&self, last: LogIndex, commit: LogIndex, out: &mut Packer<'_>) {
        let Self {
            id: _,
            matched,
            next,
            flow,
            fetching: _,
            paused,
            answered,
            probing,
            bare,
            nudge,
            commit_sent,
            heard_at,
            retry_at,
            acked_round,
            support,
            fortified,
            asked,
            window: _,
        } = self;
        let flags = [*paused, *answered, *probing, *bare, *nudge, *asked];
        let flags = flags.iter().rev().fold(0, |all, flag| (all << 1) | u8::from(*flag));
        out.byte((flags << 2) | *flow as u8);
        out.near(last.0, matched.0);
        out.near(last.0 + 1, next.0);
        out.near(commit.0, commit_sent.0);
        out.time(*heard_at);
        out.time(*retry_at);
        out.number(*acked_round);
        let number = |epoch: &Option<NonZeroU64>| epoch.map_or(0, NonZeroU64::get);
        out.number(number(support));
        out.near(number(support), number(fortified));
    }

    /// What was written of follower `id`.
    pub(crate) fn unpack(id: ReplicaId, last: LogIndex, commit: LogIndex, from: &mut Unpacker<'_>) -> Self {
        let flags = from.byte();
        let is = |at: u8| flags & (4 << at) != 0;
        let flow = match flags & 3 {
            0 => Flow::Probe,
            1 => Flow::Replicate,
            _ => Flow::Snapshot,
        };
        let matched = from.index(last);
        let next = from.index(last.next());
        let commit_sent = from.index(commit);
        let (heard_at, retry_at) = (from.time(), from.time());
        let acked_round = from.number();
        let support = from.number();
        let fortified = from.near(support);
        Self {
            id,
            matched,
            next,
            flow,
            fetching: Fetching::Nothing,
            paused: is(0),
            answered: is(1),
            probing: is(2),
            bare: is(3),
            nudge: is(4),
            commit_sent,
            heard_at,
            retry_at,
            acked_round,
            support: NonZeroU64::new(support),
            fortified: NonZeroU64::new(fortified),
            asked: is(5),
            window: Window::default(),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.window.appends.capacity() * size_of::<(LogIndex, usize)>()
    }
}

/// The unanswered appends of a pipeline: the last index of each, and its bytes. Takes memory on first use.
#[derive(Debug, Default)]
struct Window {
    appends: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Window {
    fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    fn push(&mut self, last: LogIndex, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn acknowledge(&mut self, match_index: LogIndex) {
        while let Some((last, bytes)) = self.appends.front().copied() {
            if last > match_index {
                return;
            }
            self.bytes -= bytes;
            self.appends.pop_front();
        }
    }

    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
}
