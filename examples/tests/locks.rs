//! The lock service on three stores: what holds while stores stop and start and callers fight.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use multiraft_examples::cluster::Cluster;
use multiraft_examples::lock_service::{Acquired, Fence, LockService, Locks};

const LEASE: Duration = Duration::from_secs(30);

fn granted(acquired: Acquired) -> u64 {
    match acquired {
        Acquired::Granted { token } => token,
        Acquired::Held(holder) => panic!("held by {holder:?}"),
    }
}

async fn cluster() -> Cluster {
    let boundary = bytes::Bytes::from_static(b"m");
    Cluster::start([boundary], |builder, _| builder.state_machine(LockService)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_has_one_owner_at_a_time_and_tokens_only_grow() {
    let mut cluster = cluster().await;
    let now = SystemTime::now();
    let (one, two) = (Locks::new(cluster.engine(1)), Locks::new(cluster.engine(2)));
    for name in [b"anchor", b"zenith"] {
        let first = granted(one.acquire(name, b"one", now, LEASE).await.unwrap());
        let Acquired::Held(holder) = two.acquire(name, b"two", now, LEASE).await.unwrap() else {
            panic!("a held lock was granted")
        };
        assert_eq!((holder.owner.as_slice(), holder.token), (&b"one"[..], first));
        assert!(one.renew(name, first, now + LEASE / 2, LEASE).await.unwrap());
        // Without the renewal the lease would be over here.
        assert!(matches!(two.acquire(name, b"two", now + LEASE, LEASE).await.unwrap(), Acquired::Held(_)));
        let later = now + LEASE * 2;
        let second = granted(two.acquire(name, b"two", later, LEASE).await.unwrap());
        assert!(second > first);
        assert!(!one.renew(name, first, later, LEASE).await.unwrap(), "a grant of the past was renewed");
        assert!(!one.release(name, first).await.unwrap(), "a grant of the past was released");
        let mut fence = Fence::default();
        assert!(fence.admit(first) && fence.admit(second) && !fence.admit(first));
        assert!(two.release(name, second).await.unwrap());
        assert!(!two.release(name, second).await.unwrap(), "a lock was released twice");
        assert_eq!(one.holder(name, later).await.unwrap(), None);
        assert!(granted(one.acquire(name, b"one", later, LEASE).await.unwrap()) > second);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_is_granted_twice_while_stores_restart() {
    let mut cluster = cluster().await;
    let mut tokens = BTreeSet::new();
    let mut rounds = 0;
    for away in [3, 1, 2] {
        cluster.stop_store(away).await;
        // A session outlives the store that it was opened on only with its process: each round has its own clients.
        let stores: Vec<usize> = (1..=3).filter(|store| *store != away).collect();
        let fights = stores.iter().map(|store| fight(Locks::new(cluster.engine(*store)), *store, 15));
        let mut tasks: tokio::task::JoinSet<_> = fights.collect();
        while let Some(taken) = tasks.join_next().await {
            for token in taken.unwrap() {
                rounds += 1;
                assert!(tokens.insert(token), "token {token} was granted twice");
            }
        }
        cluster.start_store(away).await.unwrap();
    }
    assert_eq!(rounds, 3 * 2 * 15);
    let back = Locks::new(cluster.engine(2));
    let last = granted(back.acquire(b"prize", b"back", SystemTime::now(), LEASE).await.unwrap());
    assert!(tokens.iter().all(|token| *token < last));
    cluster.stop().await;
}

/// Takes the lock and gives it back so many times; gives the tokens.
async fn fight(locks: Locks, store: usize, times: usize) -> Vec<u64> {
    let mut tokens = Vec::new();
    let owner = store.to_string().into_bytes();
    while tokens.len() < times {
        match locks.acquire(b"prize", &owner, SystemTime::now(), LEASE).await.unwrap() {
            Acquired::Granted { token } => {
                tokens.push(token);
                assert!(locks.release(b"prize", token).await.unwrap(), "the lock was lost within its lease");
            }
            Acquired::Held(holder) => assert_ne!(holder.owner, owner),
        }
    }
    tokens
}
