//! Reads segment files from end to end, some of it at a time.
//!
//! Holds one piece of one segment, which moves forward in large steps, so that a byte is read once and is still in the
//! processor's caches when it is checked. Knows which frames and records are sound; what they mean is not its business.
//! Never writes.

use super::format::{
    ALIGN, DirectoryEntry, FRAME_HEADER, Footer, Frame, FrameHeader, Loc, TRAILER, find_mark, frame_begun,
};
use super::record::{self, RecordInfo};
use super::segment::Segment;

/// How much is read at once: fits the second level of caches, and a system call for it costs nothing.
pub(super) const STEP: usize = 256 << 10;
/// How much is read at once around a place that cannot be read.
const PAGE: usize = 4096;

/// A frame of which header and directory are sound. Each record is checked; a damaged one keeps its directory entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CheckedFrame {
    pub(super) header: FrameHeader,
    pub(super) records: Vec<(DirectoryEntry, Option<RecordInfo>)>,
}

impl CheckedFrame {
    /// Where the next frame begins.
    pub(super) fn end(&self) -> u32 {
        self.header.at.offset + self.header.length
    }
}

/// See the module. Takes as much memory as it reads at once, or as the longest frame has.
#[derive(Debug, Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    holds: Option<u32>,
    /// Where in the segment it begins, and how many bytes of it are there.
    start: usize,
    length: usize,
    /// A segment, and a place in it from which on no frame begins.
    quiet: Option<(u32, u32)>,
}

impl Window {
    /// A segment's footer, if there is a sound one.
    pub(super) fn footer(&mut self, segment: &Segment) -> Option<Footer> {
        let capacity = segment.capacity as usize;
        let trailer = self.get(segment, capacity.checked_sub(TRAILER)?, TRAILER, capacity)?;
        let length = Footer::peek(trailer, segment.number)?;
        let bytes = self.get(segment, capacity.checked_sub(length)?, length, capacity)?;
        Footer::decode(bytes, segment.number, segment.seed)
    }

    /// The frame at `at`, if there is one and it lies before `limit` as a whole; its records are not checked.
    pub(super) fn frame(&mut self, segment: &Segment, at: u32, limit: usize) -> Option<Frame<'_>> {
        let head = self.get(segment, at as usize, FRAME_HEADER, limit)?;
        let header = FrameHeader::peek(head, Loc { segment: segment.number, offset: at })?;
        Frame::check(self.get(segment, at as usize, header.length as usize, limit)?, header, segment.seed)
    }

    /// The same, with its records checked.
    pub(super) fn checked_frame(&mut self, segment: &Segment, at: u32, limit: usize) -> Option<CheckedFrame> {
        let frame = self.frame(segment, at, limit)?;
        let (header, entries) = (frame.header, frame.entries().collect::<Vec<_>>());
        let check = |entry: DirectoryEntry| {
            let at = Loc { segment: segment.number, offset: entry.offset };
            let bytes = self.get(segment, entry.offset as usize, entry.length as usize, segment.capacity as usize);
            let record = bytes.and_then(|bytes| record::decode(bytes, entry.region, at, entry.prev, segment.seed));
            (entry, record.map(|(info, _)| info))
        };
        let records = entries.into_iter().map(check).collect();
        Some(CheckedFrame { header, records })
    }

    /// The first place in `from..until` where a frame begins that lies before `limit` as a whole, if there is any.
    pub(super) fn find_frame(&mut self, segment: &Segment, from: u32, until: usize, limit: usize) -> Option<u32> {
        if self.quiet.is_some_and(|(number, quiet)| number == segment.number && quiet <= from) {
            return None;
        }
        let last = until.min((limit + 1).saturating_sub(FRAME_HEADER));
        let mut at = (from as usize).next_multiple_of(ALIGN);
        while at < last {
            let length = (last + 3 - at).min(STEP);
            let bytes = self.get(segment, at, length, limit)?;
            match find_mark(bytes) {
                Some(place) => {
                    at += place;
                    if at < last && self.frame(segment, at as u32, limit).is_some() {
                        return Some(at as u32);
                    }
                    at += ALIGN;
                }
                None => at += length.next_multiple_of(ALIGN),
            }
        }
        if until.min(limit) == segment.capacity as usize {
            self.quiet = Some((segment.number, from));
        }
        None
    }

    /// A place behind all frames of a segment, as far as searching has shown.
    pub(super) fn end_of_frames(&self, segment: &Segment) -> u32 {
        let quiet = self.quiet.filter(|(number, _)| *number == segment.number);
        quiet.map_or(segment.capacity, |(_, from)| from)
    }

    /// Whether a write of a frame has at least begun at `at`.
    pub(super) fn has_begun(&mut self, segment: &Segment, at: u32, limit: usize) -> bool {
        let head = self.get(segment, at as usize, FRAME_HEADER, limit);
        head.is_some_and(|head| frame_begun(head, segment.number))
    }

    /// Bytes of a segment, if they lie before `limit`; what cannot be read is zeros, which no checksum accepts.
    fn get(&mut self, segment: &Segment, from: usize, length: usize, limit: usize) -> Option<&[u8]> {
        let end = from.checked_add(length)?;
        if end > limit.min(segment.capacity as usize) {
            return None;
        }
        if self.holds != Some(segment.number) || from < self.start || end > self.start + self.length {
            self.move_to(segment, from, end);
        }
        self.bytes.get(from - self.start..end - self.start)
    }

    /// Takes in at least `from..end`, in whole pages.
    fn move_to(&mut self, segment: &Segment, from: usize, end: usize) {
        let start = from / PAGE * PAGE;
        let end = end.max(start + STEP).next_multiple_of(PAGE).min(segment.capacity as usize);
        let held = self.start..self.start + self.length;
        let kept = if self.holds == Some(segment.number) && held.contains(&start) {
            self.bytes.copy_within(start - held.start..self.length, 0);
            held.end - start
        } else {
            0
        };
        (self.holds, self.start, self.length) = (Some(segment.number), start, (end - start).max(kept));
        if self.bytes.len() < self.length {
            self.bytes.resize(self.length, 0);
        }
        read(segment, start + kept, &mut self.bytes[kept..self.length]);
    }
}

/// Reads whole pages.
fn read(segment: &Segment, from: usize, into: &mut [u8]) {
    if into.is_empty() || segment.file.read_at(into, from as u64).is_ok() {
        return;
    }
    for (number, page) in into.chunks_mut(PAGE).enumerate() {
        let offset = from + number * PAGE;
        if let Err(error) = segment.file.read_at(page, offset as u64) {
            tracing::error!(file = segment.name, offset, %error, "a log page cannot be read");
            page.fill(0);
        }
    }
}
