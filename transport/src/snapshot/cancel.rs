//! Giving a transfer up from outside: from another thread than the one that moves its chunks, and may be stuck in it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Gives one transfer up. Whoever moves its chunks gets [`SnapshotError::Cancelled`](super::SnapshotError::Cancelled) at
/// once, also if it is waiting for a peer that does nothing. Has no effect on a transfer that is over.
#[derive(Clone, Debug, Default)]
pub struct SnapshotCanceller(Arc<Cancel>);

#[derive(Debug, Default)]
struct Cancel {
    is_set: AtomicBool,
    told: Notify,
}

impl SnapshotCanceller {
    /// Gives the transfer up.
    pub fn cancel(&self) {
        self.0.is_set.store(true, Ordering::Release);
        // Keeps a permit if nobody waits just now; one task waits at most.
        self.0.told.notify_one();
    }

    /// Ends when the transfer is given up.
    pub(crate) async fn cancelled(&self) {
        while !self.0.is_set.load(Ordering::Acquire) {
            self.0.told.notified().await;
        }
    }
}
