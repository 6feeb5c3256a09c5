//! Stores that lose their data directory and begin anew, on real sockets and files, while regions still name them.

use std::time::Duration;

use multiraft::{Builder, Change, Consistency, Engine, Floor, RegionId, RegionStatus, StateKind, StoreId};

use crate::planning::hasty;
use crate::support::{Cluster, Map, eventually, put};

/// For what takes seconds on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(90);

/// Begins anew in an empty directory, as store 3.
async fn rejoin(cluster: &Cluster) -> Engine {
    std::fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    again(cluster, true).await
}

/// Starts store 3 as one that is no founder.
async fn again(cluster: &Cluster, rejoins: bool) -> Engine {
    begin(cluster, rejoins).state_machine(Map).start().await.unwrap()
}

fn begin(cluster: &Cluster, rejoins: bool) -> Builder {
    let mut builder = Engine::builder()
        .store(StoreId(3))
        .data_dir(cluster.data_dir(3))
        .state(cluster.kind.clone())
        .config(cluster.config.clone())
        .listen(cluster.address(3))
        .tls(cluster.tls(3));
    for peer in cluster.stores() {
        builder = builder.peer(peer, cluster.address(peer.0));
    }
    if rejoins { builder.rejoin() } else { builder }
}

async fn replicas(engine: &Engine) -> Vec<RegionStatus> {
    engine.status().await.regions
}

async fn write(engine: &Engine, key: &str, value: &str) {
    assert_eq!(engine.propose_key(key, put(key, value)).await.unwrap(), "ok");
}

async fn stop(engines: &[&Engine]) {
    for engine in engines {
        engine.shutdown().await;
    }
}

/// Store 2 holds the last write and stops; store 1 does not, and would need what store 3 has forgotten to lead without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_begins_anew_makes_no_leader_of_one_that_missed_what_it_has_forgotten() {
    let mut cluster = Cluster::new(3, 2);
    cluster.kind = StateKind::Sled;
    let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    let region = first.region_for(b"later").unwrap().id;
    write(&first, "later", "old").await;
    second.transfer_leader(region, StoreId(2)).await.unwrap();
    first.shutdown().await;
    write(&second, "later", "new").await;
    stop(&[&third, &second]).await;

    let (first, third) = (cluster.start(1).await, rejoin(&cluster).await);
    // Both are up for several election time-outs: with the vote of a replica that has forgotten, store 1 would lead all regions.
    let linked =
        || async { first.status().await.peers.iter().any(|peer| peer.store == StoreId(3) && peer.holds_support) };
    eventually(LIMIT, "the two have found each other", linked).await;
    tokio::time::sleep(8 * cluster.config.raft.election_timeout_max).await;
    assert_eq!((third.status().await.floor, replicas(&third).await), (Floor::Unknown, vec![]));
    assert!(replicas(&first).await.iter().all(|replica| !replica.is_leader), "{:?}", replicas(&first).await);
    stop(&[&third]).await;
    // It still has no floor, and has begun anew all the same.
    let third = again(&cluster, false).await;
    assert_eq!(third.status().await.floor, Floor::Unknown);

    let second = cluster.start(2).await;
    eventually(LIMIT, "it has a floor", || async { third.status().await.floor != Floor::Unknown }).await;
    let floor = third.status().await.floor;
    for engine in [&first, &third] {
        let read = engine.read_key("later", "later", Consistency::Linearizable).await;
        assert_eq!(read.unwrap(), "new");
    }
    let named = first.describe_region(region).await.unwrap();
    let old = named.replica_on(StoreId(3)).unwrap().id;
    assert!(floor.bars(old));
    assert_eq!(replicas(&third).await, vec![], "regions name it, and it is lost");

    let regions = [RegionId::ROOT, region, first.region_for(b"").unwrap().id];
    for region in regions {
        let changed = first.repair_replica(region, StoreId(3)).await.unwrap();
        assert!(!floor.bars(changed.replica_on(StoreId(3)).unwrap().id));
    }
    eventually(LIMIT, "it has all regions again", || async { replicas(&third).await.len() == regions.len() }).await;
    // Now it is store 1 that can be done without.
    first.shutdown().await;
    write(&third, "later", "newest").await;
    stop(&[&third]).await;
    let third = again(&cluster, false).await;
    assert_eq!(third.status().await.floor, floor, "for good");
    assert_eq!(third.read_key("later", "later", Consistency::Linearizable).await.unwrap(), "newest");
    stop(&[&third, &second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_is_replaced_by_whoever_plans_and_children_of_splits_come_with_their_parents() {
    let mut cluster = Cluster::new(3, 2);
    cluster.config.placement = Some(hasty());
    let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    write(&first, "later", "there").await;
    // Store 2 has a block of ids from before the other begins anew.
    second.split(second.region_for(b"later").unwrap().id, ["x"]).await.unwrap();
    third.shutdown().await;
    let third = rejoin(&cluster).await;
    let is_whole = || async {
        let Floor::Above(last) = third.status().await.floor else { return false };
        let here = replicas(&third).await;
        let own = |replica: &RegionStatus| replica.descriptor.replica_on(StoreId(3)).is_some_and(|own| own.id > last);
        here.len() == 4 && here.iter().all(own)
    };
    eventually(LIMIT, "all is replaced", is_whole).await;
    let parts = second.split(second.region_for(b"later").unwrap().id, ["m"]).await.unwrap();
    let floor = third.status().await.floor;
    for part in &parts {
        assert!(!floor.bars(part.replica_on(StoreId(3)).unwrap().id), "{part:?}");
    }
    eventually(LIMIT, "it has both parts", || async { replicas(&third).await.len() == 5 }).await;
    stop(&[&first, &second, &third]).await;
}

/// What is left of the replicas may be older than their votes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_does_not_begin_anew_with_a_part_of_what_it_was() {
    let mut cluster = Cluster::new(3, 1);
    for kind in [StateKind::Sled, StateKind::Memory] {
        cluster.kind = kind;
        let dir = cluster.data_dir(3);
        let refused = async |rejoins| {
            let builder = begin(&cluster, rejoins).state_machine(Map);
            let refused = builder.start().await.unwrap_err().to_string();
            assert!(refused.contains("what is left of replicas"), "{refused}");
        };
        for lost in [&["STORE"][..], &["STORE", "log"], &["STORE", "state", "snapshots"]] {
            cluster.start(3).await.shutdown().await;
            for part in lost {
                let path = dir.join(part);
                let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
            refused(true).await;
            refused(false).await;
            std::fs::remove_dir_all(&dir).unwrap();
        }
        let third = again(&cluster, true).await;
        assert_eq!(third.status().await.floor, Floor::Unknown);
        third.shutdown().await;
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// In its first life, and with the first regions on its command line: nothing but the directory tells that it is not what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_directory_is_refused_as_a_founder_and_let_in_when_it_rejoins() {
    let mut cluster = Cluster::new(3, 1);
    cluster.kind = StateKind::Sled;
    let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    let is_linked = |engine: Engine, to: u64| async move {
        engine.status().await.peers.iter().any(|peer| peer.store == StoreId(to) && peer.connected)
    };
    for (engine, to) in [(&first, 3), (&second, 3), (&third, 1), (&third, 2)] {
        eventually(LIMIT, "all are linked", || is_linked(engine.clone(), to)).await;
    }
    write(&first, "k", "v").await;
    // Those that remember may have started again since.
    stop(&[&third, &first]).await;
    let first = cluster.start(1).await;
    std::fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    let third = cluster.start(3).await;
    // It dials, and is dialed, several times.
    tokio::time::sleep(6 * cluster.config.raft.election_timeout_max).await;
    for (engine, to) in [(&first, 3), (&second, 3), (&third, 1), (&third, 2)] {
        assert!(!is_linked(engine.clone(), to).await, "{to}");
    }
    third.shutdown().await;
    let third = rejoin(&cluster).await;
    eventually(LIMIT, "it has a floor", || async { third.status().await.floor != Floor::Unknown }).await;
    third.shutdown().await;
    let third = again(&cluster, false).await;
    eventually(LIMIT, "it is let in again", || is_linked(third.clone(), 1)).await;
    assert_eq!(third.read_key("k", "k", Consistency::Linearizable).await.unwrap(), "v");
    stop(&[&first, &second, &third]).await;
}

/// What an operator may do by hand at the wrong moment: the id of the new replica is older than the floor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_added_before_the_store_has_its_floor_is_refused_and_not_waited_for() {
    let cluster = Cluster::new(3, 1);
    let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
    let region = first.region_for(b"").unwrap().id;
    third.shutdown().await;
    first.change_replicas(region, [Change::Remove(StoreId(3))]).await.unwrap();
    // The learner is there when the store comes, with an id that was given away before.
    first.change_replicas(region, [Change::AddLearner(StoreId(3))]).await.unwrap();
    let third = rejoin(&cluster).await;
    eventually(LIMIT, "it has a floor", || async { third.status().await.floor != Floor::Unknown }).await;
    let mut reason = String::new();
    eventually(LIMIT, "the leader has been told", || async {
        let changed =
            tokio::time::timeout(Duration::from_secs(5), first.change_replicas(region, [Change::AddVoter(StoreId(3))]));
        matches!(changed.await, Ok(Err(multiraft::RegionError::Refused { .. })))
    })
    .await;
    if let Err(error) = first.change_replicas(region, [Change::AddVoter(StoreId(3))]).await {
        reason = error.to_string();
    }
    assert!(reason.contains("remove it, and add another"), "{reason}");
    first.change_replicas(region, [Change::Remove(StoreId(3))]).await.unwrap();
    first.change_replicas(region, [Change::AddVoter(StoreId(3))]).await.unwrap();
    eventually(LIMIT, "it has a replica", || async { replicas(&third).await.len() == 1 }).await;
    stop(&[&first, &second, &third]).await;
}
