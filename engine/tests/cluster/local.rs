//! Stores of one process on a local network.

use std::time::Duration;

use multiraft::{Change, Consistency, Engine, LocalNetwork, Seat, StartError, StateKind, StoreId};

use crate::support::{Cluster, Map, eventually, put};

const LIMIT: Duration = Duration::from_secs(20);

fn cluster(stores: u64, regions: usize) -> Cluster {
    let mut cluster = Cluster::new(stores, regions);
    cluster.local = Some(LocalNetwork::new());
    cluster
}

async fn write(engine: &Engine, n: usize, value: &str) {
    let key = format!("key{n:03}");
    let answer = engine.session().propose_key(key.clone(), put(&key, value)).await.unwrap();
    assert_eq!(answer, "ok");
}

async fn read(engine: &Engine, n: usize) -> String {
    let key = format!("key{n:03}");
    let value = engine.read_key(key.clone(), key, Consistency::Linearizable).await.unwrap();
    String::from_utf8(value.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_stores_take_writes_split_lose_one_and_take_it_back() {
    let cluster = cluster(3, 2);
    let mut engines = cluster.start_all().await;
    for n in 0..30 {
        write(&engines[n % 3], n * 33, "first").await;
    }
    for n in 0..30 {
        assert_eq!(read(&engines[(n + 1) % 3], n * 33).await, "first");
    }
    let whole = engines[0].region_for(b"key000").unwrap();
    let parts = engines[0].split(whole.id, ["key250"]).await.unwrap();
    assert_eq!(parts.len(), 2);
    engines.remove(2).shutdown().await;
    for n in 0..30 {
        write(&engines[n % 2], n * 33, "second").await;
    }
    engines.push(cluster.start(3).await);
    for n in 0..30 {
        assert_eq!(read(&engines[2], n * 33).await, "second");
    }
    write(&engines[2], 100, "third").await;
    assert_eq!(read(&engines[0], 100).await, "third");
    let status = engines[2].status().await;
    assert_eq!(status.incarnation.get(), 2);
    assert!(status.peers.iter().all(|peer| peer.connected && peer.packets_sent == 0), "{:?}", status.peers);
    assert!(status.counters.messages_sent > 0 && status.counters.frames_sent > 0, "{:?}", status.counters);
    assert_eq!(engines[2].local_addr(), None);
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_away_for_long_is_sent_a_snapshot() {
    for kind in [StateKind::Sled, StateKind::Memory] {
        let mut cluster = cluster(3, 1);
        cluster.kind = kind;
        cluster.config.compact_entries = 50;
        cluster.config.compact_keep_entries = 5;
        cluster.config.checkpoint_interval = Duration::from_millis(50);
        cluster.config.volatile_log_bytes = 1000;
        let mut engines = cluster.start_all().await;
        write(&engines[0], 0, "first").await;
        engines.remove(2).shutdown().await;
        for n in 0..300 {
            write(&engines[0], n, "later").await;
        }
        let leader = &engines[0];
        eventually(LIMIT, "the log is cut", || async {
            leader.status().await.regions.iter().any(|status| status.first_index.get() > 100)
        })
        .await;
        engines.push(cluster.start(3).await);
        let back = &engines[2];
        eventually(LIMIT, "it has the last write, by a snapshot", || async {
            let region = back.region_for(b"key299").unwrap().id;
            let value = back.read(region, "key299", Consistency::Local).await.unwrap();
            value == "later" && back.status().await.counters.snapshots_installed > 0
        })
        .await;
        assert!(back.status().await.counters.snapshot_bytes_received > 0);
        for engine in &engines {
            engine.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_taken_and_two_networks_at_once_are_named() {
    let cluster = cluster(2, 1);
    let first = cluster.start(1).await;
    let elsewhere = cluster.dir.path().join("elsewhere");
    let twice = cluster.builder(1).data_dir(elsewhere).state_machine(Map).start().await.unwrap_err();
    assert!(matches!(twice, StartError::Transport(_)), "{twice}");
    assert!(twice.to_string().contains("store 1 is on the local network already"), "{twice}");
    for both in [cluster.builder(2).listen(cluster.address(2)), cluster.builder(2).tls(cluster.tls(2))] {
        let both = both.state_machine(Map).start().await.unwrap_err();
        assert!(matches!(both, StartError::Config(_)), "{both}");
        assert!(both.to_string().contains("not both"), "{both}");
    }
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_joins_by_its_seat_and_takes_replicas() {
    let mut cluster = cluster(4, 1);
    cluster.bootstrapped = 3;
    let mut engines = Vec::new();
    for store in 1..=4 {
        let builder = cluster.builder(store).seat(Seat::new()).state_machine(Map);
        engines.push(builder.start().await.unwrap());
    }
    let newcomer = &engines[3];
    eventually(LIMIT, "all four have joined", || async {
        engines[0].stores().await.is_ok_and(|stores| stores.len() == 4)
    })
    .await;
    let region = engines[0].region_for(b"key").unwrap().id;
    engines[0].change_replicas(region, [Change::add_voter(StoreId(4))]).await.unwrap();
    write(newcomer, 7, "joined").await;
    assert_eq!(read(&engines[1], 7).await, "joined");
    for engine in &engines {
        engine.shutdown().await;
    }
}
