//! Gives space back: the oldest segment's living records are written again at the log's end, then the segment goes.
//!
//! Owns the policy, and who has to move. Only the oldest segment is ever emptied, so a record's order relative to every
//! other record of its group that is still on disk never changes: a tombstone or mark outlives all it overrides. What
//! moves is written as a record of its own kind, which restates the group's hard state and mark and says where the entries
//! lie now; at recovery it fills and replaces places, and never cuts a suffix.
//!
//! Each group is on one list: that of the oldest segment in which something of it lived when it was last looked at. So
//! emptying a segment looks at the groups on its list only, and groups that never write cost nothing.

use std::collections::BTreeMap;

use multiraft_raft::{EntryKind, HardState, LogIndex, Payload, RegionId, Term};

use super::blocks::Block;
use super::format::{FRAME_HEADER, Loc};
use super::group::Group;
use super::index::Index;
use super::record::RecordInfo;
use super::region_list::RegionList;
use super::staging::{self, RECORD_SHARE};
use super::writer::LogWriter;

/// How many groups are looked at in one go, moving or not.
const LOOKS_MAX: usize = 4096;
/// On the list of no segment: on its way from one to another.
const IN_FLIGHT: u32 = u32::MAX;

/// Who stands where, and how far the present sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    lists: BTreeMap<u32, RegionList>,
    current: Option<Current>,
    /// Staged in the present frame.
    moving: Vec<RegionId>,
    /// Found damaged while moving; not yet told to anyone.
    found: Vec<RegionId>,
    /// Damage is not dealt with: no segment may go, since it may be what shows that a region is suspect.
    pinned: bool,
    /// There was no space: sweep wherever that gains some.
    pressed: bool,
    /// The active segment of the newest commit. An idle log sweeps what is older, once.
    horizon: u32,
}

#[derive(Debug)]
struct Current {
    segment: u32,
    queue: Vec<RegionId>,
    /// Behind those in the queue.
    rest: RegionList,
}

impl Current {
    fn next(&mut self) -> Option<RegionId> {
        if self.queue.is_empty() {
            self.queue = self.rest.take_some();
        }
        self.queue.pop()
    }

    fn is_done(&self) -> bool {
        self.queue.is_empty() && self.rest.is_empty()
    }
}

/// What of one group has to leave a segment.
struct Leaving {
    hard_state: HardState,
    mark: (u64, u64),
    suspect: bool,
    state: bool,
    blocks: Vec<Block>,
}

/// Entries that will be one record.
#[derive(Default)]
struct Parcel {
    first: u64,
    term: u64,
    bytes: usize,
    entries: Vec<(EntryKind, Payload)>,
}

impl Sweep {
    pub(super) fn new(index: &Index, active: u32) -> Self {
        let mut sweep = Self { horizon: active, ..Self::default() };
        for region in index.regions() {
            sweep.enlist(region, active, index);
        }
        sweep
    }

    pub(super) fn pin(&mut self) {
        self.pinned = true;
    }

    pub(super) fn unpin(&mut self) {
        self.pinned = false;
    }

    pub(super) fn on_no_space(&mut self) {
        self.pressed = true;
    }

    pub(super) fn on_commit(&mut self, active: u32) {
        self.horizon = active;
    }

    pub(super) fn is_pressed(&self) -> bool {
        self.pressed
    }

    pub(super) fn on_new_group(&mut self, region: RegionId, segment: u32) {
        self.lists.entry(segment).or_default().push(region);
    }

    /// Puts a group on the list where it belongs now.
    fn enlist(&mut self, region: RegionId, active: u32, index: &Index) {
        let segment = index.change(region, |group| {
            group.head.sweep_segment = group.oldest_segment().unwrap_or(active);
            group.head.sweep_segment
        });
        self.lists.entry(segment).or_default().push(region);
    }
}

impl LogWriter {
    /// Regions found damaged while the log was at work, since this was last asked: to be replaced, as those that recovery
    /// names.
    pub fn take_damaged(&mut self) -> Vec<RegionId> {
        std::mem::take(&mut self.sweep.found)
    }

    /// Adds moves of up to about `budget` bytes to the frame, if the policy wants any. If the next one does not fit the
    /// active segment with `beside` more bytes, answers what it would take.
    pub(super) fn stage_moves(&mut self, budget: usize, beside: usize) -> Option<usize> {
        let mut looks = 0;
        while looks < LOOKS_MAX && self.staging.bytes() < FRAME_HEADER + budget {
            looks += 1;
            let Some(current) = &mut self.sweep.current else {
                if self.choose_segment() {
                    continue;
                }
                return None;
            };
            let segment = current.segment;
            let Some(region) = current.next() else {
                if self.sweep.moving.is_empty() {
                    self.finish_segment(segment);
                    continue;
                }
                return None;
            };
            if let Some(blocked) = self.stage_region(region, segment, budget, beside) {
                return Some(blocked);
            }
        }
        None
    }

    /// What was staged did not become durable: it has to move again.
    pub(super) fn abandon_moves(&mut self) {
        let Some(current) = &mut self.sweep.current else { return };
        for region in self.sweep.moving.drain(..) {
            self.index.change(region, |group| group.head.sweep_segment = current.segment);
            current.queue.push(region);
        }
    }

    /// The frame with the staged moves is durable, and the index knows.
    pub(super) fn on_moves_durable(&mut self) {
        let active = self.segments.active.segment.number;
        let Some(segment) = self.sweep.current.as_ref().map(|current| current.segment) else { return };
        for region in std::mem::take(&mut self.sweep.moving) {
            match self.index.look(region, Group::oldest_segment) {
                // Removed by the same frame.
                None => {}
                Some(Some(oldest)) if oldest <= segment => {
                    self.index.change(region, |group| group.head.sweep_segment = segment);
                    let current = self.sweep.current.as_mut().expect("just seen");
                    current.queue.push(region);
                }
                Some(_) => self.sweep.enlist(region, active, &self.index),
            }
        }
        if self.sweep.current.as_ref().is_some_and(Current::is_done) {
            self.finish_segment(segment);
        }
    }

    /// Nothing lives in the segment any more. The next frame says so, and only when that is durable the file goes.
    fn finish_segment(&mut self, segment: u32) {
        assert_eq!(self.ledger.of(segment), 0, "segment {segment} goes while something lives in it");
        self.floor = segment + 1;
        self.sweep.current = None;
    }

    /// The policy: whether the oldest segment is to be emptied now.
    fn choose_segment(&mut self) -> bool {
        let active = &self.segments.active.segment;
        let oldest = self.floor;
        if self.sweep.pinned || oldest >= active.number {
            return false;
        }
        let live = self.ledger.of(oldest);
        let capacity = self.segments.table.get(oldest).map_or(0, |segment| u64::from(segment.capacity));
        let bound = self.ledger.total().saturating_mul(u64::from(self.segments.options.garbage_percent)) / 100;
        // What of the active segment is still empty is no garbage: a log in which all lives moves nothing.
        let too_much_garbage = self.segments.filled_bytes() > bound && oldest < self.sweep.horizon;
        let gains_space = self.sweep.pressed && live < capacity / 4 * 3;
        if live > 0 && !too_much_garbage && !gains_space {
            self.sweep.pressed = false;
            return false;
        }
        let rest = self.sweep.lists.remove(&oldest).unwrap_or_default();
        self.sweep.current = Some(Current { segment: oldest, queue: Vec::new(), rest });
        true
    }

    /// Stages what of a group has to leave the segment, as far as the budget goes.
    fn stage_region(&mut self, region: RegionId, segment: u32, budget: usize, beside: usize) -> Option<usize> {
        let leaving = self.index.look(region, |group| {
            let blocks = group.blocks.iter().filter(|block| block.at.segment <= segment).copied();
            (group.head.sweep_segment == segment).then(|| Leaving {
                hard_state: group.head.hard_state,
                mark: (group.head.truncated, group.head.truncated_term),
                suspect: group.head.suspect,
                state: group.state_stands_upto(segment),
                blocks: blocks.collect(),
            })
        });
        // Gone, or listed twice because it was gone for a while.
        let leaving = leaving.flatten()?;
        if leaving.blocks.is_empty() && !leaving.state {
            self.sweep.enlist(region, self.segments.active.segment.number, &self.index);
            return None;
        }
        let mut staged = false;
        let mut blocked = None;
        if leaving.blocks.is_empty() {
            blocked = self.stage_parcel(region, &leaving, Parcel::default(), beside);
            staged = blocked.is_none();
        }
        let mut parcel = Parcel::default();
        for block in &leaving.blocks {
            if self.staging.bytes() + parcel.bytes >= FRAME_HEADER + budget && (staged || parcel.bytes > 0) {
                break;
            }
            let Some(entries) = self.read_block(region, block) else {
                self.give_up(region);
                return None;
            };
            let bytes: usize = entries.iter().map(|(_, data)| staging::entry_bytes(data)).sum();
            let follows = parcel.first + parcel.entries.len() as u64 == block.first && parcel.term == block.term;
            let fits = parcel.bytes + bytes <= self.segments.options.record_bytes_max as usize;
            let continues = parcel.entries.is_empty() || (follows && fits);
            if !continues {
                blocked = self.stage_parcel(region, &leaving, std::mem::take(&mut parcel), beside);
                if blocked.is_some() {
                    break;
                }
                staged = true;
            }
            if parcel.entries.is_empty() {
                (parcel.first, parcel.term) = (block.first, block.term);
            }
            parcel.bytes += bytes;
            parcel.entries.extend(entries);
        }
        if blocked.is_none() && !parcel.entries.is_empty() {
            blocked = self.stage_parcel(region, &leaving, parcel, beside);
            staged |= blocked.is_none();
        }
        if staged {
            self.index.change(region, |group| group.head.sweep_segment = IN_FLIGHT);
            self.sweep.moving.push(region);
        } else if let Some(current) = &mut self.sweep.current {
            current.queue.push(region);
        }
        blocked
    }

    /// Stages one record, or answers how much room it lacks a segment for.
    fn stage_parcel(&mut self, region: RegionId, leaving: &Leaving, parcel: Parcel, beside: usize) -> Option<usize> {
        let bound = parcel.bytes + RECORD_SHARE;
        if self.staging.bytes() + bound + beside > self.segments.active.room() {
            return Some(bound);
        }
        let mut info: RecordInfo = staging::moved(region, leaving.hard_state, leaving.mark);
        info.suspect = leaving.suspect;
        info.span = staging::moved_span(LogIndex(parcel.first), Term(parcel.term), parcel.entries.len());
        self.staging.add_moved(info, &parcel.entries, &self.index);
        None
    }

    /// The living entries of a block, from disk. `None` if they are not what was written.
    fn read_block(&self, region: RegionId, block: &Block) -> Option<Vec<(EntryKind, Payload)>> {
        let Loc { segment, .. } = block.at;
        let segment = self.segments.table.get(segment)?;
        let read = super::reader::read_block(&segment, region, block, block.first, block.end() - 1);
        match read {
            Ok(entries) => Some(entries.into_iter().map(|entry| (entry.kind, entry.data)).collect()),
            Err(error) => {
                tracing::error!(%region, file = segment.name, offset = block.at.offset, ?error, "a log record cannot be read");
                None
            }
        }
    }

    /// A living record is damaged: the group is suspect from here on, and what is written for it says so.
    fn give_up(&mut self, region: RegionId) {
        self.index.change(region, |group| group.become_suspect(&mut self.ledger));
        self.sweep.found.push(region);
        if let Some(current) = &mut self.sweep.current {
            current.queue.push(region);
        }
    }
}
