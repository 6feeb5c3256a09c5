//! A worker's turn: its outputs are carried out one after the other, and the store may die between any two of them.

use multiraft::apply::ReceivedSnapshots;
use multiraft::logic::{ApplyTask, Input, LaneKind, SnapshotTask, TurnOutput, split_by_worker, worker_of};
use multiraft_storage::LogBatch;
use multiraft_transport::PeerMessage;

use super::faults::Point;
use super::{Cluster, Event, Waiter, id_of};
use crate::plant::Plant;
use crate::schedule::{MICRO, MILLI, Moment};

/// How many batches may wait for the log before a worker stands still, as it does in a real store.
const LOG_QUEUE_BATCHES: usize = 64;

/// The store died meanwhile.
struct Dead;

impl Cluster {
    pub(super) fn on_turn(&mut self, store: usize, life: u64, worker: usize) {
        let now = self.schedule.now();
        let node = &mut self.nodes[store];
        if !node.lives(life) {
            return;
        }
        let local = node.clock.read(now);
        let Some(process) = &mut node.process else { return };
        let host = &mut process.workers[worker];
        if host.wake_at > now {
            return;
        }
        host.wake_at = Moment::NEVER;
        if process.queued.len() >= LOG_QUEUE_BATCHES {
            return self.wake(store, worker, now.plus(MILLI));
        }
        let mut out = std::mem::take(&mut host.out);
        let next = host.worker.turn(local, &mut host.inputs, &mut out);
        let next = node.clock.moment_of(next).max(now.plus(MICRO));
        self.counters.turns += 1;
        let records = std::mem::take(&mut out.log);
        let batch = (!records.is_empty()).then_some(LogBatch { ticket: out.ticket, records });
        self.observe_batch(store, batch.as_ref());
        self.observe_turn(store, worker, &out);
        if self.violation.is_some() || self.carry_out(store, worker, batch, &mut out).is_err() {
            return;
        }
        if let Some(process) = &mut self.nodes[store].process {
            process.workers[worker].out = out;
        }
        self.wake(store, worker, next);
    }

    fn carry_out(
        &mut self,
        store: usize,
        worker: usize,
        batch: Option<LogBatch>,
        out: &mut TurnOutput<Waiter>,
    ) -> Result<(), Dead> {
        if let Some(batch) = batch {
            self.submit(store, batch);
            self.die_at(store, Point::LogSubmitted)?;
        }
        for outgoing in out.sends.drain(..) {
            self.die_at(store, Point::Sending)?;
            self.send(store, outgoing.to, outgoing.lane, worker, outgoing.messages);
        }
        for share in out.beats.drain(..) {
            let Some(process) = &mut self.nodes[store].process else { return Err(Dead) };
            for (to, message) in process.merger.handle_share(share) {
                self.send(store, to, LaneKind::Liveness, worker, vec![message]);
            }
        }
        if !out.apply.is_empty() {
            let tasks = std::mem::take(&mut out.apply);
            self.queue_apply(store, worker, tasks);
        }
        for (waiter, outcome) in out.replies.drain(..) {
            self.die_at(store, Point::Answering)?;
            self.tell(store, waiter, outcome);
        }
        let life = self.nodes[store].life;
        for task in out.fetches.drain(..) {
            let wait = self.random.around(self.plan.latencies.flush);
            self.schedule.plan_in(wait, Event::Fetched { store, life, worker, task });
        }
        for task in out.snapshots.drain(..) {
            match task {
                SnapshotTask::Expect { from, transfer, region } => self.expect_snapshot(store, from, transfer, region),
                SnapshotTask::Discard { from, header } => {
                    if let Some(process) = &self.nodes[store].process {
                        process.received.discard(from, &header);
                    }
                }
                SnapshotTask::Cancel { from, transfer } => self.cancel_stream(store, from, transfer),
                SnapshotTask::Release { capture } => {
                    if let Some(process) = &self.nodes[store].process {
                        process.captures.release(capture);
                    }
                }
                SnapshotTask::Forget { region, capture } => {
                    if let Some(process) = &self.nodes[store].process {
                        process.received.forget(region, capture);
                    }
                }
                task @ SnapshotTask::Send { .. } => self.begin_snapshot(store, life, task),
            }
        }
        for adopt in out.adopts.drain(..) {
            self.die_at(store, Point::Adopting)?;
            if self.plant == Some(Plant::LostChild) && self.random.chance(300) {
                continue;
            }
            let worker = worker_of(adopt.descriptor.id, self.plan.workers[store]);
            self.input(store, worker, Input::Adopt(adopt));
        }
        for tombstone in out.absorbed.drain(..) {
            self.die_at(store, Point::Adopting)?;
            if self.plant == Some(Plant::UntoldAbsorption) {
                continue;
            }
            let worker = worker_of(tombstone.descriptor.id, self.plan.workers[store]);
            self.input(store, worker, Input::Absorbed { tombstone });
        }
        self.deliver_local(store, std::mem::take(&mut out.local));
        // The simulated clients ask only stores that have a replica.
        assert!(out.lookups.is_empty() && out.locates.is_empty(), "nobody asked");
        self.on_notices(store, std::mem::take(&mut out.notices));
        Ok(())
    }

    /// Messages of a store to its own workers.
    pub(super) fn deliver_local(&mut self, store: usize, mut messages: Vec<PeerMessage>) {
        self.plant_in_merges(store, store, &mut messages);
        let workers = self.plan.workers[store];
        for (worker, messages) in split_by_worker(messages, workers).into_iter().enumerate() {
            if !messages.is_empty() {
                self.input(store, worker, Input::Messages { from: id_of(store), messages });
            }
        }
    }

    fn die_at(&mut self, store: usize, point: Point) -> Result<(), Dead> {
        if self.dies_at(store, point) { Err(Dead) } else { Ok(()) }
    }

    /// The log was read for a group.
    pub(super) fn on_fetched(&mut self, store: usize, life: u64, worker: usize, task: multiraft::logic::FetchTask) {
        if !self.nodes[store].lives(life) {
            return;
        }
        self.counters.fetches += 1;
        let Some(process) = &self.nodes[store].process else { return };
        let fetch = task.fetch;
        let read = process.reader.read(task.handle.region, fetch.from, fetch.to, fetch.max_bytes);
        if let Err(error) = &read {
            self.say(|| format!("{} cannot read {:?}: {error}", id_of(store), task));
        }
        self.input(store, worker, Input::Fetched { handle: task.handle, fetch, entries: read.ok() });
    }

    fn queue_apply(&mut self, store: usize, worker: usize, mut tasks: Vec<ApplyTask<Waiter>>) {
        if self.plant == Some(Plant::SkippedEntry) {
            self.skip_an_entry(&mut tasks);
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        process.workers[worker].tasks.extend(tasks);
        self.start_apply(store, worker);
    }
}
