//! Emptying a store: leaderships first, then its replicas, one after the other, to stores that lack them.
//!
//! Every step asks the region's leader anew what the region is, so that a drain may run beside splits, merges and other
//! moves, and may be broken off and begun again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::Client;
use super::{one, say};
use crate::error::Failure;
use crate::serve::{ChangeKind, ChangeRequest, RegionView, StoresAnswer};

/// How often a step is tried before the drain is given up.
const ATTEMPTS: u32 = 5;
/// How long to wait before a step is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long nothing may move where others do the moving.
const STANDSTILL: Duration = Duration::from_secs(120);

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Leaderships handed over.
    pub(crate) transfers: usize,
    /// Replicas moved.
    pub(crate) moves: usize,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leaderships handed over, {} replicas moved", self.transfers, self.moves)
    }
}

/// Moves everything off a store. On return no region has a replica there.
pub(crate) async fn drain(client: &Client, store: u64) -> Result<Drained, Failure> {
    let mut drained = Drained::default();
    let stores = client.stores().await?;
    if !stores.stores.iter().any(|known| known.store == store) {
        return Err(Failure::new(format!("store {store} is not known: `multiraft ctl stores` lists those that are")));
    }
    if stores.planned {
        return have_emptied(client, store, &stores).await;
    }
    let mut targets = Targets {
        replicas: stores
            .stores
            .iter()
            .filter(|known| known.connected && known.store != store)
            .map(|known| (known.store, known.regions))
            .collect(),
    };
    hand_over(client, store, &mut drained).await?;
    loop {
        let regions = client.regions().await?.regions;
        let there: Vec<_> = regions.into_iter().filter(|region| replica_on(region, store).is_some()).collect();
        let (count, moved_before) = (there.len(), drained.moves);
        for (number, region) in there.iter().enumerate() {
            if let Some(to) = move_off(client, store, region.id, &mut targets).await? {
                drained.moves += 1;
                say(&format!("{} of {count}: region {} from store {store} to store {to}", number + 1, region.id))?;
            }
        }
        // What is listed may be old news; what was moved just now is not. A round that found nothing is the last.
        if drained.moves == moved_before {
            return Ok(drained);
        }
    }
}

/// Has whoever plans empty the store, and waits until that is done: two who move replicas would play ball.
async fn have_emptied(client: &Client, store: u64, before: &StoresAnswer) -> Result<Drained, Failure> {
    client.drain(store).await?;
    let view =
        |stores: &StoresAnswer| stores.stores.iter().find(|known| known.store == store).cloned().unwrap_or_default();
    let first = view(before);
    let (mut left, mut moved) = (first.regions, Instant::now());
    loop {
        let now = view(&client.stores().await?);
        if now.standing.as_deref() == Some("drained") {
            return Ok(Drained { transfers: first.leaders, moves: first.regions });
        }
        if now.regions < left {
            (left, moved) = (now.regions, Instant::now());
            say(&format!("{left} replicas are left on store {store}"))?;
        }
        if moved.elapsed() > STANDSTILL {
            return Err(Failure::new(format!(
                "{left} replicas have stayed on store {store} for {STANDSTILL:?}: are there stores that lack them, and have \
                 room? It is emptied when there are; `multiraft ctl drain {store} --cancel` takes it back"
            )));
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Hands over what the store leads, as far as is known here. A leader that is overlooked goes with its replica.
async fn hand_over(client: &Client, store: u64, drained: &mut Drained) -> Result<(), Failure> {
    let regions = client.regions().await?.regions;
    let mut led: BTreeMap<u64, usize> = BTreeMap::new();
    for leader in regions.iter().filter_map(|region| region.leader) {
        *led.entry(leader).or_default() += 1;
    }
    for region in regions.iter().filter(|region| region.leader == Some(store)) {
        let voters = region.replicas.iter().filter(|replica| replica.role == "voter" && replica.store != store);
        let Some(to) = voters.map(|voter| voter.store).min_by_key(|voter| led.get(voter).copied().unwrap_or(0)) else {
            continue;
        };
        // One that does not succeed is no obstacle: the region's leader hands over before it gives its vote away.
        if client.transfer(region.id, to).await.is_ok() {
            *led.entry(to).or_default() += 1;
            drained.transfers += 1;
        }
    }
    say(&format!("{} leaderships handed over", drained.transfers))
}

/// Moves one region's replica off the store; to where, or `None` if there is none any more.
async fn move_off(client: &Client, store: u64, region: u64, targets: &mut Targets) -> Result<Option<u64>, Failure> {
    let (mut attempt, mut tried) = (0, None);
    loop {
        attempt += 1;
        match try_move(client, store, region, targets, &mut tried).await {
            Err(failure) if attempt == ATTEMPTS => {
                return Err(Failure::during(&format!("region {region} stays on store {store}"), failure));
            }
            Err(_) => sleep(RETRY_PAUSE).await,
            Ok(to) => return Ok(to),
        }
    }
}

/// `tried` is the store that an earlier attempt has chosen: it may hold a learner by now, which is then taken up again.
async fn try_move(
    client: &Client,
    store: u64,
    region: u64,
    targets: &mut Targets,
    tried: &mut Option<u64>,
) -> Result<Option<u64>, Failure> {
    let current = match client.region(region).await {
        Ok(answer) => one(answer)?,
        // One that was merged away meanwhile has nothing to move; its neighbour is found in the next round.
        Err(failure) => {
            let regions = client.regions().await?.regions;
            return if regions.iter().any(|listed| listed.id == region) { Err(failure) } else { Ok(None) };
        }
    };
    let Some(role) = replica_on(&current, store) else { return Ok(None) };
    let begun = tried.filter(|to| replica_on(&current, *to) == Some("learner") && role == "voter");
    let Some(to) = begun.or_else(|| targets.choose(&current)) else {
        return Err(Failure::new(format!(
            "every store that is up has a replica of region {region}: start another store"
        )));
    };
    *tried = Some(to);
    let remove = ChangeRequest { change: ChangeKind::Remove, store };
    let add = |change| ChangeRequest { change, store: to };
    match role {
        "learner" => client.change(region, vec![add(ChangeKind::AddLearner), remove]).await?,
        "witness" => {
            // Witnesses come and go alone.
            client.change(region, vec![add(ChangeKind::AddWitness)]).await?;
            client.change(region, vec![remove]).await?
        }
        _ => client.change(region, vec![add(ChangeKind::AddVoter), remove]).await?,
    };
    *targets.replicas.entry(to).or_default() += 1;
    Ok(Some(to))
}

fn replica_on(region: &RegionView, store: u64) -> Option<&str> {
    region.replicas.iter().find(|replica| replica.store == store).map(|replica| replica.role.as_str())
}

/// The stores that may take replicas, and how many each has.
#[derive(Debug)]
struct Targets {
    replicas: BTreeMap<u64, usize>,
}

impl Targets {
    /// The store with the fewest replicas, of those that have none of this region.
    fn choose(&self, region: &RegionView) -> Option<u64> {
        let free = self.replicas.iter().filter(|(store, _)| replica_on(region, **store).is_none());
        free.min_by_key(|(_, count)| **count).map(|(store, _)| *store)
    }
}
