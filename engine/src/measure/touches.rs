//! What commands and queries touch: how many keys, and a sample of them in which each is as likely as any other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use multiraft_raft::RegionId;

/// How many keys a sample holds.
pub(crate) const SAMPLE: usize = 32;
/// Tallies of different regions lie under different locks, as far as that goes.
const SHARDS: usize = 16;

/// Keys that were touched, each time counted anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touches {
    /// How many.
    pub(crate) count: u64,
    /// How many of them were removed.
    pub(crate) removed: u64,
    /// The bytes that were written: keys and values.
    pub(crate) bytes: u64,
    /// Some of them. Invariant: all if there are no more than [`SAMPLE`].
    pub(crate) keys: Vec<Bytes>,
    dice: Dice,
}

impl Touches {
    /// Nothing yet; what is drawn follows from the seed.
    fn seeded(seed: u64) -> Self {
        // Far apart in the sequence that all draw from.
        Self { dice: Dice(seed.wrapping_mul(0xd6e8_feb8_6659_fd93)), ..Self::default() }
    }

    /// One more key. It is asked for only if it is drawn.
    pub(crate) fn note(&mut self, key: impl FnOnce() -> Bytes) {
        self.count += 1;
        if self.keys.len() < SAMPLE {
            return self.keys.push(key());
        }
        // Vitter's algorithm R.
        let at = self.dice.below(self.count);
        if let Some(place) = usize::try_from(at).ok().and_then(|at| self.keys.get_mut(at)) {
            *place = key();
        }
    }

    /// Touches whose keys nobody can tell.
    pub(crate) fn note_unknown(&mut self) {
        self.count += 1;
    }

    /// Adds what was touched elsewhere.
    pub(crate) fn add(&mut self, mut other: Self) {
        let mut weights = [self.count, other.count];
        self.count += other.count;
        self.removed += other.removed;
        self.bytes += other.bytes;
        if self.keys.len() + other.keys.len() <= SAMPLE {
            return self.keys.append(&mut other.keys);
        }
        let mut from = [std::mem::take(&mut self.keys), other.keys];
        // As if the touches themselves were drawn, without putting them back: each draw takes one from where it fell.
        while self.keys.len() < SAMPLE && from.iter().any(|keys| !keys.is_empty()) {
            for (weight, keys) in weights.iter_mut().zip(&from) {
                *weight = if keys.is_empty() { 0 } else { (*weight).max(1) };
            }
            let which = usize::from(self.dice.below(weights[0] + weights[1]) >= weights[0]);
            let at = self.dice.below(from[which].len() as u64) as usize;
            self.keys.push(from[which].swap_remove(at));
            weights[which] -= 1;
        }
    }
}

/// A sequence of numbers that look random (splitmix64); the same for ever from the same beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dice(u64);

impl Dice {
    /// A number below `end`; 0 if that is 0.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(end)) >> 64) as u64
    }
}

/// What was done in one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By commands that this replica has applied.
    pub(crate) writes: Touches,
    /// By queries that were answered here.
    pub(crate) reads: Touches,
}

/// What was done in all regions since this was last taken. Shared by all who carry out, and by who takes it.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    shards: [Mutex<BTreeMap<RegionId, Tally>>; SHARDS],
    /// The last seed.
    seed: AtomicU64,
}

impl Tallies {
    /// To be filled, and added.
    pub(crate) fn touches(&self) -> Touches {
        Touches::seeded(self.seed.fetch_add(1, Ordering::Relaxed))
    }

    fn tally(&self) -> Tally {
        Tally { writes: self.touches(), reads: self.touches() }
    }

    pub(crate) fn add_writes(&self, region: RegionId, writes: Touches) {
        if writes.count > 0 {
            self.shard(region).entry(region).or_insert_with(|| self.tally()).writes.add(writes);
        }
    }

    pub(crate) fn add_reads(&self, region: RegionId, reads: Touches) {
        if reads.count > 0 {
            self.shard(region).entry(region).or_insert_with(|| self.tally()).reads.add(reads);
        }
    }

    /// All of it, by region.
    pub(crate) fn take(&self) -> BTreeMap<RegionId, Tally> {
        let mut all = BTreeMap::new();
        for shard in &self.shards {
            all.append(&mut std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        all
    }

    fn shard(&self, region: RegionId) -> MutexGuard<'_, BTreeMap<RegionId, Tally>> {
        self.shards[(region.get() % SHARDS as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Bytes {
        Bytes::from(format!("{n:06}"))
    }

    fn below(touches: &Touches, bound: u64) -> usize {
        touches.keys.iter().filter(|found| **found < key(bound)).count()
    }

    #[test]
    fn few_touches_are_all_in_the_sample() {
        let mut touches = Touches::default();
        (0..20).for_each(|n| touches.note(|| key(n)));
        let mut more = Touches::default();
        (20..SAMPLE as u64).for_each(|n| more.note(|| key(n)));
        touches.add(more);
        assert_eq!(touches.keys, (0..SAMPLE as u64).map(key).collect::<Vec<_>>());
        assert_eq!(touches.count, SAMPLE as u64);
    }

    #[test]
    fn every_touch_is_as_likely_to_be_drawn_as_any_other_also_across_unequal_parts() {
        // A nineteenth of all touches come in the small parts; over many rounds their share of the samples is that.
        let (mut from_small, mut all) = (0, 0);
        let tallies = Tallies::default();
        for _ in 0..400 {
            let mut touches = tallies.touches();
            for _ in 0..10 {
                let (mut large, mut small) = (tallies.touches(), tallies.touches());
                (0..180).for_each(|n| large.note(|| key(100 + n)));
                (0..10).for_each(|n| small.note(|| key(n)));
                touches.add(large);
                touches.add(small);
            }
            assert_eq!((touches.keys.len(), touches.count), (SAMPLE, 1900));
            (from_small, all) = (from_small + below(&touches, 100), all + SAMPLE);
        }
        let permille = from_small * 1000 / all;
        assert!((40..66).contains(&permille), "{permille} of 1000 instead of 53");
    }

    #[test]
    fn tallies_are_kept_by_region_and_taken_once() {
        let tallies = Tallies::default();
        let mut one = Touches::default();
        one.note(|| key(1));
        tallies.add_writes(RegionId(2), one.clone());
        tallies.add_writes(RegionId(18), one.clone());
        tallies.add_reads(RegionId(2), one.clone());
        tallies.add_reads(RegionId(3), Touches::default());
        let taken = tallies.take();
        assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [RegionId(2), RegionId(18)]);
        let Tally { writes, reads } = &taken[&RegionId(2)];
        assert_eq!((&writes.keys, writes.count, &reads.keys, reads.count), (&one.keys, 1, &one.keys, 1));
        assert!(tallies.take().is_empty());
    }
}
