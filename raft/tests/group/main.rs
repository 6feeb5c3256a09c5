//! Groups driven from outside: simulated disks, networks and clocks around the real core.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

mod chaos;
mod checker;
mod dice;
mod disk;
mod format;
mod fortify;
mod hand;
mod hostile;
mod memory;
mod outputs;
mod quiet;
mod replica;
mod script;
mod stale;
mod support;
mod transcripts;
