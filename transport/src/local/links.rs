//! One store's side of a local network: its link thread, and what it holds for each other store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use multiraft_raft::StoreId;
use rustc_hash::FxHashMap;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Notify, mpsc},
    task::{JoinError, JoinSet, yield_now},
};

use super::{
    LocalNetwork,
    queue::Put,
    snapshot::{self, Incoming},
    wire::Wire,
};
use crate::{
    APPEND_LANES_MAX, DownReason, Handler, Lane, LaneStatus, LinkEvent, LinkStatus, PeerMessage, PeerStatus, Permit,
    ReceivedFrame, SendError, SnapshotError, SnapshotHeader, SnapshotSender, TransportConfig, TransportError,
    WIRE_VERSION, footprint,
    metrics::{LaneMetrics, PeerMetrics},
    peer::Budget,
    snapshot::Throttle,
    transport::LinkThread,
};

/// The links of one store to all others on a local network. What its methods promise is said at
/// [`Transport`](crate::Transport).
pub(crate) struct LocalLinks {
    node: Arc<Node>,
    thread: LinkThread,
}

/// A store on the network.
pub(super) struct Node {
    pub(super) config: TransportConfig,
    pub(super) network: LocalNetwork,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) runtime: Handle,
    /// For snapshots that leave.
    pub(super) throttle: Throttle,
    /// For snapshots that come in.
    pub(super) receive_throttle: Throttle,
    peers: RwLock<FxHashMap<StoreId, Arc<Peer>>>,
    stop: Notify,
}

/// Another store, as this one knows it. Outlives links.
pub(super) struct Peer {
    id: StoreId,
    /// By [`Lane::index`]; as many as this store sends on.
    sent: Vec<LaneMetrics>,
    /// By [`Lane::index`]; as many as any peer may send on.
    budgets: Vec<Budget>,
    pub(super) metrics: PeerMetrics,
    /// The link, and which of its ends is here. Changed by the link thread alone.
    link: Mutex<Option<(Arc<Wire>, usize)>>,
}

impl LocalLinks {
    pub(crate) fn start(
        config: TransportConfig,
        network: LocalNetwork,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, TransportError> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let node = Arc::new(Node {
            throttle: Throttle::new(config.snapshots.bytes_per_second),
            receive_throttle: Throttle::new(config.snapshots.receive_bytes_per_second),
            config,
            network,
            handler,
            runtime: runtime.handle().clone(),
            peers: RwLock::default(),
            stop: Notify::new(),
        });
        for peer in node.config.peers.keys().filter(|peer| **peer != node.config.store) {
            node.peer_or_new(*peer);
        }
        // Before there is a thread, which would have to be ended if the place is taken.
        node.network.join(&node)?;
        let inside = Arc::clone(&node);
        match LinkThread::start(node.config.store, move || run(runtime, &inside)) {
            Ok(thread) => Ok(Self { node, thread }),
            Err(error) => {
                node.network.leave(&node);
                node.network.let_go(&node);
                Err(error.into())
            }
        }
    }

    /// Empties `messages` if they were queued.
    pub(crate) fn send(&self, peer: StoreId, lane: Lane, messages: &mut Vec<PeerMessage>) -> Result<(), SendError> {
        let config = &self.node.config;
        let peer = self.node.peer(peer).ok_or(SendError::UnknownPeer)?;
        if lane.index() >= peer.sent.len() {
            return Err(SendError::UnknownLane(lane));
        }
        messages.iter().try_for_each(|message| config.limits.admit(message))?;
        let bytes = footprint(messages);
        let Some((wire, side)) = peer.link().clone() else { return Err(SendError::NotConnected) };
        let out = &wire.ends[side].out[lane.index()];
        let put = out.queue().put(messages, bytes);
        match put {
            Put::Queued { wake } => {
                if wake {
                    out.wake.notify_one();
                }
                Ok(())
            }
            Put::Full => Err(SendError::Full),
            Put::Closed => Err(SendError::NotConnected),
        }
    }

    pub(crate) fn open_snapshot(&self, peer: StoreId, header: SnapshotHeader) -> Result<SnapshotSender, SnapshotError> {
        let link = self.node.peer(peer).and_then(|peer| peer.link().clone());
        let (wire, side) = link.ok_or(SnapshotError::NotConnected(peer))?;
        snapshot::open(&wire, side, header)
    }

    pub(crate) fn add_peer(&self, peer: StoreId) {
        let config = &self.node.config;
        if peer != config.store && !config.fenced.contains(&peer) {
            self.node.network.rejoin(config.store, peer);
            self.node.peer_or_new(peer);
        }
    }

    pub(crate) fn remove_peer(&self, peer: StoreId) {
        if self.node.peer(peer).is_some() {
            self.node.network.part(&self.node, peer);
        }
    }

    pub(crate) fn disconnect(&self, peer: StoreId) {
        let link = self.node.peer(peer).and_then(|peer| peer.link().clone());
        if let Some((wire, _)) = link {
            wire.close(self.node.config.store, DownReason::Requested);
        }
    }

    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        self.node.peers().values().map(|peer| peer.status()).collect()
    }

    pub(crate) fn shutdown(&self) {
        self.node.network.leave(&self.node);
        self.node.stop.notify_one();
        self.thread.join();
    }
}

impl Node {
    fn peer(&self, id: StoreId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(Arc::clone)
    }

    /// All peers, in the order of their ids.
    fn peers(&self) -> BTreeMap<StoreId, Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(&id, peer)| (id, Arc::clone(peer))).collect()
    }

    pub(super) fn peer_or_new(&self, id: StoreId) -> Arc<Peer> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(peers.entry(id).or_insert_with(|| Arc::new(Peer::new(id, &self.config))))
    }

    /// Forgets a peer that has no link. To be called while the network makes none.
    pub(super) fn forget(&self, id: StoreId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.get(&id).is_some_and(|peer| peer.link().is_none()) {
            peers.remove(&id);
        }
    }
}

impl Peer {
    fn new(id: StoreId, config: &TransportConfig) -> Self {
        Self {
            id,
            sent: Lane::all(config.append_lanes).map(|lane| LaneMetrics::sent(id, lane)).collect(),
            budgets: Budget::all(id, config.append_lanes, &config.queues),
            metrics: PeerMetrics::new(id),
            link: Mutex::default(),
        }
    }

    fn budget(&self, lane: Lane) -> &Budget {
        &self.budgets[lane.index()]
    }

    fn link(&self) -> MutexGuard<'_, Option<(Arc<Wire>, usize)>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> PeerStatus {
        let link = self.link().clone();
        let queued = |lane: Lane| link.as_ref().map_or(0, |(wire, side)| wire.ends[*side].queued_bytes(lane));
        let lanes = Lane::all(APPEND_LANES_MAX).zip(&self.sent);
        PeerStatus {
            store: self.id,
            address: None,
            link: link.as_ref().map(|(wire, side)| LinkStatus {
                session: wire.number,
                incarnation: wire.ends[1 - side].node.config.incarnation,
                version: WIRE_VERSION,
                round_trip: Duration::ZERO,
                lost_packets: 0,
                mtu: 0,
            }),
            connections: self.metrics.connections.get(),
            dial_failures: self.metrics.dial_failures.get(),
            packets_sent: 0,
            sent: lanes.map(|(lane, metrics)| LaneStatus::of(lane, metrics, queued(lane))).collect(),
            received: LaneStatus::received(&self.budgets),
            snapshot_bytes_sent: self.metrics.snapshot_bytes_sent.get(),
            snapshot_bytes_received: self.metrics.snapshot_bytes_received.get(),
        }
    }
}

/// The link thread.
fn run(runtime: Runtime, node: &Arc<Node>) {
    // Also after a handler that panics.
    let _gone = Gone(Arc::clone(node));
    runtime.block_on(async {
        node.stop.notified().await;
        for peer in node.peers().values() {
            let link = peer.link().clone();
            if let Some((wire, side)) = link {
                retire(&wire, side, DownReason::Shutdown);
            }
        }
    });
}

/// Dropped when the link thread has ended.
struct Gone(Arc<Node>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.network.let_go(&self.0);
    }
}

/// Takes `wire` as the link, at this side of it.
pub(super) async fn adopt(wire: Arc<Wire>, side: usize, incoming: mpsc::Receiver<Incoming>) {
    let (own, theirs) = (&wire.ends[side], &wire.ends[1 - side]);
    if wire.down_reason(side).is_some() {
        own.node.network.on_over(&wire, side);
        return;
    }
    let (peer, incarnation) = (&own.peer, theirs.node.config.incarnation);
    *peer.link() = Some((Arc::clone(&wire), side));
    peer.metrics.connections.add(1);
    peer.metrics.is_up.set(1.0);
    tracing::info!(peer = %peer.id, %incarnation, "link is up");
    tokio::spawn(tend(Arc::clone(&wire), side, incoming));
    // Last, so that a handler that panics leaves a link that is tended. The task runs after this returns.
    own.node.handler.on_link(peer.id, LinkEvent::Up { incarnation, session: wire.number });
}

/// Ends the link, if it is still the one.
fn retire(wire: &Arc<Wire>, side: usize, reason: DownReason) {
    let own = &wire.ends[side];
    if own.peer.link().take_if(|(held, _)| held.number == wire.number).is_none() {
        return;
    }
    wire.close(own.node.config.store, reason.clone());
    own.peer.metrics.is_up.set(0.0);
    let peer = own.peer.id;
    if matches!(reason, DownReason::Internal(_)) {
        tracing::warn!(%peer, %reason, "link is down");
    } else {
        tracing::info!(%peer, %reason, "link is down");
    }
    // The next link comes up in a task, after this returns.
    own.node.network.on_over(wire, side);
    own.node.handler.on_link(peer, LinkEvent::Down { session: wire.number, reason });
}

/// Runs the link until it ends, then retires it.
async fn tend(wire: Arc<Wire>, side: usize, incoming: mpsc::Receiver<Incoming>) {
    let reason = run_link(&wire, side, incoming).await;
    retire(&wire, side, reason);
}

/// The tasks end with the set, at the latest when this returns.
async fn run_link(wire: &Arc<Wire>, side: usize, mut incoming: mpsc::Receiver<Incoming>) -> DownReason {
    let (own, theirs) = (&wire.ends[side], &wire.ends[1 - side]);
    let mut tasks = JoinSet::new();
    for lane in Lane::all(theirs.node.config.append_lanes) {
        tasks.spawn(read_lane(Arc::clone(wire), side, lane));
    }
    loop {
        tokio::select! {
            () = own.told.notified() => {
                if let Some(reason) = wire.down_reason(side) {
                    return reason;
                }
                for lane in own.take_ready() {
                    let wire = Arc::clone(wire);
                    tasks.spawn(async move {
                        let own = &wire.ends[side];
                        own.node.handler.on_lane_ready(own.peer.id, lane);
                    });
                }
            }
            Some(incoming) = incoming.recv() => {
                tasks.spawn(snapshot::carry(Arc::clone(wire), side, incoming));
            }
            Some(ended) = tasks.join_next() => {
                if let Some(reason) = consequence(ended) {
                    return reason;
                }
            }
        }
    }
}

/// What the end of a task means for the link: something only if a handler has panicked in it.
fn consequence(ended: Result<(), JoinError>) -> Option<DownReason> {
    ended.err().filter(|error| !error.is_cancelled()).map(|error| DownReason::Internal(error.to_string()))
}

/// Delivers what the peer sends on a lane, but only as fast as the handler gives memory back.
async fn read_lane(wire: Arc<Wire>, side: usize, lane: Lane) {
    let (own, theirs) = (&wire.ends[side], &wire.ends[1 - side]);
    let (out, sent, budget) = (&theirs.out[lane.index()], &theirs.peer.sent[lane.index()], own.peer.budget(lane));
    let from = own.peer.id;
    let mut is_first = true;
    loop {
        let taken = out.queue().take();
        sent.queued.set(taken.queued_bytes as f64);
        if taken.is_ready {
            theirs.tell_ready(lane);
        }
        let Some(frame) = taken.frame else {
            out.wake.notified().await;
            is_first = true;
            continue;
        };
        if !is_first {
            // The other lanes' turn.
            yield_now().await;
        }
        is_first = false;
        let permit = Permit::new(budget.acquire(frame.bytes).await);
        sent.frame(frame.messages.len(), frame.bytes);
        budget.on_frame(frame.messages.len(), frame.bytes);
        let frame = ReceivedFrame { from, session: wire.number, lane, messages: frame.messages, permit };
        own.node.handler.on_frame(frame);
    }
}
