//! One link between two stores: the lanes in both directions, and how it ended.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use multiraft_raft::StoreId;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::{
    links::{Node, Peer},
    queue::Queue,
    snapshot::Incoming,
};
use crate::{DownReason, Lane};

/// How long two stores stay without a link after one of them has closed it: what makes a handler fail again and again must not
/// keep a core busy.
const PAUSE: Duration = Duration::from_millis(20);

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
    /// What there is to be done on its link thread.
    pub(super) errands: mpsc::UnboundedSender<Errand>,
    /// One for each snapshot that the other may be sending to it.
    pub(super) streams: Arc<Semaphore>,
    /// The link was closed.
    pub(super) ended: Notify,
}

/// A lane in one direction.
pub(super) struct OutLane {
    queue: Mutex<Queue>,
    /// For its reader.
    pub(super) wake: Notify,
}

/// What the other end has for this one's link thread.
pub(super) enum Errand {
    /// A lane that was full has room.
    LaneReady(Lane),
    /// A snapshot is coming.
    Snapshot(Incoming),
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
            end.ended.notify_one();
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
    pub(super) fn new(node: &Arc<Node>, peer: StoreId) -> (Self, mpsc::UnboundedReceiver<Errand>) {
        let config = &node.config;
        let (errands, receiver) = mpsc::unbounded_channel();
        let end = Self {
            node: Arc::clone(node),
            peer: node.peer_or_new(peer),
            out: Lane::all(config.append_lanes)
                .map(|lane| OutLane {
                    queue: Mutex::new(Queue::new(config.queues.send_bytes(lane), config.queues.frame_target_bytes)),
                    wake: Notify::new(),
                })
                .collect(),
            errands,
            streams: Arc::new(Semaphore::new(config.snapshots.streams_max as usize)),
            ended: Notify::new(),
        };
        (end, receiver)
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
