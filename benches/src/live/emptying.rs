//! Emptying a store under a light load, inside another store.
//!
//! Every region has a replica on the store that is emptied; stores that hold nothing stand ready to take them.

use std::time::{Duration, Instant};

use multiraft::{Consistency, Engine, Role, StoreError, StoreId, StoreStanding};
use serde_json::{Value, json};

use super::check::{Written, walk};
use super::times::{Times, Window};
use super::writers::{Lane, Writers, fill};
use crate::cluster::{Problem, STORES, number};
use crate::keyspace::KeySpace;

/// Bytes of each value of what regions hold at first.
const FILL_BYTES: u64 = 1024;
/// How often it is looked how far things are.
const LOOK: Duration = Duration::from_millis(50);
/// How long all stores may take to join.
const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// How emptying went.
struct Emptied {
    /// While it went on.
    window: Window,
    /// From the call until no region had a replica there.
    moved: Duration,
    /// Until that was noted, so that the store may leave.
    noted: Duration,
    /// The most regions that moved in a second.
    peak: u64,
}

/// Runs the job.
pub(super) async fn run(engine: &Engine, keys: KeySpace, job: &Value) -> Result<Value, Problem> {
    let [regions, rate, payload] = ["regions", "rate", "payload"].map(|name| number(job, name));
    let filled = number(job, "fill_bytes").div_ceil(FILL_BYTES);
    joined(engine, number(job, "stores")).await?;
    fill(engine, keys, 0..regions, filled, FILL_BYTES as usize).await?;
    let writers =
        Writers::start(engine, keys, payload as usize, vec![Lane { regions: 0..regions, rate, first: filled }]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let from = writers.now();
    tokio::time::sleep(Duration::from_secs(number(job, "before_s"))).await;
    let before = Window { from, until: writers.now() };
    let emptied = empty(engine, &writers, Duration::from_secs(number(job, "within_s"))).await?;
    let writes = writers.stop().await?.swap_remove(0);
    let mut written = Written::default();
    for region in 0..regions {
        (0..filled).for_each(|number| written.add_key(keys.spread(region, number), FILL_BYTES as usize));
    }
    written.add(&writes, payload as usize);
    written.check(engine, Consistency::Linearizable).await?;
    replicated(engine, regions).await?;
    let times = |window| Times::of_writes(writes.iter().map(|write| write.span), &[window]).json();
    Ok(json!({
        "moved_s": emptied.moved.as_secs_f64(), "noted_s": emptied.noted.as_secs_f64(),
        "regions_per_s": regions as f64 / emptied.moved.as_secs_f64(), "regions_per_s_peak": emptied.peak,
        "writes_before_ms": times(before), "writes_during_ms": times(emptied.window),
        "written": written.json(),
    }))
}

/// The store that is emptied: the last one that holds anything.
fn store() -> StoreId {
    StoreId(STORES)
}

/// Waits until all stores have joined.
async fn joined(engine: &Engine, stores: u64) -> Result<(), Problem> {
    let deadline = Instant::now() + JOINED_WITHIN;
    loop {
        let found = engine.stores().await.map_err(|error| failed("joining", &error))?.len() as u64;
        if found >= stores {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = format!("{found} of {stores} have joined within {} s", JOINED_WITHIN.as_secs());
            return Err(Problem::Failed { what: "the joining of all stores".to_owned(), why });
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn empty(engine: &Engine, writers: &Writers, within: Duration) -> Result<Emptied, Problem> {
    let (begin, from) = (Instant::now(), writers.now());
    engine.drain_store(store()).await.map_err(|error| failed("emptying a store", &error))?;
    let mut moved = None;
    // How many were left at each look of the last second.
    let (mut looks, mut peak) = (std::collections::VecDeque::new(), 0);
    loop {
        let left = engine.regions().iter().filter(|region| region.replica_on(store()).is_some()).count() as u64;
        looks.push_back((begin.elapsed(), left));
        while looks.front().is_some_and(|(at, _)| begin.elapsed() > *at + Duration::from_secs(1)) {
            looks.pop_front();
        }
        peak = peak.max(looks.front().map_or(0, |(_, earlier)| earlier.saturating_sub(left)));
        if left == 0 {
            let moved = *moved.get_or_insert_with(|| (begin.elapsed(), writers.now()));
            let stores = engine.stores().await.map_err(|error| failed("emptying a store", &error))?;
            if stores.iter().any(|record| record.id == store() && record.standing == StoreStanding::Drained) {
                let window = Window { from, until: moved.1 };
                return Ok(Emptied { window, moved: moved.0, noted: begin.elapsed(), peak });
            }
        }
        if begin.elapsed() >= within {
            let why = format!("{left} replicas were left on it after {} s; see --within", within.as_secs());
            return Err(Problem::Failed { what: "emptying a store".to_owned(), why });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn failed(what: &str, error: &StoreError) -> Problem {
    Problem::Failed { what: what.to_owned(), why: error.to_string() }
}

/// All regions are there, with three voters each, none of them on the store that was emptied.
async fn replicated(engine: &Engine, expected: u64) -> Result<(), Problem> {
    let regions = walk(engine).await?;
    if regions.len() as u64 != expected {
        return Err(Problem::Wrong(format!("there should be {expected} regions, and there are {}", regions.len())));
    }
    let is_fine = |replicas: &[multiraft::Replica]| {
        replicas.len() == 3 && replicas.iter().all(|replica| replica.role == Role::Voter && replica.store != store())
    };
    match regions.iter().find(|region| !is_fine(&region.replicas)) {
        Some(region) => Err(Problem::Wrong(format!("region {} has not three voters elsewhere: {region:?}", region.id))),
        None => Ok(()),
    }
}
