//! A multi-Raft sharding engine: embed it, implement one trait, get replication, sharding, linearizable reads, snapshots.
//!
//! * [`Engine`] is the handle of a running store; [`Builder`] puts one together.
//! * [`StateMachine`] (on a shared state store) or [`OwnState`] (a machine per region) is what an embedder implements.
//! * [`Session`] makes retries safe; [`SessionToken`] also those of another process.
//!
//! Stores in several processes reach each other over QUIC, with certificates ([`Builder::listen`], [`Builder::tls`]). In a test of an
//! embedder, several stores of one process need neither:
//!
//! ```
//! use bytes::Bytes;
//! use multiraft::{ApplyContext, Bootstrap, Consistency, Engine, LocalNetwork, RegionView};
//! use multiraft::{StateError, StateKind, StateMachine, StateTxn, StoreId};
//!
//! /// The last command for a key that ends at its first `=`.
//! struct Last;
//!
//! impl StateMachine for Last {
//!     fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
//!         let key = command.split(|byte| *byte == b'=').next().unwrap_or_default();
//!         let put = state.put(key, command.to_vec());
//!         Ok(put.map_or_else(|outside| Bytes::from(outside.to_string()), |()| Bytes::new()))
//!     }
//!
//!     fn lookup(&self, view: &RegionView<'_>, key: &[u8]) -> Result<Bytes, StateError> {
//!         Ok(view.get(key)?.unwrap_or_default())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let network = LocalNetwork::new();
//! let ids = [1, 2, 3].map(StoreId);
//! let mut stores = Vec::new();
//! for id in ids {
//!     let store = Engine::builder()
//!         .store(id)
//!         .data_dir(dir.path().join(id.to_string()))
//!         .local_network(network.clone())
//!         .state_machine(Last)
//!         .state(StateKind::Memory)
//!         .bootstrap(Bootstrap { boundaries: vec!["m".into()], stores: ids.to_vec() });
//!     stores.push(store.start().await?);
//! }
//! stores[0].propose_key("apples", "apples=red").await?;
//! assert_eq!(stores[1].read_key("apples", "apples", Consistency::Linearizable).await?, "apples=red");
//! // A store stops, and the others go on.
//! stores.remove(2).shutdown().await;
//! stores[0].propose_key("apples", "apples=green").await?;
//! # for store in stores {
//! #     store.shutdown().await;
//! # }
//! # Ok(())
//! # }
//! ```
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
mod rejoin;
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
pub use logic::{CheckOutcome, CheckReport, Floor, ReplicaCheck, StateDigest};
pub use logic::{MergeFault, SnapshotLimits, SplitFault, StoreFault, StoreRecord, StoreStanding};
pub use machine::{
    ApplyContext, KeyOutsideRegion, OwnState, OwnStateFactory, RegionView, SnapshotWrite, StateMachine, StateTxn,
};
pub use measure::Figures;
pub use multiraft_raft::{
    ChangeError, ClusterId, Incarnation, KeyRange, LogIndex, Options as RaftOptions, Payload, RegionDescriptor,
    RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
pub use multiraft_storage::{StateError, StateStore};
pub use multiraft_transport::{LocalNetwork, PeerAddress, SessionId, Tls, TlsError};
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
