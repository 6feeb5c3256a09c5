//! Consistency checks on real stores: equal replicas pass whatever they have gone through, a replica with another state is found,
//! fenced and replaced.

use std::time::Duration;

use bytes::Bytes;
use multiraft::{
    ApplyContext, Change,
    CheckOutcome::{self, Different, NoAnswer, Same},
    CheckReport, Consistency, Engine, Event, Events, ReadError, RegionError, RegionId, RegionView, StateError,
    StateKind, StateMachine, StateTxn, StoreId,
};
use multiraft_storage::{SledConfig, SledStore, StateBatch, StateStore};

use crate::support::{Cluster, Map, eventually, put};

const LIMIT: Duration = Duration::from_secs(60);

/// A map that forgets, on one store, what it is told under keys that begin with `lost`.
struct Forgetful {
    is_sound: bool,
}

impl StateMachine for Forgetful {
    fn apply(&self, context: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        if !self.is_sound && command.starts_with(b"P\0lost") {
            return Ok(Bytes::from_static(b"ok"));
        }
        Map.apply(context, command, state)
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        Map.lookup(view, query)
    }
}

async fn start(cluster: &Cluster, store: u64, forgetful: u64) -> Engine {
    cluster.builder(store).state_machine(Forgetful { is_sound: store != forgetful }).start().await.unwrap()
}

async fn write(engine: &Engine, key: &str, value: &str) {
    assert_eq!(engine.propose_key(key, put(key, value)).await.unwrap(), "ok");
}

/// The outcome on each store, in order of store.
fn outcomes(report: &CheckReport) -> Vec<(u64, CheckOutcome)> {
    let mut all: Vec<_> = report.replicas.iter().map(|replica| (replica.store.get(), replica.outcome)).collect();
    all.sort_by_key(|(store, _)| *store);
    all
}

fn all_same(report: &CheckReport) -> bool {
    report.replicas.iter().all(|replica| replica.outcome == Same)
}

/// Asks until every replica has answered and is the same: one that comes by a snapshot has no digest of an index before it.
async fn check_all_same(engine: &Engine, region: RegionId) {
    eventually(LIMIT, "all replicas answer, and are equal", || async {
        let report = engine.check(region).await.unwrap();
        assert!(report.is_consistent(), "{report:?}");
        all_same(&report)
    })
    .await;
}

async fn stop(engines: Vec<Engine>) {
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_replicas_pass_after_splits_merges_moves_and_restarts() {
    for kind in [StateKind::Sled, StateKind::Memory] {
        let mut cluster = Cluster::new(4, 2);
        cluster.bootstrapped = 3;
        cluster.kind = kind;
        let engines = cluster.start_all().await;
        let session = engines[0].session();
        for n in 0..40 {
            write(&engines[n % 3], &format!("key{n:03}"), "before").await;
        }
        let region = engines[0].region_for(b"key000").unwrap().id;
        session.propose(region, put("key001", "in a session")).await.unwrap();
        // The fourth store knows of no region but by asking.
        let first = engines[3].check(region).await.unwrap();
        assert_eq!(outcomes(&first), (1..=3).map(|store| (store, Same)).collect::<Vec<_>>());
        let parts = engines[1].split(region, ["key020"]).await.unwrap();
        engines[2].change_replicas(parts[1].id, [Change::add_learner(StoreId(4))]).await.unwrap();
        check_all_same(&engines[0], parts[1].id).await;
        check_all_same(&engines[0], parts[0].id).await;
        engines[0].change_replicas(parts[1].id, [Change::remove(StoreId(4))]).await.unwrap();
        let whole = engines[0].merge(parts[1].id, parts[0].id).await.unwrap();
        check_all_same(&engines[2], whole.id).await;
        check_all_same(&engines[2], RegionId(1)).await;
        let before = engines[2].check(whole.id).await.unwrap();
        assert!(before.index > first.index && before.expected != first.expected);
        drop(session);
        stop(engines).await;
        let engines = cluster.start_all().await;
        check_all_same(&engines[1], whole.id).await;
        let unknown = engines[1].check(RegionId(77)).await.unwrap_err();
        assert_eq!(unknown, RegionError::UnknownRegion { region: RegionId(77) });
        stop(engines).await;
    }
}

/// The stores whose replicas are fenced.
fn fenced(report: &CheckReport) -> Vec<u64> {
    report.replicas.iter().filter(|replica| replica.fenced).map(|replica| replica.store.get()).collect()
}

async fn await_event(events: &mut Events, mut is_wanted: impl FnMut(&Event) -> bool) -> Event {
    let found = async {
        loop {
            match events.next().await {
                Some(event) if is_wanted(&event) => return event,
                Some(_) => {}
                None => panic!("the store runs"),
            }
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap()
}

async fn is_out_of_service(engine: &Engine, region: RegionId) -> bool {
    engine.status().await.damaged.iter().any(|(damaged, _)| *damaged == region)
}

/// Store 2 forgets what it is told, is found out, fenced, and filled from its peers; whether it leads the region or not.
async fn find_fence_and_repair(kind: StateKind, leads: bool) {
    let mut cluster = Cluster::new(3, 2);
    cluster.kind = kind;
    cluster.config.balance_leaders = false;
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(start(&cluster, store, 2).await);
    }
    let (region, other) = (engines[0].region_for(b"lost").unwrap().id, engines[0].region_for(b"found").unwrap().id);
    write(&engines[0], "found", "1").await;
    write(&engines[0], "lost", "1").await;
    write(&engines[0], "lower", "1").await;
    let mut events = engines[2].events();
    let leader = StoreId(if leads { 2 } else { 1 });
    eventually(LIMIT, "leadership moves", || async { engines[0].transfer_leader(region, leader).await.is_ok() }).await;

    let report = engines[0].check(region).await.unwrap();
    assert_eq!(outcomes(&report), [(1, Same), (2, Different), (3, Same)]);
    assert_eq!((fenced(&report), report.is_consistent()), (vec![2], false));
    let told = await_event(&mut events, |event| matches!(event, Event::ReplicaFenced { .. })).await;
    let old = report.region.replica_on(StoreId(2)).unwrap().id;
    assert_eq!(told, Event::ReplicaFenced { region, replica: old, store: StoreId(2), index: report.index });

    // It serves nothing, leads nothing; the region and the other one go on.
    eventually(LIMIT, "the replica is out of service", || is_out_of_service(&engines[1], region)).await;
    let refused = engines[1].read(region, "lower", Consistency::Local).await.unwrap_err();
    assert_eq!(refused, ReadError::UnknownRegion { region });
    write(&engines[1], "lost", "2").await;
    assert_eq!(engines[1].read_key("lost", "lost", Consistency::Linearizable).await.unwrap(), "2");
    assert_eq!(engines[1].read(other, "found", Consistency::Local).await.unwrap(), "1");
    assert!(all_same(&engines[1].check(other).await.unwrap()));
    let again = engines[1].check(region).await.unwrap();
    assert_eq!((outcomes(&again), fenced(&again)), (vec![(1, Same), (2, NoAnswer), (3, Same)], vec![2]));

    // That survives a restart of the store, and of all of them.
    stop(engines).await;
    let mut engines = Vec::new();
    for store in 1..=3 {
        engines.push(start(&cluster, store, 0).await);
    }
    assert!(is_out_of_service(&engines[1], region).await);
    assert_eq!(engines[1].read(region, "lower", Consistency::Local).await.unwrap_err(), refused);
    let still = engines[2].check(region).await.unwrap();
    assert_eq!((outcomes(&still), fenced(&still)), (vec![(1, Same), (2, NoAnswer), (3, Same)], vec![2]));

    let repaired = engines[0].repair_replica(region, StoreId(2)).await.unwrap();
    assert!(repaired.replica_on(StoreId(2)).unwrap().id > old, "a new replica, under an id of its own");
    check_all_same(&engines[0], region).await;
    assert!(!is_out_of_service(&engines[1], region).await);
    assert_eq!(engines[1].read(region, "lost", Consistency::Local).await.unwrap(), "2");
    let whole = engines[0].check(region).await.unwrap();
    assert_eq!((all_same(&whole), fenced(&whole)), (true, vec![]));
    stop(engines).await;
    let engines = cluster.start_all().await;
    assert!(engines[1].status().await.damaged.is_empty());
    check_all_same(&engines[1], region).await;
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_another_state_is_found_fenced_and_replaced() {
    find_fence_and_repair(StateKind::Sled, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_another_state_hands_over_is_fenced_and_replaced() {
    find_fence_and_repair(StateKind::Memory, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_changed_behind_the_engines_back_is_found() {
    let mut cluster = Cluster::new(3, 2);
    cluster.kind = StateKind::Sled;
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"later").unwrap().id;
    write(&engines[0], "later", "right").await;
    check_all_same(&engines[0], region).await;
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
    let mut events: Vec<Events> = engines.iter().map(Engine::events).collect();
    let mut report = engines[1].check(region).await.unwrap();
    while outcomes(&report)[2].1 == NoAnswer {
        report = engines[1].check(region).await.unwrap();
    }
    assert_eq!((outcomes(&report)[2], fenced(&report)), ((3, Different), vec![3]));
    let mut told = false;
    for events in &mut events {
        await_event(events, |event| {
            told |= matches!(event, Event::ReplicasDiffer { report } if report.region.id == region);
            matches!(event, Event::ReplicaFenced { store: StoreId(3), .. })
        })
        .await;
    }
    assert!(told, "at the leader");
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_replaced_and_its_log_forgets_the_damage() {
    let mut cluster = Cluster::new(3, 2);
    cluster.kind = StateKind::Sled;
    let engines = cluster.start_all().await;
    let (region, other) = (engines[0].region_for(b"later").unwrap().id, engines[0].region_for(b"first").unwrap().id);
    write(&engines[0], "later", "a value that changes").await;
    for n in 0..50 {
        write(&engines[0], if n % 2 == 0 { "later" } else { "first" }, "another one").await;
    }
    check_all_same(&engines[0], region).await;
    stop(engines).await;
    cluster.damage_log(2, b"a value that changes");

    let engines = cluster.start_all().await;
    assert!(is_out_of_service(&engines[1], region).await && !is_out_of_service(&engines[1], other).await);
    let refused = engines[1].read(region, "later", Consistency::Local).await.unwrap_err();
    assert_eq!(refused, ReadError::UnknownRegion { region });
    let report = engines[2].check(region).await.unwrap();
    assert_eq!((outcomes(&report), fenced(&report)), (vec![(1, Same), (2, NoAnswer), (3, Same)], vec![]));
    engines[0].repair_replica(region, StoreId(2)).await.unwrap();
    check_all_same(&engines[0], region).await;
    check_all_same(&engines[0], other).await;
    assert!(!is_out_of_service(&engines[1], region).await);
    stop(engines).await;
    let engines = cluster.start_all().await;
    assert!(engines[1].status().await.damaged.is_empty(), "nobody is suspect any more");
    check_all_same(&engines[1], region).await;
    stop(engines).await;
}
