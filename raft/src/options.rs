//! The settings that all groups of a store share.
//!
//! One `Arc<Options>` serves every group; nothing here changes while a group lives. [`Options::validate`] refuses what
//! could not work, with the cure in the error.

use std::time::Duration;

use thiserror::Error;

/// How a group behaves in time and how much memory it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often a leader with followers gives a sign of life. Beats fall on multiples of it, so that the heartbeats of
    /// all groups of a store share a message.
    pub heartbeat_interval: Duration,
    /// "The election timeout" wherever one length is needed: how long a leader counts as alive after it was heard, how
    /// long a leader goes on without hearing a quorum, how long a leader transfer may take.
    pub election_timeout_min: Duration,
    /// Followers wait for a length drawn uniformly from `[election_timeout_min, election_timeout_max)` before they
    /// campaign (dissertation, section 3.4).
    pub election_timeout_max: Duration,
    /// The sum of [`Entry::cost`](crate::Entry::cost) in one append message. A single larger entry still goes, alone.
    pub max_append_bytes: usize,
    /// How many append messages with entries may be unanswered by one follower.
    pub max_inflight_appends: usize,
    /// How many bytes of entries may be unanswered by one follower.
    pub max_inflight_bytes: usize,
    /// How many bytes of proposals may be uncommitted; further ones are refused. One larger proposal is let in while
    /// nothing else is uncommitted.
    pub max_uncommitted_bytes: usize,
    /// How many bytes of entries a group keeps in memory beyond those that are not yet durable or not yet handed out to
    /// be applied: what a leader has not heard that all its followers hold. Of entries that nobody is known to need a group keeps 2 KiB,
    /// or so many bytes if that is less.
    pub max_cached_bytes: usize,
    /// How many bytes of committed entries one [`poll_output`](crate::Group::poll_output) hands out.
    pub max_committed_bytes: usize,
    /// How many bytes of committed entries may be handed out and not yet reported as applied.
    pub max_applying_bytes: usize,
    /// How many reads may wait for a leader to be confirmed; further ones are refused.
    pub max_pending_reads: usize,
    /// Ask before campaigning, so that a replica that cannot win disturbs nobody (dissertation, section 9.6).
    pub pre_vote: bool,
    /// A leader that hears no quorum for an election timeout steps down (dissertation, section 6.2).
    pub check_quorum: bool,
    /// Tell an idle follower at once, in a message of its own, that the commit index has advanced. Without it followers
    /// learn it from the next append or heartbeat, so they apply up to one heartbeat interval later (or as much later as
    /// [`put_off_beats`](crate::Group::put_off_beats) allows), for one message less per follower and write; of a membership change they are told at once all the same.
    pub eager_commit: bool,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_secs(1),
            election_timeout_max: Duration::from_secs(2),
            max_append_bytes: MIB,
            max_inflight_appends: 256,
            max_inflight_bytes: 8 * MIB,
            max_uncommitted_bytes: 16 * MIB,
            max_cached_bytes: MIB,
            max_committed_bytes: 4 * MIB,
            max_applying_bytes: 16 * MIB,
            max_pending_reads: 4096,
            pre_vote: true,
            check_quorum: true,
            eager_commit: true,
        }
    }
}

impl Options {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// The first setting found that cannot, and what to set it to.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.heartbeat_interval.is_zero() {
            return Err(OptionsError::ZeroHeartbeat);
        }
        if self.election_timeout_min < self.heartbeat_interval * 2 {
            return Err(OptionsError::ElectionTooShort {
                election_timeout_min: self.election_timeout_min,
                heartbeat_interval: self.heartbeat_interval,
            });
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return Err(OptionsError::NoSpread);
        }
        let limits = [
            ("max_append_bytes", self.max_append_bytes),
            ("max_inflight_appends", self.max_inflight_appends),
            ("max_inflight_bytes", self.max_inflight_bytes),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes),
            ("max_committed_bytes", self.max_committed_bytes),
            ("max_applying_bytes", self.max_applying_bytes),
            ("max_pending_reads", self.max_pending_reads),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == 0) {
            Some((name, _)) => Err(OptionsError::ZeroLimit { name }),
            None => Ok(()),
        }
    }

    /// How long a leader waits for the answer to an append before a sign of life of the follower makes it ask again.
    pub(crate) fn retry_after(&self) -> Duration {
        self.heartbeat_interval * 2
    }
}

/// Why [`Options`] cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// No time between two heartbeats.
    #[error("heartbeat_interval is zero; set it to 100 ms or so")]
    ZeroHeartbeat,
    /// One late heartbeat would start an election.
    #[error(
        "election_timeout_min {election_timeout_min:?} is less than twice heartbeat_interval {heartbeat_interval:?}; \
         set it to ten heartbeats"
    )]
    ElectionTooShort {
        /// The setting.
        election_timeout_min: Duration,
        /// What it is measured against.
        heartbeat_interval: Duration,
    },
    /// All replicas would campaign at the same time.
    #[error("election_timeout_max must be greater than election_timeout_min, so that replicas draw different timeouts")]
    NoSpread,
    /// A limit that lets nothing through.
    #[error("{name} is zero and would let nothing through; set it to at least one")]
    ZeroLimit {
        /// The setting.
        name: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Options::default().validate(), Ok(()));
    }

    #[test]
    fn each_setting_that_cannot_work_is_named() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.validate()
        };
        assert_eq!(with(|o| o.heartbeat_interval = Duration::ZERO), Err(OptionsError::ZeroHeartbeat));
        assert!(matches!(
            with(|o| o.election_timeout_min = Duration::from_millis(150)),
            Err(OptionsError::ElectionTooShort { .. })
        ));
        assert_eq!(with(|o| o.election_timeout_max = o.election_timeout_min), Err(OptionsError::NoSpread));
        assert_eq!(with(|o| o.max_append_bytes = 0), Err(OptionsError::ZeroLimit { name: "max_append_bytes" }));
        assert_eq!(with(|o| o.max_pending_reads = 0), Err(OptionsError::ZeroLimit { name: "max_pending_reads" }));
    }
}
