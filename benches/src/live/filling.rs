//! A region gets a replica on a store that has nothing of it: the snapshot that fills it, inside the store that leads.

use std::time::Duration;

use multiraft::{Change, Consistency, Engine, RegionError, RegionId, StoreId};
use serde_json::{Value, json};

use super::check::Written;
use super::times::{Times, Window};
use super::writers::{Lane, Writers, fill};
use crate::cluster::{Problem, number};
use crate::keyspace::KeySpace;

/// The region that is filled, and one beside it, by their numbers in the key space.
const LARGE: u64 = 0;
const SMALL: u64 = 1;
/// Rest between two rounds, for the removed replica to be cleared away.
const REST: Duration = Duration::from_secs(1);
/// How often a change is tried.
const ATTEMPTS: u64 = 20;

/// Runs the job.
pub(super) async fn run(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [size, value, rate, payload, rounds] =
        ["size_bytes", "value_bytes", "rate", "payload", "rounds"].map(|name| number(job, name));
    let spare = StoreId(number(job, "spare"));
    let filled = size.div_ceil(value);
    let large = led_here(engine, keys, LARGE).await?;
    led_here(engine, keys, SMALL).await?;
    fill(engine, keys, LARGE..LARGE + 1, filled, value as usize).await?;
    let lane = |region| Lane { regions: region..region + 1, rate, first: filled };
    let writers = Writers::start(engine, keys, payload as usize, vec![lane(LARGE), lane(SMALL)]);
    tokio::time::sleep(REST).await;
    let from = writers.now();
    tokio::time::sleep(Duration::from_secs(number(job, "before_s"))).await;
    let before = Window { from, until: writers.now() };
    let (mut during, mut bytes, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        if round > 0 {
            change(engine, large, Change::remove(spare)).await?;
            tokio::time::sleep(REST).await;
        }
        let sent = engine.status().await.counters.snapshot_bytes_sent;
        let from = writers.now();
        change(engine, large, Change::add_voter(spare)).await?;
        let until = writers.now();
        let sent = engine.status().await.counters.snapshot_bytes_sent - sent;
        if sent < size {
            return Err(Problem::Wrong(format!("only {sent} bytes were sent of a region that holds {size}")));
        }
        during.push(Window { from, until });
        bytes.push(sent);
        took.push(until - from);
    }
    let writes = writers.stop().await?;
    let mut written = Written::default();
    (0..filled).for_each(|number| written.add_key(keys.spread(LARGE, number), value as usize));
    writes.iter().for_each(|lane| written.add(lane, payload as usize));
    written.check(engine, Consistency::Linearizable).await?;
    let spans = |lane: u64| writes[lane as usize].iter().map(|write| write.span);
    let part = |lane: u64, windows: &[Window]| Times::of_writes(spans(lane), windows).json();
    Ok(json!({
        "bytes_sent": bytes, "seconds": took.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
        "same_before_ms": part(LARGE, &[before]), "same_during_ms": part(LARGE, &during),
        "other_before_ms": part(SMALL, &[before]), "other_during_ms": part(SMALL, &during),
        "written": written.json(),
    }))
}

/// Reads, on the store that was filled, what the region held before, from its own replica.
pub(super) async fn check(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [size, value] = ["size_bytes", "value_bytes"].map(|name| number(job, name));
    let mut written = Written::default();
    (0..size.div_ceil(value)).for_each(|number| written.add_key(keys.spread(LARGE, number), value as usize));
    written.check(engine, Consistency::Local).await?;
    Ok(json!({ "written": written.json(), "installed": engine.status().await.counters.snapshots_installed }))
}

/// Makes this store the leader of a region, so that all that is sent of it is sent and counted here.
async fn led_here(engine: &Engine, keys: KeySpace, region: u64) -> Result<RegionId, Problem> {
    let failed = |why| Problem::Failed { what: "taking over the lead of a region".to_owned(), why };
    let key = keys.spread(region, 0).to_be_bytes();
    let region = engine.locate(key, None).await.ok_or_else(|| failed("it cannot be found".to_owned()))?.id;
    engine.transfer_leader(region, engine.store()).await.map_err(|error| failed(error.to_string()))?;
    Ok(region)
}

async fn change(engine: &Engine, region: RegionId, change: Change) -> Result<(), Problem> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match engine.change_replicas(region, [change]).await {
            Ok(_) => return Ok(()),
            // An attempt before it has removed it after all.
            Err(RegionError::NoReplica { .. }) if matches!(last, Some(RegionError::Uncertain)) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Problem::Failed { what: format!("{change:?}"), why: last.map_or_else(String::new, |error| error.to_string()) })
}
