//! A look at a transport from outside.

use std::time::Duration;

use multiraft_raft::{Incarnation, StoreId};

use crate::{
    APPEND_LANES_MAX, Lane, PeerAddress,
    peer::{Budget, Link, Peer},
};

/// One peer, as it is at a moment.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Who.
    pub store: StoreId,
    /// Where it is dialed; `None` for a peer that only dials in, and on a local network.
    pub address: Option<PeerAddress>,
    /// The link, if there is one.
    pub link: Option<LinkStatus>,
    /// How many links have come up.
    pub connections: u64,
    /// How many dials have come to nothing.
    pub dial_failures: u64,
    /// Packets sent on its links, the present one and those before: UDP datagrams, so also what QUIC adds by itself, such as
    /// acknowledgements. None on a local network.
    pub packets_sent: u64,
    /// All lanes that this store sends on.
    pub sent: Vec<LaneStatus>,
    /// All lanes that something was received on.
    pub received: Vec<LaneStatus>,
    /// Bytes of snapshots sent.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshots received.
    pub snapshot_bytes_received: u64,
}

/// A link that is up.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// See [`LinkEvent::Up`](crate::LinkEvent::Up).
    pub session: u64,
    /// The peer's incarnation.
    pub incarnation: Incarnation,
    /// The version of the wire format in which the two talk; on a local network this release's.
    pub version: u16,
    /// The estimated round trip. It, and what follows, is zero on a local network.
    pub round_trip: Duration,
    /// Packets that were lost.
    pub lost_packets: u64,
    /// The present size of packets.
    pub mtu: u16,
}

/// One lane in one direction, counted since the peer was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// Which.
    pub lane: Lane,
    /// Frames.
    pub frames: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes: over QUIC of the frames, before encryption; on a local network of the messages in memory, about.
    pub bytes: u64,
    /// Bytes waiting: to be sent, or to be given back by the handler.
    pub queued_bytes: usize,
    /// How often the lane was not read because its receive budget was used up.
    pub budget_waits: u64,
}

impl PeerStatus {
    pub(crate) fn of(peer: &Peer) -> Self {
        let (address, link, packets_sent) = {
            let state = peer.state();
            let link = state.link.as_ref().map(|link| {
                let path = link.connection.stats().path;
                LinkStatus {
                    session: link.session,
                    incarnation: link.incarnation,
                    version: link.version,
                    round_trip: path.rtt,
                    lost_packets: path.lost_packets,
                    mtu: path.current_mtu,
                }
            });
            let packets_sent = state.packets_sent_before + state.link.as_ref().map_or(0, Link::packets_sent);
            (state.address.clone(), link, packets_sent)
        };
        let sent = peer.lanes().iter().map(|lane| {
            let queued = lane.queue().queued_bytes();
            LaneStatus::of(lane.lane, &lane.metrics, queued)
        });
        let received = LaneStatus::received(peer.budgets());
        Self {
            store: peer.id,
            address,
            link,
            connections: peer.metrics.connections.get(),
            dial_failures: peer.metrics.dial_failures.get(),
            packets_sent,
            sent: sent.collect(),
            received,
            snapshot_bytes_sent: peer.metrics.snapshot_bytes_sent.get(),
            snapshot_bytes_received: peer.metrics.snapshot_bytes_received.get(),
        }
    }
}

impl LaneStatus {
    /// Of the lanes that something was received on.
    pub(crate) fn received(budgets: &[Budget]) -> Vec<Self> {
        let lanes = Lane::all(APPEND_LANES_MAX)
            .zip(budgets)
            .map(|(lane, budget)| Self::of(lane, &budget.metrics, budget.taken()));
        lanes.filter(|lane| lane.frames > 0).collect()
    }

    pub(crate) fn of(lane: Lane, metrics: &crate::metrics::LaneMetrics, queued_bytes: usize) -> Self {
        Self {
            lane,
            frames: metrics.frames.get(),
            messages: metrics.messages.get(),
            bytes: metrics.bytes.get(),
            queued_bytes,
            budget_waits: metrics.waits.get(),
        }
    }
}
