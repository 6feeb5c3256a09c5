//! Reads segments back into the index, and proves of each group that nothing of it is missing.
//!
//! Four things bear the proof. Each record names its group's record before it. Each frame lists its records under a
//! checksum of its own, so that a damaged record still names its group. Each sealed segment ends with the last record of
//! every group in it. And segments have numbers without gaps. What none of these can prove is taken to be lost: the group
//! is suspect. Nothing damaged is ever taken for "not there".

use std::collections::{BTreeMap, BTreeSet};

use multiraft_raft::RegionId;

use super::ahead::Frames;
use super::damage::{Affected, Damage, DamageKind};
use super::format::{DirectoryEntry, FRAME_HEADER, Footer, Loc, SEGMENT_HEADER};
use super::index::Index;
use super::ledger::Ledger;
use super::record::{RecordInfo, RecordKind};
use super::segment::Segment;

/// Everything learnt from the segments so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) index: Index,
    pub(super) ledger: Ledger,
    pub(super) damage: Vec<Damage>,
    /// Segments below it are gone by intent.
    pub(super) floor: u32,
    /// Damage in segments below it makes nobody suspect.
    pub(super) settled: u32,
    /// Places where records of any group may have been lost.
    holes: Vec<Loc>,
    /// Groups removed in the segment at hand, with the place of that record.
    removed: BTreeMap<RegionId, u32>,
    /// Groups found incomplete in the segment at hand, with the place that shows it.
    broken: BTreeMap<RegionId, u32>,
}

/// One segment to be read.
pub(super) struct Source<'a> {
    pub(super) segment: &'a Segment,
    pub(super) file: String,
    /// No later segment exists.
    pub(super) is_last: bool,
    /// Where its frames end, as the next segment's header has it.
    pub(super) end_hint: Option<u32>,
}

/// How a segment ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SegmentEnd {
    /// Where its frames end.
    pub(super) end: u32,
    /// Where its last frame begins; equals `end` if it has none.
    pub(super) last_frame: u32,
    pub(super) sealed: bool,
    pub(super) damaged: bool,
    /// A write had begun at `end`.
    pub(super) torn: bool,
}

impl Replay {
    pub(super) fn new() -> Self {
        Self { floor: 1, ..Self::default() }
    }

    /// Reads one segment. Must be called in the order of the segments.
    pub(super) fn read_segment(&mut self, source: &Source<'_>, frames: &mut Frames<'_>) -> SegmentEnd {
        let damage_before = self.damage.len();
        self.removed.clear();
        self.broken.clear();
        let footer = frames.window.footer(source.segment);
        let expected = footer.as_ref().map(|footer| footer.end).or(source.end_hint);
        let has_bad_header = self
            .damage
            .last()
            .is_some_and(|damage| damage.kind == DamageKind::SegmentHeader && damage.file == source.file);
        let mut end = self.read_frames(source, frames, expected);
        end.sealed = footer.is_some();
        if end.torn && source.is_last && (has_bad_header || self.damage.len() > damage_before) {
            // A medium that has lost something in this file may have lost the last frame too, which was perhaps
            // acknowledged: that is no torn write. Its beginning counts as part of the file from now on, so that every later
            // start finds this damage again.
            self.report(source, end.end, FRAME_HEADER as u32, DamageKind::Frame);
            end.end += FRAME_HEADER as u32;
            end.torn = false;
        }
        let proof = footer.as_ref().filter(|footer| !footer.over_damage);
        if let Some(footer) = &footer {
            self.note_marks(footer.floor, footer.settled);
        } else if !source.is_last {
            self.report(source, source.segment.capacity, 0, DamageKind::Footer);
            if expected.is_none() {
                self.add_hole(source, end.end);
            }
        }
        if let Some(footer) = proof {
            self.check_against(footer);
        }
        self.attribute(source, damage_before, proof.is_some(), expected.is_some());
        end.damaged = self.damage.len() > damage_before;
        end
    }

    /// A segment is not there.
    pub(super) fn on_missing(&mut self, number: u32, file: String) {
        let settled = number < self.settled;
        let kind = DamageKind::MissingSegment;
        self.damage.push(Damage { file, offset: 0, length: 0, kind, affected: Affected::Unknown, settled });
        if !settled {
            self.holes.push(Loc { segment: number, offset: 0 });
        }
    }

    /// A segment's header is not what was written; its frames are read all the same.
    pub(super) fn on_bad_header(&mut self, number: u32, file: String) {
        let (kind, affected) = (DamageKind::SegmentHeader, Affected::Regions(Vec::new()));
        let (length, settled) = (SEGMENT_HEADER as u64, number < self.settled);
        self.damage.push(Damage { file, offset: 0, length, kind, affected, settled });
    }

    /// After the last segment: who may have lost something. Those hold nothing any more.
    pub(super) fn finish(&mut self, last_file: &str) -> BTreeSet<RegionId> {
        let mut suspects = BTreeSet::new();
        for region in self.index.regions() {
            let Some((suspect, last, contiguous)) =
                self.index.look(region, |group| (group.head.suspect, group.head.last_record, group.is_contiguous()))
            else {
                continue;
            };
            let unproved = self.holes.iter().any(|hole| last < *hole);
            if !suspect && !unproved && !contiguous {
                self.damage.push(Damage {
                    file: last_file.to_owned(),
                    offset: 0,
                    length: 0,
                    kind: DamageKind::Chain,
                    affected: Affected::Regions(vec![region]),
                    settled: false,
                });
            }
            if suspect || unproved || !contiguous {
                self.index.change(region, |group| group.become_suspect(&mut self.ledger));
                suspects.insert(region);
            }
        }
        suspects
    }

    /// Whether groups that are not known here may have been.
    pub(super) fn may_lack_groups(&self) -> bool {
        !self.holes.is_empty()
    }

    /// The groups with a record in the segment last read, and those that were removed there.
    pub(super) fn regions_of(&self, number: u32) -> (Vec<RegionId>, BTreeMap<RegionId, u32>) {
        let here = |region: &RegionId| self.index.tip(*region).is_some_and(|tip| tip.last_record.segment == number);
        (self.index.regions().into_iter().filter(here).collect(), self.removed.clone())
    }

    fn read_frames(&mut self, source: &Source<'_>, frames: &mut Frames<'_>, expected: Option<u32>) -> SegmentEnd {
        let segment = source.segment;
        let limit = limit_of(segment, expected);
        let mut at = SEGMENT_HEADER as u32;
        let mut last_frame = at;
        let ends_here = |at, last_frame, torn| SegmentEnd { end: at, last_frame, torn, ..SegmentEnd::default() };
        loop {
            if expected.is_some_and(|end| at >= end) {
                return ends_here(at, last_frame, false);
            }
            let next = match frames.next(segment, at, limit) {
                Some(frame) => {
                    let end = frame.end();
                    let is_whole = frame.records.iter().all(|(_, record)| record.is_some());
                    let mut is_not_last = || frames.window.find_frame(segment, end, limit, limit).is_some();
                    if is_whole || expected.is_some() || !source.is_last || is_not_last() {
                        self.note_marks(frame.header.floor, frame.header.settled);
                        self.apply_records(source, frame.records);
                        last_frame = at;
                        Some(end)
                    } else {
                        None
                    }
                }
                None => {
                    // Bytes that no frame claims, in front of a frame or of the known end: written after a sync, so not torn.
                    let next = frames.window.find_frame(segment, at + 1, limit, limit).or(expected);
                    if let Some(next) = next {
                        self.report(source, at, next - at, DamageKind::Frame);
                    }
                    next
                }
            };
            match next {
                Some(next) => at = next,
                None => return ends_here(at, last_frame, frames.window.has_begun(segment, at, limit)),
            }
        }
    }

    fn apply_records(&mut self, source: &Source<'_>, records: Vec<(DirectoryEntry, Option<RecordInfo>)>) {
        for (entry, record) in records {
            let at = Loc { segment: source.segment.number, offset: entry.offset };
            self.check_chain(&entry, at);
            match record {
                Some(record) => {
                    self.index.apply(&record, &mut self.ledger);
                    if record.kind == RecordKind::Remove {
                        self.removed.insert(entry.region, entry.offset);
                    } else {
                        self.removed.remove(&entry.region);
                    }
                }
                None => {
                    self.index.change(entry.region, |group| group.head.last_record = at);
                    if !self.is_settled(source.segment.number) {
                        self.suspect(entry.region);
                    }
                    let affected = Affected::Regions(vec![entry.region]);
                    self.damage.push(Damage {
                        file: source.file.clone(),
                        offset: u64::from(entry.offset),
                        length: u64::from(entry.length),
                        kind: DamageKind::Record,
                        affected,
                        settled: self.is_settled(source.segment.number),
                    });
                }
            }
        }
    }

    /// Whether the record's predecessor is the last that was seen of its group.
    fn check_chain(&mut self, entry: &DirectoryEntry, at: Loc) {
        let last = self.index.tip(entry.region).map(|tip| tip.last_record);
        let holds = match last {
            // The group began anew with this record: whatever was seen, or not seen, of an earlier life is void.
            _ if entry.prev == Loc::NONE => {
                self.index.forget(entry.region, &mut self.ledger);
                true
            }
            Some(last) if last != Loc::NONE => last == entry.prev,
            _ => entry.prev.segment < self.floor,
        };
        if !holds && !self.is_settled(entry.prev.segment) {
            self.suspect(entry.region);
            self.broken.insert(entry.region, at.offset);
        }
    }

    /// Compares what was seen of a sealed segment with what its footer says was in it.
    fn check_against(&mut self, footer: &Footer) {
        if self.is_settled(footer.segment) {
            return;
        }
        for (region, offset) in &footer.regions {
            let at = Loc { segment: footer.segment, offset: *offset };
            let last = self.index.tip(*region).map(|tip| tip.last_record);
            let seen = last == Some(at) || (last.is_none() && self.removed.get(region) == Some(offset));
            if !seen {
                self.suspect(*region);
                self.index.change(*region, |group| group.head.last_record = at);
                self.broken.insert(*region, *offset);
            }
        }
    }

    /// Says of the segment's damage whom it affects.
    fn attribute(&mut self, source: &Source<'_>, damage_before: usize, proved: bool, end_known: bool) {
        let broken: Vec<RegionId> = self.broken.keys().copied().collect();
        let mut explained = !self.holes.is_empty();
        let mut holes = Vec::new();
        for damage in &mut self.damage[damage_before..] {
            match damage.kind {
                DamageKind::Frame if proved => damage.affected = Affected::Regions(broken.clone()),
                DamageKind::Frame => {
                    damage.affected = Affected::Unknown;
                    holes.push(Loc { segment: source.segment.number, offset: damage.offset as u32 });
                }
                DamageKind::Footer if end_known => damage.affected = Affected::Regions(Vec::new()),
                _ => {}
            }
            explained |= damage.kind == DamageKind::Frame;
        }
        if !self.is_settled(source.segment.number) {
            self.holes.extend(holes);
        }
        if !explained {
            for (region, offset) in std::mem::take(&mut self.broken) {
                self.report(source, offset, 0, DamageKind::Chain);
                let damage = self.damage.last_mut().expect("just reported");
                damage.affected = Affected::Regions(vec![region]);
            }
        }
    }

    fn suspect(&mut self, region: RegionId) {
        self.index.change(region, |group| group.become_suspect(&mut self.ledger));
    }

    fn add_hole(&mut self, source: &Source<'_>, offset: u32) {
        if !self.is_settled(source.segment.number) {
            self.holes.push(Loc { segment: source.segment.number, offset });
        }
    }

    fn report(&mut self, source: &Source<'_>, offset: u32, length: u32, kind: DamageKind) {
        self.damage.push(Damage {
            file: source.file.clone(),
            offset: u64::from(offset),
            length: u64::from(length),
            kind,
            affected: Affected::Unknown,
            settled: self.is_settled(source.segment.number),
        });
    }

    fn is_settled(&self, segment: u32) -> bool {
        segment < self.settled
    }

    /// Marks only grow: the highest counts.
    pub(super) fn note_marks(&mut self, floor: u32, settled: u32) {
        self.floor = self.floor.max(floor);
        self.settled = self.settled.max(settled);
    }
}

/// Where to look for frames no further, if they are expected to end there.
pub(super) fn limit_of(segment: &Segment, expected: Option<u32>) -> usize {
    expected.map_or(segment.capacity, |end| segment.capacity.min(end)) as usize
}
