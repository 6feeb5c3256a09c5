//! A peer made by hand: QUIC and TLS as they should be, bytes as the test wants them.

use std::{net::SocketAddr, sync::Arc};

use multiraft_raft::{Incarnation, StoreId};
use multiraft_transport::store_dns_name;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, TokioRuntime, crypto::rustls::QuicClientConfig,
};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use tokio::runtime::{Builder, Runtime};

use super::{Authority, CLUSTER, PATIENCE};

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
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (endpoint, connection) = runtime.block_on(async {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
            let mut config = EndpointConfig::default();
            // As large as the other side's packets on a loopback.
            config.max_udp_payload_size(9000).expect("allowed");
            let endpoint = Endpoint::new(config, None, socket, Arc::new(TokioRuntime)).expect("an endpoint");
            let client = client_config(authority, name);
            let connecting = endpoint.connect_with(client, address, &store_dns_name(server)).expect("dials");
            let connection = connecting.await.expect("connects");
            (endpoint, connection)
        });
        Self { runtime, connection, _endpoint: endpoint }
    }

    /// Sends a hello and reads the answer. The stream stays open in both directions.
    pub(crate) fn greet(&self, hello: &[u8]) -> Result<(quinn::SendStream, quinn::RecvStream), ConnectionError> {
        self.runtime.block_on(async {
            let (mut send, mut recv) = self.connection.open_bi().await?;
            let mut answer = [0; super::HELLO_BYTES];
            if send.write_all(hello).await.is_err() || recv.read_exact(&mut answer).await.is_err() {
                return Err(self.connection.closed().await);
            }
            Ok((send, recv))
        })
    }

    /// Waits until the other side has closed, and tells why.
    pub(crate) fn closed(&self) -> String {
        let closed = async { tokio::time::timeout(PATIENCE, self.connection.closed()).await };
        match self.runtime.block_on(closed).expect("closed in time") {
            ConnectionError::ApplicationClosed(close) => {
                format!("{}: {}", close.error_code, String::from_utf8_lossy(&close.reason))
            }
            other => other.to_string(),
        }
    }
}

/// A hello of wire version 1, spelled out.
pub(crate) fn hello(store: u64, incarnation: Incarnation) -> Vec<u8> {
    let mut hello = b"MRFT\x02\x00".to_vec();
    hello.extend_from_slice(&CLUSTER.0.to_le_bytes());
    hello.extend_from_slice(&store.to_le_bytes());
    hello.extend_from_slice(&incarnation.0.to_le_bytes());
    hello.push(2); // append lanes
    hello.extend_from_slice(&[0; 16]); // no link was given up
    hello.extend_from_slice(&(16_u32 << 20).to_le_bytes());
    hello.extend_from_slice(&[0; 9]); // of no known birth
    assert_eq!(hello.len(), super::HELLO_BYTES);
    hello
}

fn client_config(authority: &Authority, name: &str) -> ClientConfig {
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
    tls.alpn_protocols = vec![b"multiraft/1".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("AES-128-GCM")))
}
