//! State stores: where applied data, region descriptors and applied indexes live.
//!
//! [`StateStore`] is the seam; [`MemStore`], [`SledStore`] and [`SimStore`] stand behind it, and [`conformance`] is what any
//! other implementation has to pass. Nothing here knows of regions, terms or Raft: a store maps bytes to bytes.

mod batch;
pub mod conformance;
mod cow_map;
mod error;
mod mem;
mod metrics;
mod overlay;
mod resolved;
mod sim;
mod sled_store;
mod small;
mod sorted_keys;
mod store;
mod store_fs;

pub use batch::{StateBatch, StateOp};
pub use error::StateError;
pub use mem::MemStore;
pub use sim::SimStore;
pub use sled_store::{SledConfig, SledStore};
pub use store::{Pair, StateSnapshot, StateStore, StateView};
pub use store_fs::{RealFs, StoreFs};
