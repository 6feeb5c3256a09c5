//! What waits for a place among the operations takes it when one is free, not only once an interval.

use std::time::{Duration, Instant};

use multiraft::placement::{Kind, Kinds};
use multiraft::{Engine, Placement, StoreId, StoreStanding};

use crate::support::{Cluster, eventually};

/// How long stores may take to join.
const LIMIT: Duration = Duration::from_secs(90);
/// How often stores report.
const INTERVAL: Duration = Duration::from_secs(2);
const REGIONS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_is_emptied_faster_than_by_one_region_an_interval() {
    let mut cluster = Cluster::new(4, REGIONS);
    cluster.bootstrapped = 3;
    let mut placement = Placement::default();
    placement.interval = INTERVAL;
    placement.options.enabled = Kinds::NONE.with(Kind::Drain);
    // One store can take what leaves, one replica at a time.
    (placement.options.limits.snapshots_in, placement.options.limits.snapshots_out) = (1, 1);
    cluster.config.placement = Some(placement);
    let engines = cluster.start_all().await;
    let has_joined = || async { engines[0].stores().await.is_ok_and(|stores| stores.len() == 4) };
    eventually(LIMIT, "four stores have joined", has_joined).await;
    let plans = || async { engines.iter().find_map(Engine::placement).is_some_and(|state| state.is_complete) };
    eventually(LIMIT, "one plans", plans).await;

    let begin = Instant::now();
    engines[0].drain_store(StoreId(3)).await.unwrap();
    let all = u32::try_from(REGIONS).unwrap();
    eventually(INTERVAL * all, "it is emptied", || async {
        let stores = engines[0].stores().await.unwrap_or_default();
        stores.iter().any(|store| store.id == StoreId(3) && store.standing == StoreStanding::Drained)
    })
    .await;
    // The root region leaves as well.
    assert!(begin.elapsed() < INTERVAL * all, "{:?}", begin.elapsed());
    let held = engines[3].status().await.regions.len();
    assert_eq!(held, REGIONS + 1);
    for engine in &engines {
        engine.shutdown().await;
    }
}
