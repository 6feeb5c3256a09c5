//! How a command is proposed, and a query read.

use std::time::Duration;

use multiraft_raft::{RegionEpoch, RegionId};

use crate::logic::Freshness;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// Sees every write that was answered before the read began, wherever it was made, whatever any clock does. At the leader's
    /// store it costs a round trip to a quorum, which all reads of a moment share, of all regions that are led from there; at a
    /// follower a question to the leader, which of two or three voters needs nobody else to answer. Refused while the
    /// region has no leader that can reach a quorum.
    #[default]
    Linearizable,
    /// As `Linearizable`, as long as the region's leader has a lease: if
    /// [`LivenessOptions::leases`](crate::LivenessOptions::leases) is on there, and as far as the clocks of the stores drift no more
    /// than the bound set there. At the leader's store it is answered on the caller's thread, without any message; another store
    /// asks the leader's once, which asks nobody. Without a lease it is `Linearizable`.
    Lease,
    /// Sees every write that was answered so long before the read began, or longer. Answered by this store's replica, without a
    /// message and whether or not a leader can be reached, if a read of the same region here was linearizable (or became so for
    /// this purpose) no longer ago; else it is `Linearizable`. Its age is measured on this store's own clock.
    Bounded(Duration),
    /// Whatever this store has applied, however old. Always answered, if this store has a replica with data.
    Local,
}

impl Consistency {
    /// What to ask of a worker.
    pub(crate) fn freshness(self) -> Freshness {
        match self {
            Self::Linearizable | Self::Local => Freshness::Linearizable,
            Self::Lease => Freshness::Lease,
            Self::Bounded(age) => Freshness::Within(age),
        }
    }
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
