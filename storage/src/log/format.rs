//! The bytes of a segment file: header, frames, footer. Described in full in `docs/log-format.md`.
//!
//! Encodes and decodes; knows no files and no groups' meaning. All numbers are little-endian. Every checksum is CRC-32C and
//! starts from a [`Seed`] that stands for this log and this segment, so that bytes of an earlier life of a recycled file,
//! of another log, or of a user's payload are never taken for records.

use multiraft_raft::RegionId;

/// The newest format that this code writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

pub(crate) const SEGMENT_HEADER: usize = 64;
pub(crate) const FRAME_HEADER: usize = 40;
pub(crate) const DIRECTORY_ENTRY: usize = 24;
pub(crate) const FOOTER_ENTRY: usize = 16;
pub(crate) const TRAILER: usize = 40;
/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
pub(crate) const META_LEN: usize = 32;

const SEGMENT_MAGIC: &[u8; 8] = b"MRLOGSEG";
const META_MAGIC: &[u8; 8] = b"MRLOGDIR";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"MRFR");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"MRFT");

/// A place in the log: a segment and a byte offset in it. Ascends in the order of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Loc {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Loc {
    /// Before everything: segments count from one.
    pub(crate) const NONE: Self = Self { segment: 0, offset: 0 };
}

/// Where the checksums of one segment start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(log_id: u64, segment: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&log_id.to_le_bytes());
        bytes[8..].copy_from_slice(&segment.to_le_bytes());
        Self(crc32c::crc32c(&bytes))
    }

    /// The checksum of a record's bytes behind its own checksum field; binds the record to its place and its group.
    pub(crate) fn record(self, offset: u32, region: RegionId, payload: &[u8]) -> u32 {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&offset.to_le_bytes());
        bytes[4..].copy_from_slice(&region.0.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &bytes), payload)
    }

    fn of(self, first: &[u8], second: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, first), second)
    }
}

/// Reads a number out of a slice that is known to be long enough.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// See [`u32_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Why a header was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Its checksum or magic is wrong.
    Damaged,
    /// A later program wrote it.
    Newer(u32),
}

/// The first bytes of a segment file, durable before the file gets a segment's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment: u32,
    pub(crate) log_id: u64,
    pub(crate) capacity: u32,
    /// Where the frames of the segment before end; zero if there is none.
    pub(crate) previous_end: u32,
    pub(crate) floor: u32,
    pub(crate) settled: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.segment.to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..28].copy_from_slice(&self.capacity.to_le_bytes());
        out[28..32].copy_from_slice(&self.previous_end.to_le_bytes());
        out[32..36].copy_from_slice(&self.floor.to_le_bytes());
        out[36..40].copy_from_slice(&self.settled.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        if bytes.len() < SEGMENT_HEADER
            || &bytes[..8] != SEGMENT_MAGIC
            || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60)
        {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        Ok(Self {
            segment: u32_at(bytes, 12),
            log_id: u64_at(bytes, 16),
            capacity: u32_at(bytes, 24),
            previous_end: u32_at(bytes, 28),
            floor: u32_at(bytes, 32),
            settled: u32_at(bytes, 36),
        })
    }
}

/// The content of the file that says "here is a log": version and salt.
pub(crate) fn encode_meta(log_id: u64) -> [u8; META_LEN] {
    let mut out = [0; META_LEN];
    out[..8].copy_from_slice(META_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&log_id.to_le_bytes());
    let crc = crc32c::crc32c(&out[..28]);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(crate) fn decode_meta(bytes: &[u8]) -> Result<u64, BadHeader> {
    if bytes.len() < META_LEN || &bytes[..8] != META_MAGIC || crc32c::crc32c(&bytes[..28]) != u32_at(bytes, 28) {
        return Err(BadHeader::Damaged);
    }
    match u32_at(bytes, 8) {
        version if version > VERSION => Err(BadHeader::Newer(version)),
        _ => Ok(u64_at(bytes, 16)),
    }
}

/// What precedes the records of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) at: Loc,
    /// With header, records, padding and directory.
    pub(crate) length: u32,
    pub(crate) records: u32,
    /// Segments below this one hold nothing that is needed.
    pub(crate) floor: u32,
    /// Damage in segments below this one has been dealt with.
    pub(crate) settled: u32,
}

/// One record of a frame, as the frame's directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) region: RegionId,
    /// The region's record before this one; [`Loc::NONE`] if the region had nothing.
    pub(crate) prev: Loc,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Fills in the header and appends the directory: `frame` begins with room for the header and holds the records.
pub(crate) fn close_frame(
    frame: &mut Vec<u8>,
    mut header: FrameHeader,
    directory: &[DirectoryEntry],
    seed: Seed,
) -> u32 {
    frame.resize(frame.len().next_multiple_of(ALIGN), 0);
    let directory_at = frame.len();
    for entry in directory {
        frame.extend_from_slice(&entry.region.0.to_le_bytes());
        frame.extend_from_slice(&entry.prev.segment.to_le_bytes());
        frame.extend_from_slice(&entry.prev.offset.to_le_bytes());
        frame.extend_from_slice(&entry.offset.to_le_bytes());
        frame.extend_from_slice(&entry.length.to_le_bytes());
    }
    header.length = frame.len() as u32;
    header.records = directory.len() as u32;
    frame[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    frame[8..12].copy_from_slice(&header.at.segment.to_le_bytes());
    frame[12..16].copy_from_slice(&header.at.offset.to_le_bytes());
    frame[16..20].copy_from_slice(&header.length.to_le_bytes());
    frame[20..24].copy_from_slice(&header.records.to_le_bytes());
    frame[24..28].copy_from_slice(&header.floor.to_le_bytes());
    frame[28..32].copy_from_slice(&header.settled.to_le_bytes());
    frame[32..40].fill(0);
    let crc = seed.of(&frame[8..FRAME_HEADER], &frame[directory_at..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    header.length
}

impl FrameHeader {
    /// What stands at a place where a frame may begin; no checksum vouches for it.
    pub(crate) fn peek(head: &[u8], at: Loc) -> Option<Self> {
        let fits = u32_at(head, 0) == FRAME_MAGIC && u32_at(head, 8) == at.segment && u32_at(head, 12) == at.offset;
        fits.then(|| Self {
            at,
            length: u32_at(head, 16),
            records: u32_at(head, 20),
            floor: u32_at(head, 24),
            settled: u32_at(head, 28),
        })
    }
}

/// A frame whose header and directory are intact; its records are not checked yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    directory: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks the bytes of a frame, of which there are as many as its header says.
    pub(crate) fn check(frame: &'a [u8], header: FrameHeader, seed: Seed) -> Option<Self> {
        let directory_at = frame.len().checked_sub((header.records as usize).checked_mul(DIRECTORY_ENTRY)?)?;
        let directory = frame.get(directory_at..).filter(|_| directory_at >= FRAME_HEADER)?;
        let whole =
            seed.of(&frame[8..FRAME_HEADER], directory) == u32_at(frame, 4) && frame.len().is_multiple_of(ALIGN);
        whole.then_some(Self { header, directory })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = DirectoryEntry> + use<'a> {
        self.directory.chunks_exact(DIRECTORY_ENTRY).map(|bytes| DirectoryEntry {
            region: RegionId(u64_at(bytes, 0)),
            prev: Loc { segment: u32_at(bytes, 8), offset: u32_at(bytes, 12) },
            offset: u32_at(bytes, 16),
            length: u32_at(bytes, 20),
        })
    }

    /// Where the next frame begins.
    pub(crate) fn end(&self) -> u32 {
        self.header.at.offset + self.header.length
    }
}

/// The first place in bytes that begin at a multiple of [`ALIGN`] where the mark of a frame stands, if there is any.
pub(crate) fn find_mark(bytes: &[u8]) -> Option<usize> {
    // Eight places at a time: nearly all of what is searched is no frame.
    const STEP: usize = 8 * ALIGN;
    let is_mark = |place: &[u8]| u32_at(place, 0) == FRAME_MAGIC;
    let mut at = 0;
    for step in bytes.chunks_exact(STEP) {
        if step.chunks_exact(ALIGN).fold(false, |found, place| found | is_mark(place)) {
            break;
        }
        at += STEP;
    }
    let rest = bytes[at..].chunks(ALIGN).position(|place| place.len() >= 4 && is_mark(place));
    rest.map(|place| at + place * ALIGN)
}

/// Whether a write of a frame has at least begun with this head: tells a torn tail from a clean end.
pub(crate) fn frame_begun(head: &[u8], segment: u32) -> bool {
    u32_at(head, 0) == FRAME_MAGIC && u32_at(head, 8) == segment
}

/// The last bytes of a sealed segment: where its frames end, and the last record of each region in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) segment: u32,
    pub(crate) end: u32,
    /// Written by a recovery over damage: what is not listed is not thereby proved absent.
    pub(crate) over_damage: bool,
    pub(crate) floor: u32,
    pub(crate) settled: u32,
    /// Ascending in region.
    pub(crate) regions: Vec<(RegionId, u32)>,
}

impl Footer {
    /// How many bytes a footer over so many regions takes.
    pub(crate) fn length(regions: usize) -> usize {
        TRAILER + FOOTER_ENTRY * regions
    }

    /// The bytes that end a segment of this seed.
    pub(crate) fn encode(&self, seed: Seed) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::length(self.regions.len()));
        for (region, offset) in &self.regions {
            out.extend_from_slice(&region.0.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        let directory_len = out.len();
        let mut trailer = [0; TRAILER];
        trailer[..4].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
        trailer[8..12].copy_from_slice(&self.segment.to_le_bytes());
        trailer[12..16].copy_from_slice(&self.end.to_le_bytes());
        trailer[16..20].copy_from_slice(&(self.regions.len() as u32).to_le_bytes());
        trailer[20..24].copy_from_slice(&u32::from(self.over_damage).to_le_bytes());
        trailer[24..28].copy_from_slice(&self.floor.to_le_bytes());
        trailer[28..32].copy_from_slice(&self.settled.to_le_bytes());
        let crc = seed.of(&trailer[8..], &out[..directory_len]);
        trailer[4..8].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&trailer);
        out
    }

    /// How many bytes the footer takes that these last [`TRAILER`] bytes of a segment say is there.
    pub(crate) fn peek(trailer: &[u8], number: u32) -> Option<usize> {
        let fits = u32_at(trailer, 0) == TRAILER_MAGIC && u32_at(trailer, 8) == number;
        fits.then(|| Self::length(u32_at(trailer, 16) as usize))
    }

    /// Looks for a footer at the end of a segment's bytes.
    pub(crate) fn decode(bytes: &[u8], number: u32, seed: Seed) -> Option<Self> {
        let trailer_at = bytes.len().checked_sub(TRAILER)?;
        let trailer = &bytes[trailer_at..];
        let directory = &bytes[bytes.len().checked_sub(Self::peek(trailer, number)?)?..trailer_at];
        if seed.of(&trailer[8..], directory) != u32_at(trailer, 4) {
            return None;
        }
        let regions = directory.chunks_exact(FOOTER_ENTRY).map(|entry| (RegionId(u64_at(entry, 0)), u32_at(entry, 8)));
        Some(Self {
            segment: number,
            end: u32_at(trailer, 12),
            over_damage: u32_at(trailer, 20) & 1 != 0,
            floor: u32_at(trailer, 24),
            settled: u32_at(trailer, 28),
            regions: regions.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Loc = Loc { segment: 7, offset: 64 };

    impl<'a> Frame<'a> {
        fn decode(segment: &'a [u8], at: Loc, seed: Seed) -> Option<Self> {
            let from = segment.get(at.offset as usize..)?;
            let header = FrameHeader::peek(from.get(..FRAME_HEADER)?, at)?;
            Self::check(from.get(..header.length as usize)?, header, seed)
        }
    }

    fn find_frame(segment: &[u8], number: u32, from: usize, seed: Seed) -> Option<u32> {
        let at = (from + find_mark(&segment[from..])?) as u32;
        Frame::decode(segment, Loc { segment: number, offset: at }, seed).map(|_| at)
    }

    fn frame(seed: Seed) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend_from_slice(b"record");
        let entry =
            DirectoryEntry { region: RegionId(9), prev: Loc { segment: 6, offset: 80 }, offset: 104, length: 6 };
        let header = FrameHeader { at: AT, length: 0, records: 0, floor: 3, settled: 0 };
        close_frame(&mut frame, header, &[entry], seed);
        bytes.extend_from_slice(&frame);
        bytes
    }

    #[test]
    fn a_frame_decodes_only_with_its_own_seed_place_and_bytes() {
        let seed = Seed::new(1, 7);
        let bytes = frame(seed);
        let decoded = Frame::decode(&bytes, AT, seed).unwrap();
        assert_eq!(decoded.end() as usize, bytes.len());
        assert_eq!(decoded.entries().next().unwrap().prev, Loc { segment: 6, offset: 80 });
        assert!(Frame::decode(&bytes, AT, Seed::new(1, 8)).is_none());
        assert!(Frame::decode(&bytes, AT, Seed::new(2, 7)).is_none());
        assert!(Frame::decode(&bytes[..bytes.len() - 1], AT, seed).is_none());
        assert_eq!(find_frame(&bytes, 7, 0, seed), Some(64));
        for at in (64..104).chain(112..bytes.len()) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Frame::decode(&bad, AT, seed).is_none(), "byte {at}");
        }
    }

    #[test]
    fn headers_and_footers_round_trip_and_reject_any_flipped_byte() {
        let header =
            SegmentHeader { segment: 5, log_id: 77, capacity: 65536, previous_end: 4096, floor: 2, settled: 1 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        let seed = Seed::new(77, 5);
        let footer = Footer {
            segment: 5,
            end: 640,
            over_damage: true,
            floor: 2,
            settled: 1,
            regions: vec![(RegionId(1), 64), (RegionId(8), 400)],
        };
        let tail = footer.encode(seed);
        assert_eq!(Footer::decode(&tail, 5, seed), Some(footer));
        for at in 0..64 {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&bad), Err(BadHeader::Damaged));
        }
        for at in 0..tail.len() {
            let mut bad = tail.clone();
            bad[at] ^= 1;
            assert_eq!(Footer::decode(&bad, 5, seed), None);
        }
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = encode_meta(5);
        assert_eq!(decode_meta(&bytes), Ok(5));
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_meta(&bytes), Err(BadHeader::Newer(2)));
    }
}
