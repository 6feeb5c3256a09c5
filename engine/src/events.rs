//! What happens in a store, for those who watch.

use std::sync::Arc;

use multiraft_raft::{Incarnation, LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use tokio::sync::broadcast;

/// How many events a slow watcher may be behind before it misses some.
const CAPACITY: usize = 4096;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A region's leader, as this store sees it, has changed.
    LeaderChanged {
        /// The region.
        region: RegionId,
        /// The term.
        term: Term,
        /// The store that leads; `None` while there is none.
        leader: Option<StoreId>,
    },
    /// A region's range or replicas have changed.
    RegionChanged {
        /// What it is now.
        descriptor: Arc<RegionDescriptor>,
    },
    /// A region was split.
    RegionSplit {
        /// The region as it is now, then its children, in key order.
        parts: Vec<Arc<RegionDescriptor>>,
    },
    /// A region has absorbed a neighbour.
    RegionsMerged {
        /// What it is now.
        region: Arc<RegionDescriptor>,
        /// The neighbour, which is no more.
        source: RegionId,
    },
    /// This store's replica of a region was removed.
    ReplicaRemoved {
        /// The region.
        region: RegionId,
    },
    /// This store's replica of a region caught up by a snapshot.
    SnapshotInstalled {
        /// The region.
        region: RegionId,
        /// The index that the snapshot stands for.
        index: LogIndex,
    },
    /// A link to another store came up.
    StoreUp {
        /// The other store.
        store: StoreId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The link to another store was lost.
    StoreDown {
        /// The other store.
        store: StoreId,
    },
    /// This watcher was too slow and has missed so many events: look at the status to catch up.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Where events come from.
#[derive(Clone, Debug)]
pub(crate) struct EventSender(broadcast::Sender<Event>);

impl EventSender {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }

    /// Tells all who watch, if any do.
    pub(crate) fn send(&self, event: Event) {
        if self.0.receiver_count() > 0 {
            let _ = self.0.send(event);
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }
}

/// A watch of a store's events, from the moment it was made.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the store has shut down.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
