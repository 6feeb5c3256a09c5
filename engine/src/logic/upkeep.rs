//! What a worker does by itself every now and then, a bounded number of regions at a time: spread the leaders, hand them
//! over before a shutdown, cut logs, give up requests that nobody answered.

use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{LogIndex, RegionId, Replica, StoreId, Time};
use multiraft_router::SlotKey;
use multiraft_transport::RegionStep;

use crate::apply::{FIRST_INDEX, FIRST_TERM};
use crate::logic::region::Region;
use crate::logic::worker::Worker;
use crate::logic::{ApplyTask, DiskUse, Notice, TurnOutput};

/// How often, while there is something to do...
const INTERVAL: Duration = Duration::from_millis(50);
/// ...and while nothing has come in and no group has been due since the last time: all that an idle worker costs.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// How many slots one round looks at, for those who sleep...
const SLOTS_PER_ROUND: u32 = 1024;
/// ...and one of an idle worker, whose groups sleep: what happens to one of them is activity.
const SLOTS_PER_IDLE_ROUND: u32 = 64;
/// In so many rounds all are looked at who are awake, so that what a busy region pays for it is less than a look a write...
const ROUNDS_PER_WALK: u32 = 10;
/// ...but so many at least in each round...
const AWAKE_PER_ROUND: u32 = 256;
/// ...and at most.
const AWAKE_PER_ROUND_MAX: u32 = 4096;
/// How long a replica has to have done nothing before it is put to sleep, at least: it may be about to be used again.
const REST_AFTER: Duration = Duration::from_secs(1);
/// How many rounds that is.
const ROUNDS_TO_REST: u32 = (REST_AFTER.as_millis() / INTERVAL.as_millis()) as u32;
/// With more awake than that, they are put to sleep sooner: as soon as they are looked at again.
const AWAKE_MAX: u32 = 16_384;
/// How many leaders one round hands over of those who are awake, and of those who sleep.
const TRANSFERS_PER_ROUND: usize = 64;

/// How long a disk has to be full before leaders are given away. Disks that fill together, those of replicas do, are known
/// to be full by then on every store: a full store refuses what it is offered, and so its reads go on where they are. One
/// that took over before it knew might find no space to log its term's first entry, and would keep readers waiting for that.
const FULL_FOR: Duration = Duration::from_millis(500);

/// How long a store that takes no leaderships over, because it stops, is slow or its disk is full, is offered none...
pub(super) const UNWILLING_FOR: Duration = Duration::from_secs(2);
/// ...at most, if it sends them back again and again: each costs its leader the rounds of its term.
pub(super) const UNWILLING_MAX: Duration = Duration::from_secs(16);
/// How long a slow store waits at most between one hand-over that came to nothing and the next attempt.
const SHED_PAUSE_MAX: Duration = Duration::from_secs(64);

/// How long a new leader stays before it hands over for balance.
pub(super) const SETTLE: Duration = Duration::from_secs(3);
/// How long a leader stays whose hand-over came to nothing.
pub(super) const SETTLE_AFTER_ABORT: Duration = Duration::from_secs(60);

/// How many elements a worker's buffer keeps room for, whatever it had to hold.
const BUFFER_KEPT: usize = 1024;

/// A replica that has heard of no leader for so long asks whether its region still knows it...
const ASK_AFTER: Duration = Duration::from_secs(10);
/// ...and one that somebody asks something meanwhile, after this time: it may be the only way on for him. Elections take less, also
/// of as many regions as a store may have led.
const ASK_WHEN_MISSED: Duration = Duration::from_secs(3);
/// How many stores it asks besides those that it knows of its region's: those may all be gone.
const ASKED_BESIDE: usize = 4;

/// How many regions a worker leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedCount {
    /// All of them.
    pub led: usize,
    /// Those that another store could lead.
    pub movable: usize,
}

/// Where the next round goes on.
#[derive(Debug)]
pub(super) struct Upkeep {
    next: Time,
    /// The slot that was looked at last, for those who sleep.
    cursor: u32,
    /// How many of those who are awake are still to be looked at on this walk: they are taken from the end, where others come to.
    awake_left: u32,
    /// This walk puts to sleep who has nothing to do...
    puts_to_sleep: bool,
    /// ...and began then, or the last such one did.
    slept_at: Time,
    /// How many rounds are to follow at the pace of a worker that has something to do.
    busy_rounds: u32,
    handover: bool,
    /// How many threads wait for space: for the log, for the state.
    waiting_for_space: [u32; 2],
    /// Since when one of them has had none.
    full_since: Time,
    /// The next write may find the disk full: nothing has been refused yet, perhaps because nothing was written.
    is_scarce: bool,
    /// The store works, but not well.
    slow: Option<Shedding>,
}

/// How a slow store gets rid of its leaders: one at first, for all others may be slow as well, and many once one was taken.
#[derive(Debug)]
struct Shedding {
    is_taken: bool,
    /// One was offered, and nothing has come of it yet.
    is_offered: bool,
    /// While none was taken: when the next is offered, and how long after that the one behind it.
    next: Time,
    pause: Duration,
}

impl Upkeep {
    pub(super) fn new(now: Time) -> Self {
        Self {
            next: now.next_multiple(INTERVAL),
            cursor: 0,
            awake_left: 0,
            puts_to_sleep: false,
            slept_at: now,
            busy_rounds: 0,
            handover: false,
            waiting_for_space: [0; 2],
            full_since: Time::ZERO,
            is_scarce: false,
            slow: None,
        }
    }

    /// When the next round is due.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Something came in or was due: the next rounds are no idle ones, until all of `slots` have been looked at twice, and those who are
    /// awake as well on two walks that put to sleep: once to see which of them have come to rest, and once more to give their memory back.
    pub(super) fn note_activity(&mut self, now: Time, slots: u32) {
        self.busy_rounds = 2 * (slots.div_ceil(SLOTS_PER_ROUND) + ROUNDS_PER_WALK + ROUNDS_TO_REST) + 1;
        self.next = self.next.min(now.next_multiple(INTERVAL));
    }

    /// Leadership is given away while a disk is full, and may come back afterwards.
    pub(super) fn set_disk_full(&mut self, now: Time, disk: DiskUse, full: bool) {
        if !self.is_disk_full() {
            self.full_since = now;
        }
        let [log, state] = &mut self.waiting_for_space;
        match disk {
            DiskUse::Log => *log = u32::from(full),
            DiskUse::State if full => *state += 1,
            DiskUse::State => *state = state.saturating_sub(1),
        }
        self.next = Time::ZERO;
    }

    /// Whether this store can take no commands because its disk is full.
    pub(super) fn is_disk_full(&self) -> bool {
        self.waiting_for_space != [0; 2]
    }

    /// There is so little space that writes may be refused, or more again. What is led here stays until one is.
    pub(super) fn set_disk_scarce(&mut self, is_scarce: bool) {
        self.is_scarce = is_scarce;
    }

    /// While the store is slow, leadership is given away where others take it, and not taken over.
    pub(super) fn set_slow(&mut self, now: Time, is_slow: bool) {
        self.slow = is_slow.then_some(Shedding { is_taken: false, is_offered: false, next: now, pause: UNWILLING_FOR });
        self.hurry();
    }

    /// Whether this store works, but not well.
    pub(super) fn is_slow(&self) -> bool {
        self.slow.is_some()
    }

    /// Whether a slow store offers somebody a leadership now.
    fn sheds(&self, now: Time) -> bool {
        self.slow.as_ref().is_some_and(|shedding| shedding.is_taken || now >= shedding.next)
    }

    /// A slow store has offered one.
    fn on_shed(&mut self, now: Time) {
        if let Some(shedding) = &mut self.slow {
            shedding.is_offered = true;
            shedding.next = now.plus(shedding.pause);
        }
    }

    /// A hand-over has come to its end, or to nothing.
    pub(super) fn on_handed_over(&mut self, now: Time, is_taken: bool) {
        let Some(shedding) = &mut self.slow else { return };
        if is_taken {
            (shedding.is_taken, shedding.pause) = (true, UNWILLING_FOR);
            return;
        }
        // Of many that were under way together each comes to nothing by itself: that counts once.
        if !std::mem::take(&mut shedding.is_taken) && std::mem::take(&mut shedding.is_offered) {
            shedding.pause = (shedding.pause * 2).min(SHED_PAUSE_MAX);
        }
        shedding.next = now.plus(shedding.pause);
    }

    /// Whether this store takes no leadership over.
    pub(super) fn takes_none(&self) -> bool {
        self.handover || self.is_slow() || self.is_scarce || self.is_disk_full()
    }

    /// Whether this store hands its leaders over, whatever that costs.
    pub(super) fn gives_away(&self, now: Time) -> bool {
        self.handover || (self.is_disk_full() && now.since(self.full_since) >= FULL_FOR)
    }

    /// From now on, leadership is given away and not taken back.
    pub(super) fn start_handover(&mut self) {
        self.handover = true;
        self.hurry();
    }

    /// The next round is due at once.
    pub(super) fn hurry(&mut self) {
        self.next = Time::ZERO;
    }
}

impl<R> Worker<R> {
    /// One round, if it is due.
    pub(super) fn upkeep(&mut self, now: Time, out: &mut TurnOutput<R>) {
        self.drive_transfers(now, out);
        if now < self.upkeep.next {
            return;
        }
        self.upkeep.busy_rounds = self.upkeep.busy_rounds.saturating_sub(1);
        let interval = if self.upkeep.busy_rounds > 0 { INTERVAL } else { IDLE_INTERVAL };
        self.upkeep.next = now.next_multiple(interval);
        let expired: Vec<_> = self.peers.iter_mut().flat_map(|peer| peer.forwards.take_expired(now)).collect();
        self.abandon_forwards(expired);
        self.abandon_silent(now);
        self.remove_doomed();
        self.set_fenced_aside(now);
        self.drive_merges(now);
        self.drive_stalled(now);
        self.drive_checks(now);
        self.drive_owed(now);
        let begun_at = self.upkeep.cursor;
        self.place_leaders(now);
        if self.upkeep.cursor <= begun_at {
            // All regions were looked at once more.
            self.shrink_buffers(out);
        }
    }

    /// Gives up requests to stores that have fallen silent: a heartbeat comes every interval, so such a store has died or is cut
    /// off, and its regions are about to have other leaders.
    fn abandon_silent(&mut self, now: Time) {
        let silence = self.config.raft.election_timeout_min;
        let silent = self.peers.iter_mut().filter(|peer| peer.is_silent(now, silence));
        let orphans: Vec<_> = silent.flat_map(|peer| peer.forwards.take_all()).collect();
        self.abandon_forwards(orphans);
    }

    fn place_leaders(&mut self, now: Time) {
        self.look_at_awake(now);
        let mut moved = 0;
        let slots = self.regions.slots();
        let looked_at = if self.upkeep.busy_rounds > 0 { SLOTS_PER_ROUND } else { SLOTS_PER_IDLE_ROUND };
        for _ in 0..slots.min(looked_at) {
            if moved >= TRANSFERS_PER_ROUND {
                break;
            }
            self.upkeep.cursor = if self.upkeep.cursor + 1 >= slots { 0 } else { self.upkeep.cursor + 1 };
            let Some(key) = self.regions.occupant(self.upkeep.cursor) else { continue };
            if self.rouse_to_move(now, key) {
                self.look_at(now, key, &mut moved);
            }
        }
    }

    /// Goes on with the walk over those who are awake, or begins the next.
    fn look_at_awake(&mut self, now: Time) {
        let mut moved = 0;
        let awake = self.regions.awake();
        let upkeep = &mut self.upkeep;
        if upkeep.awake_left == 0 {
            upkeep.awake_left = awake;
            let rest_after = if awake > AWAKE_MAX { Duration::ZERO } else { REST_AFTER };
            upkeep.puts_to_sleep = now.since(upkeep.slept_at) >= rest_after;
            if upkeep.puts_to_sleep {
                upkeep.slept_at = now;
            }
        }
        let looked_at = awake.div_ceil(ROUNDS_PER_WALK).clamp(AWAKE_PER_ROUND, AWAKE_PER_ROUND_MAX);
        for _ in 0..looked_at.min(upkeep.awake_left) {
            self.upkeep.awake_left -= 1;
            // Whoever is put to sleep is replaced by the last, who has been looked at.
            let Some(key) = self.regions.awake_at(self.upkeep.awake_left) else { continue };
            self.look_at(now, key, &mut moved);
            if self.upkeep.puts_to_sleep {
                self.give_memory_back(key);
            }
        }
    }

    fn look_at(&mut self, now: Time, key: SlotKey, moved: &mut usize) {
        self.expire_waiting(now, key);
        self.ask_if_lonely(now, key, ASK_AFTER);
        *moved += usize::from(*moved < TRANSFERS_PER_ROUND && self.place_leader(now, key));
        if self.region(key).group.leader().is_none() {
            // Somebody may be about to need a leader.
            self.upkeep.note_activity(now, self.regions.slots());
        }
    }

    /// A replica that sleeps, and has done nothing since such a walk came by last, keeps only what it needs to be woken.
    fn give_memory_back(&mut self, key: SlotKey) {
        let region = self.region_mut(key);
        let is_quiet = !std::mem::take(&mut region.stirred) && region.group.next_deadline() == Time::NEVER;
        if !is_quiet {
            return;
        }
        self.take_off_unused(key);
        let region = self.region_mut(key);
        region.trim_all();
        if !std::mem::replace(&mut region.trimmed, true) {
            region.group.release_memory();
        }
        if let Some(packed) = self.regions.put_to_sleep(key) {
            self.notices.push(Notice::Rested(packed.clone()));
            self.push_apply(ApplyTask::Rest { packed });
        }
    }

    /// Wakes a replica that sleeps and whose leadership is to go elsewhere; says whether it did.
    fn rouse_to_move(&mut self, now: Time, key: SlotKey) -> bool {
        let Some(glimpse) = self.regions.glimpse(key) else { return false };
        let may_go = glimpse.leads
            && (!glimpse.is_preferred || self.upkeep.gives_away(now) || self.upkeep.sheds(now))
            && self.regions.see(key).is_some_and(|region| self.heir(now, &region).is_some());
        may_go && self.regions.wake(key)
    }

    /// What turns have gathered in is as large as the largest of them was: thousands of elections at once, for instance.
    fn shrink_buffers(&mut self, out: &mut TurnOutput<R>) {
        out.replies.shrink_to(BUFFER_KEPT);
        out.lookups.shrink_to(BUFFER_KEPT);
        out.notices.shrink_to(BUFFER_KEPT);
        self.replies.shrink_to(BUFFER_KEPT);
        self.lookups.shrink_to(BUFFER_KEPT);
        self.notices.shrink_to(BUFFER_KEPT);
        self.touched.shrink_to(BUFFER_KEPT);
        self.campaigns.shrink(BUFFER_KEPT);
        self.early_records.shrink_to(BUFFER_KEPT);
        self.held.shrink_to(BUFFER_KEPT);
        self.paused.shrink_to(BUFFER_KEPT);
        self.flush.shrink_to(BUFFER_KEPT);
        self.regions.shrink(BUFFER_KEPT);
    }

    /// A request has found no leader: what ends that must not wait for long, if it is that the region has gone elsewhere.
    pub(super) fn miss_leader(&mut self, now: Time, key: SlotKey) {
        self.ask_if_lonely(now, key, ASK_WHEN_MISSED);
    }

    /// A replica without a leader for this long asks the stores of its region whether it still belongs to it, and some others
    /// in turn.
    fn ask_if_lonely(&mut self, now: Time, key: SlotKey, patience: Duration) {
        let region = self.region_mut(key);
        if region.group.is_leader() || region.group.hears_leader(now) {
            region.lonely_since = now;
            return;
        }
        if now.since(region.lonely_since) < patience {
            return;
        }
        region.lonely_since = now;
        let (id, replica) = (region.id(), region.group.id());
        let descriptor = Arc::clone(region.descriptor());
        let step = RegionStep::Ask { replica, epoch: descriptor.epoch };
        let own_store = self.config.store;
        let heard = self.heard_of(id).map_or(&[][..], |heard| &heard.replicas[..]);
        let mut stores: Vec<StoreId> = descriptor.replicas.iter().chain(heard).map(|other| other.store).collect();
        let round = now.0 / patience.as_nanos() as u64;
        stores.extend(self.peers.some_heard(ASKED_BESIDE, round, now, self.config.raft.election_timeout_min));
        stores.sort_unstable();
        stores.dedup();
        for store in stores.into_iter().filter(|store| *store != own_store) {
            self.say_of_region(store, id, step.clone());
        }
    }

    /// Starts an election or a transfer, if that puts the leader where it belongs; returns whether it did.
    fn place_leader(&mut self, now: Time, key: SlotKey) -> bool {
        let region = self.region(key);
        if !region.initialised {
            return false;
        }
        if region.group.is_leader() {
            return self.move_leader(now, key);
        }
        // A region that never had a leader need not wait for a random timeout to get its first one. In any term but the first
        // somebody has asked for votes: whoever campaigns then, having granted his perhaps, unseats a leader that has just won, with
        // a log that is behind and cannot win itself; and the region waits for a random timeout after all.
        let first = region.group.term() <= FIRST_TERM
            && region.group.last_index() <= FIRST_INDEX
            && region.group.leader().is_none()
            && now >= region.settled
            && region.preferred().is_some_and(|replica| replica.store == self.config.store);
        if !first || self.upkeep.takes_none() || !self.supports.may_vote() || !self.sees_quorum(key) {
            return false;
        }
        self.region_mut(key).group.campaign(now);
        self.touch(key);
        true
    }

    fn sees_quorum(&self, key: SlotKey) -> bool {
        let descriptor = self.region(key).descriptor();
        let voters = descriptor.replicas.iter().filter(|replica| replica.role.votes_incoming());
        let own = self.config.store;
        let (mut all, mut seen) = (0, 0);
        for voter in voters {
            all += 1;
            seen += usize::from(voter.store == own || self.peers.is_up(voter.store));
        }
        // All rather than a quorum while the stores come up: the first leader then already has everybody.
        seen == all
    }

    fn move_leader(&mut self, now: Time, key: SlotKey) -> bool {
        if self.region(key).group.is_transferring() {
            // One that is under way takes nobody else's turn.
            return false;
        }
        let Some(target) = self.heir(now, self.region(key)) else {
            return false;
        };
        let started = self.region_mut(key).group.transfer_leader(now, target.id).is_ok();
        if started {
            self.upkeep.on_shed(now);
            self.touch(key);
        }
        started
    }

    /// Who is to lead a region in this store's place, if anybody is.
    fn heir(&self, now: Time, region: &Region<R>) -> Option<Replica> {
        let own = self.config.store;
        let holds_all = |replica: &Replica| region.group.match_index(replica.id) == Some(region.group.last_index());
        if self.upkeep.gives_away(now) {
            self.successors_of(now, region).max_by_key(|replica| region.group.match_index(replica.id)).copied()
        } else if self.upkeep.sheds(now) {
            // Meanwhile the region takes no writes: to whom it takes no time, and who has not sent one back lately.
            let silence = self.config.raft.election_timeout_min;
            self.successors_of(now, region)
                .filter(|replica| holds_all(replica) && self.peers.is_heard(replica.store, now, silence))
                .min_by_key(|replica| self.peers.unwilling_until(replica.store))
                .copied()
        } else if self.config.balance_leaders && !self.upkeep.takes_none() && now >= region.settled {
            region
                .preferred()
                .filter(|replica| replica.store != own && self.peers.takes_leaders(replica.store, now))
                .filter(|replica| !region.merge.fenced.contains(replica.id) && holds_all(replica))
                .copied()
        } else {
            None
        }
    }

    /// The voters on other stores that may lead a region in this store's place, as far as is known.
    pub(super) fn successors(&self, now: Time, key: SlotKey) -> impl Iterator<Item = &Replica> {
        self.successors_of(now, self.region(key))
    }

    fn successors_of<'a>(&'a self, now: Time, region: &'a Region<R>) -> impl Iterator<Item = &'a Replica> {
        let own = self.config.store;
        let voters = region.descriptor().replicas.iter().filter(|replica| replica.role == multiraft_raft::Role::Voter);
        voters
            .filter(move |replica| replica.store != own && !region.merge.fenced.contains(replica.id))
            .filter(|replica| !self.is_lost(replica))
            .filter(move |replica| self.peers.takes_leaders(replica.store, now))
    }

    /// How many regions this worker leads.
    #[must_use]
    pub fn led(&self) -> LedCount {
        self.regions.led().fold(LedCount::default(), |count, region| LedCount {
            led: count.led + 1,
            movable: count.movable + usize::from(self.successors_of(self.now, &region).next().is_some()),
        })
    }

    /// What these regions have applied up to these indexes is durable: their logs are cut where it pays.
    pub(super) fn on_checkpointed(&mut self, regions: &[(RegionId, LogIndex)]) {
        let (compact, keep) = (self.config.compact_entries, self.config.compact_keep_entries);
        for &(id, durable) in regions {
            let Some(key) = self.slots.get(&id).copied() else { continue };
            let mut is_long = false;
            self.regions.amend(key, |region| {
                region.durable = region.durable.max(durable.min(region.group.applied_index()));
                is_long = region.initialised && region.durable.since(region.group.first_index()) >= compact;
                !is_long
            });
            if !is_long {
                continue;
            }
            let region = self.region(key);
            let first = region.group.first_index();
            let upto = LogIndex(region.durable.get().saturating_sub(keep));
            let upto = self.hold_log(key, upto);
            if upto >= first {
                self.region_mut(key).group.compact(upto);
                self.touch(key);
            }
        }
    }
}
