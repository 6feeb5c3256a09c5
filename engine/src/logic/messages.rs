//! Raft messages in and out: from region and replica to store and lane, and back.

use std::sync::Arc;

use multiraft_raft::{
    AppendOutcome, Body, Event, LogIndex, Message, RegionDescriptor, RegionEpoch, RegionId, ReplicaId, Role, StoreId,
    Term, Time,
};
use multiraft_router::SlotKey;
use multiraft_transport::{Beat, BeatReply, PeerMessage, RaftMessage, RegionStep};

use crate::logic::ahead::AHEAD;
use crate::logic::upkeep::{SETTLE, SETTLE_AFTER_ABORT};
use crate::logic::worker::Worker;
use crate::logic::{LaneKind, Notice, Outcome};
use crate::region::command::Command;

impl<R> Worker<R> {
    /// What a peer sent, in order.
    pub(super) fn handle_messages(&mut self, now: Time, from: StoreId, messages: Vec<PeerMessage>) {
        if from != self.config.store {
            self.peers.entry(from).heard = now;
        }
        let reads_ahead = self.reads_ahead();
        let mut messages = messages.into_iter();
        while !messages.as_slice().is_empty() {
            if reads_ahead {
                self.read_ahead_for_messages(messages.as_slice());
            }
            messages.by_ref().take(AHEAD).for_each(|message| self.handle_message(now, from, message));
        }
    }

    fn handle_message(&mut self, now: Time, from: StoreId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(raft) => self.handle_raft(now, from, raft.region, raft.message, raft.descriptor),
            PeerMessage::Beats(beats) => {
                for beat in beats.beats {
                    self.handle_beat(now, from, beat);
                }
            }
            PeerMessage::BeatReplies(replies) => {
                for reply in replies.replies {
                    self.handle_beat_reply(now, from, reply);
                }
            }
            PeerMessage::Forward(forward) => self.handle_forward(now, from, forward),
            PeerMessage::ForwardReply(reply) => {
                // A late answer of this store to itself: nothing else is asked so.
                if !self.on_merge_reply(now, &reply) && from != self.config.store {
                    self.handle_forward_reply(from, reply);
                }
            }
            PeerMessage::Snapshot(snapshot) => self.handle_snapshot(now, from, snapshot),
            PeerMessage::Region(about) => self.handle_region_message(now, from, about),
            // For the store as a whole: what comes of it are news of support.
            PeerMessage::Support(_) => {}
        }
    }

    /// A heartbeat. Most change nothing: they are answered here, without a step of the group.
    fn handle_beat(&mut self, now: Time, from: StoreId, beat: Beat) {
        let Some(region) = self.any_slot(beat.region).and_then(|key| self.regions.get_mut(key)) else {
            return self.on_beat_of_stranger(from, beat.region, beat.to);
        };
        let is_own = beat.to == region.group.id() && region.store_of(beat.from) == Some(from) && !region.touched;
        if is_own && region.group.absorb_heartbeat(now, beat.from, beat.term, beat.commit) {
            let Beat { region, from: leader, to: own, term, round, .. } = beat;
            self.peers.entry(from).push_beat_reply(BeatReply { region, from: own, to: leader, term, round });
            return self.on_leader_spoke(now, region, from);
        }
        let body = Body::Heartbeat { commit: beat.commit, round: beat.round };
        self.handle_raft(now, from, beat.region, beat_message(beat.from, beat.to, beat.term, body), None);
    }

    /// An answer to a heartbeat, likewise.
    fn handle_beat_reply(&mut self, now: Time, from: StoreId, reply: BeatReply) {
        let Some(region) = self.any_slot(reply.region).and_then(|key| self.regions.get_mut(key)) else {
            return;
        };
        let is_own = reply.to == region.group.id() && region.store_of(reply.from) == Some(from) && !region.touched;
        if is_own && region.group.absorb_heartbeat_reply(now, reply.from, reply.term, reply.round) {
            return;
        }
        let body = Body::HeartbeatReply { round: reply.round };
        self.handle_raft(now, from, reply.region, beat_message(reply.from, reply.to, reply.term, body), None);
    }

    /// A message for a group. Dropped unless it is for the replica that lives here and comes from the store that the
    /// sending replica lives on: ids are never reused, so what fails this is late or lost its way.
    pub(super) fn handle_raft(
        &mut self,
        now: Time,
        from: StoreId,
        region: RegionId,
        message: Message,
        descriptor: Option<Arc<RegionDescriptor>>,
    ) {
        let Some(key) = self.any_slot(region) else {
            self.answer_for_the_gone(from, region, &message);
            self.answer_for_the_lost(from, region, &message);
            return self.on_stranger(now, from, region, message, descriptor);
        };
        let here = self.region(key);
        let own = here.group.id();
        if message.to != own {
            let is_initialised = here.initialised;
            self.answer_for_the_gone(from, region, &message);
            self.answer_for_the_lost(from, region, &message);
            if message.to < own {
                self.tell_leader_that_is_gone(from, key, &message);
            }
            return match (message.to > own, is_initialised) {
                (true, true) => self.on_successor(region, descriptor),
                (true, false) => self.on_stranger(now, from, region, message, descriptor),
                (false, _) => {}
            };
        }
        if here.store_of(message.from).is_some_and(|store| store != from) {
            return;
        }
        if message.body == Body::TimeoutNow && self.settle_offer(now, key, from, &message) {
            return;
        }
        if self.is_barred(key, from, &message) {
            return;
        }
        if let Body::Append { entries, .. } = &message.body
            && entries.iter().any(|entry| Command::is_bare(&entry.data))
            && self.region(key).role_of(message.to) != Some(Role::Witness)
        {
            tracing::error!(%region, %from, "entries without their commands came for a replica that holds data: dropped");
            return;
        }
        self.tell_candidate_that_is_gone(from, key, &message, descriptor.as_deref());
        let here = self.region_mut(key);
        here.note_speaker(message.from, from);
        if let Body::AppendReply(AppendOutcome::Accepted { match_index }) = message.body
            && !here.touched
            && here.group.absorb_accepted(now, message.from, message.term, match_index)
        {
            return;
        }
        let fortifies = if let Body::Fortify { epoch } = message.body { Some(epoch) } else { None };
        here.group.handle_message(now, message);
        if let Some(epoch) = fortifies {
            self.register_promise(key, from, epoch);
        }
        self.touch(key);
        self.on_leader_spoke(now, region, from);
    }

    /// Who asks for votes on the strength of a configuration that is past, and is no member of the one that is applied here, was
    /// removed and does not know. Other regions may wait for the place that it takes on its store.
    fn tell_candidate_that_is_gone(
        &mut self,
        from: StoreId,
        key: SlotKey,
        message: &Message,
        its: Option<&RegionDescriptor>,
    ) {
        if !matches!(message.body, Body::PreVote { .. } | Body::Vote { .. }) {
            return;
        }
        let region = self.region(key);
        let own = region.descriptor();
        let is_gone = its.is_some_and(|its| its.id == own.id && its.epoch.conf_version < own.epoch.conf_version)
            && own.replica(message.from).is_none();
        if region.initialised && is_gone {
            let (id, descriptor, committed) = (own.id, Arc::clone(own), self.committed_of(key));
            self.say_of_region(from, id, RegionStep::Tell { descriptor, merged: false, committed });
        }
    }

    /// Who leads an earlier replica of this store, and is no member of the configuration that is applied here, was removed as well and
    /// does not know: nobody answers its heartbeats, and without a check of its quorum it would never ask.
    fn tell_leader_that_is_gone(&mut self, from: StoreId, key: SlotKey, message: &Message) {
        if !matches!(message.body, Body::Heartbeat { .. } | Body::Fortify { .. } | Body::Append { .. }) {
            return;
        }
        let region = self.region(key);
        let own = region.descriptor();
        if region.initialised && own.replica(message.from).is_none() {
            let (id, descriptor, committed) = (own.id, Arc::clone(own), self.committed_of(key));
            self.say_of_region(from, id, RegionStep::Tell { descriptor, merged: false, committed });
        }
    }

    /// Leadership is offered to a store that takes none, or an offer has come back: a store that takes none sends it back. Says
    /// whether that was so.
    fn settle_offer(&mut self, now: Time, key: SlotKey, from: StoreId, offer: &Message) -> bool {
        // What this store gives away it does not take back.
        let takes_none = self.upkeep.takes_none() || !self.supports.may_vote();
        let group = &mut self.region_mut(key).group;
        let (own, term) = (group.id(), group.term());
        if group.is_leader() {
            if offer.term == term && group.on_transfer_refused(offer.from) {
                self.peers.entry(from).on_refused(now);
                self.upkeep.hurry();
                self.touch(key);
            }
            return true;
        }
        // Only a leader is answered: between two that take none, nothing goes to and fro.
        if takes_none && offer.term == term && group.leader() == Some(offer.from) {
            let refusal = Message { from: own, to: offer.from, term, body: Body::TimeoutNow };
            self.send_raft(key, refusal);
        }
        takes_none
    }

    /// Sends a group's message, or puts it with the heartbeats.
    pub(super) fn send_raft(&mut self, key: SlotKey, message: Message) {
        let region = self.region_mut(key);
        let id = region.id();
        let Some(to) = region.store_of(message.to) else {
            return;
        };
        let is_witness = region.has_witness && region.role_of(message.to) == Some(Role::Witness);
        // A heartbeat that opens a read round does not wait for the interval.
        let mut opens_round = false;
        if let Body::Heartbeat { round, .. } = message.body {
            opens_round = round > region.round_told;
            region.round_seen = region.round_seen.max(round);
        }
        // Who may not know the region is told what it is: a replica is created only on the strength of that (C1).
        let descriptor = match message.body {
            Body::PreVote { .. } | Body::Vote { .. } => Some(region.descriptor().clone()),
            Body::Append { .. } if region.group.match_index(message.to) == Some(LogIndex::ZERO) => {
                Some(region.descriptor().clone())
            }
            _ => None,
        };
        let (now, silence) = (self.now, self.config.raft.election_timeout_min);
        let peer = self.peers.entry(to);
        // What is not sent counts as lost, as it would be.
        if peer.is_dead(now, silence) {
            return;
        }
        match message.body {
            Body::Heartbeat { commit, round } => {
                let (from, to, term) = (message.from, message.to, message.term);
                peer.push_beat(Beat { region: id, from, to, term, commit, round }, opens_round);
            }
            Body::HeartbeatReply { round } => peer.push_beat_reply(BeatReply {
                region: id,
                from: message.from,
                to: message.to,
                term: message.term,
                round,
            }),
            Body::Append { prev_index, prev_term, commit, mut entries } => {
                if is_witness {
                    entries = entries.into_iter().map(Command::bared).collect();
                }
                let body = Body::Append { prev_index, prev_term, commit, entries };
                let message = Message { body, ..message };
                peer.push(LaneKind::Append, PeerMessage::Raft(RaftMessage { region: id, message, descriptor }));
            }
            _ => peer.push(LaneKind::Control, PeerMessage::Raft(RaftMessage { region: id, message, descriptor })),
        }
    }

    /// Tells a leading group of the links that were lost since it was last here, before it produces anything.
    pub(super) fn tell_lost_links(&mut self, now: Time, key: SlotKey) {
        let generation = self.peers.generation();
        let (regions, peers) = (&mut self.regions, &self.peers);
        let Some(region) = regions.get_mut(key).filter(|region| region.link_mark != generation) else {
            return;
        };
        let mark = std::mem::replace(&mut region.link_mark, generation);
        if !region.group.is_leader() {
            return;
        }
        let descriptor = region.descriptor().clone();
        for replica in &descriptor.replicas {
            if peers.lost_since(replica.store, mark) {
                region.group.on_peer_unreachable(now, replica.id);
            }
        }
    }

    /// Keeps a leading group from producing appends for lanes that are full, and lets it go on where they are not.
    pub(super) fn pause_full_lanes(&mut self, key: SlotKey) {
        let (regions, peers) = (&mut self.regions, &self.peers);
        let Some(region) = regions.get_mut(key).filter(|region| region.group.is_leader()) else {
            return;
        };
        if !region.paused && !peers.any_lane_full() {
            return;
        }
        let descriptor = region.descriptor().clone();
        region.paused = false;
        for replica in &descriptor.replicas {
            if peers.is_lane_full(replica.store) {
                region.group.pause_peer(replica.id);
                region.paused = true;
            } else {
                region.group.resume_peer(replica.id);
            }
        }
        if region.paused && !region.listed_paused {
            region.listed_paused = true;
            self.paused.push(key);
        }
    }

    /// A lane has room again: the groups that waited for it go on, some in each turn.
    pub(super) fn on_lane_ready(&mut self, peer: StoreId) {
        self.peers.entry(peer).lane_full = false;
        self.peers.count_full();
        let waiting = std::mem::take(&mut self.paused);
        for key in waiting {
            if let Some(region) = self.regions.get_mut(key) {
                region.listed_paused = false;
                self.touch(key);
            }
        }
    }

    /// What a group has to tell those who watch.
    pub(super) fn on_event(&mut self, key: SlotKey, event: Event) {
        if let Event::RoleChanged { role, .. } = event {
            self.on_role(key, role);
        }
        match event {
            Event::RoleChanged { role: multiraft_raft::RoleKind::Leader, .. } => {
                self.counters.elections_won += 1;
                let settled = self.now.plus(SETTLE);
                let region = self.region_mut(key);
                region.settled = settled;
                // Whatever it inherited may be a change of the region.
                region.admin_barrier = region.group.last_index();
            }
            Event::LeaderChanged { leader, term } => {
                let region = self.region(key);
                let leader = leader.and_then(|replica| region.store_of(replica));
                // A leader learns of its own election at the end of the turn that won it: a transfer may have begun since.
                let (id, is_begun) = (region.id(), region.group.is_transferring());
                self.notices.push(Notice::Leader { region: id, term, leader });
                if leader.is_some() {
                    if !is_begun {
                        self.on_transfer_over(key, leader);
                    }
                    self.serve_parked(self.now, id);
                }
            }
            // The target may have been asked already, and may still win.
            Event::TransferAborted { .. } => {
                let settled = self.now.plus(SETTLE_AFTER_ABORT);
                self.region_mut(key).settled = settled;
                self.upkeep.on_handed_over(self.now, false);
                self.on_transfer_over(key, None);
            }
            Event::TransferDone { .. } => self.upkeep.on_handed_over(self.now, true),
            _ => {}
        }
    }

    /// A caller asks for another leader.
    pub(super) fn handle_transfer(&mut self, now: Time, region: RegionId, to: StoreId, reply: R) {
        let slot = self.slot_of(region);
        if let Some(key) = slot.filter(|key| self.region(*key).group.is_leader()) {
            return self.transfer_here(now, key, to, crate::logic::ReplyTo::Caller(reply));
        }
        let name = (region, RegionEpoch::default());
        let request = multiraft_transport::ForwardRequest::Transfer { to };
        self.forward_on(now, slot, name, request, crate::logic::forward::ForwardKind::Transfer(reply));
    }

    /// Starts a transfer of a region that is led here; answered when leadership has moved or the transfer was given up.
    pub(super) fn transfer_here(&mut self, now: Time, key: SlotKey, to: StoreId, reply: crate::logic::ReplyTo<R>) {
        let refuse = |reason: String| Outcome::Refused { reason };
        if to == self.config.store {
            return self.answer(reply, Outcome::Done);
        }
        let region = self.region_mut(key);
        let region_id = region.id();
        let Some(target) = region.descriptor().replica_on(to).copied() else {
            return self.answer(reply, refuse(format!("store {to} has no replica of region {region_id}")));
        };
        if region.merge.fenced.contains(target.id) {
            return self.answer(reply, refuse(format!("the replica on store {to} is fenced: replace it")));
        }
        if region.busy.as_ref().is_some_and(|waiting| waiting.transfer.is_some()) {
            return self.answer(reply, refuse("another transfer of this region is under way".to_owned()));
        }
        match region.group.transfer_leader(now, target.id) {
            Ok(()) => {
                region.waiting().transfer = Some((to, reply));
                self.touch(key);
            }
            Err(error) => self.answer(reply, refuse(error.to_string())),
        }
    }

    fn on_transfer_over(&mut self, key: SlotKey, leader: Option<StoreId>) {
        let Some((to, reply)) = self.region_mut(key).busy.as_mut().and_then(|waiting| waiting.transfer.take()) else {
            return;
        };
        let outcome = match leader {
            Some(leader) if leader == to => Outcome::Done,
            Some(other) => Outcome::Refused { reason: format!("store {other} was elected instead") },
            None => Outcome::Uncertain,
        };
        self.answer(reply, outcome);
    }
}

fn beat_message(from: ReplicaId, to: ReplicaId, term: Term, body: Body) -> Message {
    Message { from, to, term, body }
}
