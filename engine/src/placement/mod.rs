//! Placement: which stores hold the replicas of a region, who leads it, and where regions begin and end.
//!
//! [`Planner`] is a pure state machine over a [`ClusterView`]: no clock, no I/O, no randomness. It returns [`Operation`]s as
//! plain data, each with a [`Reason`] that prints for people; somebody else carries them out and reports the [`Outcome`]. It
//! keeps every region at its wanted number of replicas, empties stores that are to leave, keeps replicas in different failure
//! domains, balances stores by count, bytes and load, splits what is too much and merges what is small and idle.
//!
//! What it promises: no operation without a live majority before, during and after it; at most one operation a region; no
//! limit exceeded; it converges, because balancing lowers a potential by a threshold each time, and it then plans nothing
//! until something changes. `docs/placement.md` says how.

mod balance;
mod board;
mod cluster;
mod domains;
mod drain;
mod health;
mod leaders;
mod merge;
mod operation;
mod options;
mod planner;
mod potential;
mod quorum;
mod renew;
mod repair;
mod round;
mod running;
mod split;
mod spread;
mod worklist;

pub use cluster::{ClusterView, KeySample, RegionInfo, Stats, StoreInfo, StoreLoad, StoreState};
pub use multiraft_raft::Time;
pub use operation::{Blocked, Obstacle, Operation, OperationId, Reason, ReplicaChange, Step};
pub use options::{
    Balance, Kind, Kinds, Limits, PlacementOptions, PlacementOptionsError, Replication, Sizes, Timeouts,
};
pub use planner::{Backlog, Outcome, Plan, Planner};
