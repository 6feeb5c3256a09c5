//! Three stores in one process, for trying things out: real sockets, files and certificates, on loopback.
//!
//! A real deployment runs one store a machine and is given its certificates; the calls on [`Builder`] are the same.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::{Bootstrap, Builder, Config, Engine, StoreId, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// How many stores a cluster has.
pub const STORES: usize = 3;
/// How long a region may take to get a leader.
const LEADERS_WITHIN: Duration = Duration::from_secs(30);

/// What starting and stopping may meet; these programs have nothing to do about it but to report it.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Gives a store its state machine. The directory is for the machine's own files; it survives restarts of the store.
type Equip = Box<dyn Fn(Builder, &Path) -> Builder + Send + Sync>;

/// Three stores, some of which may be stopped.
pub struct Cluster {
    engines: Vec<Option<Engine>>,
    addresses: Vec<SocketAddr>,
    authority: String,
    /// Of each store: its certificate and key.
    identities: Vec<(String, String)>,
    boundaries: Vec<Bytes>,
    equip: Equip,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts all stores, with the key space cut at `boundaries`, and waits until every region has a leader.
    ///
    /// # Errors
    /// Certificates, directories or sockets could not be made, or a store did not start.
    pub async fn start(
        boundaries: impl IntoIterator<Item = Bytes>,
        equip: impl Fn(Builder, &Path) -> Builder + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let (authority, identities) = certificates()?;
        let mut cluster = Self {
            engines: vec![None; STORES],
            addresses: free_addresses()?,
            authority,
            identities,
            boundaries: boundaries.into_iter().collect(),
            equip: Box::new(equip),
            dir: tempfile::tempdir()?,
        };
        for store in 1..=STORES {
            cluster.start_store(store).await?;
        }
        cluster.wait_for_leaders().await?;
        Ok(cluster)
    }

    /// A running store's engine.
    ///
    /// # Panics
    /// The store does not run.
    #[must_use]
    pub fn engine(&self, store: usize) -> &Engine {
        self.engines[store - 1].as_ref().expect("the store runs")
    }

    /// Starts a store that does not run, on what its directory holds.
    ///
    /// # Errors
    /// It did not start.
    pub async fn start_store(&mut self, store: usize) -> Result<(), Failure> {
        let dir = self.dir.path().join(store.to_string());
        let own_files = dir.join("machine");
        std::fs::create_dir_all(&own_files)?;
        let id = |number: usize| StoreId(number as u64);
        let (certificate, key) = &self.identities[store - 1];
        // Small files and quick elections: this is a toy's cluster.
        let mut config = Config::default();
        config.workers = 1;
        config.log_segment_bytes = 1 << 20;
        config.raft.heartbeat_interval = Duration::from_millis(50);
        config.raft.election_timeout_min = Duration::from_millis(500);
        config.raft.election_timeout_max = Duration::from_millis(1000);
        let mut builder = Engine::builder()
            .store(id(store))
            .data_dir(dir.join("data"))
            .listen(self.addresses[store - 1])
            .tls(Tls::from_pem(self.authority.as_bytes(), certificate.as_bytes(), key.as_bytes())?)
            .bootstrap(Bootstrap { boundaries: self.boundaries.clone(), stores: (1..=STORES).map(id).collect() })
            .config(config);
        for peer in (1..=STORES).filter(|peer| *peer != store) {
            builder = builder.peer(id(peer), self.addresses[peer - 1]);
        }
        self.engines[store - 1] = Some((self.equip)(builder, &own_files).start().await?);
        Ok(())
    }

    /// Stops a store. The others go on.
    pub async fn stop_store(&mut self, store: usize) {
        if let Some(engine) = self.engines[store - 1].take() {
            engine.shutdown().await;
        }
    }

    /// Stops all stores; their files go when the cluster is dropped.
    pub async fn stop(&mut self) {
        for store in 1..=STORES {
            self.stop_store(store).await;
        }
    }

    /// Waits until every running store knows a leader of each region.
    ///
    /// # Errors
    /// That did not happen in half a minute.
    pub async fn wait_for_leaders(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + LEADERS_WITHIN;
        for engine in self.engines.iter().flatten() {
            while engine.status().await.regions.iter().any(|region| region.leader.is_none()) {
                if Instant::now() > deadline {
                    return Err(format!("regions on store {} have no leader", engine.store()).into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}

/// An authority, and for each store a certificate that names it with its key.
fn certificates() -> Result<(String, Vec<(String, String)>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let identity = |store: usize| {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![format!("store-{store}.multiraft")])?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let identities = (1..=STORES).map(identity).collect::<Result<_, rcgen::Error>>()?;
    Ok((authority, identities))
}

/// Addresses that are free at this moment: bound together, so that they differ, and given back.
fn free_addresses() -> std::io::Result<Vec<SocketAddr>> {
    let sockets: Vec<UdpSocket> =
        (0..STORES).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    sockets.iter().map(UdpSocket::local_addr).collect()
}
