//! How the log's operations fail, by whose fault, and what to do.

use std::io;
use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionId};

use super::batch::{FlushToken, LogBatch};

/// Why a log did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A later version of this program wrote it.
    #[error("{file} has log format {found}, this program reads up to {supported}: start a program at least as new")]
    NewerFormat {
        /// The file that says so.
        file: String,
        /// The format found.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// There is no room for the log's first or next segment.
    #[error("no space left for the log at {file}: free space on its disk, then start again; nothing is lost")]
    NoSpace {
        /// The file that could not be made.
        file: String,
    },
    /// The system refused.
    #[error("log file {file}: {source}: repair the disk or its permissions, then start again")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Why a commit did not make everything durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A write or sync failed, now or earlier. Nothing is known of the batches given. Final: stop the store.
    #[error("the log is poisoned: {0}; the store must stop, its disk be checked, and the store be started again")]
    Poisoned(Arc<str>),
    /// There is no room. Some batches, in order from the front of each lane, may be durable; `left` is exactly the others,
    /// in order, none of which left a trace. Give them again when there is space.
    #[error("no space left for the log: free space on its disk; {} batches wait, nothing durable is lost", left.len())]
    NoSpace {
        /// What did become durable.
        durable: Vec<FlushToken>,
        /// What did not.
        left: Vec<LogBatch>,
    },
    /// A batch asks for what makes no sense. It and those given after it left no trace; those before it may be durable.
    #[error("a batch of lane {lane} breaks the log's contract for region {region}: {why}; this is a bug of the caller")]
    Invalid {
        /// Whose batch.
        lane: u32,
        /// Whose record.
        region: RegionId,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Why entries were not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogReadError {
    /// The log holds nothing of this region.
    #[error("the log knows no region {0}")]
    UnknownRegion(RegionId),
    /// The entries were compacted away: send a snapshot.
    #[error("entries of region {region} before {first} are compacted: send a snapshot instead")]
    Compacted {
        /// The region.
        region: RegionId,
        /// The first entry held.
        first: LogIndex,
    },
    /// The log does not reach so far.
    #[error("region {region} has no entry after {last}")]
    Beyond {
        /// The region.
        region: RegionId,
        /// The last entry held.
        last: LogIndex,
    },
    /// Damage was found at start-up and this region may have lost records: replace this replica.
    #[error("the records of region {0} may be incomplete after damage: replace this replica by a new one")]
    Suspect(RegionId),
    /// The bytes on disk are not what was written: replace this replica.
    #[error("{file} is damaged at {offset}, in a record of region {region}: replace this replica by a new one")]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// Whose record.
        region: RegionId,
    },
    /// The system refused to read.
    #[error("log file {file}: {source}: check its disk")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        source: io::Error,
    },
}

/// How a step inside the writer fails.
#[derive(Debug)]
pub(crate) enum StepError {
    /// No room; nothing has changed.
    NoSpace { file: String },
    /// The system refused, or a sync failed: what is on disk is unknown.
    Failed { file: String, source: io::Error },
}

impl StepError {
    pub(crate) fn new(file: String, source: io::Error) -> Self {
        if is_no_space(&source) { Self::NoSpace { file } } else { Self::Failed { file, source } }
    }

    /// For syncs, and for steps that cannot be taken back: any error is a failure.
    pub(crate) fn failed(file: String, source: io::Error) -> Self {
        Self::Failed { file, source }
    }
}

impl From<StepError> for LogError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::NoSpace { file } => Self::NoSpace { file },
            StepError::Failed { file, source } => Self::Io { file, source },
        }
    }
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
