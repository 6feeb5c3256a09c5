//! One link between two stores: the lanes in both directions, and how it ended.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use multiraft_raft::StoreId;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::{
    links::{Node, Peer},
    queue::Queue,
    snapshot::Incoming,
};
use crate::{APPEND_LANES_MAX, DownReason, Lane};

/// How long two stores stay without a link after one of them has closed it: what makes a handler fail again and again must not
/// keep a core busy.
const PAUSE: Duration = Duration::from_millis(20);

/// How many snapshots may wait until the receiver looks at them.
const INCOMING_MAX: usize = 64;

/// A link.
pub(super) struct Wire {
    /// Grows from link to link of the whole network: what both ends call the session.
    pub(super) number: u64,
    /// In the order of the stores' ids.
    pub(super) ends: [End; 2],
    /// Who closed it, and why.
    closed: OnceLock<(StoreId, DownReason)>,
}

/// What one of the two stores has of it.
pub(super) struct End {
    pub(super) node: Arc<Node>,
    /// What this store holds for the other.
    pub(super) peer: Arc<Peer>,
    /// What it sends, by [`Lane::index`].
    pub(super) out: Vec<OutLane>,
    /// For the snapshots that it is sent.
    pub(super) incoming: mpsc::Sender<Incoming>,
    /// One for each snapshot that the other may be sending to it.
    pub(super) streams: Arc<Semaphore>,
    /// By [`Lane::index`], a bit for each lane of which it does not know yet that there is room again.
    ready: AtomicU32,
    /// The link was closed, or a lane has room.
    pub(super) told: Notify,
}

/// A lane in one direction.
pub(super) struct OutLane {
    queue: Mutex<Queue>,
    /// For its reader.
    pub(super) wake: Notify,
}

impl Wire {
    pub(super) fn new(number: u64, ends: [End; 2]) -> Self {
        Self { number, ends, closed: OnceLock::new() }
    }

    /// The two stores.
    pub(super) fn pair(&self) -> (StoreId, StoreId) {
        (self.ends[0].node.config.store, self.ends[1].node.config.store)
    }

    /// Closes it for `by`, if nobody has yet. What is queued is lost.
    pub(super) fn close(&self, by: StoreId, reason: DownReason) {
        if self.closed.set((by, reason)).is_err() {
            return;
        }
        for end in &self.ends {
            end.out.iter().for_each(|lane| lane.queue().close());
            end.told.notify_one();
        }
    }

    /// Why it is down, as this side tells it.
    pub(super) fn down_reason(&self, side: usize) -> Option<DownReason> {
        let (by, reason) = self.closed.get()?;
        let is_own = *by == self.ends[side].node.config.store;
        Some(if is_own { reason.clone() } else { DownReason::ClosedByPeer(reason.to_string()) })
    }

    /// How long the two wait for the next; `None`: a store has gone, and may be back.
    pub(super) fn pause(&self) -> Option<Duration> {
        let is_shutdown = matches!(self.closed.get(), Some((_, DownReason::Shutdown)));
        (!is_shutdown).then_some(PAUSE)
    }
}

impl End {
    pub(super) fn new(node: &Arc<Node>, peer: StoreId) -> (Self, mpsc::Receiver<Incoming>) {
        let config = &node.config;
        let (incoming, receiver) = mpsc::channel(INCOMING_MAX);
        let end = Self {
            node: Arc::clone(node),
            peer: node.peer_or_new(peer),
            out: Lane::all(config.append_lanes)
                .map(|lane| OutLane {
                    queue: Mutex::new(Queue::new(config.queues.send_bytes(lane), config.queues.frame_target_bytes)),
                    wake: Notify::new(),
                })
                .collect(),
            incoming,
            streams: Arc::new(Semaphore::new(config.snapshots.streams_max as usize)),
            ready: AtomicU32::new(0),
            told: Notify::new(),
        };
        (end, receiver)
    }

    /// One of its lanes that was full has room.
    pub(super) fn tell_ready(&self, lane: Lane) {
        self.ready.fetch_or(1 << lane.index(), Ordering::Relaxed);
        self.told.notify_one();
    }

    /// The lanes of which that was told and not taken.
    pub(super) fn take_ready(&self) -> impl Iterator<Item = Lane> {
        let ready = self.ready.swap(0, Ordering::Relaxed);
        Lane::all(APPEND_LANES_MAX).filter(move |lane| ready & (1 << lane.index()) != 0)
    }

    /// What waits on one of its lanes.
    pub(super) fn queued_bytes(&self, lane: Lane) -> usize {
        self.out.get(lane.index()).map_or(0, |lane| lane.queue().queued_bytes())
    }
}

impl OutLane {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
