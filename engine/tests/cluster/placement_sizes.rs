//! Regions that split and merge by themselves, on real stores: by size, by load, and back when they have become small.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use multiraft::placement::Sizes;
use multiraft::{Consistency, Engine, Placement, RegionId};
use tokio::task::JoinSet;

use crate::planning::quiet;
use crate::support::{Cluster, eventually, put, remove};

/// For what takes seconds on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(120);
/// How long nothing may be begun for the cluster to count as quiet.
const QUIET: Duration = Duration::from_secs(4);
const VALUE: usize = 1_000;

/// Three stores with one region, which may become many.
fn cluster(sizes: Sizes) -> Cluster {
    let mut cluster = Cluster::new(3, 1);
    let mut placement = Placement::default();
    placement.interval = Duration::from_millis(100);
    placement.options.silent_after = Duration::from_secs(5);
    placement.options.timeouts.retry_min = Duration::from_millis(500);
    placement.options.timeouts.retry_max = Duration::from_secs(2);
    placement.options.sizes = sizes;
    cluster.config.placement = Some(placement);
    cluster
}

fn sizes() -> Sizes {
    // Load does not count, unless a test says so.
    let no_load = Sizes { split_writes_per_s: 1 << 30, split_reads_per_s: 1 << 30, ..Sizes::default() };
    Sizes {
        split_bytes: 100_000,
        merge_bytes: 20_000,
        merge_load_per_s: 5,
        merge_after: Duration::from_millis(1_500),
        ..no_load
    }
}

fn key(n: usize) -> String {
    format!("key{n:04}")
}

/// The ranges of all regions that own keys, as all stores know them; `None` while they do not agree.
async fn ranges(engines: &[Engine]) -> Option<Vec<(String, String)>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all = BTreeSet::new();
    for engine in engines {
        let regions = engine.regions();
        let owning = regions.iter().filter(|region| region.id != RegionId::ROOT);
        all.insert(owning.map(|region| (text(&region.range.start), text(&region.range.end))).collect::<Vec<_>>());
    }
    let agreed = all.pop_first().filter(|_| all.is_empty())?;
    let fits = agreed.windows(2).all(|pair| pair[0].1 == pair[1].0);
    let ends = agreed.first().is_some_and(|first| first.0.is_empty()) && agreed.last().unwrap().1.is_empty();
    (fits && ends).then_some(agreed)
}

/// How many regions own keys, as soon as all stores agree.
async fn count(engines: &[Engine]) -> usize {
    ranges(engines).await.map_or(0, |ranges| ranges.len())
}

/// Writes these keys through all stores, several at a time, each until it is acknowledged.
async fn write(engines: &[Engine], keys: impl Iterator<Item = usize>) {
    let mut writers: JoinSet<()> = JoinSet::new();
    for n in keys {
        if writers.len() >= 16 {
            writers.join_next().await.unwrap().unwrap();
        }
        let engine = engines[n % engines.len()].clone();
        writers.spawn(async move {
            // Setting the same again does no harm.
            while engine.propose_key(key(n), put(&key(n), &"v".repeat(VALUE))).await.is_err() {}
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
}

async fn assert_holds(engine: &Engine, keys: impl Iterator<Item = usize>) {
    for n in keys {
        let value = engine.read_key(key(n), key(n), Consistency::Linearizable).await.unwrap();
        assert_eq!(value.len(), VALUE, "{}", key(n));
    }
}

/// How many of the keys up to `all` lie in each region.
async fn shares(engines: &[Engine], all: usize) -> Vec<usize> {
    let ranges = ranges(engines).await.unwrap();
    let inside = |(start, end): &(String, String)| {
        (0..all).filter(|n| key(*n) >= *start && (end.is_empty() || key(*n) < *end)).count()
    };
    ranges.iter().map(inside).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_region_splits_into_halves_as_it_fills_and_merges_when_it_is_empty_again() {
    let cluster = cluster(sizes());
    let engines = cluster.start_all().await;
    write(&engines, 0..80).await;
    quiet(&engines, QUIET, LIMIT).await;
    assert_eq!(count(&engines).await, 1, "80 of 100 KB");
    write(&engines, 80..130).await;
    eventually(LIMIT, "two halves", || async { count(&engines).await == 2 }).await;
    quiet(&engines, QUIET, LIMIT).await;
    let parts = shares(&engines, 130).await;
    // It is cut in the middle of what is there by then: some 101 keys if writing is slow, all 130 if it is fast.
    assert!(parts.len() == 2 && (50 - 10..=65 + 10).contains(&parts[0]), "{parts:?}");

    write(&engines, 130..400).await;
    eventually(LIMIT, "parts of less than 100 KB", || async {
        ranges(&engines).await.is_some() && shares(&engines, 400).await.iter().all(|keys| *keys <= 100)
    })
    .await;
    quiet(&engines, QUIET, LIMIT).await;
    let parts = shares(&engines, 400).await;
    assert!((4..=8).contains(&parts.len()) && parts.iter().all(|keys| *keys >= 25), "{parts:?}");
    let leader = engines.iter().flat_map(|engine| engine.figures().to_vec()).filter(|figures| figures.leads);
    let told: u64 = leader.map(|figures| figures.bytes).sum();
    let held = 400 * (VALUE + 7) as u64;
    assert!(told.abs_diff(held) < held / 5, "{told} of {held} bytes are told of");
    assert_holds(&engines[0], 0..400).await;

    for n in 10..400 {
        while engines[n % 3].propose_key(key(n), remove(&key(n))).await.is_err() {}
    }
    eventually(LIMIT, "one region again", || async { count(&engines).await == 1 }).await;
    quiet(&engines, QUIET, LIMIT).await;
    assert_eq!(count(&engines).await, 1);
    assert_holds(&engines[1], 0..10).await;
    for engine in &engines {
        engine.shutdown().await;
    }
}

/// Does something to the keys from 500 to 520 over and over, some two hundred times a second at most, until it is told to
/// stop.
fn keep_busy<F>(engines: &[Engine], stop: &Arc<AtomicBool>, touch: fn(Engine, String) -> F) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut busy = JoinSet::new();
    for worker in 0..8 {
        let (engine, stop) = (engines[worker % engines.len()].clone(), Arc::clone(stop));
        busy.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(40));
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                pace.tick().await;
                touch(engine.clone(), key(500 + (n * 7 + worker * 5) % 20)).await;
            }
        });
    }
    busy
}

/// One region with a thousand keys, of which twenty become hot: it splits between them, and is whole again afterwards.
async fn hot_range_splits<F>(sizes: Sizes, touch: fn(Engine, String) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let cluster = cluster(Sizes { split_bytes: 1 << 30, merge_bytes: 8 << 20, ..sizes });
    let engines = cluster.start_all().await;
    write(&engines, (0..1_000).step_by(10).chain(500..520)).await;
    quiet(&engines, QUIET, LIMIT).await;
    assert_eq!(count(&engines).await, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let mut busy = keep_busy(&engines, &stop, touch);
    eventually(LIMIT, "a split between hot keys", || async {
        let ranges = ranges(&engines).await.unwrap_or_default();
        ranges.iter().any(|(start, _)| *start > key(500) && *start < key(520))
    })
    .await;
    // It comes to rest under load: what is divided stays so.
    quiet(&engines, QUIET, LIMIT).await;
    let cut: Vec<String> = ranges(&engines).await.unwrap().into_iter().skip(1).map(|(start, _)| start).collect();
    assert!(!cut.is_empty() && cut.iter().all(|start| *start > key(500) && *start < key(520)), "{cut:?}");
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = busy.join_next().await {
        done.unwrap();
    }
    eventually(LIMIT, "one region again", || async { count(&engines).await == 1 }).await;
    quiet(&engines, QUIET, LIMIT).await;
    assert_holds(&engines[2], (0..1_000).step_by(10)).await;
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_range_with_many_writes_is_divided_among_its_hot_keys() {
    let sizes = Sizes { split_writes_per_s: 60, merge_load_per_s: 10, ..sizes() };
    hot_range_splits(sizes, |engine, key| async move {
        let _ = engine.propose_key(&key, put(&key, &"v".repeat(VALUE))).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_range_with_many_reads_is_divided_whichever_stores_answer_them() {
    let sizes = Sizes { split_reads_per_s: 60, merge_load_per_s: 10, ..sizes() };
    hot_range_splits(sizes, |engine, key| async move {
        let _ = engine.read_key(&key, key.clone(), Consistency::Linearizable).await;
    })
    .await;
}
