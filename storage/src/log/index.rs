//! What the log holds of every group, in memory.
//!
//! The writer applies each record after it is durable, recovery applies the same records in the same order, and readers
//! look at it at any time. Entries themselves are never kept here. Sharded by group, so that readers and the writer seldom
//! meet.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use multiraft_raft::RegionId;

use super::group::{Group, Tip};
use super::ledger::Ledger;
use super::record::{RecordInfo, RecordKind};
use super::shard::{self, Shard};

const SHARDS: usize = 16;
/// How many groups are packed under one lock while the log has nothing else to do.
const PACKED_AT_ONCE: usize = 64;
/// How many groups are looked at with each frame, while the log has always something to do.
const LOOKS: usize = 4;

/// All groups.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Box<[RwLock<Shard>]>,
    frames: AtomicUsize,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), frames: AtomicUsize::new(0) }
    }
}

impl Index {
    /// Applies a durable record. Answers whether the group is new; it is then on the sweep list of the record's segment.
    pub(crate) fn apply(&self, record: &RecordInfo, ledger: &mut Ledger) -> bool {
        let mut shard = self.write(record.region);
        if record.kind == RecordKind::Remove {
            if let Some(mut group) = shard.remove(record.region) {
                group.forget_state(ledger);
            }
            return false;
        }
        let mut is_new = false;
        let make = || {
            is_new = true;
            Group::new(record.at.segment)
        };
        let apply = |group: &mut Group| group.apply(record, ledger);
        if record.kind == RecordKind::Moved {
            // Nobody writes for the group: the log tidies up.
            shard.change(record.region, make, apply);
        } else {
            shard.work(record.region, make, apply);
        }
        is_new
    }

    /// Looks at a group, under its shard's lock: `look` must be short and must not come back here.
    pub(crate) fn look<T>(&self, region: RegionId, look: impl FnOnce(&Group) -> T) -> Option<T> {
        self.read(region).look(region, look)
    }

    /// Where a group's log ends: quicker than a look.
    pub(crate) fn tip(&self, region: RegionId) -> Option<Tip> {
        self.read(region).tip(region)
    }

    /// Changes a group, or makes it first.
    pub(crate) fn change<T>(&self, region: RegionId, change: impl FnOnce(&mut Group) -> T) -> T {
        self.write(region).change(region, || Group::new(0), change)
    }

    /// Drops a group without a trace.
    pub(crate) fn forget(&self, region: RegionId, ledger: &mut Ledger) {
        if let Some(mut group) = self.write(region).remove(region) {
            group.forget_state(ledger);
        }
    }

    /// A frame has been applied: looks at a few groups, and makes those small that nothing was written for lately.
    pub(crate) fn on_frame(&self) {
        let shard = &self.shards[self.frames.fetch_add(1, Ordering::Relaxed) % SHARDS];
        shard.write().unwrap_or_else(PoisonError::into_inner).age(LOOKS);
    }

    /// Does a bounded piece of making groups small that nothing was written for lately. Answers whether there is more.
    pub(crate) fn rest(&self) -> bool {
        for shard in &self.shards {
            if shard.read().unwrap_or_else(PoisonError::into_inner).is_at_rest() {
                continue;
            }
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            if !shard.pack(PACKED_AT_ONCE) {
                shard.give_back();
            }
            return true;
        }
        false
    }

    /// All groups, ascending.
    pub(crate) fn regions(&self) -> Vec<RegionId> {
        let mut all: Vec<RegionId> = Vec::new();
        for shard in &self.shards {
            all.extend(shard.read().unwrap_or_else(PoisonError::into_inner).regions());
        }
        all.sort_unstable();
        all
    }

    /// Groups, and the bytes they take in memory.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (mut groups, mut bytes) = (0, 0);
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            groups += shard.len();
            bytes += shard.heap();
        }
        (groups, bytes)
    }

    // A panic under these locks is a broken invariant on the writer's thread, which is poisoned by it anyway; readers of
    // other groups go on.
    fn read(&self, region: RegionId) -> RwLockReadGuard<'_, Shard> {
        self.shard(region).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, region: RegionId) -> RwLockWriteGuard<'_, Shard> {
        self.shard(region).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, region: RegionId) -> &RwLock<Shard> {
        // The shard itself uses others of the hash's bits.
        &self.shards[(shard::hash(region) >> 8) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use multiraft_raft::{HardState, LogIndex, ReplicaId, Term};
    use proptest::prelude::*;

    use super::super::format::Loc;
    use super::super::record::Span;
    use super::*;

    fn record(kind: RecordKind, segment: u32) -> RecordInfo {
        RecordInfo { at: Loc { segment, offset: 64 }, length: 100, ..RecordInfo::new(RegionId(1), kind) }
    }

    fn append(segment: u32, first: u64, term: u64, count: u32) -> RecordInfo {
        RecordInfo { span: Span { first, term, count }, ..record(RecordKind::Append, segment) }
    }

    #[test]
    fn a_record_moved_forward_does_not_cut_a_newer_suffix() {
        let (index, mut ledger) = (Index::default(), Ledger::default());
        // Segment 1 held entries 1 to 5 and is gone; this is what is left of the log.
        index.apply(&append(2, 6, 1, 3), &mut ledger);
        index.apply(
            &RecordInfo { span: Span { first: 1, term: 1, count: 5 }, ..record(RecordKind::Moved, 3) },
            &mut ledger,
        );
        let group = index.look(RegionId(1), Group::clone).unwrap();
        assert!(group.is_contiguous());
        assert_eq!((group.last_index(), group.oldest_segment()), (8, Some(2)));
    }

    #[test]
    fn a_conflicting_append_replaces_the_suffix_and_shows_in_the_summary() {
        let (index, mut ledger) = (Index::default(), Ledger::default());
        index.apply(&append(1, 1, 1, 5), &mut ledger);
        index.apply(&append(1, 4, 2, 1), &mut ledger);
        let truncate = RecordInfo { mark: (2, 1), ..record(RecordKind::Truncate, 2) };
        index.apply(&truncate, &mut ledger);
        let summary = index.look(RegionId(1), Group::summary).unwrap();
        assert_eq!(summary.last_index, LogIndex(4));
        assert_eq!(summary.truncated_index, LogIndex(2));
        assert_eq!(summary.term(LogIndex(3)), Some(Term(1)));
        assert_eq!(summary.term(LogIndex(4)), Some(Term(2)));
        index.apply(&record(RecordKind::Remove, 2), &mut ledger);
        assert_eq!(ledger.total(), 0);
        assert!(index.regions().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Record(RecordInfo),
        SweepSegment(RegionId, u32),
        Suspect(RegionId),
        Forget(RegionId),
        /// The log has nothing to do for so many turns.
        Rest(u8),
        Frame(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let kinds = [
            RecordKind::State,
            RecordKind::Append,
            RecordKind::Append,
            RecordKind::Append,
            RecordKind::Truncate,
            RecordKind::Reset,
            RecordKind::Remove,
            RecordKind::Moved,
        ];
        let region = || (0..40_u64).prop_map(|region| RegionId(region * region * region));
        let hard_state = prop::option::of((1..300_u64, 0..70_000_u64, 0..90_u64));
        let numbers = (1..60_u64, 0..4_u64, 0..40_u32, 1..5_000_u32, prop::bool::weighted(0.02));
        let record = (prop::sample::select(kinds.to_vec()), region(), hard_state, (0..50_u64, 0..4_u64), numbers)
            .prop_map(|(kind, region, hard_state, mark, (first, term, count, length, suspect))| RecordInfo {
                hard_state: hard_state.map(|(term, vote, commit)| HardState {
                    term: Term(term),
                    vote: ReplicaId(vote),
                    commit: LogIndex(commit),
                }),
                mark,
                span: Span { first, term, count },
                length,
                suspect,
                ..RecordInfo::new(region, kind)
            });
        let step = prop_oneof![
            20 => record.prop_map(Step::Record),
            2 => (region(), prop_oneof![0..9_u32, Just(u32::MAX)]).prop_map(|(region, to)| Step::SweepSegment(region, to)),
            1 => region().prop_map(Step::Suspect),
            1 => region().prop_map(Step::Forget),
            3 => (1..6_u8).prop_map(Step::Rest),
            3 => (1..60_u8).prop_map(Step::Frame),
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn groups_at_rest_are_what_they_would_be_if_they_never_rested(steps in steps()) {
            let (index, mut ledger) = (Index::default(), Ledger::default());
            let (mut groups, mut expected) = (BTreeMap::<RegionId, Group>::new(), Ledger::default());
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Record(mut record) => {
                        record.at = Loc { segment: 1 + number / 50, offset: 64 + number % 50 * 1_000_003 };
                        let new = index.apply(&record, &mut ledger);
                        if record.kind == RecordKind::Remove {
                            prop_assert!(!new);
                            groups.remove(&record.region).into_iter().for_each(|mut group| group.forget_state(&mut expected));
                        } else {
                            prop_assert_eq!(new, !groups.contains_key(&record.region));
                            let group = groups.entry(record.region).or_insert_with(|| Group::new(record.at.segment));
                            group.apply(&record, &mut expected);
                        }
                    }
                    Step::SweepSegment(region, to) => {
                        index.change(region, |group| group.head.sweep_segment = to);
                        groups.entry(region).or_insert_with(|| Group::new(0)).head.sweep_segment = to;
                    }
                    Step::Suspect(region) => {
                        index.change(region, |group| group.become_suspect(&mut ledger));
                        groups.entry(region).or_insert_with(|| Group::new(0)).become_suspect(&mut expected);
                    }
                    Step::Forget(region) => {
                        index.forget(region, &mut ledger);
                        groups.remove(&region).into_iter().for_each(|mut group| group.forget_state(&mut expected));
                    }
                    Step::Frame(turns) => (0..turns).for_each(|_| index.on_frame()),
                    Step::Rest(turns) => {
                        (0..turns).for_each(|_| _ = index.rest());
                    }
                }
                prop_assert_eq!(&ledger, &expected);
            }
            for turns in [0, 1_000] {
                (0..turns).for_each(|_| _ = index.rest());
                prop_assert_eq!(index.regions(), groups.keys().copied().collect::<Vec<_>>());
                for (region, group) in &groups {
                    prop_assert_eq!(&index.look(*region, Group::clone).unwrap(), group);
                    prop_assert_eq!(index.tip(*region), Some(group.tip()));
                }
            }
            prop_assert!(!index.rest(), "an index comes to rest");
            groups.keys().for_each(|region| index.forget(*region, &mut ledger));
            prop_assert_eq!(ledger.total(), 0);
        }
    }
}
