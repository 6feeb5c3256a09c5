//! Regions of real stores that split and move.

use std::time::Duration;

use bytes::Bytes;
use multiraft::{
    Change, ChangeError, Consistency, Engine, MergeFault, ProposeError, ProposeOptions, RegionError, RegionId, Role,
    SplitFault, StateKind, StoreId,
};

use crate::support::{Cluster, append, eventually, put};

const LIMIT: Duration = Duration::from_secs(30);

/// Writes a key wherever it lives.
async fn write(engine: &Engine, key: &str, value: &str) {
    assert_eq!(engine.propose_key(key, put(key, value)).await.unwrap(), "ok");
}

/// Reads a key wherever it lives.
async fn read(engine: &Engine, key: &str) -> Bytes {
    engine.read_key(key, key.to_owned(), Consistency::Linearizable).await.unwrap()
}

async fn has_replica(engine: &Engine, region: RegionId) -> bool {
    engine.status().await.regions.iter().any(|status| status.descriptor.id == region)
}

async fn stop(engines: Vec<Engine>) {
    for engine in &engines {
        engine.shutdown().await;
    }
}

fn key(n: usize) -> String {
    format!("key{n:03}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_keeps_every_write_and_survives_restarts() {
    for kind in [StateKind::Memory, StateKind::Sled] {
        let mut cluster = Cluster::new(3, 1);
        cluster.kind = kind;
        let engines = cluster.start_all().await;
        for n in 0..60 {
            write(&engines[n % 3], &key(n * 10), "before").await;
        }
        let parent = engines[0].region_for(b"key").unwrap();
        let parts = engines[1].split(parent.id, ["key200", "key400"]).await.unwrap();
        let bounds: Vec<_> = parts.iter().map(|part| (part.range.start.clone(), part.range.end.clone())).collect();
        assert_eq!(
            bounds,
            [("".into(), "key200".into()), ("key200".into(), "key400".into()), ("key400".into(), "".into())]
        );
        assert_eq!(parts[0].id, parent.id);
        assert!(parts.iter().all(|part| part.epoch.version == parent.epoch.version + 1));
        for n in 0..60 {
            assert_eq!(read(&engines[n % 3], &key(n * 10)).await, "before");
            write(&engines[(n + 1) % 3], &key(n * 10 + 1), "after").await;
        }
        let options = ProposeOptions::new(parent.id).epoch(parent.epoch);
        let stale = engines[0].propose_with(options, put("key500", "lost")).await.unwrap_err();
        assert_eq!(stale, ProposeError::EpochMismatch { current: parts[0].clone() });
        stop(engines).await;
        let engines = cluster.start_all().await;
        for n in 0..60 {
            assert_eq!(read(&engines[n % 3], &key(n * 10)).await, "before");
            assert_eq!(read(&engines[n % 3], &key(n * 10 + 1)).await, "after");
        }
        let again = engines[2].split(parts[2].id, ["key500"]).await.unwrap();
        assert_eq!(again.len(), 2);
        assert!(again[1].id > parts[2].id, "ids are not used twice");
        assert_eq!(read(&engines[0], "key501").await, "after");
        stop(engines).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_that_make_no_sense_are_refused_before_anything_is_proposed() {
    let cluster = Cluster::new(1, 2);
    let engine = cluster.start(1).await;
    let region = engine.region_for(b"key700").unwrap();
    let refused = |fault| Err(RegionError::Split { fault, current: region.clone() });
    let none: [&str; 0] = [];
    assert_eq!(engine.split(region.id, none).await, refused(SplitFault::NoKeys));
    for keys in [vec!["key100"], vec!["key500"], vec!["key700", "key600"], vec!["key700", "key700"], vec![""]] {
        assert_eq!(engine.split(region.id, keys).await, refused(SplitFault::Keys));
    }
    let root = engine.split(RegionId(1), ["key700"]).await.unwrap_err();
    assert!(matches!(root, RegionError::Split { fault: SplitFault::Root, .. }), "{root}");
    let unknown = engine.split(RegionId(77), ["key700"]).await.unwrap_err();
    assert_eq!(unknown, RegionError::UnknownRegion { region: RegionId(77) });
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_follow_their_keys_through_a_split() {
    let cluster = Cluster::new(3, 1);
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"key").unwrap().id;
    let session = engines[0].session();
    for n in 0..10 {
        session.propose(region, append("key800", &format!("{n},"))).await.unwrap();
    }
    let parts = engines[0].split(region, ["key500"]).await.unwrap();
    for n in 10..20 {
        session.propose(parts[1].id, append("key800", &format!("{n},"))).await.unwrap();
    }
    let expected: String = (0..20).map(|n| format!("{n},")).collect();
    assert_eq!(read(&engines[2], "key800").await, expected);
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_moves_to_a_store_that_had_nothing_and_comes_back() {
    for kind in [StateKind::Sled, StateKind::Memory] {
        let mut cluster = Cluster::new(4, 2);
        cluster.bootstrapped = 3;
        cluster.kind = kind;
        let engines = cluster.start_all().await;
        for n in 0..40 {
            write(&engines[0], &key(n), "moved").await;
        }
        let region = engines[1].region_for(b"key000").unwrap();
        let grown = engines[1].change_replicas(region.id, [Change::add_voter(StoreId(4))]).await.unwrap();
        assert_eq!(grown.replica_on(StoreId(4)).unwrap().role, Role::Voter);
        let local = |n: usize| engines[3].read(region.id, key(n), Consistency::Local);
        eventually(LIMIT, "the new replica has the data", || async {
            local(0).await.is_ok_and(|value| value == "moved") && local(39).await.is_ok_and(|value| value == "moved")
        })
        .await;
        // Who asks for a change says what it knows of the region, and is refused if that is not the newest.
        let knows = || engines[2].region(region.id).is_some_and(|known| known.epoch == grown.epoch);
        eventually(LIMIT, "store 3 has heard of the change", || async { knows() }).await;
        let changes = [Change::remove(StoreId(1)), Change::demote(StoreId(2))];
        let moved = engines[2].change_replicas(region.id, changes).await.unwrap();
        let roles: Vec<_> = moved.replicas.iter().map(|replica| (replica.store.get(), replica.role)).collect();
        assert_eq!(roles, [(2, Role::Learner), (3, Role::Voter), (4, Role::Voter)]);
        let has = async |store: usize| has_replica(&engines[store - 1], region.id).await;
        eventually(LIMIT, "the removed replica is gone", || async { !has(1).await }).await;
        assert!(has(4).await);
        let back = engines[2].change_replicas(region.id, [Change::add_voter(StoreId(1))]).await.unwrap();
        let ids: Vec<_> = region.replicas.iter().map(|replica| replica.id).collect();
        assert!(!ids.contains(&back.replica_on(StoreId(1)).unwrap().id), "replica ids are never used again");
        eventually(LIMIT, "the later replica has the data", || async {
            engines[0].read(region.id, key(39), Consistency::Local).await.is_ok_and(|value| value == "moved")
        })
        .await;
        stop(engines).await;
        let engines = cluster.start_all().await;
        for n in 0..40 {
            assert_eq!(read(&engines[n % 2], &key(n)).await, "moved");
        }
        stop(engines).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_replicas_that_make_no_sense_are_refused_before_anything_is_proposed() {
    let cluster = Cluster::new(1, 1);
    let engine = cluster.start(1).await;
    let region = engine.region_for(b"key").unwrap();
    let refused = |fault| Err(RegionError::Replicas { fault, current: region.clone() });
    assert_eq!(engine.change_replicas(region.id, []).await, refused(ChangeError::Empty));
    assert_eq!(
        engine.change_replicas(region.id, [Change::remove(StoreId(1))]).await,
        refused(ChangeError::NoVoterLeft)
    );
    let absent = engine.change_replicas(region.id, [Change::promote(StoreId(9))]).await;
    assert_eq!(absent, Err(RegionError::NoReplica { store: StoreId(9), current: region.clone() }));
    let taken = ChangeError::StoreTaken { store: StoreId(1), id: region.replicas[0].id };
    assert_eq!(engine.change_replicas(region.id, [Change::add_learner(StoreId(1))]).await, refused(taken));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_merge_in_both_directions_and_keep_every_write() {
    for kind in [StateKind::Memory, StateKind::Sled] {
        let mut cluster = Cluster::new(3, 3);
        cluster.kind = kind;
        let engines = cluster.start_all().await;
        for n in 0..60 {
            write(&engines[n % 3], &key(n * 16), "before").await;
        }
        let parts = engines[0].regions();
        let right_into_left = engines[1].merge(parts[1].id, parts[0].id).await.unwrap();
        assert_eq!(right_into_left.id, parts[0].id);
        assert_eq!(
            (&right_into_left.range.start, &right_into_left.range.end),
            (&parts[0].range.start, &parts[1].range.end)
        );
        for n in 0..60 {
            write(&engines[(n + 1) % 3], &key(n * 16 + 1), "between").await;
        }
        let whole = engines[2].merge(parts[0].id, parts[2].id).await.unwrap();
        assert_eq!((whole.id, whole.range.start.len(), whole.range.end.len()), (parts[2].id, 0, 0));
        for engine in &engines {
            eventually(LIMIT, "one region is left", || async { engine.status().await.regions.len() == 2 }).await;
        }
        for n in 0..60 {
            assert_eq!(read(&engines[n % 3], &key(n * 16)).await, "before");
            assert_eq!(read(&engines[n % 3], &key(n * 16 + 1)).await, "between");
        }
        stop(engines).await;
        let engines = cluster.start_all().await;
        assert_eq!(engines[0].status().await.regions.len(), 2);
        for n in 0..60 {
            assert_eq!(read(&engines[n % 3], &key(n * 16)).await, "before");
            assert_eq!(read(&engines[n % 3], &key(n * 16 + 1)).await, "between");
        }
        let again = engines[1].split(whole.id, ["key500"]).await.unwrap();
        assert_eq!(read(&engines[0], "key496").await, "before");
        let back = engines[0].merge(again[1].id, again[0].id).await.unwrap();
        assert_eq!((back.id, back.range.end.len()), (whole.id, 0));
        assert_eq!(read(&engines[2], "key512").await, "before");
        stop(engines).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_that_make_no_sense_are_refused_before_anything_is_proposed() {
    let cluster = Cluster::new(1, 4);
    let engine = cluster.start(1).await;
    let parts = engine.regions();
    let refused = |fault| Err(RegionError::Merge { fault, current: parts[0].clone() });
    assert_eq!(engine.merge(parts[0].id, parts[0].id).await, refused(MergeFault::Itself));
    assert_eq!(engine.merge(parts[0].id, parts[2].id).await, refused(MergeFault::NotNeighbours));
    assert_eq!(engine.merge(parts[0].id, RegionId(1)).await, refused(MergeFault::Root));
    assert_eq!(engine.merge(parts[3].id, RegionId(77)).await, Err(RegionError::UnknownRegion { region: RegionId(77) }));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_moves_the_source_beside_its_target() {
    let mut cluster = Cluster::new(4, 2);
    cluster.bootstrapped = 3;
    let engines = cluster.start_all().await;
    for n in 0..40 {
        write(&engines[0], &key(n * 20), "kept").await;
    }
    let parts = engines[0].regions();
    let changes = [Change::add_voter(StoreId(4)), Change::remove(StoreId(1))];
    engines[1].change_replicas(parts[1].id, changes).await.unwrap();
    let whole = engines[1].merge(parts[0].id, parts[1].id).await.unwrap();
    let stores: Vec<_> = whole.replicas.iter().map(|replica| replica.store.get()).collect();
    assert_eq!(stores, [2, 3, 4]);
    for n in 0..40 {
        assert_eq!(read(&engines[1 + n % 2], &key(n * 20)).await, "kept");
    }
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_keeps_a_region_writable_and_has_nothing_to_be_read() {
    let mut cluster = Cluster::new(4, 1);
    cluster.bootstrapped = 3;
    let engines = cluster.start_all().await;
    write(&engines[0], &key(1), "early").await;
    let region = engines[0].region_for(key(1).as_bytes()).unwrap().id;
    engines[0].change_replicas(region, [Change::remove(StoreId(3))]).await.unwrap();
    let with_witness = engines[0].change_replicas(region, [Change::add_witness(StoreId(4))]).await.unwrap();
    assert_eq!(with_witness.replicas.last().map(|replica| replica.role), Some(Role::Witness));
    eventually(LIMIT, "the witness is there", async || has_replica(&engines[3], region).await).await;
    for n in 2..60 {
        write(&engines[3], &key(n), "late").await;
    }
    // What it is asked for it gets from another store.
    for n in [1, 2, 59] {
        assert_eq!(read(&engines[3], &key(n)).await, if n == 1 { "early" } else { "late" });
    }
    let local = engines[3].read_key(key(2), key(2), Consistency::Local).await;
    assert!(matches!(local, Err(multiraft::ReadError::UnknownRegion { .. })), "{local:?}");
    // Its vote makes up for the other voter.
    engines[0].transfer_leader(region, StoreId(1)).await.ok();
    engines[1].shutdown().await;
    write(&engines[0], &key(3), "later").await;
    assert_eq!(read(&engines[3], &key(3)).await, "later");
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_gives_the_source_its_targets_witness_and_takes_away_its_own() {
    let mut cluster = Cluster::new(4, 2);
    cluster.bootstrapped = 3;
    let engines = cluster.start_all().await;
    for n in 0..40 {
        write(&engines[0], &key(n * 20), "kept").await;
    }
    let parts = engines[0].regions();
    let (source, target) = (parts[0].id, parts[1].id);
    for (region, change) in [
        // A witness where the target has none, and one where the source has a voter.
        (source, Change::add_witness(StoreId(4))),
        (target, Change::remove(StoreId(3))),
        (target, Change::add_witness(StoreId(3))),
    ] {
        engines[0].change_replicas(region, [change]).await.unwrap();
    }
    let whole = engines[0].merge(source, target).await.unwrap();
    let places: Vec<_> = whole.replicas.iter().map(|replica| (replica.store.get(), replica.role)).collect();
    assert_eq!(places, [(1, Role::Voter), (2, Role::Voter), (3, Role::Witness)]);
    for n in 0..40 {
        assert_eq!(read(&engines[n % 2], &key(n * 20)).await, "kept");
        write(&engines[n % 2], &key(n * 20), "kept").await;
    }
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_that_cannot_be_finished_is_rolled_back_and_can_be_tried_again() {
    let cluster = Cluster::new(3, 2);
    let mut engines = cluster.start_all().await;
    for n in 0..20 {
        write(&engines[0], &key(n * 40), "before").await;
    }
    let parts = engines[0].regions();
    // Not every replica of the source can say that it is frozen.
    engines.remove(2).shutdown().await;
    let given_up = engines[0].merge(parts[0].id, parts[1].id).await.unwrap_err();
    assert!(matches!(given_up, RegionError::RolledBack { .. }), "{given_up}");
    for n in 0..20 {
        write(&engines[1], &key(n * 40 + 1), "after").await;
        assert_eq!(read(&engines[0], &key(n * 40)).await, "before");
    }
    assert_eq!(engines[0].regions().len(), 2);
    engines.push(cluster.start(3).await);
    let whole = engines[0].merge(parts[0].id, parts[1].id).await.unwrap();
    assert_eq!((whole.id, whole.range.start.len(), whole.range.end.len()), (parts[1].id, 0, 0));
    for n in 0..20 {
        assert_eq!(read(&engines[n % 3], &key(n * 40)).await, "before");
        assert_eq!(read(&engines[n % 3], &key(n * 40 + 1)).await, "after");
    }
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_moves_whoever_leads_it_and_whoever_stays() {
    let mut cluster = Cluster::new(6, 1);
    cluster.bootstrapped = 3;
    let engines = cluster.start_all().await;
    for n in 0..20 {
        write(&engines[0], &key(n), "kept").await;
    }
    let region = engines[0].region_for(b"key").unwrap().id;
    let stores = |region: &multiraft::RegionDescriptor| -> Vec<u64> {
        region.replicas.iter().map(|replica| replica.store.get()).collect()
    };
    // Only the one with the smallest id stays, and another one leads.
    engines[0].transfer_leader(region, StoreId(3)).await.unwrap();
    let away = [Change::add_voter(StoreId(4)), Change::remove(StoreId(2)), Change::remove(StoreId(3))];
    assert_eq!(stores(&engines[1].change_replicas(region, away).await.unwrap()), [1, 4]);
    // Nobody stays.
    let all = [5, 6].map(|store| Change::add_voter(StoreId(store)));
    let gone = [1, 4].map(|store| Change::remove(StoreId(store)));
    let moved = engines[4].change_replicas(region, all.into_iter().chain(gone)).await.unwrap();
    assert_eq!(stores(&moved), [5, 6]);
    for n in 0..20 {
        assert_eq!(read(&engines[n % 6], &key(n)).await, "kept");
    }
    stop(engines).await;
}
