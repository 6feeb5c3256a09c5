//! The links over QUIC: one thread with one single-threaded runtime that runs all of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use multiraft_raft::StoreId;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    DownReason, Handler, Lane, PeerAddress, PeerMessage, PeerStatus, SendError, SnapshotError, SnapshotHeader,
    SnapshotSender, Tls, TlsError, TransportConfig, TransportError, accept, endpoint, link::CloseCode, peer::Peer,
    queue::Put, shared::Shared, snapshot, transport::LinkThread,
};

/// How long a stopping transport waits for its last packets to get out.
const FAREWELL: Duration = Duration::from_millis(150);

/// The links of one store to all others, over QUIC. What its methods promise is said at [`Transport`](crate::Transport).
pub(crate) struct QuicLinks {
    shared: Arc<Shared>,
    thread: LinkThread,
    local_addr: SocketAddr,
}

impl QuicLinks {
    pub(crate) fn start(
        config: TransportConfig,
        (listen, tls): (SocketAddr, Tls),
        handler: Arc<dyn Handler>,
    ) -> Result<Self, TransportError> {
        tls.verify_own(config.store)?;
        let bind_error = |source| TransportError::Bind { address: listen, source };
        let socket = endpoint::bind(listen, &config.link).map_err(bind_error)?;
        let local_addr = socket.local_addr().map_err(bind_error)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint = {
            let _inside = runtime.enter();
            endpoint::open(&config, &tls, socket)?
        };
        let peers = config.peers.clone();
        let endpoint = (endpoint, listen.is_ipv6());
        let shared = Arc::new(Shared::new(config, tls, handler, endpoint, runtime.handle().clone()));
        let inside = Arc::clone(&shared);
        let thread = LinkThread::start(shared.config.store, move || run(runtime, &inside))?;
        let links = Self { shared, thread, local_addr };
        for (id, address) in peers {
            links.add_peer(id, address);
        }
        Ok(links)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(crate) fn wire_version_max(&self) -> u16 {
        self.shared.config.wire_version_max
    }

    pub(crate) fn send(&self, peer: StoreId, lane: Lane, messages: &[PeerMessage]) -> Result<(), SendError> {
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

    pub(crate) fn open_snapshot(&self, peer: StoreId, header: SnapshotHeader) -> Result<SnapshotSender, SnapshotError> {
        let found = self.shared.peer(peer).ok_or(SnapshotError::NotConnected(peer))?;
        snapshot::open(&self.shared, &found, header)
    }

    pub(crate) fn add_peer(&self, peer: StoreId, address: PeerAddress) -> bool {
        if peer == self.shared.config.store || self.shared.config.fenced.contains(&peer) {
            return true;
        }
        let Some(peer) = self.shared.name_peer(peer, address) else { return false };
        peer.changed.notify_one();
        true
    }

    pub(crate) fn remove_peer(&self, peer: StoreId) {
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

    pub(crate) fn set_tls(&self, tls: Tls) -> Result<(), TlsError> {
        tls.verify_own(self.shared.config.store)?;
        self.shared.set_tls(tls);
        Ok(())
    }

    pub(crate) fn disconnect(&self, peer: StoreId) {
        if let Some(peer) = self.shared.peer(peer) {
            close(&peer, "closed on request");
        }
    }

    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        self.shared.peers().values().map(|peer| PeerStatus::of(peer)).collect()
    }

    pub(crate) fn shutdown(&self) {
        self.shared.begin_stop();
        self.thread.join();
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
