//! A database of two regions, each in a redb file on every store, filled and read while stores come and go.
#![allow(clippy::print_stdout, reason = "a program that shows something")]

use bytes::Bytes;
use multiraft_examples::cluster::{Cluster, Failure};
use multiraft_examples::redb_tables::{RedbTables, TableClient};

const RIVERS: [(&str, &str); 6] = [
    ("amazon", "6400 km"),
    ("danube", "2850 km"),
    ("lena", "4294 km"),
    ("nile", "6650 km"),
    ("volga", "3530 km"),
    ("yukon", "3190 km"),
];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let boundary = Bytes::from_static(b"m");
    let mut cluster = Cluster::start([boundary], |builder, dir| {
        builder.own_state(RedbTables::new(dir).expect("the store's directory can be written"))
    })
    .await?;
    let first = TableClient::new(cluster.engine(1));
    for (river, length) in &RIVERS[..3] {
        first.set(river.as_bytes(), length.as_bytes()).await?;
    }
    cluster.stop_store(3).await;
    println!("store 3 is stopped; the others take in more");
    for (river, length) in &RIVERS[3..] {
        first.set(river.as_bytes(), length.as_bytes()).await?;
    }
    println!("the volga is removed: {}", first.remove(b"volga").await?);

    cluster.start_store(3).await?;
    println!("store 3 is back and has");
    for (river, length) in TableClient::new(cluster.engine(3)).scan(b"", 100).await? {
        println!("  {}: {}", String::from_utf8_lossy(&river), String::from_utf8_lossy(&length));
    }
    cluster.stop().await;
    Ok(())
}
