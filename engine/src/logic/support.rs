//! Fortified leaders and sleep, as one worker sees to them (`docs/liveness.md`, sections F and S).
//!
//! The worker keeps what the liveness core has told it of each peer, and three indexes for each: the replicas here that have
//! promised its leaders, the groups led here that rest and count on it, and those that came to rest without it. What the core
//! tells is taken in between the messages of peers, in order. So a promise is noted only under support that the worker knows
//! to be given, and stands until the worker has heard of its end: nothing needs to be read again (S5).
//!
//! Indexes hold slots; what a slot holds by the time it is woken is checked then. Whoever is to be woken waits in a queue of
//! which each turn takes a bounded part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use multiraft_raft::{
    Body, LogIndex, Message, Promise, RegionDescriptor, RegionId, ReplicaId, Role, StoreId, Term, Time,
};
use multiraft_router::SlotKey;
use multiraft_transport::RegionStep;

use crate::liveness::{Held, SupportEpoch, SupportNews};
use crate::logic::worker::{Worker, mix};

/// How many groups one turn wakes.
const WAKES_PER_TURN: usize = 1024;
/// How many of those who are to be told of replicas that are gone are told in one round.
const OWED_PER_ROUND: usize = 256;
/// They are told again about once in ten minutes in the end.
const MAX_DELAY_DOUBLINGS: u32 = 13;
/// How long after the first in line the next one campaigns, when the store of their leader has fallen silent (S8).
const CAMPAIGN_STEP: Duration = Duration::from_millis(50);

/// Support given and held, by peer, and who is to be woken.
#[derive(Debug, Default)]
pub(super) struct Supports {
    peers: BTreeMap<StoreId, Support>,
    /// What this store may have promised before its start still stands (L10).
    is_held_back: bool,
    /// What replicas that are gone had promised: a promise is the store's (F4).
    kept: BTreeMap<RegionId, (StoreId, Promise)>,
    wakes: VecDeque<(u32, Wake)>,
    /// Who may have promised to replicas of this store that are gone, by region and replica (F8).
    owed: BTreeMap<(RegionId, ReplicaId), Owed>,
}

/// What a replica elsewhere is to be told.
#[derive(Debug)]
struct Owed {
    store: StoreId,
    /// Who led...
    leader: ReplicaId,
    /// ...which term.
    term: Term,
    at: Time,
    sent: u32,
}

#[derive(Debug, Default)]
struct Support {
    /// At which of its epochs this store supports the peer.
    given: Option<u64>,
    /// What this store holds of the peer, and at which of the own epochs.
    held: Option<(u64, Held)>,
    /// Replicas here that have promised a leader on the peer.
    promised: BTreeSet<u32>,
    /// Groups led here that came to rest with a follower on the peer whose support was held.
    counting: BTreeSet<u32>,
    /// Groups led here that came to rest while the peer's support was not held: they may owe it entries.
    owing: BTreeSet<u32>,
}

/// Why a group is woken.
#[derive(Clone, Copy, Debug)]
enum Wake {
    /// The support under which it promised has been withdrawn.
    Withdrawn { peer: StoreId, epoch: u64 },
    /// It rests, and the support of a store on which it counts is held no more.
    Lost,
    /// It rests without a store whose support is held again.
    Returned,
}

impl Supports {
    /// `is_held_back`: nobody may vote or campaign here until [`SupportNews::MayVote`].
    pub(super) fn new(is_held_back: bool) -> Self {
        Self { is_held_back, ..Self::default() }
    }

    pub(super) fn may_vote(&self) -> bool {
        !self.is_held_back
    }

    fn gives(&self, peer: StoreId, epoch: u64) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.given == Some(epoch))
    }

    /// What is held of a peer, and at which epoch.
    pub(super) fn held(&self, peer: StoreId) -> Option<&(u64, Held)> {
        self.peers.get(&peer)?.held.as_ref()
    }

    pub(super) fn holds_at(&self, peer: StoreId, epoch: u64) -> bool {
        self.held(peer).is_some_and(|(held, _)| *held == epoch)
    }

    /// Whether groups wait to be woken.
    pub(super) fn has_wakes(&self) -> bool {
        !self.wakes.is_empty()
    }

    fn wake_all(&mut self, slots: BTreeSet<u32>, wake: Wake) {
        self.wakes.extend(slots.into_iter().map(|slot| (slot, wake)));
    }
}

impl<R> Worker<R> {
    /// The liveness core has something to tell.
    pub(super) fn on_support(&mut self, now: Time, news: SupportNews) {
        let incarnation = self.config.incarnation;
        match news {
            SupportNews::Given { peer, epoch } => {
                self.supports.peers.entry(peer).or_default().given = Some(epoch.code());
                self.peers.entry(peer).withdrawn = false;
            }
            SupportNews::Withdrawn { peer, epoch } => {
                let epoch = epoch.code();
                let support = self.supports.peers.entry(peer).or_default();
                if support.given != Some(epoch) {
                    return;
                }
                support.given = None;
                self.peers.entry(peer).withdrawn = true;
                let promised = std::mem::take(&mut support.promised);
                self.supports.kept.retain(|_, (store, promise)| (*store, promise.epoch) != (peer, epoch));
                self.supports.wake_all(promised, Wake::Withdrawn { peer, epoch });
            }
            SupportNews::Held { peer, support } => {
                let epoch = SupportEpoch { incarnation, number: support.number }.code();
                let here = self.supports.peers.entry(peer).or_default();
                here.held = Some((epoch, support));
                let owing = std::mem::take(&mut here.owing);
                self.supports.wake_all(owing, Wake::Returned);
                let peer = self.peers.entry(peer);
                (peer.heard, peer.supports) = (now, true);
            }
            SupportNews::Lost { peer } => {
                let here = self.supports.peers.entry(peer).or_default();
                here.held = None;
                let counting = std::mem::take(&mut here.counting);
                self.supports.wake_all(counting, Wake::Lost);
                self.peers.entry(peer).supports = false;
            }
            SupportNews::MayVote => self.supports.is_held_back = false,
            SupportNews::RoundAnswered { peer, round, by, number } => self.on_round_answered(peer, round, by, number),
        }
    }

    /// The other stores that this worker knows of, ascending.
    pub fn peers(&self) -> impl Iterator<Item = StoreId> {
        self.peers.iter().map(|peer| peer.store)
    }

    /// Wakes some of those who wait for it.
    pub(super) fn drive_wakes(&mut self, now: Time) {
        for _ in 0..WAKES_PER_TURN {
            let Some((slot, wake)) = self.supports.wakes.pop_front() else { return };
            let Some(key) = self.regions.occupant(slot) else { continue };
            match wake {
                Wake::Withdrawn { peer, epoch } => self.end_promise(now, key, peer, epoch),
                Wake::Lost => {
                    // It sleeps on if it has its quorum all the same.
                    let Some(region) = self.regions.see(key) else { continue };
                    let supports = &self.supports;
                    let is_fortified = region.group.is_fortified_by(|replica, epoch| {
                        region.store_of(replica).is_some_and(|store| supports.holds_at(store, epoch))
                    });
                    drop(region);
                    if !is_fortified {
                        self.wake_leader(now, key);
                    }
                }
                Wake::Returned => self.wake_leader(now, key),
            }
        }
    }

    /// A store says that it does not lead a region. If the replica here has promised it to keep quiet, it asks whether that
    /// still has a point (F7).
    pub(super) fn doubt_leader(&mut self, region: RegionId, store: StoreId) {
        let now = self.now;
        if let Some(key) = self.slot_of(region)
            && self.region(key).promised_to == store
        {
            self.region_mut(key).group.doubt_leader(now);
            self.touch(key);
        }
    }

    /// Has a resting leader beat again.
    pub(super) fn wake_leader(&mut self, now: Time, key: SlotKey) {
        let Some(region) = self.regions.get_mut(key) else { return };
        if region.group.is_resting() {
            region.group.wake(now);
            region.lonely_since = now;
            self.touch(key);
        }
    }

    fn end_promise(&mut self, now: Time, key: SlotKey, peer: StoreId, epoch: u64) {
        let own_store = self.config.store;
        let region = self.region_mut(key);
        let promise = region.group.promise();
        if promise.is_none_or(|promise| promise.epoch != epoch) || region.promised_to != peer {
            return;
        }
        let rank = rank(region.descriptor(), own_store, peer);
        region.group.on_support_withdrawn(now, CAMPAIGN_STEP * rank);
        region.lonely_since = now;
        self.counters.promises_ended += 1;
        self.touch(key);
    }

    /// Whether a message is to be kept from its group because of support: requests for votes while this store may not give
    /// any (L10), and for a promise under support that is not given (F2).
    pub(super) fn is_barred(&self, key: SlotKey, from: StoreId, message: &Message) -> bool {
        match message.body {
            // Who is heard and does not hear would wake a leader again and again that has all the support it needs (S4).
            Body::PreVote { .. } if self.region(key).group.is_resting() && self.supports.held(from).is_none() => true,
            Body::PreVote { last_index, last_term } if self.goes_first(key, from, (last_term, last_index)) => true,
            Body::PreVote { .. } | Body::Vote { .. } | Body::TimeoutNow => !self.supports.may_vote(),
            Body::Fortify { epoch } => !self.supports.gives(from, epoch),
            _ => false,
        }
    }

    /// Whether the replica here asks for pre-votes as well, and is before the one on `other` in the order of the region's
    /// stores. If each let the other pass both would campaign in one term, and none would win it. So the second waits to be
    /// asked for its vote (S8). With logs that end alike it has no reason to refuse, unless a promise
    /// bound it when it was asked; with others, one of the two cannot win.
    fn goes_first(&self, key: SlotKey, other: StoreId, its_last: (Term, LogIndex)) -> bool {
        let (region, own) = (self.region(key), self.config.store);
        let is_asking = region.group.awaits_pre_votes();
        let own_last = (region.group.last_term(), region.group.last_index());
        is_asking && its_last == own_last && place(region.id(), own) < place(region.id(), other)
    }

    /// A group has taken in a request for a promise: if it promised, that is put into the index.
    pub(super) fn register_promise(&mut self, key: SlotKey, from: StoreId, epoch: u64) {
        let region = self.region_mut(key);
        if region.group.promise().is_some_and(|promise| promise.epoch == epoch) {
            region.promised_to = from;
            self.supports.peers.entry(from).or_default().promised.insert(key.slot);
        }
    }

    /// A replica goes; what it promised stays, and what it owes is this worker's now.
    pub(super) fn keep_promise(&mut self, key: SlotKey) {
        let (at, regions, supports) = (self.now, &mut self.regions, &mut self.supports);
        let Some(region) = regions.get_mut(key) else { return };
        for (to, term) in region.group.owed_releases() {
            if let Some(store) = region.store_of(to) {
                let owed = Owed { store, leader: region.group.id(), term, at, sent: 0 };
                supports.owed.insert((region.id(), to), owed);
            }
        }
        if let Some(promise) = region.group.promise()
            && supports.gives(region.promised_to, promise.epoch)
        {
            supports.kept.insert(region.id(), (region.promised_to, promise));
        }
    }

    /// Tells some of those who are to be told, later and later those who never answer.
    pub(super) fn drive_owed(&mut self, now: Time) {
        let interval = self.config.raft.heartbeat_interval;
        let due = self.supports.owed.iter_mut().filter(|(_, owed)| owed.at <= now);
        let mut told = Vec::new();
        for ((region, to), owed) in due.take(OWED_PER_ROUND) {
            owed.at = now.plus(interval.saturating_mul(1 << owed.sent.min(MAX_DELAY_DOUBLINGS)));
            owed.sent += 1;
            let step = RegionStep::NotLed { replica: owed.leader, to: *to, term: owed.term };
            told.push((owed.store, *region, step));
        }
        for (store, region, step) in told {
            self.say_of_region(store, region, step);
        }
    }

    fn settle_owed(&mut self, region: RegionId, to: ReplicaId, term: Term) {
        if self.supports.owed.get(&(region, to)).is_some_and(|owed| owed.term == term) {
            self.supports.owed.remove(&(region, to));
        }
    }

    /// A replica comes: what was promised for its region binds it.
    pub(super) fn take_promise(&mut self, now: Time, key: SlotKey) {
        let Some((store, promise)) = self.supports.kept.remove(&self.region(key).id()) else { return };
        self.region_mut(key).group.restore_promise(now, promise);
        self.register_promise(key, store, promise.epoch);
    }

    /// A message about a promise for a replica that is not here any more is answered by its store (F7, F8).
    pub(super) fn answer_for_the_gone(&mut self, from: StoreId, region: RegionId, message: &Message) {
        let (replica, to, term) = (message.to, message.from, message.term);
        let step = match message.body {
            Body::AskLeader { .. } => RegionStep::NotLed { replica, to, term },
            Body::Release => {
                // Whoever led has let go of whatever replica of the region was here.
                let is_meant =
                    |(_, promise): &(StoreId, Promise)| (promise.leader, promise.term) == (message.from, message.term);
                if self.supports.kept.get(&region).is_some_and(is_meant) {
                    self.supports.kept.remove(&region);
                }
                RegionStep::NotPromised { replica, to, term }
            }
            Body::Released => return self.settle_owed(region, message.from, message.term),
            _ => return,
        };
        self.say_of_region(from, region, step);
    }

    /// Another store answers for a replica that is not there any more.
    pub(super) fn on_answer_for_the_gone(&mut self, now: Time, from: StoreId, region: RegionId, answer: Message) {
        if answer.body == Body::Released {
            self.settle_owed(region, answer.from, answer.term);
        }
        let here = self.any_slot(region).filter(|key| self.region(*key).group.id() == answer.to);
        let Some(key) = here else {
            // Told without having asked, because of a replica that is gone here, too.
            return self.answer_for_the_gone(from, region, &answer);
        };
        let here = self.region_mut(key);
        if here.store_of(answer.from).is_none_or(|store| store == from) {
            here.group.handle_message(now, answer);
            self.touch(key);
        }
    }

    /// Before a leading group's heartbeats: under which support its followers may promise, and whether it may come to rest.
    pub(super) fn brief(&mut self, key: SlotKey) {
        let may_rest = self.has_nothing_open(key);
        let (regions, supports, peers) = (&mut self.regions, &self.supports, &self.peers);
        let Some(region) = regions.get_mut(key).filter(|region| region.group.is_leader()) else { return };
        let descriptor = region.descriptor().clone();
        for replica in &descriptor.replicas {
            // A replica that is out of service, or lost, counts as that of a dead store (F9).
            let is_lost = peers.is_lost(replica.store, replica.id);
            let is_sound = !is_lost && !region.merge.fenced.contains(replica.id);
            let held = supports.held(replica.store).filter(|_| is_sound).map(|(epoch, _)| *epoch);
            region.group.set_support(replica.id, held);
        }
        region.group.allow_rest(may_rest);
    }

    /// A snapshot for a follower keeps the group awake by itself.
    fn has_nothing_open(&self, key: SlotKey) -> bool {
        let region = self.region(key);
        region.initialised
            && region.is_unasked()
            && region.driving.is_none()
            && region.release_at.is_none()
            && region.merge.frozen.is_none()
            && region.admin_barrier <= region.group.applied_index()
            && !region.held
            && !region.paused
            && !self.upkeep.gives_away(self.now)
            && !self.is_checking(region.id())
    }

    /// A leading group has come to rest: notes whom it counts on and whom it may owe something, and gives memory back.
    pub(super) fn on_rest(&mut self, key: SlotKey) {
        self.counters.rests += 1;
        let own_store = self.config.store;
        let region = self.region_mut(key);
        region.group.release_memory();
        let descriptor = region.descriptor().clone();
        for replica in descriptor.replicas.iter().filter(|replica| replica.store != own_store) {
            // One that is lost is owed something as soon as its store has said so again: whoever plans hears of it from an awake leader.
            let is_lost = self.is_lost(replica);
            let peer = self.supports.peers.entry(replica.store).or_default();
            let index = if peer.held.is_some() && !is_lost { &mut peer.counting } else { &mut peer.owing };
            index.insert(key.slot);
        }
    }
}

/// Which place this store has among those whose replicas may lead a region when its leader's store has fallen silent: by a
/// hash of region and store, so that the regions of one dead store go to all others evenly, and no two stores begin at once.
fn rank(region: &RegionDescriptor, own: StoreId, silent: StoreId) -> u32 {
    let own_place = place(region.id, own);
    let others = region.replicas.iter().filter(|replica| replica.role == Role::Voter && replica.store != silent);
    let before = others.filter(|replica| place(region.id, replica.store) < own_place).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// Where a store stands in the order in which those of a region campaign.
fn place(region: RegionId, store: StoreId) -> (u64, StoreId) {
    (mix(store.get(), region.get()), store)
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{KeyRange, RegionEpoch, Replica};

    use super::*;

    #[test]
    fn ranks_are_a_total_order_that_differs_between_regions() {
        let replica = |n| Replica { id: ReplicaId(n), store: StoreId(n), role: Role::Voter };
        let region = |id| RegionDescriptor {
            id: RegionId(id),
            range: KeyRange { start: bytes::Bytes::new(), end: bytes::Bytes::new() },
            epoch: RegionEpoch::default(),
            replicas: (1..=5).map(replica).collect(),
        };
        let mut firsts = BTreeMap::new();
        for id in 1..=400 {
            let mut ranks: Vec<_> = (2..=5).map(|store| rank(&region(id), StoreId(store), StoreId(1))).collect();
            let first = ranks.iter().position(|rank| *rank == 0).expect("one is first");
            *firsts.entry(first).or_insert(0) += 1;
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2, 3]);
        }
        assert!(firsts.len() == 4 && firsts.values().all(|count| *count > 60), "{firsts:?}");
    }
}
