//! Torture: clusters of real processes under faults, histories of what their clients were told, and checkers that judge them.
//!
//! What judges ([`check`], [`history`]) shares no code with what is judged: nothing here uses the engine. Stores are processes of
//! the program `multiraft`, or of a small one beside this library that embeds the engine; both are asked over their sockets.

pub mod check;
pub mod cleanup;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod ground;
pub mod history;
pub mod nemesis;
pub mod overload;
pub mod random;
pub mod report;
pub mod run;
pub mod stop;
pub mod trouble;
pub mod workload;
