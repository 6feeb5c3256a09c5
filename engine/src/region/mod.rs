//! What the engine keeps of each region besides its Raft group: where its records lie, and what its commands look like.

pub(crate) mod admin;
pub(crate) mod beside;
pub(crate) mod check;
pub(crate) mod command;
pub(crate) mod keys;
pub(crate) mod merge;
pub(crate) mod sessions;
pub(crate) mod stores;
