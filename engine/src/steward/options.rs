//! What can be set of a store's place and of planning, and what can be told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft_raft::{StoreId, Term};

use crate::placement::{Backlog, Blocked, Operation, PlacementOptions, PlacementOptionsError, StoreLoad};

/// Who plans where replicas and leaders should be, and where regions begin and end. All stores of a cluster should be given the
/// same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// What is aimed at, and how much may run at once.
    pub options: PlacementOptions,
    /// How often each store reports, and a round of planning is made.
    pub interval: Duration,
    /// Only say what would be done, see [`Engine::placement`](crate::Engine::placement).
    pub dry_run: bool,
    /// How fast each store reads what it leads, in bytes per second, to find out how large regions are; at least 65536. Each
    /// region is read once, and again when an eighth of it may have changed.
    pub survey_bytes_per_s: u64,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            options: PlacementOptions::default(),
            interval: Duration::from_secs(1),
            dry_run: false,
            survey_bytes_per_s: 32 << 20,
        }
    }
}

impl Placement {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.interval < Duration::from_millis(20) {
            return Err("placement.interval must be at least 20 ms".to_owned());
        }
        if self.survey_bytes_per_s < 64 << 10 {
            return Err("placement.survey_bytes_per_s must be at least 65536 (64 KiB)".to_owned());
        }
        if self.options.silent_after < 3 * self.interval {
            return Err("placement.options.silent_after must be at least three times placement.interval: a store is \
                        heard of once an interval"
                .to_owned());
        }
        self.options.validate().map_err(|error: PlacementOptionsError| format!("placement.options: {error}"))
    }
}

/// The place of a store in its cluster, under which it joins when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seat {
    /// Where other stores reach it; `None`: where it listens.
    pub address: Option<String>,
    /// How much it can bear compared with the others.
    pub weight: u32,
    /// Where it stands: `zone`, `rack` and the like.
    pub labels: BTreeMap<String, String>,
}

impl Default for Seat {
    fn default() -> Self {
        Self { address: None, weight: 1, labels: BTreeMap::new() }
    }
}

impl Seat {
    /// A seat like any other.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where other stores reach it.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// How much it can bear compared with the others.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// One more label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }
}

/// How planning stands, at the store that plans.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacementState {
    /// The term of the root region in which it plans.
    pub term: Term,
    /// Whether every region has been heard of: nothing is planned, and no store counts as drained, before.
    pub is_complete: bool,
    /// What runs; in a dry run, what would be begun.
    pub operations: Vec<Operation>,
    /// Some of what should be done and cannot be now.
    pub blocked: Vec<Blocked>,
    /// How much there is to do.
    pub backlog: Backlog,
    /// What lies on each store that has joined.
    pub loads: BTreeMap<StoreId, StoreLoad>,
    /// Operations begun in this term, how many of them are done, and how many have failed or were given up.
    pub begun: u64,
    /// See `begun`.
    pub done: u64,
    /// See `begun`.
    pub failed: u64,
}
