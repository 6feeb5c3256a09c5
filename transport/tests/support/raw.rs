//! A peer made by hand: QUIC and TLS as they should be, bytes as the test wants them. By itself it speaks wire version 1, as the
//! release did that had no other.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use multiraft_raft::{Incarnation, StoreId};
use multiraft_transport::store_dns_name;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig,
    TokioRuntime,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use tokio::runtime::{Builder, Runtime};

use super::{Authority, CLUSTER, PATIENCE};

/// What version 1 calls itself in the handshake of TLS.
const PROTOCOL_1: &str = "multiraft/1";

/// A client without a store around it.
pub(crate) struct RawPeer {
    pub(crate) runtime: Runtime,
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

impl RawPeer {
    /// Dials `server` with a certificate of `store`.
    pub(crate) fn dial(authority: &Authority, store: u64, server: StoreId, address: SocketAddr) -> Self {
        Self::dial_as(authority, &store_dns_name(StoreId(store)), server, address)
    }

    /// Dials `server` with a certificate for `name`.
    pub(crate) fn dial_as(authority: &Authority, name: &str, server: StoreId, address: SocketAddr) -> Self {
        Self::dial_in(authority, name, server, address, &[PROTOCOL_1]).expect("connects")
    }

    /// The same for one that names these protocols.
    pub(crate) fn dial_in(
        authority: &Authority,
        name: &str,
        server: StoreId,
        address: SocketAddr,
        protocols: &[&str],
    ) -> Result<Self, ConnectionError> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = endpoint(None);
            let client = client_config(authority, name, protocols);
            let connecting = endpoint.connect_with(client, address, &store_dns_name(server)).expect("dials");
            let connection = connecting.await;
            (endpoint, connection)
        });
        Ok(Self { runtime, connection: connection?, _endpoint: endpoint })
    }

    /// The protocol that the other side has chosen.
    pub(crate) fn protocol(&self) -> String {
        let data = self.connection.handshake_data().expect("connected").downcast::<HandshakeData>().expect("of rustls");
        String::from_utf8(data.protocol.expect("there is one")).expect("a name")
    }

    /// Sends a hello and reads the answer, which is of the same version. The stream stays open in both directions.
    pub(crate) fn greet(&self, hello: &[u8]) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.runtime.block_on(async {
            let (mut send, mut recv) = self.connection.open_bi().await?;
            let mut answer = vec![0; hello.len()];
            if send.write_all(hello).await.is_err() || recv.read_exact(&mut answer).await.is_err() {
                return Err(self.connection.closed().await);
            }
            assert_eq!(answer[..6], hello[..6]);
            Ok((send, recv))
        })
    }

    /// Waits until the other side has closed, and tells why.
    pub(crate) fn closed(&self) -> String {
        closed(&self.runtime, &self.connection)
    }
}

fn closed(runtime: &Runtime, connection: &Connection) -> String {
    let closed = async { tokio::time::timeout(PATIENCE, connection.closed()).await };
    match runtime.block_on(closed).expect("closed in time") {
        ConnectionError::ApplicationClosed(close) => {
            format!("{}: {}", close.error_code, String::from_utf8_lossy(&close.reason))
        }
        other => other.to_string(),
    }
}

/// A server without a store around it. It answers as version 1 did.
pub(crate) struct RawServer {
    runtime: Runtime,
    endpoint: Endpoint,
    store: u64,
    /// What it answers.
    pub(crate) hello: Vec<u8>,
}

/// Who has dialed a [`RawServer`].
pub(crate) struct Dialed {
    pub(crate) connection: Connection,
    /// All that it has said before it was answered.
    pub(crate) hello: Vec<u8>,
    _greeting: (SendStream, RecvStream),
}

impl RawServer {
    pub(crate) fn start(authority: &Authority, store: u64) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let endpoint = runtime.block_on(async { endpoint(Some(server_config(authority, store))) });
        Self { runtime, endpoint, store, hello: hello(store, Incarnation(1)) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("bound")
    }

    /// Answers the next one that dials; if it has the lower number of the two, it takes the connection for the link. `Err`: what it was
    /// refused with, since it speaks another version.
    pub(crate) fn answer(&self) -> Result<Dialed, String> {
        let answering = async {
            let connection = self.endpoint.accept().await.expect("open").await.expect("connects");
            let (mut send, mut recv) = connection.accept_bi().await.expect("a greeting");
            let mut hello = vec![0; 6];
            recv.read_exact(&mut hello).await.expect("a head");
            if hello != b"MRFT\x01\x00" {
                let version = u16::from_le_bytes([hello[4], hello[5]]);
                let reason =
                    format!("wire version {version} where this store speaks 1: run the same release on all stores");
                connection.close(5_u8.into(), reason.as_bytes());
                return Err(reason);
            }
            hello.resize(super::HELLO_BYTES, 0);
            recv.read_exact(&mut hello[6..]).await.expect("a hello");
            send.write_all(&self.hello).await.expect("answered");
            let dialer = u64::from_le_bytes(hello[22..30].try_into().expect("8 bytes"));
            if self.store < dialer {
                name_link(&mut send).await;
            } else {
                recv.read_exact(&mut [0; 8]).await.expect("a name");
            }
            Ok(Dialed { connection, hello, _greeting: (send, recv) })
        };
        let answered = async { tokio::time::timeout(PATIENCE, answering).await };
        self.runtime.block_on(answered).expect("dialed in time")
    }

    /// How the other side closes.
    pub(crate) fn closed(&self, dialed: &Dialed) -> String {
        closed(&self.runtime, &dialed.connection)
    }

    /// The next frame on a lane that has not been read before.
    pub(crate) fn frame(&self, dialed: &Dialed, lane: u8) -> Vec<u8> {
        let reading = async {
            loop {
                let mut stream = dialed.connection.accept_uni().await.expect("a lane");
                let mut found = [0];
                stream.read_exact(&mut found).await.expect("its number");
                if found == [lane] {
                    let mut length = [0; 4];
                    stream.read_exact(&mut length).await.expect("a length");
                    let mut body = vec![0; u32::from_le_bytes(length) as usize];
                    stream.read_exact(&mut body).await.expect("a frame");
                    return body;
                }
            }
        };
        let read = async { tokio::time::timeout(PATIENCE, reading).await };
        self.runtime.block_on(read).expect("sent in time")
    }
}

/// Names the first link, and waits until that has arrived: nothing runs here while the test waits for something else.
pub(crate) async fn name_link(send: &mut SendStream) {
    send.write_all(&1_u64.to_le_bytes()).await.expect("written");
    send.finish().expect("open");
    send.stopped().await.expect("arrived");
}

/// A hello of wire version 1, spelled out.
pub(crate) fn hello(store: u64, incarnation: Incarnation) -> Vec<u8> {
    let mut hello = b"MRFT\x01\x00".to_vec();
    hello.extend_from_slice(&CLUSTER.0.to_le_bytes());
    hello.extend_from_slice(&store.to_le_bytes());
    hello.extend_from_slice(&incarnation.0.to_le_bytes());
    hello.push(2); // append lanes
    hello.extend_from_slice(&[0; 16]); // no link was given up
    hello.extend_from_slice(&(16_u32 << 20).to_le_bytes());
    assert_eq!(hello.len(), super::HELLO_BYTES);
    hello
}

/// One of version 2, with these flags.
pub(crate) fn hello_of_2(store: u64, incarnation: Incarnation, birth: u64, flags: u8) -> Vec<u8> {
    let mut hello = hello(store, incarnation);
    hello[4] = 2;
    hello.extend_from_slice(&birth.to_le_bytes());
    hello.push(flags);
    hello
}

/// To be called inside a runtime.
fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut config = EndpointConfig::default();
    // As large as the other side's packets on a loopback.
    config.max_udp_payload_size(9000).expect("allowed");
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}

fn server_config(authority: &Authority, store: u64) -> ServerConfig {
    let (certificate, key) = authority.certify(StoreId(store));
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    tls.alpn_protocols = vec![PROTOCOL_1.into()];
    ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).expect("AES-128-GCM")))
}

fn client_config(authority: &Authority, name: &str, protocols: &[&str]) -> ClientConfig {
    let (certificate, key) = authority.certify_name(name);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a root");
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .expect("a pair");
    tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("AES-128-GCM")))
}
