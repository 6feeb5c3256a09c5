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
use multiraft_raft::{Group, LogIndex, Membership, Options, ReplicaId, StoreId, Time};
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
        Self { slab: Slab::new(), options, now: Time::ZERO, packed: 0, unpacked: 0 }
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
            *cell = Cell::Awake(Box::new(asleep.unpack(key, &self.options, self.now)));
            self.unpacked += 1;
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

    fn seen<'a>(&self, key: SlotKey, cell: &'a Cell<R>) -> Seen<'a, R> {
        match cell {
            Cell::Awake(region) => Seen::Here(region),
            Cell::Asleep(asleep) => Seen::Copy(Box::new(asleep.unpack(key, &self.options, self.now))),
        }
    }

    pub(super) fn slots(&self) -> u32 {
        self.slab.slots()
    }

    /// How many times replicas were put to sleep, and woken.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.packed, self.unpacked)
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
            trimmed: _,
            busy,
        } = region;
        let is_listed = *touched || *held || *paused || *listed_paused || *attempt != Attempt::None;
        let is_open = driving.is_some() || release_at.is_some() || busy.is_some() || merge.frozen.is_some();
        let is_led = group.is_leader() || group.leader().is_some();
        let sleeps = *initialised && is_led && group.next_deadline() == Time::NEVER;
        if !sleeps || is_listed || is_open || stranger.is_some() {
            return None;
        }
        let has_merged = *merge != MergeState::default();
        let is_preferred = region.preferred().is_some_and(|replica| replica.id == group.id());
        let mut out = BytesMut::with_capacity(160);
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let flags = flag(LEADS, group.is_leader())
            | flag(HAS_MERGED, has_merged)
            | flag(HAS_DEPARTED, !departed.is_empty())
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
            departed.iter().for_each(|(replica, store)| {
                put(replica.0);
                put(store.0);
            });
        }
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
        let mut departed = Vec::new();
        if flags & HAS_DEPARTED != 0 {
            departed = (0..next()).map(|_| (ReplicaId(next()), StoreId(next()))).collect();
        }
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
            stranger: None,
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
mod tests {
    use super::*;

    #[test]
    fn a_slot_stays_small() {
        assert!(size_of::<Cell<()>>() <= 32, "{}", size_of::<Cell<()>>());
    }
}
