//! The snapshot conversation: who offers, who accepts, how many at once.
//!
//! ```text
//!  leader                                   follower
//!    | -- Offer{index, descriptor} ----------> |   would it help, is there room?
//!    | <--------- Accept{first_chunk} / Refuse |   Expect: the stream may come
//!    | == header, chunks (own stream) =======> |   received whole, checked
//!    |                                         |   installed durably, atomically; then the log is reset
//!    | <------------------ Finished{installed} |
//! ```
//!
//! A lost step ends in a time-out on both sides, after which the leader offers again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use multiraft_raft::{Incarnation, Membership, ReplicaId, SnapshotOutcome, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{PeerMessage, SnapshotHeader, SnapshotMessage, SnapshotStep};

use crate::logic::beats::{first_sequence, request_id, worker_of_request};
use crate::logic::worker::Worker;
use crate::logic::{ApplyTask, LaneKind, Notice, Outcome, RegionHandle, SnapshotInstalled, SnapshotTask, TurnOutput};

/// How long a step of the conversation may take before the transfer is given up. Streaming counts from its last sign.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a refused offer waits.
const RETRY_AFTER_MS: u32 = 200;

/// Snapshots on their way out of and into one worker's regions.
#[derive(Debug)]
pub(super) struct Transfers {
    next: u64,
    outgoing: BTreeMap<u64, Outgoing>,
    incoming: BTreeMap<(StoreId, u64), Incoming>,
    /// Followers that need one, not before the moment beside them.
    queue: VecDeque<(Time, SlotKey, ReplicaId)>,
    tasks: Vec<SnapshotTask>,
    installs: Vec<(RegionHandle, StoreId, SnapshotHeader)>,
}

impl Transfers {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            next: first_sequence(incarnation),
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            queue: VecDeque::new(),
            tasks: Vec::new(),
            installs: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    key: SlotKey,
    replica: ReplicaId,
    to: StoreId,
    deadline: Time,
}

#[derive(Debug)]
struct Incoming {
    key: SlotKey,
    /// None while it is being installed: that ends by itself.
    deadline: Option<Time>,
}

impl<R> Worker<R> {
    /// A group's follower needs a snapshot: offered when there is room.
    pub(super) fn want_snapshot(&mut self, key: SlotKey, replica: ReplicaId) {
        self.transfers.queue.push_back((Time::ZERO, key, replica));
    }

    /// Offers what waits, gives up what takes too long, and hands the turn's tasks over.
    pub(super) fn drive_transfers(&mut self, now: Time, out: &mut TurnOutput<R>) {
        self.expire_transfers(now);
        for _ in 0..self.transfers.queue.len() {
            let Some((not_before, key, replica)) = self.transfers.queue.pop_front() else { break };
            if not_before > now || self.transfers.outgoing.len() >= self.config.snapshots_at_once {
                self.transfers.queue.push_back((not_before, key, replica));
                continue;
            }
            self.offer(now, key, replica);
        }
        out.snapshots.append(&mut self.transfers.tasks);
        for (handle, from, header) in std::mem::take(&mut self.transfers.installs) {
            out.apply.push(ApplyTask::Install { handle, from, header });
        }
    }

    fn offer(&mut self, now: Time, key: SlotKey, replica: ReplicaId) {
        let Some(region) = self.regions.get(key).filter(|region| region.group.is_leader()) else {
            return;
        };
        let to = region.store_of(replica).filter(|store| self.peers.is_up(*store));
        let Some(to) = to else {
            return self.end_outgoing(now, key, replica, SnapshotOutcome::Unreachable);
        };
        let region = self.region(key);
        let index = region.group.applied_index();
        let index_term = region.group.term_at(index).unwrap_or(Term::ZERO);
        let step = SnapshotStep::Offer { index, index_term, descriptor: region.descriptor().clone(), size_hint: 0 };
        self.transfers.next += 1;
        let transfer = request_id(self.transfers.next, self.config.worker);
        let region = self.region(key);
        let (from, term, id) = (region.group.id(), region.group.term(), region.id());
        let message = SnapshotMessage { transfer, region: id, from, to: replica, term, step };
        self.transfers.outgoing.insert(transfer, Outgoing { key, replica, to, deadline: now.plus(STEP_TIMEOUT) });
        self.counters.snapshots_sent += 1;
        self.peers.entry(to).push(LaneKind::Control, PeerMessage::Snapshot(message));
    }

    /// A step of the conversation from the other side.
    pub(super) fn handle_snapshot(&mut self, now: Time, from: StoreId, message: SnapshotMessage) {
        let here = self.any_slot(message.region).filter(|key| self.region(*key).group.id() == message.to);
        let Some(key) = here else {
            // The sender learns at once that there is nobody, and not by a time-out: an append has to come first.
            if let SnapshotStep::Offer { .. } = message.step {
                let step = SnapshotStep::Finished { installed: false };
                let (from_replica, to) = (message.to, message.from);
                let answer = SnapshotMessage { from: from_replica, to, step, ..message };
                self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(answer));
            }
            return;
        };
        match message.step {
            SnapshotStep::Offer { index, index_term, .. } => {
                let step = self.consider(now, key, from, message.transfer, index, index_term);
                let region = self.region(key);
                let answer = SnapshotMessage {
                    transfer: message.transfer,
                    region: message.region,
                    from: message.to,
                    to: message.from,
                    term: region.group.term(),
                    step,
                };
                self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(answer));
            }
            SnapshotStep::Accept { first_chunk } => self.on_accepted(now, from, message.transfer, first_chunk),
            SnapshotStep::Refuse { retry_after_ms } => self.on_refused(now, from, message.transfer, retry_after_ms),
            SnapshotStep::Finished { installed } => {
                let outcome = if installed { SnapshotOutcome::Installed } else { SnapshotOutcome::Failed };
                self.finish_outgoing(now, from, message.transfer, outcome);
            }
        }
    }

    fn consider(
        &mut self,
        now: Time,
        key: SlotKey,
        from: StoreId,
        transfer: u64,
        index: multiraft_raft::LogIndex,
        index_term: Term,
    ) -> SnapshotStep {
        let region = self.region(key);
        if !region.group.would_install(index, index_term) {
            return SnapshotStep::Refuse { retry_after_ms: 0 };
        }
        let region = region.id();
        // A new offer tells that the earlier one came to nothing, unless that is being installed: its leader has given it up, or
        // leads no more.
        self.transfers.incoming.retain(|_, incoming| incoming.key != key || incoming.deadline.is_none());
        let busy = self.transfers.incoming.values().any(|incoming| incoming.key == key);
        if busy || self.transfers.incoming.len() >= self.config.snapshots_at_once {
            return SnapshotStep::Refuse { retry_after_ms: RETRY_AFTER_MS };
        }
        self.transfers.incoming.insert((from, transfer), Incoming { key, deadline: Some(now.plus(STEP_TIMEOUT)) });
        self.transfers.tasks.push(SnapshotTask::Expect { from, transfer, region });
        SnapshotStep::Accept { first_chunk: 0 }
    }

    fn on_accepted(&mut self, now: Time, from: StoreId, transfer: u64, first_chunk: u64) {
        let Some(outgoing) = self.transfers.outgoing.get_mut(&transfer).filter(|outgoing| outgoing.to == from) else {
            return;
        };
        outgoing.deadline = now.plus(STEP_TIMEOUT);
        let (key, to, replica) = (outgoing.key, outgoing.to, outgoing.replica);
        if let Some(region) = self.regions.get(key) {
            let handle = region.handle();
            self.transfers.tasks.push(SnapshotTask::Send { handle, transfer, to, replica, first_chunk });
        }
    }

    fn on_refused(&mut self, now: Time, from: StoreId, transfer: u64, retry_after_ms: u32) {
        if retry_after_ms == 0 {
            // The follower has as much already, and only its word for it was lost: appends go on after the snapshot, and its
            // answer to the first one tells where it stands.
            return self.finish_outgoing(now, from, transfer, SnapshotOutcome::Installed);
        }
        let Some(outgoing) = self.take_outgoing(from, transfer) else { return };
        let again = now.plus(Duration::from_millis(u64::from(retry_after_ms)));
        self.transfers.queue.push_back((again, outgoing.key, outgoing.replica));
    }

    /// Chunks are still moving.
    pub(super) fn on_snapshot_moving(&mut self, now: Time, from: Option<StoreId>, transfer: u64) {
        let deadline = now.plus(STEP_TIMEOUT);
        match from {
            None => {
                if let Some(outgoing) = self.transfers.outgoing.get_mut(&transfer) {
                    outgoing.deadline = deadline;
                }
            }
            Some(from) => {
                let incoming = self.transfers.incoming.get_mut(&(from, transfer));
                if let Some(incoming) = incoming.filter(|incoming| incoming.deadline.is_some()) {
                    incoming.deadline = Some(deadline);
                }
            }
        }
    }

    /// All chunks have left, or will not.
    pub(super) fn on_snapshot_streamed(&mut self, now: Time, transfer: u64, sent: bool) {
        if sent {
            if let Some(outgoing) = self.transfers.outgoing.get_mut(&transfer) {
                outgoing.deadline = now.plus(STEP_TIMEOUT);
            }
            return;
        }
        if let Some(outgoing) = self.transfers.outgoing.remove(&transfer) {
            self.end_outgoing(now, outgoing.key, outgoing.replica, SnapshotOutcome::Failed);
        }
    }

    fn take_outgoing(&mut self, from: StoreId, transfer: u64) -> Option<Outgoing> {
        debug_assert!(worker_of_request(transfer) < 256);
        if self.transfers.outgoing.get(&transfer)?.to != from {
            return None;
        }
        self.transfers.outgoing.remove(&transfer)
    }

    fn finish_outgoing(&mut self, now: Time, from: StoreId, transfer: u64, outcome: SnapshotOutcome) {
        if let Some(outgoing) = self.take_outgoing(from, transfer) {
            self.end_outgoing(now, outgoing.key, outgoing.replica, outcome);
        }
    }

    fn end_outgoing(&mut self, now: Time, key: SlotKey, replica: ReplicaId, outcome: SnapshotOutcome) {
        if let Some(region) = self.regions.get_mut(key) {
            region.group.on_snapshot_sent(now, replica, outcome);
            self.touch(key);
        }
    }

    /// A whole snapshot is here: it is installed if it still helps.
    pub(super) fn on_snapshot_received(&mut self, from: StoreId, header: SnapshotHeader) {
        let Some(incoming) = self.transfers.incoming.get_mut(&(from, header.transfer)) else {
            self.refuse_received(from, &header);
            self.transfers.tasks.push(SnapshotTask::Discard { from, header });
            return;
        };
        let key = incoming.key;
        incoming.deadline = None;
        let own = self.config.store;
        let useful = self.regions.get(key).is_some_and(|region| {
            let descriptor = &header.descriptor;
            // What a peer says is checked: it must be this replica's region, with this replica in it.
            region.id() == header.region
                && descriptor.id == header.region
                && header.to == region.group.id()
                && descriptor.replica_on(own).is_some_and(|replica| replica.id == header.to)
                && !descriptor.epoch.is_behind(region.descriptor().epoch)
                && region.group.would_install(header.index, header.index_term)
        });
        if !useful {
            self.transfers.incoming.remove(&(from, header.transfer));
            self.tell_finished(key, from, header.transfer, false);
            self.transfers.tasks.push(SnapshotTask::Discard { from, header });
            return;
        }
        let handle = self.region(key).handle();
        self.transfers.installs.push((handle, from, header));
    }

    /// A snapshot came that nobody waits for any more: its sender is told, whose place for another it takes.
    fn refuse_received(&mut self, from: StoreId, header: &SnapshotHeader) {
        let Some(sender) = header.descriptor.replica_on(from) else { return };
        let message = SnapshotMessage {
            transfer: header.transfer,
            region: header.region,
            from: header.to,
            to: sender.id,
            term: Term::ZERO,
            step: SnapshotStep::Finished { installed: false },
        };
        self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(message));
    }

    /// A snapshot that was expected will not come.
    pub(super) fn on_snapshot_lost(&mut self, from: StoreId, transfer: u64) {
        if let Some(incoming) = self.transfers.incoming.remove(&(from, transfer)) {
            self.tell_finished(incoming.key, from, transfer, false);
        }
    }

    /// A replica is gone: transfers to and from it keep no place for others. One that is being installed ends by itself.
    pub(super) fn forget_transfers(&mut self, key: SlotKey) {
        self.transfers.outgoing.retain(|_, outgoing| outgoing.key != key);
        let incoming = self.transfers.incoming.iter();
        let lost: Vec<_> =
            incoming.filter(|(_, one)| one.key == key && one.deadline.is_some()).map(|(name, _)| *name).collect();
        for (from, transfer) in lost {
            self.on_snapshot_lost(from, transfer);
        }
        self.transfers.queue.retain(|(_, queued, _)| *queued != key);
    }

    /// Tells the sender how a transfer ended, so that it can use the place for another.
    fn tell_finished(&mut self, key: SlotKey, from: StoreId, transfer: u64, installed: bool) {
        let Some(region) = self.regions.get(key) else { return };
        let Some(leader) = region.descriptor().replica_on(from).map(|replica| replica.id) else { return };
        let message = SnapshotMessage {
            transfer,
            region: region.id(),
            from: region.group.id(),
            to: leader,
            term: region.group.term(),
            step: SnapshotStep::Finished { installed },
        };
        self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(message));
    }

    /// The state was replaced, durably; now the group's log begins after it.
    pub(super) fn on_snapshot_installed(&mut self, now: Time, done: SnapshotInstalled) {
        let SnapshotInstalled { handle, from, header, installed } = done;
        self.transfers.incoming.remove(&(from, header.transfer));
        let Some(key) = self.live(handle) else { return };
        if installed {
            let region = self.region_mut(key);
            let membership = Membership::from_replicas(&header.descriptor.replicas);
            // False: the log reached the index by itself meanwhile. The applier has skipped ahead, and that is all.
            let restored = region.group.restore(now, header.index, header.index_term, membership);
            if restored {
                region.initialised = true;
                region.set_descriptor(header.descriptor.clone());
                self.notices.push(Notice::Descriptor(header.descriptor.clone()));
            }
            let region = self.region_mut(key);
            region.durable = region.durable.max(header.index);
            self.counters.snapshots_installed += 1;
            self.notices.push(Notice::SnapshotInstalled { region: handle.region, index: header.index });
            self.forget_covered(key, header.index);
            self.release_confirmed(key);
            self.touch(key);
        }
        self.tell_finished(key, from, header.transfer, installed);
    }

    /// Commands proposed here that a snapshot covers: whether they are in it cannot be told.
    fn forget_covered(&mut self, key: SlotKey, index: multiraft_raft::LogIndex) {
        let Some(waiting) = self.region_mut(key).busy.as_mut() else { return };
        let covered = waiting.proposed.partition_point(|proposed| proposed.index <= index);
        let unknown: Vec<_> = waiting.proposed.drain(..covered).collect();
        for proposed in unknown {
            self.answer(proposed.reply, Outcome::Uncertain);
        }
    }

    /// The link to a peer changed: transfers in both directions are over.
    pub(super) fn on_link_transfers(&mut self, now: Time, peer: StoreId) {
        let lost: Vec<u64> =
            self.transfers.outgoing.iter().filter(|(_, out)| out.to == peer).map(|(transfer, _)| *transfer).collect();
        for transfer in lost {
            if let Some(outgoing) = self.transfers.outgoing.remove(&transfer) {
                self.end_outgoing(now, outgoing.key, outgoing.replica, SnapshotOutcome::Unreachable);
            }
        }
        self.transfers.incoming.retain(|(from, _), incoming| *from != peer || incoming.deadline.is_none());
    }

    fn expire_transfers(&mut self, now: Time) {
        let late: Vec<u64> = self
            .transfers
            .outgoing
            .iter()
            .filter(|(_, out)| out.deadline <= now)
            .map(|(transfer, _)| *transfer)
            .collect();
        for transfer in late {
            if let Some(outgoing) = self.transfers.outgoing.remove(&transfer) {
                self.end_outgoing(now, outgoing.key, outgoing.replica, SnapshotOutcome::Failed);
            }
        }
        self.transfers.incoming.retain(|_, incoming| incoming.deadline.is_none_or(|deadline| deadline > now));
    }
}
