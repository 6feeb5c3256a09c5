//! A cluster that begins with one region on one store: the others join, the region splits while the data comes in, replicas
//! and leaders spread over the stores; after a delete it merges back. All of it is asked for at the admin endpoint, as
//! `multiraft ctl` does.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::client::{Client as Redis, Written};
use super::ledger::Ledger;
use super::{plan, say};
use crate::ctl::{Client, fill_in};
use crate::error::Failure;
use crate::hex;
use crate::serve::{ChangeKind, ChangeRequest, RegionView};

/// How many replicas each region has.
pub(crate) const REPLICATION: usize = 3;
/// Splits asked for at once, and the pause before the next.
const SPLITS_AT_ONCE: usize = 4;
const SPLIT_PAUSE: Duration = Duration::from_millis(50);
/// Moves, transfers and merges under way at once.
const STEPS_AT_ONCE: usize = 4;
/// How long one step is tried for, and how long to wait before it is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long growing, or merging back, may take.
const PHASE_TIMEOUT: Duration = Duration::from_secs(240);
/// Connections that delete.
const DELETERS: usize = 128;

/// What was done to the regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) splits: usize,
    pub(crate) moves: usize,
    pub(crate) merges: usize,
}

/// A cluster whose regions live. Every store must run while they are changed.
#[derive(Clone)]
pub(crate) struct Living {
    /// The stores, by number and admin endpoint; the first has been there from the start.
    pub(crate) stores: Vec<(u64, SocketAddr)>,
    pub(crate) ledger: Arc<Ledger>,
    /// How many regions there shall be.
    pub(crate) wanted: usize,
    /// When the demo began.
    pub(crate) started: Instant,
}

impl Living {
    /// From one region on the first store to the wanted number on all of them.
    pub(crate) async fn grow(self) -> Result<Counts, Failure> {
        self.join().await?;
        let splits = self.split_up().await?;
        let moves = self.spread().await?;
        Ok(Counts { splits, moves, merges: 0 })
    }

    /// All regions that own keys, in key order.
    pub(crate) async fn regions(&self) -> Result<Vec<RegionView>, Failure> {
        let mut regions = self.client().regions().await?.regions;
        regions.retain(|region| region.id != multiraft::RegionId::ROOT.get());
        Ok(regions)
    }

    fn client(&self) -> Client {
        Client::new(self.stores[0].1)
    }

    /// Makes voters of the next stores, up to the replication wanted.
    async fn join(&self) -> Result<(), Failure> {
        let client = self.client();
        for (store, _) in self.stores.iter().take(REPLICATION).skip(1) {
            for region in self.client().regions().await?.regions {
                let join = vec![ChangeRequest { change: ChangeKind::AddVoter, store: *store }];
                let joined = || self.has_joined(region.id, *store);
                insist(|| client.change(region.id, join.clone()), joined).await?;
            }
            self.say(&format!("store {store} has joined"))?;
        }
        Ok(())
    }

    async fn has_joined(&self, region: u64, store: u64) -> bool {
        let told = self.client().region(region).await;
        told.is_ok_and(|told| told.regions.iter().any(|region| votes_on(region, store)))
    }

    /// Splits at keys that have come in, a few regions at a time; how often.
    async fn split_up(&self) -> Result<usize, Failure> {
        let begun = Instant::now();
        let mut told = 1;
        loop {
            let regions = self.regions().await?;
            if regions.len() >= told * 2 || regions.len() >= self.wanted {
                told = regions.len();
                self.say(&format!("{told} regions"))?;
            }
            if regions.len() >= self.wanted {
                return Ok(regions.len() - 1);
            }
            if begun.elapsed() > PHASE_TIMEOUT {
                return Err(Failure::new(format!("after {PHASE_TIMEOUT:?} there are only {} regions", regions.len())));
            }
            let mut steps = JoinSet::new();
            for (region, key) in plan::splits(&regions, &self.ledger, self.wanted, SPLITS_AT_ONCE) {
                let client = self.client();
                steps.spawn(async move { client.split(region, vec![hex::encode(&key)]).await });
            }
            while let Some(step) = steps.join_next().await {
                // What did not come to be is planned again.
                if let Err(failure) = step.expect("invariant: steps do not panic and are not aborted") {
                    tracing::debug!(%failure, "a split failed");
                }
            }
            sleep(SPLIT_PAUSE).await;
        }
    }

    /// Moves replicas until every store has its part, then leaders; how many replicas were moved.
    async fn spread(&self) -> Result<usize, Failure> {
        let stores: Vec<u64> = self.stores.iter().map(|(store, _)| *store).collect();
        let moves = plan::moves(&self.client().regions().await?.regions, &stores);
        let moved = moves.len();
        self.all(moves, |living, step| async move { living.carry_out(step).await }).await?;
        self.say(&format!("{moved} replicas moved to stores that had fewer"))?;
        let mut regions = self.regions().await?;
        for (_, admin) in &self.stores[1..] {
            fill_in(&mut regions, &Client::new(*admin).status().await?);
        }
        let transfers = plan::transfers(&regions, &stores);
        let count = transfers.len();
        self.all(transfers, |living, (region, store)| async move {
            // A leader that stays where it is does no harm.
            if let Err(failure) = living.client().transfer(region, store).await {
                tracing::debug!(%failure, "a transfer failed");
            }
            Ok(())
        })
        .await?;
        self.say(&format!("{count} leaders handed over to stores that led fewer"))?;
        Ok(moved)
    }

    async fn carry_out(&self, step: plan::Move) -> Result<(), Failure> {
        let changes = vec![
            ChangeRequest { change: ChangeKind::AddVoter, store: step.to },
            ChangeRequest { change: ChangeKind::Remove, store: step.from },
        ];
        let (client, moved) = (self.client(), || self.has_joined(step.region, step.to));
        insist(|| client.change(step.region, changes.clone()), moved).await
    }

    /// Deletes the second half of the pairs, in key order, and merges what has become small; how many merges that took.
    pub(crate) async fn shrink(&self, resp: &[SocketAddr]) -> Result<usize, Failure> {
        let before = self.regions().await?.len();
        let pairs = self.ledger.pairs.len();
        self.delete(pairs / 2..pairs, resp).await?;
        self.say(&format!("{} pairs deleted", pairs - pairs / 2))?;
        let total: usize = self.ledger.pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let begun = Instant::now();
        loop {
            let regions = self.regions().await?;
            let merges = plan::merges(&regions, &self.ledger, total / self.wanted);
            if merges.is_empty() {
                return Ok(before - regions.len());
            }
            if begun.elapsed() > PHASE_TIMEOUT {
                return Err(Failure::new(format!("after {PHASE_TIMEOUT:?} there are still {} regions", regions.len())));
            }
            self.all(merges, |living, (source, into)| async move {
                // One that was rolled back is planned again.
                if let Err(failure) = living.client().merge(source, into).await {
                    tracing::debug!(%failure, "a merge failed");
                }
                Ok(())
            })
            .await?;
            self.say(&format!("{} regions", self.regions().await?.len()))?;
        }
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

    /// Takes every step, a few at a time; fails with the first that fails.
    async fn all<T, F>(&self, steps: Vec<T>, take: impl Fn(Self, T) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let mut taken = JoinSet::new();
        for step in steps {
            if taken.len() >= STEPS_AT_ONCE {
                finish_one(&mut taken).await?;
            }
            taken.spawn(take(self.clone(), step));
        }
        while !taken.is_empty() {
            finish_one(&mut taken).await?;
        }
        Ok(())
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        say(&format!("[{:6.1} s] {text}", self.started.elapsed().as_secs_f64()))
    }
}

async fn finish_one(taken: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    match taken.join_next().await {
        Some(finished) => finished.expect("invariant: steps do not panic and are not aborted"),
        None => Ok(()),
    }
}

/// Asks for a change until it is made, also by an attempt whose outcome was unknown.
async fn insist<T, F, D>(ask: impl Fn() -> F, is_done: impl Fn() -> D) -> Result<(), Failure>
where
    F: Future<Output = Result<T, Failure>>,
    D: Future<Output = bool>,
{
    let begun = Instant::now();
    loop {
        let failure = match ask().await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        tracing::debug!(%failure, "a change is asked for again");
        if is_done().await {
            return Ok(());
        }
        if begun.elapsed() > STEP_TIMEOUT {
            return Err(failure);
        }
        sleep(RETRY_PAUSE).await;
    }
}

fn votes_on(region: &RegionView, store: u64) -> bool {
    region.replicas.iter().any(|replica| replica.store == store && replica.role == "voter")
}

/// Deletes a key, however often that has to be tried: deleting again does no harm.
async fn delete(client: &mut Option<Redis>, address: SocketAddr, key: &bytes::Bytes) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < STEP_TIMEOUT {
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
    Err(Failure::new(format!("{} could not be deleted within {STEP_TIMEOUT:?}", key.escape_ascii())))
}
