//! When each group of one worker wants to run again.
//!
//! Single-threaded, no clock of its own. Followers move their election deadline at every heartbeat, so a deadline that moves
//! later touches nothing but its slot's cell; the queue keeps the earlier moment, and looks at the cell when that comes.
//! A group never runs late for it: at worst [`Deadlines::next`] names a moment at which nothing turns out to be due.
//!
//! Invariants: an armed slot has exactly one place in the queue, at or before its deadline, so memory is bounded by the
//! number of armed slots (and, by a word for 64 of them, the highest slot ever armed); groups come out in the order of (queued moment, slot), which
//! depends on nothing but the calls made.

use std::collections::BTreeSet;

use multiraft_raft::Time;

use crate::SlotKey;

#[derive(Clone, Copy, Debug)]
struct Armed {
    generation: u32,
    /// When the group wants to run.
    deadline: Time,
    /// Where the queue has it. Invariant: at or before `deadline`.
    queued: Time,
}

/// How many slots share an allocation (few in this crate's own tests), which is there while one of them is armed: groups that sleep
/// cost nothing.
const CHUNK: usize = if cfg!(test) { 4 } else { 64 };

#[derive(Debug)]
struct Chunk {
    cells: [Option<Armed>; CHUNK],
    /// Invariant: as many cells are.
    armed: usize,
}

/// The deadlines of one worker's groups, one a slot.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// Invariant: a chunk that is there has an armed cell.
    chunks: Vec<Option<Box<Chunk>>>,
    /// The one that was given back last, for the next: a group that is armed and disarmed again and again may be alone in its chunk.
    spare: Option<Box<Chunk>>,
    /// Invariant: holds (queued, slot) of every armed cell and nothing else.
    queue: BTreeSet<(Time, u32)>,
}

impl Deadlines {
    /// Nothing armed.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), spare: None, queue: BTreeSet::new() }
    }

    fn armed(&self, slot: u32) -> Option<&Armed> {
        let chunk = self.chunks.get(slot as usize / CHUNK)?.as_ref()?;
        chunk.cells[slot as usize % CHUNK].as_ref()
    }

    fn armed_mut(&mut self, slot: u32) -> Option<&mut Armed> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK)?.as_mut()?;
        chunk.cells[slot as usize % CHUNK].as_mut()
    }

    fn set(&mut self, slot: u32, armed: Armed) {
        let at = slot as usize / CHUNK;
        if at >= self.chunks.len() {
            self.chunks.resize_with(at + 1, || None);
        }
        let spare = &mut self.spare;
        let chunk = self.chunks[at]
            .get_or_insert_with(|| spare.take().unwrap_or_else(|| Box::new(Chunk { cells: [None; CHUNK], armed: 0 })));
        let cell = &mut chunk.cells[slot as usize % CHUNK];
        chunk.armed += usize::from(cell.is_none());
        *cell = Some(armed);
    }

    fn take(&mut self, slot: u32) -> Option<Armed> {
        let place = self.chunks.get_mut(slot as usize / CHUNK)?;
        let chunk = place.as_mut()?;
        let taken = chunk.cells[slot as usize % CHUNK].take()?;
        chunk.armed -= 1;
        if chunk.armed == 0 {
            self.spare = place.take();
        }
        Some(taken)
    }

    /// Sets the one deadline of the group at `key`; an older one, also of an older occupant of the slot, is replaced.
    /// [`Time::NEVER`] disarms.
    pub fn arm(&mut self, key: SlotKey, deadline: Time) {
        let SlotKey { slot, generation } = key;
        if deadline == Time::NEVER {
            if let Some(armed) = self.take(slot) {
                self.queue.remove(&(armed.queued, slot));
            }
            return;
        }
        let queued = match self.armed(slot).map(|armed| armed.queued) {
            Some(queued) if queued <= deadline => queued,
            standing => {
                if let Some(queued) = standing {
                    self.queue.remove(&(queued, slot));
                }
                self.queue.insert((deadline, slot));
                deadline
            }
        };
        self.set(slot, Armed { generation, deadline, queued });
    }

    /// Forgets the deadline of the group at `key`; does nothing if the slot's deadline belongs to another occupant.
    pub fn disarm(&mut self, key: SlotKey) {
        if self.armed(key.slot).is_some_and(|armed| armed.generation == key.generation) {
            self.arm(key, Time::NEVER);
        }
    }

    /// Disarms and appends to `due` the groups whose deadline has come, after looking at no more than `max` of the queue:
    /// what is left over is named by [`Deadlines::next`] as already due, and comes with the next call.
    pub fn pop_due(&mut self, now: Time, max: usize, due: &mut Vec<SlotKey>) {
        for _ in 0..max {
            let Some(&(queued, slot)) = self.queue.first() else { return };
            if queued > now {
                return;
            }
            self.queue.pop_first();
            let armed = self.armed_mut(slot).expect("every queued slot is armed");
            let (generation, deadline) = (armed.generation, armed.deadline);
            if deadline > now {
                armed.queued = deadline;
                self.queue.insert((deadline, slot));
                continue;
            }
            due.push(SlotKey { slot, generation });
            self.take(slot);
        }
    }

    /// The moment at which [`Deadlines::pop_due`] is worth calling: at or before the earliest deadline;
    /// [`Time::NEVER`] if nothing is armed.
    #[must_use]
    pub fn next(&self) -> Time {
        self.queue.first().map_or(Time::NEVER, |(queued, _)| *queued)
    }

    /// The deadline of the group at `key`; [`Time::NEVER`] if it has none.
    #[must_use]
    pub fn deadline(&self, key: SlotKey) -> Time {
        match self.armed(key.slot) {
            Some(armed) if armed.generation == key.generation => armed.deadline,
            _ => Time::NEVER,
        }
    }

    /// Number of armed groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(slot: u32) -> SlotKey {
        SlotKey { slot, generation: 1 }
    }

    fn pop(deadlines: &mut Deadlines, now: u64, max: usize) -> Vec<u32> {
        let mut due = Vec::new();
        deadlines.pop_due(Time(now), max, &mut due);
        due.into_iter().map(|key| key.slot).collect()
    }

    #[test]
    fn due_groups_come_by_deadline_then_slot() {
        let mut deadlines = Deadlines::new();
        for (slot, at) in [(3, 20), (1, 20), (2, 10), (0, 30)] {
            deadlines.arm(key(slot), Time(at));
        }
        assert_eq!(deadlines.next(), Time(10));
        assert_eq!(pop(&mut deadlines, 20, 100), [2, 1, 3]);
        assert_eq!(deadlines.next(), Time(30));
        assert_eq!(pop(&mut deadlines, 29, 100), [0; 0]);
    }

    #[test]
    fn deadline_moved_later_fires_once_at_the_later_moment() {
        let mut deadlines = Deadlines::new();
        for at in 10..1_000 {
            deadlines.arm(key(0), Time(at));
        }
        assert_eq!(deadlines.next(), Time(10), "the queue is not touched until the old moment comes");
        assert_eq!(pop(&mut deadlines, 10, 100), [0; 0]);
        assert_eq!(deadlines.next(), Time(999));
        assert_eq!(pop(&mut deadlines, 999, 100), [0]);
        assert_eq!(deadlines.next(), Time::NEVER);
    }

    #[test]
    fn deadline_moved_earlier_fires_once_at_the_earlier_moment() {
        let mut deadlines = Deadlines::new();
        deadlines.arm(key(0), Time(50));
        deadlines.arm(key(0), Time(5));
        assert_eq!(pop(&mut deadlines, 5, 100), [0]);
        assert_eq!(pop(&mut deadlines, 100, 100), [0; 0]);
    }

    #[test]
    fn late_disarm_does_not_hit_the_next_occupant() {
        let mut deadlines = Deadlines::new();
        let (old, new) = (SlotKey { slot: 4, generation: 1 }, SlotKey { slot: 4, generation: 2 });
        deadlines.arm(old, Time(50));
        deadlines.arm(new, Time(60));
        deadlines.disarm(old);
        assert_eq!(deadlines.deadline(old), Time::NEVER);
        assert_eq!(deadlines.deadline(new), Time(60));
        let mut due = Vec::new();
        deadlines.pop_due(Time(60), 1, &mut due);
        deadlines.pop_due(Time(60), 1, &mut due);
        assert_eq!(due, [new]);
    }

    #[test]
    fn one_call_looks_at_no_more_than_it_may() {
        let mut deadlines = Deadlines::new();
        for slot in 0..100_000 {
            deadlines.arm(key(slot), Time(1));
        }
        assert_eq!(pop(&mut deadlines, 1, 1_000).len(), 1_000);
        assert_eq!(deadlines.next(), Time(1));
        assert_eq!(deadlines.len(), 99_000);
        let mut calls = 0;
        while !deadlines.is_empty() {
            pop(&mut deadlines, 1, 1_000);
            calls += 1;
        }
        assert_eq!(calls, 99);
        assert!(deadlines.chunks.iter().all(Option::is_none), "who waits for nothing takes no memory");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm { slot: u32, generation: u32, after: u64 },
        Disarm { slot: u32, generation: u32 },
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (slot, generation) = (0..8_u32, 1..3_u32);
        prop_oneof![
            (slot.clone(), generation.clone(), 0..50_u64).prop_map(|(slot, generation, after)| Step::Arm {
                slot,
                generation,
                after
            }),
            (slot, generation).prop_map(|(slot, generation)| Step::Disarm { slot, generation }),
            (0..20_u64).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn fires_exactly_what_a_plain_map_would(steps in prop::collection::vec(step(), 0..300)) {
            let mut deadlines = Deadlines::new();
            let mut model: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Arm { slot, generation, after } => {
                        deadlines.arm(SlotKey { slot, generation }, Time(now + after));
                        model.insert(slot, (generation, now + after));
                    }
                    Step::Disarm { slot, generation } => {
                        deadlines.disarm(SlotKey { slot, generation });
                        if model.get(&slot).is_some_and(|armed| armed.0 == generation) {
                            model.remove(&slot);
                        }
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut due = Vec::new();
                        deadlines.pop_due(Time(now), usize::MAX, &mut due);
                        due.sort_unstable();
                        let expected: Vec<_> = model
                            .iter()
                            .filter(|(_, armed)| armed.1 <= now)
                            .map(|(slot, armed)| SlotKey { slot: *slot, generation: armed.0 })
                            .collect();
                        prop_assert_eq!(due, expected);
                        model.retain(|_, armed| armed.1 > now);
                    }
                }
                prop_assert_eq!(deadlines.len(), model.len());
                let earliest = model.values().map(|armed| Time(armed.1)).min().unwrap_or(Time::NEVER);
                prop_assert!(deadlines.next() <= earliest);
                prop_assert_eq!(deadlines.next() == Time::NEVER, model.is_empty());
            }
        }
    }
}
