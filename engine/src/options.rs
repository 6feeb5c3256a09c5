//! How a command is proposed, and a query read.

use std::time::Duration;

use multiraft_raft::{RegionEpoch, RegionId};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// Sees every write that was answered before the read began, wherever it was made. Costs a round trip to a quorum,
    /// which all reads of a moment share.
    #[default]
    Linearizable,
    /// Whatever this store has applied, however old. Always answered.
    Local,
}

/// How a command is proposed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProposeOptions {
    /// The region.
    pub region: RegionId,
    /// The epoch that the caller routed by: if the region's range has changed since, nothing is done. Default: whatever
    /// the region is.
    pub epoch: Option<RegionEpoch>,
    /// How long to wait. Default: [`Config::request_timeout`](crate::Config::request_timeout).
    pub timeout: Option<Duration>,
}

impl ProposeOptions {
    /// The defaults.
    #[must_use]
    pub fn new(region: RegionId) -> Self {
        Self { region, epoch: None, timeout: None }
    }

    /// Only if the region's range is still what it was at this epoch.
    #[must_use]
    pub fn epoch(mut self, epoch: RegionEpoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// How long to wait.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// How a query is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The region.
    pub region: RegionId,
    /// The epoch that the caller routed by: if the region's range has changed since, the read is refused. Default:
    /// whatever the region is.
    pub epoch: Option<RegionEpoch>,
    /// How long to wait. Default: [`Config::request_timeout`](crate::Config::request_timeout).
    pub timeout: Option<Duration>,
    /// How fresh.
    pub consistency: Consistency,
}

impl ReadOptions {
    /// The defaults.
    #[must_use]
    pub fn new(region: RegionId, consistency: Consistency) -> Self {
        Self { region, epoch: None, timeout: None, consistency }
    }

    /// Only if the region's range is still what it was at this epoch.
    #[must_use]
    pub fn epoch(mut self, epoch: RegionEpoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// How long to wait.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}
