//! A store's log thread: gathers what workers hand in, flushes it as one, and spreads the tokens.

use multiraft::logic::{DiskUse, Input};
use multiraft_storage::log::CommitError;
use multiraft_storage::{FlushToken, LogBatch};

use super::faults::Point;
use super::{Cluster, Event, id_of};
use crate::plant::Plant;
use crate::schedule::MILLI;

impl Cluster {
    /// Hands a batch to the store's log.
    pub(super) fn submit(&mut self, store: usize, mut batch: LogBatch) {
        self.plant_in_batch(store, &mut batch);
        let Some(process) = &mut self.nodes[store].process else { return };
        process.queued.push(batch);
        self.start_flush(store);
    }

    /// Starts a flush of all that waits, unless one is under way.
    fn start_flush(&mut self, store: usize) {
        let now = self.schedule.now();
        let wait = self.random.around(self.plan.latencies.flush);
        let node = &mut self.nodes[store];
        let (life, stalled) = (node.life, node.disk_stalled_until);
        let Some(process) = &mut node.process else { return };
        if process.flushing.is_some() || process.queued.is_empty() {
            return;
        }
        process.flushing = Some(std::mem::take(&mut process.queued));
        process.flushing_since = now;
        self.schedule.plan(now.max(stalled).plus(wait), Event::LogDone { store, life });
    }

    /// The flush comes to its end: now it really happens.
    pub(super) fn on_log_done(&mut self, store: usize, life: u64) {
        if !self.nodes[store].lives(life) || self.dies_at(store, Point::BeforeFlush) {
            return;
        }
        if self.plant == Some(Plant::LyingDisk) {
            self.keep_lying_image(store);
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        let Some(batches) = process.flushing.take() else { return };
        let before = process.writer.stats().segments;
        let result = process.writer.commit(batches);
        if process.queued.is_empty() && result.is_ok() {
            // Nothing else to do: a piece of the log's own work.
            let _ = process.writer.maintain();
        }
        self.counters.log_segments_released += before.saturating_sub(process.writer.stats().segments);
        self.counters.log_flushes += 1;
        match result {
            Ok(tokens) => {
                self.tell_log_space(store, false);
                self.on_flushed(store, &tokens);
            }
            Err(CommitError::NoSpace { durable, left }) => {
                self.counters.log_no_space += 1;
                if let Some(process) = &mut self.nodes[store].process {
                    process.flushing = Some(left);
                }
                self.tell_log_space(store, true);
                self.schedule.plan_in(50 * MILLI, Event::LogDone { store, life });
                self.on_flushed(store, &durable);
                return;
            }
            Err(_) if self.dies_without_power(store) => return,
            Err(CommitError::Poisoned(cause)) => return self.on_poisoned(store, life, &cause),
            Err(error) => return self.fail("the log takes what it is given", format!("{}: {error}", id_of(store))),
        }
        self.start_flush(store);
    }

    /// Tells all workers when the log's disk becomes full, and when it has room again.
    fn tell_log_space(&mut self, store: usize, full: bool) {
        let Some(process) = &mut self.nodes[store].process else { return };
        if std::mem::replace(&mut process.log_is_full, full) == full {
            return;
        }
        for worker in 0..self.plan.workers[store] {
            self.input(store, worker, Input::DiskFull { disk: DiskUse::Log, full });
        }
    }

    fn on_flushed(&mut self, store: usize, tokens: &[FlushToken]) {
        for token in tokens {
            self.shadows.on_durable(id_of(store), token.upto());
        }
        if self.dies_at(store, Point::AfterFlush) {
            return;
        }
        for token in tokens {
            self.input(store, token.upto().lane as usize, Input::Flushed { token: *token });
        }
    }
}
