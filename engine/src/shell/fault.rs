//! The end of a store's service: a failed flush, a failed state store, a panicked worker. Final; only a restart heals it.

use std::sync::{Arc, OnceLock};

/// Set once, seen by everybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fault(Arc<OnceLock<String>>);

impl Fault {
    /// Stops the service for this reason; the first one stays.
    pub(crate) fn set(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.0.set(reason.clone()).is_ok() {
            tracing::error!(reason, "this store has stopped serving");
            metrics::counter!("store_faults_total").increment(1);
        }
    }

    /// Why the service has stopped, if it has.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }
}
