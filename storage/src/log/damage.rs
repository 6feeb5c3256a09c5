//! What recovery found wrong, named.

use std::fmt;

use multiraft_raft::RegionId;

/// One place in the log that is not what was written. A torn tail is not damage: see [`TornTail`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, as an operator finds it.
    pub file: String,
    /// Where the damage begins.
    pub offset: u64,
    /// How many bytes cannot be read; zero if that is not known.
    pub length: u64,
    /// What is wrong.
    pub kind: DamageKind,
    /// Who may have lost records.
    pub affected: Affected,
    /// It was reported at an earlier start, and [`LogWriter::settle_damage`](super::LogWriter::settle_damage) said since
    /// that it is dealt with: nobody is suspect because of it.
    pub settled: bool,
}

/// What is wrong with a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// A segment's header.
    SegmentHeader,
    /// A frame: what one write put there.
    Frame,
    /// One group's record in a frame that is otherwise sound.
    Record,
    /// A sealed segment's footer.
    Footer,
    /// A segment file is not there.
    MissingSegment,
    /// A record names a predecessor that is not there, though nothing else shows damage.
    Chain,
}

/// Who may have lost records to a damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// These and no others.
    Regions(Vec<RegionId>),
    /// Any region that has no later record to prove the contrary, regions not known here included.
    Unknown,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DamageKind::SegmentHeader => "segment header damaged",
            DamageKind::Frame => "frame damaged",
            DamageKind::Record => "record damaged",
            DamageKind::Footer => "segment footer damaged",
            DamageKind::MissingSegment => "segment file missing",
            DamageKind::Chain => "a record's predecessor is missing",
        };
        write!(f, "{} at {}: {what}, ", self.file, self.offset)?;
        match &self.affected {
            Affected::Regions(regions) if regions.is_empty() => write!(f, "no region affected"),
            Affected::Regions(regions) => write!(f, "{} regions affected", regions.len()),
            Affected::Unknown => write!(f, "every region without later records affected"),
        }
    }
}

/// What the last write before a crash left unfinished: cut, never acknowledged, nothing lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: String,
    /// Where the sound part ends.
    pub offset: u64,
}
