//! Whether a worker gets on with its work: counters that it writes and anyone reads, and the judgement over them.
//!
//! Whoever vouches for this store (its liveness heartbeats) asks here first, so a worker that hangs in a disk call, or is
//! starved, costs the store its leaderships instead of everyone's time.

use std::time::Duration;

use multiraft_raft::Time;

use crate::sync::{AtomicU64, Ordering};

/// What a worker says about itself. Written by the worker alone.
#[derive(Debug, Default)]
pub struct Progress {
    started: AtomicU64,
    finished: AtomicU64,
    inputs: AtomicU64,
    last_turn: AtomicU64,
}

/// One look at a [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Turns finished since the start.
    pub turns: u64,
    /// Inputs taken out of the queue since the start.
    pub inputs: u64,
    /// When the last finished turn ended.
    pub last_turn: Time,
    /// Whether a turn is running.
    pub in_turn: bool,
}

impl Progress {
    /// A worker that has not run.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The worker begins a turn with `inputs` newly taken out of its queue.
    pub fn on_turn_start(&self, inputs: u64) {
        self.inputs.fetch_add(inputs, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Release);
    }

    /// The worker's turn has ended at `now`.
    pub fn on_turn_end(&self, now: Time) {
        self.last_turn.store(now.0, Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// A look at the counters. `turns` never exceeds the turns begun, and `last_turn` is at least that turn's end.
    #[must_use]
    pub fn read(&self) -> Reading {
        // Finished first: a turn that begins in between is seen as running, never as finished before it began.
        let turns = self.finished.load(Ordering::Acquire);
        let last_turn = Time(self.last_turn.load(Ordering::Relaxed));
        let started = self.started.load(Ordering::Acquire);
        let inputs = self.inputs.load(Ordering::Relaxed);
        Reading { turns, inputs, last_turn, in_turn: started > turns }
    }
}

/// Judges, from one look to the next, for how long a worker with something to do has not finished a turn.
///
/// Pure: the same looks give the same judgement.
#[derive(Clone, Debug, Default)]
pub struct StallWatch {
    turns: u64,
    /// When the worker was first seen to have work since it last finished a turn.
    waiting_since: Option<Time>,
}

impl StallWatch {
    /// A watch that has not looked.
    #[must_use]
    pub const fn new() -> Self {
        Self { turns: 0, waiting_since: None }
    }

    /// Takes one look: the worker's `reading`, and how many inputs are `queued` for it, at `now`. Returns for how long,
    /// as far as seen, work has waited without a turn finishing; zero if there is none.
    pub fn observe(&mut self, now: Time, reading: &Reading, queued: usize) -> Duration {
        let has_work = reading.in_turn || queued > 0;
        if !has_work {
            self.waiting_since = None;
        } else if reading.turns != self.turns || self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
        self.turns = reading.turns;
        self.waiting_since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn reading(turns: u64, in_turn: bool) -> Reading {
        Reading { turns, in_turn, ..Reading::default() }
    }

    #[test]
    fn counters_tell_running_from_finished() {
        let progress = Progress::new();
        progress.on_turn_start(3);
        assert_eq!(progress.read(), Reading { turns: 0, inputs: 3, last_turn: Time::ZERO, in_turn: true });
        progress.on_turn_end(Time(9));
        assert_eq!(progress.read(), Reading { turns: 1, inputs: 3, last_turn: Time(9), in_turn: false });
    }

    #[test]
    fn idle_worker_is_not_stalled_however_long() {
        let mut watch = StallWatch::new();
        assert_eq!(watch.observe(Time(1), &reading(5, false), 0), Duration::ZERO);
        assert_eq!(watch.observe(Time(1_000_000), &reading(5, false), 0), Duration::ZERO);
    }

    #[test]
    fn hanging_turn_and_starved_queue_are_stalls_until_a_turn_finishes() {
        let mut watch = StallWatch::new();
        assert_eq!(watch.observe(Time(10), &reading(5, true), 0), Duration::ZERO);
        assert_eq!(watch.observe(Time(30), &reading(5, true), 0), Duration::from_nanos(20));
        assert_eq!(watch.observe(Time(40), &reading(5, false), 7), Duration::from_nanos(30));
        assert_eq!(watch.observe(Time(50), &reading(6, true), 7), Duration::ZERO);
        assert_eq!(watch.observe(Time(60), &reading(6, true), 7), Duration::from_nanos(10));
        assert_eq!(watch.observe(Time(70), &reading(6, false), 0), Duration::ZERO);
    }
}
