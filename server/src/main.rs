//! The `multiraft` program: runs a store, makes certificates, shows a cluster at work.
//!
//! It embeds the engine as any other program would, through its public interface.

mod certs;
mod cli;
mod error;
mod machine;
mod resp;
mod serve;

fn main() {}
