//! How a store is put together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{ClusterId, StoreId};
use multiraft_storage::{MemStore, SledConfig, SledStore, StateStore};
use multiraft_transport::{LocalNetwork, Network, PeerAddress, Tls};

use crate::apply::Backend;
use crate::config::Config;
use crate::engine::Engine;
use crate::error::StartError;
use crate::machine::{OwnStateFactory, StateMachine};
use crate::recovery::Recovery;
use crate::rejoin;
use crate::shell::{OpenBackend, StartPlan, start};
use crate::steward::{self, Seat};

/// Where a [`StateMachine`]'s data lives.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum StateKind {
    /// In sled, in the data directory.
    #[default]
    Sled,
    /// In memory; kept durable by the log and by snapshot files.
    Memory,
    /// In a state store of the embedder's.
    Custom(Arc<dyn StateStore>),
}

/// The first regions of a new cluster. Every store of the cluster must be given the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// The keys at which the key space is cut, ascending: N - 1 keys make N regions.
    pub boundaries: Vec<Bytes>,
    /// The stores that hold a replica of every region.
    pub stores: Vec<StoreId>,
}

enum Machine {
    Shared(Arc<dyn StateMachine>),
    Own(Arc<dyn OwnStateFactory>),
}

/// Collects what a store needs, then starts it.
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    cluster: ClusterId,
    store: Option<StoreId>,
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    peers: Vec<(StoreId, PeerAddress)>,
    tls: Option<Tls>,
    local_network: Option<LocalNetwork>,
    machine: Option<Machine>,
    state: StateKind,
    bootstrap: Option<Bootstrap>,
    rejoins: bool,
    seat: Option<Seat>,
    config: Config,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            cluster: ClusterId(1),
            store: None,
            data_dir: None,
            listen: None,
            peers: Vec::new(),
            tls: None,
            local_network: None,
            machine: None,
            state: StateKind::default(),
            bootstrap: None,
            rejoins: false,
            seat: None,
            config: Config::default(),
        }
    }

    /// The cluster that the store belongs to. Stores of other clusters are refused. Default: cluster 1.
    pub fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = cluster;
        self
    }

    /// Which store this is. Must match its certificate and its data directory.
    pub fn store(mut self, store: StoreId) -> Self {
        self.store = Some(store);
        self
    }

    /// Where the store keeps everything; made if it is not there.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Where the store listens for other stores (UDP). Not with [`Builder::local_network`].
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Where another store listens. Call once for each; a store with a [`Seat`] needs only those to begin with through which it
    /// reaches the root region, and learns of the others when it joins. Needless with [`Builder::local_network`].
    pub fn peer(mut self, store: StoreId, address: impl Into<PeerAddress>) -> Self {
        self.peers.push((store, address.into()));
        self
    }

    /// Certificates and key; both ends of every link prove which store they are. Not with [`Builder::local_network`].
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The store's links go to the other stores of this process on the same network, by their ids: no QUIC, no certificates, no
    /// addresses, neither [`Builder::listen`] nor [`Builder::tls`] nor [`Builder::peer`]. For an embedder's tests, and for trying out a
    /// cluster in one process.
    ///
    /// Everything else is as it is between processes: threads, log, flushes, liveness, snapshots, the order and the bounds of what is
    /// sent. Messages are neither encoded nor encrypted, so it does not show what the network costs; and stores that share a process
    /// fail together.
    pub fn local_network(mut self, network: LocalNetwork) -> Self {
        self.local_network = Some(network);
        self
    }

    /// The state machine, on the shared state store.
    pub fn state_machine(mut self, machine: impl StateMachine) -> Self {
        self.machine = Some(Machine::Shared(Arc::new(machine)));
        self
    }

    /// Makes a state machine for each region, which holds its data itself.
    pub fn own_state(mut self, factory: impl OwnStateFactory) -> Self {
        self.machine = Some(Machine::Own(Arc::new(factory)));
        self
    }

    /// Where the data of a [`StateMachine`] lives. Default: sled.
    pub fn state(mut self, state: StateKind) -> Self {
        self.state = state;
        self
    }

    /// The first regions, if the cluster is new. Ignored by a store that has been bootstrapped before.
    pub fn bootstrap(mut self, bootstrap: Bootstrap) -> Self {
        self.bootstrap = Some(bootstrap);
        self
    }

    /// The store has been in the cluster under this number, and has lost its data directory: it begins anew in an empty one. Without
    /// this, stores that remember it refuse it. To be given for one start: with a directory that holds a store, starting fails.
    ///
    /// What it voted for and acknowledged it has forgotten, so **its replicas are lost for good**: to the regions that name them they are
    /// as those of a dead store, until they are replaced ([`Engine::repair_replica`](crate::Engine::repair_replica), or
    /// [`Engine::change_replicas`](crate::Engine::change_replicas); by itself with [`Config::placement`]). Neither has to come before the
    /// start: it is safe at any time. In the background the store asks the root region for ids, and until it has them, which takes a
    /// majority of the root region's other replicas, it holds no replica at all: [`StoreStatus::floor`](crate::StoreStatus::floor) is
    /// [`Floor::Unknown`](crate::Floor::Unknown). It answers callers all the while, by way of the other stores.
    pub fn rejoin(mut self) -> Self {
        self.rejoins = true;
        self
    }

    /// The store's place in its cluster: by itself it joins with that when it is started, see
    /// [`Engine::join`](crate::Engine::join). Default: none; a plain one with [`Config::placement`].
    pub fn seat(mut self, seat: Seat) -> Self {
        self.seat = Some(seat);
        self
    }

    /// Everything else.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Opens the data directory and starts the store. When this returns, the store takes requests; those for regions
    /// without a leader wait for one.
    ///
    /// Best called within the runtime that most callers run in: if that has several threads, a task of it tells callers what came of
    /// their commands. As for all tasks, its threads must not be kept by what blocks; callers in other runtimes are told as well.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub async fn start(self) -> Result<Engine, StartError> {
        #[cfg(feature = "torture")]
        multiraft_storage::plant::announce().map_err(StartError::Config)?;
        let seat = self.seat.clone();
        let named = self.peers.iter().map(|(store, _)| *store).collect();
        let plan = self.plan()?;
        let started = tokio::task::spawn_blocking(move || start(plan)).await;
        let running = started.map_err(|error| StartError::Config(format!("the start was cut short: {error}")))??;
        let engine = Engine::new(running);
        rejoin::start(&engine);
        steward::start(&engine, seat, named);
        Ok(engine)
    }

    /// Instead of a start: the stopped store in the data directory, to be looked at or recovered after the cluster has lost
    /// quorums for good. Needs [`Builder::data_dir`], the machine and where its data lives; which store it is, the directory says.
    ///
    /// # Errors
    /// [`StartError::Config`] if one of them is missing.
    pub fn recovery(self) -> Result<Recovery, StartError> {
        let machine = self.machine.ok_or_else(|| missing("state_machine"))?;
        let dir = self.data_dir.ok_or_else(|| missing("data_dir"))?;
        let backend = open_backend(machine, self.state, self.config.state_cache_bytes);
        Ok(Recovery::new(dir, backend, self.config))
    }

    fn plan(self) -> Result<StartPlan, StartError> {
        let store = self.store.filter(|store| *store != StoreId::ZERO).ok_or_else(|| missing("store"))?;
        let machine = self.machine.ok_or_else(|| missing("state_machine"))?;
        if let Some(bootstrap) = &self.bootstrap {
            check_bootstrap(bootstrap, store)?;
            if self.rejoins {
                let what = "a store that rejoins does not begin a cluster: leave out rejoin or bootstrap";
                return Err(StartError::Config(what.to_owned()));
            }
        }
        let free_bytes_min = match (&machine, &self.state) {
            (Machine::Shared(_), StateKind::Sled) => SledConfig::default().free_bytes_min,
            // All that is known to be written is the log.
            _ => self.config.log_segment_bytes,
        };
        let backend = open_backend(machine, self.state, self.config.state_cache_bytes);
        Ok(StartPlan {
            config: self.config,
            cluster: self.cluster,
            store,
            data_dir: self.data_dir.ok_or_else(|| missing("data_dir"))?,
            network: network(self.listen, self.tls, self.local_network)?,
            peers: self.peers,
            backend,
            free_bytes_min,
            rejoins: self.rejoins,
            bootstrap: self.bootstrap.map(|bootstrap| (bootstrap.boundaries, bootstrap.stores)),
        })
    }
}

/// One of the two ways in which stores reach each other.
fn network(
    listen: Option<SocketAddr>,
    tls: Option<Tls>,
    local_network: Option<LocalNetwork>,
) -> Result<Network, StartError> {
    let Some(network) = local_network else {
        let listen = listen.ok_or_else(|| missing("listen"))?;
        return Ok(Network::Quic { listen, tls: tls.ok_or_else(|| missing("tls"))? });
    };
    if listen.is_some() || tls.is_some() {
        let what = "a store is on a local network or on QUIC: call Builder::local_network, or listen and tls, not both";
        return Err(StartError::Config(what.to_owned()));
    }
    Ok(Network::Local(network))
}

fn missing(what: &str) -> StartError {
    StartError::Config(format!("{what} is missing: call Builder::{what}"))
}

fn open_backend(machine: Machine, state: StateKind, cache_bytes: u64) -> OpenBackend {
    Box::new(move |dir: &Path| match machine {
        Machine::Shared(machine) => Ok(Backend::shared(machine, open_state(state, dir, cache_bytes)?)),
        Machine::Own(factory) => Ok(Backend::own(factory)),
    })
}

fn open_state(kind: StateKind, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn StateStore>, StartError> {
    match kind {
        StateKind::Sled => {
            let mut config = SledConfig::default();
            config.cache_bytes_max = cache_bytes;
            Ok(Arc::new(SledStore::open(dir.join("state"), config)?))
        }
        StateKind::Memory => Ok(Arc::new(MemStore::new())),
        StateKind::Custom(store) => Ok(store),
    }
}

fn check_bootstrap(bootstrap: &Bootstrap, store: StoreId) -> Result<(), StartError> {
    let refuse = |what: &str| Err(StartError::Config(what.to_owned()));
    let mut stores = bootstrap.stores.clone();
    stores.sort_unstable();
    stores.dedup();
    if stores.len() != bootstrap.stores.len() || stores.contains(&StoreId::ZERO) {
        return refuse("Bootstrap::stores names a store twice, or store 0");
    }
    if !stores.contains(&store) {
        return refuse("Bootstrap::stores must name this store");
    }
    let ascends = bootstrap.boundaries.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascends || bootstrap.boundaries.first().is_some_and(Bytes::is_empty) {
        return refuse("Bootstrap::boundaries must ascend, without repetition and without the empty key");
    }
    Ok(())
}
