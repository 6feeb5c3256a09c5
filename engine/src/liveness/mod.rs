//! Store liveness: support between pairs of stores (`docs/liveness.md`, section L).
//!
//! One core for each store owns all support that the store gives and asks for. It is a state machine like those of
//! [`crate::logic`]: it takes the time and what came in, and returns what to send and what to tell the workers.
//!
//! ```text
//!  heartbeats, answers, rounds --> +----------+ --> heartbeats, answers, answers to rounds
//!  of peers                        | Liveness |
//!  the time, progress -----------> +----------+ --> news, to every worker, in order
//! ```
//!
//! Beside it [`Health`] judges whether the store is slow.

mod asker;
mod core;
mod health;
mod news;
mod options;
mod sequences;
mod supporter;
#[cfg(test)]
mod tests;

pub use self::core::{Liveness, LivenessConfig, LivenessCounters, LivenessOutput, confirms, round_answered};
pub use health::{Health, Scores, Standstills};
pub use news::{Held, SupportEpoch, SupportNews};
pub use options::{LivenessOptions, LivenessOptionsError};
