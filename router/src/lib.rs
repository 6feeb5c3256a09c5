//! Finding a group and driving it: region id to worker slot, key to region, and the fixed pool of workers.
//!
//! This crate knows nothing of Raft. It is generic over the group that a worker drives and over the input that it feeds;
//! it takes only names and [`Time`](multiraft_raft::Time) from the core.
//!
//! ```text
//!   key ──RangeMap──▶ RegionId ──RegionMap──▶ Address{worker, slot, generation}
//!                                                │
//!            Mailbox (one channel a worker, with accounts; Busy when full)
//!                                                ▼
//!                       worker thread: Driver::turn(now, inputs) -> next deadline
//!                                      owns a Slab of groups and their Deadlines
//! ```
//!
//! There is no channel, task, timer or lock for each group: all of these exist once a worker.

mod clock;
mod deadlines;
mod id_map;
mod mailbox;
mod pool;
mod range_map;
mod region_map;
mod slab;
mod sync;

pub use clock::Clock;
pub use deadlines::Deadlines;
pub use id_map::IdMap;
pub use mailbox::{Admission, Limit, Mailbox, Refusal, SendError};
pub use pool::{
    Driver, Pool, PoolConfig, Prepared, Progress, Reading, StallWatch, StartError, WorkerPanic, WorkersPanicked,
};
pub use range_map::{Owner, RangeMap, RangeUpdate, Route};
pub use region_map::{Address, RegionMap};
pub use slab::{Slab, SlotKey};
