//! The shared log: one per store, for all groups.
//!
//! A worker hands in a [`LogBatch`] for each of its turns; [`SharedLog`]'s thread gathers the batches of all workers and
//! lets a [`LogWriter`] make them durable with one write and one sync; a [`FlushToken`] for each worker comes out. A
//! [`LogReader`] reads entries back. The format is described in `docs/log-format.md`.

mod ahead;
mod batch;
mod blocks;
mod damage;
mod error;
mod format;
mod group;
mod index;
mod ledger;
mod options;
mod packed;
mod reader;
mod record;
mod recovery;
mod region_list;
mod replay;
mod segment;
mod shard;
mod shared;
mod staging;
mod stats;
mod sweep;
mod window;
mod writer;

pub use batch::{FlushToken, GroupRecord, LogBatch, LogChange, RecoveredGroup};
pub use damage::{Affected, Damage, DamageKind, TornTail};
pub use error::{CommitError, LogError, LogReadError};
pub use options::LogOptions;
pub use reader::LogReader;
pub use recovery::Recovered;
pub use segment::{Spare, SpareJob};
pub use shared::{FlushListener, LogFailure, LogProgress, SharedLog, SubmitError};
pub use stats::LogStats;
pub use writer::LogWriter;
