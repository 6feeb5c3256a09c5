//! What the log holds of every group, in memory: the one place that gives records their meaning.
//!
//! The writer applies each record after it is durable, recovery applies the same records in the same order, and readers
//! look at it at any time. Entries themselves are never kept here. Sharded by group, so that readers and the writer seldom
//! meet.

use std::hash::BuildHasher;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use multiraft_raft::{HardState, LogIndex, LogSummary, RegionId, Term, TermRun};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::blocks::{Block, Blocks};
use super::format::Loc;
use super::record::{RecordInfo, RecordKind};

const SHARDS: usize = 16;
/// What a group's hard state counts for among the living, and what its mark does: about what a record of it takes.
const HARD_STATE_WEIGHT: u32 = 72;
const MARK_WEIGHT: u32 = 64;
/// The segment of something that is not there.
const NOWHERE: u32 = u32::MAX;

/// How many bytes still live in each segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// The segment of the first slot.
    base: u32,
    live: std::collections::VecDeque<u64>,
    total: u64,
}

impl Ledger {
    pub(crate) fn add(&mut self, segment: u32, bytes: u32) {
        if self.live.is_empty() {
            self.base = segment;
        }
        while segment < self.base {
            self.live.push_front(0);
            self.base -= 1;
        }
        let at = (segment - self.base) as usize;
        if at >= self.live.len() {
            self.live.resize(at + 1, 0);
        }
        self.live[at] += u64::from(bytes);
        self.total += u64::from(bytes);
    }

    pub(crate) fn sub(&mut self, segment: u32, bytes: u32) {
        let slot = segment.checked_sub(self.base).and_then(|at| self.live.get_mut(at as usize));
        let slot = slot.expect("what is subtracted was added");
        *slot = slot.checked_sub(u64::from(bytes)).expect("what is subtracted was added");
        self.total -= u64::from(bytes);
    }

    pub(crate) fn of(&self, segment: u32) -> u64 {
        segment.checked_sub(self.base).and_then(|at| self.live.get(at as usize)).copied().unwrap_or(0)
    }

    /// Forgets the segments below `floor`, in which nothing lives.
    pub(crate) fn forget_below(&mut self, floor: u32) {
        while self.base < floor && self.live.front() == Some(&0) {
            self.live.pop_front();
            self.base += 1;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

/// What the log holds of one group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) hard_state: HardState,
    pub(crate) truncated: u64,
    pub(crate) truncated_term: u64,
    pub(crate) blocks: Blocks,
    /// The group's newest record; the next one names it.
    pub(crate) last_record: Loc,
    /// Where the hard state stands.
    hard_state_segment: u32,
    /// Where the truncation mark stands.
    mark_segment: u32,
    /// Which sweep list the group is on; see [`super::sweep`].
    pub(crate) sweep_segment: u32,
    /// Something of it may be lost. It holds no entries then, and stays so until it is removed.
    pub(crate) suspect: bool,
}

impl Group {
    fn new() -> Self {
        Self {
            hard_state: HardState::default(),
            truncated: 0,
            truncated_term: 0,
            blocks: Blocks::default(),
            last_record: Loc::NONE,
            hard_state_segment: NOWHERE,
            mark_segment: NOWHERE,
            sweep_segment: 0,
            suspect: false,
        }
    }

    /// The last entry, or the mark if there is none.
    pub(crate) fn last_index(&self) -> u64 {
        self.blocks.last_index().unwrap_or(self.truncated)
    }

    /// The oldest segment that holds something of the group which lives.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        let blocks = self.blocks.iter().map(|block| block.at.segment).min().unwrap_or(NOWHERE);
        Some(blocks.min(self.hard_state_segment).min(self.mark_segment)).filter(|oldest| *oldest != NOWHERE)
    }

    /// Whether the hard state or the mark stands in `segment` or before.
    pub(crate) fn state_stands_upto(&self, segment: u32) -> bool {
        self.hard_state_segment.min(self.mark_segment) <= segment
    }

    /// Whether every index between mark and last entry is covered.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut next = self.truncated + 1;
        self.blocks.iter().all(|block| {
            let follows = block.first == next;
            next = block.end();
            follows
        })
    }

    pub(crate) fn summary(&self) -> LogSummary {
        let mut runs: Vec<TermRun> = Vec::new();
        for block in self.blocks.iter() {
            if runs.last().is_none_or(|run| run.term.0 != block.term) {
                runs.push(TermRun { start: LogIndex(block.first), term: Term(block.term) });
            }
        }
        LogSummary {
            truncated_index: LogIndex(self.truncated),
            truncated_term: Term(self.truncated_term),
            last_index: LogIndex(self.last_index()),
            runs,
        }
    }

    /// Gives up what it holds: nothing of it can be trusted any more.
    pub(crate) fn become_suspect(&mut self, ledger: &mut Ledger) {
        self.suspect = true;
        self.blocks.clear(ledger);
    }

    /// Takes back what its hard state and mark count for.
    fn forget_state(&mut self, ledger: &mut Ledger) {
        self.blocks.clear(ledger);
        if self.hard_state_segment != NOWHERE {
            ledger.sub(self.hard_state_segment, HARD_STATE_WEIGHT);
        }
        if self.mark_segment != NOWHERE {
            ledger.sub(self.mark_segment, MARK_WEIGHT);
        }
    }

    fn apply(&mut self, record: &RecordInfo, ledger: &mut Ledger) {
        self.last_record = record.at;
        if record.suspect && !self.suspect {
            self.become_suspect(ledger);
        }
        self.apply_log(record, ledger);
        if let Some(hard_state) = record.hard_state {
            self.hard_state = hard_state;
            if self.hard_state_segment != NOWHERE {
                ledger.sub(self.hard_state_segment, HARD_STATE_WEIGHT);
            }
            self.hard_state_segment = record.at.segment;
            ledger.add(record.at.segment, HARD_STATE_WEIGHT);
        }
    }

    fn apply_log(&mut self, record: &RecordInfo, ledger: &mut Ledger) {
        let span = record.span;
        let block =
            Block { first: span.first, term: span.term, count: span.count, length: record.length, at: record.at };
        match record.kind {
            RecordKind::State | RecordKind::Remove => {}
            RecordKind::Append => {
                if span.count > 0 && !self.suspect {
                    self.blocks.cut_from(span.first, ledger);
                    self.blocks.push(block, ledger);
                }
            }
            RecordKind::Truncate => {
                if record.mark.0 >= self.truncated {
                    self.set_mark(record.mark, record.at.segment, ledger);
                }
                self.blocks.cut_upto(self.truncated, ledger);
            }
            RecordKind::Reset => {
                self.blocks.clear(ledger);
                self.set_mark(record.mark, record.at.segment, ledger);
            }
            RecordKind::Moved => {
                self.set_mark(record.mark, record.at.segment, ledger);
                self.blocks.cut_upto(self.truncated, ledger);
                if span.count > 0 && !self.suspect {
                    self.blocks.place(block, ledger);
                }
            }
        }
    }

    fn set_mark(&mut self, mark: (u64, u64), segment: u32, ledger: &mut Ledger) {
        (self.truncated, self.truncated_term) = mark;
        if self.mark_segment != NOWHERE {
            ledger.sub(self.mark_segment, MARK_WEIGHT);
            self.mark_segment = NOWHERE;
        }
        if mark != (0, 0) || self.suspect {
            ledger.add(segment, MARK_WEIGHT);
            self.mark_segment = segment;
        }
    }
}

type Shard = FxHashMap<RegionId, Box<Group>>;

/// All groups.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Box<[RwLock<Shard>]>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl Index {
    /// Applies a durable record. Answers whether the group is new.
    pub(crate) fn apply(&self, record: &RecordInfo, ledger: &mut Ledger) -> bool {
        let mut shard = self.write(record.region);
        if record.kind == RecordKind::Remove {
            if let Some(mut group) = shard.remove(&record.region) {
                group.forget_state(ledger);
            }
            return false;
        }
        let mut is_new = false;
        let group = shard.entry(record.region).or_insert_with(|| {
            is_new = true;
            Box::new(Group::new())
        });
        group.apply(record, ledger);
        is_new
    }

    /// Looks at a group, under its shard's lock: `look` must be short and must not come back here.
    pub(crate) fn look<T>(&self, region: RegionId, look: impl FnOnce(&Group) -> T) -> Option<T> {
        self.read(region).get(&region).map(|group| look(group))
    }

    /// Changes a group, or makes it first.
    pub(crate) fn change<T>(&self, region: RegionId, change: impl FnOnce(&mut Group) -> T) -> T {
        change(self.write(region).entry(region).or_insert_with(|| Box::new(Group::new())))
    }

    /// Drops a group without a trace.
    pub(crate) fn forget(&self, region: RegionId, ledger: &mut Ledger) {
        if let Some(mut group) = self.write(region).remove(&region) {
            group.forget_state(ledger);
        }
    }

    /// All groups, ascending.
    pub(crate) fn regions(&self) -> Vec<RegionId> {
        let mut all: Vec<RegionId> = Vec::new();
        for shard in &self.shards {
            all.extend(shard.read().unwrap_or_else(PoisonError::into_inner).keys());
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
            // A bucket is a key, a pointer and a control byte; the map's capacity is seven eighths of its buckets.
            bytes += shard.capacity() * 8 / 7 * (size_of::<(RegionId, Box<Group>)>() + 1);
            bytes += shard.values().map(|group| size_of::<Group>() + group.blocks.heap()).sum::<usize>();
        }
        (groups, bytes)
    }

    fn shard(&self, region: RegionId) -> &RwLock<Shard> {
        // The map inside uses the same hash's low and top bits; these are others.
        &self.shards[(FxBuildHasher.hash_one(region) >> 40) as usize % SHARDS]
    }

    // A panic under these locks is a broken invariant on the writer's thread, which is poisoned by it anyway; readers of
    // other groups go on.
    fn read(&self, region: RegionId) -> RwLockReadGuard<'_, Shard> {
        self.shard(region).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, region: RegionId) -> RwLockWriteGuard<'_, Shard> {
        self.shard(region).write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_group_stays_small() {
        assert!(size_of::<Group>() <= 112, "{}", size_of::<Group>());
        assert_eq!(size_of::<Block>(), 32);
    }
}
