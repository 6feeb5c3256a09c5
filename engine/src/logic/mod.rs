//! What a store decides, without what it does: deterministic state machines that take (`now`, inputs) and return outputs as
//! plain data.
//!
//! ```text
//!            inputs                                        outputs
//!  callers ---------> +--------+ --- records, one batch ----> log writer --- FlushToken --+
//!  peers ------------>| Worker | --- messages, by peer -----> links                       |
//!  deadlines -------->|  turn  | --- committed entries -----> Applier --- Applied --+     |
//!  completions ------>+--------+ --- answers ---------------> callers               |     |
//!       ^------------------------------------------------------------------------+--+-----+
//! ```
//!
//! Nothing here reads a clock, starts a thread, opens a file or draws unseeded randomness; nothing iterates over a randomly
//! ordered map. The shell (`crate::shell`) drives it on threads, sockets and files; the simulator drives the very same code
//! on virtual ones. The interface is public for such drivers and carries no promise of stability.

mod admin;
mod ahead;
mod applied;
mod aside;
mod asleep;
mod awake;
mod beats;
mod bulk;
mod campaign;
mod check;
mod floor;
mod flush;
mod forward;
mod input;
mod leases;
mod lifecycle;
mod merge;
mod messages;
mod output;
mod pace;
mod park;
mod peers;
mod propose;
mod publish;
mod questions;
mod read;
mod region;
mod regions;
mod report;
mod route;
mod snapshot;
mod stall;
mod support;
mod upkeep;
mod worker;

pub use crate::region::admin::{AdminCommand, AdminRequest, Child, SplitFault};
pub use crate::region::check::{
    CheckOutcome, CheckReport, DigestAnswer, FencedReplica, FencedReplicas, ReplicaCheck, StateDigest,
};
pub use crate::region::merge::{Absorbed, Frozen, MergeFault, MergeState};
pub use crate::region::packed::Packed;
pub use crate::region::stores::{StoreCommand, StoreFault, StoreRecord, StoreStanding};
pub use beats::{BeatMerger, BeatShare, split_by_worker, worker_of, worker_of_request};
pub use floor::Floor;
pub use forward::wire_outcome;
pub use input::{
    Adopt, Applied, DiskUse, Freshness, Input, KeptSnapshot, RegionChange, RegionHandle, RegionStart, Residue,
    SnapshotInstalled, SplitDone,
};
pub use leases::{Asker, Lease, Leases, Look, Standing};
pub use merge::MERGE_TIMEOUT;
pub use output::{
    ApplyTask, Counters, FetchTask, LaneKind, LocateTask, LookupTask, Notice, Outcome, Outgoing, ReplyTo, SnapshotTask,
    TurnOutput,
};
pub use pace::BEATS_AT_ONCE;
pub use questions::{Question, Questions};
pub use report::{LedPage, LedRegion};
pub use snapshot::SnapshotLimits;
pub use upkeep::LedCount;
pub use worker::{Worker, WorkerConfig};
