//! What a user sees of a cluster of three real stores.

use std::time::{Duration, Instant};

use multiraft::{Consistency, ProposeError, RegionId, StateKind, StoreId};

use crate::support::{Cluster, Map, append, eventually, put};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_through_any_store_are_read_from_every_store() {
    let cluster = Cluster::new(3, 4);
    let engines = cluster.start_all().await;
    for n in 0..60 {
        let key = format!("key{:03}", n * 16);
        let engine = &engines[n % 3];
        let region = engine.region_for(key.as_bytes()).unwrap().id;
        assert_eq!(engine.propose(region, put(&key, &n.to_string())).await.unwrap(), "ok");
    }
    for n in 0..60 {
        let key = format!("key{:03}", n * 16);
        for engine in &engines {
            let region = engine.region_for(key.as_bytes()).unwrap().id;
            let value = engine.read(region, key.clone(), Consistency::Linearizable).await.unwrap();
            assert_eq!(value, n.to_string());
        }
    }
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_restart_of_all_stores() {
    for kind in [StateKind::Memory, StateKind::Sled] {
        let mut cluster = Cluster::new(3, 3);
        cluster.kind = kind;
        let engines = cluster.start_all().await;
        for n in 0..30 {
            let key = format!("key{:03}", n * 33);
            let region = engines[0].region_for(key.as_bytes()).unwrap().id;
            engines[0].propose(region, put(&key, "kept")).await.unwrap();
        }
        for engine in &engines {
            engine.shutdown().await;
        }
        drop(engines);
        let engines = cluster.start_all().await;
        for n in 0..30 {
            let key = format!("key{:03}", n * 33);
            let region = engines[2].region_for(key.as_bytes()).unwrap().id;
            let value = engines[2].read(region, key, Consistency::Linearizable).await.unwrap();
            assert_eq!(value, "kept");
        }
        assert!(engines[0].status().await.incarnation.get() == 2);
        for engine in &engines {
            engine.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_stop_together_do_not_wait_for_each_other() {
    let cluster = Cluster::new(3, 12);
    let engines = cluster.start_all().await;
    for n in 0..12 {
        let key = format!("key{:03}", n * 1000 / 12);
        let region = engines[0].region_for(key.as_bytes()).unwrap().id;
        engines[0].propose(region, put(&key, "kept")).await.unwrap();
    }
    let begun = Instant::now();
    // Each takes nothing over from the moment on at which it gives away.
    let left = tokio::join!(engines[0].handover(LIMIT), engines[1].handover(LIMIT), engines[2].handover(LIMIT));
    assert!(begun.elapsed() < LIMIT / 4, "{:?}: {left:?}", begun.elapsed());
    // Those that they could not get rid of are led on.
    let value = engines[1].read_key("key000", "key000", Consistency::Linearizable).await.unwrap();
    assert_eq!(value, "kept");
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_without_one_store_and_takes_it_back() {
    let cluster = Cluster::new(3, 4);
    let mut engines = cluster.start_all().await;
    let write = async |engine: &multiraft::Engine, n: usize, value: &str| {
        let key = format!("key{:03}", n * 50);
        let region = engine.region_for(key.as_bytes()).unwrap().id;
        engine.session().propose(region, put(&key, value)).await.unwrap();
    };
    for n in 0..20 {
        write(&engines[0], n, "before").await;
    }
    engines.remove(2).shutdown().await;
    for n in 0..20 {
        write(&engines[0], n, "without").await;
    }
    engines.push(cluster.start(3).await);
    let back = &engines[2];
    eventually(LIMIT, "the third store applies what it missed", || async {
        let mut all = true;
        for n in 0..20 {
            let key = format!("key{:03}", n * 50);
            let region = back.region_for(key.as_bytes()).unwrap().id;
            all &= back.read(region, key, Consistency::Local).await.unwrap() == "without";
        }
        all
    })
    .await;
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_away_beyond_the_log_catches_up_by_snapshot() {
    for kind in [StateKind::Sled, StateKind::Memory] {
        let mut cluster = Cluster::new(3, 1);
        cluster.kind = kind;
        cluster.config.compact_entries = 50;
        cluster.config.compact_keep_entries = 5;
        cluster.config.checkpoint_interval = Duration::from_millis(50);
        cluster.config.volatile_log_bytes = 1000;
        let mut engines = cluster.start_all().await;
        let region = engines[0].region_for(b"key").unwrap().id;
        engines[0].propose(region, put("key000", "first")).await.unwrap();
        engines.remove(2).shutdown().await;
        let session = engines[0].session();
        for n in 0..300 {
            session.propose(region, put(&format!("key{n:03}"), "later")).await.unwrap();
        }
        drop(session);
        let leader = &engines[0];
        eventually(LIMIT, "the log is cut", || async {
            leader.status().await.regions.iter().any(|status| status.first_index.get() > 100)
        })
        .await;
        engines.push(cluster.start(3).await);
        let back = &engines[2];
        eventually(LIMIT, "the third store has the last write", || async {
            back.read(region, "key299", Consistency::Local).await.unwrap() == "later"
                && back.read(region, "key000", Consistency::Local).await.unwrap() == "later"
        })
        .await;
        eventually(LIMIT, "that came by a snapshot", || async { back.status().await.counters.snapshots_installed > 0 })
            .await;
        for engine in &engines {
            engine.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_the_store_that_is_asked_for() {
    let mut cluster = Cluster::new(3, 1);
    cluster.config.balance_leaders = false;
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"key").unwrap().id;
    for to in [2, 3, 1, 3] {
        engines[0].transfer_leader(region, StoreId(to)).await.unwrap();
        let engine = &engines[to as usize - 1];
        eventually(LIMIT, "the target leads", || async {
            engine.status().await.regions.iter().any(|status| status.descriptor.id == region && status.is_leader)
        })
        .await;
    }
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sessions_commands_take_effect_once_each() {
    let cluster = Cluster::new(3, 2);
    let engines = cluster.start_all().await;
    let region = engines[1].region_for(b"key").unwrap().id;
    let session = engines[1].session();
    for n in 0..20 {
        session.propose(region, append("key", &format!("{n},"))).await.unwrap();
    }
    let expected: String = (0..20).map(|n| format!("{n},")).collect();
    assert_eq!(engines[2].read(region, "key", Consistency::Linearizable).await.unwrap(), expected);
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misuse_gets_an_error_that_says_what_to_do() {
    let mut cluster = Cluster::new(1, 2);
    cluster.config.max_command_bytes = 1000;
    let engine = cluster.start(1).await;
    let unknown = engine.propose(RegionId(77), "x").await.unwrap_err();
    assert_eq!(unknown, ProposeError::UnknownRegion { region: RegionId(77) });
    let region = engine.region_for(b"key").unwrap();
    let large = engine.propose(region.id, vec![0; 1001]).await.unwrap_err();
    assert_eq!(large, ProposeError::TooLarge { size: 1001, limit: 1000 });
    let mut epoch = region.epoch;
    epoch.version += 1;
    let options = multiraft::ProposeOptions::new(region.id).epoch(epoch);
    let moved = engine.propose_with(options, put("key", "x")).await.unwrap_err();
    assert_eq!(moved, ProposeError::EpochMismatch { current: region.clone() });
    let outside = engine.propose(region.id, put("zzz", "x")).await.unwrap();
    assert!(String::from_utf8_lossy(&outside).contains("outside the region"), "{outside:?}");
    let again = cluster.builder(1).state_machine(Map).start().await.unwrap_err().to_string();
    assert!(again.contains("in use"), "{again}");
    engine.shutdown().await;
    let stopped = engine.propose(region.id, put("key", "x")).await.unwrap_err();
    assert!(matches!(stopped, ProposeError::Stopped { .. }), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_region_owns_no_keys() {
    let cluster = Cluster::new(1, 1);
    let engine = cluster.start(1).await;
    let region = engine.region_for(b"key").unwrap().id;
    engine.propose(region, put("key", "x")).await.unwrap();
    let outside = engine.propose(RegionId(1), put("key", "y")).await.unwrap();
    assert!(String::from_utf8_lossy(&outside).contains("outside the region"), "{outside:?}");
    assert_eq!(engine.read(RegionId(1), "key", Consistency::Linearizable).await.unwrap(), "");
    assert_eq!(engine.read(region, "key", Consistency::Linearizable).await.unwrap(), "x");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_starts_again_beside_a_handle_of_its_last_life() {
    for kind in [StateKind::Memory, StateKind::Sled] {
        let mut cluster = Cluster::new(1, 1);
        cluster.kind = kind;
        let old = cluster.start(1).await;
        let region = old.region_for(b"key").unwrap().id;
        old.propose(region, put("key", "kept")).await.unwrap();
        old.shutdown().await;
        let new = cluster.start(1).await;
        assert_eq!(new.read(region, "key", Consistency::Linearizable).await.unwrap(), "kept");
        let stopped = old.read(region, "key", Consistency::Local).await.unwrap_err();
        assert!(matches!(stopped, multiraft::ReadError::Stopped { .. }), "{stopped:?}");
        new.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_for_a_shutdown_finds_the_store_stopped_when_it_returns() {
    let cluster = Cluster::new(1, 1);
    let engine = cluster.start(1).await;
    let log = cluster.data_dir(1).join("log");
    let one_at_a_time = std::sync::Arc::new(std::sync::Mutex::new(()));
    let stop = || {
        let (engine, log, one_at_a_time) = (engine.clone(), log.clone(), one_at_a_time.clone());
        async move {
            engine.shutdown().await;
            let _looking = one_at_a_time.lock().unwrap();
            // Locked as long as the store has it open.
            multiraft_storage::disk::RealDisk::open(log).map(drop)
        }
    };
    let stopped: Vec<_> = (0..4).map(|_| tokio::spawn(stop())).collect();
    for stopped in stopped {
        stopped.await.unwrap().unwrap();
    }
}
