//! The shared multi-group log, state stores and snapshot files.

pub mod log;
pub mod state;

pub use log::{FlushToken, GroupRecord, LogBatch, LogChange, RecoveredGroup};
pub use state::{
    MemStore, Pair, RealFs, SimStore, SledConfig, SledStore, StateBatch, StateError, StateOp, StateSnapshot,
    StateStore, StateView, StoreFs,
};
