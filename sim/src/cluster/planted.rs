//! Where the planted bugs sit: between the engine and what the simulator does for it.

use multiraft::logic::{AdminCommand, AdminRequest, ApplyTask, Input, Outcome};
use multiraft_raft::{AppendOutcome, Body, EntryKind, LogIndex, Payload, RegionId, ReplicaId, StoreId};
use multiraft_storage::{LogBatch, LogChange};
use multiraft_transport::{ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage, RegionMessage, RegionStep};

use super::{Cluster, Waiter, id_of};
use crate::plant::Plant;

impl Cluster {
    /// What the log gets to see of a batch.
    pub(super) fn plant_in_batch(&mut self, store: usize, batch: &mut LogBatch) {
        for record in &mut batch.records {
            match self.plant {
                Some(Plant::ForgottenVote) => {
                    if let Some(hard_state) = &mut record.hard_state {
                        hard_state.vote = ReplicaId::ZERO;
                    }
                }
                Some(Plant::ForgottenTerm) if record.log == LogChange::None => record.hard_state = None,
                Some(Plant::KeptConflict) => self.keep_conflict(store, record.region, &mut record.log),
                _ => {}
            }
        }
    }

    fn keep_conflict(&self, store: usize, region: RegionId, change: &mut LogChange) {
        let LogChange::Append(entries) = change else { return };
        let held = self.shadows.durable(id_of(store), region).map_or(LogIndex::ZERO, |log| log.last());
        entries.retain(|entry| entry.index > held);
        if entries.is_empty() {
            *change = LogChange::None;
        }
    }

    /// A disk that lies falls back to what it was before the flush that it confirmed.
    pub(super) fn keep_lying_image(&mut self, store: usize) {
        let node = &mut self.nodes[store];
        node.lying_image = Some(node.disk.fork());
    }

    /// What goes over the wire.
    pub(super) fn plant_in_messages(&mut self, from: usize, messages: &mut [PeerMessage]) {
        for message in messages {
            if self.plant == Some(Plant::CountedOldTerm) {
                match message {
                    PeerMessage::Raft(raft) => self.count_in_append(from, raft),
                    PeerMessage::Beats(beats) => self.count_in_beats(from, beats),
                    _ => {}
                }
            }
            let PeerMessage::Raft(raft) = message else { continue };
            match (&mut raft.message.body, self.plant) {
                (Body::Append { prev_index, commit, entries, .. }, Some(Plant::EarlyCommit)) => {
                    *commit = (*commit).max(prev_index.plus(entries.len() as u64));
                }
                (Body::Append { entries, .. }, Some(Plant::ChangedEntry)) if from == 0 => {
                    for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Command) {
                        let mut data = entry.data.to_vec();
                        data.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
                        entry.data = data.into();
                    }
                }
                (Body::VoteReply { granted }, Some(Plant::EveryVoteGranted)) => *granted = true,
                _ => {}
            }
        }
    }

    /// What arrives, and from whom it seems to come.
    pub(super) fn plant_on_receipt(
        &mut self,
        from: StoreId,
        to: usize,
        mut messages: Vec<PeerMessage>,
    ) -> (StoreId, Vec<PeerMessage>) {
        self.count_acknowledgements(to, &messages);
        if self.plant != Some(Plant::BorrowedAcknowledgement) || self.nodes.len() < 3 {
            return (from, messages);
        }
        let third = (0..self.nodes.len()).map(id_of).find(|store| *store != from && *store != id_of(to));
        let Some(third) = third else { return (from, messages) };
        let borrowed: Vec<PeerMessage> = messages.iter().filter_map(|message| borrow(message, third)).collect();
        if borrowed.is_empty() || !self.random.chance(300) {
            return (from, messages);
        }
        messages.retain(|message| borrow(message, third).is_none());
        let worker_inputs = multiraft::logic::split_by_worker(borrowed, self.plan.workers[to]);
        for (worker, messages) in worker_inputs.into_iter().enumerate() {
            if !messages.is_empty() {
                self.input(to, worker, Input::Messages { from: third, messages });
            }
        }
        (from, messages)
    }

    /// What a client's request becomes; `None` if it was answered in some other way.
    pub(super) fn plant_in_request(&mut self, store: usize, input: Input<Waiter>) -> Option<Input<Waiter>> {
        match (self.plant, input) {
            (Some(Plant::LostSession), Input::Propose { region, epoch, session, command, deadline, reply }) => {
                let session = session.filter(|seq| seq.sequence == 0);
                Some(Input::Propose { region, epoch, session, command, deadline, reply })
            }
            (Some(Plant::SkippedEpoch), Input::Propose { region, session, command, deadline, reply, .. }) => {
                Some(Input::Propose { region, epoch: None, session, command, deadline, reply })
            }
            (
                Some(plant @ (Plant::LocalRead | Plant::StaleLeaderRead)),
                Input::Read { region, epoch, freshness, deadline, reply },
            ) => {
                let worker = self.worker_for(store, region);
                let process = self.nodes[store].process.as_ref()?;
                let status = process.workers[worker].worker.status(region)?;
                if plant == Plant::LocalRead || status.is_leader {
                    self.tell(store, reply, Outcome::ReadAt { index: status.applied, term: status.term });
                    return None;
                }
                Some(Input::Read { region, epoch, freshness, deadline, reply })
            }
            (Some(Plant::FrozenRead), Input::Read { region, epoch, freshness, deadline, reply }) => {
                let worker = self.worker_for(store, region);
                let process = self.nodes[store].process.as_ref()?;
                let status = process.workers[worker].worker.status(region);
                match status.filter(|status| self.regions.on_read(region, status.descriptor.epoch.version).is_err()) {
                    Some(status) => {
                        self.tell(store, reply, Outcome::ReadAt { index: status.applied, term: status.term });
                        None
                    }
                    None => Some(Input::Read { region, epoch, freshness, deadline, reply }),
                }
            }
            (_, input) => Some(input),
        }
    }

    /// What two stores say to each other of merges.
    pub(super) fn plant_in_merges(&mut self, from: usize, to: usize, messages: &mut [PeerMessage]) {
        for message in messages {
            match (self.plant, &*message) {
                (Some(plant @ (Plant::AssumedFreeze | Plant::EarlyFreeze)), PeerMessage::Region(about)) => {
                    let RegionStep::AskFrozen { index } = about.step else { continue };
                    let (region, there) = (about.region, self.regions.newest_of(about.region));
                    let replica = there.and_then(|there| there.replica_on(id_of(to)).map(|replica| replica.id));
                    let process = self.nodes[to].process.as_ref();
                    let status =
                        process.and_then(|process| process.workers[self.worker_for(to, region)].worker.status(region));
                    let is_committed = status.is_some_and(|status| status.commit >= index);
                    let Some(replica) = replica.filter(|_| plant == Plant::AssumedFreeze || is_committed) else {
                        continue;
                    };
                    let step = RegionStep::IsFrozen { replica, index };
                    let message = PeerMessage::Region(RegionMessage { region, step });
                    let worker = self.worker_for(from, region);
                    self.input(from, worker, Input::Messages { from: id_of(to), messages: vec![message] });
                }
                (Some(Plant::UnprovenRollBack), PeerMessage::Forward(forward)) => {
                    let ForwardRequest::Admin { request } = &forward.request else { continue };
                    let Some(AdminRequest::Command(AdminCommand::CommitMerge { index, .. })) =
                        AdminRequest::decode(request)
                    else {
                        continue;
                    };
                    let Some(target) = self.regions.newest_of(forward.region).filter(|_| index > LogIndex::ZERO) else {
                        continue;
                    };
                    let mut current = target.clone();
                    current.epoch.version += 1;
                    let outcome = ForwardOutcome::EpochMismatch { current: std::sync::Arc::new(current) };
                    let reply = PeerMessage::ForwardReply(ForwardReply { id: forward.id, outcome });
                    for (worker, messages) in
                        multiraft::logic::split_by_worker(vec![reply], self.plan.workers[from]).into_iter().enumerate()
                    {
                        if !messages.is_empty() {
                            self.input(from, worker, Input::Messages { from: id_of(to), messages });
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Loses a command on its way to the applier, on one store.
    pub(super) fn skip_an_entry(&mut self, tasks: &mut [ApplyTask<Waiter>]) {
        if !self.random.chance(20) {
            return;
        }
        for task in tasks {
            let ApplyTask::Entries { entries, .. } = task else { continue };
            if let Some(entry) = entries.iter_mut().find(|entry| entry.kind == EntryKind::Command) {
                entry.kind = EntryKind::Empty;
                entry.data = Payload::new();
                return;
            }
        }
    }
}

/// An acknowledgement, as if the replica on `store` had sent it. Replica and store have the same number here.
fn borrow(message: &PeerMessage, store: StoreId) -> Option<PeerMessage> {
    let PeerMessage::Raft(raft) = message else { return None };
    let Body::AppendReply(AppendOutcome::Accepted { .. }) = raft.message.body else { return None };
    let mut raft = raft.clone();
    raft.message.from = ReplicaId(store.get());
    Some(PeerMessage::Raft(raft))
}
