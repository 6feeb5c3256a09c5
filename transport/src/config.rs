//! What a transport is told at its start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use multiraft_raft::{ClusterId, Incarnation, StoreId};

use crate::{Birth, Births, Lane, Limits, LocalNetwork, Tls, WIRE_VERSION};

/// Where a peer listens: `host:port`, resolved anew at each dial.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerAddress(String);

impl PeerAddress {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl From<&str> for PeerAddress {
    fn from(address: &str) -> Self {
        Self(address.to_owned())
    }
}

impl From<String> for PeerAddress {
    fn from(address: String) -> Self {
        Self(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What there is between the stores.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Network {
    /// QUIC, with certificates on both sides.
    Quic {
        /// Where to listen (UDP), and to dial from. Port zero lets the system choose.
        listen: SocketAddr,
        /// Certificates and key. The certificate must carry [`store_dns_name`](crate::store_dns_name) of the store.
        tls: Tls,
    },
    /// Queues between stores of this process.
    Local(LocalNetwork),
}

/// Everything a transport needs to know. Start from [`TransportConfig::new`] or [`TransportConfig::local`].
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The cluster; stores of another one are refused.
    pub cluster: ClusterId,
    /// This store.
    pub store: StoreId,
    /// Of this process: larger than that of every earlier process of this store.
    pub incarnation: Incarnation,
    /// How it reaches the others.
    pub network: Network,
    /// The peers to keep a link to. A store that is not among them may still dial in. On a local network all stores have links with
    /// each other, and the addresses say nothing.
    pub peers: BTreeMap<StoreId, PeerAddress>,
    /// Stores that have been declared dead: they are never dialed, and told so when they dial in.
    pub fenced: BTreeSet<StoreId>,
    /// The directory that this store runs in.
    pub birth: Birth,
    /// Who remembers in which directories other stores run; `None`: nobody, and all are let in.
    pub births: Option<Arc<dyn Births>>,
    /// How many append lanes to send on, 1 to [`APPEND_LANES_MAX`](crate::APPEND_LANES_MAX).
    pub append_lanes: usize,
    /// The newest version of the wire format to speak, 1 to [`WIRE_VERSION`]: less makes a store as good as one of an earlier release
    /// at the wire, for tests of upgrades. Not used on a local network.
    pub wire_version_max: u16,
    /// What a frame may hold. Must be the same on all stores.
    pub limits: Limits,
    /// How much may wait.
    pub queues: QueueConfig,
    /// How connections are kept. Not used on a local network.
    pub link: LinkConfig,
    /// How snapshots travel.
    pub snapshots: SnapshotConfig,
}

impl TransportConfig {
    /// The defaults, over QUIC, with nobody to talk to.
    #[must_use]
    pub fn new(cluster: ClusterId, store: StoreId, incarnation: Incarnation, listen: SocketAddr, tls: Tls) -> Self {
        Self::over(Network::Quic { listen, tls }, cluster, store, incarnation)
    }

    /// The defaults, with whoever is on `network`.
    #[must_use]
    pub fn local(cluster: ClusterId, store: StoreId, incarnation: Incarnation, network: LocalNetwork) -> Self {
        Self::over(Network::Local(network), cluster, store, incarnation)
    }

    /// The defaults, over any network.
    #[must_use]
    pub fn over(network: Network, cluster: ClusterId, store: StoreId, incarnation: Incarnation) -> Self {
        Self {
            cluster,
            store,
            incarnation,
            network,
            peers: BTreeMap::new(),
            fenced: BTreeSet::new(),
            birth: Birth::default(),
            births: None,
            append_lanes: 2,
            wire_version_max: WIRE_VERSION,
            limits: Limits::default(),
            queues: QueueConfig::default(),
            link: LinkConfig::default(),
            snapshots: SnapshotConfig::default(),
        }
    }
}

/// How much may wait for the network or for the handler, for each peer, in bytes: of the wire for what is to be sent over QUIC, else
/// of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// In each append lane, to be sent.
    pub append_send_bytes: usize,
    /// In the control lane, to be sent.
    pub control_send_bytes: usize,
    /// In the liveness lane, to be sent.
    pub liveness_send_bytes: usize,
    /// Received on the append lanes (an equal part for each) and not yet given back by the handler.
    pub append_receive_bytes: usize,
    /// Received on the control lane and not yet given back.
    pub control_receive_bytes: usize,
    /// Received on the liveness lane and not yet given back.
    pub liveness_receive_bytes: usize,
    /// A frame is closed and the next begun when it has reached this length, so that the other end need not wait for
    /// many megabytes before it sees the first message.
    pub frame_target_bytes: usize,
}

impl QueueConfig {
    /// How much may wait in a lane to be sent.
    pub(crate) fn send_bytes(&self, lane: Lane) -> usize {
        match lane {
            Lane::Liveness => self.liveness_send_bytes,
            Lane::Control => self.control_send_bytes,
            Lane::Append(_) => self.append_send_bytes,
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            append_send_bytes: 16 << 20,
            control_send_bytes: 4 << 20,
            liveness_send_bytes: 4 << 20,
            append_receive_bytes: 64 << 20,
            control_receive_bytes: 16 << 20,
            liveness_receive_bytes: 16 << 20,
            frame_target_bytes: 1 << 20,
        }
    }
}

/// How connections are made and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Without a packet for so long, a connection is given up.
    pub idle_timeout: Duration,
    /// How often a quiet connection says something.
    pub keep_alive: Duration,
    /// From the first packet to the link's being up.
    pub handshake_timeout: Duration,
    /// The pause after the first failed dial; doubles with each further one, with jitter.
    pub backoff_min: Duration,
    /// The longest pause between dials.
    pub backoff_max: Duration,
    /// The send and receive buffer of the socket; smaller ones lose packets in bursts.
    pub socket_buffer_bytes: usize,
    /// The size of packets to a loopback address (1200 to 8900); elsewhere the path's is discovered from 1200 up.
    pub loopback_mtu: u16,
    /// How much may be on its way before the first acknowledgement: large, because stores share fast networks.
    pub initial_window_bytes: u64,
    /// How much a lane may have on its way, or received by QUIC and not yet read. Not more than a quarter of the socket's buffer: what
    /// all lanes of all peers send at once has to fit in there, or packets are lost and the connection slows down. Not less than
    /// the path carries in a round trip, where that is long.
    pub lane_window_bytes: u32,
    /// The most peers that may be known at a time, the uninvited included.
    pub peers_max: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_millis(250),
            handshake_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            socket_buffer_bytes: 4 << 20,
            loopback_mtu: 6500,
            initial_window_bytes: 1 << 20,
            lane_window_bytes: 1 << 20,
            peers_max: 1024,
        }
    }
}

/// How snapshots travel: below everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// How fast this store sends snapshots, all of them together; zero: as fast as it goes.
    pub bytes_per_second: u64,
    /// How fast this store reads snapshots that peers send, all of them together; zero: as fast as they come.
    pub receive_bytes_per_second: u64,
    /// How much of one snapshot may be on its way. What is on its way delays small messages behind it.
    pub window_bytes: usize,
    /// How many snapshots a peer may be sending to this store at a time.
    pub streams_max: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { bytes_per_second: 64 << 20, receive_bytes_per_second: 0, window_bytes: 128 << 10, streams_max: 8 }
    }
}
