//! What a sleeping replica costs: all that three stores hold, counted by the allocator (the table in `docs/performance.md`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it has counted")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use multiraft::{Engine, RegionId};
use peak_alloc::PeakAlloc;
use support::{Cluster, eventually, put};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// A sleeping replica holds no more than this, in bytes, with a pair in a state in memory and the newest entries in the log's cache.
const SLEEPING_MAX: usize = 2_400;
const FEW: usize = 200;
const MANY: usize = 2_200;
const LIMIT: Duration = Duration::from_secs(120);

fn key(number: usize) -> String {
    format!("{number:08}")
}

async fn all_sleep(engines: &[Engine], regions: usize) -> bool {
    for engine in engines {
        let statuses = engine.status().await.regions;
        // The root region is one more.
        if statuses.len() != regions + 1
            || !statuses.iter().all(|region| region.asleep && region.applied == region.last_index)
        {
            return false;
        }
    }
    true
}

/// What three stores with so many regions hold once all replicas sleep, each of which has taken a write.
async fn held_with(regions: usize) -> usize {
    let mut cluster = Cluster::new(3, 1);
    cluster.boundaries = (1..regions).map(|number| Bytes::from(key(number))).collect();
    let engines = cluster.start_all().await;
    let first = &engines[0];
    for batch in (0..regions).collect::<Vec<_>>().chunks(64) {
        let writes: Vec<_> = batch
            .iter()
            .map(|number| {
                let (engine, key) = (first.clone(), key(*number));
                tokio::spawn(async move { engine.propose_key(key.as_bytes(), put(&key, "sixteen bytes in")).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
    }
    eventually(LIMIT, "all replicas sleep", || all_sleep(&engines, regions)).await;
    // Leaders go where they belong three seconds after their election. Then workers see on two walks, a second apart, that nothing
    // happens any more, and give back what only busy regions need.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(all_sleep(&engines, regions).await);
    let held = ALLOCATED.current_usage();
    for engine in engines {
        assert!(engine.region(RegionId(2)).is_some());
        engine.shutdown().await;
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_replica_holds_what_the_table_says() {
    // Whatever the first cluster leaves behind in the process is there before both.
    held_with(2).await;
    let few = held_with(FEW).await;
    let many = held_with(MANY).await;
    let replica = (many - few) / (3 * (MANY - FEW));
    println!("{FEW} regions: {few} bytes, {MANY} regions: {many} bytes, a replica: {replica} bytes");
    assert!(replica <= SLEEPING_MAX, "{replica} bytes a replica");
}
