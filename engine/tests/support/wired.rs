//! Three stores, the third of which is reached over wires that can be cut, and lags behind the others' logs.

use std::time::Duration;

use multiraft::{Engine, RegionId, StateKind};

use super::relay::Relay;
use super::{Cluster, eventually, put};

const LIMIT: Duration = Duration::from_secs(30);
/// What the region holds: so many values of so many bytes.
pub const VALUES: usize = 96;
pub const VALUE_BYTES: usize = 64 << 10;

/// Three stores; everything between store 3 and the others goes over wires.
pub struct Wired {
    cluster: Cluster,
    wires: Vec<Relay>,
}

impl Wired {
    pub fn new(kind: StateKind) -> Self {
        let mut cluster = Cluster::new(3, 1);
        cluster.kind = kind;
        cluster.config.compact_entries = 20;
        cluster.config.compact_keep_entries = 5;
        cluster.config.checkpoint_interval = Duration::from_millis(50);
        cluster.config.volatile_log_bytes = 1000;
        cluster.config.snapshot_bytes_per_second = 2 << 20;
        cluster.config.log_segment_bytes = 4 << 20;
        let mut wires = Vec::new();
        for (from, to) in [(1, 3), (2, 3), (3, 1), (3, 2)] {
            let wire = Relay::to(cluster.address(to));
            cluster.routes.insert((from, to), wire.address());
            wires.push(wire);
        }
        Self { cluster, wires }
    }

    pub fn cut(&self, is_cut: bool) {
        self.wires.iter().for_each(|wire| wire.cut(is_cut));
    }

    /// Starts all stores, stops the third, writes, and starts it again when the others' logs no longer reach back to it.
    pub async fn with_third_behind(&self) -> (Vec<Engine>, RegionId) {
        let mut engines = self.cluster.start_all().await;
        let region = engines[0].region_for(b"key").unwrap().id;
        engines[0].propose(region, put("key000", "first")).await.unwrap();
        engines.remove(2).shutdown().await;
        let value = "x".repeat(VALUE_BYTES);
        let session = engines[0].session();
        for n in 0..VALUES {
            session.propose(region, put(&format!("key{n:03}"), &value)).await.unwrap();
        }
        drop(session);
        for engine in &engines {
            eventually(LIMIT, "the log is cut", || async {
                engine.status().await.regions.iter().any(|status| status.first_index.get() > 50)
            })
            .await;
        }
        engines.push(self.cluster.start(3).await);
        (engines, region)
    }
}

/// What stores 1 and 2 have sent of snapshots, and how many of these were gone on with.
pub async fn sent(engines: &[Engine]) -> (u64, u64) {
    let (first, second) = (engines[0].status().await.counters, engines[1].status().await.counters);
    (first.snapshot_bytes_sent + second.snapshot_bytes_sent, first.snapshots_resumed + second.snapshots_resumed)
}
