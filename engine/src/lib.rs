//! A multi-Raft sharding engine: embed it, implement one trait, get replication, sharding, linearizable reads, snapshots.
//!
//! * [`Engine`] is the handle of a running store; [`Builder`] puts one together.
//! * [`StateMachine`] (on a shared state store) or [`OwnState`] (a machine per region) is what an embedder implements.
//! * [`Session`] makes retries safe; [`SessionToken`] also those of another process.
//!
//! The modules [`logic`], [`liveness`], [`apply`], [`assembly`] and [`snapshots`] are the deterministic inside, public for simulators and
//! other drivers, without a promise of stability.

mod admission;
pub mod apply;
pub mod assembly;
mod builder;
mod check;
mod config;
mod directory;
mod engine;
mod error;
mod events;
mod field_file;
mod leased;
pub mod liveness;
pub mod logic;
#[cfg(test)]
mod lone_store;
pub mod machine;
mod measure;
mod options;
pub mod placement;
#[cfg(feature = "torture")]
mod plant;
pub mod recovery;
mod region;
mod regions;
mod routing;
mod scan;
mod session;
mod session_token;
mod shell;
pub mod snapshots;
mod status;
mod steward;
mod stores;

pub use builder::{Bootstrap, Builder, StateKind};
pub use config::Config;
pub use engine::Engine;
pub use error::{ProposeError, ReadError, RegionError, StartError, StoreError, TransferError};
pub use events::{Event, Events};
pub use liveness::{LivenessOptions, LivenessOptionsError};
pub use logic::{CheckOutcome, CheckReport, ReplicaCheck, StateDigest};
pub use logic::{MergeFault, SnapshotLimits, SplitFault, StoreFault, StoreRecord, StoreStanding};
pub use machine::{
    ApplyContext, KeyOutsideRegion, OwnState, OwnStateFactory, RegionView, SnapshotWrite, StateMachine, StateTxn,
};
pub use measure::Figures;
pub use multiraft_raft::{
    ChangeError, ClusterId, Incarnation, KeyRange, LogIndex, Options as RaftOptions, RegionDescriptor, RegionEpoch,
    RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
pub use multiraft_storage::{StateError, StateStore};
pub use multiraft_transport::{PeerAddress, SessionId, Tls, TlsError};
pub use options::{Consistency, ProposeOptions, ReadOptions};
pub use regions::Change;
pub use scan::{Part, Scan};
pub use session::Session;
pub use session_token::{SessionToken, SessionTokenError};
pub use status::{PeerStatus, RegionStatus, StoreCounters, StoreStatus};
pub use steward::{Placement, PlacementState, Seat};

/// The README's example is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
