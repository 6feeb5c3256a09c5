//! What a transport holds for one peer: its lanes, its budgets, its link, its figures.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use multiraft_raft::{Incarnation, StoreId};
use quinn::Connection;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

use crate::{
    APPEND_LANES_MAX, Lane, PeerAddress, QueueConfig,
    lane::lane_count,
    link::{Held, LinkName},
    metrics::{LaneMetrics, PeerMetrics},
    queue::SendQueue,
};

/// One peer. Lanes are used by all threads, the rest is changed by the link thread alone.
pub(crate) struct Peer {
    pub(crate) id: StoreId,
    /// By [`Lane::index`]; as many as this store sends on.
    lanes: Vec<SendLane>,
    /// By [`Lane::index`]; as many as any peer may send on. They outlive connections: so do received messages.
    budgets: Vec<Budget>,
    state: Mutex<PeerState>,
    /// The connection that may deliver; zero while there is none. See [`Peer::is_current`].
    session: AtomicU64,
    /// Something changed that the dialer may want to know: the address, the link, that it is to end.
    pub(crate) changed: Notify,
    pub(crate) metrics: PeerMetrics,
}

/// A lane in the direction of the peer.
pub(crate) struct SendLane {
    pub(crate) lane: Lane,
    queue: Mutex<SendQueue>,
    pub(crate) wake: Notify,
    pub(crate) metrics: LaneMetrics,
}

/// How much may be received on a lane and not yet given back.
pub(crate) struct Budget {
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) bytes: usize,
    pub(crate) metrics: LaneMetrics,
}

/// The link and the way to it.
#[derive(Default)]
pub(crate) struct PeerState {
    /// Where to dial; `None` for a peer that is only answered.
    pub(crate) address: Option<PeerAddress>,
    /// Set once the owner has removed it: it goes when its link is down.
    pub(crate) is_removed: bool,
    pub(crate) link: Option<Link>,
    /// The highest incarnation met.
    pub(crate) newest: Incarnation,
    /// The last link that was adopted, as named by the arbiter.
    pub(crate) last_name: LinkName,
    /// Packets sent on links that have ended.
    pub(crate) packets_sent_before: u64,
}

/// A connection in use.
pub(crate) struct Link {
    pub(crate) session: u64,
    pub(crate) name: LinkName,
    pub(crate) incarnation: Incarnation,
    /// Of the wire format.
    pub(crate) version: u16,
    pub(crate) connection: Connection,
    /// The task that tends it.
    pub(crate) task: Option<AbortHandle>,
}

impl Link {
    /// Packets sent so far, as QUIC counts them.
    pub(crate) fn packets_sent(&self) -> u64 {
        self.connection.stats().udp_tx.datagrams
    }

    pub(crate) fn held(&self) -> Held {
        let is_open = self.connection.close_reason().is_none();
        Held { name: self.name, incarnation: self.incarnation, is_open }
    }
}

impl Peer {
    pub(crate) fn new(id: StoreId, append_lanes: usize, queues: &QueueConfig) -> Self {
        let lanes = Lane::all(append_lanes).map(|lane| SendLane::new(id, lane, queues)).collect();
        let budgets = Budget::all(id, append_lanes, queues);
        Self {
            id,
            lanes,
            budgets,
            state: Mutex::default(),
            session: AtomicU64::new(0),
            changed: Notify::new(),
            metrics: PeerMetrics::new(id),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lanes(&self) -> &[SendLane] {
        &self.lanes
    }

    pub(crate) fn lane(&self, lane: Lane) -> Option<&SendLane> {
        self.lanes.get(lane.index())
    }

    pub(crate) fn budget(&self, lane: Lane) -> &Budget {
        &self.budgets[lane.index()]
    }

    pub(crate) fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// Whether what comes over this connection may still be delivered. Tasks of a connection that is being torn down
    /// run on for a moment; they ask before they hand anything over.
    pub(crate) fn is_current(&self, session: u64) -> bool {
        self.session.load(Ordering::Acquire) == session
    }

    /// Lets `session`, a link of that version, use the lanes.
    pub(crate) fn open_lanes(&self, session: u64, version: u16) {
        self.session.store(session, Ordering::Release);
        for lane in &self.lanes {
            lane.queue().open(session, version);
        }
    }

    /// Lets nobody use them, and drops what waits in them.
    pub(crate) fn close_lanes(&self) {
        self.session.store(0, Ordering::Release);
        for lane in &self.lanes {
            lane.queue().close();
            lane.metrics.queued.set(0.0);
        }
    }
}

impl SendLane {
    fn new(peer: StoreId, lane: Lane, queues: &QueueConfig) -> Self {
        Self {
            lane,
            queue: Mutex::new(SendQueue::new(queues.send_bytes(lane), queues.frame_target_bytes)),
            wake: Notify::new(),
            metrics: LaneMetrics::sent(peer, lane),
        }
    }

    /// Held for as long as it takes to encode a batch, never across anything that waits.
    pub(crate) fn queue(&self) -> MutexGuard<'_, SendQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// For all lanes that any peer may send on.
    pub(crate) fn all(peer: StoreId, append_lanes: usize, queues: &QueueConfig) -> Vec<Self> {
        Lane::all(APPEND_LANES_MAX).map(|lane| Self::new(peer, lane, append_lanes, queues)).collect()
    }

    fn new(peer: StoreId, lane: Lane, append_lanes: usize, queues: &QueueConfig) -> Self {
        let bytes = match lane {
            Lane::Liveness => queues.liveness_receive_bytes,
            Lane::Control => queues.control_receive_bytes,
            Lane::Append(_) => queues.append_receive_bytes / append_lanes,
        };
        // Permits are taken in numbers of 32 bits.
        let bytes = bytes.clamp(1, u32::MAX as usize);
        Self { permits: Arc::new(Semaphore::new(bytes)), bytes, metrics: LaneMetrics::received(peer, lane) }
    }

    /// Waits for `bytes` of the budget, or for all of it if that is less.
    pub(crate) async fn acquire(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(self.bytes)).expect("a budget fits into 32 bits");
        if let Ok(permits) = Arc::clone(&self.permits).try_acquire_many_owned(bytes) {
            return permits;
        }
        self.metrics.waits.add(1);
        let permits = Arc::clone(&self.permits).acquire_many_owned(bytes).await;
        permits.expect("invariant: nobody closes the semaphore")
    }

    /// A frame was received, and its permits are taken.
    pub(crate) fn on_frame(&self, messages: usize, bytes: usize) {
        self.metrics.frame(messages, bytes);
        self.metrics.queued.set(self.taken() as f64);
    }

    /// How much of it is not given back yet.
    pub(crate) fn taken(&self) -> usize {
        self.bytes - self.permits.available_permits()
    }
}

/// How many unidirectional streams a peer may have open: its lanes.
pub(crate) fn streams_max() -> u32 {
    u32::try_from(lane_count(APPEND_LANES_MAX)).expect("a few lanes")
}
