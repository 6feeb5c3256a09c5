//! What can go wrong, by operation, and what to do about it.
//!
//! Every error but the `Uncertain` ones means that the operation had no effect and never will.

use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{ChangeError, RegionDescriptor, RegionId, StoreId};

use crate::region::admin::SplitFault;
use crate::region::merge::MergeFault;
use crate::region::stores::StoreFault;

/// Why a command was not, or may not have been, carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This store does not lead the region and did not reach the one that does within the time-out. No effect.
    #[error("no leader of region {region} was reached in time{}: try again", hint_text(.hint))]
    NotLeader {
        /// The region.
        region: RegionId,
        /// Who may lead it.
        hint: Option<StoreId>,
    },
    /// The region is not known here nor on any store that was reached: it was absorbed, or never was. No effect.
    #[error("region {region} is not known here: look the key up again with region_for")]
    UnknownRegion {
        /// The region.
        region: RegionId,
    },
    /// No region is known for the key, neither here nor on any store that was reached. No effect.
    #[error("no region is known for the key: bootstrap the cluster, or try again when more stores are reached")]
    Unrouted,
    /// The region has changed since the caller looked it up. No effect; route again by `current`.
    #[error("region {} is at epoch {} now: route the command again", .current.id, .current.epoch)]
    EpochMismatch {
        /// What the region is now.
        current: Arc<RegionDescriptor>,
    },
    /// A queue is full. No effect.
    #[error("too much to do: try again in {retry_after:?}")]
    Busy {
        /// When a retry has a chance.
        retry_after: Duration,
    },
    /// The leader's log has no space, and no other store took over in time. No effect.
    #[error("the disk of store {store} is full: free some space there, it goes on by itself")]
    NoSpace {
        /// The leader's store.
        store: StoreId,
    },
    /// The command is larger than the configured limit. No effect.
    #[error(
        "the command has {size} bytes, the limit is {limit}: split it, or raise Config::max_command_bytes on every store"
    )]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The session is too old or unknown to the region: exactly-once can no longer be told. No effect of this attempt.
    #[error("the session has expired in region {region}: open a new one")]
    SessionExpired {
        /// The region.
        region: RegionId,
    },
    /// The command may have taken effect, or may yet: the store that has it fell silent or the time ran out.
    #[error("the outcome is unknown: the command may have taken effect (use a session to retry safely)")]
    Uncertain,
    /// The command was refused for good. No effect.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// This store is shutting down or its disk has failed. No effect.
    #[error("this store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl ProposeError {
    /// Whether the command had no effect and may succeed if it is routed and tried again.
    pub(crate) fn may_heal(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. }
                | Self::UnknownRegion { .. }
                | Self::EpochMismatch { .. }
                | Self::Busy { .. }
                | Self::NoSpace { .. }
        )
    }
}

fn hint_text(hint: &Option<StoreId>) -> String {
    hint.map_or_else(String::new, |store| format!(" (store {store} may lead it)"))
}

/// Why a read was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed the read in time.
    #[error("no leader of region {region} confirmed the read in time: try again")]
    NotLeader {
        /// The region.
        region: RegionId,
        /// Who may lead it.
        hint: Option<StoreId>,
    },
    /// No region is known for the key, neither here nor on any store that was reached.
    #[error("no region is known for the key: bootstrap the cluster, or try again when more stores are reached")]
    Unrouted,
    /// The region has no replica on this store (which a local read needs), or is not known anywhere.
    #[error("region {region} is not known here: look the key up again with region_for")]
    UnknownRegion {
        /// The region.
        region: RegionId,
    },
    /// The region has changed since the caller looked it up.
    #[error("region {} is at epoch {} now: route the read again", .current.id, .current.epoch)]
    EpochMismatch {
        /// What the region is now.
        current: Arc<RegionDescriptor>,
    },
    /// A queue is full.
    #[error("too much to do: try again in {retry_after:?}")]
    Busy {
        /// When a retry has a chance.
        retry_after: Duration,
    },
    /// The leader's store refused it for good: its state failed, or the answer is too large to be sent to another store.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The state store failed.
    #[error("the state store failed: {reason}")]
    State {
        /// Why.
        reason: String,
    },
    /// This store is shutting down or its disk has failed.
    #[error("this store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a leadership transfer did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// No leader was reached.
    #[error("no leader of region {region} was reached in time: try again")]
    NotLeader {
        /// The region.
        region: RegionId,
    },
    /// The region is not known on this store.
    #[error("region {region} is not known here")]
    UnknownRegion {
        /// The region.
        region: RegionId,
    },
    /// The target holds no voter of the region, or another transfer or change is under way, or it did not catch up in time.
    #[error("the transfer was refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The time ran out; leadership may still move.
    #[error("the transfer did not finish in time; leadership may still move")]
    Uncertain,
    /// This store is shutting down or its disk has failed.
    #[error("this store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a region was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The keys do not split the region. Nothing was proposed.
    #[error("region {} cannot be split so: {fault}", .current.id)]
    Split {
        /// What is wrong.
        fault: SplitFault,
        /// The region.
        current: Arc<RegionDescriptor>,
    },
    /// The change does not fit the region's replicas. Nothing was proposed.
    #[error("the replicas of region {} cannot be changed so: {fault}", .current.id)]
    Replicas {
        /// What is wrong.
        fault: ChangeError,
        /// The region.
        current: Arc<RegionDescriptor>,
    },
    /// The regions cannot be merged. Nothing was proposed.
    #[error("region {} cannot be merged so: {fault}", .current.id)]
    Merge {
        /// What is wrong.
        fault: MergeFault,
        /// The region that was to be absorbed.
        current: Arc<RegionDescriptor>,
    },
    /// The merge could not be finished, and the source takes writes again or is about to.
    #[error("the merge into region {} was given up: try again", .current.id)]
    RolledBack {
        /// The target as it is now.
        current: Arc<RegionDescriptor>,
    },
    /// The region has no replica on that store. Nothing was proposed.
    #[error("region {} has no replica on store {store}", .current.id)]
    NoReplica {
        /// The store.
        store: StoreId,
        /// The region.
        current: Arc<RegionDescriptor>,
    },
    /// The region has changed since the caller looked at it. No effect.
    #[error("region {} is at epoch {} now: look at it again", .current.id, .current.epoch)]
    EpochMismatch {
        /// What the region is now.
        current: Arc<RegionDescriptor>,
    },
    /// No leader was reached within the time-out. No effect.
    #[error("no leader of region {region} was reached in time: try again")]
    NotLeader {
        /// The region.
        region: RegionId,
        /// Who may lead it.
        hint: Option<StoreId>,
    },
    /// The region is not known. No effect.
    #[error("region {region} is not known here: look the key up again with region_for")]
    UnknownRegion {
        /// The region.
        region: RegionId,
    },
    /// Another change is under way, or a new replica did not catch up in time.
    #[error("the region is busy with another change, or a new replica has not caught up: try again")]
    Busy {
        /// The region.
        region: RegionId,
    },
    /// The leader's log has no space. No effect.
    #[error("the disk of store {store} is full: free some space there, it goes on by itself")]
    NoSpace {
        /// The leader's store.
        store: StoreId,
    },
    /// The leader refused it for good. No effect.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The change may have taken effect, or may yet: look at the region.
    #[error("the outcome is unknown: look at the region before trying again")]
    Uncertain,
    /// This store is shutting down or its disk has failed.
    #[error("this store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why the list of stores was not changed or told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such store has joined.
    #[error("store {store} has not joined: look at the list of stores")]
    Unknown {
        /// The store.
        store: StoreId,
    },
    /// The store has left the cluster.
    #[error("store {store} has left for good: start it with a new id and an empty data directory")]
    Left {
        /// The store.
        store: StoreId,
    },
    /// The store may still hold replicas.
    #[error("store {store} still holds replicas: drain it and wait until it is reported as drained")]
    NotDrained {
        /// The store.
        store: StoreId,
    },
    /// The store has not left yet.
    #[error("store {store} has not left: let it leave before it is forgotten")]
    NotLeft {
        /// The store.
        store: StoreId,
    },
    /// The record of the store is not taken.
    #[error("the record of store {store} is not taken: {fault}")]
    TooLarge {
        /// The store.
        store: StoreId,
        /// The limits.
        fault: StoreFault,
    },
    /// The root region, which keeps the stores, did not answer.
    #[error("the root region, which keeps the list of stores: {0}")]
    Root(#[source] RegionError),
}

impl StoreError {
    pub(crate) fn of(store: StoreId, fault: StoreFault) -> Self {
        match fault {
            StoreFault::Unknown => Self::Unknown { store },
            StoreFault::Left => Self::Left { store },
            StoreFault::NotDrained => Self::NotDrained { store },
            StoreFault::NotLeft => Self::NotLeft { store },
            StoreFault::TooLarge => Self::TooLarge { store, fault },
        }
    }
}

/// Why a store did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The builder was given nothing, or nonsense, for a setting.
    #[error("{0}")]
    Config(String),
    /// The data directory belongs to another store or cluster, or to a newer version.
    #[error("{0}")]
    DataDir(String),
    /// The shared log could not be opened.
    #[error("the log could not be opened: {0}")]
    Log(String),
    /// The state store could not be opened.
    #[error("the state store could not be opened: {0}")]
    State(#[from] multiraft_storage::StateError),
    /// The network endpoint could not be opened.
    #[error("the transport could not be started: {0}")]
    Transport(String),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}
