//! The Redis protocol, from a socket to the engine and back.
//!
//! ```text
//! bytes --request--> words --command--> operation --lanes--> proposal or query --reply--> bytes
//! ```

mod command;
mod connection;
mod cursors;
mod front;
mod glob;
mod lanes;
mod listener;
mod local;
mod reply;
mod request;
mod round;
mod session;
#[cfg(test)]
mod splits;
mod table;
mod transaction;
mod walk;

pub(crate) use front::{Front, Limits};
pub(crate) use listener::serve;
