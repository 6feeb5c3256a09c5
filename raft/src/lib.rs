//! The consensus core of one Raft group.
//!
//! Pure and sans-I/O: no clock, thread, socket, file, channel or unseeded randomness. Time is an argument, effects are
//! returned as comparable data. Start at [`Group`].

mod durability;
mod entry;
mod flush;
mod group;
mod ids;
mod log;
mod membership;
mod message;
mod options;
mod output;
mod payload;
mod priority;
mod progress;
mod random;
mod region;
mod restored;
mod time;

pub use entry::{Entry, EntryKind, HardState, LogSummary, TermRun};
pub use flush::{FlushProof, Gated, LogTicket};
pub use group::{
    Distance, Group, PeerStatus, Promise, ProposeError, ReadRefused, SnapshotOutcome, Status, TransferRefused,
};
pub use ids::{ClusterId, Incarnation, LogIndex, RegionId, ReplicaId, StoreId, Term};
pub use membership::{
    ChangeDecodeError, ChangeError, ChangeOp, Membership, MembershipChange, VoteOutcome, apply_to_replicas,
};
pub use message::{AppendOutcome, Body, Message, Proposal};
pub use options::{Options, OptionsError};
pub use output::{Event, Fetch, FetchPurpose, LogStep, Output, ReadReady, RoleKind};
pub use payload::Payload;
pub use priority::Priority;
pub use progress::Flow;
pub use region::{KeyRange, RegionDescriptor, RegionEpoch, Replica, Role};
pub use restored::{RestoreError, Restored};
pub use time::Time;
