//! What the tasks on the link thread and the callers' threads have in common, and the two steps that change who is
//! connected: a connection is adopted, a link is retired.
//!
//! Both run on the link thread only and never wait, so the events they report come once each and in order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use multiraft_raft::{Incarnation, StoreId};
use quinn::{Connection, Endpoint};
use rustc_hash::FxHashMap;
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    DownReason, Handler, LinkEvent, PeerAddress, Tls, TransportConfig,
    link::{CloseCode, Hello, LinkName, tend},
    peer::{Link, Peer, PeerState},
    snapshot::Throttle,
};

/// The transport's inside.
pub(crate) struct Shared {
    pub(crate) config: TransportConfig,
    /// Whether it listens on an address of IPv6.
    pub(crate) is_v6: bool,
    /// For the connections to come.
    tls: RwLock<Tls>,
    pub(crate) handler: Arc<dyn Handler>,
    /// `None` once it is closed: the socket goes with the last use of it.
    endpoint: Mutex<Option<Endpoint>>,
    pub(crate) runtime: Handle,
    /// For snapshots that leave.
    pub(crate) throttle: Throttle,
    /// For snapshots that come in.
    pub(crate) receive_throttle: Throttle,
    peers: RwLock<FxHashMap<StoreId, Arc<Peer>>>,
    sessions: AtomicU64,
    link_numbers: AtomicU64,
    is_stopping: AtomicBool,
    pub(crate) stop: Notify,
}

impl Shared {
    pub(crate) fn new(
        config: TransportConfig,
        tls: Tls,
        handler: Arc<dyn Handler>,
        (endpoint, is_v6): (Endpoint, bool),
        runtime: Handle,
    ) -> Self {
        let throttle = Throttle::new(config.snapshots.bytes_per_second);
        let receive_throttle = Throttle::new(config.snapshots.receive_bytes_per_second);
        Self {
            tls: RwLock::new(tls),
            is_v6,
            config,
            handler,
            endpoint: Mutex::new(Some(endpoint)),
            runtime,
            throttle,
            receive_throttle,
            peers: RwLock::default(),
            sessions: AtomicU64::new(0),
            link_numbers: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            stop: Notify::new(),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    pub(crate) fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.stop.notify_one();
    }

    pub(crate) fn tls(&self) -> Tls {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_tls(&self, tls: Tls) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// The endpoint, unless it was closed.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The endpoint, for the last time.
    pub(crate) fn take_endpoint(&self) -> Option<Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn peer(&self, id: StoreId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(Arc::clone)
    }

    /// All peers, in the order of their ids.
    pub(crate) fn peers(&self) -> BTreeMap<StoreId, Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(&id, peer)| (id, Arc::clone(peer))).collect()
    }

    /// The peer with this id, made if need be; `None` if there are too many.
    pub(crate) fn peer_or_new(self: &Arc<Self>, id: StoreId) -> Option<Arc<Peer>> {
        self.with_peer_or_new(id, |_| {})
    }

    /// Names a peer's address; what was removed is wanted again. `None` if there are too many peers.
    pub(crate) fn name_peer(self: &Arc<Self>, id: StoreId, address: PeerAddress) -> Option<Arc<Peer>> {
        self.with_peer_or_new(id, |state| {
            state.address = Some(address);
            state.is_removed = false;
        })
    }

    /// Changes the peer while the table is locked, so that [`Shared::forget`] comes before or after it, not between.
    fn with_peer_or_new(self: &Arc<Self>, id: StoreId, change: impl FnOnce(&mut PeerState)) -> Option<Arc<Peer>> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&id) {
            change(&mut peer.state());
            return Some(Arc::clone(peer));
        }
        if peers.len() >= self.config.link.peers_max {
            return None;
        }
        let peer = Arc::new(Peer::new(id, self.config.append_lanes, &self.config.queues));
        change(&mut peer.state());
        peers.insert(id, Arc::clone(&peer));
        crate::dial::spawn(self, &peer);
        Some(peer)
    }

    /// Forgets a peer that was removed and has no link any more. False: it is needed still, or again.
    pub(crate) fn forget(&self, peer: &Arc<Peer>) -> bool {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let state = peer.state();
        if !state.is_removed || state.link.is_some() {
            return false;
        }
        peers.remove(&peer.id);
        true
    }

    /// Whether this store decides which connection to `peer` is the link: see `link::arbiter`.
    pub(crate) fn is_arbiter(&self, peer: StoreId) -> bool {
        self.config.store < peer
    }

    /// The name for the next link that this store, as the arbiter, chooses.
    pub(crate) fn next_link_name(&self) -> LinkName {
        let number = self.link_numbers.fetch_add(1, Ordering::Relaxed) + 1;
        LinkName { incarnation: self.config.incarnation, number }
    }

    /// Makes `connection` the link to `peer`, in the place of the one there was. False: this store is stopping.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        connection: Connection,
        hello: &Hello,
        name: LinkName,
    ) -> bool {
        if self.is_stopping() {
            return false;
        }
        let replaced = peer.state().link.as_ref().map(|link| link.session);
        if let Some(session) = replaced {
            self.retire(peer, session, DownReason::Replaced);
        }
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let incarnation: Incarnation = hello.incarnation;
        let link =
            Link { session, name, incarnation, version: hello.version, connection: connection.clone(), task: None };
        {
            let mut state = peer.state();
            state.link = Some(link);
            state.last_name = name;
            state.newest = state.newest.max(incarnation);
        }
        peer.open_lanes(session, hello.version);
        peer.metrics.connections.add(1);
        peer.metrics.is_up.set(1.0);
        tracing::info!(peer = %peer.id, %incarnation, wire = hello.version, address = %connection.remote_address(), "link is up");
        let task = self.runtime.spawn(tend(Arc::clone(self), Arc::clone(peer), connection, session, *hello));
        if let Some(link) = &mut peer.state().link {
            link.task = Some(task.abort_handle());
        }
        peer.changed.notify_one();
        // Last, so that a handler that panics leaves a link that is tended. The task runs after this returns.
        self.handler.on_link(peer.id, LinkEvent::Up { incarnation, session });
        true
    }

    /// Ends the link of `session`, if it is still the one; closes its connection.
    pub(crate) fn retire(&self, peer: &Peer, session: u64, reason: DownReason) {
        let link = {
            let mut state = peer.state();
            let link = state.link.take_if(|link| link.session == session);
            let Some(link) = link else { return };
            state.packets_sent_before += link.packets_sent();
            link
        };
        peer.close_lanes();
        let code = match reason {
            DownReason::Replaced => CloseCode::Replaced,
            DownReason::Shutdown => CloseCode::Shutdown,
            DownReason::Violation(_) => CloseCode::Malformed,
            DownReason::Internal(_) => CloseCode::Internal,
            _ => CloseCode::Requested,
        };
        code.close(&link.connection, &reason.to_string());
        if let Some(task) = link.task {
            task.abort();
        }
        peer.metrics.is_up.set(0.0);
        if matches!(reason, DownReason::Violation(_) | DownReason::Internal(_)) {
            tracing::warn!(peer = %peer.id, %reason, "link is down");
        } else {
            tracing::info!(peer = %peer.id, %reason, "link is down");
        }
        peer.changed.notify_one();
        self.handler.on_link(peer.id, LinkEvent::Down { session, reason });
    }
}
