//! The links between stores: what is on its way, in which order, and what stands in its way.
//!
//! One connection for each pair of stores, as in QUIC: messages of one lane arrive in order and none is lost while the
//! connection lives; lanes overtake each other. What is lost is lost with the connection. Where no packet gets through,
//! what was sent waits, and goes on if the way is free again before the connection is given up.

use std::collections::VecDeque;

use bytes::Bytes;
use multiraft_transport::PeerMessage;

use crate::schedule::Moment;

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) session: u64,
    pub(super) lane: usize,
    pub(super) body: Bytes,
}

/// The lanes of one direction: heartbeats, control, and one for the appends of each of the sender's workers.
pub(super) const LIVENESS: usize = 0;
pub(super) const CONTROL: usize = 1;
pub(super) const APPEND_FIRST: usize = 2;

/// One lane of one direction.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Nothing arrives earlier than what was sent before it.
    pub(super) last_arrival: Moment,
    /// On its way or held up, in bytes.
    pub(super) bytes: usize,
    /// What waits because no packet gets through.
    pub(super) held: VecDeque<Packet>,
    /// The sender was told that it is full, and not yet that it has room again.
    pub(super) told_full: bool,
    /// What waits because the lane is full.
    pub(super) waiting: VecDeque<Vec<PeerMessage>>,
}

/// One direction of a link.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// How many faults keep packets from getting through.
    pub(super) blocks: u32,
    /// Since when none get through.
    pub(super) blocked_since: Moment,
    /// How many times longer than usual packets take.
    pub(super) slowness: u64,
    /// What arrives later is lost: the connection has broken.
    pub(super) lost_after: Option<Moment>,
    pub(super) lanes: Vec<Lane>,
}

impl Direction {
    fn new(workers: usize) -> Self {
        let lanes = (0..APPEND_FIRST + workers).map(|_| Lane::default()).collect();
        Self { slowness: 1, lanes, ..Self::default() }
    }

    pub(super) fn clear(&mut self) -> usize {
        let mut lost = 0;
        for lane in &mut self.lanes {
            lost += lane.held.len() + lane.waiting.len();
            *lane = Lane::default();
        }
        lost
    }
}

/// The connection between two stores, if there is one.
#[derive(Debug)]
pub(super) struct Link {
    /// The two stores, ascending.
    pub(super) ends: [usize; 2],
    /// Names the connection; grows.
    pub(super) session: u64,
    /// The connection is made and has not broken.
    pub(super) up: bool,
    /// The connection that each side knows to be up.
    pub(super) known: [Option<u64>; 2],
    /// From the lower store to the higher, and back.
    pub(super) directions: [Direction; 2],
    /// An attempt to connect is planned.
    pub(super) dialing: bool,
}

/// All links.
#[derive(Debug)]
pub(super) struct Network {
    links: Vec<Link>,
    stores: usize,
}

impl Network {
    pub(super) fn new(stores: usize, workers: &[usize]) -> Self {
        let mut links = Vec::new();
        for low in 0..stores {
            for high in low + 1..stores {
                links.push(Link {
                    ends: [low, high],
                    session: 0,
                    up: false,
                    known: [None, None],
                    directions: [Direction::new(workers[low]), Direction::new(workers[high])],
                    dialing: false,
                });
            }
        }
        Self { links, stores }
    }

    pub(super) fn count(&self) -> usize {
        self.links.len()
    }

    pub(super) fn link(&mut self, link: usize) -> &mut Link {
        &mut self.links[link]
    }

    pub(super) fn ends(&self, link: usize) -> [usize; 2] {
        self.links[link].ends
    }

    /// The link between two stores, and the side of the first.
    pub(super) fn between(&self, one: usize, other: usize) -> (usize, usize) {
        let (low, high) = (one.min(other), one.max(other));
        let before = low * self.stores - low * (low + 1) / 2;
        (before + high - low - 1, usize::from(one > other))
    }

    /// Whether `from` knows of a connection to `to`.
    pub(super) fn session(&self, from: usize, to: usize) -> Option<u64> {
        let (link, side) = self.between(from, to);
        self.links[link].known[side]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_one_link_and_two_sides() {
        let mut network = Network::new(5, &[1, 2, 3, 1, 2]);
        assert_eq!(network.count(), 10);
        for low in 0..5 {
            for high in low + 1..5 {
                let (link, side) = network.between(low, high);
                assert_eq!((network.ends(link), side), ([low, high], 0));
                assert_eq!(network.between(high, low), (link, 1));
                assert_eq!(network.link(link).directions[1].lanes.len(), 2 + [1, 2, 3, 1, 2][high]);
            }
        }
    }
}
