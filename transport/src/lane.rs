//! The lanes of a link: what must not wait for what.

use std::fmt;

/// The most append lanes that a link may have.
pub const APPEND_LANES_MAX: usize = 16;

/// How many lanes there are besides the append lanes.
const FIXED_LANES: usize = 2;

/// One of a link's streams of messages. Messages of one lane arrive in the order in which they were sent; those of
/// different lanes overtake each other, and a lane that is full or not read holds up none of the others.
///
/// Snapshot chunks have streams of their own, below all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Store heartbeats and their answers: first of all.
    Liveness,
    /// Votes, read rounds, answers to callers: small and urgent.
    Control,
    /// Log entries and their acknowledgements. A group keeps to one of these lanes, so that its appends stay in order.
    Append(u8),
}

impl Lane {
    /// Its number on the wire and in tables.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Liveness => 0,
            Self::Control => 1,
            Self::Append(number) => FIXED_LANES + usize::from(number),
        }
    }

    /// The lane with this number, if there is one among `append_lanes`.
    pub(crate) fn from_index(index: usize, append_lanes: usize) -> Option<Self> {
        match index {
            0 => Some(Self::Liveness),
            1 => Some(Self::Control),
            _ if index < lane_count(append_lanes) => u8::try_from(index - FIXED_LANES).ok().map(Self::Append),
            _ => None,
        }
    }

    /// All lanes of a link with `append_lanes`.
    pub(crate) fn all(append_lanes: usize) -> impl Iterator<Item = Self> {
        (0..lane_count(append_lanes)).filter_map(move |index| Self::from_index(index, append_lanes))
    }

    /// Its streams' priority; streams with a higher one are served first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Liveness => 2,
            Self::Control => 1,
            Self::Append(_) => 0,
        }
    }
}

/// How many lanes a link with `append_lanes` has in each direction.
pub(crate) fn lane_count(append_lanes: usize) -> usize {
    FIXED_LANES + append_lanes
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Liveness => f.write_str("liveness"),
            Self::Control => f.write_str("control"),
            Self::Append(number) => write!(f, "append-{number}"),
        }
    }
}
