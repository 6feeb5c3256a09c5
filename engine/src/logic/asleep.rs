//! A replica that sleeps, in as few bytes as hold it, and where those of one worker are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use multiraft_raft::{Group, LogIndex, Membership, Options, ReplicaId, StoreId, Time};
use multiraft_router::SlotKey;
use multiraft_storage::BytePool;

use crate::logic::campaign::Attempt;
use crate::logic::region::{Region, first_stores, has_witness};
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

/// What can be told of a replica that sleeps without waking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Glimpse {
    pub(super) leads: bool,
    /// It leads, and is the replica that should.
    pub(super) is_preferred: bool,
}

/// What is kept of a replica beside its descriptor: its slot, flags, what its store keeps beside the group, the group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pool: u8,
    number: u32,
}

/// How the sizes of places grow from one pool to the next, in bytes.
const STEP: usize = 8;
/// In the place of a pool: what is too large for all of them, found by its slot. A region that has absorbed some hundred others, for instance.
const LARGE: u8 = u8::MAX;
/// Before all else: the slot that the bytes belong to, and how much of their place they leave empty.
const HEAD: usize = 5;

/// What is kept of those who sleep.
pub(super) struct Rests {
    pools: Vec<BytePool>,
    large: BTreeMap<u32, Box<[u8]>>,
}

impl Rests {
    pub(super) fn new() -> Self {
        let sizes = (1..=BytePool::SIZE_MAX / STEP as u16).map(|steps| steps * STEP as u16);
        Self { pools: sizes.map(BytePool::new).collect(), large: BTreeMap::new() }
    }

    pub(super) fn get(&self, rest: Rest) -> &[u8] {
        if rest.pool == LARGE {
            return &self.large[&rest.number][HEAD..];
        }
        let place = self.pools[usize::from(rest.pool)].get(rest.number);
        &place[HEAD..place.len() - usize::from(place[HEAD - 1])]
    }

    /// Keeps what was packed for the replica in `slot`.
    pub(super) fn keep(&mut self, slot: u32, mut packed: Vec<u8>) -> Rest {
        let pool = packed.len().div_ceil(STEP) - 1;
        let Some(places) = self.pools.get_mut(pool) else {
            self.large.insert(slot, packed.into());
            return Rest { pool: LARGE, number: slot };
        };
        packed[..HEAD - 1].copy_from_slice(&slot.to_le_bytes());
        packed[HEAD - 1] = ((pool + 1) * STEP - packed.len()) as u8;
        Rest { pool: pool as u8, number: places.push(&packed) }
    }

    /// Drops what is kept there. The slot of what is kept there now, if something has moved.
    pub(super) fn drop(&mut self, rest: Rest) -> Option<u32> {
        if rest.pool == LARGE {
            self.large.remove(&rest.number);
            return None;
        }
        let pool = &mut self.pools[usize::from(rest.pool)];
        pool.swap_remove(rest.number);
        let moved = (rest.number < pool.len()).then(|| pool.get(rest.number))?;
        moved.first_chunk().map(|slot| u32::from_le_bytes(*slot))
    }
}

/// What is to be kept of a replica that sleeps, if nothing of it is under way.
pub(super) fn pack<R>(region: &Region<R>, now: Time) -> Option<(Packed, Vec<u8>)> {
    // Taken apart, so that whoever adds something decides here what becomes of it.
    let Region {
        id: _,
        stores: _,
        has_witness: _,
        descriptor,
        slept_as,
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
    let mut rest = Vec::with_capacity(HEAD + out.len() + 128);
    rest.resize(HEAD, 0);
    rest.extend_from_slice(&out);
    let known = Membership::from_replicas(&descriptor.replicas);
    group.pack(&known, &mut rest).then(|| (Packed::again(slept_as.as_ref(), descriptor), rest))
}

/// The replica of which this was kept.
pub(super) fn unpack<R>(packed: &Packed, rest: &[u8], key: SlotKey, options: &Arc<Options>, now: Time) -> Region<R> {
    let descriptor = packed.unpack();
    let flags = rest[0];
    let mut at = 1;
    let mut next = || get_varint(rest, &mut at).expect("invariant: it was packed here");
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
            let length = get_varint(rest, &mut at).expect("invariant: it was packed here") as usize;
            let record = Bytes::copy_from_slice(&rest[at..at + length]);
            at += length;
            record
        };
        let (absorbed, fenced) = (record(), record());
        merge.absorbed = Arc::new(Absorbed::decode(&absorbed).expect("invariant: it was packed here"));
        merge.fenced = Arc::new(FencedReplicas::decode(&fenced).expect("invariant: it was packed here"));
    }
    let known = Membership::from_replicas(&descriptor.replicas);
    let group = Group::unpack(Arc::clone(options), known, &rest[at..]);
    Region {
        id: descriptor.id,
        stores: first_stores(&descriptor),
        has_witness: has_witness(&descriptor),
        descriptor,
        slept_as: Some(packed.clone()),
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

pub(super) fn glimpse(rest: &[u8]) -> Glimpse {
    let is = |flag: u8| rest[0] & flag != 0;
    Glimpse { leads: is(LEADS), is_preferred: is(LEADS) && is(IS_PREFERRED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(length: usize, value: u8) -> Vec<u8> {
        let mut packed = vec![0; HEAD];
        packed.resize(HEAD + length, value);
        packed
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was_and_is_found_when_it_moves() {
        let mut rests = Rests::new();
        let kept: Vec<Rest> =
            (0..50).map(|slot| rests.keep(slot, packed(60 + slot as usize % 3, slot as u8))).collect();
        kept.iter()
            .zip(0..50)
            .for_each(|(rest, slot)| assert_eq!(rests.get(*rest), &packed(60 + slot % 3, slot as u8)[HEAD..]));
        // Slots 1, 4, 7 and so on share their pool with those before them, and 49 is the last of these.
        assert_eq!(rests.drop(kept[4]), Some(49));
        assert_eq!(rests.get(kept[4]), [49; 61]);
        assert_eq!(rests.drop(kept[48]), None, "it was the last");
    }

    #[test]
    fn what_is_too_large_for_all_pools_is_kept_by_itself() {
        let mut rests = Rests::new();
        let most = usize::from(BytePool::SIZE_MAX) - HEAD;
        for length in [most, most + 1] {
            let (first, second) = (rests.keep(1, packed(length, 7)), rests.keep(2, packed(length, 8)));
            assert_eq!(rests.get(first), vec![7; length]);
            let moved = rests.drop(first);
            let second = if moved == Some(2) { first } else { second };
            assert_eq!(rests.get(second), vec![8; length]);
            rests.drop(second);
        }
        assert!(rests.large.is_empty() && rests.pools.iter().all(BytePool::is_empty));
    }
}
