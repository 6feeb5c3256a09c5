//! What quinn does on one connection over loopback: bytes, and round trips. Two threads, each with an endpoint, as two stores
//! would have; packets as long as stores use there.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use multiraft_transport::LinkConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime, VarInt,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use socket2::Socket;

use crate::clients::latencies;
use crate::cluster::Problem;

const NAME: &str = "limits.multiraft";
/// How much may be under way. With more the socket's buffers overflow and packets are lost, with less nothing is sent while an
/// answer is on its way; where that is depends on the machine.
const WINDOWS: [u32; 3] = [128 << 10, 256 << 10, 1 << 20];
/// What is written to a stream at once.
const CHUNK: usize = 64 << 10;
/// A message that is sent back: about a write of 16 bytes with what goes with it.
const PING: usize = 64;

/// What came out.
pub(crate) struct Linked {
    /// On one stream, in one direction.
    pub(crate) bytes_per_s: f64,
    /// There and back, in microseconds, one after the other.
    pub(crate) round_trips: Histogram<u64>,
    pub(crate) round_trips_per_s: f64,
}

/// Round trips for some time, then bytes for as long, with each window; what the best does.
pub(crate) fn measure(time: Duration) -> Result<Linked, Problem> {
    let mut best: Option<Linked> = None;
    for window in WINDOWS {
        let linked = measure_with(window, time)?;
        if best.as_ref().is_none_or(|best| linked.bytes_per_s > best.bytes_per_s) {
            best = Some(linked);
        }
    }
    best.ok_or_else(|| Problem::Failed { what: "a connection over loopback".to_owned(), why: "no window".to_owned() })
}

fn measure_with(window: u32, time: Duration) -> Result<Linked, Problem> {
    let failed = |error: String| Problem::Failed { what: "a connection over loopback".to_owned(), why: error };
    let (server, client) = configs(window).map_err(|error| failed(error.to_string()))?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (told, address) = std::sync::mpsc::sync_channel(1);
    let serving = std::thread::spawn(move || -> Result<(), String> {
        let runtime = runtime().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let endpoint = endpoint(Some(server)).map_err(|error| error.to_string())?;
            let _ = told.send(endpoint.local_addr().map_err(|error| error.to_string())?);
            let incoming = endpoint.accept().await.ok_or("nobody dials")?;
            let connection = incoming.await.map_err(|error| error.to_string())?;
            let outcome = serve(&connection).await;
            endpoint.wait_idle().await;
            outcome
        })
    });
    let outcome = (|| {
        let address = address.recv().map_err(|error| error.to_string())?;
        let runtime = runtime().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let mut endpoint = endpoint(None).map_err(|error| error.to_string())?;
            endpoint.set_default_client_config(client);
            let connecting = endpoint.connect(address, NAME).map_err(|error| error.to_string())?;
            let connection = connecting.await.map_err(|error| error.to_string())?;
            let outcome = ask(&connection, time).await;
            connection.close(VarInt::from_u32(0), b"done");
            endpoint.wait_idle().await;
            outcome
        })
    })();
    let served = serving.join().unwrap_or_else(|_| Err("its thread has panicked".to_owned()));
    let linked = outcome.map_err(failed)?;
    served.map_err(failed)?;
    Ok(linked)
}

/// Sends one stream back, then reads another to its end and says how much that was.
async fn serve(connection: &Connection) -> Result<(), String> {
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|error| error.to_string())?;
    let mut ping = [0; PING];
    while receive.read_exact(&mut ping).await.is_ok() {
        send.write_all(&ping).await.map_err(|error| error.to_string())?;
    }
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|error| error.to_string())?;
    let mut count: u64 = 0;
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.map_err(|error| error.to_string())? {
        count += chunk.bytes.len() as u64;
    }
    send.write_all(&count.to_le_bytes()).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    connection.closed().await;
    Ok(())
}

async fn ask(connection: &Connection, time: Duration) -> Result<Linked, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let (mut ping, mut round_trips) = ([7; PING], latencies());
    let begin = Instant::now();
    while begin.elapsed() < time {
        let begun = Instant::now();
        send.write_all(&ping).await.map_err(|error| error.to_string())?;
        receive.read_exact(&mut ping).await.map_err(|error| error.to_string())?;
        round_trips.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let round_trips_per_s = round_trips.len() as f64 / begin.elapsed().as_secs_f64();
    send.finish().map_err(|error| error.to_string())?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let chunk = bytes::Bytes::from(vec![7; CHUNK]);
    let begin = Instant::now();
    while begin.elapsed() < time {
        send.write_chunk(chunk.clone()).await.map_err(|error| error.to_string())?;
    }
    send.finish().map_err(|error| error.to_string())?;
    let mut count = [0; 8];
    // All of it has arrived before the answer comes.
    receive.read_exact(&mut count).await.map_err(|error| error.to_string())?;
    let bytes_per_s = u64::from_le_bytes(count) as f64 / begin.elapsed().as_secs_f64();
    Ok(Linked { bytes_per_s, round_trips, round_trips_per_s })
}

fn endpoint(server: Option<ServerConfig>) -> std::io::Result<Endpoint> {
    let link = LinkConfig::default();
    let socket = Socket::from(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    socket.set_nonblocking(true)?;
    // The system may give less than asked for.
    let _ = socket.set_recv_buffer_size(link.socket_buffer_bytes);
    let _ = socket.set_send_buffer_size(link.socket_buffer_bytes);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(link.loopback_mtu).map_err(std::io::Error::other)?;
    Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))
}

fn configs(window: u32) -> Result<(ServerConfig, ClientConfig), Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?.der().clone();
    let suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() });
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let link = LinkConfig::default();
    let mut quic = quinn::TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(link.loopback_mtu);
    quic.initial_mtu(link.loopback_mtu)
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(window.into())
        .send_window(window.into());
    let quic = Arc::new(quic);
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    server.transport_config(Arc::clone(&quic));
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    client.transport_config(quic);
    Ok((server, client))
}
