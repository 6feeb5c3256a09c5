//! Placement by real stores: one dies for good, one is drained, and then there is nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use multiraft::placement::{Blocked, Obstacle};
use multiraft::{
    Bootstrap, Consistency, Engine, Placement, RegionDescriptor, RegionId, Role, Seat, StateKind, StoreError, StoreId,
    StoreRecord, StoreStanding,
};

use crate::planning::quiet;
use crate::support::{Cluster, Map, eventually, put};

/// For what takes seconds on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(90);
/// How long nothing may be begun for the cluster to count as quiet.
const QUIET: Duration = Duration::from_secs(5);

/// A cluster that plans, with short limits.
fn planned(stores: u64, regions: usize, bootstrapped: u64) -> Cluster {
    let mut cluster = Cluster::new(stores, regions);
    cluster.bootstrapped = bootstrapped;
    let mut placement = Placement::default();
    placement.interval = Duration::from_millis(200);
    placement.options.silent_after = Duration::from_secs(3);
    placement.options.repair_after = Duration::from_secs(5);
    placement.options.balance.wake_after = Duration::from_secs(1);
    placement.options.timeouts.retry_min = Duration::from_millis(500);
    placement.options.timeouts.retry_max = Duration::from_secs(2);
    cluster.config.placement = Some(placement);
    cluster
}

async fn start_all(cluster: &Cluster) -> BTreeMap<u64, Engine> {
    let mut engines = BTreeMap::new();
    for store in cluster.stores() {
        let seat = Seat::new().label("zone", format!("z{store}")).weight(2);
        let builder = cluster.builder(store.0).seat(seat).state_machine(Map);
        engines.insert(store.0, builder.start().await.unwrap());
    }
    engines
}

/// All regions as their leaders know them.
async fn regions(engines: &BTreeMap<u64, Engine>) -> BTreeMap<RegionId, Arc<RegionDescriptor>> {
    let mut regions = BTreeMap::new();
    for engine in engines.values() {
        let led = engine.status().await.regions.into_iter().filter(|region| region.is_leader);
        regions.extend(led.map(|region| (region.descriptor.id, region.descriptor)));
    }
    regions
}

/// Whether each of so many regions has three voters, on running stores that hold them, and nothing else.
async fn all_have_three(engines: &BTreeMap<u64, Engine>, count: usize) -> bool {
    let regions = regions(engines).await;
    let mut held = BTreeSet::new();
    for (store, engine) in engines {
        let statuses = engine.status().await.regions;
        held.extend(statuses.into_iter().filter(|status| status.applied.get() > 0).map(|s| (*store, s.descriptor.id)));
    }
    let is_fine = |region: &Arc<RegionDescriptor>| {
        region.replicas.len() == 3
            && region.replicas.iter().all(|replica| replica.role == Role::Voter)
            && region.replicas.iter().all(|replica| held.contains(&(replica.store.0, region.id)))
    };
    regions.len() == count && regions.values().all(is_fine)
}

async fn standing_of(engine: &Engine, store: u64) -> Option<StoreStanding> {
    let stores = engine.stores().await.ok()?;
    stores.into_iter().find(|record| record.id == StoreId(store)).map(|record| record.standing)
}

/// Writes one key after the other through one store after the other, until it is told to stop; gives the keys that were
/// acknowledged.
async fn write_on(engines: Vec<Engine>, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut written = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Spread over all regions; each key once.
        let key = format!("key{:03}-{n}", n * 7 % 1000);
        match engines[n % engines.len()].propose_key(&key, put(&key, "under load")).await {
            Ok(answer) => {
                assert_eq!(answer, "ok");
                written.push(key);
            }
            // A store that is gone, or a command of which nobody knows.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    written
}

async fn write_all(engine: &Engine, from: usize) {
    for n in (from..1000).step_by(50) {
        let key = format!("key{n:03}");
        let region = engine.region_for(key.as_bytes()).unwrap().id;
        assert_eq!(engine.propose(region, put(&key, "value")).await.unwrap(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dead_store_is_replaced_a_drained_one_is_emptied_and_then_nothing_moves() {
    const REGIONS: usize = 8;
    // The root region, and those that own keys.
    let all = REGIONS + 1;
    let cluster = planned(5, REGIONS, 3);
    let mut engines = start_all(&cluster).await;
    write_all(&engines[&1], 0).await;
    eventually(LIMIT, "five stores have joined", || async {
        engines[&5].stores().await.is_ok_and(|stores| stores.len() == 5)
    })
    .await;
    let stores = engines[&4].stores().await.unwrap();
    assert_eq!(stores[4].labels["zone"], "z5");
    assert_eq!((stores[4].weight, stores[4].standing), (2, StoreStanding::Up));
    assert_eq!(stores[4].address, cluster.address(5).to_string());
    // The new stores take their share.
    eventually(LIMIT, "each store holds some", || async {
        let mut fewest = usize::MAX;
        for engine in engines.values() {
            fewest = fewest.min(engine.status().await.regions.len());
        }
        fewest >= 3 && all_have_three(&engines, all).await
    })
    .await;
    quiet(engines.values(), QUIET, LIMIT).await;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_on(engines.values().cloned().collect(), Arc::clone(&stop)));

    // The store that plans dies, for good.
    let planner = *engines.iter().find(|(_, engine)| engine.placement().is_some()).unwrap().0;
    engines.remove(&planner).unwrap().shutdown().await;
    eventually(LIMIT, "three live replicas each", || all_have_three(&engines, all)).await;
    quiet(engines.values(), QUIET, LIMIT).await;
    assert!(all_have_three(&engines, all).await);

    // The store that plans now is drained: it has to hand that over as well.
    let drained = *engines.iter().find(|(_, engine)| engine.placement().is_some()).unwrap().0;
    let other = engines.iter().find(|(store, _)| **store != drained).unwrap().1.clone();
    let early = other.leave(StoreId(drained)).await;
    assert_eq!(early, Err(StoreError::NotDrained { store: StoreId(drained) }));
    engines[&drained].drain_store(StoreId(drained)).await.unwrap();
    eventually(LIMIT, "it is reported as drained", || async {
        standing_of(&other, drained).await == Some(StoreStanding::Drained)
    })
    .await;
    assert_eq!(engines[&drained].status().await.regions, []);
    assert!(all_have_three(&engines, all).await);
    // It holds nothing, and can still be asked, and ask.
    assert_eq!(standing_of(&engines[&drained], drained).await, Some(StoreStanding::Drained));
    engines[&drained].leave(StoreId(drained)).await.unwrap();
    engines.remove(&drained).unwrap().shutdown().await;
    quiet(engines.values(), QUIET, LIMIT).await;
    assert!(all_have_three(&engines, all).await);
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert!(written.len() > 100, "{} writes", written.len());
    for key in written {
        let value = other.read_key(&key, key.clone(), Consistency::Linearizable).await.unwrap();
        assert_eq!(value, "under load", "{key}");
    }
    drop(other);
    for engine in engines.values() {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_make_no_sense_are_refused_with_the_cure() {
    let cluster = planned(1, 1, 1);
    let engine = cluster.start(1).await;
    eventually(LIMIT, "it has joined", || async { standing_of(&engine, 1).await == Some(StoreStanding::Up) }).await;
    let (store, stranger) = (StoreId(1), StoreId(9));
    assert_eq!(engine.drain_store(stranger).await, Err(StoreError::Unknown { store: stranger }));
    assert_eq!(engine.leave(stranger).await, Err(StoreError::Unknown { store: stranger }));
    assert_eq!(engine.leave(store).await, Err(StoreError::NotDrained { store }));
    assert_eq!(engine.forget_store(store).await, Err(StoreError::NotLeft { store }));
    // Nobody can take what it holds: it never counts as drained.
    engine.drain_store(store).await.unwrap();
    eventually(LIMIT, "the planner says so", || async {
        let is_stuck = |blocked: &Blocked| blocked.obstacle == Obstacle::NoStore;
        engine.placement().is_some_and(|state| state.is_complete && state.blocked.iter().any(is_stuck))
    })
    .await;
    assert_eq!(engine.leave(store).await, Err(StoreError::NotDrained { store }));
    engine.cancel_drain(store).await.unwrap();
    let mut record: StoreRecord = engine.stores().await.unwrap().remove(0);
    assert_eq!(record.standing, StoreStanding::Up);
    record.weight = 7;
    assert_eq!(engine.join(record.clone()).await, Ok(record.clone()));
    engine.shutdown().await;
    // It joins again with what its builder gives it.
    let engine = cluster.start(1).await;
    eventually(LIMIT, "it has joined again", || async {
        engine.stores().await.is_ok_and(|stores| stores.len() == 1 && stores[0].weight == 1)
    })
    .await;
    engine.shutdown().await;
}

/// A store that was told only where store 1 is.
async fn start_stranger(cluster: &Cluster, store: u64) -> Engine {
    let builder = Engine::builder()
        .store(StoreId(store))
        .data_dir(cluster.data_dir(store))
        .listen(cluster.address(store))
        .tls(cluster.tls(store))
        .state(cluster.kind.clone())
        .config(cluster.config.clone())
        .peer(StoreId(1), cluster.address(1));
    builder.state_machine(Map).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_that_know_only_one_other_join_and_take_part() {
    let mut cluster = planned(3, 3, 1);
    cluster.kind = StateKind::Sled;
    // New replicas of the root region come by snapshots, which the record of the stores is in.
    cluster.config.compact_entries = 10;
    cluster.config.compact_keep_entries = 2;
    cluster.config.checkpoint_interval = Duration::from_millis(50);
    let mut engines = BTreeMap::from([(1, start_first(&cluster).await)]);
    write_all(&engines[&1], 0).await;
    for _ in 0..20 {
        engines[&1].stores().await.unwrap();
    }
    for store in 2..=3 {
        engines.insert(store, start_stranger(&cluster, store).await);
    }
    // One region for each key range, and the root.
    eventually(LIMIT, "all have three replicas", || all_have_three(&engines, 4)).await;
    for engine in engines.values() {
        eventually(LIMIT, "each is linked to both others", || async {
            engine.status().await.peers.iter().filter(|peer| peer.connected).count() == 2
        })
        .await;
    }
    // The record is in every replica, also after a restart of the one that had it first.
    engines.remove(&1).unwrap().shutdown().await;
    eventually(LIMIT, "the others know all three", || async {
        engines[&3].stores().await.is_ok_and(|stores| stores.len() == 3)
    })
    .await;
    engines[&2].drain_store(StoreId(1)).await.unwrap();
    engines.insert(1, start_first(&cluster).await);
    eventually(LIMIT, "it is back, and still to be emptied", || async {
        standing_of(&engines[&1], 1).await == Some(StoreStanding::Draining)
    })
    .await;
    for engine in engines.values() {
        engine.shutdown().await;
    }
}

/// Store 1, which knows nobody.
async fn start_first(cluster: &Cluster) -> Engine {
    let bootstrap = Bootstrap { boundaries: cluster.boundaries.clone(), stores: vec![StoreId(1)] };
    let builder = Engine::builder()
        .store(StoreId(1))
        .data_dir(cluster.data_dir(1))
        .listen(cluster.address(1))
        .tls(cluster.tls(1))
        .state(cluster.kind.clone())
        .config(cluster.config.clone())
        .bootstrap(bootstrap);
    builder.state_machine(Map).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_plans_stops_with_its_last_handle() {
    let cluster = planned(1, 1, 1);
    let engine = cluster.start(1).await;
    eventually(LIMIT, "it plans", || async { engine.placement().is_some_and(|state| state.is_complete) }).await;
    let clone = engine.clone();
    drop(engine);
    assert_eq!(standing_of(&clone, 1).await, Some(StoreStanding::Up), "there is another handle");
    drop(clone);
    eventually(LIMIT, "its files are free", || async {
        match cluster.builder(1).state_machine(Map).start().await {
            Ok(engine) => {
                engine.shutdown().await;
                true
            }
            Err(_) => false,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let mut cluster = planned(4, 4, 3);
    cluster.config.placement.as_mut().unwrap().dry_run = true;
    let engines = start_all(&cluster).await;
    write_all(&engines[&1], 0).await;
    eventually(LIMIT, "it would move something to the fourth store", || async {
        engines.values().find_map(Engine::placement).is_some_and(|state| !state.operations.is_empty())
    })
    .await;
    let state = engines.values().find_map(Engine::placement).unwrap();
    assert_eq!((state.begun, state.done, state.failed), (0, 0, 0));
    assert_eq!(engines[&4].status().await.regions, []);
    for engine in engines.values() {
        engine.shutdown().await;
    }
}
