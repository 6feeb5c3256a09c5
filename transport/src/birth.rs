//! What a store's data directory is known by: drawn when it was made. A store that comes with another one has lost what it promised, and
//! is let in only if it says so.

use std::fmt;

use multiraft_raft::{Incarnation, StoreId};

/// The directory that a store runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Birth {
    /// Drawn at random when the directory was made; zero: not known.
    pub number: u64,
    /// The store had lost an earlier directory, and says so: it counts for nothing that it was before.
    pub rejoined: bool,
}

/// Who is let in, by whoever remembers the births of other stores.
pub trait Births: fmt::Debug + Send + Sync {
    /// Whether a store may have a link. May block on a disk: when this returns `Ok`, its birth is durably remembered.
    ///
    /// # Errors
    /// Why it may not, and what to do, in words for both sides.
    fn admit(&self, peer: StoreId, incarnation: Incarnation, birth: Birth) -> Result<(), String>;
}
