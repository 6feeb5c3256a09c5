//! A cluster that begins with one region on one store. Its stores are told what a region may hold, and do the rest: the others
//! join, the region splits while the data comes in, replicas and leaders spread; after a delete, regions merge. This only
//! looks on, waits, and deletes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{Client as Redis, Written};
use super::ledger::Ledger;
use super::say;
use super::seen::{Counts, Seen};
use crate::ctl::{Client, fill_in};
use crate::error::Failure;
use crate::hex;
use crate::serve::RegionView;

/// How many replicas each region has.
pub(crate) const REPLICATION: usize = 3;
/// How often the regions are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long growing, or merging back, may take.
const PHASE_TIMEOUT: Duration = Duration::from_secs(240);
/// Merging back ends when nothing has merged for so long: neighbours whose leaders were busy with something else come later.
const CALM: Duration = Duration::from_secs(8);
/// And no later than this, if anything has merged at all.
const MERGING_MAX: Duration = Duration::from_secs(45);
/// How long a delete is tried, and how long to wait before it is tried again.
const DELETE_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Connections that delete.
const DELETERS: usize = 128;

/// A cluster whose regions live. Every store must run while this looks at them.
#[derive(Clone)]
pub(crate) struct Living {
    /// The stores, by number and admin endpoint; the first has been there from the start.
    pub(crate) stores: Vec<(u64, SocketAddr)>,
    pub(crate) ledger: Arc<Ledger>,
    /// How many regions there shall be.
    pub(crate) wanted: usize,
    /// When the demo began.
    pub(crate) started: Instant,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Living {
    /// Waits until the first regions have as many replicas as they shall have.
    pub(crate) async fn join(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut told = 1;
        loop {
            // The root region is the last to be filled up, or the first.
            let regions = self.client().regions().await.map(|told| told.regions).unwrap_or_default();
            let joined = regions.iter().map(voters).min().unwrap_or(0);
            while told < joined {
                told += 1;
                self.say(&format!("{told} stores hold the first region"))?;
            }
            if joined >= REPLICATION {
                return Ok(());
            }
            self.check_time(begun, || format!("the first region is on {joined} stores only"))?;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until there are as many regions as there shall be, and every store has its part of them.
    pub(crate) async fn grow(self) -> Result<(), Failure> {
        let begun = Instant::now();
        let (mut told, mut calm) = (1, Calm::default());
        loop {
            let regions = self.regions().await?;
            let count = regions.len();
            if count >= told * 2 || (count >= self.wanted && told < self.wanted) {
                told = count;
                self.say(&format!("{count} regions"))?;
            }
            let spread = self.spread(&regions).await?;
            if calm.is_for(&regions, Duration::from_secs(1)) && count >= self.wanted && is_even(&spread) {
                return self.say(&format!("replicas and leaders by store: {}", shown(&spread)));
            }
            self.check_time(begun, || {
                format!(
                    "there are {count} regions, not {}; replicas and leaders by store: {}",
                    self.wanted,
                    shown(&spread)
                )
            })?;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// All regions that own keys, in key order.
    pub(crate) async fn regions(&self) -> Result<Vec<RegionView>, Failure> {
        let begun = Instant::now();
        loop {
            match self.client().regions().await {
                Ok(told) => {
                    let owning = |region: &RegionView| region.id != multiraft::RegionId::ROOT.get();
                    let regions: Vec<_> = told.regions.into_iter().filter(owning).collect();
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner).look(&regions);
                    return Ok(regions);
                }
                // Some leader was not reached in time.
                Err(failure) if begun.elapsed() > DELETE_TIMEOUT => return Err(failure),
                Err(failure) => tracing::debug!(%failure, "the regions are asked for again"),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// What was done to the regions up to the last look.
    pub(crate) fn counts(&self) -> Counts {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).counts(REPLICATION)
    }

    /// Waits until the regions have stayed as they are for a while.
    pub(crate) async fn calm(&self) -> Result<Vec<RegionView>, Failure> {
        let (begun, mut calm) = (Instant::now(), Calm::default());
        loop {
            let regions = self.regions().await?;
            if calm.is_for(&regions, Duration::from_secs(2)) {
                return Ok(regions);
            }
            self.check_time(begun, || "the regions do not come to rest".to_owned())?;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Deletes the second half of the pairs, in key order, and waits until what has become small has merged.
    pub(crate) async fn shrink(&self, resp: &[SocketAddr]) -> Result<(), Failure> {
        let before = self.regions().await?.len();
        let pairs = self.ledger.pairs.len();
        self.delete(pairs / 2..pairs, resp).await?;
        self.say(&format!("{} pairs deleted", pairs - pairs / 2))?;
        let (begun, mut told) = (Instant::now(), before);
        let (mut last, mut since) = (before, Instant::now());
        loop {
            let regions = self.regions().await?;
            let count = regions.len();
            if count * 4 <= told * 3 {
                told = count;
                self.say(&format!("{count} regions"))?;
            }
            if count != last {
                (last, since) = (count, Instant::now());
            }
            let is_over = self.small_pairs(&regions) == 0 || since.elapsed() > CALM || begun.elapsed() > MERGING_MAX;
            if count < before && is_over {
                return self.say(&format!("{count} regions are left"));
            }
            self.check_time(begun, || format!("there are still {count} regions"))?;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// How many neighbours there are of which neither holds any pair.
    fn small_pairs(&self, regions: &[RegionView]) -> usize {
        let is_empty: Vec<bool> = regions.iter().map(|region| self.holds_nothing(region)).collect();
        is_empty.windows(2).filter(|pair| pair[0] && pair[1]).count()
    }

    fn holds_nothing(&self, region: &RegionView) -> bool {
        let bound = |digits: &str| hex::decode(digits).unwrap_or_default();
        let (start, end) = (bound(&region.start), bound(&region.end));
        let pairs = &self.ledger.pairs;
        let first = pairs.partition_point(|(key, _)| *key < start);
        let behind = if end.is_empty() { pairs.len() } else { pairs.partition_point(|(key, _)| *key < end) };
        (first..behind).all(|at| !self.ledger.is_held(at))
    }

    /// How many replicas each store holds, and how many regions it leads.
    async fn spread(&self, regions: &[RegionView]) -> Result<BTreeMap<u64, (usize, usize)>, Failure> {
        let mut regions = regions.to_vec();
        for (_, admin) in &self.stores {
            fill_in(&mut regions, &Client::new(*admin).status().await?);
        }
        let mut spread: BTreeMap<u64, (usize, usize)> = self.stores.iter().map(|(store, _)| (*store, (0, 0))).collect();
        for region in &regions {
            for replica in &region.replicas {
                spread.entry(replica.store).or_default().0 += 1;
            }
            if let Some(leader) = region.leader {
                spread.entry(leader).or_default().1 += 1;
            }
        }
        Ok(spread)
    }

    async fn delete(&self, pairs: std::ops::Range<usize>, resp: &[SocketAddr]) -> Result<(), Failure> {
        let mut deleters = JoinSet::new();
        for number in 0..DELETERS {
            let (ledger, address) = (Arc::clone(&self.ledger), resp[number % resp.len()]);
            let part = pairs.clone().skip(number).step_by(DELETERS);
            deleters.spawn(async move {
                let mut client = None;
                for at in part {
                    delete(&mut client, address, &ledger.pairs[at].0).await?;
                    ledger.note_deleted(at);
                }
                Ok(())
            });
        }
        while let Some(finished) = deleters.join_next().await {
            finished.expect("invariant: deleters do not panic and are not aborted")?;
        }
        Ok(())
    }

    fn client(&self) -> Client {
        Client::new(self.stores[0].1)
    }

    fn check_time(&self, begun: Instant, what: impl Fn() -> String) -> Result<(), Failure> {
        if begun.elapsed() < PHASE_TIMEOUT {
            return Ok(());
        }
        Err(Failure::new(format!("after {PHASE_TIMEOUT:?}: {}", what())))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        say(&format!("[{:6.1} s] {text}", self.started.elapsed().as_secs_f64()))
    }
}

/// Since when regions have been what they are.
#[derive(Default)]
struct Calm {
    /// Of each region its id and epoch.
    last: Vec<(u64, u64, u64)>,
    since: Option<Instant>,
}

impl Calm {
    /// Whether they have been for so long.
    fn is_for(&mut self, regions: &[RegionView], time: Duration) -> bool {
        let now: Vec<_> = regions.iter().map(|region| (region.id, region.conf_version, region.version)).collect();
        if now != self.last {
            self.last = now;
            self.since = Some(Instant::now());
        }
        self.since.is_some_and(|since| since.elapsed() >= time)
    }
}

/// Whether every store holds at least half of an equal part, and leads at least a third of one.
fn is_even(spread: &BTreeMap<u64, (usize, usize)>) -> bool {
    let total = |of: fn(&(usize, usize)) -> usize| spread.values().map(of).sum::<usize>();
    let (replicas, leaders, stores) = (total(|held| held.0), total(|held| held.1), spread.len());
    spread.values().all(|(held, led)| held * stores * 2 >= replicas && led * stores * 3 >= leaders)
}

fn shown(spread: &BTreeMap<u64, (usize, usize)>) -> String {
    let parts: Vec<_> = spread.iter().map(|(store, (held, led))| format!("store {store}: {held}, {led}")).collect();
    parts.join("; ")
}

fn voters(region: &RegionView) -> usize {
    region.replicas.iter().filter(|replica| replica.role == "voter").count()
}

/// Deletes a key, however often that has to be tried: deleting again does no harm.
async fn delete(client: &mut Option<Redis>, address: SocketAddr, key: &bytes::Bytes) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < DELETE_TIMEOUT {
        if client.is_none() {
            *client = Redis::connect(address).await.ok();
        }
        if let Some(connected) = client {
            match connected.delete(key).await {
                Ok(Written::Acknowledged) => return Ok(()),
                Ok(Written::Refused(_) | Written::Uncertain) => {}
                Err(_) => *client = None,
            }
        }
        sleep(RETRY_PAUSE).await;
    }
    Err(Failure::new(format!("{} could not be deleted within {DELETE_TIMEOUT:?}", key.escape_ascii())))
}
