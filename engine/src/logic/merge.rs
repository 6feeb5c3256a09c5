//! Driving a merge from its frozen source to one end or the other (docs/regions.md, M1 to M9).
//!
//! ```text
//!            applied freeze
//!   (none) -----------------> asking every replica "frozen, durably?" --all--> asking the target to commit
//!                                     |                                             |         |
//!                                     | too long                     too long, or it refuses  | it has absorbed the source
//!                                     v                                             v         v
//!                              asking the target for a fence <----------------------+       wait for the end
//!                                     |
//!                                     | proof: the target's version has passed, and it has not absorbed the source
//!                                     v
//!                                 roll-back proposed here
//! ```
//!
//! Whoever leads the source drives; a new leader finds the freeze in the region's state and begins anew. The target is
//! reached as any leader is: through its store, which may be this one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    EntryKind, Incarnation, KeyRange, LogIndex, Proposal, RegionDescriptor, RegionEpoch, RegionId, ReplicaId, StoreId,
    Term, Time,
};
use multiraft_router::SlotKey;
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage, RegionStep};

use crate::apply::{Cause, Tombstone};
use crate::logic::beats::{first_sequence, request_id};
use crate::logic::worker::Worker;
use crate::logic::{
    AdminCommand, AdminRequest, ApplyTask, Frozen, LaneKind, MergeState, Notice, Outcome, RegionChange, ReplyTo,
};
use crate::region::command::Command;
use crate::region::merge::FROZEN_RETRY;

/// How often the source's leader asks those who have not answered.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// How long an answer of the target is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// After so long a merge is given up, unless a store is told otherwise: the source takes writes again. It is counted from when the store
/// that leads the source then has found it frozen.
pub const MERGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the target's replica beside a source that is absorbed may take to come to that before it is asked after, and how often.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// Where a range without keys begins and ends.
const NOWHERE: &[u8] = &[0];

/// Keeps the names of these requests apart from those of forwarded ones.
const SEQUENCE_BIT: u64 = 1 << 39;

/// A merge that this worker drives.
#[derive(Debug)]
pub(super) struct Driving {
    /// When the next step is due.
    next: Time,
    /// Stores whose replica is durably frozen.
    frozen: BTreeSet<StoreId>,
    /// The request that the target has not answered yet.
    pending: Option<u64>,
    /// It is a fence that was asked for.
    fencing: bool,
    /// Which of the target's stores is asked next.
    turn: usize,
    /// Where the target's leader was last said to be.
    hint: Option<StoreId>,
    /// The target was last asked where it was said to be led from.
    hinted: bool,
    /// A commit was refused in a way that only a fence can settle.
    refused: bool,
    /// The target has absorbed the source; what is left is to hear of it here.
    done: bool,
}

impl Driving {
    fn new(now: Time) -> Self {
        Self {
            next: now,
            frozen: BTreeSet::new(),
            pending: None,
            fencing: false,
            turn: 0,
            hint: None,
            hinted: false,
            refused: false,
            done: false,
        }
    }
}

/// What a worker keeps of merges besides the regions themselves.
#[derive(Debug)]
pub(super) struct Merges {
    next: u64,
    /// Requests to targets: for which source, and until when they are waited for.
    asked: BTreeMap<u64, (RegionId, Time)>,
    /// Frozen regions of this worker, with when each was first seen so here, whoever led it: a merge is not given a new time with each
    /// new leader.
    frozen: BTreeMap<RegionId, Time>,
    absorbed: Vec<Tombstone>,
    local: Vec<PeerMessage>,
    /// Regions that cannot apply an entry, which, and when something is done about that next.
    pub(super) stalled: BTreeMap<RegionId, (LogIndex, Time)>,
}

impl Merges {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            next: first_sequence(incarnation) | SEQUENCE_BIT,
            asked: BTreeMap::new(),
            frozen: BTreeMap::new(),
            absorbed: Vec::new(),
            local: Vec::new(),
            stalled: BTreeMap::new(),
        }
    }

    /// Hands over what is for other workers of this store.
    pub(super) fn drain(&mut self, absorbed: &mut Vec<Tombstone>, local: &mut Vec<PeerMessage>) {
        absorbed.append(&mut self.absorbed);
        local.append(&mut self.local);
    }
}

impl<R> Worker<R> {
    /// Notes how a region stands with merges, as its state says.
    pub(super) fn set_merge_state(&mut self, key: SlotKey, merge: MergeState) {
        let now = self.now;
        let region = self.region_mut(key);
        let (id, is_frozen) = (region.id(), merge.frozen.is_some());
        region.merge = merge;
        if is_frozen {
            self.merges.frozen.entry(id).or_insert(now);
        } else {
            (region.driving, region.release_at) = (None, None);
            self.merges.frozen.remove(&id);
        }
        self.note_fenced(key);
    }

    /// A step of a merge was applied, durably.
    pub(super) fn on_region_change(&mut self, now: Time, key: Option<SlotKey>, change: RegionChange) {
        let region = Arc::clone(change.region());
        if let RegionChange::Merged { tombstone, .. } = &change {
            // Also if the target is gone by now: the source has to know.
            self.counters.merges += 1;
            self.merges.absorbed.push(tombstone.clone());
            let source = tombstone.descriptor.id;
            self.notices.push(Notice::Merged { region: Arc::clone(&region), source });
        }
        let Some(key) = key else { return };
        let here = self.region_mut(key);
        here.set_descriptor(Arc::clone(&region));
        let mut merge = here.merge.clone();
        match change {
            RegionChange::Frozen { frozen, .. } => merge.frozen = Some(frozen),
            RegionChange::Thawed { .. } => {
                merge.frozen = None;
                self.counters.rolled_back += 1;
            }
            RegionChange::Fenced { .. } => {}
            RegionChange::ReplicasFenced { fenced, .. } => {
                self.tell_fenced(&region, &merge.fenced, &fenced);
                merge.fenced = fenced;
            }
            RegionChange::Merged { absorbed, .. } => merge.absorbed = absorbed,
        }
        let is_frozen = merge.frozen.is_some();
        self.set_merge_state(key, merge);
        self.notices.push(Notice::Descriptor(region));
        if is_frozen {
            self.on_frozen(now, key);
        }
    }

    /// A region is durably frozen here. Its leader goes on with the merge at once; others tell it, which saves it the asking.
    fn on_frozen(&mut self, now: Time, key: SlotKey) {
        let region = self.region(key);
        if region.group.is_leader() {
            return self.drive_merge(now, key);
        }
        let (id, replica, leader) = (region.id(), region.group.id(), region.leader_store());
        let index = region.merge.frozen.as_ref().map(|frozen| frozen.index);
        if let (Some(leader), Some(index)) = (leader, index) {
            self.say_of_region(leader, id, RegionStep::IsFrozen { replica, index });
        }
    }

    /// Replicas of these regions went with a snapshot of the one that has absorbed them: their workers have to know.
    pub(super) fn pass_on_absorbed(&mut self, covered: Vec<Tombstone>) {
        self.merges.absorbed.extend(covered);
    }

    /// The target beside a region of this worker has absorbed it, durably (G2): now its log and hard state go.
    pub(super) fn on_absorbed(&mut self, tombstone: Tombstone) {
        debug_assert_eq!(tombstone.cause, Cause::Merged);
        let region = tombstone.descriptor.id;
        self.merges.frozen.remove(&region);
        self.remove_region(region);
        self.counters.replicas_removed += 1;
        let known = Arc::clone(&tombstone.descriptor);
        self.note_tombstone(tombstone);
        self.push_apply(ApplyTask::Forget { region });
        self.notices.push(Notice::Removed { region, known });
    }

    /// Takes the next step of every merge that is driven here; once a round.
    pub(super) fn drive_merges(&mut self, now: Time) {
        let late: Vec<u64> =
            self.merges.asked.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some((region, _)) = self.merges.asked.remove(&id) else { continue };
            self.with_driving(region, |driving| {
                (driving.pending, driving.hint) = (None, None);
                driving.turn += 1;
            });
        }
        for region in self.merges.frozen.keys().copied().collect::<Vec<_>>() {
            if let Some(key) = self.slot_of(region) {
                self.drive_merge(now, key);
                self.maybe_release(now, key);
            }
        }
    }

    /// Another store says that a region was absorbed that is here, and belongs to it. While the target's replica beside it has
    /// not come so far, that is as it should be.
    pub(super) fn on_told_absorbed(&mut self, now: Time, key: SlotKey, descriptor: &RegionDescriptor) {
        let region = self.region_mut(key);
        let is_it = region.merge.frozen.is_some() && region.descriptor().epoch.version == descriptor.epoch.version;
        if is_it && region.release_at.is_none() {
            region.release_at = Some(now);
        }
    }

    /// A frozen region that its target has absorbed goes here too if the target's replica will not come to that: it was removed
    /// meanwhile, or has never been here.
    fn maybe_release(&mut self, now: Time, key: SlotKey) {
        let own_store = self.config.store;
        let region = self.region_mut(key);
        let (Some(at), Some(frozen)) = (region.release_at, region.merge.frozen.clone()) else { return };
        if now < at {
            return;
        }
        region.release_at = Some(now.plus(RELEASE_INTERVAL));
        let (id, descriptor, leads) = (region.id(), Arc::clone(region.descriptor()), region.group.is_leader());
        self.push_apply(ApplyTask::Release { region: id });
        let others = |region: &RegionDescriptor| -> Vec<StoreId> {
            region.replicas.iter().map(|replica| replica.store).filter(|store| *store != own_store).collect()
        };
        for store in others(&frozen.target) {
            let step = RegionStep::Ask { replica: ReplicaId::ZERO, epoch: RegionEpoch::default() };
            self.say_of_region(store, frozen.target.id, step);
        }
        // Who hears this leader does not ask by himself.
        for store in others(&descriptor).into_iter().filter(|_| leads) {
            let descriptor = Arc::clone(&descriptor);
            self.say_of_region(store, id, RegionStep::Tell { descriptor, merged: true, committed: Default::default() });
        }
    }

    fn with_driving(&mut self, region: RegionId, act: impl FnOnce(&mut Driving)) {
        if let Some(driving) = self.slot_of(region).and_then(|key| self.region_mut(key).driving.as_mut()) {
            act(driving);
        }
    }

    fn drive_merge(&mut self, now: Time, key: SlotKey) {
        let (own_store, timeout) = (self.config.store, self.config.merge_timeout);
        let region = self.region_mut(key);
        let Some(frozen) = region.merge.frozen.clone() else { return };
        if !region.group.is_leader() {
            region.driving = None;
            return;
        }
        let (id, descriptor) = (region.id(), Arc::clone(region.descriptor()));
        let since = self.merges.frozen.get(&id).copied().unwrap_or(now);
        let driving = self.region_mut(key).driving.get_or_insert_with(|| Box::new(Driving::new(now)));
        driving.frozen.insert(own_store);
        if driving.done || driving.pending.is_some() || now < driving.next {
            return;
        }
        driving.next = now.plus(ASK_INTERVAL);
        let gives_up = driving.refused || now.since(since) >= timeout;
        let missing: Vec<StoreId> = descriptor
            .replicas
            .iter()
            .map(|replica| replica.store)
            .filter(|store| !driving.frozen.contains(store))
            .collect();
        if !gives_up && !missing.is_empty() {
            for store in missing {
                self.say_of_region(store, id, RegionStep::AskFrozen { index: frozen.index });
            }
            return;
        }
        driving.fencing = gives_up;
        let command = if gives_up {
            let (frozen_version, version) = (descriptor.epoch.version, frozen.target.epoch.version);
            AdminCommand::Fence { source: id, frozen: frozen_version, version }
        } else {
            AdminCommand::CommitMerge { index: frozen.index, source: descriptor }
        };
        let epoch = if gives_up { RegionEpoch::default() } else { frozen.target.epoch };
        self.ask_target(now, key, &frozen, epoch, command);
    }

    fn ask_target(&mut self, now: Time, key: SlotKey, frozen: &Frozen, epoch: RegionEpoch, command: AdminCommand) {
        self.merges.next += 1;
        let id = request_id(self.merges.next, self.config.worker);
        let source = self.region(key).id();
        let Some(driving) = self.region_mut(key).driving.as_mut() else { return };
        let stores = &frozen.target.replicas;
        driving.hinted = driving.hint.is_some();
        let store = driving.hint.take().unwrap_or(stores[driving.turn % stores.len()].store);
        driving.pending = Some(id);
        self.merges.asked.insert(id, (source, now.plus(ANSWER_TIMEOUT)));
        let request = ForwardRequest::Admin { request: AdminRequest::Command(command).encode() };
        let timeout_ms = u32::try_from(ANSWER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        // The target's term is not known here, and does not matter: the epoch decides whether the command fits.
        let (region, term) = (frozen.target.id, Term::ZERO);
        let forward = PeerMessage::Forward(Forward { id, region, epoch, term, timeout_ms, request });
        self.send_to_store(store, LaneKind::Control, forward);
    }

    /// Sends to a store, which may be this one.
    pub(super) fn send_to_store(&mut self, store: StoreId, lane: LaneKind, message: PeerMessage) {
        if store == self.config.store {
            self.merges.local.push(message);
        } else {
            self.peers.entry(store).push(lane, message);
        }
    }

    /// The target's answer; says whether the reply was one.
    pub(super) fn on_merge_reply(&mut self, now: Time, reply: &ForwardReply) -> bool {
        let Some((source, _)) = self.merges.asked.remove(&reply.id) else { return false };
        let Some(key) = self.slot_of(source) else { return true };
        let region = self.region_mut(key);
        let Some(frozen) = region.merge.frozen.clone() else { return true };
        let Some(driving) = region.driving.as_mut().filter(|driving| driving.pending == Some(reply.id)) else {
            return true;
        };
        driving.pending = None;
        let was_done = driving.done;
        match &reply.outcome {
            // Its list names the source: what is left is for its replica beside this one to absorb it.
            ForwardOutcome::Done => driving.done = true,
            ForwardOutcome::Changed { .. } if !driving.fencing => driving.done = true,
            // The fence stands. The next answer is the proof.
            ForwardOutcome::Changed { .. } => driving.next = now,
            // M3: it answers so only if its list does not name the source.
            ForwardOutcome::EpochMismatch { current } if current.epoch.version > frozen.target.epoch.version => {
                self.propose_roll_back(now, key, frozen.index);
            }
            ForwardOutcome::EpochMismatch { .. } | ForwardOutcome::Refused { .. } => driving.refused = true,
            ForwardOutcome::NotLeader { hint } => {
                driving.hint = *hint;
                driving.turn += 1;
                // Who was asked by such a hint and does not lead either is not to send this one back and forth.
                if hint.is_some() && !driving.hinted {
                    driving.next = now;
                }
            }
            ForwardOutcome::UnknownRegion => driving.turn += 1,
            ForwardOutcome::Busy { retry_after_ms } => {
                driving.next = driving.next.min(now.plus(Duration::from_millis(u64::from(*retry_after_ms))));
            }
            _ => {}
        }
        let region = self.region_mut(key);
        if region.driving.as_ref().is_some_and(|driving| driving.done && !was_done) {
            region.release_at.get_or_insert(now.plus(RELEASE_INTERVAL));
        }
        self.drive_merge(now, key);
        true
    }

    fn propose_roll_back(&mut self, now: Time, key: SlotKey, index: LogIndex) {
        let region = self.region_mut(key);
        if region.group.applied_index() < region.admin_barrier {
            return;
        }
        let command = AdminCommand::RollBack { index }.encode();
        let data = Command::encode_admin(region.descriptor().epoch, &command);
        if let Ok(index) = region.group.propose(now, &mut vec![Proposal { kind: EntryKind::Command, data }]) {
            region.group.hurry_commit(index);
            region.admin_barrier = index;
            self.touch(key);
        }
    }

    /// Another store asks whether its region is frozen here.
    pub(super) fn handle_ask_frozen(&mut self, from: StoreId, region: RegionId, index: LogIndex) {
        let Some(key) = self.slot_of(region) else { return };
        let here = self.region(key);
        // The worker hears of a freeze only when it is durable.
        if here.merge.frozen.as_ref().is_some_and(|frozen| frozen.index == index) {
            let replica = here.group.id();
            self.say_of_region(from, region, RegionStep::IsFrozen { replica, index });
        }
    }

    /// Another store says that its replica is durably frozen.
    pub(super) fn handle_is_frozen(
        &mut self,
        now: Time,
        from: StoreId,
        region: RegionId,
        replica: multiraft_raft::ReplicaId,
        index: LogIndex,
    ) {
        let Some(key) = self.slot_of(region) else { return };
        let here = self.region_mut(key);
        let is_for_it = here.merge.frozen.as_ref().is_some_and(|frozen| frozen.index == index);
        if !is_for_it || here.store_of(replica) != Some(from) {
            return;
        }
        let descriptor = Arc::clone(here.descriptor());
        let Some(driving) = here.driving.as_mut() else { return };
        driving.frozen.insert(from);
        // Else the answers of others are on their way.
        if descriptor.replicas.iter().all(|replica| driving.frozen.contains(&replica.store)) {
            driving.next = now;
            self.drive_merge(now, key);
        }
    }

    /// What this store knows of a merge into a region that is led here, or is gone: the answer, if that settles it.
    pub(super) fn settled_merge(&mut self, target: RegionId, command: &AdminCommand) -> Option<Outcome> {
        let (source, frozen) = match command {
            AdminCommand::CommitMerge { source, .. } => (source.id, source.epoch.version),
            AdminCommand::Fence { source, frozen, .. } => (*source, *frozen),
            _ => return None,
        };
        if let Some(key) = self.slot_of(target) {
            return self.region(key).merge.absorbed.contains(source, frozen).then_some(Outcome::Done);
        }
        let tombstone = self.tombstone(target)?;
        if tombstone.absorbed.contains(source, frozen) {
            return Some(Outcome::Done);
        }
        if tombstone.cause == Cause::Removed {
            // It may go on elsewhere: whoever asks has to ask there.
            let replicas = &tombstone.descriptor.replicas;
            let turn = usize::try_from(self.counters.turns).unwrap_or_default().checked_rem(replicas.len())?;
            return Some(Outcome::NotLeader { hint: Some(replicas[turn].store) });
        }
        // Absorbed itself, it absorbs nobody any more, at no version: what it was is past for good, list and version being of
        // one state.
        // No region was ever at that version: nobody must take what is told for one that owns keys, or has replicas to ask.
        let epoch = RegionEpoch { version: tombstone.version + 1, ..tombstone.descriptor.epoch };
        let nowhere = KeyRange { start: Bytes::from_static(NOWHERE), end: Bytes::from_static(NOWHERE) };
        let current = Arc::new(RegionDescriptor { id: target, range: nowhere, epoch, replicas: Vec::new() });
        Some(Outcome::EpochMismatch { current })
    }

    /// Whether a region takes nothing because it is frozen; if so, whoever asked is told to try again.
    pub(super) fn refuse_frozen(&mut self, key: SlotKey, to: ReplyTo<R>) -> Option<ReplyTo<R>> {
        if self.region(key).merge.frozen.is_none() {
            return Some(to);
        }
        self.answer(to, Outcome::Busy { retry_after: FROZEN_RETRY });
        None
    }
}
