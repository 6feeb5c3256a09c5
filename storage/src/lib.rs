//! The shared multi-group log, state stores and snapshot files.

pub mod disk;
pub mod log;
#[cfg(feature = "torture")]
pub mod plant;
mod pool;
pub mod snapshot;
pub mod state;

pub use disk::{Disk, DiskFile, DiskSpace, RealDisk, SimDisk};
pub use log::{
    FlushListener, FlushToken, GroupRecord, LogBatch, LogChange, LogFailure, LogOptions, LogProgress, LogReader,
    LogWriter, Recovered, RecoveredGroup, SharedLog, SubmitError,
};
pub use pool::BytePool;
pub use snapshot::{
    DamagedFile, SnapshotError, SnapshotId, SnapshotInfo, SnapshotItem, SnapshotReader, SnapshotStore, SnapshotWriter,
};
pub use state::{
    MemStore, Pair, RealFs, SimStore, SledConfig, SledStore, StateBatch, StateError, StateOp, StateSnapshot,
    StateStore, StateView, StoreFs,
};
