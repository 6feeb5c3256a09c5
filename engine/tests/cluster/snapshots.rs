//! A store that was away beyond the log, behind a wire that breaks in the middle of its snapshot.

use std::time::Duration;

use multiraft::{Consistency, StateKind};

use crate::support::eventually;
use crate::support::wired::{VALUE_BYTES, VALUES, Wired, sent};

const LIMIT: Duration = Duration::from_secs(30);
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_where_the_link_broke() {
    for kind in [StateKind::Sled, StateKind::Memory] {
        let wired = Wired::new(kind);
        let (engines, region) = wired.with_third_behind().await;
        let third = &engines[2];
        eventually(LIMIT, "the snapshot is half-way", || async { sent(&engines).await.0 > 3 << 20 }).await;
        wired.cut(true);
        eventually(LIMIT, "the link is given up", || async {
            third.status().await.peers.iter().all(|peer| !peer.connected)
                && engines[0].status().await.peers.iter().any(|peer| !peer.connected)
                && engines[1].status().await.peers.iter().any(|peer| !peer.connected)
        })
        .await;
        wired.cut(false);
        let last = format!("key{:03}", VALUES - 1);
        eventually(LIMIT, "the third store has everything", || async {
            third.read(region, last.clone(), Consistency::Local).await.unwrap().len() == VALUE_BYTES
        })
        .await;
        eventually(LIMIT, "the snapshot is told to be installed", || async {
            third.status().await.counters.snapshots_installed > 0
        })
        .await;
        let ((bytes, resumed), all) = (sent(&engines).await, (VALUES * VALUE_BYTES) as u64);
        println!("{all} bytes of state, {bytes} bytes sent, {resumed} resumed");
        assert_eq!((third.status().await.counters.snapshots_installed, resumed), (1, 1));
        // Twice: what was on its way when the wire was cut, and the chunk that was not whole.
        assert!(bytes < all + (1 << 20), "{bytes} bytes sent for {all}");
        for engine in &engines {
            engine.shutdown().await;
        }
    }
}
