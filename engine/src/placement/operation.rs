//! What the planner wants done, as plain data, and why.

use std::fmt;

use bytes::Bytes;
use multiraft_raft::{RegionEpoch, RegionId, ReplicaId, Role, StoreId};

use super::options::Kind;

/// Names an operation for as long as it runs. Never reused by one planner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// One thing to do with one region. It takes effect only on a region that is still at `epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name, for the report of its outcome.
    pub id: OperationId,
    /// The region; of a merge the one that goes.
    pub region: RegionId,
    /// The region's epoch that it was planned for.
    pub epoch: RegionEpoch,
    /// The store that led the region then.
    pub leader: StoreId,
    /// What to do.
    pub step: Step,
    /// Why.
    pub reason: Reason,
}

impl Operation {
    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.reason.kind()
    }

    /// The second region that it keeps busy: the target of a merge.
    #[must_use]
    pub fn other_region(&self) -> Option<RegionId> {
        match self.step {
            Step::Merge { into, .. } => Some(into),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: region {}: {}, because {}", self.kind().name(), self.region, self.step, self.reason)
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Change the replicas.
    Change(ReplicaChange),
    /// Hand leadership over.
    TransferLeader {
        /// To the voter on this store.
        to: StoreId,
    },
    /// Divide the region.
    Split {
        /// Where: the first keys of the new regions, ascending, inside the range.
        keys: Vec<Bytes>,
    },
    /// Join the region with its neighbour, which stays.
    Merge {
        /// The neighbour.
        into: RegionId,
        /// Its epoch.
        into_epoch: RegionEpoch,
        /// The stores to which replicas of the region have to move first, one after the other.
        moves: Vec<StoreId>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(change) => change.fmt(f),
            Self::TransferLeader { to } => write!(f, "let store {to} lead"),
            Self::Split { keys } => {
                f.write_str("split at")?;
                keys.iter().try_for_each(|key| write!(f, " \"{}\"", key.escape_ascii()))
            }
            Self::Merge { into, moves, .. } if moves.is_empty() => write!(f, "merge into region {into}"),
            Self::Merge { into, moves, .. } => write!(f, "merge into region {into} after {} moves", moves.len()),
        }
    }
}

/// One change of a region's replicas. A new replica that votes and holds data is a learner first, until it has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaChange {
    /// One more voter.
    AddVoter {
        /// Where; a learner there becomes it.
        store: StoreId,
    },
    /// One more learner.
    AddLearner {
        /// Where.
        store: StoreId,
    },
    /// One more witness.
    AddWitness {
        /// Where.
        store: StoreId,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// Which.
        replica: ReplicaId,
    },
    /// A replica goes. Never the leader's.
    Remove {
        /// Which.
        replica: ReplicaId,
    },
    /// A voter comes and another goes in one joint change. Never the leader's.
    Replace {
        /// Which goes.
        remove: ReplicaId,
        /// Where the new one lives; a learner there becomes it.
        add: StoreId,
    },
}

impl fmt::Display for ReplicaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVoter { store } => write!(f, "add a voter on store {store}"),
            Self::AddLearner { store } => write!(f, "add a learner on store {store}"),
            Self::AddWitness { store } => write!(f, "add a witness on store {store}"),
            Self::Promote { replica } => write!(f, "promote replica {replica}"),
            Self::Remove { replica } => write!(f, "remove replica {replica}"),
            Self::Replace { remove, add } => write!(f, "replace replica {remove} by one on store {add}"),
        }
    }
}

/// Why something is to be done; prints for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The replica's store is gone for good.
    StoreGone {
        /// The store.
        store: StoreId,
    },
    /// Too few replicas of a role.
    TooFew {
        /// The role.
        role: Role,
        /// How many there are.
        have: usize,
        /// How many there should be.
        want: usize,
    },
    /// Too many replicas of a role, and the one on this store can best be spared.
    TooMany {
        /// The role.
        role: Role,
        /// How many there are.
        have: usize,
        /// How many there should be.
        want: usize,
        /// The store.
        store: StoreId,
    },
    /// The replica is out of service: fenced by a consistency check, or damaged.
    OutOfService {
        /// Its store.
        store: StoreId,
        /// A store that could take the one that comes after it; often the same.
        to: StoreId,
    },
    /// The store is to be emptied.
    Draining {
        /// The store.
        store: StoreId,
    },
    /// Two replicas share a failure domain, and a store outside of it has room.
    SharedDomain {
        /// Where one of them is.
        from: StoreId,
        /// Where it goes.
        to: StoreId,
    },
    /// One store has more than its share of replicas, bytes or load, another less.
    Uneven {
        /// The one that has more.
        from: StoreId,
        /// The one that has less.
        to: StoreId,
        /// What the move gains, in thousandths of a fair share.
        gain_permille: u32,
    },
    /// One store has more than its share of leaders or their load, another less.
    UnevenLeaders {
        /// The one that has more.
        from: StoreId,
        /// The one that has less.
        to: StoreId,
        /// What the transfer gains, in thousandths of a fair share.
        gain_permille: u32,
    },
    /// The region holds too much.
    Large {
        /// How many bytes.
        bytes: u64,
        /// The part that stays before the key, in per cent.
        before_percent: u32,
    },
    /// The region takes too many writes.
    ManyWrites {
        /// How many a second.
        per_s: u64,
        /// The part that stays before the key, in per cent.
        before_percent: u32,
    },
    /// The region takes too many reads.
    ManyReads {
        /// How many a second.
        per_s: u64,
        /// The part that stays before the key, in per cent.
        before_percent: u32,
    },
    /// Two neighbours are small and idle.
    SmallAndIdle {
        /// What they hold together.
        bytes: u64,
        /// What they take together.
        load_per_s: u64,
    },
}

impl Reason {
    /// What an operation with this reason is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::StoreGone { .. } | Self::TooFew { .. } | Self::TooMany { .. } => Kind::Repair,
            Self::OutOfService { .. } => Kind::Renew,
            Self::Draining { .. } => Kind::Drain,
            Self::Large { .. } | Self::ManyWrites { .. } | Self::ManyReads { .. } => Kind::Split,
            Self::SharedDomain { .. } | Self::Uneven { .. } | Self::UnevenLeaders { .. } => Kind::Balance,
            Self::SmallAndIdle { .. } => Kind::Merge,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |permille: u32| format!("{}.{} %", permille / 10, permille % 10);
        match *self {
            Self::StoreGone { store } => write!(f, "store {store} is gone"),
            Self::TooFew { role, have, want } => write!(f, "it has {have} replicas of {want} as {role:?}"),
            Self::TooMany { role, have, want, store } => {
                write!(
                    f,
                    "it has {have} replicas, not {want}, as {role:?}, and store {store} is the best to go without"
                )
            }
            Self::OutOfService { store, .. } => {
                write!(f, "the replica on store {store} is fenced or damaged, and another one can take its place")
            }
            Self::Draining { store } => write!(f, "store {store} is to be emptied"),
            Self::SharedDomain { from, to } => {
                write!(f, "store {from} shares a failure domain with another replica and store {to} does not")
            }
            Self::Uneven { from, to, gain_permille } => {
                let gain = percent(gain_permille);
                write!(f, "store {from} bears more than store {to}; this gains {gain} of a fair share")
            }
            Self::UnevenLeaders { from, to, gain_permille } => {
                let gain = percent(gain_permille);
                write!(f, "store {from} leads more than store {to}; this gains {gain} of a fair share")
            }
            Self::Large { bytes, before_percent } => write!(f, "it holds {bytes} bytes; {before_percent} % stay"),
            Self::ManyWrites { per_s, before_percent } => {
                write!(f, "it takes {per_s} writes a second; {before_percent} % stay")
            }
            Self::ManyReads { per_s, before_percent } => {
                write!(f, "it takes {per_s} reads a second; {before_percent} % stay")
            }
            Self::SmallAndIdle { bytes, load_per_s } => {
                write!(f, "both are small and idle: together {bytes} bytes and {load_per_s} reads and writes a second")
            }
        }
    }
}

/// Something that should be done and cannot be now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The region.
    pub region: RegionId,
    /// What for.
    pub kind: Kind,
    /// What stands in the way.
    pub obstacle: Obstacle,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: region {} waits: {}", self.kind.name(), self.region, self.obstacle)
    }
}

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Too few voters live to agree on anything.
    LostQuorum,
    /// The change would need votes that are not there.
    WouldLoseQuorum,
    /// No leader, or one on a store that is not heard of.
    NoLeader,
    /// No other voter is live, up to date and on a disk that is not full, so nobody could lead instead.
    NoHeir,
    /// Every live store has a replica already, or has too little disk left.
    NoStore,
    /// The stores that fit have as much to do as they may.
    Limit,
    /// No sample, or no key in it that divides what is too much.
    NoKey,
    /// There are as many regions as there may be.
    Maximum,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LostQuorum => "too few of its voters live; it needs recovery if they do not come back",
            Self::WouldLoseQuorum => "too few of its voters live and are up to date for the change",
            Self::NoLeader => "it has no leader that is heard of",
            Self::NoHeir => "no other voter lives, is up to date and has disk left, so nobody could lead instead",
            Self::NoStore => "no further live store has room for a replica; add a store or free some disk",
            Self::Limit => "the stores that fit have as much to do as the limits allow",
            Self::NoKey => "no sampled key divides what is too much",
            Self::Maximum => "there are as many regions as there may be, see sizes.regions_max",
        })
    }
}
