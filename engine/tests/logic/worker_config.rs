//! What a lone worker is told where a test has no wishes.

use std::sync::Arc;
use std::time::Duration;

use multiraft::logic::{BEATS_AT_ONCE, MERGE_TIMEOUT, SnapshotLimits, WorkerConfig};
use multiraft::{Incarnation, RaftOptions, StoreId};

/// The first worker of store 1 in its first life, with these other stores.
pub(crate) fn worker_config(peers: &[StoreId]) -> WorkerConfig {
    WorkerConfig {
        store: StoreId(1),
        incarnation: Incarnation(1),
        worker: 0,
        peers: peers.to_vec(),
        raft: Arc::new(RaftOptions::default()),
        request_timeout: Duration::from_secs(5),
        apply_queue_bytes: 1 << 20,
        compact_entries: 100,
        compact_keep_entries: 10,
        snapshots_at_once: 2,
        snapshots: SnapshotLimits::default(),
        merge_timeout: MERGE_TIMEOUT,
        balance_leaders: false,
        leases: false,
        beats_at_once: BEATS_AT_ONCE,
        awaits_vote: false,
        seed: 7,
    }
}
