//! Queues on three stores: every item to one consumer, once, in order, while stores stop and start.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use multiraft::StateKind;
use multiraft_examples::client::ClientError;
use multiraft_examples::cluster::Cluster;
use multiraft_examples::queue::{Item, Queue, Queues};
use tokio::task::JoinSet;

const ITEMS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_item_is_taken_once_and_in_order_while_a_store_restarts() {
    let mut cluster =
        Cluster::start([], |builder, _| builder.state_machine(Queues).state(StateKind::Memory)).await.unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let mut producers = JoinSet::new();
    let mut consumers = JoinSet::new();
    for store in [1, 2] {
        producers.spawn(produce(Queue::new(cluster.engine(store), "work").unwrap(), store));
        consumers.spawn(consume(Queue::new(cluster.engine(store), "work").unwrap(), Arc::clone(&taken)));
    }
    // Away in the middle of it, and back: its clients would go with it, so it has none.
    cluster.stop_store(3).await;
    cluster.start_store(3).await.unwrap();
    while let Some(done) = producers.join_next().await {
        done.unwrap();
    }
    let mut items = BTreeMap::new();
    while let Some(done) = consumers.join_next().await {
        let own = done.unwrap();
        assert!(own.is_sorted_by_key(|item| item.number), "a consumer was handed items out of order");
        for item in own {
            assert_eq!(items.insert(item.number, item.content), None, "item {} was handed out twice", item.number);
        }
    }
    assert!(items.keys().copied().eq(0..2 * ITEMS), "numbers have gaps");
    for producer in [1, 2] {
        let prefix = format!("{producer}:");
        let own = items.values().map(|content| String::from_utf8(content.clone()).unwrap());
        let own: Vec<String> = own.filter(|content| content.starts_with(&prefix)).collect();
        assert_eq!(own, (0..ITEMS).map(|item| format!("{prefix}{item}")).collect::<Vec<_>>());
    }
    assert_eq!(Queue::new(cluster.engine(3), "work").unwrap().length().await.unwrap(), 0);
    cluster.stop().await;
}

async fn produce(queue: Queue, producer: usize) {
    for item in 0..ITEMS {
        queue.push(format!("{producer}:{item}").as_bytes()).await.unwrap();
    }
}

async fn consume(queue: Queue, taken: Arc<AtomicU64>) -> Vec<Item> {
    let mut items = Vec::new();
    while taken.load(Ordering::SeqCst) < 2 * ITEMS {
        if let Some(item) = queue.pop().await.unwrap() {
            taken.fetch_add(1, Ordering::SeqCst);
            items.push(item);
        }
    }
    items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_survive_the_restart_of_all_stores() {
    let mut cluster =
        Cluster::start([], |builder, _| builder.state_machine(Queues).state(StateKind::Memory)).await.unwrap();
    let queue = Queue::new(cluster.engine(2), "kept").unwrap();
    for item in 0..5 {
        assert_eq!(queue.push(&[item]).await.unwrap(), u64::from(item));
    }
    assert_eq!(queue.pop().await.unwrap(), Some(Item { number: 0, content: vec![0] }));
    drop(queue);
    cluster.stop().await;
    for store in 1..=3 {
        cluster.start_store(store).await.unwrap();
    }
    let queue = Queue::new(cluster.engine(1), "kept").unwrap();
    for item in 1..5 {
        assert_eq!(queue.pop().await.unwrap(), Some(Item { number: u64::from(item), content: vec![item] }));
    }
    assert_eq!(queue.pop().await.unwrap(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_is_refused() {
    let mut cluster = Cluster::start([], |builder, _| builder.state_machine(Queues)).await.unwrap();
    for name in ["", "a\0b"] {
        assert!(matches!(Queue::new(cluster.engine(1), name), Err(ClientError::Misuse(_))));
    }
    cluster.stop().await;
}
