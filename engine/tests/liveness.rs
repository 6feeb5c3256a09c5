//! Support between three real stores: given and held, withdrawn when a store is gone, and given again.

mod support;

use std::time::Duration;

use multiraft::{Engine, PeerStatus, StoreId};
use support::relay::Relay;
use support::{Cluster, eventually};

/// For how long support is given.
const DURATION: Duration = Duration::from_secs(1);
/// All support is held so long after the stores run and can talk.
const HELD_WITHIN: Duration = Duration::from_secs(2);
/// Support of a store that is gone ends so long afterwards.
const WITHDRAWN_WITHIN: Duration = Duration::from_millis(1300);

async fn peer(engine: &Engine, store: u64) -> PeerStatus {
    let peers = engine.status().await.peers;
    peers.into_iter().find(|peer| peer.store == StoreId(store)).expect("every store knows every other")
}

async fn all_held(engines: &[&Engine]) -> bool {
    for engine in engines {
        for other in engines.iter().filter(|other| other.store() != engine.store()) {
            let peer = peer(engine, other.store().get()).await;
            if !peer.holds_support || !peer.gives_support {
                return false;
            }
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_stores_hold_each_others_support_also_after_one_has_stopped_and_come_back() {
    let cluster = Cluster::new(3, 1);
    assert_eq!(cluster.config.liveness.support_duration, DURATION);
    let mut engines = cluster.start_all().await;
    eventually(HELD_WITHIN, "all support is held", || async { all_held(&engines.iter().collect::<Vec<_>>()).await })
        .await;
    let third = engines.pop().unwrap();
    third.shutdown().await;
    // It said farewell: nobody waits for its support to run out.
    for engine in &engines {
        // What it has itself promised they go on holding.
        eventually(DURATION / 2, "support is withdrawn at a farewell", || async {
            !peer(engine, 3).await.gives_support
        })
        .await;
        assert!(peer(engine, 3 - engine.store().get()).await.gives_support, "the others go on");
    }
    drop(third);
    engines.push(cluster.start(3).await);
    eventually(HELD_WITHIN, "all support is held again", || async {
        all_held(&engines.iter().collect::<Vec<_>>()).await
    })
    .await;
    for engine in &engines {
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_without_a_word_loses_its_support_in_time_and_gets_it_back() {
    let mut cluster = Cluster::new(3, 1);
    let mut wires = Vec::new();
    for (from, to) in [(1, 3), (2, 3), (3, 1), (3, 2)] {
        let wire = Relay::to(cluster.address(to));
        cluster.routes.insert((from, to), wire.address());
        wires.push(wire);
    }
    let engines = cluster.start_all().await;
    let all: Vec<&Engine> = engines.iter().collect();
    eventually(HELD_WITHIN, "all support is held", || all_held(&all)).await;
    wires.iter().for_each(|wire| wire.cut(true));
    eventually(WITHDRAWN_WITHIN, "support is withdrawn on both sides", || async {
        let (first, second) = (peer(&engines[0], 3).await, peer(&engines[1], 3).await);
        let (of_first, of_second) = (peer(&engines[2], 1).await, peer(&engines[2], 2).await);
        [first, second, of_first, of_second].iter().all(|peer| !peer.gives_support && !peer.holds_support)
    })
    .await;
    assert!(all_held(&all[..2]).await, "the others go on");
    wires.iter().for_each(|wire| wire.cut(false));
    // The links have to be made anew.
    eventually(Duration::from_secs(20), "all support is held again", || all_held(&all)).await;
    for engine in &engines {
        engine.shutdown().await;
    }
}
