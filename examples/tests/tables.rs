//! A replicated redb on three stores: filled, restarted, caught up by snapshot.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use multiraft::{Builder, Config, StoreId};
use multiraft_examples::cluster::Cluster;
use multiraft_examples::redb_tables::{RedbTables, TableClient};

const SNAPSHOT_WITHIN: Duration = Duration::from_secs(30);

fn equip(builder: Builder, dir: &Path) -> Builder {
    builder.own_state(RedbTables::new(dir).unwrap())
}

fn key(number: u32) -> Vec<u8> {
    format!("{number:04}").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairs_are_read_from_every_store_and_survive_the_restart_of_all() {
    let mut cluster = Cluster::start([Bytes::from_static(b"0040")], equip).await.unwrap();
    for number in 0..80 {
        let client = TableClient::new(cluster.engine(number as usize % 3 + 1));
        client.set(&key(number), &number.to_be_bytes()).await.unwrap();
    }
    let client = TableClient::new(cluster.engine(1));
    assert!(client.remove(&key(17)).await.unwrap());
    assert!(!client.remove(&key(17)).await.unwrap());
    drop(client);
    for restarted in [false, true] {
        if restarted {
            cluster.stop().await;
            for store in 1..=3 {
                cluster.start_store(store).await.unwrap();
            }
        }
        for store in 1..=3 {
            let client = TableClient::new(cluster.engine(store));
            assert_eq!(client.get(&key(3)).await.unwrap().unwrap(), 3u32.to_be_bytes());
            assert_eq!(client.get(&key(17)).await.unwrap(), None);
            // Across the boundary between the regions.
            let page = client.scan(&key(10), 50).await.unwrap();
            let expected: Vec<Vec<u8>> = (10..61).filter(|number| *number != 17).map(key).collect();
            assert_eq!(page.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_away_for_long_is_filled_by_a_snapshot_of_its_file() {
    let equip = |builder, dir: &Path| {
        let mut config = Config::default();
        config.workers = 1;
        config.log_segment_bytes = 1 << 20;
        config.raft.heartbeat_interval = Duration::from_millis(50);
        config.raft.election_timeout_min = Duration::from_millis(500);
        config.raft.election_timeout_max = Duration::from_millis(1000);
        // So little that the log is cut soon.
        config.compact_entries = 50;
        config.compact_keep_entries = 5;
        config.volatile_log_bytes = 1000;
        config.checkpoint_interval = Duration::from_millis(50);
        equip(Builder::config(builder, config), dir)
    };
    let mut cluster = Cluster::start([], equip).await.unwrap();
    let client = TableClient::new(cluster.engine(1));
    client.set(b"early", b"1").await.unwrap();
    cluster.stop_store(3).await;
    for number in 0..300 {
        client.set(&key(number), b"later").await.unwrap();
    }
    let deadline = Instant::now() + SNAPSHOT_WITHIN;
    while !cluster.engine(1).status().await.regions.iter().any(|region| region.first_index.get() > 100) {
        assert!(Instant::now() < deadline, "the log was not cut");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.start_store(3).await.unwrap();
    let back = cluster.engine(3);
    let deadline = Instant::now() + SNAPSHOT_WITHIN;
    while back.status().await.counters.snapshots_installed == 0 {
        assert!(Instant::now() < deadline, "no snapshot was installed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Another store could answer for this one, unless this one leads.
    let region = back.region_for(b"").unwrap().id;
    let deadline = Instant::now() + SNAPSHOT_WITHIN;
    while let Err(refused) = back.transfer_leader(region, StoreId(3)).await {
        assert!(Instant::now() < deadline, "the filled store was not made leader: {refused}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let scanned = TableClient::new(back).scan(b"", 1000).await.unwrap();
    assert_eq!(scanned.len(), 301);
    assert!(scanned.iter().all(|(key, value)| value == if key == b"early" { b"1".as_slice() } else { b"later" }));
    cluster.stop().await;
}
