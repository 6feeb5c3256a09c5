//! A share of all groups: who is there, and each in one of two forms.
//!
//! A group that something was just written for is *open*: a [`Group`], to be worked on. When nothing is written for it any
//! more, when the writer rests, or when too many are open, it is packed (see [`packed`](super::packed)) and lies in a pool of
//! places that are just large enough. A group that is too large for that stays open. Readers see no difference.
//!
//! The groups are found through a table of four bytes for each: a few bits of the region's hash, and the place.
//!
//! Invariants: a group has one place and one slot of the table, which names that place; the slots that a search for it
//! passes are taken.

use multiraft_raft::RegionId;

use super::group::{Group, Tip};
use super::packed::{self, PACKED_MAX, Packed};
use crate::BytePool;

/// How many groups of a shard may be open that could be packed.
const OPEN_MAX: usize = 2048;
/// How many of them are looked at to find one that can rather be packed than others.
const LOOKS_FOR_ROOM: usize = 4;
/// How many packed groups are worked on as they are, when there is no room, before one is opened.
const TURNED_AWAY_MAX: u32 = 8;
/// The sizes of places for packed groups.
const SIZES: [u16; 15] = [20, 24, 28, 32, 36, 40, 44, 48, 56, 64, 80, 102, 128, 170, PACKED_MAX as u16];
/// A free slot.
const FREE: u32 = u32::MAX;
const SLOTS_MIN: usize = 8;
/// A slot's number of the place, of the pool, and bits of the hash.
const NUMBER_BITS: u32 = 22;
const POOL_BITS: u32 = 4;
const TAG_BITS: u32 = 6;

/// Where a group lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Of [`SIZES`], or [`Place::OPEN`].
    pool: usize,
    number: u32,
}

impl Place {
    const OPEN: usize = SIZES.len();

    fn slot(self, hash: u64) -> u32 {
        // Four million groups of one form in one shard: far more than a store's memory holds.
        assert!(self.number < (1 << NUMBER_BITS) - 1, "too many groups for the log's index");
        let tag = (hash as u32) & ((1 << TAG_BITS) - 1);
        tag << (NUMBER_BITS + POOL_BITS) | (self.pool as u32) << NUMBER_BITS | self.number
    }

    fn of(slot: u32) -> Self {
        let pool = (slot >> NUMBER_BITS) & ((1 << POOL_BITS) - 1);
        Self { pool: pool as usize, number: slot & ((1 << NUMBER_BITS) - 1) }
    }
}

/// A group that is worked on.
#[derive(Debug)]
struct Open {
    region: RegionId,
    /// It is among those that will be packed.
    to_pack: bool,
    /// Something was written for it since it was last looked at.
    is_fresh: bool,
    group: Group,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shard {
    slots: Vec<u32>,
    groups: usize,
    pools: [BytePool; SIZES.len()],
    open: Vec<Open>,
    /// Open groups that something was written for since they were last looked at; perhaps some that are gone.
    to_pack: Vec<RegionId>,
    /// Which of them is looked at next.
    next_look: usize,
    /// How many groups were not opened, for want of room, since one was.
    turned_away: u32,
}

impl Default for Shard {
    fn default() -> Self {
        let (slots, open, to_pack) = (Vec::new(), Vec::new(), Vec::new());
        Self { slots, groups: 0, pools: SIZES.map(BytePool::new), open, to_pack, next_look: 0, turned_away: 0 }
    }
}

/// The hash of a region; all its bits are good. The finaliser of splitmix64.
pub(crate) fn hash(region: RegionId) -> u64 {
    let mut z = region.0;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Shard {
    pub(crate) fn len(&self) -> usize {
        self.groups
    }

    /// Looks at a group.
    pub(crate) fn look<T>(&self, region: RegionId, look: impl FnOnce(&Group) -> T) -> Option<T> {
        let (_, place) = self.find(region)?;
        Some(match self.pools.get(place.pool) {
            Some(pool) => look(&packed::unpack(pool.get(place.number))),
            None => look(&self.open[place.number as usize].group),
        })
    }

    /// Where a group's log ends: quicker than a look.
    pub(crate) fn tip(&self, region: RegionId) -> Option<Tip> {
        let (_, place) = self.find(region)?;
        Some(match self.pools.get(place.pool) {
            Some(pool) => packed::tip(pool.get(place.number)),
            None => self.open[place.number as usize].group.tip(),
        })
    }

    /// Works on a group, which then stays open for a while if there is room; `make` makes it if it is not there.
    pub(crate) fn work<T>(
        &mut self,
        region: RegionId,
        make: impl FnOnce() -> Group,
        work: impl FnOnce(&mut Group) -> T,
    ) -> T {
        let at = match self.find(region) {
            Some((_, place)) if place.pool == Place::OPEN => place.number,
            Some((slot, place)) => {
                if !self.may_open() {
                    return self.change_packed(slot, place, region, work);
                }
                self.open_packed(slot, place, region)
            }
            None => self.insert(region, make()),
        };
        let open = &mut self.open[at as usize];
        let done = work(&mut open.group);
        open.is_fresh = true;
        self.list(at);
        done
    }

    /// Changes a group that nobody writes for: it keeps the form it has, if it can. `make` makes it if it is not there.
    pub(crate) fn change<T>(
        &mut self,
        region: RegionId,
        make: impl FnOnce() -> Group,
        change: impl FnOnce(&mut Group) -> T,
    ) -> T {
        match self.find(region) {
            Some((_, place)) if place.pool == Place::OPEN => {
                let done = change(&mut self.open[place.number as usize].group);
                self.list(place.number);
                done
            }
            Some((slot, place)) => self.change_packed(slot, place, region, change),
            None => self.work(region, make, change),
        }
    }

    /// Takes a group out.
    pub(crate) fn remove(&mut self, region: RegionId) -> Option<Group> {
        let (slot, place) = self.find(region)?;
        self.clear_slot(slot);
        self.groups -= 1;
        let group = if place.pool == Place::OPEN {
            self.take_open(place.number)
        } else {
            let group = packed::unpack(self.pools[place.pool].get(place.number));
            self.free(place);
            group
        };
        if self.slots.len() > SLOTS_MIN && self.groups < self.slots.len() / 4 {
            self.resize(self.slots.len() / 2);
        }
        Some(group)
    }

    /// Packs up to `count` open groups. Answers whether some are left.
    pub(crate) fn pack(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some(region) = self.to_pack.pop() else { break };
            self.pack_group(region);
        }
        !self.to_pack.is_empty()
    }

    /// Looks at up to `count` of the groups that can be packed, in turn, and packs those for which nothing was written since
    /// the last look.
    pub(crate) fn age(&mut self, count: usize) {
        for _ in 0..count.min(self.to_pack.len()) {
            self.look_at_next(false);
        }
    }

    /// Whether nothing is left to pack.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.to_pack.is_empty() && self.to_pack.capacity() == 0
    }

    /// After a burst: gives back what only open groups need.
    pub(crate) fn give_back(&mut self) {
        self.to_pack.shrink_to_fit();
        self.open.shrink_to_fit();
    }

    /// All its groups, in no order.
    pub(crate) fn regions(&self) -> impl Iterator<Item = RegionId> {
        let packed = self.pools.iter().flat_map(|pool| (0..pool.len()).map(|at| packed::region(pool.get(at))));
        packed.chain(self.open.iter().map(|open| open.region))
    }

    /// What it has allocated, in bytes.
    pub(crate) fn heap(&self) -> usize {
        let table = self.slots.capacity() * size_of::<u32>() + self.to_pack.capacity() * size_of::<RegionId>();
        let open: usize = self.open.iter().map(|open| open.group.blocks.heap()).sum();
        let pools: usize = self.pools.iter().map(BytePool::heap).sum();
        table + pools + open + self.open.capacity() * size_of::<Open>()
    }

    /// Puts an open group among those that will be packed.
    fn list(&mut self, at: u32) {
        let open = &mut self.open[at as usize];
        if !std::mem::replace(&mut open.to_pack, true) {
            self.to_pack.push(open.region);
            if self.to_pack.len() > OPEN_MAX {
                self.make_room();
            }
        }
    }

    /// One group too many is open: packs one, rather one that was not written for lately.
    fn make_room(&mut self) {
        for tries_left in (0..LOOKS_FOR_ROOM).rev() {
            if self.look_at_next(tries_left == 0) {
                return;
            }
        }
    }

    /// Packs the next group in turn if nothing was written for it since the last look, or in any case. Answers whether it did.
    fn look_at_next(&mut self, in_any_case: bool) -> bool {
        if self.next_look >= self.to_pack.len() {
            self.next_look = 0;
        }
        let Some(region) = self.to_pack.get(self.next_look).copied() else { return true };
        let open = self.find(region).filter(|(_, place)| place.pool == Place::OPEN);
        let is_fresh = open.is_some_and(|(_, place)| std::mem::take(&mut self.open[place.number as usize].is_fresh));
        if is_fresh && !in_any_case {
            self.next_look += 1;
            return false;
        }
        self.to_pack.swap_remove(self.next_look);
        self.pack_group(region);
        true
    }

    /// Whether a packed group that is worked on is to be opened. If as many are open as may be, only one in a few is: when far
    /// more groups than that are written for in turn, each would be opened and packed for one record.
    fn may_open(&mut self) -> bool {
        self.turned_away += 1;
        let may = self.to_pack.len() < OPEN_MAX || self.turned_away >= TURNED_AWAY_MAX;
        if may {
            self.turned_away = 0;
        }
        may
    }

    /// Changes a packed group, which stays packed if it is not too large then.
    fn change_packed<T>(
        &mut self,
        slot: usize,
        place: Place,
        region: RegionId,
        change: impl FnOnce(&mut Group) -> T,
    ) -> T {
        let mut group = packed::unpack(self.pools[place.pool].get(place.number));
        let done = change(&mut group);
        match Packed::new(region, &group) {
            Some(packed) => {
                let pool = fitting(&packed);
                if pool == place.pool {
                    self.pools[pool].set(place.number, packed.bytes());
                } else {
                    let number = self.pools[pool].push(packed.bytes());
                    self.slots[slot] = Place { pool, number }.slot(hash(region));
                    self.free(place);
                }
            }
            None => {
                self.open_at(slot, place, region, group);
            }
        }
        done
    }

    fn open_packed(&mut self, slot: usize, place: Place, region: RegionId) -> u32 {
        let group = packed::unpack(self.pools[place.pool].get(place.number));
        self.open_at(slot, place, region, group)
    }

    /// Moves a group, which it is given, from a packed place to an open one.
    fn open_at(&mut self, slot: usize, from: Place, region: RegionId, group: Group) -> u32 {
        let to = Place { pool: Place::OPEN, number: self.open.len() as u32 };
        self.open.push(Open { region, to_pack: false, is_fresh: false, group });
        self.slots[slot] = to.slot(hash(region));
        self.free(from);
        to.number
    }

    /// Packs an open group if it is not too large.
    fn pack_group(&mut self, region: RegionId) {
        // Removed meanwhile, perhaps made anew and packed.
        let Some((slot, from)) = self.find(region).filter(|(_, place)| place.pool == Place::OPEN) else { return };
        let open = &mut self.open[from.number as usize];
        open.to_pack = false;
        let Some(packed) = Packed::new(region, &open.group) else { return };
        let pool = fitting(&packed);
        let number = self.pools[pool].push(packed.bytes());
        self.slots[slot] = Place { pool, number }.slot(hash(region));
        self.take_open(from.number);
    }

    /// Frees a packed place that no slot names any more.
    fn free(&mut self, place: Place) {
        let pool = &mut self.pools[place.pool];
        let last = Place { number: pool.len() - 1, ..place };
        let moves = (place != last).then(|| packed::region(pool.get(last.number)));
        pool.swap_remove(place.number);
        if let Some(region) = moves {
            self.redirect(region, last, place);
        }
    }

    /// Frees an open place that no slot names any more.
    fn take_open(&mut self, number: u32) -> Group {
        let taken = self.open.swap_remove(number as usize);
        if let Some(moved) = self.open.get(number as usize) {
            let place = Place { pool: Place::OPEN, number };
            let last = Place { number: self.open.len() as u32, ..place };
            self.redirect(moved.region, last, place);
        }
        if self.open.capacity() > 16 && self.open.capacity() / 4 > self.open.len() {
            self.open.shrink_to(self.open.len() * 2);
        }
        taken.group
    }

    /// A group has moved: its slot names the new place.
    fn redirect(&mut self, region: RegionId, from: Place, to: Place) {
        let hash = hash(region);
        let named = from.slot(hash);
        let mut at = self.home(hash);
        while self.slots[at] != named {
            assert_ne!(self.slots[at], FREE, "every group has a slot");
            at = self.next(at);
        }
        self.slots[at] = to.slot(hash);
    }

    /// Adds a group that is not there, open.
    fn insert(&mut self, region: RegionId, group: Group) -> u32 {
        // At most four of five slots are taken.
        if (self.groups + 1) * 5 > self.slots.len() * 4 {
            self.resize((self.slots.len() / 2 * 3).max(SLOTS_MIN));
        }
        self.groups += 1;
        let place = Place { pool: Place::OPEN, number: self.open.len() as u32 };
        self.open.push(Open { region, to_pack: false, is_fresh: false, group });
        self.fill_slot(hash(region), place);
        place.number
    }

    fn fill_slot(&mut self, hash: u64, place: Place) {
        let mut at = self.home(hash);
        while self.slots[at] != FREE {
            at = self.next(at);
        }
        self.slots[at] = place.slot(hash);
    }

    /// Frees a slot; those behind it that a search would miss now move up.
    fn clear_slot(&mut self, slot: usize) {
        let count = self.slots.len();
        let distance = |from: usize, to: usize| (to + count - from) % count;
        let (mut hole, mut at) = (slot, self.next(slot));
        while self.slots[at] != FREE {
            let home = self.home(hash(self.region_at(Place::of(self.slots[at]))));
            if distance(home, at) >= distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.slots[hole] = FREE;
    }

    fn resize(&mut self, count: usize) {
        let old = std::mem::replace(&mut self.slots, vec![FREE; count]);
        for slot in old.into_iter().filter(|slot| *slot != FREE) {
            let place = Place::of(slot);
            self.fill_slot(hash(self.region_at(place)), place);
        }
    }

    /// The slot and the place of a group.
    fn find(&self, region: RegionId) -> Option<(usize, Place)> {
        if self.slots.is_empty() {
            return None;
        }
        let hash = hash(region);
        let tag = (hash as u32) & ((1 << TAG_BITS) - 1);
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return None;
            }
            if slot >> (NUMBER_BITS + POOL_BITS) == tag {
                let place = Place::of(slot);
                if self.region_at(place) == region {
                    return Some((at, place));
                }
            }
            at = self.next(at);
        }
    }

    fn region_at(&self, place: Place) -> RegionId {
        match self.pools.get(place.pool) {
            Some(pool) => packed::region(pool.get(place.number)),
            None => self.open[place.number as usize].region,
        }
    }

    /// Where the search for a group begins. Of the hash's bits, the tag and the choice of the shard use others.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    fn next(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }
}

/// The pool with the smallest places that are large enough.
fn fitting(packed: &Packed) -> usize {
    SIZES.partition_point(|size| usize::from(*size) < packed.bytes().len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::blocks::{Block, Blocks};
    use super::super::format::Loc;
    use super::*;

    /// A group of that size, of which the number tells one from all others.
    fn group(blocks: u32, number: u32) -> Group {
        let mut group = Group::new(number);
        let at = |offset| Loc { segment: 1, offset };
        let block = |first: u32| Block { first: first.into(), term: 1, count: 1, length: 200, at: at(first * 1_000) };
        group.blocks = Blocks::restore((1..=blocks).map(block).collect());
        group
    }

    #[derive(Clone, Debug)]
    enum Step {
        Work(u64, u32),
        Age(usize),
        Change(u64, u32),
        Remove(u64),
        Pack(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Some regions are alike in many bits.
        let region = || prop_oneof![0..30_u64, (0..30_u64).prop_map(|region| region << 58), any::<u64>()];
        let blocks = || prop_oneof![4 => 0..4_u32, 2 => 0..30_u32, 1 => 100..400_u32];
        let step = prop_oneof![
            3 => (region(), blocks()).prop_map(|(region, blocks)| Step::Work(region, blocks)),
            2 => (region(), blocks()).prop_map(|(region, blocks)| Step::Change(region, blocks)),
            2 => region().prop_map(Step::Remove),
            2 => (0..20_usize).prop_map(Step::Age),
            1 => (0..20_usize).prop_map(Step::Pack),
        ];
        prop::collection::vec(step, 1..500)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn a_shard_is_a_map(steps in steps()) {
            let (mut shard, mut map) = (Shard::default(), BTreeMap::new());
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Work(region, blocks) => {
                        shard.work(RegionId(region), || group(0, 0), |it| *it = group(blocks, number));
                        map.insert(RegionId(region), group(blocks, number));
                    }
                    Step::Change(region, blocks) => {
                        shard.change(RegionId(region), || group(0, 0), |it| *it = group(blocks, number));
                        map.insert(RegionId(region), group(blocks, number));
                    }
                    Step::Remove(region) => {
                        prop_assert_eq!(shard.remove(RegionId(region)), map.remove(&RegionId(region)));
                    }
                    Step::Age(count) => shard.age(count),
                    Step::Pack(count) => {
                        shard.pack(count);
                    }
                }
            }
            for (region, group) in &map {
                prop_assert_eq!(&shard.look(*region, Group::clone).unwrap(), group);
            }
            let mut regions: Vec<RegionId> = shard.regions().collect();
            regions.sort_unstable();
            prop_assert_eq!(&regions, &map.keys().copied().collect::<Vec<_>>());
            for (region, group) in map {
                prop_assert_eq!(shard.remove(region), Some(group));
            }
            prop_assert_eq!((shard.len(), shard.look(RegionId(1), |_| ())), (0, None));
            prop_assert!(!shard.pack(usize::MAX));
            shard.give_back();
            prop_assert!(shard.heap() <= SLOTS_MIN * 6, "{}", shard.heap());
        }
    }

    #[test]
    fn few_groups_are_open_at_once_but_for_those_that_cannot_be_packed() {
        let mut shard = Shard::default();
        for region in 0..5_000 {
            shard.work(RegionId(region), || group(1, 0), |_| ());
            assert!(shard.open.len() <= OPEN_MAX);
        }
        // Whoever goes on being written for is left alone.
        for region in 0..OPEN_MAX as u64 {
            shard.work(RegionId(4_999), || group(1, 0), |_| ());
            shard.work(RegionId(region), || group(1, 0), |_| ());
            let is_open = matches!(shard.find(RegionId(4_999)), Some((_, Place { pool: Place::OPEN, .. })));
            assert!(is_open || region < u64::from(TURNED_AWAY_MAX), "{region}");
        }
        for _ in 0..OPEN_MAX {
            shard.work(RegionId(4_999), || group(1, 0), |_| ());
            shard.age(4);
        }
        assert_eq!((shard.open.len(), shard.len()), (1, 5_000));
        assert!(!shard.pack(usize::MAX));
        assert_eq!(shard.open.len(), 0);
        for region in 0..600 {
            shard.work(RegionId(region), || group(1, 0), |it| *it = group(300, 1));
        }
        assert!(!shard.pack(usize::MAX));
        assert_eq!(shard.open.len(), 600);
        for region in 0..600 {
            shard.work(RegionId(region), || group(1, 0), |it| *it = group(3, 2));
        }
        assert!(!shard.pack(usize::MAX));
        shard.give_back();
        assert_eq!((shard.open.len(), shard.open.capacity()), (0, 0));
    }
}
