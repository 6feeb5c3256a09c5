//! What people build on a replicated state machine, small enough to read in one sitting.
//!
//! | module | what | form of its state |
//! |---|---|---|
//! | [`lock_service`] | locks that expire, with fencing tokens | shared state store, sled |
//! | [`queue`] | first in, first out, each item to one consumer once | shared state store, in memory |
//! | [`redb_tables`] | an embedded database, replicated | its own: one redb file a region |
//! | [`block_device`] | a disk of 4-KiB blocks | its own: in memory |
//!
//! Each module holds a state machine and a client for it, and each has a program under `src/bin` that runs it on three
//! stores, one of which is stopped and started again on the way. [`cluster`] starts the stores; [`wire`] reads and writes
//! the fields of commands. One more program, `living-regions`, splits, moves, checks and merges regions that are in use. Nothing here reaches behind the public API of `multiraft`.

pub mod block_device;
pub mod client;
pub mod cluster;
pub mod lock_service;
pub mod queue;
pub mod redb_tables;
pub mod wire;
