//! A store's apply threads and its checkpoints.

use std::collections::BTreeMap;

use multiraft::apply::{AppliedBatch, ApplyEnd, Effect, SnapshotSource};
use multiraft::logic::{ApplyTask, DiskUse, Input, LaneKind};
use multiraft_raft::{LogIndex, RegionId};
use multiraft_transport::PeerMessage;

use super::faults::Point;
use super::node::Process;
use super::{Cluster, Event, Waiter, id_of};
use crate::plant::Plant;
use crate::schedule::MILLI;

/// A checkpoint under way: what will be durable when it is done.
pub(super) struct Checkpoint {
    /// By worker: regions and how far they had applied.
    regions: Vec<Vec<(RegionId, LogIndex)>>,
    /// Where the state does not keep itself: the snapshots to be written.
    sources: Vec<SnapshotSource>,
}

impl Cluster {
    /// Starts to apply what waits, unless the applier is at work.
    pub(super) fn start_apply(&mut self, store: usize, worker: usize) {
        let wait = self.random.around(self.plan.latencies.apply);
        let slow = if self.nodes[store].state_slow_until > self.schedule.now() { 100 * MILLI } else { 0 };
        let (life, now) = (self.nodes[store].life, self.schedule.now());
        let Some(process) = &mut self.nodes[store].process else { return };
        let host = &mut process.workers[worker];
        if host.applying.is_some() || host.stalled.is_some() || host.tasks.is_empty() {
            return;
        }
        host.applying = Some(host.tasks.drain(..).collect());
        host.applying_since = now;
        self.schedule.plan_in(wait + slow, Event::ApplyDone { store, life, worker });
    }

    pub(super) fn on_apply_done(&mut self, store: usize, life: u64, worker: usize) {
        if !self.nodes[store].lives(life) || self.dies_at(store, Point::BeforeApply) {
            return;
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        let host = &mut process.workers[worker];
        let (batch, seen, rest) = if let Some((batch, seen, rest)) = host.stalled.take() {
            if host.applier.retry().is_err() {
                host.stalled = Some((batch, seen, rest));
                self.apply_beside(store, worker);
                return self.schedule.plan_in(50 * MILLI, Event::ApplyDone { store, life, worker });
            }
            self.input(store, worker, Input::DiskFull { disk: DiskUse::State, full: false });
            (batch, seen, rest)
        } else {
            let tasks = host.applying.take().unwrap_or_default();
            match host.applier.apply(tasks, &process.received) {
                (batch, ApplyEnd::Done) => {
                    self.observe_changes(&batch);
                    (batch, 0, Vec::new())
                }
                (batch, ApplyEnd::Stalled { rest }) => {
                    self.observe_changes(&batch);
                    self.stall(store, worker, batch, rest);
                    self.counters.state_no_space += 1;
                    self.input(store, worker, Input::DiskFull { disk: DiskUse::State, full: true });
                    return self.schedule.plan_in(50 * MILLI, Event::ApplyDone { store, life, worker });
                }
                (_, ApplyEnd::Failed(_)) if self.dies_without_power(store) => return,
                (_, ApplyEnd::Failed(error)) => {
                    return self.fail("committed entries can be applied", format!("{}: {error}", id_of(store)));
                }
            }
        };
        self.put_back(store, worker, rest);
        self.on_applied(store, worker, batch, seen);
        self.start_apply(store, worker);
    }

    /// Holds a batch back whose last write found no space. What was done before that is written, and another applier may go on
    /// from it meanwhile: the judges see it now.
    fn stall(&mut self, store: usize, worker: usize, mut batch: AppliedBatch<Waiter>, rest: Vec<ApplyTask<Waiter>>) {
        let effects = std::mem::take(&mut batch.effects);
        let seen = effects.len().saturating_sub(1);
        if let Some(process) = &mut self.nodes[store].process {
            process.workers[worker].stalled = Some((batch, seen, rest));
        }
        self.observe_applied(store, &effects[..seen]);
        if let Some(process) = &mut self.nodes[store].process
            && let Some((batch, ..)) = &mut process.workers[worker].stalled
        {
            batch.effects = effects;
        }
    }

    /// Applies what a stalled batch does not keep from it.
    fn apply_beside(&mut self, store: usize, worker: usize) {
        let Some(process) = &mut self.nodes[store].process else { return };
        let host = &mut process.workers[worker];
        let (batch, rest) = host.applier.apply_beside(host.tasks.drain(..).collect());
        host.tasks.extend(rest);
        if !batch.effects.is_empty() {
            self.counters.applied_beside += batch.applied().count() as u64;
            self.on_applied(store, worker, batch, 0);
        }
    }

    /// What waits for a neighbour's freeze is tried again a little later, before all else.
    fn park(&mut self, store: usize, worker: usize, parked: Vec<ApplyTask<Waiter>>) {
        if parked.is_empty() {
            return;
        }
        self.put_back(store, worker, parked);
    }

    /// What the applier did not get to comes before all else.
    fn put_back(&mut self, store: usize, worker: usize, rest: Vec<ApplyTask<Waiter>>) {
        let Some(process) = &mut self.nodes[store].process else { return };
        let tasks = &mut process.workers[worker].tasks;
        for task in rest.into_iter().rev() {
            tasks.push_front(task);
        }
    }

    /// What a batch came to is told, to the judges all but what they have `seen`.
    fn on_applied(&mut self, store: usize, worker: usize, mut batch: AppliedBatch<Waiter>, seen: usize) {
        let id = id_of(store);
        for effect in &batch.effects {
            if let Effect::Installed(done) = effect
                && done.installed
            {
                self.counters.snapshots_installed += 1;
                self.consensus.on_installed(id, done.header.region, done.header.index);
            }
        }
        self.observe_applied(store, &batch.effects[seen..]);
        self.record(3, batch.applied().map(|done| done.index.get()).sum());
        if self.dies_at(store, Point::AfterApply) {
            return;
        }
        for input in batch.take_inputs() {
            self.input(store, worker, input);
        }
        self.take_digests(store, worker, std::mem::take(&mut batch.checks));
        self.park(store, worker, std::mem::take(&mut batch.parked));
        for (to, reply) in batch.peer_replies {
            if to == id {
                self.deliver_local(store, vec![PeerMessage::ForwardReply(reply)]);
                continue;
            }
            self.send(store, to, LaneKind::Control, worker, vec![PeerMessage::ForwardReply(reply)]);
        }
        for (waiter, outcome) in batch.replies {
            self.tell(store, waiter, outcome);
        }
    }

    /// Begins to make the applied state durable.
    pub(super) fn on_checkpoint(&mut self, store: usize, life: u64) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let wait = self.random.around(self.plan.checkpoint_interval);
        self.schedule.plan_in(wait, Event::Checkpoint { store, life });
        let took = self.random.around(self.plan.latencies.checkpoint);
        let slow = if self.nodes[store].state_slow_until > self.schedule.now() { 2_000 * MILLI } else { 0 };
        let Some(process) = &mut self.nodes[store].process else { return };
        if process.checkpoint.is_some() {
            return;
        }
        let checkpoint = gather(process);
        let regions: Vec<RegionId> = checkpoint.regions.iter().flatten().map(|(region, _)| *region).collect();
        process.checkpoint = Some(checkpoint);
        regions.into_iter().for_each(|region| self.sample(store, region));
        self.schedule.plan_in(took + slow, Event::CheckpointDone { store, life });
    }

    pub(super) fn on_checkpoint_done(&mut self, store: usize, life: u64) {
        if !self.nodes[store].lives(life) || self.dies_at(store, Point::BeforeCheckpoint) {
            return;
        }
        let lies = self.plant == Some(Plant::EagerCompaction);
        let Some(process) = &mut self.nodes[store].process else { return };
        let Some(checkpoint) = process.checkpoint.take() else { return };
        let mut outcome = Ok(());
        if !lies {
            let flushed = process.backend.flush().map_err(std::io::Error::other);
            outcome = flushed.and_then(|()| process.files.save(checkpoint.sources));
            let _ = process.files.tidy();
        }
        match outcome {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                // No room for a snapshot file: the log stays as it is until a later checkpoint succeeds.
                self.counters.files_no_space += 1;
                process.unsaved = checkpoint.regions;
                return;
            }
            Err(_) if self.dies_without_power(store) => return,
            Err(error) => return self.fail("a checkpoint can be made", format!("{}: {error}", id_of(store))),
        }
        self.counters.checkpoints += 1;
        for regions in &checkpoint.regions {
            for (region, applied) in regions.iter().filter(|_| !lies) {
                self.consensus.on_state_durable(id_of(store), *region, *applied);
            }
        }
        if self.dies_at(store, Point::AfterCheckpoint) {
            return;
        }
        for (worker, regions) in checkpoint.regions.into_iter().enumerate() {
            if !regions.is_empty() {
                self.input(store, worker, Input::Checkpointed(regions));
            }
        }
    }
}

/// What a checkpoint that begins now will make durable.
fn gather(process: &mut Process) -> Checkpoint {
    let is_durable = process.backend.is_durable();
    let mut checkpoint = Checkpoint { regions: Vec::new(), sources: Vec::new() };
    let mut unsaved = std::mem::take(&mut process.unsaved).into_iter();
    for host in &mut process.workers {
        let mut dirty: BTreeMap<RegionId, LogIndex> = unsaved.next().unwrap_or_default().into_iter().collect();
        // What waits for room is not written yet: its turn comes with a later checkpoint.
        if host.stalled.is_none() {
            // A store that fails shows it when it is flushed.
            let taken = host.applier.take_dirty().unwrap_or_default();
            dirty.extend(taken.into_iter().map(|(region, dirty)| (region, dirty.applied)));
        }
        if !is_durable {
            let captured: Vec<SnapshotSource> =
                dirty.keys().filter_map(|region| host.applier.capture(*region).ok().flatten()).collect();
            dirty = captured.iter().map(|source| (source.descriptor.id, source.index)).collect();
            checkpoint.sources.extend(captured);
        }
        checkpoint.regions.push(dirty.into_iter().collect());
    }
    checkpoint
}
