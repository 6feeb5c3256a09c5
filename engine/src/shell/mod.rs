//! The doing: threads, files and sockets around the deterministic logic.
//!
//! ```text
//!  callers --> mailbox --> worker threads --batches--> log writer thread --tokens--> mailbox
//!                              |    |                                        
//!                              |    +--committed entries--> apply threads --answers--> callers
//!                              +--messages--> lanes --> link thread --frames--> peers
//!  checkpoint thread: makes applied state durable, so that the log can be cut
//!  check thread: takes digests of states for consistency checks
//!  liveness thread: gives and asks for support between stores
//!  chime thread: has callers who wait for long look at the clock
//!  snapshot threads: one for each snapshot that is being sent, received or written out to be sent
//! ```
//!
//! No decision is taken here but those about threads and queues.

mod answers;
mod apply;
mod births;
mod check;
mod checkpoint;
mod completion;
mod data_dir;
mod fault;
mod handler;
mod jobs;
mod leased;
mod liveness;
mod log;
mod outbox;
mod patience;
mod progress;
mod receive;
mod start;
mod stop;
mod store_file;
mod streams;
mod worker;

pub(crate) use completion::Completion;
pub(crate) use data_dir::check_log_is_there;
pub(crate) use fault::Fault;
pub(crate) use liveness::SupportStanding;
pub(crate) use start::{OpenBackend, Running, StartPlan, open_log, start};
pub(crate) use store_file::{Newborn, SharedStoreFile, StoreFile};
pub(crate) use worker::Work;
