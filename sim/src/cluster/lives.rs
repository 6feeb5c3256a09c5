//! What the judges are shown of the regions' lives: what stores apply, find, create, remove and say.

use std::sync::Arc;

use multiraft::apply::{AppliedBatch, Destroyed, Effect, Tombstone};
use multiraft::logic::{Applied, ApplyTask, RegionChange, SnapshotInstalled, SplitDone, TurnOutput};
use multiraft_raft::{LogIndex, RegionId, Role};
use multiraft_transport::{PeerMessage, RegionStep};

use super::{Cluster, Waiter, id_of};
use crate::check::regions::{Merged, forbidden};
use crate::random::{digest_of, fold};

impl Cluster {
    /// Shows the judges what committed changes a batch holds, whether or not the state store has taken it yet.
    pub(super) fn observe_changes(&mut self, batch: &AppliedBatch<Waiter>) {
        for done in batch.applied() {
            self.changes.on_applied(done.handle.region, done.index);
            for (index, descriptor) in &done.memberships {
                if let Some(descriptor) = descriptor {
                    let witnesses = self.regions.witnesses(descriptor.id);
                    let verdict = self.regions.on_membership(*index, descriptor);
                    let more = self.regions.witnesses(descriptor.id).saturating_sub(witnesses);
                    self.counters.witnesses_added += more as u64;
                    self.judge_that(verdict);
                }
            }
            if let Some(SplitDone { parent, children }) = &done.split {
                let mut parts = vec![Arc::clone(parent)];
                parts.extend(children.iter().map(|(child, _)| Arc::clone(child)));
                let verdict = self.regions.on_split(done.index, &parts);
                self.judge_that(verdict);
            }
            if let Some(change) = &done.change {
                self.observe_step(done.index, change);
            }
        }
    }

    /// A committed step of a merge.
    fn observe_step(&mut self, index: LogIndex, change: &RegionChange) {
        let regions = &mut self.regions;
        let counters = &mut self.counters;
        let verdict = match change {
            // Nobody asks for a check here.
            RegionChange::ReplicasFenced { .. } => Ok(()),
            RegionChange::Frozen { region, frozen } => {
                regions.on_frozen(index, region, frozen).map(|is_new| counters.freezes += u64::from(is_new))
            }
            RegionChange::Thawed { region } => {
                regions.on_thawed(index, region).map(|is_new| counters.merges_rolled_back += u64::from(is_new))
            }
            RegionChange::Fenced { region } => {
                regions.on_fenced(index, region).map(|is_new| counters.fences += u64::from(is_new))
            }
            RegionChange::Merged { region, absorbed, tombstone } => {
                let source = tombstone.descriptor.id;
                regions.on_merged(index, region, source, absorbed).map(|merged| {
                    if let Some(Merged { crashes, frozen_target }) = merged {
                        counters.merges += 1;
                        let has_witness = tombstone.descriptor.replicas.iter().any(|one| one.role == Role::Witness);
                        counters.merges_with_witnesses += u64::from(has_witness);
                        counters.merges_across_crashes += u64::from(crashes > 0);
                        counters.merges_of_targets += u64::from(frozen_target);
                    }
                })
            }
        };
        self.judge_that(verdict);
        if let RegionChange::Thawed { region } = change {
            self.thawed.insert(region.id, self.schedule.now());
        }
    }

    /// A store has absorbed a region's replica, durably: its worker is about to hear of it.
    fn observe_absorbed(&mut self, store: usize, tombstone: &Tombstone) {
        let (id, region) = (id_of(store), tombstone.descriptor.id);
        self.say(|| format!("{id} has absorbed {region:?}: {tombstone:?}"));
        self.regions.on_absorbed_here(id, region);
        self.operators.children.retain(|(at, child)| (*at, *child) != (store, region));
    }

    /// Shows the judges what a batch has made of a store's replicas, in the order in which it came about.
    pub(super) fn observe_applied(&mut self, store: usize, effects: &[Effect]) {
        let id = id_of(store);
        for effect in effects {
            match effect {
                Effect::Applied(applied) => applied.iter().for_each(|done| self.observe_entries(store, done)),
                Effect::Installed(done) if done.installed => self.observe_installed(store, done),
                Effect::Created(region, replica, true) => {
                    self.say(|| format!("{id} creates {replica:?} of {region:?}"));
                    self.counters.replicas_created += 1;
                    self.counters.replicas_readded += u64::from(self.regions.had(id, *region));
                    self.counters.replicas_given_back += u64::from(self.nodes[store].has_begun_anew());
                    let verdict = self.regions.on_created(id, *region, *replica);
                    self.judge_that(verdict);
                }
                Effect::Released(tombstone) => {
                    self.counters.replicas_released += 1;
                    self.observe_absorbed(store, tombstone);
                }
                Effect::Destroyed(Destroyed { region, tombstone: Some(tombstone), .. }) => {
                    self.say(|| format!("{id} has removed {region:?}: {tombstone:?}"));
                    self.counters.replicas_removed += 1;
                    self.regions.on_destroyed(id, *region, forbidden(tombstone));
                    self.consensus.on_removed(id, *region, &self.shadows);
                    self.operators.children.retain(|(at, child)| (*at, *child) != (store, *region));
                }
                Effect::Installed(_) | Effect::Created(..) | Effect::Destroyed(_) | Effect::Stalled(..) => {}
            }
        }
        // What another applier has done and could not write out yet is not known here.
        let process = self.nodes[store].process.as_ref();
        if process.is_some_and(|process| process.workers.iter().all(|host| host.stalled.is_none())) {
            let verdict = self.regions.check_store(id);
            self.judge_that(verdict);
        }
    }

    fn observe_entries(&mut self, store: usize, done: &Applied) {
        let id = id_of(store);
        for (_, descriptor) in &done.memberships {
            descriptor.iter().for_each(|descriptor| self.regions.on_changed_here(id, descriptor));
        }
        if let Some(split) = &done.split {
            self.observe_split(store, split);
        }
        let Some(change) = &done.change else { return };
        self.say(|| format!("{id} applies {change:?}"));
        if let RegionChange::Frozen { region, frozen } = change {
            self.regions.on_frozen_here(id, region.id, frozen.index);
        }
        if let RegionChange::Merged { tombstone, absorbed, region } = change {
            self.observe_absorbed(store, tombstone);
            self.regions.on_list_here(id, region.id, absorbed);
        }
        let verdict = self.regions.on_state_here(id, change.region());
        self.judge_that(verdict);
        self.sample(store, change.region().id);
    }

    fn observe_installed(&mut self, store: usize, done: &SnapshotInstalled) {
        let id = id_of(store);
        self.say(|| format!("{id} installs a snapshot of {:?} at {}", done.header.region, done.header.index));
        let descriptor = &done.header.descriptor;
        let is_first = self.is_without_state(store, descriptor.id);
        self.counters.snapshots_into_empty += u64::from(is_first);
        for tombstone in &done.covered {
            self.counters.snapshots_covering += 1;
            self.observe_absorbed(store, tombstone);
        }
        let brings = self.regions.on_merge_state(id, descriptor.id, &done.merge);
        self.counters.snapshots_across_merges += u64::from(brings && !is_first);
        let mut verdict = self.regions.on_snapshot(descriptor);
        if verdict.is_ok() {
            verdict = self.regions.on_state_here(id, descriptor);
        }
        self.judge_that(verdict);
        self.sample(store, descriptor.id);
    }

    fn observe_split(&mut self, store: usize, split: &SplitDone) {
        let id = id_of(store);
        self.say(|| format!("{id} applies a split: {split:?}"));
        self.counters.splits += 1;
        let verdict = self.regions.on_state_here(id, &split.parent);
        self.judge_that(verdict);
        for (child, adopted) in &split.children {
            if *adopted {
                self.counters.children_by_vote += u64::from(self.is_without_state(store, child.id));
                let verdict = self.regions.on_state_here(id, child);
                self.judge_that(verdict);
            } else {
                self.counters.children_ahead += 1;
            }
            self.counters.splits_replayed += u64::from(!self.operators.children.insert((store, child.id)));
        }
        self.sample(store, split.parent.id);
    }

    /// Whether a store has a replica of a region that has no state yet.
    fn is_without_state(&self, store: usize, region: RegionId) -> bool {
        let Some(process) = &self.nodes[store].process else { return false };
        let worker = &process.workers[self.worker_for(store, region)].worker;
        worker.status(region).is_none() && worker.handles().any(|handle| handle.region == region)
    }

    /// Shows the judges a replica's state of this moment.
    pub(super) fn sample(&mut self, store: usize, region: RegionId) {
        let worker = self.worker_for(store, region);
        let Some(process) = &self.nodes[store].process else { return };
        let host = &process.workers[worker];
        if host.stalled.is_some() {
            return;
        }
        let Some(source) = host.applier.capture(region).ok().flatten() else { return };
        let own = source.descriptor.replica_on(id_of(store)).map(|replica| replica.role);
        if own == Some(Role::Witness) {
            // It holds nothing that could be compared.
            return;
        }
        let index = source.index;
        let mut digest = fold(source.term.get(), digest_of(format!("{:?}", source.descriptor).as_bytes()));
        let streamed = source.stream(&mut |chunk| {
            digest = fold(digest, digest_of(&chunk));
            Ok(())
        });
        if streamed.is_ok() {
            self.counters.states_compared += 1;
            let verdict = self.regions.on_state(id_of(store), region, index, digest);
            self.judge_that(verdict);
        }
    }

    /// Shows the judges what replicas a turn lets speak.
    pub(super) fn observe_sends(&mut self, store: usize, out: &TurnOutput<Waiter>) {
        let id = id_of(store);
        for message in out.sends.iter().flat_map(|outgoing| &outgoing.messages) {
            let verdict = match message {
                PeerMessage::Raft(raft) => self.regions.on_sent(id, raft.region, &raft.message),
                PeerMessage::BeatReplies(replies) => {
                    let mut replies = replies.replies.iter();
                    replies.try_for_each(|reply| self.regions.on_acts(id, reply.region, reply.from))
                }
                PeerMessage::Region(about) => {
                    if let RegionStep::Tell { .. } = about.step
                        && self.regions.had(id, about.region)
                    {
                        self.counters.tombstones_told += 1;
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
            self.judge_that(verdict);
        }
        for share in &out.beats {
            for beat in &share.beats {
                let verdict = self.regions.on_acts(id, beat.region, beat.from);
                self.judge_that(verdict);
            }
        }
        for task in &out.apply {
            if let ApplyTask::Forget { region } = task {
                // From here on the worker knows that it is absorbed, and has nothing to say of it any more.
                self.regions.on_destroyed(id, *region, multiraft_raft::ReplicaId(u64::MAX));
                self.consensus.on_removed(id, *region, &self.shadows);
                self.counters.replicas_absorbed += 1;
            }
        }
        let destroyed = out.apply.iter().filter(|task| matches!(task, ApplyTask::Destroy { .. })).count();
        self.record(8, destroyed as u64);
    }

    /// Counts what a tombstone keeps out.
    pub(super) fn observe_receipt(&mut self, store: usize, messages: &[PeerMessage]) {
        for message in messages {
            if let PeerMessage::Raft(raft) = message
                && raft.descriptor.is_some()
                && self.regions.is_gone(id_of(store), raft.region, raft.message.to)
            {
                self.counters.tombstone_refusals += 1;
            }
        }
    }
}
