//! The groups of one worker, in slots that are reused, each occupant with a generation of its own.
//!
//! Single-threaded. Invariants: a generation is given out once in the life of a slab, so a key that outlived its occupant
//! never reaches another; the lowest free slot is reused first and iteration follows slot order, so equal histories give
//! equal layouts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;

/// Names one occupant of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The slot.
    pub slot: u32,
    /// Which of its occupants; never zero.
    pub generation: u32,
}

#[derive(Debug)]
struct Occupant<G> {
    /// So that an empty slot needs no word to say so.
    generation: NonZeroU32,
    group: G,
}

/// How many slots one allocation holds (few in this crate's own tests). A single one for all would double as it grows: half of it empty, all of it copied.
const CHUNK: usize = if cfg!(test) { 4 } else { 64 };

type Chunk<G> = Vec<Option<Occupant<G>>>;

/// Slots for groups `G`.
#[derive(Debug)]
pub struct Slab<G> {
    /// Invariant: all are full but the last, which is not empty; each is allocated as a whole.
    chunks: Vec<Chunk<G>>,
    /// Invariant: exactly the empty slots below `slots()`.
    free: BinaryHeap<Reverse<u32>>,
    /// The generation given out last.
    generation: u32,
}

impl<G> Default for Slab<G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G> Slab<G> {
    /// A slab without slots.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), free: BinaryHeap::new(), generation: 0 }
    }

    /// Moves `group` into the lowest free slot.
    pub fn insert(&mut self, group: G) -> SlotKey {
        self.insert_with(|_| group)
    }

    /// Like [`Slab::insert`], for a group that wants to know its own key.
    pub fn insert_with(&mut self, make: impl FnOnce(SlotKey) -> G) -> SlotKey {
        let slot = match self.free.pop() {
            Some(Reverse(slot)) => slot,
            None => {
                let slot = self.slots();
                match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
                    Some(chunk) => chunk.push(None),
                    None => {
                        let mut chunk = Vec::with_capacity(CHUNK);
                        chunk.push(None);
                        self.chunks.push(chunk);
                    }
                }
                slot
            }
        };
        // Four thousand million creations on one worker wrap it; a key that old is held by nobody. Zero stays unused.
        let generation = NonZeroU32::new(self.generation.wrapping_add(1)).unwrap_or(NonZeroU32::MIN);
        self.generation = generation.get();
        let key = SlotKey { slot, generation: self.generation };
        let occupant = Occupant { generation, group: make(key) };
        *self.place_mut(slot).expect("invariant: a free slot, or the one just made") = Some(occupant);
        key
    }

    fn place(&self, slot: u32) -> Option<&Option<Occupant<G>>> {
        self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)
    }

    fn place_mut(&mut self, slot: u32) -> Option<&mut Option<Occupant<G>>> {
        self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)
    }

    /// The occupant that `key` names, if it is still there.
    #[must_use]
    pub fn get(&self, key: SlotKey) -> Option<&G> {
        let occupant = self.place(key.slot)?.as_ref()?;
        (occupant.generation.get() == key.generation).then_some(&occupant.group)
    }

    /// The occupant that `key` names, if it is still there.
    #[must_use]
    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut G> {
        let occupant = self.place_mut(key.slot)?.as_mut()?;
        (occupant.generation.get() == key.generation).then_some(&mut occupant.group)
    }

    /// Whoever occupies `slot` now, for a walk that the worker keeps itself and resumes turn by turn.
    #[must_use]
    pub fn occupant(&self, slot: u32) -> Option<(SlotKey, &G)> {
        let occupant = self.place(slot)?.as_ref()?;
        Some((SlotKey { slot, generation: occupant.generation.get() }, &occupant.group))
    }

    /// Takes out the occupant that `key` names, if it is still there.
    pub fn remove(&mut self, key: SlotKey) -> Option<G> {
        let place = self.place_mut(key.slot)?;
        let occupant = place.take_if(|occupant| occupant.generation.get() == key.generation)?;
        self.free.push(Reverse(key.slot));
        Some(occupant.group)
    }

    /// Number of occupants.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots() as usize - self.free.len()
    }

    /// Whether every slot is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the highest slot in use or free: the end of a walk with [`Slab::occupant`].
    #[must_use]
    pub fn slots(&self) -> u32 {
        let slots = self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len());
        u32::try_from(slots).expect("a worker drives fewer than 2^32 groups")
    }

    /// All occupants in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (SlotKey, &G)> {
        (0..).zip(self.chunks.iter().flatten()).filter_map(|(slot, place)| {
            let occupant = place.as_ref()?;
            Some((SlotKey { slot, generation: occupant.generation.get() }, &occupant.group))
        })
    }

    /// All occupants in slot order, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SlotKey, &mut G)> {
        (0..).zip(self.chunks.iter_mut().flatten()).filter_map(|(slot, place)| {
            let occupant = place.as_mut()?;
            Some((SlotKey { slot, generation: occupant.generation.get() }, &mut occupant.group))
        })
    }

    /// Gives back the memory of free slots above the highest occupant. Keys stay valid. Costs a walk of the free slots.
    pub fn compact(&mut self) {
        while let Some(last) = self.chunks.last_mut() {
            let used = last.iter().rposition(Option::is_some).map_or(0, |highest| highest + 1);
            last.truncate(used);
            if used > 0 {
                break;
            }
            self.chunks.pop();
        }
        self.chunks.shrink_to_fit();
        let slots = self.slots();
        self.free.retain(|Reverse(slot)| *slot < slots);
        self.free.shrink_to_fit();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stale_key_does_not_reach_the_next_occupant() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot, old.slot);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
    }

    #[test]
    fn generations_survive_compaction() {
        let mut slab = Slab::new();
        let old = slab.insert(1);
        slab.remove(old);
        slab.compact();
        assert_eq!(slab.slots(), 0);
        let new = slab.insert(2);
        assert_eq!(new.slot, old.slot);
        assert_eq!(slab.get(old), None);
    }

    #[test]
    fn slots_go_on_from_chunk_to_chunk_and_empty_chunks_are_given_back() {
        let mut slab = Slab::new();
        let count = 20 * CHUNK as u32 + 1;
        let keys: Vec<SlotKey> = (0..count).map(|number| slab.insert(number)).collect();
        assert!((0..).zip(&keys).all(|(number, key)| key.slot == number && slab.get(*key) == Some(&number)));
        assert_eq!((slab.slots(), slab.len(), slab.iter().count()), (count, count as usize, count as usize));
        assert!((10..).zip(&keys[10..]).all(|(number, key)| slab.remove(*key) == Some(number)));
        assert_eq!((slab.slots(), slab.len()), (count, 10));
        slab.compact();
        assert_eq!((slab.slots(), slab.len(), slab.chunks.len()), (10, 10, 10_usize.div_ceil(CHUNK)));
        assert_eq!(slab.insert(7).slot, 10);
        assert!(slab.occupant(9).is_some() && slab.occupant(11).is_none());
    }

    #[test]
    fn group_learns_its_own_key() {
        let mut slab = Slab::new();
        let key = slab.insert_with(|key| key);
        assert_eq!(slab.get(key), Some(&key));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert,
        Remove(usize),
        Compact,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![3 => Just(Step::Insert), 2 => any::<usize>().prop_map(Step::Remove), 1 => Just(Step::Compact)]
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_every_key_ever_given(steps in prop::collection::vec(step(), 0..200)) {
            let mut slab = Slab::new();
            let mut model: BTreeMap<SlotKey, usize> = BTreeMap::new();
            let mut given = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert => {
                        let lowest = (0..).find(|slot| !model.keys().any(|key| key.slot == *slot)).unwrap();
                        let key = slab.insert(n);
                        prop_assert_eq!(key.slot, lowest);
                        prop_assert_eq!(model.insert(key, n), None);
                        prop_assert!(!given.contains(&key));
                        given.push(key);
                    }
                    Step::Remove(pick) if !given.is_empty() => {
                        let key = given[pick % given.len()];
                        prop_assert_eq!(slab.remove(key), model.remove(&key));
                    }
                    Step::Remove(_) => {}
                    Step::Compact => slab.compact(),
                }
                prop_assert_eq!(slab.len(), model.len());
                let walked: Vec<_> = slab.iter().map(|(key, value)| (key, *value)).collect();
                prop_assert_eq!(walked, model.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
                for key in &given {
                    prop_assert_eq!(slab.get(*key), model.get(key));
                }
            }
        }
    }
}
