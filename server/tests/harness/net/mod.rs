//! What lies between the stores of a cluster, and what may happen to packets there: they are dropped, or come late.
//!
//! Two nets do the same. [`Spaces`] gives each store a network namespace and the kernel's filter, and needs root; [`Proxy`]
//! passes datagrams on itself, over loopback, and needs nothing. Only what stores say to each other is touched: clients and
//! operators reach every store all the time. Each packet that meets a fault is counted.

mod proxy;
mod spaces;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

pub(crate) use proxy::Proxy;
pub(crate) use spaces::Spaces;

/// What happens to the packets from one store to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None comes through.
    Cut,
    /// So many of a hundred are dropped.
    Loss(u64),
    /// Each comes up to so many milliseconds late, and so out of turn.
    Late(u64),
}

/// By who sends and who is to receive.
pub(crate) type Faults = BTreeMap<(u64, u64), Fault>;
/// How many packets met a fault, by who sent and who was to receive.
pub(crate) type Met = BTreeMap<(u64, u64), u64>;

/// What lies between stores.
pub(crate) enum Net {
    /// Loopback, where nothing goes wrong.
    Plain,
    Proxy(Proxy),
    Spaces(Spaces),
}

impl Net {
    /// Whether packets can be made late.
    pub(crate) fn can_delay(&self) -> bool {
        matches!(self, Self::Proxy(_))
    }

    /// From now on these faults there are, and no others.
    pub(crate) fn strike(&self, faults: &Faults) {
        match self {
            Self::Plain => panic!("nothing goes wrong on plain loopback"),
            Self::Proxy(proxy) => proxy.strike(faults),
            Self::Spaces(spaces) => spaces.strike(faults),
        }
    }

    /// Ends all faults; how many packets met each.
    pub(crate) fn heal(&self) -> Met {
        match self {
            Self::Plain => Met::new(),
            Self::Proxy(proxy) => proxy.heal(),
            Self::Spaces(spaces) => spaces.heal(),
        }
    }

    /// Where a store that is told of another finds it.
    pub(super) fn way(&self, from: u64, to: u64, listen: SocketAddr) -> SocketAddr {
        match self {
            Self::Proxy(proxy) => proxy.way(from, to),
            Self::Plain | Self::Spaces(_) => listen,
        }
    }

    /// A program that runs where a store does.
    pub(super) fn command(&self, store: u64, program: &str) -> Command {
        match self {
            Self::Spaces(spaces) => spaces.command(store, program),
            Self::Plain | Self::Proxy(_) => Command::new(program),
        }
    }
}
