//! What a worker knows of the other stores, and what it has gathered for them in this turn.

use std::collections::VecDeque;
use std::time::Duration;

use multiraft_raft::{Incarnation, ReplicaId, StoreId, Time};
use multiraft_transport::{Beat, BeatReplies, BeatReply, Beats, PeerMessage};

use crate::logic::beats::first_sequence;
use crate::logic::forward::PendingForward;
use crate::logic::upkeep::{UNWILLING_FOR, UNWILLING_MAX};
use crate::logic::{LaneKind, Outgoing};

/// The other stores, ascending.
pub(super) struct Peers<R> {
    peers: Vec<Peer<R>>,
    /// Grows with every change of any link; what is older than a region's mark has been seen by the region.
    generation: u64,
    /// Whether any append lane is full.
    full: bool,
    /// Whether any has begun anew: as a rule none has, and nothing else needs to be looked at.
    any_floor: bool,
    /// The first request's number.
    first_request: u64,
}

/// One other store.
pub(super) struct Peer<R> {
    pub(super) store: StoreId,
    /// The incarnation at the other end of the link, while there is one.
    pub(super) up: Option<Incarnation>,
    /// When something was last heard from it.
    pub(super) heard: Time,
    /// Its support is held: it is alive, however little it has to say.
    pub(super) supports: bool,
    /// It has begun anew: its replicas up to this one are lost for good.
    floor: ReplicaId,
    /// This store has withdrawn its support, and given it none since.
    pub(super) withdrawn: bool,
    /// The append lane is full: nothing more for it until it is ready.
    pub(super) lane_full: bool,
    /// It has sent an offered leadership back: until then it is not offered another.
    unwilling_until: Time,
    unwilling_for: Duration,
    /// The generation at which the link was last lost.
    pub(super) lost_at: u64,
    /// Requests sent on to this store that are not answered yet.
    pub(super) forwards: Forwards<R>,
    control: Vec<PeerMessage>,
    append: Vec<PeerMessage>,
    /// How many of either the last turn had that had any: what the next has room for at once.
    usual: (usize, usize),
    /// Heartbeats of this interval.
    pub(super) beats: Vec<Beat>,
    /// There were some in the last interval.
    pub(super) beat_last: bool,
    /// Heartbeats that open a read round: they do not wait for the interval.
    round_beats: Vec<Beat>,
    replies: Vec<BeatReply>,
}

impl<R> Peers<R> {
    pub(super) fn new(stores: impl IntoIterator<Item = StoreId>, incarnation: Incarnation) -> Self {
        let first_request = first_sequence(incarnation);
        let mut peers = Self { peers: Vec::new(), generation: 0, full: false, any_floor: false, first_request };
        for store in stores {
            peers.entry(store);
        }
        peers
    }

    /// The peer, made known if it was not.
    pub(super) fn entry(&mut self, store: StoreId) -> &mut Peer<R> {
        let at = match self.peers.binary_search_by_key(&store, |peer| peer.store) {
            Ok(at) => at,
            Err(at) => {
                self.peers.insert(at, Peer::new(store, self.first_request));
                at
            }
        };
        &mut self.peers[at]
    }

    pub(super) fn get(&self, store: StoreId) -> Option<&Peer<R>> {
        let at = self.peers.binary_search_by_key(&store, |peer| peer.store).ok()?;
        Some(&self.peers[at])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer<R>> {
        self.peers.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer<R>> {
        self.peers.iter_mut()
    }

    /// Whether heartbeats wait for their interval, or have just ended.
    pub(super) fn has_beats(&self) -> bool {
        self.peers.iter().any(|peer| peer.beat_last || !peer.beats.is_empty())
    }

    pub(super) fn is_up(&self, store: StoreId) -> bool {
        self.get(store).is_some_and(|peer| peer.up.is_some())
    }

    /// Whether there is a link to a store that, as far as is known, takes leaderships over.
    pub(super) fn takes_leaders(&self, store: StoreId, now: Time) -> bool {
        self.get(store).is_some_and(|peer| peer.up.is_some() && now >= peer.unwilling_until)
    }

    /// Until when a store is offered no leadership, or was offered none the last time.
    pub(super) fn unwilling_until(&self, store: StoreId) -> Time {
        self.get(store).map_or(Time::ZERO, |peer| peer.unwilling_until)
    }

    /// Whether there is a link, and something came over it within `silence`: a link outlives the process at its other end for
    /// a while.
    pub(super) fn is_heard(&self, store: StoreId, now: Time, silence: Duration) -> bool {
        self.get(store).is_some_and(|peer| peer.up.is_some() && !peer.is_silent(now, silence))
    }

    /// The first peer behind `store`, in a circle, that was heard from within `silence`.
    pub(super) fn next_heard(&self, store: StoreId, now: Time, silence: Duration) -> Option<StoreId> {
        let start = self.peers.partition_point(|peer| peer.store <= store);
        let circle = self.peers[start..].iter().chain(&self.peers[..start]).map(|peer| peer.store);
        circle.into_iter().find(|store| self.is_heard(*store, now, silence))
    }

    /// Some of the peers that were heard from within `silence`, other ones in each of `rounds`.
    pub(super) fn some_heard(&self, count: usize, rounds: u64, now: Time, silence: Duration) -> Vec<StoreId> {
        let heard = self.peers.iter().filter(|peer| self.is_heard(peer.store, now, silence)).map(|peer| peer.store);
        let heard: Vec<StoreId> = heard.collect();
        let first = (rounds as usize).wrapping_mul(count) % heard.len().max(1);
        heard[first..].iter().chain(&heard[..first]).take(count).copied().collect()
    }

    pub(super) fn is_lane_full(&self, store: StoreId) -> bool {
        self.get(store).is_some_and(|peer| peer.lane_full)
    }

    /// A store has begun anew: its replicas up to this one are lost.
    pub(super) fn on_begun_anew(&mut self, store: StoreId, above: ReplicaId) {
        self.any_floor = true;
        let peer = self.entry(store);
        peer.floor = peer.floor.max(above);
    }

    /// Whether a store has said that it will never have this replica.
    pub(super) fn is_lost(&self, store: StoreId, replica: ReplicaId) -> bool {
        self.any_floor && self.get(store).is_some_and(|peer| replica <= peer.floor)
    }

    /// Whether the append lane of any peer is full.
    pub(super) fn any_lane_full(&self) -> bool {
        self.full
    }

    /// To be called after a lane's state was changed.
    pub(super) fn count_full(&mut self) {
        self.full = self.peers.iter().any(|peer| peer.lane_full);
    }

    /// The newest change of any link.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the link to `store` was lost after `mark`.
    pub(super) fn lost_since(&self, store: StoreId, mark: u64) -> bool {
        self.get(store).is_some_and(|peer| peer.lost_at > mark)
    }

    /// Notes that a link came up or went down; returns the requests whose answer will never come.
    pub(super) fn on_link(&mut self, store: StoreId, up: Option<Incarnation>) -> Vec<PendingForward<R>> {
        self.generation += 1;
        let generation = self.generation;
        let peer = self.entry(store);
        // A link that comes up without having gone down first replaces another: what was on that one is lost as well.
        if up.is_none() || peer.up.is_some() {
            peer.lost_at = generation;
        }
        peer.lane_full = false;
        (peer.unwilling_until, peer.unwilling_for) = (Time::ZERO, Duration::ZERO);
        let orphans = if peer.lost_at == generation { peer.forwards.take_all() } else { Vec::new() };
        peer.up = up;
        self.count_full();
        orphans
    }

    /// Moves everything gathered into `sends`, except the heartbeats of the interval.
    pub(super) fn drain(&mut self, incarnation: Incarnation, sends: &mut Vec<Outgoing>) {
        for peer in &mut self.peers {
            peer.drain(incarnation, sends);
        }
    }
}

impl<R> Peer<R> {
    fn new(store: StoreId, first_request: u64) -> Self {
        Self {
            store,
            up: None,
            heard: Time::ZERO,
            supports: false,
            floor: ReplicaId::ZERO,
            withdrawn: false,
            lane_full: false,
            unwilling_until: Time::ZERO,
            unwilling_for: Duration::ZERO,
            lost_at: 0,
            forwards: Forwards::new(first_request),
            control: Vec::new(),
            append: Vec::new(),
            usual: (0, 0),
            beats: Vec::new(),
            beat_last: false,
            round_beats: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// It has sent an offered leadership back. Several that were on their way to it count once.
    pub(super) fn on_refused(&mut self, now: Time) {
        if now < self.unwilling_until {
            return;
        }
        let is_again = now.since(self.unwilling_until) < UNWILLING_MAX;
        self.unwilling_for = if is_again { (self.unwilling_for * 2).min(UNWILLING_MAX) } else { Duration::ZERO };
        self.unwilling_for = self.unwilling_for.max(UNWILLING_FOR);
        self.unwilling_until = now.plus(self.unwilling_for);
    }

    /// Whether there was no sign of life for `silence`.
    pub(super) fn is_silent(&self, now: Time, silence: Duration) -> bool {
        !self.supports && now.since(self.heard) >= silence
    }

    /// Whether its replicas are as good as gone: stores that have come to nothing between them begin anew by what they say as
    /// stores, whatever their groups say.
    pub(super) fn is_dead(&self, now: Time, silence: Duration) -> bool {
        self.up.is_none() || (self.withdrawn && self.is_silent(now, silence))
    }

    pub(super) fn push(&mut self, lane: LaneKind, message: PeerMessage) {
        let (queue, usual) = match lane {
            LaneKind::Append => (&mut self.append, self.usual.1),
            LaneKind::Control | LaneKind::Liveness => (&mut self.control, self.usual.0),
        };
        if queue.is_empty() {
            queue.reserve(usual);
        }
        queue.push(message);
    }

    /// Puts a heartbeat with the others of the interval, or sends it with this turn if it opens a read round.
    pub(super) fn push_beat(&mut self, beat: Beat, at_once: bool) {
        if at_once { self.round_beats.push(beat) } else { self.beats.push(beat) }
    }

    pub(super) fn push_beat_reply(&mut self, reply: BeatReply) {
        self.replies.push(reply);
    }

    fn drain(&mut self, incarnation: Incarnation, sends: &mut Vec<Outgoing>) {
        if !self.round_beats.is_empty() {
            let beats = std::mem::take(&mut self.round_beats);
            // Sequence zero: a read round, not the store's own sign of life.
            self.control.push(PeerMessage::Beats(Beats { incarnation, beats, ..Beats::default() }));
        }
        if !self.replies.is_empty() {
            let replies = std::mem::take(&mut self.replies);
            let replies = PeerMessage::BeatReplies(BeatReplies { incarnation, replies, ..BeatReplies::default() });
            sends.push(Outgoing { to: self.store, lane: LaneKind::Liveness, messages: vec![replies] });
        }
        let queues = [
            (LaneKind::Control, &mut self.control, &mut self.usual.0),
            (LaneKind::Append, &mut self.append, &mut self.usual.1),
        ];
        for (lane, queue, usual) in queues {
            if !queue.is_empty() {
                *usual = queue.len();
                sends.push(Outgoing { to: self.store, lane, messages: std::mem::take(queue) });
            }
        }
    }
}

/// Unanswered requests to one peer, in the order they were sent. All wait equally long, so the oldest expires first.
pub(super) struct Forwards<R> {
    /// The sequence of the first slot.
    first: u64,
    slots: VecDeque<Option<PendingForward<R>>>,
    /// How many slots are taken.
    pending: usize,
}

impl<R> Forwards<R> {
    fn new(first: u64) -> Self {
        Self { first, slots: VecDeque::new(), pending: 0 }
    }

    /// Notes a request; returns its sequence.
    pub(super) fn add(&mut self, pending: PendingForward<R>) -> u64 {
        self.slots.push_back(Some(pending));
        self.pending += 1;
        self.first + self.slots.len() as u64 - 1
    }

    pub(super) fn len(&self) -> usize {
        self.pending
    }

    /// Takes an answered request out; `None` if it is not there any more.
    pub(super) fn take(&mut self, sequence: u64) -> Option<PendingForward<R>> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let pending = self.slots.get_mut(at)?.take()?;
        self.pending -= 1;
        self.trim();
        Some(pending)
    }

    /// Takes the requests out that have waited too long.
    pub(super) fn take_expired(&mut self, now: Time) -> Vec<PendingForward<R>> {
        let mut expired = Vec::new();
        while let Some(slot) = self.slots.front() {
            if slot.as_ref().is_some_and(|pending| pending.deadline > now) {
                break;
            }
            self.first += 1;
            expired.extend(self.slots.pop_front().flatten());
        }
        self.pending -= expired.len();
        expired
    }

    pub(super) fn take_all(&mut self) -> Vec<PendingForward<R>> {
        self.first += self.slots.len() as u64;
        self.pending = 0;
        self.slots.drain(..).flatten().collect()
    }

    fn trim(&mut self) {
        while matches!(self.slots.front(), Some(None)) {
            self.slots.pop_front();
            self.first += 1;
        }
    }
}
