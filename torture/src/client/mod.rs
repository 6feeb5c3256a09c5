//! What a client of a cluster needs: a connection that may break at any moment, and what an answer means for whoever keeps a
//! record of it.
//!
//! Nothing that comes over a socket panics. What a store may say under faults is told apart from what it may never say: the
//! latter ends the run, since either the harness or the store is broken and no history would show it.

pub mod caller;
pub mod local;
pub mod resp;
pub mod told;

pub use caller::Caller;
pub use resp::{Broken, Line, Reply, Words, words};
pub use told::Told;
