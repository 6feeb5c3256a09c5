//! Where stores run, and what may go wrong between them: packets are dropped, come late, or come twice.
//!
//! Two nets do the same. [`Spaces`] gives each store a network namespace and the kernel's filter, and needs root; [`Proxy`]
//! passes datagrams on itself, over loopback, needs nothing, and can do more. Only what stores say to each other is touched:
//! clients and operators reach every store all the time. Each packet that meets a fault is counted.

mod clocks;
mod proxy;
mod shape;
mod spaces;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub use clocks::{Clocks, Turn, clean_up_after, turns_of};
pub use proxy::Proxy;
pub use shape::Shape;
pub use spaces::Spaces;

use crate::trouble::{Outcome, Trouble};

/// What happens to the packets from one store to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None comes through.
    Cut,
    /// So many of a hundred are dropped.
    Loss(u64),
    /// Each comes up to so many milliseconds late, and so out of turn.
    Late(u64),
    /// So many of a hundred come twice, the second time up to 100 ms later.
    Twice(u64),
}

/// By who sends and who is to receive.
pub type Faults = BTreeMap<(u64, u64), Fault>;
/// How many packets met a fault, by who sent and who was to receive.
pub type Met = BTreeMap<(u64, u64), u64>;

/// What lies between stores.
#[derive(Debug)]
pub enum Net {
    /// Loopback, where nothing goes wrong.
    Plain,
    /// Loopback, with a process of datagrams in between.
    Proxy(Proxy),
    /// A network of namespaces.
    Spaces(Spaces),
}

impl Net {
    /// Whether packets can come late and twice. They can be dropped on every net but the plain one.
    #[must_use]
    pub fn can_delay(&self) -> bool {
        matches!(self, Self::Proxy(_))
    }

    /// From now on these faults there are, and no others.
    ///
    /// # Errors
    /// The net cannot do it.
    pub fn strike(&self, faults: &Faults) -> Outcome<()> {
        match self {
            Self::Plain => Err(Trouble::new("nothing can go wrong on plain loopback: run on a proxy or in namespaces")),
            Self::Proxy(proxy) => {
                proxy.strike(faults);
                Ok(())
            }
            Self::Spaces(spaces) => spaces.strike(faults),
        }
    }

    /// Ends all faults; how many packets met each.
    ///
    /// # Errors
    /// The net cannot tell, or cannot end them.
    pub fn heal(&self) -> Outcome<Met> {
        match self {
            Self::Plain => Ok(Met::new()),
            Self::Proxy(proxy) => Ok(proxy.heal()),
            Self::Spaces(spaces) => spaces.heal(),
        }
    }

    /// Where a store that is told of another finds it.
    #[must_use]
    pub fn way(&self, from: u64, to: u64, listen: SocketAddr) -> SocketAddr {
        match self {
            Self::Proxy(proxy) => proxy.way(from, to),
            Self::Plain | Self::Spaces(_) => listen,
        }
    }

    /// The address at which a store has all its ports to itself; `None` if stores share loopback.
    #[must_use]
    pub fn address(&self, store: u64) -> Option<IpAddr> {
        match self {
            Self::Spaces(spaces) => Some(spaces.address(store)),
            Self::Plain | Self::Proxy(_) => None,
        }
    }

    /// A program that runs where a store does.
    #[must_use]
    pub fn command(&self, store: u64, program: &str) -> Command {
        match self {
            Self::Spaces(spaces) => spaces.command(store, program),
            Self::Plain | Self::Proxy(_) => Command::new(program),
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Plain => "plain loopback",
            Self::Proxy(_) => "loopback, with a proxy between the stores",
            Self::Spaces(_) => "a network namespace for each store",
        }
    }
}

/// An address on loopback that is free for datagrams and connections. Below the ports that the system hands out by itself: one of
/// those, found free and let go, may be some connection's before a store takes it.
#[must_use]
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = 10_000 + u16::try_from(number).unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
