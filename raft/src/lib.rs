//! The consensus core of one Raft group.
//!
//! Pure and sans-I/O: no clock, thread, socket, file, channel or unseeded randomness. Time is an argument, effects are
//! returned as comparable data.

mod entry;
mod flush;
mod ids;
mod message;
mod region;
mod time;

pub use entry::{Entry, EntryKind, HardState, LogSummary, TermRun};
pub use flush::{FlushProof, Gated, LogTicket};
pub use ids::{ClusterId, Incarnation, LogIndex, RegionId, ReplicaId, StoreId, Term};
pub use message::{AppendOutcome, Body, Message, Proposal};
pub use region::{KeyRange, RegionDescriptor, RegionEpoch, Replica, Role};
pub use time::Time;
