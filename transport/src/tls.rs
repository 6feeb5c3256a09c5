//! Who may talk: mutual TLS 1.3, and the store id bound to the certificate.
//!
//! Every store has a certificate of the cluster's own authority with the DNS name `store-<id>.multiraft`. The dialing
//! side lets TLS check the name of who answers; the answering side checks the name of who dialed once that side has
//! said which store it is ([`Tls::verify_store`]). Keys never reach a log: no type here shows one.

use std::{fmt, fs, io, path::Path, sync::Arc};

use multiraft_raft::StoreId;
use quinn::{
    Connection,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    client::{Resumption, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};

use crate::{WIRE_VERSION, codec::WIRE_VERSION_MIN};

/// How many choices of the newest version to speak there are.
const VERSIONS: usize = (WIRE_VERSION - WIRE_VERSION_MIN) as usize + 1;

/// The DNS name that the certificate of `store` must carry.
#[must_use]
pub fn store_dns_name(store: StoreId) -> String {
    format!("store-{}.multiraft", store.0)
}

/// A store's certificate and key, and the authority whose certificates it trusts.
#[derive(Clone)]
pub struct Tls {
    /// By the newest version of the wire format that is offered.
    client: [Arc<QuicClientConfig>; VERSIONS],
    server: [Arc<QuicServerConfig>; VERSIONS],
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why certificates or a key are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} file {path}: {source}; check that it is there and readable by this user")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no PEM of the right kind.
    #[error("no {what} found in {origin}: {detail}; expected PEM that begins with {expected}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// The file, or "the given bytes".
        origin: String,
        /// What is wrong.
        detail: String,
        /// The PEM header that should be there.
        expected: &'static str,
    },
    /// The authority's certificate is of no use as a root.
    #[error("the CA certificate is not accepted: {0}; it must be an X.509 v3 certificate that may sign others")]
    Authority(String),
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error(
        "certificate and key are not accepted: {0}; check that the key is the certificate's own (ECDSA, Ed25519 or RSA)"
    )]
    Identity(rustls::Error),
    /// The certificate is another store's.
    #[error("the certificate is not for store {store}: it must carry the DNS name {name} ({detail})")]
    WrongStore {
        /// The store that it should be for.
        store: StoreId,
        /// The name it should carry.
        name: String,
        /// What it does carry.
        detail: String,
    },
}

/// Where PEM came from, for errors.
struct Source<'a> {
    what: &'static str,
    origin: String,
    pem: &'a [u8],
}

impl Tls {
    /// Reads the authority's certificate(s), this store's certificate (with intermediates, if any) and its key.
    ///
    /// # Errors
    /// A file cannot be read or holds something else; the error names the file.
    pub fn from_pem_files(
        ca: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let read = |what: &'static str, path: &Path| {
            fs::read(path).map_err(|source| TlsError::Read { what, path: path.display().to_string(), source })
        };
        let (ca, certificate, key) = (ca.as_ref(), certificate.as_ref(), key.as_ref());
        let pem = (read("CA certificate", ca)?, read("certificate", certificate)?, read("private key", key)?);
        let source = |what, path: &Path, pem| Source { what, origin: path.display().to_string(), pem };
        Self::from_sources(
            &source("CA certificate", ca, &pem.0),
            &source("certificate", certificate, &pem.1),
            &source("private key", key, &pem.2),
        )
    }

    /// The same from PEM in memory.
    ///
    /// # Errors
    /// One of them holds something else.
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let source = |what, pem| Source { what, origin: "the given bytes".to_owned(), pem };
        Self::from_sources(
            &source("CA certificate", ca),
            &source("certificate", certificate),
            &source("private key", key),
        )
    }

    fn from_sources(ca: &Source<'_>, certificate: &Source<'_>, key: &Source<'_>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|error| TlsError::Authority(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(certificate)?;
        let end_entity = chain[0].clone();
        let key = PrivateKeyDer::from_pem_slice(key.pem).map_err(|error| TlsError::Pem {
            what: key.what,
            origin: key.origin.clone(),
            detail: error.to_string(),
            expected: "-----BEGIN PRIVATE KEY-----",
        })?;
        let provider = Arc::new(provider());
        let client = client_config(&provider, &roots, chain.clone(), key.clone_key())?;
        let server = server_config(&provider, roots, chain, key)?;
        Ok(Self {
            client: for_each_version(|alpn_protocols| {
                let mut client = client.clone();
                client.alpn_protocols = alpn_protocols;
                Arc::new(QuicClientConfig::try_from(client).expect("the provider has AES-128-GCM"))
            }),
            server: for_each_version(|alpn_protocols| {
                let mut server = server.clone();
                server.alpn_protocols = alpn_protocols;
                Arc::new(QuicServerConfig::try_from(server).expect("the provider has AES-128-GCM"))
            }),
            certificate: end_entity,
        })
    }

    /// Checks that this store's own certificate is `store`'s: better told at the start than by every peer.
    pub(crate) fn verify_own(&self, store: StoreId) -> Result<(), TlsError> {
        Self::verify_store(&self.certificate, store).map_err(|detail| TlsError::WrongStore {
            store,
            name: store_dns_name(store),
            detail,
        })
    }

    /// Checks that a certificate, already known to be of the cluster's authority, is `store`'s.
    pub(crate) fn verify_store(certificate: &CertificateDer<'_>, store: StoreId) -> Result<(), String> {
        // A wildcard could stand for one whole label only, `*.multiraft`, and the check takes none so close to the root.
        let name = ServerName::try_from(store_dns_name(store)).map_err(|error| error.to_string())?;
        let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
        verify_server_name(&parsed, &name).map_err(|error| error.to_string())
    }

    /// For a store that speaks versions up to `newest`.
    pub(crate) fn client(&self, newest: u16) -> Arc<QuicClientConfig> {
        Arc::clone(&self.client[usize::from(newest - WIRE_VERSION_MIN)])
    }

    /// As for [`Tls::client`].
    pub(crate) fn server(&self, newest: u16) -> Arc<QuicServerConfig> {
        Arc::clone(&self.server[usize::from(newest - WIRE_VERSION_MIN)])
    }
}

/// The protocol name that stands for a version.
fn protocol(version: u16) -> Vec<u8> {
    format!("multiraft/{version}").into_bytes()
}

/// What `make` makes of the protocol names of all versions up to each, the newest first: the answering side takes the first that the
/// dialing side has too.
fn for_each_version<T>(make: impl Fn(Vec<Vec<u8>>) -> T) -> [T; VERSIONS] {
    std::array::from_fn(|at| {
        let versions: Vec<u16> = (WIRE_VERSION_MIN..=WIRE_VERSION).take(at + 1).collect();
        make(versions.into_iter().rev().map(protocol).collect())
    })
}

/// The newest version that both ends speak, as the handshake of TLS has found.
pub(crate) fn agreed_version(connection: &Connection) -> u16 {
    let found = connection.handshake_data().and_then(|any| any.downcast::<HandshakeData>().ok());
    let name = found.and_then(|data| data.protocol);
    (WIRE_VERSION_MIN..=WIRE_VERSION).rfind(|version| name == Some(protocol(*version))).unwrap_or(WIRE_VERSION_MIN)
}

fn certificates(source: &Source<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |detail: String| TlsError::Pem {
        what: source.what,
        origin: source.origin.clone(),
        detail,
        expected: "-----BEGIN CERTIFICATE-----",
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(source.pem).collect();
    let found = found.map_err(|error| bad(error.to_string()))?;
    if found.is_empty() { Err(bad("there is none".to_owned())) } else { Ok(found) }
}

/// ring, TLS 1.3 suites only, AES-128-GCM first: the fastest of them where the processor has AES, and as strong as
/// the links need.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ClientConfig, TlsError> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Identity)?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Identity)?;
    // Each link proves anew who is at its ends: no session is ever resumed.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Identity)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}
