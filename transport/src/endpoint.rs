//! The socket and the QUIC settings.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime, ServerConfig, TokioRuntime,
    TransportConfig as QuicConfig, VarInt, congestion::CubicConfig,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{LinkConfig, Tls, TransportConfig, lane::lane_count, peer::streams_max, socket::Joining};

/// The longest packet on a path that is not a loopback: Ethernet's, less IPv6 and UDP headers.
const ETHERNET_MTU: u16 = 1452;

/// What a round trip is taken to be before one was measured: a lost first packet is sent again after three of these.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(100);

/// How much a snapshot stream counts for in the connection's receive window, beyond what its sender keeps on its way.
const SNAPSHOT_SLACK: u64 = 64 << 10;

/// Binds the UDP socket. Its buffers are made large: with the system's defaults a burst loses packets.
pub(crate) fn bind(listen: SocketAddr, link: &LinkConfig) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The system may give less than asked for, or refuse: worth a word, not a failure.
    let wanted = link.socket_buffer_bytes;
    let asked = socket.set_recv_buffer_size(wanted).and_then(|()| socket.set_send_buffer_size(wanted));
    let given = socket.recv_buffer_size().unwrap_or(0);
    if asked.is_err() || given < wanted {
        tracing::warn!(
            wanted,
            given,
            "the UDP socket's buffers are smaller than wanted, bursts will lose packets: raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// Makes the endpoint that listens and dials. To be called inside the runtime.
pub(crate) fn open(config: &TransportConfig, tls: &Tls, socket: UdpSocket) -> io::Result<Endpoint> {
    let mut endpoint = EndpointConfig::default();
    let datagram_max = config.link.loopback_mtu.max(ETHERNET_MTU);
    endpoint.max_udp_payload_size(datagram_max).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let socket = Joining::new(TokioRuntime.wrap_udp_socket(socket)?, datagram_max);
    let server = server(config, tls, false);
    Endpoint::new_with_abstract_socket(endpoint, Some(server), Arc::new(socket), Arc::new(TokioRuntime))
}

/// How to dial `address`.
pub(crate) fn client(config: &TransportConfig, tls: &Tls, address: IpAddr) -> ClientConfig {
    let mut client = ClientConfig::new(tls.client(config.wire_version_max));
    client.transport_config(Arc::new(quic(config, address.is_loopback())));
    client
}

/// How to answer whoever dials, from a loopback address or not.
pub(crate) fn server(config: &TransportConfig, tls: &Tls, is_loopback: bool) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(tls.server(config.wire_version_max));
    server.transport_config(Arc::new(quic(config, is_loopback)));
    // A store stays where it is; one that moves dials anew.
    server.migration(false);
    server
}

fn quic(config: &TransportConfig, is_loopback: bool) -> QuicConfig {
    let (link, snapshots) = (&config.link, &config.snapshots);
    let lane_window = u64::from(link.lane_window_bytes);
    // Wide enough for all streams' windows at once: then a lane that nobody reads fills its own window, and never the
    // connection's.
    let snapshot_window = u64::from(snapshots.streams_max) * (snapshots.window_bytes as u64 + SNAPSHOT_SLACK);
    let lanes = lane_count(crate::APPEND_LANES_MAX) as u64;
    let window = (lane_window * lanes + snapshot_window).min(VarInt::MAX.into_inner());
    let mut congestion = CubicConfig::default();
    congestion.initial_window(link.initial_window_bytes);
    let mut quic = QuicConfig::default();
    quic.max_idle_timeout(IdleTimeout::try_from(link.idle_timeout).ok())
        .initial_rtt(INITIAL_ROUND_TRIP)
        .keep_alive_interval(Some(link.keep_alive))
        .max_concurrent_uni_streams(streams_max().into())
        // One more: the greeting's.
        .max_concurrent_bidi_streams((snapshots.streams_max + 1).into())
        .stream_receive_window(link.lane_window_bytes.into())
        .receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX))
        .send_window(window)
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(congestion));
    let mut discovery = MtuDiscoveryConfig::default();
    if is_loopback {
        quic.initial_mtu(link.loopback_mtu);
        discovery.upper_bound(link.loopback_mtu);
    } else {
        discovery.upper_bound(ETHERNET_MTU);
    }
    quic.mtu_discovery_config(Some(discovery));
    quic
}
