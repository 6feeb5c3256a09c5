//! Support between three real stores: given and held, withdrawn when a store is gone, and given again.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use multiraft::{ApplyContext, Engine, PeerStatus, RegionView, StateError, StateMachine, StateTxn, StoreId};

use crate::support::relay::Relay;
use crate::support::{Cluster, eventually, put};

/// For how long support is given.
const DURATION: Duration = Duration::from_secs(1);
/// All support is held so long after the stores run and can talk.
const HELD_WITHIN: Duration = Duration::from_secs(2);
/// Support of a store that is gone ends so long afterwards.
const WITHDRAWN_WITHIN: Duration = Duration::from_millis(1300);
/// For what depends on more than support.
const LIMIT: Duration = Duration::from_secs(20);

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
    eventually(LIMIT, "all support is held again", || all_held(&all)).await;
    for engine in &engines {
        engine.shutdown().await;
    }
}

/// Nothing is applied while the gate is shut.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut(&self, is_shut: bool) {
        *self.0.0.lock().expect("nobody panics with it") = is_shut;
        self.0.1.notify_all();
    }
}

impl StateMachine for Gate {
    fn apply(&self, _: ApplyContext<'_>, _: &[u8], _: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let shut = self.0.0.lock().expect("nobody panics with it");
        drop(self.0.1.wait_while(shut, |is_shut| *is_shut).expect("nobody panics with it"));
        Ok(Bytes::new())
    }

    fn lookup(&self, _: &RegionView<'_>, _: &[u8]) -> Result<Bytes, StateError> {
        Ok(Bytes::new())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_applier_hangs_asks_for_no_support_and_goes_on_giving_its_own() {
    let cluster = Cluster::new(3, 1);
    let gate = Gate::default();
    let mut engines = Vec::new();
    for store in [1, 2] {
        engines.push(cluster.builder(store).state_machine(Gate::default()).start().await.unwrap());
    }
    engines.push(cluster.builder(3).state_machine(gate.clone()).start().await.unwrap());
    let all: Vec<&Engine> = engines.iter().collect();
    eventually(HELD_WITHIN, "all support is held", || all_held(&all)).await;
    gate.shut(true);
    let region = engines[0].region_for(b"key").unwrap().id;
    // Applied by the others; what the third leads meanwhile stands still with it.
    let proposed = tokio::spawn({
        let engine = engines[0].clone();
        async move { engine.propose(region, put("key", "value")).await }
    });
    eventually(LIMIT, "support of the store that hangs is withdrawn", || async {
        !peer(&engines[0], 3).await.gives_support && !peer(&engines[1], 3).await.gives_support
    })
    .await;
    for engine in &engines[..2] {
        assert!(peer(engine, 3).await.holds_support, "it answers, and keeps what it promises");
    }
    gate.shut(false);
    eventually(LIMIT, "all support is held again", || all_held(&all)).await;
    proposed.await.unwrap().unwrap();
    for engine in &engines {
        engine.shutdown().await;
    }
}
