//! How long a region that lost its leader takes no writes: from the kill to its first acknowledged write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{Client, Written};
use super::ledger::Ledger;
use super::load::histogram;
use super::regions::RegionMap;
use crate::machine::successor;

/// How many regions are asked at once; each has a connection of its own, since a region that waits holds others up on it.
const PROBES_AT_ONCE: usize = 512;
/// How long to wait before a probe is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// When a region counts as not recovered.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How the regions that a store led came back.
pub(crate) struct Failover {
    /// Times to the first acknowledged write, in microseconds.
    pub(crate) times_us: Histogram<u64>,
    pub(crate) affected: usize,
    /// Regions that took no write for too long.
    pub(crate) stuck: usize,
}

/// Probes, ready to go.
pub(crate) struct Probes {
    /// A key in each affected region.
    keys: Vec<Bytes>,
    stores: Vec<SocketAddr>,
    ledger: Arc<Ledger>,
}

impl Probes {
    /// For the regions in `led`, through the stores at `stores`.
    pub(crate) fn new(led: &[u64], regions: &RegionMap, stores: Vec<SocketAddr>, ledger: Arc<Ledger>) -> Self {
        // The key right behind a region's first is its own and, almost surely, nobody else's.
        let keys = led.iter().filter_map(|id| regions.start(*id)).map(|start| successor(&successor(start))).collect();
        Self { keys, stores, ledger }
    }

    /// Writes to every region until it answers.
    pub(crate) async fn run(self, killed: Instant) -> Failover {
        let permits = Arc::new(Semaphore::new(PROBES_AT_ONCE));
        let affected = self.keys.len();
        let mut probes = JoinSet::new();
        for (number, key) in self.keys.into_iter().enumerate() {
            let (permits, ledger) = (Arc::clone(&permits), Arc::clone(&self.ledger));
            let address = self.stores[number % self.stores.len()];
            probes.spawn(async move {
                let _permit = permits.acquire().await.expect("invariant: the semaphore is never closed");
                let value = Bytes::from_static(b"written after its leader was killed");
                probe(address, &key, &value, killed).await.inspect(|_| ledger.note_extra(key, value))
            });
        }
        let mut failover = Failover { times_us: histogram(), affected, stuck: 0 };
        while let Some(finished) = probes.join_next().await {
            match finished.expect("invariant: probes do not panic and are not aborted") {
                Some(time) => failover.times_us.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
                None => failover.stuck += 1,
            }
        }
        failover
    }
}

async fn probe(address: SocketAddr, key: &Bytes, value: &Bytes, killed: Instant) -> Option<Duration> {
    let mut client = None;
    while killed.elapsed() < GIVE_UP {
        if client.is_none() {
            client = Client::connect(address).await.ok();
        }
        if let Some(connected) = &mut client {
            match connected.set(key, value).await {
                Ok(Written::Acknowledged) => return Some(killed.elapsed()),
                Ok(Written::Refused(_) | Written::Uncertain) => {}
                Err(_) => client = None,
            }
        }
        sleep(RETRY_PAUSE).await;
    }
    None
}
