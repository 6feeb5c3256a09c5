//! Any store answers, and finds its way while regions split and move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use multiraft::{
    Change, Consistency, Engine, Event, KeyRange, ProposeError, ReadError, RegionDescriptor, RegionError, RegionId,
    StoreId,
};

use crate::support::{Cluster, append, eventually, keys, put};

const LIMIT: Duration = Duration::from_secs(30);

async fn stop(engines: Vec<Engine>) {
    for engine in &engines {
        engine.shutdown().await;
    }
}

fn key(n: usize) -> String {
    format!("key{n:03}")
}

async fn read(engine: &Engine, key: &str) -> Bytes {
    engine.read_key(key, key.to_owned(), Consistency::Linearizable).await.unwrap()
}

/// Splits the region that owns a key there. What the store believes may be old: what it is answered heals it.
async fn split_at(engine: &Engine, key: &str) -> Vec<Arc<RegionDescriptor>> {
    loop {
        let region = engine.locate(key, None).await.unwrap().id;
        match engine.split(region, [key.to_owned()]).await {
            Ok(parts) => return parts,
            Err(RegionError::Split { .. } | RegionError::EpochMismatch { .. } | RegionError::UnknownRegion { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// All keys of a range, in pages of ten.
async fn scan(engine: &Engine, range: KeyRange) -> Vec<String> {
    const PAGE: usize = 10;
    let mut scan = engine.scan(range);
    let mut found: Vec<String> = Vec::new();
    while let Some(part) = scan.next(|range| keys(range, PAGE)).await.unwrap() {
        let text = String::from_utf8(part.answer.to_vec()).unwrap();
        let page: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(page.iter().all(|key| part.range.contains(key.as_bytes())), "{page:?} of {:?}", part.range);
        if let Some(last) = page.last().filter(|_| page.len() == PAGE) {
            scan.resume_after(last.as_bytes());
        }
        found.extend(page);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_any_replica_answers_everything() {
    let mut cluster = Cluster::new(4, 2);
    cluster.bootstrapped = 3;
    let engines = cluster.start_all().await;
    let stranger = &engines[3];
    assert_eq!((stranger.regions().len(), stranger.status().await.regions.len()), (0, 0));
    for n in (0..1000).step_by(50) {
        assert_eq!(stranger.propose_key(key(n), put(&key(n), "there")).await.unwrap(), "ok");
        assert_eq!(read(stranger, &key(n)).await, "there");
        assert_eq!(read(&engines[n / 50 % 3], &key(n)).await, "there");
    }
    let session = stranger.session();
    for n in 0..5 {
        session.propose_key("key010", append("key010", &n.to_string())).await.unwrap();
    }
    assert_eq!(read(&engines[0], "key010").await, "01234");
    assert_eq!(scan(stranger, KeyRange::full()).await.len(), 21);

    let region = stranger.locate("key010", None).await.unwrap().id;
    assert_eq!(stranger.read(region, "key010", Consistency::Linearizable).await.unwrap(), "01234");
    let local = stranger.read(region, "key010", Consistency::Local).await.unwrap_err();
    assert_eq!(local, ReadError::UnknownRegion { region });
    assert_eq!(stranger.read_key("key010", "key010", Consistency::Local).await.unwrap_err(), local);
    let parts = stranger.split(region, ["key200", "key300"]).await.unwrap();
    assert_eq!(read(stranger, "key250").await, "there");
    assert_eq!(stranger.region_for(b"key250").unwrap(), parts[1]);
    session.propose(parts[0].id, append("key010", "5")).await.unwrap();
    let moved = || async { stranger.transfer_leader(parts[1].id, StoreId(2)).await.is_ok() };
    eventually(LIMIT, "store 2 leads", moved).await;
    let grown = stranger.change_replicas(parts[1].id, [Change::add_learner(StoreId(4))]).await.unwrap();
    assert!(grown.replica_on(StoreId(4)).is_some());
    assert_eq!(stranger.describe_region(parts[1].id).await.unwrap(), grown);
    assert_eq!(read(stranger, "key250").await, "there");

    let region = RegionId(77);
    let nowhere = stranger.propose(region, put("key001", "")).await.unwrap_err();
    assert_eq!(nowhere, ProposeError::UnknownRegion { region });
    assert_eq!(stranger.describe_region(region).await.unwrap_err(), RegionError::UnknownRegion { region });
    assert!(stranger.read(region, "", Consistency::Linearizable).await.is_err());
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_moved_away_entirely_is_found_again() {
    let mut cluster = Cluster::new(4, 1);
    cluster.bootstrapped = 1;
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"key").unwrap().id;
    engines[0].propose_key("key1", put("key1", "moved")).await.unwrap();
    // Store 3 learns where it is, and is not told of what follows.
    assert_eq!(read(&engines[2], "key1").await, "moved");
    engines[3].change_replicas(region, [Change::add_voter(StoreId(2))]).await.unwrap();
    // A transfer may be given up on a busy machine.
    eventually(LIMIT, "store 2 leads", || async { engines[1].transfer_leader(region, StoreId(2)).await.is_ok() }).await;
    engines[1].change_replicas(region, [Change::remove(StoreId(1))]).await.unwrap();
    eventually(LIMIT, "the first replica is gone", || async {
        engines[0].read(region, "key1", Consistency::Local).await.is_err()
    })
    .await;
    for engine in &engines {
        assert_eq!(read(engine, "key1").await, "moved");
        assert_eq!(engine.read(region, "key1", Consistency::Linearizable).await.unwrap(), "moved");
        engine.propose(region, append("key2", "x")).await.unwrap();
    }
    assert_eq!(read(&engines[0], "key2").await, "xxxx");
    stop(engines).await;
}

/// What the clients of the next test know.
struct Known {
    /// How many appends to each client's keys were answered.
    answered: BTreeMap<String, AtomicUsize>,
    done: AtomicBool,
}

/// Appends numbers to its keys, in turn, each once.
async fn append_in_turn(engine: Engine, own: Vec<String>, known: Arc<Known>) -> usize {
    let session = engine.session();
    let mut count = 0;
    while !known.done.load(Ordering::SeqCst) {
        for key in &own {
            session.propose_key(key, append(key, &format!("{count},"))).await.unwrap();
            known.answered[key].fetch_add(1, Ordering::SeqCst);
        }
        count += 1;
    }
    count
}

/// Reads what others append: never less than was answered before.
async fn read_in_turn(engine: Engine, known: Arc<Known>) -> usize {
    let mut reads = 0;
    while !known.done.load(Ordering::SeqCst) {
        for (key, answered) in &known.answered {
            let before = answered.load(Ordering::SeqCst);
            let value = read(&engine, key).await;
            let seen = value.iter().filter(|byte| **byte == b',').count();
            assert!(seen >= before, "{key} at store {}: {seen} of {before}", engine.store());
            reads += 1;
        }
    }
    reads
}

/// Scans: every fixed key once, in order, whatever splits meanwhile.
async fn scan_in_turn(engine: Engine, fixed: Vec<String>, known: Arc<Known>) -> usize {
    let mut scans = 0;
    while !known.done.load(Ordering::SeqCst) {
        let found = scan(&engine, KeyRange::full()).await;
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        let found: Vec<_> = found.into_iter().filter(|key| key.ends_with("fixed")).collect();
        assert_eq!(found, fixed, "at store {}", engine.store());
        scans += 1;
    }
    scans
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_stale_or_doubled_while_regions_split_merge_and_move() {
    let mut cluster = Cluster::new(4, 1);
    cluster.bootstrapped = 3;
    let engines = cluster.start_all().await;
    let fixed: Vec<String> = (0..60).map(|n| format!("{}fixed", key(n * 16))).collect();
    for key in &fixed {
        engines[0].propose_key(key, put(key, "here")).await.unwrap();
    }
    let own = |store: usize| (0..3).map(|n| format!("{}own{store}", key(100 + n * 333))).collect::<Vec<_>>();
    let answered = (0..4).flat_map(own).map(|key| (key, AtomicUsize::new(0))).collect();
    let known = Arc::new(Known { answered, done: AtomicBool::new(false) });
    let writers: Vec<_> = (0..4)
        .map(|store| tokio::spawn(append_in_turn(engines[store].clone(), own(store), Arc::clone(&known))))
        .collect();
    let readers: Vec<_> = (0..4)
        .flat_map(|store| {
            let engine = &engines[store];
            [
                tokio::spawn(read_in_turn(engine.clone(), Arc::clone(&known))),
                tokio::spawn(scan_in_turn(engine.clone(), fixed.clone(), Arc::clone(&known))),
            ]
        })
        .collect();
    for n in 0..12 {
        let at = key(40 + n * 77 % 1000);
        let engine = &engines[n % 4];
        let parts = split_at(engine, &at).await;
        if n % 4 == 1 {
            let absent = (1..=4).map(StoreId).find(|store| parts[1].replica_on(*store).is_none()).unwrap();
            let changes = [Change::add_voter(absent), Change::remove(parts[1].replicas[0].store)];
            engines[(n + 1) % 4].change_replicas(parts[1].id, changes).await.unwrap();
        }
        if n % 4 == 2 {
            let merged = engines[(n + 1) % 4].merge(parts[1].id, parts[0].id).await.unwrap();
            assert_eq!(merged.range.end, parts[1].range.end);
        }
        if n % 4 == 3 {
            let _ = engine.transfer_leader(parts[0].id, parts[0].replicas[n % 3].store).await;
        }
    }
    known.done.store(true, Ordering::SeqCst);
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(writer.await.unwrap());
    }
    let mut done = Vec::new();
    for reader in readers {
        done.push(reader.await.unwrap());
    }
    assert!(counts.iter().chain(&done).all(|count| *count > 0), "{counts:?} {done:?}");
    for (store, count) in counts.iter().enumerate() {
        let expected: String = (0..*count).map(|n| format!("{n},")).collect();
        for key in own(store) {
            assert_eq!(read(&engines[3 - store], &key).await, expected, "{key}");
        }
    }
    assert_eq!(scan(&engines[3], KeyRange::full()).await.len(), 72);
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_without_an_epoch_outlive_splits() {
    let cluster = Cluster::new(3, 1);
    let engines = cluster.start_all().await;
    let region = engines[0].region_for(b"key").unwrap().id;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|n| {
            let (engine, done) = (engines[n % 3].clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    // The region keeps this key through all splits.
                    engine.propose(region, put("a", "x")).await.unwrap();
                }
            })
        })
        .collect();
    for n in (1..11).rev() {
        engines[n % 3].split(region, [key(n * 50)]).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    stop(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_split_is_told_once_by_every_store() {
    let cluster = Cluster::new(3, 1);
    let engines = cluster.start_all().await;
    let watches: Vec<_> = engines.iter().map(Engine::events).collect();
    let mut expected = Vec::new();
    for n in [4, 2, 6, 1, 8, 3, 7, 5] {
        let at = key(n * 100);
        expected.push(split_at(&engines[n % 3], &at).await);
    }
    for engine in &engines {
        eventually(LIMIT, "every replica is here and knows its leader", || async {
            let regions = engine.status().await.regions;
            regions.len() == 10 && regions.iter().all(|region| region.leader.is_some())
        })
        .await;
    }
    stop(engines).await;
    for mut watch in watches {
        let mut told = Vec::new();
        let (mut replicas, mut leaders) = (Vec::new(), 0);
        while let Some(event) = watch.next().await {
            match event {
                Event::RegionSplit { parts } => told.push(parts),
                Event::RegionChanged { descriptor } => replicas.push(descriptor),
                Event::LeaderChanged { .. } => leaders += 1,
                Event::Missed { count } => panic!("{count} events were missed"),
                _ => {}
            }
        }
        // Splits of different regions may be told in another order than they were asked for.
        told.sort_by_key(|parts| parts[1].id);
        let mut splits = expected.clone();
        splits.sort_by_key(|parts| parts[1].id);
        assert_eq!(told, splits);
        replicas.sort_by_key(|descriptor| descriptor.id);
        let children: Vec<_> = splits.iter().map(|parts| Arc::clone(&parts[1])).collect();
        assert_eq!(replicas, children, "each child is told of when its replica is there");
        assert!(leaders >= 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_store_says_so_at_once_also_of_keys_whose_region_it_never_knew() {
    let mut cluster = Cluster::new(2, 1);
    cluster.bootstrapped = 1;
    cluster.config.request_timeout = Duration::from_secs(600);
    let engine = cluster.start(2).await;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.propose_key("key", put("key", "value")).await }
    });
    engine.shutdown().await;
    let asked =
        tokio::time::timeout(LIMIT, async { (engine.propose_key("key", put("key", "value")).await, waiting.await) });
    let (late, early) = asked.await.expect("nobody waits for a store that has stopped");
    assert!(matches!(late, Err(ProposeError::Stopped { .. })), "{late:?}");
    assert!(matches!(early, Ok(Err(ProposeError::Stopped { .. }))), "{early:?}");
    let read = engine.read_key("key", "key", Consistency::Linearizable).await;
    assert!(matches!(read, Err(ReadError::Stopped { .. })), "{read:?}");
    assert!(engine.session().propose_key("key", put("key", "value")).await.is_err());
}
