//! Writing the data set: many connections, one command at a time on each, every pair until it is acknowledged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{Client, Written};
use super::ledger::Ledger;

/// Connections to each store.
const WRITERS_PER_STORE: usize = 64;
/// How long to wait before a refused write is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How long a pair is tried for; beyond, the cluster does not work.
const GIVE_UP: Duration = Duration::from_secs(60);
/// The longest latency told apart, in microseconds.
const MAX_LATENCY_US: u64 = 120_000_000;

/// What the writers share.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    stores: Vec<SocketAddr>,
    /// Set when the time is up: each writer finishes the first pass and its current pair.
    stop: AtomicBool,
    acknowledged: AtomicU64,
    retried: AtomicU64,
    given_up: AtomicU64,
}

/// What came of it.
pub(crate) struct LoadResult {
    pub(crate) latencies_us: Histogram<u64>,
    /// Pairs that no store took in time.
    pub(crate) given_up: u64,
}

impl Load {
    pub(crate) fn new(ledger: Arc<Ledger>, stores: Vec<SocketAddr>) -> Self {
        Self {
            ledger,
            stores,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Acknowledged writes so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Writes that were refused, in doubt or cut off, and tried again.
    pub(crate) fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Starts all writers; they end after [`Load::stop`].
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<Histogram<u64>> {
        let mut writers = JoinSet::new();
        let count = WRITERS_PER_STORE * self.stores.len();
        for number in 0..count {
            writers.spawn(Writer::new(Arc::clone(self), number).run(count));
        }
        writers
    }

    /// Waits for all writers.
    pub(crate) async fn finish(&self, mut writers: JoinSet<Histogram<u64>>) -> LoadResult {
        let mut latencies_us = histogram();
        while let Some(finished) = writers.join_next().await {
            let of_writer = finished.expect("invariant: writers do not panic and are not aborted");
            latencies_us.add(of_writer).expect("invariant: all histograms have the same bounds");
        }
        LoadResult { latencies_us, given_up: self.given_up.load(Ordering::Relaxed) }
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("invariant: the bounds are in order")
}

/// One connection, and the pairs that it alone writes.
struct Writer {
    load: Arc<Load>,
    number: usize,
    /// Which store it talks to; moves on when that store does not answer.
    store: usize,
    client: Option<Client>,
    latencies_us: Histogram<u64>,
}

impl Writer {
    fn new(load: Arc<Load>, number: usize) -> Self {
        let store = number % load.stores.len();
        Self { load, number, store, client: None, latencies_us: histogram() }
    }

    async fn run(mut self, writers: usize) -> Histogram<u64> {
        let pairs = self.load.ledger.pairs.len();
        let stride = stride(pairs);
        for pass in 0.. {
            for turn in (self.number..pairs).step_by(writers) {
                if pass > 0 && self.load.stop.load(Ordering::Acquire) {
                    return self.latencies_us;
                }
                // Neighbours in time are far apart in the key space, so that all regions are busy all the time.
                self.write(turn * stride % pairs, pass).await;
            }
            if self.load.stop.load(Ordering::Acquire) || self.number >= pairs {
                break;
            }
        }
        self.latencies_us
    }

    async fn write(&mut self, at: usize, pass: u32) {
        let key = self.load.ledger.pairs[at].0.clone();
        let value = self.load.ledger.value(at, pass);
        let load = Arc::clone(&self.load);
        load.ledger.note_tried(at, pass);
        let started = Instant::now();
        while started.elapsed() < GIVE_UP {
            if self.try_once(&key, &value).await {
                load.ledger.note_acknowledged(at, pass);
                load.acknowledged.fetch_add(1, Ordering::Relaxed);
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latencies_us.saturating_record(micros.max(1));
                return;
            }
            load.retried.fetch_add(1, Ordering::Relaxed);
            sleep(RETRY_PAUSE).await;
        }
        load.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes once. Setting the same value again does no harm, so that a write in doubt is simply repeated.
    async fn try_once(&mut self, key: &bytes::Bytes, value: &bytes::Bytes) -> bool {
        if self.client.is_none() {
            self.client = Client::connect(self.load.stores[self.store]).await.ok();
        }
        let Some(client) = &mut self.client else {
            self.store = (self.store + 1) % self.load.stores.len();
            return false;
        };
        match client.set(key, value).await {
            Ok(Written::Acknowledged) => true,
            Ok(Written::Refused(text)) => {
                tracing::debug!(%text, "a write was refused");
                false
            }
            Ok(Written::Uncertain) => false,
            Err(_) => {
                self.client = None;
                self.store = (self.store + 1) % self.load.stores.len();
                false
            }
        }
    }
}

/// A step about 0.618 of the way around that visits every one of `count` places before it comes back.
fn stride(count: usize) -> usize {
    let wanted = (count as f64 * 0.618_033_988_749) as usize;
    (wanted.max(1)..)
        .find(|step| gcd(*step, count) == 1)
        .expect("invariant: some step up to count + 1 has no common factor")
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stride_visits_every_place() {
        for count in [1, 2, 3, 10, 100, 34_924] {
            let stride = stride(count);
            let mut seen = vec![false; count];
            for turn in 0..count {
                seen[turn * stride % count] = true;
            }
            assert!(seen.into_iter().all(|seen| seen), "{count}");
        }
    }
}
