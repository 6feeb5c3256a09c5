//! What a group is started from.

use thiserror::Error;

use crate::{HardState, LogIndex, LogSummary, Membership, Term};

/// What was found on disk of one group; the default is a replica that has seen nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The last hard state.
    pub hard_state: HardState,
    /// What the log holds.
    pub log: LogSummary,
    /// The last entry whose effect is in the state.
    pub applied: LogIndex,
    /// The membership as of `applied`.
    pub membership: Membership,
}

impl Restored {
    /// Checks that the pieces fit together.
    ///
    /// # Errors
    /// What does not fit. The replica must then not be started, or it could vote as if it had never had what is missing.
    pub fn validate(&self) -> Result<(), RestoreError> {
        let Self { hard_state, log, applied, .. } = self;
        if *applied < log.truncated_index {
            return Err(RestoreError::StateBehindLog { applied: *applied, truncated: log.truncated_index });
        }
        if *applied > log.last_index {
            return Err(RestoreError::LogBehindState { applied: *applied, last: log.last_index });
        }
        if hard_state.term < log.last_term() {
            return Err(RestoreError::TermBehindLog { term: hard_state.term, last_term: log.last_term() });
        }
        let mut before = (log.truncated_index, None);
        for run in &log.runs {
            let starts_well = match before {
                (truncated, None) => run.start == truncated.next() && run.term >= log.truncated_term,
                (start, Some(term)) => run.start > start && run.term > term,
            };
            if !starts_well || run.start > log.last_index {
                return Err(RestoreError::MalformedLog);
            }
            before = (run.start, Some(run.term));
        }
        if log.runs.is_empty() != (log.last_index == log.truncated_index) {
            return Err(RestoreError::MalformedLog);
        }
        Ok(())
    }
}

/// Why a group cannot be started from what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Entries are gone that were never applied.
    #[error("the state has entries up to {applied} applied, but the log begins after {truncated}: replace the replica")]
    StateBehindLog {
        /// The state.
        applied: LogIndex,
        /// Where the log begins.
        truncated: LogIndex,
    },
    /// A snapshot was installed and the log's reset not written, or the log lost entries.
    #[error(
        "the state has entries up to {applied} applied, but the log ends at {last}: reset the log to the state's index"
    )]
    LogBehindState {
        /// The state.
        applied: LogIndex,
        /// The log's end.
        last: LogIndex,
    },
    /// An entry of a term that the replica has not seen.
    #[error("the log ends in term {last_term}, but the hard state is of term {term}: replace the replica")]
    TermBehindLog {
        /// The hard state.
        term: Term,
        /// The log's end.
        last_term: Term,
    },
    /// The log's own description contradicts itself.
    #[error("the log's runs of terms contradict its bounds: replace the replica")]
    MalformedLog,
}
