//! The planted bugs do what they are planted for. Each test runs itself once more, in a process with the order.

#![cfg(feature = "torture")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::process::Command;

use multiraft::{Consistency, Engine, RegionId};
use multiraft_raft::ReplicaId;
use multiraft_storage::plant::{ORDER, Plant};
use multiraft_storage::{LogOptions, LogWriter, RealDisk};
use support::{Cluster, append, put};

/// Whether this process has the order; else another one has had it, and has found what `test` looks for.
fn has_order(test: &str, order: &str) -> bool {
    if std::env::var_os(ORDER).is_some() {
        return true;
    }
    let mut command = Command::new("timeout");
    command.arg("120").arg(std::env::current_exe().unwrap()).args(["--exact", test]).env(ORDER, order);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

async fn read(engine: &Engine, key: &str) -> String {
    let value = engine.read_key(key, key.to_owned(), Consistency::Linearizable).await.unwrap();
    String::from_utf8(value.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_an_unknown_order_does_not_start() {
    if has_order("a_store_with_an_unknown_order_does_not_start", "no-such-bug") {
        let started = Cluster::new(1, 1).builder(1).state_machine(support::Map).start().await;
        let refused = started.err().unwrap().to_string();
        assert!(refused.contains("no-such-bug") && refused.contains("double-apply"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_command_is_carried_out_again() {
    if has_order("a_repeated_command_is_carried_out_again", Plant::DoubleApply.name()) {
        let cluster = Cluster::new(1, 1);
        let engine = cluster.start(1).await;
        let token = engine.open_session("key").await.unwrap();
        for expected in ["x", "xx"] {
            engine.propose_once(&token, 1, 0, "key", append("key", "x")).await.unwrap();
            assert_eq!(read(&engine, "key").await, expected);
        }
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_loses_pairs_of_the_child_and_of_nobody_else() {
    if has_order("a_split_loses_pairs_of_the_child_and_of_nobody_else", Plant::LostSplitWrites.name()) {
        let cluster = Cluster::new(1, 1);
        let engine = cluster.start(1).await;
        let keys: Vec<String> = (0..20).map(|n| format!("key{:03}", n * 50)).collect();
        for key in &keys {
            engine.propose_key(key, put(key, "there")).await.unwrap();
        }
        let region = engine.region_for(b"key").unwrap().id;
        engine.split(region, ["key500"]).await.unwrap();
        let mut lost = Vec::new();
        for key in &keys {
            if read(&engine, key).await.is_empty() {
                lost.push(key.as_str());
            }
        }
        assert_eq!(lost, ["key500", "key700", "key900"]);
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_misses_what_was_acknowledged() {
    if has_order("a_linearizable_read_misses_what_was_acknowledged", Plant::StaleRead.name()) {
        let cluster = Cluster::new(3, 1);
        let engines = cluster.start_all().await;
        let mut stale = 0;
        for round in 0..500 {
            engines[0].propose_key("key", put("key", &round.to_string())).await.unwrap();
            for engine in &engines {
                stale += usize::from(read(engine, "key").await != round.to_string());
            }
            if stale > 0 {
                break;
            }
        }
        assert!(stale > 0);
        for engine in engines {
            engine.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_is_not_in_the_log() {
    if has_order("a_vote_is_not_in_the_log", Plant::VoteNotPersisted.name()) {
        let cluster = Cluster::new(1, 1);
        let engine = cluster.start(1).await;
        // Led by the vote of its one replica for itself.
        engine.propose_key("key", put("key", "value")).await.unwrap();
        let region: RegionId = engine.region_for(b"key").unwrap().id;
        engine.shutdown().await;
        let disk = RealDisk::open(cluster.data_dir(1).join("log")).unwrap();
        let (_, _, recovered) = LogWriter::open(std::sync::Arc::new(disk), LogOptions::default()).unwrap();
        assert_eq!(recovered.groups[&region].hard_state.vote, ReplicaId::ZERO);
    }
}
