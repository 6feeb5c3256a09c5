//! Threads that move snapshots end with what they wait for. Alone in its process: it counts them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::{Duration, Instant};

use multiraft::StateKind;
use support::eventually;
use support::wired::{Wired, sent};

const LIMIT: Duration = Duration::from_secs(30);

/// The threads that move snapshots, of all stores of this process.
fn snapshot_threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads.map(name).filter(|name| name.starts_with("multiraft-snaps")).count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_thread_outlives_a_broken_transfer_or_a_stopped_store() {
    let wired = Wired::new(StateKind::Memory);
    let (engines, _) = wired.with_third_behind().await;
    eventually(LIMIT, "the snapshot is on its way", || async { sent(&engines).await.0 > 1 << 20 }).await;
    assert!(snapshot_threads() >= 2);
    // The link breaks: both ends give their threads back, though the store that sends keeps what it has captured.
    wired.cut(true);
    eventually(LIMIT, "the threads have ended", || async { snapshot_threads() == 0 }).await;
    wired.cut(false);
    let before = sent(&engines).await.0;
    eventually(LIMIT, "it goes on", || async { sent(&engines).await.0 > before + (1 << 20) }).await;
    assert!(snapshot_threads() >= 2);
    // Neither side hears of the other any more: both wait for what will not come, and are stopped.
    wired.cut(true);
    for engine in &engines {
        let started = Instant::now();
        engine.shutdown().await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
    assert_eq!(snapshot_threads(), 0);
}
