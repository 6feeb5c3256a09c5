//! Histories of what clients of a cluster were told, and checkers that judge them.
//!
//! What judges shares no code with what is judged: nothing here links the engine.

pub mod check;
pub mod history;
