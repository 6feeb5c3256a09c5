//! The frame that is being gathered: its bytes, and what the index will have to know once they are durable.
//!
//! Owns the reusable buffers, and the view of each touched group as it will be after the records gathered so far: against
//! it each further record is checked. Nothing here is visible to readers.

use multiraft_raft::{Entry, EntryKind, HardState, LogIndex, Payload, RegionId, Term};
use rustc_hash::FxHashMap;

use super::batch::{GroupRecord, LogBatch, LogChange};
use super::format::{DIRECTORY_ENTRY, DirectoryEntry, FOOTER_ENTRY, FRAME_HEADER, FrameHeader, Loc, Seed, close_frame};
use super::group::Tip;
use super::index::Index;
use super::record::{self, RECORD_OVERHEAD_MAX, RecordInfo, RecordKind, Span};

/// What one record takes in a frame and in the segment's footer, besides its entries, at most.
pub(crate) const RECORD_SHARE: usize = RECORD_OVERHEAD_MAX + DIRECTORY_ENTRY + FOOTER_ENTRY;
/// How many bytes, and how many records, a frame may have without giving memory back after it.
const FRAME_KEPT: usize = 2 << 20;
const RECORDS_KEPT: usize = 8192;
/// The same while there is nothing to write.
const FRAME_KEPT_AT_REST: usize = 64 << 10;
const RECORDS_KEPT_AT_REST: usize = 256;
/// The largest batch: it has to fit one segment.
pub(crate) const BATCH_BYTES_MAX: usize = 512 << 20;

/// An upper bound of what a batch takes in a segment.
pub(crate) fn batch_bound(batch: &LogBatch, record_bytes_max: u32) -> usize {
    let entries_bound = |entries: &[Entry]| {
        let mut bytes = 0;
        let mut runs = 0;
        let mut term = None;
        for entry in entries {
            bytes += record::entry_length(entry);
            if term != Some(entry.term) {
                term = Some(entry.term);
                runs += 1;
            }
        }
        // Of two neighbouring records of one term, the second began because it did not fit the first.
        bytes + (runs + 2 * bytes / record_bytes_max as usize) * RECORD_SHARE
    };
    let records = batch.records.iter();
    records
        .map(|record| match &record.log {
            LogChange::Append(entries) => entries_bound(entries) + RECORD_SHARE,
            LogChange::Remove => 2 * RECORD_SHARE,
            _ => RECORD_SHARE,
        })
        .sum()
}

/// Whether a batch holds no entries, so that it may use the last of the space.
pub(crate) fn is_light(batch: &LogBatch) -> bool {
    !batch.records.iter().any(|record| matches!(&record.log, LogChange::Append(entries) if !entries.is_empty()))
}

/// A contract that a record breaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invalid {
    pub(crate) region: RegionId,
    pub(crate) why: &'static str,
}

#[derive(Debug)]
pub(crate) struct Staging {
    frame: Vec<u8>,
    directory: Vec<DirectoryEntry>,
    pub(crate) records: Vec<RecordInfo>,
    /// Each touched group as it will be after what is gathered.
    groups: FxHashMap<RegionId, Tip>,
    at: Loc,
    seed: Seed,
    record_bytes_max: usize,
    /// How many entries were handed over, and how many bytes were written again.
    pub(crate) entries: u64,
    pub(crate) rewritten: u64,
}

impl Staging {
    pub(crate) fn new(record_bytes_max: u32) -> Self {
        Self {
            frame: Vec::new(),
            directory: Vec::new(),
            records: Vec::new(),
            groups: FxHashMap::default(),
            at: Loc::NONE,
            seed: Seed::new(0, 0),
            record_bytes_max: record_bytes_max as usize,
            entries: 0,
            rewritten: 0,
        }
    }

    /// Forgets everything and begins a frame that will lie at `at`.
    pub(crate) fn begin(&mut self, at: Loc, seed: Seed) {
        self.frame.clear();
        self.frame.resize(FRAME_HEADER, 0);
        self.directory.clear();
        self.records.clear();
        self.groups.clear();
        (self.at, self.seed) = (at, seed);
        (self.entries, self.rewritten) = (0, 0);
        // One huge frame does not keep its memory for ever.
        self.shrink_to(FRAME_KEPT, RECORDS_KEPT);
    }

    /// The log rests: only buffers for small frames are kept.
    pub(crate) fn give_back(&mut self) {
        self.shrink_to(FRAME_KEPT_AT_REST, RECORDS_KEPT_AT_REST);
    }

    fn shrink_to(&mut self, bytes: usize, records: usize) {
        self.frame.shrink_to(bytes);
        self.directory.shrink_to(records);
        self.records.shrink_to(records);
        self.groups.shrink_to(records);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What is gathered takes in the segment, the footer's share included.
    pub(crate) fn bytes(&self) -> usize {
        self.frame.len() + self.directory.len() * (DIRECTORY_ENTRY + FOOTER_ENTRY)
    }

    /// Adds all of a batch. On an error the staging holds half of it and must begin anew.
    pub(crate) fn add_batch(&mut self, batch: &LogBatch, index: &Index) -> Result<(), Invalid> {
        batch.records.iter().try_for_each(|record| self.add_record(record, index))
    }

    fn add_record(&mut self, record: &GroupRecord, index: &Index) -> Result<(), Invalid> {
        let region = record.region;
        let hard_state = record.hard_state;
        let mut staged = self.view(region, index);
        let fail = |why| Err(Invalid { region, why });
        let info = |kind| RecordInfo { hard_state, ..RecordInfo::new(region, kind) };
        match &record.log {
            LogChange::Append(entries) if !entries.is_empty() => {
                self.add_entries(region, entries, hard_state, &mut staged)?;
            }
            LogChange::None | LogChange::Append(_) => {
                if hard_state.is_none() {
                    return Ok(());
                }
                self.put(info(RecordKind::State), &[], &mut staged);
            }
            LogChange::Truncate { index: upto, term } => {
                if upto.0 > staged.last_index && !staged.suspect {
                    return fail("it truncates entries that are not there");
                }
                self.put(RecordInfo { mark: (upto.0, term.0), ..info(RecordKind::Truncate) }, &[], &mut staged);
                staged.truncated = staged.truncated.max(upto.0);
            }
            LogChange::Reset { index: upto, term } => {
                if upto.0 == u64::MAX {
                    return fail("its index has no successor");
                }
                self.put(RecordInfo { mark: (upto.0, term.0), ..info(RecordKind::Reset) }, &[], &mut staged);
                (staged.truncated, staged.last_index) = (upto.0, upto.0);
            }
            LogChange::Remove => {
                self.put(RecordInfo::new(region, RecordKind::Remove), &[], &mut staged);
                staged = Tip::default();
                if hard_state.is_some() {
                    self.put(info(RecordKind::State), &[], &mut staged);
                }
            }
        }
        self.groups.insert(region, staged);
        Ok(())
    }

    /// Adds entries, as one record for each term and each `record_bytes_max` bytes.
    fn add_entries(
        &mut self,
        region: RegionId,
        entries: &[Entry],
        hard_state: Option<HardState>,
        staged: &mut Tip,
    ) -> Result<(), Invalid> {
        let fail = |why| Err(Invalid { region, why });
        let first = entries[0].index.0;
        if first <= staged.truncated && !staged.suspect {
            return fail("its entries begin below the truncated index");
        }
        if first > staged.last_index.saturating_add(1) && !staged.suspect {
            return fail("its entries leave a gap");
        }
        let chunk = |entries: &[Entry], hard_state| {
            let span = Span { first: entries[0].index.0, term: entries[0].term.0, count: entries.len() as u32 };
            RecordInfo { span, hard_state, ..RecordInfo::new(region, RecordKind::Append) }
        };
        let mut start = 0;
        let mut bytes = 0;
        for (at, entry) in entries.iter().enumerate() {
            if entry.index.0 == u64::MAX || entry.index.0 - first != at as u64 {
                return fail("its entries are not consecutive");
            }
            let length = record::entry_length(entry);
            let term = entries[start].term;
            if at > start && (entry.term != term || bytes + length > self.record_bytes_max) {
                if entry.term < term {
                    return fail("its entries' terms descend");
                }
                self.put(chunk(&entries[start..at], None), &entries[start..at], staged);
                (start, bytes) = (at, 0);
            }
            bytes += length;
        }
        self.put(chunk(&entries[start..], hard_state), &entries[start..], staged);
        staged.last_index = first + entries.len() as u64 - 1;
        self.entries += entries.len() as u64;
        Ok(())
    }

    /// Adds a record that restates where something of a group lives.
    pub(crate) fn add_moved(&mut self, info: RecordInfo, entries: &[(EntryKind, Payload)], index: &Index) {
        let before = self.frame.len();
        let mut staged = self.view(info.region, index);
        self.put_raw(info, entries.iter().map(|(kind, data)| (*kind, data.as_ref())), &mut staged);
        self.groups.insert(info.region, staged);
        self.rewritten += (self.frame.len() - before) as u64;
    }

    fn put(&mut self, info: RecordInfo, entries: &[Entry], staged: &mut Tip) {
        self.put_raw(info, entries.iter().map(|entry| (entry.kind, entry.data.as_ref())), staged);
    }

    fn put_raw<'a>(
        &mut self,
        mut info: RecordInfo,
        entries: impl Iterator<Item = (EntryKind, &'a [u8])>,
        staged: &mut Tip,
    ) {
        info.at = Loc { segment: self.at.segment, offset: self.at.offset + self.frame.len() as u32 };
        info.prev = staged.last_record;
        info.suspect |= staged.suspect && info.kind != RecordKind::Remove;
        staged.last_record = info.at;
        info.length = record::encode(&info, entries, self.seed, &mut self.frame);
        let (offset, length) = (info.at.offset, info.length);
        self.directory.push(DirectoryEntry { region: info.region, prev: info.prev, offset, length });
        self.records.push(info);
    }

    /// The group as it will be after what is gathered so far.
    fn view(&self, region: RegionId, index: &Index) -> Tip {
        if let Some(staged) = self.groups.get(&region) {
            return *staged;
        }
        index.tip(region).unwrap_or_default()
    }

    /// The finished frame's bytes.
    pub(crate) fn close(&mut self, floor: u32, settled: u32) -> &[u8] {
        let header = FrameHeader { at: self.at, length: 0, records: 0, floor, settled };
        close_frame(&mut self.frame, header, &self.directory, self.seed);
        &self.frame
    }
}

/// What an entry of that data takes in a record.
pub(crate) fn entry_bytes(data: &[u8]) -> usize {
    record::ENTRY_HEAD + data.len()
}

/// The state that a moved record restates.
pub(crate) fn moved(region: RegionId, hard_state: HardState, mark: (u64, u64)) -> RecordInfo {
    RecordInfo { hard_state: Some(hard_state), mark, ..RecordInfo::new(region, RecordKind::Moved) }
}

/// What a block of entries becomes when it moves.
pub(crate) fn moved_span(first: LogIndex, term: Term, count: usize) -> Span {
    Span { first: first.0, term: term.0, count: count as u32 }
}
