//! Is there an order of the operations on one register that explains all answers?
//!
//! Lowe's just-in-time search ("Testing for linearizability", 2017, section 5) on the footing of Wing and Gong ("Testing and
//! verifying concurrent objects", 1993). It goes through the beginnings and ends of operations once, with all configurations
//! that are possible so far: the value, and which of the operations under way have taken effect. An operation takes effect only
//! when an answer needs it: at the answer to `o` each configuration without `o` is replaced by those that some sequence of
//! operations under way, ending with `o`, leads to. When none is left, that answer is the first that nothing explains.
//!
//! What keeps configurations few, none of it changes a verdict:
//! - A read that may see the present value does so at once: it changes nothing, and has to happen.
//! - An operation of unknown outcome takes effect only if what comes next needs its value: before anything else it may as well
//!   not happen. Those whose value no answer can rest on are left out from the beginning.
//! - Such operations that do the same are interchangeable; of two configurations that differ only in which of them were used
//!   up, one that used a part of what the other used is enough.
//! - At first only those are kept that used least, or little more than that. An order that is found that way is one; when none
//!   is found, and something had been left out, the search begins again and keeps more, in the end all.
//!
//! Cost: n events times configurations. Few in practice; in the worst case exponential in how many writes are under way on one
//! key at a time, and in how many of unknown outcome there are. The search gives up beyond [`WORK_MAX`].

use std::collections::BTreeMap;
use std::hash::Hash;

use rustc_hash::{FxHashMap, FxHashSet};

/// How many configurations may be compared for one key before the search gives up.
pub const WORK_MAX: u64 = 100_000_000;

/// What is kept, in one search after the other: how many configurations that differ only in what they used up, and how many more
/// operations of unknown outcome they may have used than the one that used least.
const KEPT: [(usize, usize); 4] = [(2, 0), (4, 1), (64, 4), (usize::MAX, usize::MAX)];

/// How many operations may be under way on one key at a time.
pub const UNDER_WAY_MAX: usize = 1024;

/// How many operations that ended before the first answer without an explanation are told with it.
const TOLD_BEFORE: usize = 8;

/// The number that stands for "never written".
pub(in crate::check) const NEVER_WRITTEN: u32 = 0;

/// When an operation begins or ends: compared from left to right.
pub(in crate::check) type Place = (u64, u64);

/// What an operation does. Values are numbers given by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::check) enum Step {
    Read(u32),
    Write(u32),
    Cas(u32, u32),
}

impl Step {
    /// The value after it, if it can happen at `value`.
    fn apply(self, value: u32) -> Option<u32> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Cas(old, new) => (old == value).then_some(new),
        }
    }
}

/// An operation on the register.
#[derive(Clone, Copy, Debug)]
pub(in crate::check) struct Call {
    pub(in crate::check) step: Step,
    pub(in crate::check) begin: Place,
    /// `None`: nobody knows whether it took effect.
    pub(in crate::check) end: Option<Place>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) enum Found {
    /// There is an order.
    Order,
    /// There is none.
    NoOrder(Refusal),
    /// Too much to try.
    GaveUp(&'static str),
}

/// Where a history stops making sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct Refusal {
    /// The first call whose answer nothing explains.
    pub(in crate::check) call: usize,
    /// Calls that were under way then or had ended shortly before, by their beginnings.
    pub(in crate::check) around: Vec<usize>,
    /// What the register could hold just before that answer.
    pub(in crate::check) values: Vec<u32>,
}

/// Searches an order for all `calls`.
pub(in crate::check) fn search(calls: &[Call]) -> Found {
    let calls_kept = without_needless(calls);
    let mut events: Vec<(Place, bool, usize)> = Vec::new();
    for &number in &calls_kept {
        events.push((calls[number].begin, false, number));
        events.extend(calls[number].end.map(|end| (end, true, number)));
    }
    // Beginnings before ends of the same moment: such operations may have overlapped.
    events.sort_unstable();
    let search = match most_under_way(&events, calls) {
        0..=64 => search_with::<1>,
        65..=128 => search_with::<2>,
        129..=256 => search_with::<4>,
        257..=UNDER_WAY_MAX => search_with::<16>,
        _ => return Found::GaveUp("too many operations are under way at a time"),
    };
    search(calls, &events)
}

fn search_with<const N: usize>(calls: &[Call], events: &[(Place, bool, usize)]) -> Found {
    let mut found = Found::GaveUp("nothing was tried");
    for (alike_max, more_max) in KEPT {
        let mut search = Search::<N>::new(calls, Effort { alike_max, more_max, left_out: false, work: 0 });
        found = search.run(events);
        if !matches!(found, Found::NoOrder(_)) || !search.effort.left_out {
            break;
        }
    }
    found
}

/// The calls without those of unknown outcome that no answer can rest on. If an order has such a write in it, the order without
/// it explains the same: what follows it is another write.
fn without_needless(calls: &[Call]) -> Vec<usize> {
    let mut rested_on: FxHashSet<u32> = FxHashSet::default();
    for call in calls.iter().filter(|call| call.end.is_some()) {
        match call.step {
            Step::Read(value) | Step::Cas(value, _) => rested_on.insert(value),
            Step::Write(_) => false,
        };
    }
    // What a compare-and-set of unknown outcome rests on counts if something rests on what it leaves.
    let unknown = || calls.iter().filter(|call| call.end.is_none());
    loop {
        let more = unknown().filter_map(|call| match call.step {
            Step::Cas(old, new) if rested_on.contains(&new) => Some(old),
            _ => None,
        });
        let more: Vec<u32> = more.filter(|old| !rested_on.contains(old)).collect();
        if more.is_empty() {
            break;
        }
        rested_on.extend(more);
    }
    let is_kept = |call: &Call| match call.step {
        _ if call.end.is_some() => true,
        Step::Write(new) => rested_on.contains(&new),
        Step::Cas(old, new) => old != new && rested_on.contains(&new),
        Step::Read(_) => false,
    };
    (0..calls.len()).filter(|number| is_kept(&calls[*number])).collect()
}

fn most_under_way(events: &[(Place, bool, usize)], calls: &[Call]) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for &(_, is_end, number) in events {
        if is_end {
            now -= 1;
        } else if calls[number].end.is_some() {
            now += 1;
        }
        most = most.max(now);
    }
    most
}

/// A set of slots; each answered operation has one while it is under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slots<const N: usize>([u64; N]);

impl<const N: usize> Slots<N> {
    const NONE: Self = Self([0; N]);

    fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] & (1 << (slot % 64)) != 0
    }

    fn with(mut self, slot: usize) -> Self {
        self.0[slot / 64] |= 1 << (slot % 64);
        self
    }

    fn without(mut self, slot: usize) -> Self {
        self.0[slot / 64] &= !(1 << (slot % 64));
        self
    }

    fn union(mut self, other: &Self) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }

    fn contains_all(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(word, wanted)| word & wanted == wanted)
    }
}

/// The value, and which operations under way have taken effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Configuration<const N: usize> {
    value: u32,
    done: Slots<N>,
}

/// Which operations of unknown outcome were used up: their kinds in order, each as often as it was used.
type Used = Vec<u32>;

/// A configuration, and what was used up on the way to it.
type Form<const N: usize> = (Configuration<N>, Used);

/// Configurations, each with the smallest sets of used operations that lead to it.
struct Configurations<const N: usize> {
    by_form: FxHashMap<Configuration<N>, Vec<Used>>,
}

impl<const N: usize> Configurations<N> {
    fn new() -> Self {
        Self { by_form: FxHashMap::default() }
    }

    /// Adds one, unless there is one that can do all that it can. Tells whether it was added.
    fn add(&mut self, form: Configuration<N>, used: Used, effort: &mut Effort) -> bool {
        let known = self.by_form.entry(form).or_default();
        effort.work += 1 + known.len() as u64;
        if known.iter().any(|smaller| is_part(smaller, &used)) {
            return false;
        }
        known.retain(|larger| !is_part(&used, larger));
        if known.len() >= effort.alike_max {
            effort.left_out = true;
            let largest = known.iter_mut().max_by_key(|known| known.len());
            return largest.filter(|largest| largest.len() > used.len()).map(|largest| *largest = used).is_some();
        }
        known.push(used);
        true
    }

    /// Leaves out those that used more.
    fn keep_up_to(&mut self, amount: usize, effort: &mut Effort) {
        self.by_form.retain(|_, known| {
            let before = known.len();
            known.retain(|used| used.len() <= amount);
            effort.left_out |= known.len() < before;
            !known.is_empty()
        });
    }

    fn into_all(self) -> impl Iterator<Item = Form<N>> {
        self.by_form.into_iter().flat_map(|(form, all)| all.into_iter().map(move |used| (form, used)))
    }
}

/// What a search may do, and did.
#[derive(Clone, Copy)]
struct Effort {
    alike_max: usize,
    more_max: usize,
    left_out: bool,
    work: u64,
}

/// Whether the sorted `part` is contained in the sorted `whole`, each element as often.
fn is_part(part: &[u32], whole: &[u32]) -> bool {
    let mut rest = whole.iter();
    part.len() <= whole.len() && part.iter().all(|wanted| rest.any(|element| element == wanted))
}

/// Operations of unknown outcome that do the same.
struct Alike {
    step: Step,
    /// How many of them have begun.
    begun: usize,
}

struct Search<'a, const N: usize> {
    calls: &'a [Call],
    now: Configurations<N>,
    /// The slot of each answered call under way.
    slots: FxHashMap<usize, usize>,
    free: Vec<usize>,
    /// Answered writes and compare-and-sets under way, with their slots.
    changes: Vec<(usize, Step)>,
    /// The slots of reads under way, by what they saw.
    reads: FxHashMap<u32, Slots<N>>,
    unknown: Vec<Alike>,
    effort: Effort,
}

impl<'a, const N: usize> Search<'a, N> {
    fn new(calls: &'a [Call], mut effort: Effort) -> Self {
        let mut now = Configurations::new();
        now.add(Configuration { value: NEVER_WRITTEN, done: Slots::NONE }, Vec::new(), &mut effort);
        Self {
            calls,
            now,
            slots: FxHashMap::default(),
            free: (0..N * 64).rev().collect(),
            changes: Vec::new(),
            reads: FxHashMap::default(),
            unknown: Vec::new(),
            effort,
        }
    }

    fn run(&mut self, events: &[(Place, bool, usize)]) -> Found {
        for (at, &(_, is_end, number)) in events.iter().enumerate() {
            if !is_end {
                self.begin(number);
                continue;
            }
            let mut values: Vec<u32> = self.now.by_form.keys().map(|form| form.value).collect();
            self.end(number);
            if self.effort.work > WORK_MAX {
                return Found::GaveUp("too many orders are possible");
            }
            if self.now.by_form.is_empty() {
                values.sort_unstable();
                values.dedup();
                return Found::NoOrder(Refusal { call: number, around: self.around(&events[..at], number), values });
            }
        }
        Found::Order
    }

    fn begin(&mut self, number: usize) {
        let Call { step, end, .. } = self.calls[number];
        if end.is_none() {
            match self.unknown.iter_mut().find(|alike| alike.step == step) {
                Some(alike) => alike.begun += 1,
                None => self.unknown.push(Alike { step, begun: 1 }),
            }
            return;
        }
        let slot = self.free.pop().expect("there are as many slots as operations under way");
        self.slots.insert(number, slot);
        let Step::Read(seen) = step else {
            self.changes.push((slot, step));
            return;
        };
        let mask = self.reads.entry(seen).or_insert(Slots::NONE);
        *mask = mask.with(slot);
        if self.now.by_form.keys().any(|form| form.value == seen) {
            let before = std::mem::replace(&mut self.now, Configurations::new());
            for (mut form, used) in before.into_all() {
                if form.value == seen {
                    form.done = form.done.with(slot);
                }
                self.now.add(form, used, &mut self.effort);
            }
        }
    }

    /// Brings every configuration to where that operation has taken effect, and forgets it.
    fn end(&mut self, number: usize) {
        let slot = self.slots.remove(&number).expect("what ends has begun");
        let before = std::mem::replace(&mut self.now, Configurations::new());
        let mut effort = self.effort;
        let mut after = Configurations::new();
        let mut tried = Configurations::new();
        // By how much they used up: those that used least come first.
        let mut open: BTreeMap<usize, Vec<Form<N>>> = BTreeMap::new();
        let mut least = usize::MAX;
        for (form, used) in before.into_all() {
            if form.done.has(slot) {
                least = least.min(used.len());
                after.add(Configuration { done: form.done.without(slot), ..form }, used, &mut effort);
            } else if tried.add(form, used.clone(), &mut effort) {
                open.entry(used.len()).or_default().push((form, used));
            }
        }
        while let Some((amount, mut forms)) = open.pop_first() {
            if amount > least.saturating_add(effort.more_max) || effort.work > WORK_MAX {
                effort.left_out = true;
                break;
            }
            while let Some((form, used)) = forms.pop() {
                self.each_next(form, &used, |form, used| {
                    if form.done.has(slot) {
                        least = least.min(used.len());
                        after.add(Configuration { done: form.done.without(slot), ..form }, used, &mut effort);
                    } else if tried.add(form, used.clone(), &mut effort) {
                        open.entry(used.len()).or_default().push((form, used));
                    }
                });
            }
        }
        after.keep_up_to(least.saturating_add(effort.more_max), &mut effort);
        self.effort = effort;
        self.now = after;
        self.free.push(slot);
        if let Step::Read(seen) = self.calls[number].step {
            if let Some(mask) = self.reads.get_mut(&seen) {
                *mask = mask.without(slot);
                if *mask == Slots::NONE {
                    self.reads.remove(&seen);
                }
            }
        } else {
            self.changes.retain(|(other, _)| *other != slot);
        }
    }

    /// Every configuration that one more operation leads to.
    fn each_next(&self, form: Configuration<N>, used: &Used, mut give: impl FnMut(Configuration<N>, Used)) {
        for &(slot, step) in &self.changes {
            if form.done.has(slot) {
                continue;
            }
            if let Some(value) = step.apply(form.value) {
                give(self.with_reads(Configuration { value, done: form.done.with(slot) }), used.clone());
            }
        }
        for (kind, alike) in (0_u32..).zip(&self.unknown) {
            let Some(value) = alike.step.apply(form.value).filter(|value| *value != form.value) else { continue };
            let used_before = used.iter().filter(|other| **other == kind).count();
            if used_before == alike.begun || !self.is_wanted(value, &form, used) {
                continue;
            }
            let mut used = used.clone();
            used.insert(used.partition_point(|other| *other <= kind), kind);
            give(self.with_reads(Configuration { value, ..form }), used);
        }
    }

    /// With all reads under way that see the value.
    fn with_reads(&self, form: Configuration<N>) -> Configuration<N> {
        self.reads.get(&form.value).map_or(form, |mask| Configuration { done: form.done.union(mask), ..form })
    }

    /// Whether an operation under way could come next at `value` and at no other.
    fn is_wanted(&self, value: u32, form: &Configuration<N>, used: &[u32]) -> bool {
        let rests_on = |step: Step| matches!(step, Step::Cas(old, _) if old == value);
        self.reads.get(&value).is_some_and(|mask| !form.done.contains_all(mask))
            || self.changes.iter().any(|(slot, step)| rests_on(*step) && !form.done.has(*slot))
            || (0_u32..).zip(&self.unknown).any(|(kind, alike)| {
                rests_on(alike.step) && used.iter().filter(|other| **other == kind).count() < alike.begun
            })
    }

    fn around(&self, events: &[(Place, bool, usize)], refused: usize) -> Vec<usize> {
        let mut around: Vec<usize> = self.slots.keys().copied().chain([refused]).collect();
        around.extend(events.iter().rev().filter(|(_, is_end, _)| *is_end).take(TOLD_BEFORE).map(|(.., call)| *call));
        around.sort_unstable_by_key(|call| self.calls[*call].begin);
        around
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_count_how_often() {
        assert!(is_part(&[], &[1]) && is_part(&[1, 3], &[1, 2, 3]) && is_part(&[2, 2], &[1, 2, 2]));
        assert!(!is_part(&[2, 2], &[1, 2, 3]) && !is_part(&[4], &[1, 2, 3]));
    }

    #[test]
    fn only_writes_of_unknown_outcome_that_something_rests_on_are_kept() {
        let call = |step, end: Option<u64>| Call { step, begin: (0, 0), end: end.map(|end| (end, 0)) };
        let calls = [
            call(Step::Write(1), None),
            call(Step::Write(2), None),
            call(Step::Cas(2, 3), None),
            call(Step::Read(3), Some(9)),
            call(Step::Cas(3, 4), None),
        ];
        assert_eq!(without_needless(&calls), [1, 2, 3]);
    }

    #[test]
    fn more_than_a_word_of_operations_under_way_are_searched() {
        for readers in [10_u64, 100, 200, 500] {
            let read = |number| Call { step: Step::Read(1), begin: (2 + number, 0), end: Some((10_000 + number, 0)) };
            let mut calls: Vec<Call> = (0..readers).map(read).collect();
            assert!(matches!(search(&calls), Found::NoOrder(_)), "{readers}");
            calls.push(Call { step: Step::Write(1), begin: (1, 0), end: None });
            assert_eq!(search(&calls), Found::Order, "{readers}");
        }
        let read = |number| Call { step: Step::Read(0), begin: (0, number), end: Some((1, number)) };
        let calls: Vec<Call> = (0..=UNDER_WAY_MAX as u64).map(read).collect();
        assert!(matches!(search(&calls), Found::GaveUp(_)));
    }
    /// Thirty operations on few values, many of unknown outcome, so that much is left out at first.
    fn drawn(seed: u64) -> Vec<Call> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut calls = Vec::new();
        for place in 0..30 {
            let (old, new) = (below(3) as u32, below(3) as u32 + 1);
            let (read, write, cas) = (Step::Read(old), Step::Write(new), Step::Cas(old, new));
            let step = [read, write, write, write, cas, cas][below(6) as usize];
            let begin = (place * 10 + below(10), 0);
            let is_answered = matches!(step, Step::Read(_)) || below(4) == 0;
            calls.push(Call { step, begin, end: is_answered.then(|| (begin.0 + 1 + below(100), 0)) });
        }
        calls
    }

    #[test]
    fn what_is_left_out_at_first_changes_no_verdict() {
        let (mut orders, mut refused, mut left_out) = (0, 0, 0);
        for seed in 0..3_000 {
            let calls = drawn(seed);
            let kept = without_needless(&calls);
            let mut events: Vec<_> = kept.iter().map(|number| (calls[*number].begin, false, *number)).collect();
            events.extend(kept.iter().filter_map(|number| calls[*number].end.map(|end| (end, true, *number))));
            events.sort_unstable();
            let whole = Effort { alike_max: usize::MAX, more_max: usize::MAX, left_out: false, work: 0 };
            let expected = Search::<1>::new(&calls, whole).run(&events);
            let mut first = Search::<1>::new(&calls, Effort { alike_max: 1, more_max: 0, ..whole });
            left_out += u32::from(matches!(first.run(&events), Found::NoOrder(_)) && first.effort.left_out);
            orders += u32::from(expected == Found::Order);
            refused += u32::from(matches!(expected, Found::NoOrder(_)));
            assert_eq!(search(&calls), expected, "{seed}");
        }
        assert!(orders > 100 && refused > 100 && left_out > 100, "{orders} {refused} {left_out}");
    }
}
