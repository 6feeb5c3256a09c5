//! Stopping a store: what ends first.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use multiraft_router::Pool;
use multiraft_storage::SharedLog;

use crate::shell::Running;
use crate::shell::worker::Work;

/// What ends when the store does, in this order.
pub(super) struct Threads {
    pub(super) liveness: JoinHandle<()>,
    pub(super) pool: Pool<Work>,
    pub(super) log: Arc<SharedLog>,
    pub(super) stop_checkpoints: Sender<()>,
    pub(super) checkpoints: JoinHandle<()>,
    pub(super) others: Vec<JoinHandle<()>>,
}

impl Running {
    /// Stops everything: support is given up first, then callers, the links, the workers, the log, and what hangs on them. Blocks until that is
    /// done, whoever began it.
    pub(crate) fn stop(&self) {
        // Held to the end: whoever comes second waits here.
        let mut held = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(threads) = held.take() else { return };
        // While peers can be told, and what was accepted is still carried out.
        self.support.stop();
        let _ = threads.liveness.join();
        threads.pool.close_outside();
        self.fault.stop();
        self.transport.shutdown();
        drop(threads.stop_checkpoints);
        let _ = threads.checkpoints.join();
        if let Err(error) = threads.pool.stop() {
            tracing::error!(%error, "workers had died before the stop");
        }
        if let Some(log) = Arc::into_inner(threads.log) {
            log.shutdown();
        }
        for thread in threads.others {
            let _ = thread.join();
        }
        self.streams.stop();
        self.receiving.stop();
        // Waits for lookups that are under way.
        let Some(open) = self.open.write().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // What was applied and not yet made durable is in the log; this only makes the next start quicker.
        if let Err(error) = open.backend.flush() {
            tracing::error!(%error, "the state store could not be flushed at the stop");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
