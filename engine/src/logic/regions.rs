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

use bytes::{Bytes, BytesMut};
use multiraft_raft::{Group, LogIndex, Membership, Options, RegionDescriptor, ReplicaId, StoreId, Time};
use multiraft_router::{Slab, SlotKey};

use crate::logic::campaign::Attempt;
use crate::logic::region::{Region, first_stores};
use crate::logic::{MergeState, Packed};
use crate::region::check::FencedReplicas;
use crate::region::command::{get_varint, put_varint};
use crate::region::merge::Absorbed;

const LEADS: u8 = 1;
const HAS_MERGED: u8 = 2;
const HAS_DEPARTED: u8 = 4;
/// Of a leader: it is the replica that should lead while there is no better reason.
const IS_PREFERRED: u8 = 8;
const HAS_STRANGER: u8 = 16;

/// A replica that sleeps.
struct Asleep {
    region: Packed,
    /// All else: flags, what this store keeps beside the group, the group.
    rest: Box<[u8]>,
}

enum Cell<R> {
    Awake(Box<Region<R>>),
    Asleep(Asleep),
}

/// All replicas of one worker.
pub(super) struct Regions<R> {
    slab: Slab<Cell<R>>,
    options: Arc<Options>,
    /// When this turn began.
    now: Time,
    packed: u64,
    unpacked: u64,
    /// The regions of those that were woken in this turn.
    woken: Vec<Arc<RegionDescriptor>>,
}

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

/// What can be told of a replica that sleeps without waking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Glimpse {
    pub(super) leads: bool,
    /// It leads, and is the replica that should.
    pub(super) is_preferred: bool,
}

impl<R> Regions<R> {
    pub(super) fn new(options: Arc<Options>) -> Self {
        Self { slab: Slab::new(), options, now: Time::ZERO, packed: 0, unpacked: 0, woken: Vec::new() }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, now: Time) {
        self.now = now;
    }

    pub(super) fn insert_with(&mut self, make: impl FnOnce(SlotKey) -> Region<R>) -> SlotKey {
        self.slab.insert_with(|key| Cell::Awake(Box::new(make(key))))
    }

    pub(super) fn remove(&mut self, key: SlotKey) -> Option<Box<Region<R>>> {
        self.wake(key);
        match self.slab.remove(key)? {
            Cell::Awake(region) => Some(region),
            Cell::Asleep(_) => unreachable!("invariant: just woken"),
        }
    }

    /// The replica at `key`, which somebody has looked up in this turn.
    pub(super) fn get(&self, key: SlotKey) -> Option<&Region<R>> {
        match self.slab.get(key)? {
            Cell::Awake(region) => Some(region),
            Cell::Asleep(_) => unreachable!("invariant: whoever looks a replica up wakes it"),
        }
    }

    /// The replica at `key`, awake.
    pub(super) fn get_mut(&mut self, key: SlotKey) -> Option<&mut Region<R>> {
        let cell = self.slab.get_mut(key)?;
        if let Cell::Asleep(asleep) = cell {
            let region = Box::new(asleep.unpack(key, &self.options, self.now));
            self.unpacked += 1;
            self.woken.push(Arc::clone(region.descriptor()));
            *cell = Cell::Awake(region);
        }
        match cell {
            Cell::Awake(region) => Some(region),
            Cell::Asleep(_) => unreachable!("invariant: just woken"),
        }
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

    /// What is at `key`, if it sleeps.
    pub(super) fn glimpse(&self, key: SlotKey) -> Option<Glimpse> {
        match self.slab.get(key)? {
            Cell::Awake(_) => None,
            Cell::Asleep(asleep) => Some(asleep.glimpse()),
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
        let leads = |cell: &Cell<R>| match cell {
            Cell::Awake(region) => region.group.is_leader(),
            Cell::Asleep(asleep) => asleep.glimpse().leads,
        };
        self.slab.iter().filter(move |(_, cell)| leads(cell)).map(|(key, cell)| self.seen(key, cell))
    }

    fn seen<'a>(&self, key: SlotKey, cell: &'a Cell<R>) -> Seen<'a, R> {
        match cell {
            Cell::Awake(region) => Seen::Here(region),
            Cell::Asleep(asleep) => Seen::Copy(Box::new(asleep.unpack(key, &self.options, self.now))),
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
    }

    /// How many times replicas were put to sleep, and woken.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.packed, self.unpacked)
    }

    /// Changes the replica at `key`, which sleeps on if it did and `change` says so.
    pub(super) fn amend(&mut self, key: SlotKey, change: impl FnOnce(&mut Region<R>) -> bool) {
        let Some(cell) = self.slab.get_mut(key) else { return };
        match cell {
            Cell::Awake(region) => drop(change(region)),
            Cell::Asleep(asleep) => {
                let mut region = Box::new(asleep.unpack(key, &self.options, self.now));
                let again = change(&mut region).then(|| Asleep::pack(&region, self.now)).flatten();
                if again.is_none() {
                    self.unpacked += 1;
                    self.woken.push(Arc::clone(region.descriptor()));
                }
                *cell = again.map_or_else(|| Cell::Awake(region), Cell::Asleep);
            }
        }
    }

    /// Puts the replica at `key` to sleep, if nothing of it is under way; what its region is, then.
    pub(super) fn put_to_sleep(&mut self, key: SlotKey) -> Option<Packed> {
        let cell = self.slab.get_mut(key)?;
        let Cell::Awake(region) = cell else { return None };
        let asleep = Asleep::pack(region, self.now)?;
        let packed = asleep.region.clone();
        *cell = Cell::Asleep(asleep);
        self.packed += 1;
        Some(packed)
    }
}

impl Asleep {
    fn pack<R>(region: &Region<R>, now: Time) -> Option<Self> {
        // Taken apart, so that whoever adds something decides here what becomes of it.
        let Region {
            id: _,
            stores: _,
            descriptor,
            stranger,
            departed,
            group,
            key: _,
            initialised,
            admin_barrier,
            lonely_since: _,
            merge,
            driving,
            release_at,
            touched,
            link_mark,
            durable,
            settled,
            held,
            round_told,
            round_seen,
            promised_to,
            fresh_as_of,
            paused,
            listed_paused,
            attempt,
            stirred: _,
            listed,
            trimmed: _,
            busy,
        } = region;
        // Callers look at what is listed for them without asking, so it has to be kept in step.
        let is_listed = *touched || *held || *paused || *listed_paused || *listed || *attempt != Attempt::None;
        let is_open = driving.is_some() || release_at.is_some() || busy.is_some() || merge.frozen.is_some();
        // Who has no promise to keep, a witness or learner perhaps, has to ask some day what has become of its leader, and does so on
        // the walk over all who are awake.
        let keeps_quiet = group.promise().is_some_and(|promise| promise.term == group.term());
        let sleeps = *initialised && (group.is_leader() || keeps_quiet) && group.next_deadline() == Time::NEVER;
        if !sleeps || is_listed || is_open {
            return None;
        }
        let has_merged = *merge != MergeState::default();
        let is_preferred = region.preferred().is_some_and(|replica| replica.id == group.id());
        let mut out = BytesMut::with_capacity(160);
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let flags = flag(LEADS, group.is_leader())
            | flag(HAS_MERGED, has_merged)
            | flag(HAS_DEPARTED, !departed.is_empty())
            | flag(HAS_STRANGER, stranger.is_some())
            | flag(IS_PREFERRED, is_preferred);
        out.extend_from_slice(&[flags]);
        let mut put = |number: u64| put_varint(&mut out, number);
        // What lies in the past is as good as never.
        put(if *admin_barrier <= group.applied_index() { 0 } else { admin_barrier.0 });
        put(if *settled <= now { 0 } else { settled.0 });
        put(*link_mark);
        put(durable.0);
        put(*round_told);
        put(*round_seen);
        put(promised_to.0);
        put(fresh_as_of.0);
        if !departed.is_empty() {
            put(departed.len() as u64);
        }
        departed.iter().chain(stranger).for_each(|(replica, store)| {
            put(replica.0);
            put(store.0);
        });
        if has_merged {
            for record in [merge.absorbed.encode(), merge.fenced.encode()] {
                put_varint(&mut out, record.len() as u64);
                out.extend_from_slice(&record);
            }
        }
        let mut rest = Vec::with_capacity(out.len() + 128);
        rest.extend_from_slice(&out);
        let known = Membership::from_replicas(&descriptor.replicas);
        group.pack(&known, &mut rest).then(|| Self { region: Packed::new(descriptor), rest: rest.into() })
    }

    fn unpack<R>(&self, key: SlotKey, options: &Arc<Options>, now: Time) -> Region<R> {
        let descriptor = self.region.unpack();
        let flags = self.rest[0];
        let mut at = 1;
        let mut next = || get_varint(&self.rest, &mut at).expect("invariant: it was packed here");
        let (admin_barrier, settled) = (LogIndex(next()), Time(next()));
        let (link_mark, durable) = (next(), LogIndex(next()));
        let (round_told, round_seen) = (next(), next());
        let (promised_to, fresh_as_of) = (StoreId(next()), Time(next()));
        let departed = if flags & HAS_DEPARTED != 0 { next() } else { 0 };
        let mut place = || (ReplicaId(next()), StoreId(next()));
        let departed = (0..departed).map(|_| place()).collect();
        let stranger = (flags & HAS_STRANGER != 0).then(&mut place);
        let mut merge = MergeState::default();
        if flags & HAS_MERGED != 0 {
            let mut record = || {
                let length = get_varint(&self.rest, &mut at).expect("invariant: it was packed here") as usize;
                let record = Bytes::copy_from_slice(&self.rest[at..at + length]);
                at += length;
                record
            };
            let (absorbed, fenced) = (record(), record());
            merge.absorbed = Arc::new(Absorbed::decode(&absorbed).expect("invariant: it was packed here"));
            merge.fenced = Arc::new(FencedReplicas::decode(&fenced).expect("invariant: it was packed here"));
        }
        let known = Membership::from_replicas(&descriptor.replicas);
        let group = Group::unpack(Arc::clone(options), known, &self.rest[at..]);
        Region {
            id: descriptor.id,
            stores: first_stores(&descriptor),
            descriptor,
            stranger,
            departed,
            group,
            key,
            initialised: true,
            admin_barrier,
            // It had a leader as long as it slept.
            lonely_since: now,
            merge,
            driving: None,
            release_at: None,
            touched: false,
            link_mark,
            durable,
            settled,
            held: false,
            round_told,
            round_seen,
            promised_to,
            fresh_as_of,
            paused: false,
            listed_paused: false,
            attempt: Attempt::None,
            stirred: true,
            listed: false,
            trimmed: false,
            busy: None,
        }
    }

    fn glimpse(&self) -> Glimpse {
        let is = |flag: u8| self.rest[0] & flag != 0;
        Glimpse { leads: is(LEADS), is_preferred: is(LEADS) && is(IS_PREFERRED) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use multiraft_raft::{
        Body, HardState, KeyRange, LogSummary, Message, Output, RegionEpoch, RegionId, Replica, Role, Term, TermRun,
    };

    use super::*;
    use crate::logic::RegionStart;
    use crate::region::check::{FencedReplica, StateDigest};

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
            regions
                .slab
                .get_mut(key)
                .into_iter()
                .for_each(|cell| *cell = Cell::Awake(Box::new(learner(key, &options))));
            disturb(regions.get_mut(key).unwrap());
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
        assert!(size_of::<Cell<()>>() <= 32, "{}", size_of::<Cell<()>>());
        let options = Arc::new(Options::default());
        let region = learner(SlotKey { slot: 0, generation: 1 }, &options);
        let asleep = Asleep::pack(&region, NOW).unwrap();
        assert!(asleep.rest.len() < 190, "{} bytes with all that a region can have", asleep.rest.len());
    }
}
