//! Three real stores in one process: real sockets, real files, real certificates.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod recovering;
pub mod relay;
pub mod wired;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::{
    ApplyContext, Bootstrap, Builder, Config, Engine, KeyRange, LocalNetwork, RegionView, StateError, StateKind,
    StateMachine, StateTxn, StoreId, Tls,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A map: `P key value` sets, `A key value` appends, `D key` removes, anything else is refused. A query is a key, or
/// [`keys`].
pub struct Map;

pub fn put(key: &str, value: &str) -> Bytes {
    format!("P\0{key}\0{value}").into()
}

pub fn append(key: &str, value: &str) -> Bytes {
    format!("A\0{key}\0{value}").into()
}

pub fn remove(key: &str) -> Bytes {
    format!("D\0{key}\0").into()
}

/// The query for the first keys of a range, each in a line.
pub fn keys(range: &KeyRange, limit: usize) -> Bytes {
    let mut query = b"S\n".to_vec();
    for part in [&range.start[..], b"\n", &range.end, b"\n", limit.to_string().as_bytes()] {
        query.extend_from_slice(part);
    }
    query.into()
}

impl StateMachine for Map {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let mut parts = command.splitn(3, |byte| *byte == 0);
        let (Some(verb), Some(key), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
            return Ok(Bytes::from_static(b"malformed"));
        };
        if verb == b"D" {
            return Ok(state
                .delete(key)
                .map_or_else(|outside| outside.to_string().into(), |()| Bytes::from_static(b"ok")));
        }
        let mut new = match verb {
            b"P" => Vec::new(),
            _ => state.get(key)?.unwrap_or_default().to_vec(),
        };
        new.extend_from_slice(value);
        Ok(match state.put(key, new) {
            Ok(()) => Bytes::from_static(b"ok"),
            Err(outside) => Bytes::from(outside.to_string()),
        })
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        let mut parts = query.split(|byte| *byte == b'\n');
        if let (Some(b"S"), Some(start), Some(end), Some(limit)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            let limit = String::from_utf8_lossy(limit).parse().unwrap();
            let keys: Vec<String> = view
                .scan(start, end, limit)?
                .into_iter()
                .map(|(key, _)| String::from_utf8_lossy(&key).into_owned())
                .collect();
            return Ok(keys.join("\n").into());
        }
        Ok(view.get(query)?.unwrap_or_default())
    }
}

/// What the stores of a cluster have in common.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    ca: String,
    identities: Vec<(String, String)>,
    pub boundaries: Vec<Bytes>,
    /// How many of the stores the first regions are on; the others start empty.
    pub bootstrapped: u64,
    pub kind: StateKind,
    pub config: Config,
    /// Other ways from a store to another than straight to its address.
    pub routes: BTreeMap<(u64, u64), SocketAddr>,
    /// What the stores are on instead of QUIC.
    pub local: Option<LocalNetwork>,
}

impl Cluster {
    pub fn new(stores: u64, regions: usize) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let identity = |store: u64| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![format!("store-{store}.multiraft")]).unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        // Bound together, so that they differ; given back before the stores take them.
        let sockets: Vec<UdpSocket> = (0..stores).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut config = Config::default();
        config.workers = 2;
        // For machines that are busy with something else.
        config.request_timeout = Duration::from_secs(20);
        config.log_segment_bytes = 1 << 20;
        config.raft.heartbeat_interval = Duration::from_millis(50);
        config.raft.election_timeout_min = Duration::from_millis(500);
        config.raft.election_timeout_max = Duration::from_millis(1000);
        Self {
            dir: tempfile::tempdir().unwrap(),
            addresses: sockets.iter().map(|socket| socket.local_addr().unwrap()).collect(),
            ca,
            identities: (1..=stores).map(identity).collect(),
            boundaries: (1..regions).map(|n| Bytes::from(format!("key{:03}", n * 1000 / regions))).collect(),
            bootstrapped: stores,
            kind: StateKind::Memory,
            config,
            routes: BTreeMap::new(),
            local: None,
        }
    }

    pub fn address(&self, store: u64) -> SocketAddr {
        self.addresses[store as usize - 1]
    }

    pub fn data_dir(&self, store: u64) -> PathBuf {
        self.dir.path().join(store.to_string())
    }

    /// Changes the first byte of `value` in the log of a store that is down.
    pub fn damage_log(&self, store: u64, value: &[u8]) {
        let segments = std::fs::read_dir(self.data_dir(store).join("log")).unwrap();
        for segment in segments.map(|entry| entry.unwrap().path()) {
            let mut bytes = std::fs::read(&segment).unwrap();
            if let Some(at) = bytes.windows(value.len()).position(|found| found == value) {
                bytes[at] ^= 0xff;
                return std::fs::write(&segment, bytes).unwrap();
            }
        }
        panic!("the log does not hold the value");
    }

    pub fn tls(&self, store: u64) -> Tls {
        let (certificate, key) = &self.identities[store as usize - 1];
        Tls::from_pem(self.ca.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    pub fn stores(&self) -> Vec<StoreId> {
        (1..=self.addresses.len() as u64).map(StoreId).collect()
    }

    pub fn builder(&self, store: u64) -> Builder {
        let mut builder = Engine::builder()
            .store(StoreId(store))
            .data_dir(self.data_dir(store))
            .state(self.kind.clone())
            .config(self.config.clone());
        if store <= self.bootstrapped {
            let stores = (1..=self.bootstrapped).map(StoreId).collect();
            builder = builder.bootstrap(Bootstrap { boundaries: self.boundaries.clone(), stores });
        }
        if let Some(network) = &self.local {
            return builder.local_network(network.clone());
        }
        builder = builder.listen(self.addresses[store as usize - 1]).tls(self.tls(store));
        for (peer, address) in self.stores().into_iter().zip(&self.addresses) {
            builder = builder.peer(peer, *self.routes.get(&(store, peer.0)).unwrap_or(address));
        }
        builder
    }

    pub async fn start(&self, store: u64) -> Engine {
        self.builder(store).state_machine(Map).start().await.unwrap()
    }

    pub async fn start_all(&self) -> Vec<Engine> {
        let mut engines = Vec::new();
        for store in self.stores() {
            engines.push(self.start(store.0).await);
        }
        engines
    }
}

/// Asks again until the answer is yes; fails the test after `limit`.
pub async fn eventually<F: Future<Output = bool>>(limit: Duration, what: &str, mut ask: impl FnMut() -> F) {
    let start = Instant::now();
    while !ask().await {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
