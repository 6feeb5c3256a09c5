//! Reads by lease on three real stores: from each of them, past the workers, while leadership moves.

use std::time::Duration;

use multiraft::{Consistency, Engine, RegionId, StoreId};

use crate::support::{Cluster, eventually, put};

const LIMIT: Duration = Duration::from_secs(20);

async fn reads(engine: &Engine) -> u64 {
    engine.status().await.counters.reads
}

async fn turns(engine: &Engine) -> u64 {
    engine.status().await.counters.turns
}

async fn all_sleep(engine: &Engine) -> bool {
    engine.status().await.regions.iter().all(|region| region.asleep)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_store_reads_by_lease_what_was_answered_before_wherever_the_leader_goes() {
    let mut cluster = Cluster::new(3, 2);
    cluster.config.liveness.leases = true;
    cluster.config.balance_leaders = false;
    let engines = cluster.start_all().await;
    let regions: Vec<RegionId> = engines[0].regions().iter().map(|region| region.id).collect();
    let keys: Vec<Vec<u8>> = engines[0].regions().iter().map(|region| region.range.start.to_vec()).collect();
    let keys: Vec<String> = keys.into_iter().map(|start| String::from_utf8(start).unwrap() + "k").collect();
    for round in 0..45_usize {
        for (at, region) in regions.iter().enumerate() {
            let writer = &engines[(round + at) % 3];
            eventually(LIMIT, "a write is carried out", || async {
                writer.propose(*region, put(&keys[at], &round.to_string())).await.is_ok()
            })
            .await;
            for reader in &engines {
                let found = reader.read(*region, keys[at].clone(), Consistency::Lease).await.unwrap();
                assert_eq!(found, round.to_string(), "round {round} of {region:?} at {:?}", reader.store());
            }
            if round % 9 == 4 {
                let to = StoreId((round + at) as u64 % 3 + 1);
                // Whether it comes to that is not what is tested.
                let _ = engines[at % 3].transfer_leader(*region, to).await;
            }
        }
    }
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_that_rest_are_read_by_lease_at_all_stores_without_a_turn() {
    let mut cluster = Cluster::new(3, 1);
    cluster.config.liveness.leases = true;
    let engines = cluster.start_all().await;
    let region = engines[0].regions()[0].id;
    eventually(LIMIT, "a write is carried out", || async { engines[0].propose(region, put("k", "v")).await.is_ok() })
        .await;
    // Also a check that the reads before it have listed the region.
    eventually(LIMIT, "all rest, and reads cost no turns", || async {
        for engine in &engines {
            assert_eq!(engine.read(region, "k", Consistency::Lease).await.unwrap(), "v");
        }
        for engine in &engines {
            if !all_sleep(engine).await {
                return false;
            }
        }
        let mut before = Vec::new();
        for engine in &engines {
            before.push((turns(engine).await, reads(engine).await));
        }
        for _ in 0..300 {
            for engine in &engines {
                assert_eq!(engine.read(region, "k", Consistency::Lease).await.unwrap(), "v");
            }
        }
        let (mut taken, mut counted) = (0, 0);
        for (engine, (turns_before, reads_before)) in engines.iter().zip(before) {
            counted += reads(engine).await - reads_before;
            taken += turns(engine).await - turns_before;
        }
        assert!(counted >= 900, "each is counted, where it is answered");
        taken < 150
    })
    .await;
    for engine in &engines {
        engine.shutdown().await;
    }
}
