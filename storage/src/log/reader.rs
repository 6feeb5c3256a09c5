//! The reading end: entries of any group, by any thread, while the writer goes on.
//!
//! Sees durable records only. Newly written bytes come from the system's page cache, older ones from disk; both are
//! checked. A read holds its segments, so that they are not written again under it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{Entry, HardState, LogIndex, LogSummary, RegionId};

use super::blocks::Block;
use super::error::LogReadError;
use super::format::Loc;
use super::index::Index;
use super::record;
use super::segment::{Segment, SegmentTable};
use super::stats::{Counters, LogStats};
use crate::disk::Disk;

/// The reading end of a log; clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct LogReader {
    disk: Arc<dyn Disk>,
    index: Arc<Index>,
    table: Arc<SegmentTable>,
    counters: Arc<Counters>,
}

impl LogReader {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        index: Arc<Index>,
        table: Arc<SegmentTable>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { disk, index, table, counters }
    }

    /// The entries `from..=to`, at least one, then as many as cost at most `bytes_max` (see [`Entry::cost`]).
    ///
    /// # Errors
    /// See [`LogReadError`]. Entries missing at either end of the range are an error only if `from` itself is missing.
    pub fn read(
        &self,
        region: RegionId,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, LogReadError> {
        let plan = self.index.look(region, |group| {
            if group.head.suspect {
                return Err(LogReadError::Suspect(region));
            }
            if from.0 <= group.head.truncated {
                return Err(LogReadError::Compacted { region, first: LogIndex(group.head.truncated + 1) });
            }
            let last = group.last_index();
            if from.0 > last || from > to {
                return Err(LogReadError::Beyond { region, last: LogIndex(last) });
            }
            let mut parts = Vec::new();
            let mut bytes = 0;
            let mut at = group.blocks.position(from.0);
            while let Some(block) = group.blocks.get(at).filter(|block| block.first <= to.0 && bytes < bytes_max.max(1))
            {
                // Found while the group is held: a segment leaves the table only after no group leads there.
                let segment = self.table.get(block.at.segment).expect("living entries lie in a segment in use");
                // The first part may be read from its middle: its length says nothing of what it will yield.
                bytes += if parts.is_empty() { 1 } else { block.length as usize };
                parts.push((*block, segment));
                at += 1;
            }
            Ok(parts)
        });
        let parts = plan.unwrap_or(Err(LogReadError::UnknownRegion(region)))?;
        let mut out: Vec<Entry> = Vec::new();
        let mut cost = 0;
        for (block, segment) in parts {
            let read = read_block(&segment, region, &block, from.0, to.0);
            for entry in read.map_err(|error| self.explain(error, &segment, region, &block))? {
                cost += entry.cost();
                if cost > bytes_max && !out.is_empty() {
                    return Ok(out);
                }
                out.push(entry);
            }
        }
        Ok(out)
    }

    /// What the log holds of a group, if it knows it and the group is not suspect.
    #[must_use]
    pub fn summary(&self, region: RegionId) -> Option<LogSummary> {
        self.index.look(region, |group| (!group.head.suspect).then(|| group.summary())).flatten()
    }

    /// A group's durable hard state, if the log knows the group and it is not suspect.
    #[must_use]
    pub fn hard_state(&self, region: RegionId) -> Option<HardState> {
        self.index.look(region, |group| (!group.head.suspect).then_some(group.head.hard_state)).flatten()
    }

    /// All groups, suspect ones included, ascending.
    #[must_use]
    pub fn regions(&self) -> Vec<RegionId> {
        self.index.regions()
    }

    /// The log's numbers.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        LogStats { groups: self.index.size().0 as u64, ..self.counters.read() }
    }

    /// How many bytes of memory the index takes. Walks all groups: for tests and reports.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.index.size().1
    }

    fn explain(&self, error: BlockError, segment: &Segment, region: RegionId, block: &Block) -> LogReadError {
        let file = self.disk.describe(&segment.name);
        match error {
            BlockError::Damaged => LogReadError::Damaged { file, offset: u64::from(block.at.offset), region },
            BlockError::Io(source) => LogReadError::Io { file, source },
        }
    }
}

/// Why a block was not read.
#[derive(Debug)]
pub(super) enum BlockError {
    Damaged,
    Io(io::Error),
}

/// Reads and checks a block's record; answers the living entries among `from..=to`.
pub(super) fn read_block(
    segment: &Segment,
    region: RegionId,
    block: &Block,
    from: u64,
    to: u64,
) -> Result<Vec<Entry>, BlockError> {
    let mut bytes = vec![0; block.length as usize];
    segment.file.read_at(&mut bytes, u64::from(block.at.offset)).map_err(BlockError::Io)?;
    let bytes = Bytes::from(bytes);
    let (info, entries_at) =
        record::decode(&bytes, region, block.at, Loc::NONE, segment.seed).ok_or(BlockError::Damaged)?;
    let (from, to) = (from.max(block.first), to.min(block.end() - 1));
    let entries = record::read_entries(&bytes, &info, entries_at, from, to).ok_or(BlockError::Damaged)?;
    if entries.len() as u64 == to + 1 - from { Ok(entries) } else { Err(BlockError::Damaged) }
}
