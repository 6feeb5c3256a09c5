//! Callers' requests for regions that have lost their leader: kept for a while, until there is one again.
//!
//! A caller who is told that nobody leads can only ask again. While thousands of regions elect leaders, thousands of callers
//! who ask again and again take from the elections the very time that these need. So a request of this store's own callers
//! whose region's replica is here, and whose leader nobody knows or nobody reaches, is put aside.
//!
//! ```text
//!   caller -- request --> leader known, and heard of? -- yes --> proposed here, or sent on
//!                                |  ^
//!                             no |  | a leader becomes known: handed in again, in the order in which they came
//!                                v  |
//!                             +--------+ -- the waiting time is over, or the region goes --> NotLeader
//!                             | parked |
//!                             +--------+
//! ```
//!
//! What is parked was neither proposed nor sent to anybody: that it had no effect is certain. Whoever would stop waiting before
//! the shortest waiting time is over is answered at once, so that he learns this rather than nothing. What another store sent on
//! is never parked: that store counts the time for which it waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use multiraft_raft::{RegionEpoch, RegionId, StoreId, Time};
use multiraft_router::SlotKey;
use rustc_hash::FxHashMap;

use crate::logic::worker::Worker;
use crate::logic::{Freshness, Input, Outcome};
use crate::region::command::EpochRule;
use crate::region::holds_data;

/// For how long a request is kept, while a leader is to be elected: as long as an election may take...
const PARK_LONG: Duration = Duration::from_secs(2);
/// ...and if there may be one that only cannot be reached: it may rest, and say nothing when it can be again. Also if the caller
/// does not wait for the longer one.
const PARK_SHORT: Duration = Duration::from_millis(100);
/// Waiting times end in steps of this.
const GRID: Duration = Duration::from_millis(20);
/// How many requests a worker parks within [`PARK_LONG`]; beyond, callers are told at once that there is no leader.
const PARKED_MAX: usize = 1 << 16;
/// What parked requests may hold, in bytes; beyond, likewise.
const PARKED_BYTES_MAX: usize = 16 << 20;
/// What one counts for beside its command or query.
const OVERHEAD: usize = 256;
/// How many one turn gives up.
const EXPIRED_PER_TURN: usize = 4096;

/// What is parked.
pub(super) struct Parked<R> {
    /// By region, in the order in which they came. Looked up only, never iterated. Invariant: no queue is empty, and nobody's time
    /// is over before that of those who came before him.
    regions: FxHashMap<RegionId, VecDeque<Waiter<R>>>,
    /// Whose time is over when, in the order in which they came. Those who were served are still in it.
    ends: BTreeMap<Time, VecDeque<RegionId>>,
    /// How many ends there are.
    count: usize,
    bytes: usize,
}

struct Waiter<R> {
    until: Time,
    bytes: usize,
    input: Input<R>,
}

/// What parking needs to know of a request.
struct Request<'a> {
    region: RegionId,
    epoch: Option<RegionEpoch>,
    /// Of a read that is answered by this replica.
    freshness: Option<Freshness>,
    deadline: Time,
    bytes: &'a [u8],
}

impl<R> Default for Parked<R> {
    fn default() -> Self {
        Self { regions: FxHashMap::default(), ends: BTreeMap::new(), count: 0, bytes: 0 }
    }
}

impl<R> Parked<R> {
    /// When the next waiting time ends.
    pub(super) fn next(&self) -> Time {
        self.ends.first_key_value().map_or(Time::NEVER, |(until, _)| *until)
    }

    fn waits_for(&self, region: RegionId) -> bool {
        self.count > 0 && self.regions.contains_key(&region)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.count < PARKED_MAX && self.bytes + bytes <= PARKED_BYTES_MAX
    }

    /// When somebody's time is over who comes now and would wait until `wish`.
    fn end(&self, region: RegionId, wish: Time) -> Time {
        let last = self.regions.get(&region).and_then(VecDeque::back).map_or(Time::ZERO, |waiter| waiter.until);
        wish.next_multiple(GRID).max(last)
    }

    fn add(&mut self, until: Time, region: RegionId, bytes: usize, input: Input<R>) {
        self.bytes += bytes;
        self.count += 1;
        self.ends.entry(until).or_default().push_back(region);
        self.regions.entry(region).or_default().push_back(Waiter { until, bytes, input });
    }

    /// Takes out all who wait for a region.
    fn take(&mut self, region: RegionId) -> VecDeque<Waiter<R>> {
        let waiters = self.regions.remove(&region).unwrap_or_default();
        self.bytes -= waiters.iter().map(|waiter| waiter.bytes).sum::<usize>();
        waiters
    }

    /// Takes one end of a waiting time off, if it has come; and who waited, if he was not served before.
    fn take_ended(&mut self, now: Time) -> Option<Option<Input<R>>> {
        let mut ended = self.ends.first_entry().filter(|ends| *ends.key() <= now)?;
        let Some(region) = ended.get_mut().pop_front() else {
            ended.remove();
            return Some(None);
        };
        self.count -= 1;
        let Some(waiters) = self.regions.get_mut(&region) else { return Some(None) };
        let ended = waiters.pop_front_if(|waiter| waiter.until <= now);
        if waiters.is_empty() {
            self.regions.remove(&region);
        }
        self.bytes -= ended.as_ref().map_or(0, |waiter| waiter.bytes);
        Some(ended.map(|waiter| waiter.input))
    }
}

impl<R> Worker<R> {
    /// Something came in: handled, or put aside.
    pub(super) fn take(&mut self, now: Time, input: Input<R>) {
        if let Some(input) = self.park(now, input) {
            self.handle(now, input);
        }
    }

    /// Puts a request aside if there is nobody to answer it for now; else gives it back, to be handled.
    fn park(&mut self, now: Time, input: Input<R>) -> Option<Input<R>> {
        let Some(request) = request_of(&input) else { return Some(input) };
        let (region, deadline, bytes) = (request.region, request.deadline, request.bytes.len() + OVERHEAD);
        let Some(slot) = self.slot_of(region) else { return Some(input) };
        if self.region(slot).group.is_leader() || !self.would_wait(now, slot, &request) {
            // Who came before goes before.
            self.serve_parked(now, region);
            return Some(input);
        }
        if self.region(slot).leader_store().is_none() {
            self.miss_leader(now, slot);
        }
        let is_lost = self.region(slot).leader_store().is_none() || !self.region(slot).group.hears_leader(now);
        let waits = if is_lost { [PARK_LONG, PARK_SHORT] } else { [PARK_SHORT; 2] };
        let ends = waits.map(|wait| self.parked.end(region, now.plus(wait)));
        let Some(until) = ends.into_iter().find(|end| *end < deadline).filter(|_| self.parked.has_room(bytes)) else {
            return Some(input);
        };
        self.parked.add(until, region, bytes, input);
        None
    }

    /// Whether a replica that does not lead could only answer that it knows no leader.
    fn would_wait(&self, now: Time, slot: SlotKey, request: &Request<'_>) -> bool {
        let region = self.region(slot);
        let silence = self.config.raft.election_timeout_min;
        let is_out_of_reach = match region.leader_store() {
            Some(leader) => !self.peers.is_heard(leader, now, silence),
            // Where there is a route, other stores are asked.
            None => !self.has_route(request.region),
        };
        is_out_of_reach && !self.has_answer(now, slot, request)
    }

    /// Whether there is an answer that needs no leader, be it a refusal.
    fn has_answer(&self, now: Time, slot: SlotKey, request: &Request<'_>) -> bool {
        let region = self.region(slot);
        let current = region.descriptor().epoch;
        if request.epoch.is_some_and(|epoch| EpochRule::COMMAND.is_outdated(epoch, current)) {
            return true;
        }
        let Some(freshness) = request.freshness else { return false };
        let is_fresh =
            matches!(freshness, Freshness::Within(age) if self.fresh_within(now, slot, request.epoch, age).is_some());
        is_fresh || region.merge.frozen.is_some() || !holds_data(region.descriptor(), self.config.store)
    }

    /// A region has a leader: what waited for one is handed in again.
    pub(super) fn serve_parked(&mut self, now: Time, region: RegionId) {
        for waiter in self.parked.take(region) {
            self.handle(now, waiter.input);
        }
    }

    /// A store has said something in a region. If it leads that, it is no longer silent: who waited for it goes.
    pub(super) fn on_leader_spoke(&mut self, now: Time, region: RegionId, from: StoreId) {
        if self.parked.waits_for(region)
            && self.slot_of(region).is_some_and(|slot| self.region(slot).leader_store() == Some(from))
        {
            self.serve_parked(now, region);
        }
    }

    /// Gives up those who have waited long enough, so many in one turn.
    pub(super) fn expire_parked(&mut self, now: Time) {
        for _ in 0..EXPIRED_PER_TURN {
            let Some(ended) = self.parked.take_ended(now) else { return };
            if let Some(input) = ended {
                self.refuse_parked(input);
            }
        }
    }

    /// A region's replica goes; another may come, or other stores be asked.
    pub(super) fn abandon_parked(&mut self, region: RegionId) {
        for waiter in self.parked.take(region) {
            self.refuse_parked(waiter.input);
        }
    }

    fn refuse_parked(&mut self, input: Input<R>) {
        if let Input::Propose { reply, .. } | Input::Read { reply, .. } | Input::Query { reply, .. } = input {
            self.reply(reply, Outcome::NotLeader { hint: None });
        }
    }
}

/// What is known of a request that can be parked.
fn request_of<R>(input: &Input<R>) -> Option<Request<'_>> {
    match input {
        Input::Propose { region, epoch, command, deadline, .. } => {
            Some(Request { region: *region, epoch: *epoch, freshness: None, deadline: *deadline, bytes: command })
        }
        Input::Read { region, epoch, freshness, deadline, .. } => Some(Request {
            region: *region,
            epoch: *epoch,
            freshness: Some(*freshness),
            deadline: *deadline,
            bytes: &[],
        }),
        Input::Query { region, epoch, query, deadline, .. } => {
            Some(Request { region: *region, epoch: *epoch, freshness: None, deadline: *deadline, bytes: query })
        }
        _ => None,
    }
}
