//! What all Redis connections of a store share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multiraft::Engine;
use tokio::time::Instant;

use super::cursors::Cursors;

/// What all connections together may hold of requests that are not complete yet, in bytes.
const MAX_UNFINISHED_BYTES: usize = 512 << 20;

/// What a store's Redis side runs with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a command may take.
    pub(crate) request_timeout: Duration,
    /// The largest command, in bytes.
    pub(crate) max_command_bytes: usize,
    /// The most connections.
    pub(crate) max_connections: usize,
}

/// The engine behind all connections, and what they count together.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) engine: Engine,
    pub(crate) limits: Limits,
    pub(crate) store: u64,
    pub(crate) port: u16,
    pub(crate) started: Instant,
    cursors: Mutex<Cursors>,
    connections: AtomicUsize,
    unfinished_bytes: AtomicUsize,
    last_client: AtomicU64,
    commands: AtomicU64,
}

impl Front {
    pub(crate) fn new(engine: Engine, limits: Limits, store: u64, port: u16) -> Self {
        Self {
            engine,
            limits,
            store,
            port,
            started: Instant::now(),
            cursors: Mutex::new(Cursors::new()),
            connections: AtomicUsize::new(0),
            unfinished_bytes: AtomicUsize::new(0),
            last_client: AtomicU64::new(0),
            commands: AtomicU64::new(0),
        }
    }

    pub(crate) fn cursors(&self) -> MutexGuard<'_, Cursors> {
        // Whoever panicked while it held the lock left a map and a queue that are each in order.
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new connection.
    pub(crate) fn next_client(&self) -> u64 {
        self.last_client.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many commands have come in.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    pub(crate) fn count_commands(&self, count: usize) {
        self.commands.fetch_add(count as u64, Ordering::Relaxed);
        metrics::counter!("multiraft_resp_commands_total").increment(count as u64);
    }

    /// A place for one more connection, unless there are too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admission> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let admission = Admission { front: Arc::clone(self), charged: 0 };
        metrics::gauge!("multiraft_resp_connections").set(before as f64 + 1.0);
        (before < self.limits.max_connections).then_some(admission)
    }
}

/// A connection's place among all, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    front: Arc<Front>,
    /// How many bytes of unfinished requests stand against it.
    charged: usize,
}

impl Admission {
    /// Notes how many bytes of unfinished requests the connection holds now; `false` if all hold too many together.
    pub(crate) fn charge(&mut self, bytes: usize) -> bool {
        let total = &self.front.unfinished_bytes;
        let before = total.fetch_add(bytes, Ordering::Relaxed);
        total.fetch_sub(self.charged, Ordering::Relaxed);
        let fits = before.saturating_sub(self.charged) + bytes <= MAX_UNFINISHED_BYTES;
        self.charged = bytes;
        fits
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.front.unfinished_bytes.fetch_sub(self.charged, Ordering::Relaxed);
        let before = self.front.connections.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("multiraft_resp_connections").set(before as f64 - 1.0);
    }
}
