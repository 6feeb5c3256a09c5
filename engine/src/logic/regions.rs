//! The replicas of one worker: those that do something as they are, those that sleep in as few bytes as hold them.
//!
//! ```text
//!             looked up by whoever has something for it
//!   asleep <--------------------------------------------> awake
//!             at rest, and nothing has happened to it for a whole walk over all replicas
//! ```
//!
//! Whoever looks a replica up wakes it, so nobody meets one that is asleep but those who walk over all of them: they are given a
//! copy. Waking and putting to sleep change nothing that anybody else could see.

use std::ops::Deref;
use std::sync::Arc;

use multiraft_raft::{Options, RegionDescriptor, Time};
use multiraft_router::{Slab, SlotKey};

use crate::logic::Packed;
use crate::logic::asleep::{self, Glimpse, Rest, Rests};
use crate::logic::awake::{Awake, Place};
use crate::logic::region::Region;

/// A replica that sleeps.
struct Asleep {
    region: Packed,
    rest: Rest,
}

enum Cell {
    Awake(Place),
    Asleep(Asleep),
}

/// All replicas of one worker.
pub(super) struct Regions<R> {
    slab: Slab<Cell>,
    awake: Awake<Region<R>>,
    /// Who was looked up last, and where he is: a step of a group looks it up many times. Invariant: he is awake, at this place.
    last: (SlotKey, Place),
    rests: Rests,
    options: Arc<Options>,
    /// When this turn began.
    now: Time,
    packed: u64,
    unpacked: u64,
    /// The regions of those that were woken in this turn.
    woken: Vec<Arc<RegionDescriptor>>,
}

/// A key that nobody has.
const NOBODY: SlotKey = SlotKey { slot: u32::MAX, generation: 0 };

/// A replica as it is, for those who only look at it.
pub(super) enum Seen<'a, R> {
    Here(&'a Region<R>),
    Copy(Box<Region<R>>),
}

impl<R> Deref for Seen<'_, R> {
    type Target = Region<R>;

    fn deref(&self) -> &Region<R> {
        match self {
            Self::Here(region) => region,
            Self::Copy(region) => region,
        }
    }
}

impl<R> Regions<R> {
    pub(super) fn new(options: Arc<Options>) -> Self {
        Self {
            slab: Slab::new(),
            awake: Awake::new(),
            last: (NOBODY, Place::FIRST),
            rests: Rests::new(),
            options,
            now: Time::ZERO,
            packed: 0,
            unpacked: 0,
            woken: Vec::new(),
        }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, now: Time) {
        self.now = now;
    }

    pub(super) fn insert_with(&mut self, make: impl FnOnce(SlotKey) -> Region<R>) -> SlotKey {
        let awake = &mut self.awake;
        self.slab.insert_with(|key| Cell::Awake(awake.push(make(key))))
    }

    pub(super) fn remove(&mut self, key: SlotKey) -> Option<Region<R>> {
        self.wake(key);
        match self.slab.remove(key)? {
            Cell::Awake(place) => Some(self.take(place)),
            Cell::Asleep(_) => unreachable!("invariant: just woken"),
        }
    }

    /// The replica at `key`, which somebody has looked up in this turn.
    pub(super) fn get(&self, key: SlotKey) -> Option<&Region<R>> {
        if key == self.last.0 {
            return Some(self.awake.get(self.last.1));
        }
        match self.slab.get(key)? {
            Cell::Awake(place) => Some(self.awake.get(*place)),
            Cell::Asleep(_) => unreachable!("invariant: whoever looks a replica up wakes it"),
        }
    }

    /// The replica at `key`, awake.
    pub(super) fn get_mut(&mut self, key: SlotKey) -> Option<&mut Region<R>> {
        if key != self.last.0 {
            self.last = (key, self.find(key)?);
        }
        Some(self.awake.get_mut(self.last.1))
    }

    /// Where the replica at `key` is, which is awake from now on.
    fn find(&mut self, key: SlotKey) -> Option<Place> {
        Some(match self.slab.get(key)? {
            Cell::Awake(place) => *place,
            Cell::Asleep(asleep) => {
                let (region, rest) = (self.unpack(key, asleep), asleep.rest);
                self.drop_rest(rest);
                self.rouse(key, region)
            }
        })
    }

    fn unpack(&self, key: SlotKey, asleep: &Asleep) -> Region<R> {
        asleep::unpack(&asleep.region, self.rests.get(asleep.rest), key, &self.options, self.now)
    }

    /// What was kept of a replica is dropped, and what moves there found.
    fn drop_rest(&mut self, rest: Rest) {
        let Some(moved) = self.rests.drop(rest) else { return };
        let key = self.occupant(moved).expect("invariant: it sleeps");
        let Some(Cell::Asleep(asleep)) = self.slab.get_mut(key) else { unreachable!("invariant: it sleeps") };
        asleep.rest = rest;
    }

    /// `region` is awake from now on.
    fn rouse(&mut self, key: SlotKey, region: Region<R>) -> Place {
        self.unpacked += 1;
        self.woken.push(Arc::clone(region.descriptor()));
        let place = self.awake.push(region);
        *self.slab.get_mut(key).expect("invariant: it is there") = Cell::Awake(place);
        place
    }

    /// Takes out the replica at `place`, which no cell names any more, and has the one that moves there found.
    fn take(&mut self, place: Place) -> Region<R> {
        self.last.0 = NOBODY;
        let (region, moved) = self.awake.swap_remove(place);
        if let Some(moved) = moved {
            *self.slab.get_mut(moved.key).expect("invariant: it is awake") = Cell::Awake(place);
        }
        region
    }

    /// Wakes the replica at `key`; says whether there is one.
    pub(super) fn wake(&mut self, key: SlotKey) -> bool {
        self.get_mut(key).is_some()
    }

    /// Whether there is a replica at `key`.
    pub(super) fn contains(&self, key: SlotKey) -> bool {
        self.slab.get(key).is_some()
    }

    /// Who is in a slot.
    pub(super) fn occupant(&self, slot: u32) -> Option<SlotKey> {
        self.slab.occupant(slot).map(|(key, _)| key)
    }

    /// The replica at `key`, if it is awake.
    pub(super) fn peek(&self, key: SlotKey) -> Option<&Region<R>> {
        match self.slab.get(key)? {
            Cell::Awake(place) => Some(self.awake.get(*place)),
            Cell::Asleep(_) => None,
        }
    }

    /// What is at `key`, if it sleeps.
    pub(super) fn glimpse(&self, key: SlotKey) -> Option<Glimpse> {
        match self.slab.get(key)? {
            Cell::Awake(_) => None,
            Cell::Asleep(asleep) => Some(asleep::glimpse(self.rests.get(asleep.rest))),
        }
    }

    /// The replica at `key`, to be looked at.
    pub(super) fn see(&self, key: SlotKey) -> Option<Seen<'_, R>> {
        Some(self.seen(key, self.slab.get(key)?))
    }

    /// All replicas in slot order, to be looked at.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SlotKey, Seen<'_, R>)> {
        self.slab.iter().map(|(key, cell)| (key, self.seen(key, cell)))
    }

    /// Those that lead, in slot order, to be looked at.
    pub(super) fn led(&self) -> impl Iterator<Item = Seen<'_, R>> {
        let leads = |cell: &Cell| match cell {
            Cell::Awake(place) => self.awake.get(*place).group.is_leader(),
            Cell::Asleep(asleep) => asleep::glimpse(self.rests.get(asleep.rest)).leads,
        };
        self.slab.iter().filter(move |(_, cell)| leads(cell)).map(|(key, cell)| self.seen(key, cell))
    }

    fn seen(&self, key: SlotKey, cell: &Cell) -> Seen<'_, R> {
        match cell {
            Cell::Awake(place) => Seen::Here(self.awake.get(*place)),
            Cell::Asleep(asleep) => Seen::Copy(Box::new(self.unpack(key, asleep))),
        }
    }

    pub(super) fn slots(&self) -> u32 {
        self.slab.slots()
    }

    /// The regions of those that were woken since this was asked last.
    pub(super) fn take_woken(&mut self) -> impl Iterator<Item = Arc<RegionDescriptor>> {
        self.woken.drain(..)
    }

    /// Gives back what a turn that woke many has left.
    pub(super) fn shrink(&mut self, kept: usize) {
        self.woken.shrink_to(kept);
        self.awake.shrink();
    }

    /// How many are awake.
    pub(super) fn awake(&self) -> u32 {
        self.awake.len()
    }

    /// Who is at one of the places of those who are awake, which change as they come and go.
    pub(super) fn awake_at(&self, place: u32) -> Option<SlotKey> {
        self.awake.at(place).map(|region| region.key)
    }

    /// How many times replicas were put to sleep, and woken.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.packed, self.unpacked)
    }

    /// Changes the replica at `key`, which sleeps on if it did and `change` says so.
    pub(super) fn amend(&mut self, key: SlotKey, change: impl FnOnce(&mut Region<R>) -> bool) {
        match self.slab.get(key) {
            Some(Cell::Awake(place)) => {
                change(self.awake.get_mut(*place));
            }
            Some(Cell::Asleep(asleep)) => {
                let (mut region, rest) = (self.unpack(key, asleep), asleep.rest);
                self.drop_rest(rest);
                let again = change(&mut region).then(|| asleep::pack(&region, self.now)).flatten();
                match again {
                    Some(packed) => self.lay_down(key, packed),
                    None => {
                        self.rouse(key, region);
                    }
                }
            }
            None => {}
        }
    }

    /// The replica at `key` sleeps, as it was packed.
    fn lay_down(&mut self, key: SlotKey, (region, rest): (Packed, Vec<u8>)) {
        let rest = self.rests.keep(key.slot, rest);
        *self.slab.get_mut(key).expect("invariant: it is there") = Cell::Asleep(Asleep { region, rest });
    }

    /// Puts the replica at `key` to sleep, if nothing of it is under way; what its region is, then.
    pub(super) fn put_to_sleep(&mut self, key: SlotKey) -> Option<Packed> {
        let &Cell::Awake(place) = self.slab.get(key)? else { return None };
        let packed = asleep::pack(self.awake.get(place), self.now)?;
        let region = packed.0.clone();
        self.lay_down(key, packed);
        drop(self.take(place));
        self.packed += 1;
        Some(region)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use bytes::Bytes;
    use multiraft_raft::{
        Body, HardState, KeyRange, LogIndex, LogSummary, Message, Output, RegionEpoch, RegionId, Replica, ReplicaId,
        Role, StoreId, Term, TermRun,
    };

    use super::*;
    use crate::logic::campaign::Attempt;
    use crate::logic::{MergeState, RegionStart};
    use crate::region::check::{FencedReplica, FencedReplicas, StateDigest};
    use crate::region::merge::Absorbed;

    const NOW: Time = Time(1_000_000_000);

    /// A learner, which has promised its leader to keep quiet, of a region that has absorbed another, fenced a replica and removed one.
    fn learner(key: SlotKey, options: &Arc<Options>) -> Region<u32> {
        let replica = |id, role| Replica { id: ReplicaId(id), store: StoreId(id), role };
        let descriptor = RegionDescriptor {
            id: RegionId(70_000),
            range: KeyRange { start: Bytes::from_static(b"a"), end: Bytes::from_static(b"b") },
            epoch: RegionEpoch { conf_version: 4, version: 9 },
            replicas: vec![replica(1, Role::Voter), replica(2, Role::Learner), replica(3, Role::Voter)],
        };
        let fenced = FencedReplica { replica: ReplicaId(3), index: LogIndex(4), expected: StateDigest([7; 32]) };
        let merge = MergeState {
            frozen: None,
            absorbed: Arc::new(Absorbed(vec![(RegionId(8), 3)])),
            fenced: Arc::new(FencedReplicas(vec![fenced])),
        };
        let start = RegionStart {
            descriptor: Arc::new(descriptor),
            hard_state: HardState { term: Term(2), vote: ReplicaId::ZERO, commit: LogIndex(7) },
            log: LogSummary {
                truncated_index: LogIndex(3),
                truncated_term: Term(1),
                last_index: LogIndex(7),
                runs: vec![TermRun { start: LogIndex(4), term: Term(2) }],
            },
            applied: LogIndex(7),
            applied_term: Term(2),
            installed: false,
            merge,
        };
        let mut region = Region::new(&start, ReplicaId(2), true, key, Arc::clone(options), 5, NOW);
        region.departed = vec![(ReplicaId(90), StoreId(4)), (ReplicaId(91), StoreId(5))];
        region.note_speaker(ReplicaId(99), StoreId(6));
        region.fresh_as_of = Time(999_999_999);
        (region.link_mark, region.round_told, region.round_seen) = (3, 4, 5);
        region.settled = Time(NOW.0 + 500);
        let body = Body::Fortify { epoch: 6 };
        region.group.handle_message(NOW, Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(2), body });
        region.group.poll_output(NOW, multiraft_raft::LogTicket { lane: 0, seq: 1 }, &mut Output::new());
        region
    }

    #[test]
    fn who_is_woken_is_who_was_put_to_sleep() {
        let options = Arc::new(Options::default());
        let mut regions = Regions::new(Arc::clone(&options));
        regions.begin_turn(NOW);
        let key = regions.insert_with(|key| learner(key, &options));
        let packed = regions.put_to_sleep(key).unwrap();
        assert!(packed.is(learner(key, &options).descriptor()));
        assert_eq!(regions.glimpse(key), Some(Glimpse { leads: false, is_preferred: false }));
        assert!(regions.see(key).unwrap().merge.fenced.contains(ReplicaId(3)));
        assert_eq!(regions.counts(), (1, 0), "who is looked at sleeps on");

        let was = learner(key, &options);
        let woken = regions.get_mut(key).unwrap();
        assert_eq!(woken.status(), was.status());
        assert_eq!(woken.group.status(), was.group.status());
        assert_eq!((&woken.departed, woken.stranger), (&was.departed, was.stranger));
        assert_eq!((woken.stores, &woken.merge), (was.stores, &was.merge));
        assert_eq!((woken.fresh_as_of, woken.settled), (was.fresh_as_of, was.settled));
        assert_eq!((woken.durable, woken.admin_barrier), (was.durable, was.admin_barrier));
        assert_eq!((woken.link_mark, woken.round_told, woken.round_seen), (3, 4, 5));
        assert_eq!(regions.counts(), (1, 1));
        assert_eq!(regions.glimpse(key), None);
    }

    #[test]
    fn a_change_of_who_sleeps_need_not_wake_it() {
        let options = Arc::new(Options::default());
        let mut regions = Regions::new(Arc::clone(&options));
        regions.begin_turn(NOW);
        let key = regions.insert_with(|key| learner(key, &options));
        regions.put_to_sleep(key).unwrap();
        let set_durable = |region: &mut Region<u32>| {
            region.durable = LogIndex(6);
            true
        };
        regions.amend(key, set_durable);
        assert_eq!(regions.counts(), (1, 0));
        assert_eq!(regions.see(key).unwrap().durable, LogIndex(6));
        regions.amend(key, |_| false);
        assert_eq!(regions.counts(), (1, 1));
        assert_eq!(regions.get(key).unwrap().durable, LogIndex(6));
    }

    #[test]
    fn who_has_something_to_do_is_not_put_to_sleep() {
        let options = Arc::new(Options::default());
        let mut regions = Regions::new(Arc::clone(&options));
        regions.begin_turn(NOW);
        let key = regions.insert_with(|key| learner(key, &options));
        let refused = |regions: &mut Regions<u32>, disturb: fn(&mut Region<u32>)| {
            let region = regions.get_mut(key).unwrap();
            *region = learner(key, &options);
            disturb(region);
            regions.put_to_sleep(key).is_none()
        };
        assert!(!refused(&mut regions, |_| ()));
        assert!(refused(&mut regions, |region| region.touched = true));
        assert!(refused(&mut regions, |region| region.held = true));
        assert!(refused(&mut regions, |region| region.listed_paused = true));
        assert!(refused(&mut regions, |region| region.attempt = Attempt::InLine));
        assert!(refused(&mut regions, |region| region.release_at = Some(NOW)));
        assert!(refused(&mut regions, |region| {
            region.waiting();
        }));
        // It waits for nothing and has to ask, if it stays so, whether its region still knows it.
        assert!(refused(&mut regions, |region| {
            let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(2), body: Body::Release };
            region.group.handle_message(NOW, message);
            region.group.poll_output(NOW, multiraft_raft::LogTicket { lane: 0, seq: 2 }, &mut Output::new());
            assert_eq!(region.group.next_deadline(), Time::NEVER);
        }));
    }

    #[test]
    fn a_replica_that_sleeps_stays_small() {
        // The first rows of the table in `docs/performance.md`.
        assert!(size_of::<Cell>() <= 24, "{}", size_of::<Cell>());
        let options = Arc::new(Options::default());
        let region = learner(SlotKey { slot: 0, generation: 1 }, &options);
        let (_, rest) = asleep::pack(&region, NOW).unwrap();
        assert!(rest.len() < 195, "{} bytes with all that a region can have", rest.len());
    }
}
