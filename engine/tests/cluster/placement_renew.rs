//! Replicas that are out of service, on real stores that plan: they are replaced, and nobody asks for it.

use std::time::Duration;

use bytes::Bytes;
use multiraft::{CheckOutcome, CheckReport, Consistency, Engine, RegionId, Role, StateKind, StoreId};
use multiraft_storage::{SledConfig, SledStore, StateBatch, StateStore};

use crate::planning::{hasty, quiet};
use crate::support::{Cluster, eventually, put};

/// For what takes seconds on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(90);
/// How long nothing may be begun for the cluster to count as quiet.
const QUIET: Duration = Duration::from_secs(3);

/// Three stores that plan, with short limits.
fn planned() -> Cluster {
    let mut cluster = Cluster::new(3, 2);
    cluster.kind = StateKind::Sled;
    cluster.config.placement = Some(hasty());
    cluster
}

async fn stop(engines: Vec<Engine>) {
    for engine in &engines {
        engine.shutdown().await;
    }
}

/// Writes to the region of `key` what is there in the end.
async fn write(engine: &Engine, key: &str, value: &str) {
    assert_eq!(engine.propose_key(key, put(key, value)).await.unwrap(), "ok");
}

/// Whether three voters have answered a check, and all are the same.
fn is_whole(report: &CheckReport) -> bool {
    let is_sound = |store: &u64| {
        let replica = report.replicas.iter().find(|replica| replica.store == StoreId(*store));
        replica.is_some_and(|replica| replica.outcome == CheckOutcome::Same && !replica.fenced)
    };
    report.replicas.len() == 3
        && (1..=3).all(|store| is_sound(&store))
        && report.region.replicas.iter().all(|replica| replica.role == Role::Voter)
}

/// Waits until a region has three sound replicas, that on `store` a later one than `old`, and nothing is planned any more.
async fn becomes_whole(engines: &[Engine], region: RegionId, store: u64, old: u64) {
    eventually(LIMIT, "another replica is there, and all are equal", || async {
        let Ok(report) = engines[0].check(region).await else { return false };
        let own = report.region.replica_on(StoreId(store)).map(|own| own.id.get());
        is_whole(&report) && own.is_some_and(|own| own > old)
    })
    .await;
    quiet(engines, QUIET, LIMIT).await;
    assert!(is_whole(&engines[1].check(region).await.unwrap()));
    for engine in engines {
        assert_eq!(engine.status().await.damaged, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_another_state_is_fenced_by_a_check_and_replaced_by_whoever_plans() {
    let cluster = planned();
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"later").unwrap().id;
    write(&engines[0], "later", "right").await;
    eventually(LIMIT, "all replicas are equal", || async {
        engines[0].check(region).await.is_ok_and(|report| is_whole(&report))
    })
    .await;
    stop(engines).await;
    let state = SledStore::open(cluster.data_dir(3).join("state"), SledConfig::default()).unwrap();
    let mut batch = StateBatch::new();
    // Where the embedder's pairs lie: behind a byte of their own.
    batch.put(Bytes::from_static(b"\x10later"), Bytes::from_static(b"wrong"));
    state.write(batch).unwrap();
    state.flush().unwrap();
    drop(state);

    let engines = cluster.start_all().await;
    assert_eq!(engines[2].read(region, "later", Consistency::Local).await.unwrap(), "wrong");
    let old = engines[0].region_for(b"later").unwrap().replica_on(StoreId(3)).unwrap().id.get();
    eventually(LIMIT, "it is found out", || async {
        let Ok(report) = engines[1].check(region).await else { return false };
        report.replicas.iter().any(|replica| replica.store == StoreId(3) && replica.fenced)
    })
    .await;
    becomes_whole(&engines, region, 3, old).await;
    assert_eq!(engines[2].read(region, "later", Consistency::Local).await.unwrap(), "right");
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_damaged_log_is_replaced_by_whoever_plans() {
    let cluster = planned();
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"later").unwrap().id;
    write(&engines[0], "later", "a value that changes").await;
    for _ in 0..20 {
        write(&engines[0], "later", "another one").await;
    }
    eventually(LIMIT, "all replicas are equal", || async {
        engines[0].check(region).await.is_ok_and(|report| is_whole(&report))
    })
    .await;
    let old = engines[0].region_for(b"later").unwrap().replica_on(StoreId(2)).unwrap().id.get();
    stop(engines).await;
    cluster.damage_log(2, b"a value that changes");
    let engines = cluster.start_all().await;
    becomes_whole(&engines, region, 2, old).await;
    assert_eq!(engines[1].read(region, "later", Consistency::Local).await.unwrap(), "another one");
    stop(engines).await;
}
