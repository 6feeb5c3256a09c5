//! The keys of a workload: some are in use at a time, and give way to others before their histories get long.
//!
//! ```text
//! key:483920:rA1B2C3D4.3.17        group of slot 3, generation 17; A1B2C3D4 is the mark of the seed
//! key:483920:rA1B2C3D4.3.17.m2     its third member, in the same region
//! key:483920                       where a region may be split: before all of the group
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::random::{Random, mix};

/// How many places there are for regions to be cut at.
const NUMBERS: u64 = 1_000_000;

/// A key, or several that stay in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Group {
    pub(super) slot: u64,
    pub(super) generation: u64,
}

/// How long a generation lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// For so many uses at most.
    pub(super) uses: u64,
    /// And at most so long.
    pub(super) length: Duration,
}

impl Life {
    /// For the whole run.
    pub(super) const ENDLESS: Self = Self { uses: u64::MAX, length: Duration::MAX };
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    used: u64,
    since: Instant,
}

/// Slots, each of which has one group in use.
#[derive(Debug)]
pub(super) struct Keys {
    seed: u64,
    letter: char,
    life: Life,
    slots: Vec<Mutex<Slot>>,
}

impl Keys {
    /// So many slots, at least one. The letter tells workloads apart.
    pub(super) fn new(seed: u64, letter: char, slots: u64, life: Life) -> Self {
        let slot = |_| Mutex::new(Slot { generation: 0, used: 0, since: Instant::now() });
        Self { seed, letter, life, slots: (0..slots).map(slot).collect() }
    }

    /// One of the groups in use, and how often it was drawn before.
    pub(super) fn draw(&self, random: &mut Random) -> (Group, u64) {
        let slot = random.index(self.slots.len());
        let number = slot as u64;
        let mut slot = self.slots[slot].lock().unwrap_or_else(PoisonError::into_inner);
        if slot.used >= self.life.uses || slot.since.elapsed() >= self.life.length {
            *slot = Slot { generation: slot.generation + 1, used: 0, since: Instant::now() };
        }
        slot.used += 1;
        (Group { slot: number, generation: slot.generation }, slot.used - 1)
    }

    /// All groups that are or were in use.
    pub(super) fn all(&self) -> Vec<Group> {
        let of_slot = |(number, last): (u64, Group)| {
            (0..=last.generation).map(move |generation| Group { slot: number, generation })
        };
        (0..).zip(self.in_use()).flat_map(of_slot).collect()
    }

    fn in_use(&self) -> Vec<Group> {
        let generation = |slot: &Mutex<Slot>| slot.lock().unwrap_or_else(PoisonError::into_inner).generation;
        (0..).zip(&self.slots).map(|(slot, state)| Group { slot, generation: generation(state) }).collect()
    }

    /// The six digits that a group shares: each slot has its part of the space, and each generation its place there.
    pub(super) fn number(&self, group: Group) -> u64 {
        let slots = self.slots.len() as u64;
        let (start, end) = (group.slot * NUMBERS / slots, (group.slot + 1) * NUMBERS / slots);
        let drawn = mix(self.seed ^ mix(group.slot ^ mix(group.generation)));
        start + drawn % (end - start).max(1)
    }

    /// The key of a group that is one key.
    pub(super) fn name(&self, group: Group) -> String {
        format!("key:{:06}:{}{}.{}", self.number(group), self.mark(), group.slot, group.generation)
    }

    /// The key of a member of a group.
    pub(super) fn member(&self, group: Group, member: u64) -> String {
        format!("{}.m{member}", self.name(group))
    }

    /// What all keys of this run have behind their digits, and no others.
    pub(super) fn mark(&self) -> String {
        format!("{}{:08X}.", self.letter, mix(self.seed) >> 32)
    }

    /// A key where a region may be split.
    pub(super) fn cut(&self, random: &mut Random) -> Vec<u8> {
        let number = if random.chance(200) {
            random.below(NUMBERS)
        } else {
            // Just before a group, or just behind it.
            let group = *random.pick(&self.in_use());
            (self.number(group) + random.below(2)).min(NUMBERS - 1)
        };
        cut_at(number)
    }
}

fn cut_at(number: u64) -> Vec<u8> {
    format!("key:{number:06}").into_bytes()
}

/// What somebody remembers of groups, as long as they are few.
#[derive(Debug)]
pub(super) struct Memory<T>(BTreeMap<Group, T>);

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Memory<T> {
    const KEPT: usize = 256;

    pub(super) fn get(&self, group: Group) -> Option<&T> {
        self.0.get(&group)
    }

    pub(super) fn take(&mut self, group: Group) -> Option<T> {
        self.0.remove(&group)
    }

    pub(super) fn keep(&mut self, group: Group, what: T) {
        if self.0.len() >= Self::KEPT {
            self.0.clear();
        }
        self.0.insert(group, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_spread_over_the_space_and_no_cut_divides_one() {
        let keys = Keys::new(7, 'r', 8, Life { uses: 3, length: Duration::MAX });
        let mut random = Random::new(1);
        for _ in 0..500 {
            keys.draw(&mut random);
        }
        let all = keys.all();
        assert!((160..=200).contains(&all.len()), "{}", all.len());
        for slot in 0..8 {
            let of_slot: Vec<u64> =
                all.iter().filter(|group| group.slot == slot).map(|group| keys.number(*group)).collect();
            assert!(of_slot.iter().all(|number| number / 125_000 == slot), "{of_slot:?}");
        }
        let cuts: Vec<Vec<u8>> = (0..2_000).map(|_| keys.cut(&mut random)).collect();
        for group in all {
            let (first, last) = (keys.name(group).into_bytes(), keys.member(group, 9).into_bytes());
            assert!(cuts.iter().all(|cut| !(first < *cut && *cut <= last)), "{group:?}");
        }
    }

    #[test]
    fn a_generation_ends_after_its_uses_and_counts_them() {
        let keys = Keys::new(7, 'r', 1, Life { uses: 2, length: Duration::MAX });
        let mut random = Random::new(1);
        let drawn: Vec<(u64, u64)> =
            (0..5).map(|_| keys.draw(&mut random)).map(|(group, turn)| (group.generation, turn)).collect();
        assert_eq!(drawn, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]);
        let soon = Keys::new(7, 'r', 1, Life { uses: 2, length: Duration::ZERO });
        assert_eq!((soon.draw(&mut random).0.generation, soon.draw(&mut random).0.generation), (1, 2));
    }

    #[test]
    fn runs_with_other_seeds_have_other_keys() {
        let group = Group { slot: 0, generation: 0 };
        let name = |seed| Keys::new(seed, 'r', 4, Life::ENDLESS).name(group);
        assert_eq!(name(1), name(1));
        assert_ne!(name(1), name(2));
    }
}
