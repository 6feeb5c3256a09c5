//! Snapshot files: what a snapshot of a region is on disk.
//!
//! They serve two ends. Regions whose state machine does not keep itself durable are kept by them: their log may be cut only
//! below [`SnapshotStore::latest`]. And a snapshot from a peer lies here while it is received and until it is installed.
//!
//! One file, a *container*, holds the snapshots of one or of many regions, so that ten thousand small ones cost no more syncs
//! than one. A container never changes once it has its name; a newer snapshot, or a removal, is another container, and a
//! container that nobody needs any more goes. `docs/snapshot-format.md` describes the bytes.
//!
//! ```text
//!   temp-*   being written or sent      removed at the next start
//!   part-*   being received             taken up by SnapshotStore::receive
//!   snap-*   complete, durable, named after fdatasync; the directory is synced before anybody is told
//! ```
//!
//! Nothing here knows what a snapshot's bytes mean.

mod catalog;
mod container;
mod error;
mod format;
mod receive;
mod spool;
mod store;
mod writer;

pub use container::SnapshotReader;
pub use error::SnapshotError;
pub use format::{CHUNK_BYTES_MAX, HEADER_BYTES_MAX, SnapshotId};
pub use receive::SnapshotWriter;
pub use spool::{Spool, SpoolChunk};
pub use store::{DamagedFile, SnapshotInfo, SnapshotItem, SnapshotStore};
