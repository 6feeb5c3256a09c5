//! Why a snapshot could not be saved or read, and what to do then.

use std::io;

use multiraft_raft::{LogIndex, RegionId};

/// Why the snapshot store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The disk is full. Nothing of the failed save is kept; what was saved before is untouched.
    #[error("no space left for the snapshot file {file}: free some and save again")]
    NoSpace {
        /// Which file.
        file: String,
    },
    /// A file does not hold what was written.
    #[error("the snapshot file {file} is damaged at offset {offset} ({reason}): fill region {region:?} from its peers")]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
        /// The region that was read, if it was one.
        region: Option<RegionId>,
    },
    /// A snapshot of a later index is saved already.
    #[error("region {region} has a snapshot of index {saved}, {given} lies before it: keep the one that is there")]
    Older {
        /// The region.
        region: RegionId,
        /// What is there.
        saved: LogIndex,
        /// What was to be saved.
        given: LogIndex,
    },
    /// A chunk or header is longer than the format allows.
    #[error("{what} of {len} bytes: at most {max} are allowed")]
    TooLong {
        /// What.
        what: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// A snapshot on its way out was given up, or could not be made.
    #[error("the snapshot was not finished ({reason}): capture it again")]
    Unfinished {
        /// Why.
        reason: String,
    },
    /// The operating system refused.
    #[error("the snapshot file {file} failed: {source}")]
    Io {
        /// Which file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A sync has failed before. Nothing is known of the disk any more: nothing is saved or removed until the restart.
    #[error("the snapshot store is not used any more ({reason}): repair the disk and restart")]
    Poisoned {
        /// What failed.
        reason: String,
    },
}

impl SnapshotError {
    pub(super) fn io(file: impl Into<String>, source: io::Error) -> Self {
        let file = file.into();
        if source.kind() == io::ErrorKind::StorageFull { Self::NoSpace { file } } else { Self::Io { file, source } }
    }
}
