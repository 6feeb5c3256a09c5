//! The end of a store's service: a failed flush, a failed state store, a panicked worker. Final; only a restart heals it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Set once, seen by everybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fault {
    reason: Arc<OnceLock<String>>,
    stopping: Arc<AtomicBool>,
}

/// Turns the panic of a thread that others rely on into a fault.
pub(crate) struct PanicGuard {
    pub(crate) fault: Fault,
    pub(crate) thread: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fault.set(format!("the {} thread panicked", self.thread));
        }
    }
}

impl Fault {
    /// Stops the service for this reason; the first one stays.
    pub(crate) fn set(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.reason.set(reason.clone()).is_ok() {
            tracing::error!(reason, "this store has stopped serving");
            metrics::counter!("store_faults_total").increment(1);
        }
    }

    /// Why the service has stopped, if it has.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.reason.get().is_some()
    }

    /// The store is being stopped: nothing waits for a disk any more.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether waiting for a disk is to end: the store is being stopped, or has failed.
    pub(crate) fn ends_waiting(&self) -> bool {
        self.is_set() || self.stopping.load(Ordering::Acquire)
    }
}
