//! Store liveness: support between pairs of stores (`docs/liveness.md`, section L).
//!
//! One core for each store owns all support that the store gives and asks for. It is a state machine like those of
//! [`crate::logic`]: it takes the time and what came in, and returns what to send and what to tell the workers.

mod news;

pub use news::{Held, SupportEpoch, SupportNews};
