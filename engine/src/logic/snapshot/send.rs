//! The leader's side: offers, transfers under way, and captures that are kept until they have arrived.
//!
//! ```text
//!   offered --accept--> streaming --all has left--> sent --finished--> over
//!      |                    |                        |
//!      +---- refused, timed out, link lost, region gone: over; a stream that still runs is cancelled and waited for
//! ```
//!
//! Invariant: every `SnapshotTask::Send` is answered by one `Input::SnapshotSent`; until then it counts against the limit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{Incarnation, LogIndex, RegionDescriptor, ReplicaId, Role, SnapshotOutcome, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{CaptureId, PeerMessage, SnapshotMessage, SnapshotStep};

use super::kept::Kept;
use super::queue::Wanted;
use crate::logic::beats::{first_sequence, request_id, worker_of_request};
use crate::logic::input::KeptSnapshot;
use crate::logic::worker::Worker;
use crate::logic::{LaneKind, SnapshotTask};

/// How many followers one turn looks at, offered or not.
const LOOKED_AT_PER_TURN: usize = 64;
/// How long to wait for a cancelled stream before asking again.
const ENDING_PAUSE: Duration = Duration::from_millis(20);
/// How long the log is held after a snapshot was installed, for the follower to catch up.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Snapshots on their way out of one worker's regions.
#[derive(Debug)]
pub(super) struct Sending {
    next: u64,
    active: BTreeMap<u64, Outgoing>,
    /// Cancelled, and not answered yet.
    ending: BTreeMap<u64, Ending>,
    /// In the driver's hands, to be sent again.
    kept: Kept<CaptureId, Capture>,
}

#[derive(Debug)]
struct Outgoing {
    key: SlotKey,
    replica: ReplicaId,
    to: StoreId,
    deadline: Time,
    /// What the offer said.
    index: LogIndex,
    capture: CaptureId,
    /// The capture was there when it was offered.
    is_kept: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offered,
    Streaming,
    Sent,
}

#[derive(Debug)]
struct Ending {
    wanted: Wanted,
    /// The capture is worth being kept.
    keep: bool,
}

/// A region's state of one instant.
#[derive(Debug)]
struct Capture {
    key: SlotKey,
    index: LogIndex,
    index_term: Term,
    descriptor: Arc<RegionDescriptor>,
    /// For a witness, and of no use to others.
    is_bare: bool,
}

impl Outgoing {
    fn wanted(&self) -> Wanted {
        (self.key, self.replica)
    }
}

impl Sending {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { next: first_sequence(incarnation), active: BTreeMap::new(), ending: BTreeMap::new(), kept: Kept::new() }
    }

    fn count(&self) -> usize {
        self.active.len() + self.ending.len()
    }

    fn transfers(&self, is_meant: impl Fn(&Outgoing) -> bool) -> Vec<u64> {
        self.active.iter().filter(|(_, outgoing)| is_meant(outgoing)).map(|(transfer, _)| *transfer).collect()
    }

    /// The newest capture of a region from which a follower can go on with a log that reaches back to `reach`. One that was
    /// made before the follower became a member does not name it, and would be refused there. So would one that was made
    /// before the region was split, wherever the other part has come to be first.
    fn usable(&self, (key, replica): Wanted, reach: LogIndex, version: u64) -> Option<(CaptureId, &Capture, u64)> {
        let usable = |(_, capture, _): &(CaptureId, &Capture, u64)| {
            let role = capture.descriptor.replica(replica).map(|member| member.role);
            let is_for_it = role.is_some_and(|role| (role == Role::Witness) == capture.is_bare);
            let is_of_this_range = capture.descriptor.epoch.version == version;
            capture.key == key && capture.index >= reach && is_for_it && is_of_this_range
        };
        self.kept.iter().filter(usable).max_by_key(|(_, capture, _)| capture.index)
    }
}

impl<R> Worker<R> {
    /// A group's follower needs a snapshot: offered when there is room, and not too soon after one that came to nothing.
    pub(in crate::logic) fn want_snapshot(&mut self, key: SlotKey, replica: ReplicaId) {
        let wanted = (key, replica);
        let wait = self.transfers.queue.back_off(&self.config.snapshots, wanted);
        if wait.is_zero() {
            self.line_up(self.now, wanted);
        } else {
            self.transfers.queue.delay(self.now.plus(wait), wanted);
        }
    }

    /// Whether a follower waits for a snapshot already, or gets one.
    pub(in crate::logic) fn is_served(&self, key: SlotKey, replica: ReplicaId) -> bool {
        let (wanted, transfers) = ((key, replica), &self.transfers);
        transfers.queue.contains(wanted)
            || transfers.sending.active.values().any(|outgoing| outgoing.wanted() == wanted)
            || transfers.sending.ending.values().any(|ending| ending.wanted == wanted)
    }

    fn line_up(&mut self, now: Time, wanted: Wanted) {
        let (key, replica) = wanted;
        let Some(region) = self.regions.get_mut(key).filter(|region| region.group.is_leader()) else {
            return self.transfers.queue.forget(wanted);
        };
        match region.store_of(replica) {
            Some(to) => self.transfers.queue.push(to, wanted),
            None => self.tell_group(now, wanted, SnapshotOutcome::Unreachable),
        }
    }

    /// Offers what waits, as far as there is room.
    pub(super) fn drive_offers(&mut self, now: Time) {
        for wanted in self.transfers.queue.take_due(now) {
            self.line_up(now, wanted);
        }
        for _ in 0..LOOKED_AT_PER_TURN {
            if self.transfers.sending.count() >= self.config.snapshots_at_once {
                return;
            }
            let Some((to, wanted)) = self.transfers.queue.pop(now) else { return };
            self.offer(now, to, wanted);
        }
    }

    fn offer(&mut self, now: Time, to: StoreId, wanted: Wanted) {
        let (key, replica) = wanted;
        // One that is still under way was begun for an earlier term of this leader: the group knows nothing of it any more.
        for transfer in self.transfers.sending.transfers(|outgoing| outgoing.wanted() == wanted) {
            if let Some(outgoing) = self.transfers.sending.active.remove(&transfer) {
                self.cancel_stream(transfer, &outgoing, true);
            }
        }
        if self.transfers.sending.ending.values().any(|ending| ending.wanted == wanted) {
            return self.transfers.queue.delay(now.plus(ENDING_PAUSE), wanted);
        }
        let Some(region) = self.regions.get_mut(key).filter(|region| region.group.is_leader()) else {
            return self.transfers.queue.forget(wanted);
        };
        if region.store_of(replica) != Some(to) || !self.peers.is_up(to) {
            return self.tell_group(now, wanted, SnapshotOutcome::Unreachable);
        }
        let (from, term, id) = (region.group.id(), region.group.term(), region.id());
        self.transfers.sending.next += 1;
        let transfer = request_id(self.transfers.sending.next, self.config.worker);
        let (reach, version) = (region.group.first_index().prev(), region.descriptor().epoch.version);
        let (index, capture, is_kept, step) = match self.transfers.sending.usable(wanted, reach, version) {
            Some((name, capture, bytes)) => {
                let Capture { index, index_term, ref descriptor, .. } = *capture;
                let descriptor = Arc::clone(descriptor);
                let step = SnapshotStep::Offer { index, index_term, descriptor, size_hint: bytes, capture: Some(name) };
                (index, name, true, step)
            }
            None => {
                let index = region.group.applied_index();
                let index_term = region.group.term_at(index).unwrap_or(Term::ZERO);
                let descriptor = Arc::clone(region.descriptor());
                let step = SnapshotStep::Offer { index, index_term, descriptor, size_hint: 0, capture: None };
                let name =
                    CaptureId { store: self.config.store, incarnation: self.config.incarnation, number: transfer };
                (index, name, false, step)
            }
        };
        let deadline = now.plus(self.config.snapshots.step_timeout);
        let outgoing = Outgoing { key, replica, to, deadline, index, capture, is_kept, stage: Stage::Offered };
        self.transfers.sending.active.insert(transfer, outgoing);
        self.transfers.holds.begin(wanted, index);
        self.counters.snapshots_sent += 1;
        let message = SnapshotMessage { transfer, region: id, from, to: replica, term, step };
        self.peers.entry(to).push(LaneKind::Control, PeerMessage::Snapshot(message));
    }

    pub(super) fn on_accepted(&mut self, now: Time, from: StoreId, transfer: u64, first_chunk: u64) {
        let deadline = now.plus(self.config.snapshots.step_timeout);
        let Some(outgoing) = self.transfers.sending.active.get_mut(&transfer) else { return };
        if outgoing.to != from || outgoing.stage != Stage::Offered {
            return;
        }
        if first_chunk > 0 && !outgoing.is_kept {
            // It cannot have chunks of what is not captured yet.
            return self.finish_outgoing(now, from, transfer, SnapshotOutcome::Failed);
        }
        (outgoing.deadline, outgoing.stage) = (deadline, Stage::Streaming);
        let (wanted, to, capture) = (outgoing.wanted(), outgoing.to, outgoing.capture);
        let Some(region) = self.regions.get_mut(wanted.0) else {
            self.transfers.sending.active.remove(&transfer);
            return;
        };
        let handle = region.handle();
        self.transfers.queue.on_begun(wanted, first_chunk);
        self.counters.snapshots_resumed += u64::from(first_chunk > 0);
        self.transfers.tasks.push(SnapshotTask::Send { handle, transfer, to, replica: wanted.1, first_chunk, capture });
    }

    pub(super) fn on_refused(&mut self, now: Time, from: StoreId, transfer: u64, retry_after_ms: u32) {
        let Some(outgoing) = self.take_outgoing(from, transfer) else { return };
        let wanted = outgoing.wanted();
        if retry_after_ms == 0 {
            // The follower has as much already, and only its word for it was lost: appends go on after the snapshot, and its
            // answer to the first one tells where it stands. If it needs a snapshot all the same, that is a newer one.
            if outgoing.is_kept {
                self.release(outgoing.capture);
            }
            return self.close(now, transfer, &outgoing, SnapshotOutcome::Installed);
        }
        self.transfers.holds.end(wanted);
        let again = now.plus(Duration::from_millis(u64::from(retry_after_ms)));
        self.transfers.queue.push_back_until(from, wanted, again);
    }

    pub(super) fn on_outgoing_moving(&mut self, now: Time, transfer: u64) {
        if let Some(outgoing) = self.transfers.sending.active.get_mut(&transfer) {
            outgoing.deadline = now.plus(self.config.snapshots.step_timeout);
        }
    }

    /// All chunks have left, or will not. What was captured is kept until it has arrived.
    pub(in crate::logic) fn on_snapshot_streamed(
        &mut self,
        now: Time,
        transfer: u64,
        sent: bool,
        kept: Option<KeptSnapshot>,
    ) {
        let sending = &mut self.transfers.sending;
        let ending = sending.ending.remove(&transfer);
        let active = sending.active.get(&transfer).map(Outgoing::wanted);
        let (wanted, keep) = match (&ending, active) {
            (Some(ending), _) => (Some(ending.wanted), ending.keep),
            (None, active) => (active, true),
        };
        if let Some(kept) = kept {
            self.keep(now, wanted.filter(|_| keep), kept);
        }
        let Some(outgoing) = self.transfers.sending.active.get_mut(&transfer) else { return };
        outgoing.stage = Stage::Sent;
        if sent {
            outgoing.deadline = now.plus(self.config.snapshots.step_timeout);
        } else if let Some(outgoing) = self.transfers.sending.active.remove(&transfer) {
            self.close(now, transfer, &outgoing, SnapshotOutcome::Failed);
        }
    }

    fn keep(&mut self, now: Time, wanted: Option<Wanted>, kept: KeptSnapshot) {
        let KeptSnapshot { capture: name, index, index_term, descriptor, bytes, .. } = kept;
        let Some((key, replica)) = wanted.filter(|(key, _)| self.regions.contains(*key)) else {
            return self.release(name);
        };
        let is_bare = descriptor.replica(replica).is_some_and(|member| member.role == Role::Witness);
        let capture = Capture { key, index, index_term, descriptor, is_bare };
        let gone = self.transfers.sending.kept.insert(now, &self.config.snapshots, name, bytes, capture);
        self.transfers.tasks.extend(gone.into_iter().map(|(capture, _)| SnapshotTask::Release { capture }));
    }

    /// A capture is not needed any more, unless another transfer sends it.
    fn release(&mut self, capture: CaptureId) {
        let is_used =
            |outgoing: &Outgoing| outgoing.capture == capture && (outgoing.is_kept || outgoing.stage != Stage::Offered);
        if self.transfers.sending.active.values().any(is_used) {
            return;
        }
        self.transfers.sending.kept.remove(capture);
        self.transfers.tasks.push(SnapshotTask::Release { capture });
    }

    fn take_outgoing(&mut self, from: StoreId, transfer: u64) -> Option<Outgoing> {
        debug_assert!(worker_of_request(transfer) < 256);
        if self.transfers.sending.active.get(&transfer)?.to != from {
            return None;
        }
        self.transfers.sending.active.remove(&transfer)
    }

    pub(super) fn finish_outgoing(&mut self, now: Time, from: StoreId, transfer: u64, outcome: SnapshotOutcome) {
        let Some(outgoing) = self.take_outgoing(from, transfer) else { return };
        if outcome == SnapshotOutcome::Installed && outgoing.stage == Stage::Sent {
            self.release(outgoing.capture);
        }
        self.close(now, transfer, &outgoing, outcome);
    }

    /// A stream that nobody waits for any more ends; that it has is told later.
    fn cancel_stream(&mut self, transfer: u64, outgoing: &Outgoing, keep: bool) {
        if outgoing.stage == Stage::Streaming {
            self.transfers.sending.ending.insert(transfer, Ending { wanted: outgoing.wanted(), keep });
            self.transfers.tasks.push(SnapshotTask::Cancel { from: None, transfer });
        }
    }

    /// A transfer is over: what becomes of its stream, of the log that it held, and of the follower's next one.
    fn close(&mut self, now: Time, transfer: u64, outgoing: &Outgoing, outcome: SnapshotOutcome) {
        self.cancel_stream(transfer, outgoing, outcome != SnapshotOutcome::Installed);
        let (wanted, limits) = (outgoing.wanted(), &self.config.snapshots);
        let first = self.regions.get_mut(outgoing.key).map(|region| region.group.first_index());
        match outcome {
            SnapshotOutcome::Installed => {
                self.transfers.holds.keep_until(wanted, now.plus(CATCH_UP));
                // A log that was cut meanwhile makes the next one necessary: these become rarer, too.
                if first.is_some_and(|first| first > outgoing.index.next()) {
                    self.transfers.queue.on_failed(now, limits, wanted);
                } else {
                    self.transfers.queue.forget(wanted);
                }
            }
            SnapshotOutcome::Failed | SnapshotOutcome::Unreachable => {
                self.transfers.holds.keep_until(wanted, now.plus(limits.kept_for));
                if outcome == SnapshotOutcome::Failed {
                    self.transfers.queue.on_failed(now, limits, wanted);
                    self.counters.snapshots_failed += 1;
                }
            }
        }
        self.tell_group(now, wanted, outcome);
    }

    fn tell_group(&mut self, now: Time, (key, replica): Wanted, outcome: SnapshotOutcome) {
        if let Some(region) = self.regions.get_mut(key) {
            region.group.on_snapshot_sent(now, replica, outcome);
            self.touch(key);
        }
    }

    /// The link to a peer changed: what was on its way over the old one is over.
    pub(super) fn on_link_outgoing(&mut self, now: Time, peer: StoreId) {
        self.transfers.queue.on_link(peer);
        for transfer in self.transfers.sending.transfers(|outgoing| outgoing.to == peer) {
            self.finish_outgoing(now, peer, transfer, SnapshotOutcome::Unreachable);
        }
    }

    /// Ends what takes too long, and what was kept for too long.
    pub(super) fn expire_outgoing(&mut self, now: Time) {
        for transfer in self.transfers.sending.transfers(|outgoing| outgoing.deadline <= now) {
            if let Some(outgoing) = self.transfers.sending.active.remove(&transfer) {
                self.close(now, transfer, &outgoing, SnapshotOutcome::Failed);
            }
        }
        for (capture, _) in self.transfers.sending.kept.expire(now) {
            self.release(capture);
        }
        self.transfers.holds.expire(now);
    }

    /// A region is not here any more.
    pub(super) fn on_region_gone_outgoing(&mut self, key: SlotKey) {
        for transfer in self.transfers.sending.transfers(|outgoing| outgoing.key == key) {
            if let Some(outgoing) = self.transfers.sending.active.remove(&transfer) {
                self.transfers.queue.forget(outgoing.wanted());
                self.cancel_stream(transfer, &outgoing, false);
            }
        }
        let kept: Vec<CaptureId> =
            self.transfers.sending.kept.iter().filter(|(_, kept, _)| kept.key == key).map(|(name, ..)| name).collect();
        for capture in kept {
            self.release(capture);
        }
        self.transfers.holds.end_region(key);
    }
}
