//! The public handle: one thread with one single-threaded runtime that runs all links.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use multiraft_raft::StoreId;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    APPEND_LANES_MAX, DownReason, Handler, Lane, PeerAddress, PeerMessage, PeerStatus, SnapshotError, SnapshotHeader,
    SnapshotSender, Tls, TlsError, TooLarge, TransportConfig, accept, endpoint, link::CloseCode, peer::Peer,
    queue::Put, shared::Shared, snapshot,
};

/// How long a stopping transport waits for its last packets to get out.
const FAREWELL: Duration = Duration::from_millis(150);

/// The links of one store to all others.
///
/// All methods may be called from any thread. Dropping it shuts it down.
pub struct Transport {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    local_addr: SocketAddr,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("store", &self.shared.config.store)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address cannot be had.
    #[error("cannot listen on {address} (UDP): {source}; choose another address or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate is not this store's.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting makes no sense.
    #[error("{setting} is {value}: {rule}")]
    Config {
        /// Which.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// The system refused a thread, a socket or the like.
    #[error("cannot start the link thread: {0}")]
    System(#[from] io::Error),
}

/// Why messages were not queued. Nothing of them will be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane is full; [`Handler::on_lane_ready`] tells when it no longer is.
    #[error("the lane is full: wait for it to be ready")]
    Full,
    /// There is no link to the peer at present; [`Handler::on_link`] tells when there is.
    #[error("there is no link to the peer: wait until it is up")]
    NotConnected,
    /// Nobody has named that peer, and it has not dialed in.
    #[error("the peer is not known: add its address")]
    UnknownPeer,
    /// There are not so many append lanes.
    #[error("there is no {0} lane: raise the number of append lanes")]
    UnknownLane(Lane),
    /// One of the messages fits into no frame.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl Transport {
    /// Binds the socket and starts the link thread. When it returns, the store can be dialed.
    ///
    /// # Errors
    /// The address is taken, the certificate is not this store's, a setting makes no sense.
    pub fn start(config: TransportConfig, handler: Arc<dyn Handler>) -> Result<Self, TransportError> {
        check(&config)?;
        config.tls.verify_own(config.store)?;
        let bind_error = |source| TransportError::Bind { address: config.listen, source };
        let socket = endpoint::bind(config.listen, &config.link).map_err(bind_error)?;
        let local_addr = socket.local_addr().map_err(bind_error)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint = {
            let _inside = runtime.enter();
            endpoint::open(&config, socket)?
        };
        let peers = config.peers.clone();
        let shared = Arc::new(Shared::new(config, handler, endpoint, runtime.handle().clone()));
        let transport = {
            let name = format!("multiraft-link-{}", shared.config.store);
            let inside = Arc::clone(&shared);
            let thread = thread::Builder::new().name(name).spawn(move || run(runtime, &inside))?;
            Self { shared, thread: Mutex::new(Some(thread)), local_addr }
        };
        for (id, address) in peers {
            transport.add_peer(id, address);
        }
        Ok(transport)
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Queues `messages` for `peer`: all of them or none, in this order, after what is queued already. Encodes them at
    /// once; never waits for the network.
    ///
    /// Queued is not delivered: what is queued when the link goes down is lost.
    ///
    /// # Errors
    /// Nothing was queued, and why.
    ///
    /// # Panics
    /// If the entries of an append are not consecutive.
    pub fn send(&self, peer: StoreId, lane: Lane, messages: &[PeerMessage]) -> Result<(), SendError> {
        let limits = &self.shared.config.limits;
        let peer = self.shared.peer(peer).ok_or(SendError::UnknownPeer)?;
        let lane = peer.lane(lane).ok_or(SendError::UnknownLane(lane))?;
        messages.iter().try_for_each(|message| limits.admit(message))?;
        let put = lane.queue().put(messages, limits);
        match put {
            Put::Queued { wake } => {
                if wake {
                    lane.wake.notify_one();
                }
                Ok(())
            }
            Put::Full => Err(SendError::Full),
            Put::Closed => Err(SendError::NotConnected),
        }
    }

    /// Begins to send a snapshot over the present link.
    ///
    /// # Errors
    /// There is no link.
    pub fn open_snapshot(&self, peer: StoreId, header: SnapshotHeader) -> Result<SnapshotSender, SnapshotError> {
        let found = self.shared.peer(peer).ok_or(SnapshotError::NotConnected(peer))?;
        snapshot::open(&self.shared, &found, header)
    }

    /// Keeps a link to `peer` from now on, at `address`; changes the address if the peer is known. One that was declared dead is
    /// left alone. False: there are too
    /// many peers, see [`LinkConfig::peers_max`](crate::LinkConfig::peers_max).
    pub fn add_peer(&self, peer: StoreId, address: impl Into<PeerAddress>) -> bool {
        if peer == self.shared.config.store || self.shared.config.fenced.contains(&peer) {
            return true;
        }
        let Some(peer) = self.shared.name_peer(peer, address.into()) else { return false };
        peer.changed.notify_one();
        true
    }

    /// Changes where `peer` is dialed. A link that is up stays up.
    pub fn set_peer_address(&self, peer: StoreId, address: impl Into<PeerAddress>) -> bool {
        self.add_peer(peer, address)
    }

    /// Closes the link to `peer` and dials it no more. It is unknown once its link is down; if it dials in after that, it is let
    /// in like any store of the cluster.
    pub fn remove_peer(&self, peer: StoreId) {
        if let Some(peer) = self.shared.peer(peer) {
            {
                let mut state = peer.state();
                state.address = None;
                state.is_removed = true;
            }
            close(&peer, "the peer was removed");
            peer.changed.notify_one();
        }
    }

    /// Uses other certificates from the next connection on, without disturbing those that are up: for certificates that
    /// are about to expire.
    ///
    /// # Errors
    /// The certificate is not this store's.
    pub fn set_tls(&self, tls: Tls) -> Result<(), TlsError> {
        tls.verify_own(self.shared.config.store)?;
        self.shared.set_tls(tls);
        Ok(())
    }

    /// Closes the present connection to `peer`; it is dialed anew. For tests and operators.
    pub fn disconnect(&self, peer: StoreId) {
        if let Some(peer) = self.shared.peer(peer) {
            close(&peer, "closed on request");
        }
    }

    /// All known peers, in the order of their ids.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.peers().values().map(|peer| PeerStatus::of(peer, APPEND_LANES_MAX)).collect()
    }

    /// Closes all links, tells the peers, ends the link thread; frees the address; takes some 150 ms. Doing it again does nothing.
    /// Called from a handler, it does not wait for the thread that it runs on.
    pub fn shutdown(&self) {
        self.shared.begin_stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic on that thread was reported there.
            let _ = thread.join();
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn close(peer: &Peer, reason: &str) {
    if let Some(link) = &peer.state().link {
        CloseCode::Requested.close(&link.connection, reason);
    }
}

/// The link thread.
fn run(runtime: Runtime, shared: &Arc<Shared>) {
    runtime.block_on(async {
        if let Some(endpoint) = shared.endpoint() {
            tokio::spawn(accept::accept(Arc::clone(shared), endpoint));
        }
        shared.stop.notified().await;
        for peer in shared.peers().values() {
            let session = peer.state().link.as_ref().map(|link| link.session);
            if let Some(session) = session {
                shared.retire(peer, session, DownReason::Shutdown);
            }
        }
        let Some(endpoint) = shared.take_endpoint() else { return };
        endpoint.close(CloseCode::Shutdown.number(), b"this store is shutting down");
        // Past that, peers find out by their idle timeout.
        let _ = timeout(FAREWELL, endpoint.wait_idle()).await;
    });
    // Name look-ups under way have threads of their own: they are not waited for.
    runtime.shutdown_background();
}

fn check(config: &TransportConfig) -> Result<(), TransportError> {
    let rule = |holds: bool, setting, value: String, rule: String| {
        if holds { Ok(()) } else { Err(TransportError::Config { setting, value, rule }) }
    };
    let (link, queues, limits) = (&config.link, &config.queues, &config.limits);
    let lanes = config.append_lanes;
    rule(config.store.0 != 0, "store", "0".to_owned(), "zero names no store".to_owned())?;
    rule(
        (1..=APPEND_LANES_MAX).contains(&lanes),
        "append_lanes",
        lanes.to_string(),
        format!("must be 1 to {APPEND_LANES_MAX}"),
    )?;
    rule(
        (1200..=8900).contains(&link.loopback_mtu),
        "link.loopback_mtu",
        link.loopback_mtu.to_string(),
        "must be 1200 to 8900".to_owned(),
    )?;
    rule(
        link.keep_alive < link.idle_timeout / 2 && link.idle_timeout < Duration::from_secs(600),
        "link.keep_alive",
        format!("{:?}", link.keep_alive),
        format!("must be below half of the idle timeout ({:?}), and that below ten minutes", link.idle_timeout),
    )?;
    rule(
        (1 << 10..=1 << 30).contains(&limits.frame_bytes_max),
        "limits.frame_bytes_max",
        limits.frame_bytes_max.to_string(),
        "must be 1 KiB to 1 GiB".to_owned(),
    )?;
    rule(
        queues.append_receive_bytes / lanes >= queues.frame_target_bytes,
        "queues.append_receive_bytes",
        queues.append_receive_bytes.to_string(),
        format!("must be at least {} for each append lane", queues.frame_target_bytes),
    )?;
    rule(
        snapshot::window_is_wide_enough(config.snapshots.window_bytes),
        "snapshots.window_bytes",
        config.snapshots.window_bytes.to_string(),
        "must be at least 16 KiB".to_owned(),
    )
}
