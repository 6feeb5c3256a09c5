//! Two owners and one lock: the lease of the first runs out, the second gets the lock, and a fence keeps the first from doing
//! harm when it comes back; all while a store is away.
#![allow(clippy::print_stdout, reason = "a program that shows something")]

use std::time::{Duration, SystemTime};

use multiraft_examples::cluster::{Cluster, Failure};
use multiraft_examples::lock_service::{Acquired, Fence, LockService, Locks};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut cluster = Cluster::start([], |builder, _| builder.state_machine(LockService)).await?;
    let (alice, bob) = (Locks::new(cluster.engine(1)), Locks::new(cluster.engine(2)));
    let (now, lease) = (SystemTime::now(), Duration::from_secs(10));
    let mut printer = Fence::default();

    let Acquired::Granted { token: first } = alice.acquire(b"printer", b"alice", now, lease).await? else {
        return Err("a new lock is held already".into());
    };
    println!("alice has the printer, token {first}");
    println!("bob asks: {:?}", bob.acquire(b"printer", b"bob", now, lease).await?);

    cluster.stop_store(3).await;
    println!("store 3 is stopped, and alice falls asleep");
    let later = now + lease;
    let Acquired::Granted { token: second } = bob.acquire(b"printer", b"bob", later, lease).await? else {
        return Err("an expired lock was not granted".into());
    };
    println!("bob has the printer, token {second}; his page is printed: {}", printer.admit(second));
    println!("alice wakes up and sends a page with token {first}; it is printed: {}", printer.admit(first));

    cluster.start_store(3).await?;
    let carol = Locks::new(cluster.engine(3));
    println!("store 3 is back and knows: {:?}", carol.holder(b"printer", later).await?.map(|holder| holder.token));
    println!("bob releases: {}", bob.release(b"printer", second).await?);
    cluster.stop().await;
    Ok(())
}
