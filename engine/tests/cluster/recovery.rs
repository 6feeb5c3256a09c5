//! Recovery of lost quorum with real stores: what survivors had is there again, the dead stay out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::recovery::{Loss, PlanError, PlanOptions, RecoveryError, Verdict, make_plan};
use multiraft::{
    Change, Consistency, Engine, RegionDescriptor, RegionError, RegionId, RegionStatus, Role, StateKind, StoreId,
};

use crate::support::recovering::kept;
use crate::support::{Cluster, eventually, put};

const PATIENCE: Duration = Duration::from_secs(60);

async fn write(engine: &Engine, keys: impl Iterator<Item = u32>) {
    for n in keys {
        let key = format!("key{n:03}");
        let reply = engine.propose_key(key.clone(), put(&key, &n.to_string())).await.unwrap();
        assert_eq!(reply, "ok");
    }
}

async fn holds(engine: &Engine, keys: impl Iterator<Item = u32>, consistency: Consistency) -> bool {
    for n in keys {
        let key = format!("key{n:03}");
        match engine.read_key(key.clone(), Bytes::from(key), consistency).await {
            Ok(value) if value == n.to_string() => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// Adds a voter; tries again if the region's leader or epoch has changed meanwhile.
async fn fill(engine: &Engine, region: RegionId, store: u64) -> Arc<RegionDescriptor> {
    loop {
        match engine.change_replicas(region, [Change::add_voter(StoreId(store))]).await {
            Err(RegionError::EpochMismatch { current }) if current.replica_on(StoreId(store)).is_none() => {}
            changed => return changed.unwrap(),
        }
    }
}

async fn stop(engines: impl IntoIterator<Item = Engine>) {
    for engine in engines {
        engine.shutdown().await;
    }
}

async fn the_last_store_serves_again(kind: StateKind) {
    let mut cluster = Cluster::new(4, 3);
    (cluster.bootstrapped, cluster.kind) = (3, kind);
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(cluster.start(store).await);
    }
    write(&engines[1], 0..200).await;
    let parts = engines[1].split(engines[1].region_for(b"key100").unwrap().id, ["key100"]).await.unwrap();
    write(&engines[2], 200..300).await;
    eventually(PATIENCE, "store 1 has it all", || holds(&engines[0], 0..300, Consistency::Local)).await;
    stop(engines).await;

    let plan = cluster.plan(&[1], &[2, 3]).await;
    assert_eq!(plan.gaps, []);
    for region in &plan.regions {
        let keep = kept(&plan, region.known.id);
        assert_eq!((keep.store, keep.loss, keep.becomes.replicas.len()), (StoreId(1), Loss::Possible, 1));
    }
    let applied = cluster.apply(1, &plan).await;
    assert_eq!((applied.kept.len(), applied.removed.len()), (plan.regions.len(), 0));
    assert!(cluster.apply(1, &plan).await.already, "carried out again, it does nothing");

    let survivor = cluster.start(1).await;
    eventually(PATIENCE, "it is all there", || holds(&survivor, 0..300, Consistency::Linearizable)).await;
    write(&survivor, 300..320).await;
    let record = survivor.recovered(parts[0].id).unwrap();
    assert_eq!((record.plan, record.note.as_str(), record.dead), (plan.id(), "the test", vec![StoreId(2), StoreId(3)]));
    // Ids go on above all that were used, and the regions can be changed and filled again.
    let later = survivor.split(parts[1].id, ["key150"]).await.unwrap();
    assert!(later[1].id.get() > plan.ids_upto);
    let fresh = cluster.start(4).await;
    for region in survivor.regions().iter().map(|region| region.id).chain([RegionId::ROOT]) {
        assert_eq!(fill(&survivor, region, 4).await.replicas.len(), 2);
    }
    eventually(PATIENCE, "the new store has it too", || holds(&fresh, 0..320, Consistency::Local)).await;
    // A store that comes back from the dead is told, and serves no more.
    let ghost = cluster.start(2).await;
    eventually(PATIENCE, "the dead store is told", || async {
        ghost.fault().is_some_and(|fault| fault.contains("given up for good"))
    })
    .await;
    assert!(holds(&survivor, 0..320, Consistency::Linearizable).await);
    stop([survivor, fresh, ghost]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_stores_serves_again_with_state_on_disk() {
    the_last_store_serves_again(StateKind::Sled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_stores_serves_again_with_state_in_memory() {
    the_last_store_serves_again(StateKind::Memory).await;
}

/// Five stores, replication 3, stores 4 and 5 gone: what had its quorum elsewhere is not touched, the rest comes back, is filled
/// again, and the dead are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_with_a_quorum_are_not_touched_and_the_others_are_filled_again() {
    let mut cluster = Cluster::new(5, 3);
    (cluster.bootstrapped, cluster.kind) = (3, StateKind::Sled);
    let engines = cluster.start_all().await;
    let regions: Vec<RegionId> = engines[0].regions().iter().map(|region| region.id).collect();
    let replace = |from, to| [Change::add_voter(StoreId(to)), Change::remove(StoreId(from))];
    // Region 0 stays on 1, 2, 3; region 1 goes to 3, 4, 5; region 2 to 1, 4, 5.
    for (region, from, to) in [(1, 1, 4), (1, 2, 5), (2, 2, 4), (2, 3, 5)] {
        engines[0].change_replicas(regions[region], replace(from, to)).await.unwrap();
    }
    write(&engines[0], (0..1000).step_by(9)).await;
    let left = [(2, regions[1]), (0, regions[2])];
    for (at, region) in left {
        eventually(PATIENCE, "the survivor has it all", || async {
            let range = engines[at].region(region).unwrap().range.clone();
            let last = if range.end.is_empty() { "key999".to_owned() } else { "key657".to_owned() };
            engines[at].read(region, last.clone(), Consistency::Local).await.is_ok_and(|value| !value.is_empty())
        })
        .await;
    }
    stop(engines).await;

    let plan = cluster.plan(&[1, 2, 3], &[4, 5]).await;
    assert_eq!(plan.region(regions[0]).unwrap().verdict, Verdict::Healthy);
    assert_eq!(plan.region(RegionId::ROOT).unwrap().verdict, Verdict::Healthy);
    assert_eq!(kept(&plan, regions[1]).store, StoreId(3));
    assert_eq!(kept(&plan, regions[2]).store, StoreId(1));
    assert_eq!(plan.gaps, []);
    for store in 1..=3 {
        cluster.apply(store, &plan).await;
    }
    let engines = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
    eventually(PATIENCE, "all of it is served", || holds(&engines[1], (0..1000).step_by(9), Consistency::Linearizable))
        .await;
    for (region, stores) in [(regions[1], [1, 2]), (regions[2], [2, 3])] {
        for store in stores {
            let changed = fill(&engines[0], region, store).await;
            let added = changed.replica_on(StoreId(store)).unwrap();
            assert!(added.id.get() > plan.ids_upto, "ids that the plan has used are passed over: {changed:?}");
        }
    }
    let ghosts = [cluster.start(4).await, cluster.start(5).await];
    for ghost in &ghosts {
        eventually(PATIENCE, "a dead store is told", || async { ghost.fault().is_some() }).await;
    }
    write(&engines[2], (0..1000).step_by(9)).await;
    for region in &regions {
        let region = engines[0].describe_region(*region).await.unwrap();
        let voters: Vec<u64> = region.replicas.iter().map(|replica| replica.store.get()).collect();
        assert!(region.replicas.iter().all(|replica| replica.role == Role::Voter));
        assert_eq!(voters.iter().collect::<std::collections::BTreeSet<_>>(), [1, 2, 3].iter().collect());
    }
    stop(engines.into_iter().chain(ghosts)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_while_a_quorum_may_be_alive_or_the_plan_is_for_another_state() {
    let mut cluster = Cluster::new(3, 2);
    cluster.kind = StateKind::Sled;
    let engines = cluster.start_all().await;
    write(&engines[0], 0..20).await;
    let running = cluster.try_survey(1).await.unwrap_err();
    assert!(running.to_string().contains("in use"), "{running}");
    stop(engines).await;

    let (one, two) = (cluster.survey(1).await, cluster.survey(2).await);
    let plan = |surveys: &[_], dead: &[u64]| {
        let dead: Vec<StoreId> = dead.iter().copied().map(StoreId).collect();
        make_plan(surveys, &dead, &PlanOptions::default())
    };
    assert_eq!(plan(std::slice::from_ref(&one), &[]), Err(PlanError::NobodyDead));
    assert_eq!(plan(std::slice::from_ref(&one), &[3]), Err(PlanError::Unaccounted { stores: vec![StoreId(2)] }));
    assert_eq!(plan(&[one.clone(), two.clone()], &[2, 3]), Err(PlanError::Alive { store: StoreId(2) }));
    let healthy = plan(&[one.clone(), two.clone()], &[3]).unwrap();
    assert!(!healthy.does_something());
    assert!(healthy.regions.iter().all(|region| region.verdict == Verdict::Healthy));

    let lost = plan(&[one], &[2, 3]).unwrap();
    let not_from_it = cluster.try_apply(2, &lost).await;
    assert!(matches!(not_from_it, Err(RecoveryError::NotInPlan { store: StoreId(2) })));
    let mut foreign = lost.clone();
    foreign.cluster = multiraft::ClusterId(77);
    assert!(matches!(cluster.try_apply(1, &foreign).await, Err(RecoveryError::OtherCluster)));
    // Another start of the store is enough: it may have promised something since.
    cluster.start(1).await.shutdown().await;
    assert!(matches!(cluster.try_apply(1, &lost).await, Err(RecoveryError::Stale { store: StoreId(1) })));
    let engines = cluster.start_all().await;
    eventually(PATIENCE, "all is as before", || holds(&engines[0], 0..20, Consistency::Linearizable)).await;
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_a_store_is_refused_and_stays_as_it_is() {
    let cluster = Cluster::new(1, 1);
    let error = cluster.try_survey(1).await.unwrap_err();
    assert!(matches!(error, RecoveryError::NoStore { .. }), "{error}");
    assert!(!cluster.data_dir(1).exists());
}

/// A region on all five stores, of which three are lost; on one of the two others the plan is not carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_on_which_the_plan_was_forgotten_learns_that_it_is_removed() {
    let mut cluster = Cluster::new(5, 1);
    cluster.kind = StateKind::Sled;
    let engines = cluster.start_all().await;
    write(&engines[0], 0..30).await;
    let region = engines[0].region_for(b"key").unwrap().id;
    // No survivor leads: one that stopped would hand over, and the other have an entry more.
    for region in [region, RegionId::ROOT] {
        engines[0].transfer_leader(region, StoreId(3)).await.unwrap();
    }
    for engine in &engines[..2] {
        let caught_up = || async {
            let (mine, leads) = (engine.status().await.regions, engines[2].status().await.regions);
            let ends = |regions: &[RegionStatus]| regions.iter().map(|it| it.last_index).collect::<Vec<_>>();
            ends(&mine) == ends(&leads) && mine.iter().all(|it| it.applied == it.last_index)
        };
        eventually(PATIENCE, "survivors have it all", caught_up).await;
        assert!(holds(engine, 0..30, Consistency::Local).await);
    }
    stop(engines).await;
    for store in [1, 2] {
        let replicas = cluster.survey(store).await.replicas;
        assert!(replicas.iter().all(|replica| replica.applied == replica.last), "a stop leaves a record: {replicas:?}");
    }
    let plan = cluster.plan(&[1, 2], &[3, 4, 5]).await;
    let keeper = kept(&plan, region).store.0;
    assert_eq!(kept(&plan, RegionId::ROOT).store.0, keeper, "the same store has the most of both");
    let other = 3 - keeper;
    cluster.apply(keeper, &plan).await;

    let (survivor, forgotten) = (cluster.start(keeper).await, cluster.start(other).await);
    eventually(PATIENCE, "the old replicas go", || async { forgotten.status().await.regions.is_empty() }).await;
    assert!(holds(&forgotten, 0..30, Consistency::Linearizable).await, "it sends on what it is asked");
    for region in [region, RegionId::ROOT] {
        assert_eq!(fill(&survivor, region, other).await.replicas.len(), 2);
    }
    write(&forgotten, 30..40).await;
    stop([survivor, forgotten]).await;
}

/// The end came just before a plan was marked as done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_the_middle_of_a_plan_does_not_start() {
    let mut cluster = Cluster::new(3, 1);
    cluster.kind = StateKind::Sled;
    let engines = cluster.start_all().await;
    write(&engines[0], 0..10).await;
    eventually(PATIENCE, "store 1 has it all", || holds(&engines[0], 0..10, Consistency::Local)).await;
    stop(engines).await;
    let plan = cluster.plan(&[1], &[2, 3]).await;
    cluster.apply(1, &plan).await;
    let path = cluster.data_dir(1).join("RECOVERY");
    let text = std::fs::read_to_string(&path).unwrap();
    let body = text.split("crc32c").next().unwrap().replace("done", "begun");
    std::fs::write(&path, format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()))).unwrap();
    let error = cluster.try_start(1).await.err().unwrap().to_string();
    assert!(error.contains("begun and not finished"), "{error}");
    assert!(matches!(cluster.try_survey(1).await, Err(RecoveryError::Unfinished { .. })));
    cluster.apply(1, &plan).await;
    let survivor = cluster.start(1).await;
    assert!(holds(&survivor, 0..10, Consistency::Linearizable).await);
    survivor.shutdown().await;
}
