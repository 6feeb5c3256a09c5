//! What happens in a store, for those who watch.
//!
//! A watch tells what *this* store's replicas go through, each thing once in a life of the store:
//!
//! - [`Event::RegionSplit`] when the replica here has applied a split, durably. A replica that catches up by a snapshot taken
//!   after a split does not apply it: there is then [`Event::SnapshotInstalled`] and, with the range as it is now,
//!   [`Event::RegionChanged`].
//! - [`Event::RegionsMerged`] when the replica here has absorbed the one of its neighbour beside it, likewise; that one's
//!   [`Event::ReplicaRemoved`] is told as well.
//! - [`Event::RegionChanged`] when the replicas of a region have changed, when a replica has come here (the child of a split, or
//!   by a snapshot), and when a freeze, merge, fence or roll-back has moved the region's version.
//! - [`Event::ReplicaRemoved`] when the replica here is gone. That of a region elsewhere is not told.
//! - [`Event::ReplicaFenced`] when the replica here has applied that one of the region's replicas, this or another, is fenced;
//!   [`Event::ReplicasDiffer`] at the leader of the consistency check that has found it.
//! - [`Event::LeaderChanged`] as this store's replica sees it; several may see a change at different times, or miss a short one.
//!
//! What other stores tell of their regions is no event. Events of one region come in the order in which they happened; those of
//! several do not keep an order among them. A watcher that was too slow is told how many it has missed.

use std::sync::Arc;

use multiraft_raft::{Incarnation, LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term};
use tokio::sync::broadcast;

use crate::logic::CheckReport;

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
    /// This store's replica of a region has split.
    RegionSplit {
        /// The region as it is now, then its children, in key order.
        parts: Vec<Arc<RegionDescriptor>>,
    },
    /// This store's replica of a region has absorbed that of its neighbour.
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
    /// A consistency check of a region that is led here has found replicas whose states are not what they have to be.
    ReplicasDiffer {
        /// What was found.
        report: Arc<CheckReport>,
    },
    /// A region with a replica here has fenced one of its replicas, here or elsewhere: it is out of service until it is replaced,
    /// see [`Engine::repair_replica`](crate::Engine::repair_replica).
    ReplicaFenced {
        /// The region.
        region: RegionId,
        /// The replica.
        replica: ReplicaId,
        /// Its store.
        store: StoreId,
        /// The index at which its state was another than that of a quorum.
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
