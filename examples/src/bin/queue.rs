//! A producer, two consumers, and a store that goes away and comes back between them.
#![allow(clippy::print_stdout, reason = "a program that shows something")]

use multiraft::StateKind;
use multiraft_examples::cluster::{Cluster, Failure};
use multiraft_examples::queue::{Queue, Queues};

const ITEMS: u64 = 30;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut cluster = Cluster::start([], |builder, _| builder.state_machine(Queues).state(StateKind::Memory)).await?;
    let producer = Queue::new(cluster.engine(1), "letters")?;
    for item in 0..ITEMS {
        producer.push(format!("letter {item}").as_bytes()).await?;
    }
    println!("{} letters wait", producer.length().await?);

    cluster.stop_store(3).await;
    let consumers = [Queue::new(cluster.engine(1), "letters")?, Queue::new(cluster.engine(2), "letters")?];
    for turn in 0..ITEMS {
        let which = (turn % 2) as usize;
        let item = consumers[which].pop().await?.ok_or("the queue ended early")?;
        println!("consumer {} took number {}: {}", which + 1, item.number, String::from_utf8_lossy(&item.content));
    }

    cluster.start_store(3).await?;
    let late = Queue::new(cluster.engine(3), "letters")?;
    println!("store 3 is back; what is left for it: {:?}", late.pop().await?);
    cluster.stop().await;
    Ok(())
}
