//! Replicas that come and go on one worker. The rules (C1 to C5, G1 to G3) are those of `docs/regions.md`.
//!
//! ```text
//!   message with a descriptor ---> creating ---> without state ---> initialised ---> removing ---> tombstone
//!                                (applier says   (votes, rejects    (by snapshot     (state gone,
//!                                  whether)         appends)         or split)        then the log)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{
    Body, HardState, LogIndex, LogSummary, Membership, Message, RegionDescriptor, RegionEpoch, RegionId, ReplicaId,
    StoreId, Term, Time,
};
use multiraft_router::SlotKey;
use multiraft_storage::{GroupRecord, LogChange};
use multiraft_transport::{PeerMessage, RegionMessage, RegionStep};

use crate::apply::{Cause, Destroyed, FIRST_INDEX, FIRST_TERM, Tombstone};
use crate::logic::worker::Worker;
use crate::logic::{Adopt, ApplyTask, LaneKind, MergeState, Notice, RegionStart, Residue, SplitDone};

/// How many messages for a replica that is being created are kept: a vote request and what may follow it.
const KEPT_MESSAGES: usize = 4;

/// How many replicas may be being created at once; further messages are dropped, and come again.
const CREATING_MAX: usize = 4096;

/// A replica whose state is there comes to its worker with the news of the split that has made it: not later than this.
const ADOPTED_WITHIN: Duration = Duration::from_secs(5);

/// What is on its way in or out.
pub(super) struct Lifecycle<R> {
    pub(super) residue: Residue,
    creating: BTreeMap<RegionId, Creating>,
    /// Removed replicas: `None` until the state is gone, then the ticket under which the log's records go.
    removing: BTreeMap<RegionId, Option<u64>>,
    /// Replicas that are to be removed at the next round, when their last messages have left.
    doomed: Vec<(SlotKey, Arc<RegionDescriptor>, (LogIndex, Term))>,
    /// What replicas were told of their regions that is newer than what they have applied: whom to ask.
    heard: BTreeMap<RegionId, Arc<RegionDescriptor>>,
    /// For the applier, before anything else of this turn.
    tasks: Vec<ApplyTask<R>>,
    /// Removals that could not be carried out: the applier is asked again with the next round.
    put_off: Vec<ApplyTask<R>>,
    adopts: Vec<Adopt>,
}

struct Creating {
    replica: ReplicaId,
    descriptor: Arc<RegionDescriptor>,
    messages: Vec<(StoreId, Message)>,
    /// Until when it is waited for the split that has made its state: a vote that its leader asks for as soon as it has split
    /// comes to a store that is about to, and is asked for only once.
    adopted_by: Option<Time>,
}

impl Creating {
    fn is_given_up(&self, now: Time) -> bool {
        self.adopted_by.is_some_and(|until| until <= now)
    }
}

impl<R> Default for Lifecycle<R> {
    fn default() -> Self {
        Self {
            residue: Residue::default(),
            creating: BTreeMap::new(),
            removing: BTreeMap::new(),
            doomed: Vec::new(),
            heard: BTreeMap::new(),
            tasks: Vec::new(),
            put_off: Vec::new(),
            adopts: Vec::new(),
        }
    }
}

impl<R> Worker<R> {
    /// Takes over what the start found of replicas without state; before the first turn.
    #[must_use]
    pub fn with_residue(mut self, residue: Residue) -> Self {
        for &region in &residue.leftovers {
            let hard_state = residue.orphans.get(&region).copied();
            self.remove_records(region, hard_state);
        }
        self.lives.residue = residue;
        self
    }

    /// A message for a region that has no replica here, or one of a lower id without state.
    pub(super) fn on_stranger(
        &mut self,
        now: Time,
        from: StoreId,
        region: RegionId,
        message: Message,
        descriptor: Option<Arc<RegionDescriptor>>,
    ) {
        let Some(descriptor) = descriptor.filter(|descriptor| descriptor.id == region) else {
            return;
        };
        // What a peer says is checked: it speaks for a replica of its own, to one of this store.
        let speaks = descriptor.replica(message.from).is_some_and(|replica| replica.store == from);
        let heard = descriptor.replica(message.to).is_some_and(|replica| replica.store == self.config.store);
        let creates = matches!(message.body, Body::PreVote { .. } | Body::Vote { .. } | Body::Append { .. });
        if !speaks || !heard || !creates {
            return;
        }
        if let Some(tombstone) = self.lives.residue.tombstones.get(&region)
            && tombstone.forbids(message.to)
        {
            // Whoever speaks so is behind; it may be gone itself.
            let merged = tombstone.cause == Cause::Merged;
            let newer = tombstone.descriptor.epoch.conf_version > descriptor.epoch.conf_version;
            let (descriptor, committed) = (Arc::clone(&tombstone.descriptor), tombstone.committed);
            if merged || newer || descriptor.replica(message.from).is_none() {
                self.say_of_region(from, region, RegionStep::Tell { descriptor, merged, committed });
            }
            return;
        }
        if self.tell_aside(region, &descriptor, Default::default()) {
            return;
        }
        let is_new = !self.is_here(region);
        if self.lives.removing.contains_key(&region) || (is_new && self.lives.residue.bars(region, message.to)) {
            return;
        }
        let replica = message.to;
        if self.lives.creating.len() >= CREATING_MAX {
            self.lives.creating.retain(|_, creating| !creating.is_given_up(now));
        }
        let has_room = self.lives.creating.len() < CREATING_MAX;
        match self.lives.creating.get_mut(&region).filter(|creating| !creating.is_given_up(now)) {
            Some(creating) if creating.replica == replica && creating.messages.len() < KEPT_MESSAGES => {
                creating.messages.push((from, message));
            }
            Some(_) => {}
            None if has_room => {
                let creating = Creating { replica, descriptor, messages: vec![(from, message)], adopted_by: None };
                self.lives.creating.insert(region, creating);
                self.lives.tasks.push(ApplyTask::Create { region, replica });
            }
            None => {}
        }
    }

    /// A replica may have lost records: it takes no part any more, and does not come to life again.
    pub(super) fn on_damaged(&mut self, region: RegionId) {
        if let Some(key) = self.any_slot(region) {
            let replica = self.region(key).group.id();
            let known = Arc::clone(self.region(key).descriptor());
            self.lives.residue.suspects.insert(region, replica);
            // One without a state leaves nothing to be removed.
            if self.region(key).initialised {
                self.lives.residue.held.insert(region, known);
            }
        }
        self.remove_region(region);
    }

    /// A leader's heartbeat for a replica that is not here: what was to make it has been lost, or came too early. The leader is
    /// asked, and begins again with this replica.
    pub(super) fn on_beat_of_stranger(&mut self, from: StoreId, region: RegionId, replica: ReplicaId) {
        let is_coming = self.lives.creating.contains_key(&region) || self.lives.removing.contains_key(&region);
        if let Some(tombstone) = self.tombstone(region).filter(|tombstone| tombstone.forbids(replica)) {
            // It may lead a region that went on without it: nobody answers its heartbeats, and without a check of its quorum it
            // would never ask.
            let merged = tombstone.cause == Cause::Merged;
            let (descriptor, committed) = (Arc::clone(&tombstone.descriptor), tombstone.committed);
            return self.say_of_region(from, region, RegionStep::Tell { descriptor, merged, committed });
        }
        if !is_coming && !self.lives.residue.bars(region, replica) {
            self.say_of_region(from, region, RegionStep::Ask { replica, epoch: RegionEpoch::default() });
        }
        self.say_lost(from, region, replica);
    }

    /// The applier has decided whether a replica may come to be (C1).
    pub(super) fn on_created(&mut self, now: Time, region: RegionId, replica: ReplicaId, allowed: bool) {
        let Some(creating) = self.lives.creating.remove(&region).filter(|creating| creating.replica == replica) else {
            return;
        };
        let earlier = self.any_slot(region);
        let is_here = earlier.is_some_and(|key| self.region(key).group.id() >= replica);
        let is_gone = self.tombstone(region).is_some_and(|tombstone| tombstone.forbids(replica));
        if !allowed && earlier.is_none() && !is_gone && !self.lives.residue.bars(region, replica) {
            // Its state is there, or that of a later one.
            let adopted_by = Some(now.plus(ADOPTED_WITHIN));
            self.lives.creating.insert(region, Creating { adopted_by, ..creating });
            return;
        }
        if allowed && !is_here {
            if let Some(key) = earlier {
                if self.region(key).initialised {
                    return;
                }
                self.keep_promises(key);
                self.remove_region(region);
            }
            let hard_state = self.lives.residue.orphans.remove(&region).unwrap_or_default();
            self.add_without_state(now, creating.descriptor, replica, hard_state);
            self.counters.replicas_created += 1;
        }
        for (from, message) in creating.messages {
            self.handle_raft(now, from, region, message, None);
        }
    }

    /// What a replica has promised outlives it: whatever replica of the region comes next on this store, earlier or later by
    /// name, keeps its term and vote. That is more caution than it owes, and makes it needless to note whose vote it was.
    pub(super) fn keep_promises(&mut self, key: SlotKey) {
        let region = self.region(key);
        let hard_state = HardState { commit: multiraft_raft::LogIndex::ZERO, ..region.group.hard_state() };
        self.lives.residue.orphans.insert(region.id(), hard_state);
    }

    /// A replica's entries leave the log; a later replica may come once that is durable.
    fn remove_records(&mut self, region: RegionId, hard_state: Option<HardState>) {
        self.early_records.push(GroupRecord { region, log: LogChange::Remove, hard_state: None });
        if hard_state.is_some() {
            self.early_records.push(GroupRecord { region, log: LogChange::None, hard_state });
        }
        let ticket = self.flush.next_ticket().seq;
        self.lives.removing.insert(region, Some(ticket));
    }

    fn add_without_state(
        &mut self,
        now: Time,
        descriptor: Arc<RegionDescriptor>,
        replica: ReplicaId,
        hard_state: HardState,
    ) {
        let start = RegionStart {
            descriptor: Arc::clone(&descriptor),
            hard_state,
            log: LogSummary::default(),
            applied: LogIndex::ZERO,
            applied_term: Term::ZERO,
            installed: false,
            merge: MergeState::default(),
        };
        self.insert_region(now, &start, replica, false);
        let task = ApplyTask::Register { descriptor, index: start.applied, term: start.applied_term };
        self.lives.tasks.push(task);
    }

    /// A split made this region here (C4): its first state is durable.
    pub(super) fn on_adopt(&mut self, now: Time, adopt: Adopt) {
        let Adopt { descriptor, campaign } = adopt;
        let region = descriptor.id;
        let Some(own) = descriptor.replica_on(self.config.store).map(|replica| replica.id) else {
            return;
        };
        if self.lives.residue.lacks(region, own) {
            tracing::error!(%region, "a child's replica is kept out of service: the log may have lost its vote");
            return self.set_child_aside(descriptor);
        }
        let is_gone = self.tombstone(region).is_some_and(|tombstone| tombstone.forbids(own));
        if is_gone || self.lives.removing.contains_key(&region) {
            // It was removed before this store had split; what the split has made goes, or has gone, with it.
            return;
        }
        let key = match self.any_slot(region) {
            Some(key) if self.region(key).initialised || self.region(key).group.id() != own => return,
            Some(key) => {
                // A vote that was given is kept.
                let membership = Membership::from_replicas(&descriptor.replicas);
                let here = self.region_mut(key);
                here.initialised = true;
                here.set_descriptor(Arc::clone(&descriptor));
                here.group.restore(now, FIRST_INDEX, FIRST_TERM, membership);
                here.durable = FIRST_INDEX;
                key
            }
            None => {
                let start = RegionStart {
                    descriptor: Arc::clone(&descriptor),
                    hard_state: self.lives.residue.orphans.remove(&region).unwrap_or_default(),
                    log: LogSummary::default(),
                    applied: FIRST_INDEX,
                    applied_term: FIRST_TERM,
                    installed: true,
                    merge: MergeState::default(),
                };
                self.add_region(now, &start);
                let Some(key) = self.any_slot(region) else { return };
                key
            }
        };
        let task = ApplyTask::Register { descriptor: Arc::clone(&descriptor), index: FIRST_INDEX, term: FIRST_TERM };
        self.lives.tasks.push(task);
        self.notices.push(Notice::Descriptor(descriptor));
        let others_turn = now.plus(self.config.raft.heartbeat_interval);
        let here = self.region_mut(key);
        if !campaign {
            here.settled = others_turn;
        } else if here.group.leader().is_none() && here.group.term() <= FIRST_TERM {
            // In a later term it may have voted for another replica, which leads by now or is about to.
            here.group.campaign(now);
        }
        self.touch(key);
        if let Some(creating) = self.lives.creating.remove(&region) {
            if creating.adopted_by.is_none() {
                // The applier has still to answer, and what waits goes on then.
                self.lives.creating.insert(region, creating);
                return;
            }
            for (from, message) in creating.messages {
                self.handle_raft(now, from, region, message, None);
            }
        }
    }

    /// A split was applied: the children go to their workers, the parent goes on with what is left to it.
    pub(super) fn on_split(&mut self, key: Option<SlotKey>, split: SplitDone) {
        self.counters.splits += 1;
        let leads = key.is_some_and(|key| self.region(key).group.is_leader());
        if let Some(key) = key {
            self.region_mut(key).set_descriptor(Arc::clone(&split.parent));
        }
        let mut parts = vec![split.parent];
        for (child, adopted) in split.children {
            if adopted {
                self.lives.adopts.push(Adopt { descriptor: Arc::clone(&child), campaign: leads });
            }
            parts.push(child);
        }
        self.notices.push(Notice::Split(parts));
    }

    /// The configuration of a replica was applied: whoever it leaves out is told, and goes if it is this one (G1).
    pub(super) fn on_members(
        &mut self,
        key: SlotKey,
        index: LogIndex,
        before: &RegionDescriptor,
        after: &Arc<RegionDescriptor>,
    ) {
        let region = self.region(key);
        let (id, own, leads) = (region.id(), region.group.id(), region.group.is_leader());
        let committed = self.position(key, index);
        if leads {
            let gone = before.replicas.iter().filter(|replica| after.replica(replica.id).is_none());
            let stores: Vec<StoreId> = gone.map(|replica| replica.store).collect();
            let own_store = self.config.store;
            for store in stores.into_iter().filter(|store| *store != own_store) {
                let step = RegionStep::Tell { descriptor: Arc::clone(after), merged: false, committed };
                self.say_of_region(store, id, step);
            }
        }
        if after.replica(own).is_none() {
            self.lives.doomed.push((key, Arc::clone(after), committed));
        }
    }

    /// An entry of a replica's log, by index and term; zeros if it is not known any more.
    fn position(&self, key: SlotKey, index: LogIndex) -> (LogIndex, Term) {
        self.region(key).group.term_at(index).map_or_else(Default::default, |term| (index, term))
    }

    /// The last entry that a replica has applied.
    pub(super) fn committed_of(&self, key: SlotKey) -> (LogIndex, Term) {
        self.position(key, self.region(key).group.applied_index())
    }

    /// What another store says of a region.
    pub(super) fn handle_region_message(&mut self, now: Time, from: StoreId, message: RegionMessage) {
        let RegionMessage { region, step } = message;
        match step {
            RegionStep::Ask { replica, epoch } => self.handle_ask(now, from, region, replica, epoch),
            RegionStep::Tell { descriptor, merged, committed } => {
                if descriptor.id == region && !self.tell_aside(region, &descriptor, committed) {
                    self.handle_told(now, descriptor, merged, committed);
                }
            }
            RegionStep::NotLed { replica, to, term } => {
                let answer = Message { from: replica, to, term, body: Body::Release };
                self.on_answer_for_the_gone(now, from, region, answer);
            }
            RegionStep::NotPromised { replica, to, term } => {
                let answer = Message { from: replica, to, term, body: Body::Released };
                self.on_answer_for_the_gone(now, from, region, answer);
            }
            RegionStep::AskFrozen { index } => self.handle_ask_frozen(from, region, index),
            RegionStep::NeedSnapshot { replica, index } => self.handle_need(from, region, replica, index),
            RegionStep::BegunAnew { above } => self.peers.on_begun_anew(from, above),
            RegionStep::IsFrozen { replica, index } => self.handle_is_frozen(now, from, region, replica, index),
            RegionStep::AskDigest { index } => self.handle_ask_digest(from, region, index),
            RegionStep::Digest { replica, index, answer } => {
                self.handle_digest(from, region, (replica, index), &answer);
            }
        }
    }

    fn handle_ask(&mut self, now: Time, from: StoreId, region: RegionId, replica: ReplicaId, epoch: RegionEpoch) {
        if let Some(key) = self.slot_of(region) {
            let here = self.region_mut(key);
            let is_new = here.group.match_index(replica) == Some(multiraft_raft::LogIndex::ZERO);
            if here.group.is_leader() && here.store_of(replica) == Some(from) && is_new {
                here.group.on_peer_unreachable(now, replica);
                return self.touch(key);
            }
            if here.group.match_index(replica).is_some() {
                // A member that hears nothing: a leader that rests has lost its promise.
                self.wake_leader(now, key);
            }
        }
        let known = self.slot_of(region);
        let known = known.map(|key| (Arc::clone(self.region(key).descriptor()), false, self.committed_of(key)));
        let known = known.or_else(|| {
            let tombstone = self.lives.residue.tombstones.get(&region)?;
            Some((Arc::clone(&tombstone.descriptor), tombstone.cause == Cause::Merged, tombstone.committed))
        });
        let Some((descriptor, merged, committed)) = known else { return };
        if merged || descriptor.epoch.conf_version > epoch.conf_version {
            self.say_of_region(from, region, RegionStep::Tell { descriptor, merged, committed });
        }
    }

    fn handle_told(&mut self, now: Time, descriptor: Arc<RegionDescriptor>, merged: bool, committed: (LogIndex, Term)) {
        let region = descriptor.id;
        let Some(key) = self.any_slot(region) else {
            // One that is out of service is here all the same.
            if descriptor.replica_on(self.config.store).is_none() && self.held(region).is_none() {
                self.push_apply(ApplyTask::Elsewhere { descriptor });
            }
            return;
        };
        // That its region was absorbed is for a replica that belongs to it no reason to go: its keys are still to be taken over.
        if merged && descriptor.replica(self.region(key).group.id()).is_some() {
            return self.on_told_absorbed(now, key, &descriptor);
        }
        self.handle_tell(region, descriptor, merged, committed);
    }

    fn handle_tell(
        &mut self,
        region: RegionId,
        descriptor: Arc<RegionDescriptor>,
        merged: bool,
        committed: (LogIndex, Term),
    ) {
        let Some(key) = self.any_slot(region) else { return };
        let here = self.region_mut(key);
        if descriptor.epoch.conf_version <= here.descriptor().epoch.conf_version {
            return;
        }
        if descriptor.replica(here.group.id()).is_none() {
            self.lives.doomed.push((key, descriptor, committed));
            return;
        }
        if merged {
            // It was a replica of the region to the end: its keys are still to be taken over here (G2, G3).
            return;
        }
        // It belongs to the region still, and is behind. If it holds what is committed, it goes on by itself; if not, those
        // that this descriptor names know more than those that its own does.
        if here.group.learn_committed(committed.0, committed.1) {
            self.touch(key);
        }
        let heard = self.lives.heard.entry(region).or_insert_with(|| Arc::clone(&descriptor));
        if heard.epoch.conf_version < descriptor.epoch.conf_version {
            *heard = descriptor;
        }
    }

    pub(super) fn say_of_region(&mut self, to: StoreId, region: RegionId, step: RegionStep) {
        self.peers.entry(to).push(LaneKind::Control, PeerMessage::Region(RegionMessage { region, step }));
    }

    /// A message of a later replica's leader reached an earlier one: that one was removed meanwhile.
    pub(super) fn on_successor(&mut self, region: RegionId, descriptor: Option<Arc<RegionDescriptor>>) {
        if let Some(descriptor) = descriptor.filter(|descriptor| descriptor.id == region) {
            self.handle_tell(region, descriptor, false, Default::default());
        }
    }

    /// Removes the replicas that are to go. Once a round: what they had to say has left by now.
    pub(super) fn remove_doomed(&mut self) {
        self.lives.tasks.append(&mut self.lives.put_off);
        for (key, known, committed) in std::mem::take(&mut self.lives.doomed) {
            let Some(region) = self.regions.get_mut(key).map(|region| region.id()) else { continue };
            if self.lives.creating.get(&region).is_some_and(|creating| creating.adopted_by.is_none()) {
                // The applier has been asked for a later replica, which takes this one's place if it may come to be. Removed behind its
                // back, this one would leave a tombstone with that replica's name.
                self.lives.doomed.push((key, known, committed));
                continue;
            }
            self.keep_promises(key);
            self.remove_region(region);
            self.lives.removing.insert(region, None);
            self.counters.replicas_removed += 1;
            self.notices.push(Notice::Removed { region, known: Arc::clone(&known) });
            self.lives.heard.remove(&region);
            self.lives.tasks.push(ApplyTask::Destroy { region, known, cause: Cause::Removed, committed });
        }
    }

    /// A state without a replica here was found at the start: the end came between its removal and what follows that.
    pub(super) fn finish_removal(&mut self, start: &RegionStart) {
        let (region, known) = (start.descriptor.id, Arc::clone(&start.descriptor));
        self.lives.removing.insert(region, None);
        let committed = (start.applied, start.applied_term);
        self.lives.tasks.push(ApplyTask::Destroy { region, known, cause: Cause::Removed, committed });
    }

    /// A replica's state is durably gone: now its log and hard state go.
    pub(super) fn on_destroyed(&mut self, destroyed: Destroyed) {
        let Destroyed { region, known, committed, tombstone } = destroyed;
        let Some(tombstone) = tombstone else {
            let task = ApplyTask::Destroy { region, known, cause: Cause::Removed, committed };
            return self.lives.put_off.push(task);
        };
        self.lives.residue.tombstones.insert(region, tombstone);
        let hard_state = self.lives.residue.orphans.get(&region).copied();
        self.remove_records(region, hard_state);
        self.clear_aside(region);
    }

    /// A replica is out of service, with its state.
    pub(super) fn set_aside(&mut self, region: RegionId, replica: ReplicaId, known: Arc<RegionDescriptor>) {
        let newest = self.lives.residue.suspects.entry(region).or_default();
        *newest = replica.max(*newest);
        self.lives.residue.held.insert(region, known);
    }

    /// A replica that was out of service is gone; its tombstone says what may come after it.
    fn clear_aside(&mut self, region: RegionId) {
        if self.lives.residue.held.remove(&region).is_some() {
            self.lives.residue.suspects.remove(&region);
            self.notices.push(Notice::Cleared { region });
        }
    }

    /// What is known of a region whose replica here is out of service.
    pub(super) fn held(&self, region: RegionId) -> Option<&Arc<RegionDescriptor>> {
        self.lives.residue.held.get(&region)
    }

    /// All of those.
    pub(super) fn all_held(&self) -> Vec<(RegionId, Arc<RegionDescriptor>)> {
        self.lives.residue.held.iter().map(|(region, held)| (*region, Arc::clone(held))).collect()
    }

    /// Whether a replica's state may be removed now; if so, it is being removed from now on.
    pub(super) fn begin_removal(&mut self, region: RegionId) -> bool {
        let is_new = !self.lives.removing.contains_key(&region);
        if is_new {
            self.lives.removing.insert(region, None);
        }
        is_new
    }

    /// What is left of a replica of this region that was here.
    pub(super) fn tombstone(&self, region: RegionId) -> Option<&Tombstone> {
        self.lives.residue.tombstones.get(&region)
    }

    /// A replica is gone for good, and so is its region: all its records leave the log with this turn.
    pub(super) fn note_tombstone(&mut self, tombstone: Tombstone) {
        let region = tombstone.descriptor.id;
        self.lives.residue.tombstones.insert(region, tombstone);
        self.lives.residue.orphans.remove(&region);
        self.remove_records(region, None);
        self.clear_aside(region);
    }

    /// For the applier, before anything else of this turn.
    pub(super) fn push_apply(&mut self, task: ApplyTask<R>) {
        self.lives.tasks.push(task);
    }

    /// The log is durable up to a ticket: replicas whose records went with it may have successors.
    pub(super) fn on_removals_durable(&mut self, upto: u64) {
        if !self.lives.removing.is_empty() {
            self.lives.removing.retain(|_, ticket| ticket.is_none_or(|ticket| ticket > upto));
        }
    }

    /// The newest that a replica was told of its region, if that is newer than what it has applied.
    pub(super) fn heard_of(&self, region: RegionId) -> Option<&Arc<RegionDescriptor>> {
        self.lives.heard.get(&region)
    }

    /// Hands over what this turn wants of the applier before all else, and the children for other workers.
    pub(super) fn drain_lives(&mut self, apply: &mut Vec<ApplyTask<R>>, adopts: &mut Vec<Adopt>) {
        apply.append(&mut self.lives.tasks);
        adopts.append(&mut self.lives.adopts);
    }
}
