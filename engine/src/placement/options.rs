//! What the planner aims at, what it may do, and how much of it at once.

use std::time::Duration;

use thiserror::Error;

/// What an operation is for. Kinds are planned in this order: what stands further up comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Replicas that are missing, lost with their store, or too many.
    Repair = 0,
    /// Replicas that are out of service: a consistency check has fenced them, or their records are damaged. Takes them away; what
    /// is missing then comes by [`Kind::Repair`], without which this does nothing.
    Renew = 1,
    /// Replicas and leaders on a store that is to be emptied.
    Drain = 2,
    /// Regions that are too large or too busy.
    Split = 3,
    /// Replicas that share a failure domain without need, and stores that bear more than their share.
    Balance = 4,
    /// Neighbours that are small and idle.
    Merge = 5,
}

impl Kind {
    /// All kinds, in the order in which they are planned.
    pub const ALL: [Self; 6] = [Self::Repair, Self::Renew, Self::Drain, Self::Split, Self::Balance, Self::Merge];

    /// Its name, for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repair => "repair",
            Self::Renew => "renew",
            Self::Drain => "drain",
            Self::Split => "split",
            Self::Balance => "balance",
            Self::Merge => "merge",
        }
    }

    /// Whether it can wait, and so has to leave room for what cannot.
    pub(super) const fn can_wait(self) -> bool {
        !matches!(self, Self::Repair | Self::Renew | Self::Drain)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    /// Every kind.
    pub const ALL: Self = Self(0b11_1111);
    /// No kind: planning is switched off.
    pub const NONE: Self = Self(0);

    /// This set with `kind` in it.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// This set with `kind` not in it.
    #[must_use]
    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind as u8))
    }

    /// Whether `kind` is in it.
    #[must_use]
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

/// How many replicas of each role a region is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replication {
    /// Replicas that vote and hold data; at least one.
    pub voters: usize,
    /// Replicas that vote and hold none.
    pub witnesses: usize,
    /// Replicas that hold data and do not vote.
    pub learners: usize,
}

impl Default for Replication {
    fn default() -> Self {
        Self { voters: 3, witnesses: 0, learners: 0 }
    }
}

/// How much may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations in the whole cluster.
    pub operations: usize,
    /// Replicas that one store receives.
    pub snapshots_in: usize,
    /// Replicas that are filled from one store, the leader's.
    pub snapshots_out: usize,
    /// Leadership transfers from, and to, one store.
    pub transfers: usize,
    /// Splits in the whole cluster.
    pub splits: usize,
    /// Merges in the whole cluster.
    pub merges: usize,
    /// Operations that one round may begin.
    pub per_round: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: 256, snapshots_in: 4, snapshots_out: 4, transfers: 8, splits: 32, merges: 16, per_round: 64 }
    }
}

/// How long things take before the planner no longer waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A change of replicas, the filling of a new one included.
    pub change: Duration,
    /// A leadership transfer.
    pub transfer: Duration,
    /// A split.
    pub split: Duration,
    /// A merge, its moves included.
    pub merge: Duration,
    /// From the report that an operation is done until the view shows it.
    pub settle: Duration,
    /// From a region's first failure until it is tried again; doubles with each further one.
    pub retry_min: Duration,
    /// The longest of these waits.
    pub retry_max: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            change: Duration::from_secs(600),
            transfer: Duration::from_secs(15),
            split: Duration::from_secs(60),
            merge: Duration::from_secs(600),
            settle: Duration::from_secs(30),
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(300),
        }
    }
}

/// When regions are divided and joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// A region that holds more is split.
    pub split_bytes: u64,
    /// A region that takes more writes a second is split.
    pub split_writes_per_s: u64,
    /// A region that takes more reads a second is split.
    pub split_reads_per_s: u64,
    /// The smaller part of a split has to get at least this part, in per cent, of what caused it; else the region stays
    /// whole: no key divides what one key attracts.
    pub split_part_min_percent: u64,
    /// Only a region that holds less is joined with a neighbour.
    pub merge_bytes: u64,
    /// Only a region that takes fewer writes and reads a second, together, is joined with a neighbour.
    pub merge_load_per_s: u64,
    /// How long it has to have been so.
    pub merge_after: Duration,
    /// With this many regions, the root not counted, none are joined.
    pub regions_min: usize,
    /// With this many regions, the root not counted, none are split.
    pub regions_max: usize,
}

impl Sizes {
    /// Changes of a region's bytes by no more than this are not worth telling.
    #[must_use]
    pub fn pittance_bytes(&self) -> u64 {
        (1 << 20).min(self.split_bytes / 16).min(self.merge_bytes / 4)
    }

    /// Changes of a region's load by no more than this are not worth telling.
    #[must_use]
    pub fn pittance_per_s(&self) -> u64 {
        let split = self.split_writes_per_s.min(self.split_reads_per_s);
        10.min(split / 16).min(self.merge_load_per_s / 4)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            split_bytes: 256 << 20,
            split_writes_per_s: 4_000,
            split_reads_per_s: 10_000,
            split_part_min_percent: 25,
            merge_bytes: 24 << 20,
            merge_load_per_s: 100,
            merge_after: Duration::from_secs(600),
            regions_min: 1,
            regions_max: usize::MAX,
        }
    }
}

/// What balance means: see `potential`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// How much the number of replicas counts.
    pub replicas: u32,
    /// How much the bytes count.
    pub bytes: u32,
    /// How much the number of leaders counts.
    pub leaders: u32,
    /// How much the load counts.
    pub load: u32,
    /// Fewer bytes a store, on the average, count as if they were so many.
    pub bytes_floor: u64,
    /// Less load a store, on the average, counts as if it were so much.
    pub load_floor_per_s: u64,
    /// While balancing, a move has to gain this many thousandths of a fair share.
    pub tolerance_permille: u32,
    /// Balancing that has come to rest begins again only for a move that gains this many.
    pub wake_permille: u32,
    /// And only once stores have been uneven for so long without a break: a peak, or a store that is away for a moment, moves
    /// nothing.
    pub wake_after: Duration,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            replicas: 1,
            bytes: 1,
            leaders: 1,
            load: 1,
            bytes_floor: 256 << 20,
            load_floor_per_s: 200,
            tolerance_permille: 50,
            wake_permille: 100,
            wake_after: Duration::from_secs(30),
        }
    }
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementOptions {
    /// What is planned at all.
    pub enabled: Kinds,
    /// Replicas of a region that has no wish of its own.
    pub replication: Replication,
    /// The labels that name failure domains, the widest first: `zone`, `rack`. At most four count.
    pub domains: Vec<String>,
    /// A store that was not heard of for so long does not count as live.
    pub silent_after: Duration,
    /// A store that was not heard of for so long, or is down for so long, is replaced.
    pub repair_after: Duration,
    /// Per cent of a store's disk that new replicas leave free. A store that has no more than that left is handed no leadership.
    pub disk_reserve_percent: u64,
    /// How much may run at once.
    pub limits: Limits,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// When regions are divided and joined.
    pub sizes: Sizes,
    /// What balance means.
    pub balance: Balance,
}

impl Default for PlacementOptions {
    fn default() -> Self {
        Self {
            enabled: Kinds::ALL,
            replication: Replication::default(),
            domains: vec!["zone".to_owned(), "rack".to_owned()],
            silent_after: Duration::from_secs(10),
            repair_after: Duration::from_secs(300),
            disk_reserve_percent: 10,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            sizes: Sizes::default(),
            balance: Balance::default(),
        }
    }
}

/// Why options do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlacementOptionsError {
    /// A region without a voter.
    #[error("replication.voters is 0; a region needs at least one replica that votes and holds data")]
    NoVoters,
    /// What a split makes could be merged again.
    #[error(
        "merge thresholds are too near to split thresholds; keep merge_bytes and merge_load_per_s below \
         split_part_min_percent per cent of the split thresholds, or a split would be undone by a merge"
    )]
    MergeUndoesSplit,
    /// A part of a split that no half can reach, or that says nothing.
    #[error("sizes.split_part_min_percent has to be from 1 to 50: the smaller of two parts has at most half")]
    PartMin,
    /// Replicas without hysteresis.
    #[error("balance.tolerance_permille has to be above 0 and at most wake_permille, or balancing would never rest")]
    Tolerance,
    /// A weight that is nothing.
    #[error("balance.replicas and balance.leaders have to be above 0: they bound how often anything moves")]
    BalanceWeights,
    /// Nothing could ever run.
    #[error("a limit is 0; switch a kind off in `enabled` instead")]
    ZeroLimit,
    /// Stores would be replaced before they are known to be silent.
    #[error("repair_after is below silent_after; a store has to be silent before it is given up")]
    RepairBeforeSilent,
}

impl PlacementOptions {
    /// Whether the options fit together.
    ///
    /// # Errors
    /// Names what does not, and what to do.
    pub fn validate(&self) -> Result<(), PlacementOptionsError> {
        let Sizes { split_bytes, split_writes_per_s, split_reads_per_s, split_part_min_percent: part, .. } = self.sizes;
        let limits = self.limits;
        let counts = [limits.operations, limits.snapshots_in, limits.snapshots_out, limits.transfers];
        let smallest = |threshold: u64| u128::from(threshold) * u128::from(part);
        let undoes = |merge: u64, split: u64| u128::from(merge) * 100 >= smallest(split);
        if self.replication.voters == 0 {
            Err(PlacementOptionsError::NoVoters)
        } else if !(1..=50).contains(&part) {
            Err(PlacementOptionsError::PartMin)
        } else if undoes(self.sizes.merge_bytes, split_bytes)
            || undoes(self.sizes.merge_load_per_s, split_writes_per_s.min(split_reads_per_s))
        {
            Err(PlacementOptionsError::MergeUndoesSplit)
        } else if self.balance.tolerance_permille == 0 || self.balance.wake_permille < self.balance.tolerance_permille {
            Err(PlacementOptionsError::Tolerance)
        } else if self.balance.replicas == 0 || self.balance.leaders == 0 {
            Err(PlacementOptionsError::BalanceWeights)
        } else if counts.contains(&0) || [limits.splits, limits.merges, limits.per_round].contains(&0) {
            Err(PlacementOptionsError::ZeroLimit)
        } else if self.repair_after < self.silent_after {
            Err(PlacementOptionsError::RepairBeforeSilent)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_do_not_fit_are_refused() {
        assert_eq!(PlacementOptions::default().validate(), Ok(()));
        let with = |change: fn(&mut PlacementOptions)| {
            let mut options = PlacementOptions::default();
            change(&mut options);
            options.validate()
        };
        assert_eq!(with(|o| o.replication.voters = 0), Err(PlacementOptionsError::NoVoters));
        assert_eq!(with(|o| o.sizes.merge_bytes = 64 << 20), Err(PlacementOptionsError::MergeUndoesSplit));
        assert_eq!(with(|o| o.sizes.merge_load_per_s = 1_000), Err(PlacementOptionsError::MergeUndoesSplit));
        assert_eq!(with(|o| o.sizes.split_part_min_percent = 51), Err(PlacementOptionsError::PartMin));
        assert_eq!(with(|o| o.balance.tolerance_permille = 0), Err(PlacementOptionsError::Tolerance));
        assert_eq!(with(|o| o.balance.wake_permille = 1), Err(PlacementOptionsError::Tolerance));
        assert_eq!(with(|o| o.balance.leaders = 0), Err(PlacementOptionsError::BalanceWeights));
        assert_eq!(with(|o| o.limits.merges = 0), Err(PlacementOptionsError::ZeroLimit));
        assert_eq!(with(|o| o.repair_after = Duration::from_secs(1)), Err(PlacementOptionsError::RepairBeforeSilent));
    }

    #[test]
    fn kinds_are_switched_one_by_one() {
        let kinds = Kinds::ALL.without(Kind::Merge);
        let on: Vec<_> = Kind::ALL.into_iter().filter(|kind| kinds.contains(*kind)).collect();
        assert_eq!(on, [Kind::Repair, Kind::Renew, Kind::Drain, Kind::Split, Kind::Balance]);
        assert_eq!(Kinds::NONE.with(Kind::Repair).without(Kind::Repair), Kinds::NONE);
    }
}
