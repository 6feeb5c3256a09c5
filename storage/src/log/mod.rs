//! The shared log: one per store, for all groups.

mod batch;

pub use batch::{FlushToken, GroupRecord, LogBatch, LogChange, RecoveredGroup};
