//! What an embedder implements: the state machine, in one of two forms.
//!
//! * [`StateMachine`]: its data lives on the store's shared state store. The engine commits its writes together with the
//!   applied index, in one atomic batch; splits and merges only move a boundary; snapshots are a scan of the range.
//! * [`OwnState`]: one machine per region that holds its data itself, kept durable by snapshots and the log.
//!
//! Both must be deterministic: the same commands in the same order give the same state and the same answers on every
//! replica. No clock, randomness or outside state may have a say.

pub(crate) mod overlay;
mod own;
pub(crate) mod shared;

pub use own::{OwnState, OwnStateFactory, SnapshotWrite};
pub use shared::{KeyOutsideRegion, RegionView, StateMachine, StateTxn};

use multiraft_raft::{LogIndex, RegionDescriptor};

/// What a state machine may know of the command it applies.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The region, as of this command.
    pub region: &'a RegionDescriptor,
    /// The command's place in the region's log. Grows strictly; survives leader changes.
    pub index: LogIndex,
}
