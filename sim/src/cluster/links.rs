//! Connections come and go, frames travel: the shell's part of the transport.

use multiraft::logic::{Input, LaneKind, split_by_worker};
use multiraft_raft::StoreId;
use multiraft_transport::{FrameBuilder, Lane, Limits, PeerMessage, decode_frame};

use super::network::{APPEND_FIRST, CONTROL, LIVENESS, Packet};
use super::{Cluster, Event, id_of, place_of};
use crate::random::{digest_of, fold};
use crate::schedule::{MICRO, MILLI, Moment, SECOND};

impl Cluster {
    pub(super) fn plan_dials(&mut self) {
        for link in 0..self.network.count() {
            self.plan_dial(link, 10 * MILLI);
        }
    }

    pub(super) fn plan_dial(&mut self, link: usize, mean: u64) {
        let wait = self.random.around(mean);
        let state = self.network.link(link);
        if !std::mem::replace(&mut state.dialing, true) {
            self.schedule.plan_in(wait, Event::Dial { link });
        }
    }

    /// Tries to connect two stores.
    pub(super) fn on_dial(&mut self, link: usize) {
        let ends = self.network.ends(link);
        let both_run = ends.iter().all(|end| self.nodes[*end].process.is_some());
        let state = self.network.link(link);
        state.dialing = false;
        if state.up {
            return;
        }
        let is_free = state.directions.iter().all(|direction| direction.blocks == 0);
        if !both_run || !is_free || state.known.iter().any(Option::is_some) {
            return self.plan_dial(link, 200 * MILLI);
        }
        state.session += 1;
        state.up = true;
        let session = state.session;
        let now = self.schedule.now();
        for side in 0..2 {
            let up_at = now.plus(self.random.around(2 * MILLI));
            let direction = &mut self.network.link(link).directions[1 - side];
            direction.lost_after = None;
            direction.clear();
            // Frames reach a side only after it has been told of the connection.
            direction.lanes.iter_mut().for_each(|lane| lane.last_arrival = up_at.plus(1));
            self.schedule.plan(up_at, Event::LinkUp { link, side, session });
        }
    }

    pub(super) fn on_link_up(&mut self, link: usize, side: usize, session: u64) {
        let ends = self.network.ends(link);
        let state = self.network.link(link);
        if !state.up || state.session != session {
            return;
        }
        state.known[side] = Some(session);
        let (own, peer) = (ends[side], ends[1 - side]);
        let incarnation = self.nodes[peer].incarnation;
        self.say(|| format!("{} is connected to {}", id_of(own), id_of(peer)));
        self.tell_link(own, peer, Some(incarnation));
    }

    fn tell_link(&mut self, own: usize, peer: usize, up: Option<multiraft_raft::Incarnation>) {
        for worker in 0..self.plan.workers[own] {
            self.input(own, worker, Input::Link { peer: id_of(peer), up });
        }
    }

    /// The connection breaks: what is on its way is lost, but for what arrives in the next moment, and both sides hear of
    /// it at some time up to `late`.
    pub(super) fn break_link(&mut self, link: usize, late: u64) {
        let now = self.schedule.now();
        let state = self.network.link(link);
        if !state.up {
            return;
        }
        state.up = false;
        let session = state.session;
        for side in 0..2 {
            let lost_after = now.plus(self.random.below(10 * MILLI));
            self.network.link(link).directions[side].lost_after = Some(lost_after);
            let down_at = now.plus(self.random.below(late) + 1);
            self.schedule.plan(down_at, Event::LinkDown { link, side, session });
        }
    }

    pub(super) fn on_link_down(&mut self, link: usize, side: usize, session: u64) {
        let ends = self.network.ends(link);
        let state = self.network.link(link);
        if state.session != session || state.up {
            return;
        }
        let was_known = state.known[side].take() == Some(session);
        let lost = state.directions[side].clear() as u64;
        let is_over = state.known.iter().all(Option::is_none);
        self.counters.frames_lost += lost;
        let (own, peer) = (ends[side], ends[1 - side]);
        if was_known && self.nodes[own].process.is_some() {
            self.say(|| format!("{} has lost {}", id_of(own), id_of(peer)));
            self.tell_link(own, peer, None);
            self.lose_questions(own, id_of(peer));
            self.lose_streams(own, peer);
        }
        if is_over {
            self.plan_dial(link, 50 * MILLI);
        }
    }

    /// A store's process is gone: its ends of all connections vanish at once, the others notice later.
    pub(super) fn on_process_gone(&mut self, store: usize) {
        for peer in (0..self.nodes.len()).filter(|peer| *peer != store) {
            let (link, side) = self.network.between(store, peer);
            self.break_link(link, self.plan.latencies.idle_timeout);
            let state = self.network.link(link);
            state.known[side] = None;
            state.directions[side].clear();
        }
    }

    /// Nothing was heard for long: the connection is given up.
    pub(super) fn on_link_idle(&mut self, link: usize, session: u64) {
        let now = self.schedule.now();
        let idle = self.plan.latencies.idle_timeout;
        let ends = self.network.ends(link);
        let is_paused = ends.iter().any(|end| self.nodes[*end].paused_until > now);
        let state = self.network.link(link);
        let is_silent = state.directions.iter().any(|way| way.blocks > 0 && now.since(way.blocked_since) >= idle);
        if state.up && state.session == session && (is_silent || is_paused) {
            self.break_link(link, SECOND / 5);
        }
    }

    /// No packet gets through from one store to another any more, until as many [`Cluster::unblock`] follow.
    pub(super) fn block(&mut self, from: usize, to: usize) {
        let now = self.schedule.now();
        let (link, side) = self.network.between(from, to);
        let state = self.network.link(link);
        let session = state.session;
        let direction = &mut state.directions[side];
        direction.blocks += 1;
        if direction.blocks == 1 {
            direction.blocked_since = now;
        }
        self.watch_link(link, session);
    }

    /// Gives the connection up if it is still silent after the idle timeout.
    pub(super) fn watch_link(&mut self, link: usize, session: u64) {
        self.schedule.plan_in(self.plan.latencies.idle_timeout, Event::LinkIdle { link, session });
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        let (link, side) = self.network.between(from, to);
        let direction = &mut self.network.link(link).directions[side];
        direction.blocks = direction.blocks.saturating_sub(1);
        if direction.blocks > 0 {
            return;
        }
        let held: Vec<Packet> = direction.lanes.iter_mut().flat_map(|lane| lane.held.drain(..)).collect();
        for packet in held {
            self.travel(packet);
        }
    }

    /// Sends messages of a worker on a lane, as one frame, or keeps them while the lane is full.
    pub(super) fn send(&mut self, from: usize, to: StoreId, kind: LaneKind, worker: usize, messages: Vec<PeerMessage>) {
        let number = match kind {
            LaneKind::Liveness => LIVENESS,
            LaneKind::Control => CONTROL,
            LaneKind::Append => APPEND_FIRST + worker,
        };
        let to = place_of(to);
        assert_ne!(from, to, "a store has no connection to itself: {messages:?}");
        let (link, side) = self.network.between(from, to);
        let state = self.network.link(link);
        // Without a connection there is nowhere to send; the worker is told of connections apart, and sends anew.
        let Some(session) = state.known[side] else { return };
        let lane = &mut state.directions[side].lanes[number];
        if kind == LaneKind::Append && (lane.bytes >= self.plan.lane_bytes || !lane.waiting.is_empty()) {
            lane.waiting.push_back(messages);
            lane.told_full = true;
            self.counters.lanes_full += 1;
            self.say(|| format!("the append lane of {}/{worker} to {} is full", id_of(from), id_of(to)));
            return self.input(from, worker, Input::LaneFull { peer: id_of(to) });
        }
        self.dispatch(from, to, session, number, messages);
    }

    fn dispatch(&mut self, from: usize, to: usize, session: u64, lane: usize, mut messages: Vec<PeerMessage>) {
        self.judge_silence(from, &messages);
        self.plant_in_messages(from, &mut messages);
        self.plant_in_merges(from, to, &mut messages);
        let mut builder = FrameBuilder::new();
        messages.iter().for_each(|message| builder.push(message));
        let body = builder.take().body();
        if self.loses_frame(from, to, lane) {
            return;
        }
        let (link, side) = self.network.between(from, to);
        self.network.link(link).directions[side].lanes[lane].bytes += body.len();
        self.travel(Packet { from, to, session, lane, body });
    }

    /// Puts a frame on its way; where no packet gets through, it waits.
    fn travel(&mut self, packet: Packet) {
        let (link, side) = self.network.between(packet.from, packet.to);
        let latency = self.random.around(self.plan.latencies.network);
        let now = self.schedule.now();
        let direction = &mut self.network.link(link).directions[side];
        let arrival = now.plus(latency * direction.slowness);
        let lane = &mut direction.lanes[packet.lane];
        if direction.blocks > 0 {
            return lane.held.push_back(packet);
        }
        lane.last_arrival = lane.last_arrival.plus(1).max(arrival);
        self.schedule.plan(lane.last_arrival, Event::Packet(packet));
    }

    pub(super) fn on_packet(&mut self, packet: Packet) {
        let now = self.schedule.now();
        let Packet { from, to, session, lane: number, .. } = packet;
        let (link, side) = self.network.between(from, to);
        let state = self.network.link(link);
        if state.session != session {
            self.counters.frames_lost += 1;
            return;
        }
        let is_lost = state.directions[side].lost_after.is_some_and(|after| now > after);
        let is_unknown = state.known[1 - side] != Some(session);
        let direction = &mut state.directions[side];
        let lane = &mut direction.lanes[number];
        if !is_lost && !is_unknown && (direction.blocks > 0 || !lane.held.is_empty()) {
            return lane.held.push_back(packet);
        }
        // It has left the lane, also if nobody takes it.
        lane.bytes = lane.bytes.saturating_sub(packet.body.len());
        let is_ready = lane.told_full && lane.bytes <= self.plan.lane_bytes / 2;
        if is_ready {
            let (life, worker) = (self.nodes[from].life, number.saturating_sub(APPEND_FIRST));
            let event = Event::LaneReady { store: from, life, peer: id_of(to), worker };
            self.schedule.plan_in(10 * MICRO, event);
        }
        if is_lost || is_unknown {
            self.counters.frames_lost += 1;
            return;
        }
        self.receive(packet);
    }

    fn receive(&mut self, packet: Packet) {
        let Packet { from, to, lane, body, .. } = packet;
        self.counters.frames += 1;
        self.record(fold(4, (from * 8 + to) as u64), fold(lane as u64, digest_of(&body)));
        let messages = match decode_frame(&body, &Limits::default()) {
            Ok(messages) => messages,
            Err(error) => return self.fail("what was encoded can be decoded", error.to_string()),
        };
        for message in messages.iter().filter(|message| !is_beat(message)) {
            self.say(|| format!("{} -> {}: {message:?}", id_of(from), id_of(to)));
        }
        self.observe_receipt(to, &messages);
        let from = id_of(from);
        let (sender, mut messages) = self.plant_on_receipt(from, to, messages);
        self.take_support(to, from, &mut messages);
        self.take_reads(to, from, &mut messages);
        if self.nodes[to].process.is_none() {
            return;
        }
        for (worker, messages) in split_by_worker(messages, self.plan.workers[to]).into_iter().enumerate() {
            if !messages.is_empty() {
                self.input(to, worker, Input::Messages { from: sender, messages });
            }
        }
    }

    /// A full lane has room again: what waits for it goes first, then the worker goes on.
    pub(super) fn on_lane_ready(&mut self, store: usize, life: u64, peer: StoreId, worker: usize) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let to = place_of(peer);
        let number = APPEND_FIRST + worker;
        let (link, side) = self.network.between(store, to);
        while let Some(session) = self.network.link(link).known[side] {
            let lane = &mut self.network.link(link).directions[side].lanes[number];
            if lane.bytes >= self.plan.lane_bytes {
                return;
            }
            let Some(messages) = lane.waiting.pop_front() else {
                lane.told_full = false;
                self.say(|| format!("the append lane of {}/{worker} to {peer} is ready", id_of(store)));
                return self.input(store, worker, Input::LaneReady { peer });
            };
            self.dispatch(store, to, session, number, messages);
        }
    }

    /// The moment after which a frame sent now would arrive, at the latest, when nothing is wrong.
    pub(super) fn usual_arrival(&mut self) -> Moment {
        self.schedule.now().plus(self.random.around(self.plan.latencies.network))
    }
}

/// Heartbeats and their answers: too many to be told one by one.
fn is_beat(message: &PeerMessage) -> bool {
    match message {
        PeerMessage::Beats(_) | PeerMessage::BeatReplies(_) => true,
        PeerMessage::Support(message) => message.lane() == Lane::Liveness,
        _ => false,
    }
}
