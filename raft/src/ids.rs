//! The names of things: newtypes for every id, term, index and epoch.
//!
//! Bare integers never cross a module boundary in this project; a term cannot be passed where an index is expected.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The value zero, which names nothing.
            pub const ZERO: Self = Self(0);

            /// The bare number, for codecs and reports.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value that follows; saturates at the largest.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A process with a data directory. Zero names no store.
    StoreId, "s"
);
id!(
    /// How often a store has started; durable, grows by one at each start.
    Incarnation, "i"
);
id!(
    /// One Raft group. Zero names none; one is the root region, which holds no user keys.
    RegionId, "g"
);
id!(
    /// One member of one region. Never reused, also not after the replica is gone. Zero names none.
    ReplicaId, "r"
);
id!(
    /// A Raft term. Zero is before the first election.
    Term, "t"
);
id!(
    /// A position in a region's log. Zero is before the first entry.
    LogIndex, "x"
);

impl RegionId {
    /// The root region: reserved for the cluster's own records.
    pub const ROOT: Self = Self(1);
}

impl LogIndex {
    /// The index before this one; zero stays zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// This index moved forward by `count` entries.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many entries lie between `earlier` (exclusive) and this one (inclusive); zero if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The cluster that a store belongs to. Chosen once at bootstrap; stores of different clusters refuse each other.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:032x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
