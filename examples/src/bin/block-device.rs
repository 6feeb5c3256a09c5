//! A disk of 4 MiB that lies in memory on three stores, one of which is replaced while it is written.
#![allow(clippy::print_stdout, reason = "a program that shows something")]

use multiraft_examples::block_device::{BLOCK_BYTES, BlockDevice, Blocks, block_key};
use multiraft_examples::cluster::{Cluster, Failure};

const BLOCKS: u64 = 1024;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // Four regions of 256 blocks each.
    let boundaries = (1..4).map(|part| block_key(part * BLOCKS / 4));
    let mut cluster = Cluster::start(boundaries, |builder, _| builder.own_state(Blocks::create)).await?;
    let disk = BlockDevice::new(cluster.engine(1), BLOCKS);
    println!("a disk of {} bytes", disk.bytes());

    let text: Vec<u8> =
        b"written across a boundary of regions. ".iter().copied().cycle().take(4 * BLOCK_BYTES).collect();
    let offset = 254 * BLOCK_BYTES as u64;
    disk.write_at(offset, &text).await?;
    cluster.stop_store(3).await;
    println!("store 3 is stopped; the disk goes on");
    disk.write_at(0, &vec![7; BLOCK_BYTES]).await?;
    disk.discard(offset, BLOCK_BYTES as u64).await?;

    cluster.start_store(3).await?;
    let other = BlockDevice::new(cluster.engine(3), BLOCKS);
    let first = other.read_at(0, BLOCK_BYTES).await?;
    let four = other.read_at(offset, 4 * BLOCK_BYTES).await?;
    println!("through store 3: block 0 is sevens: {}", first.iter().all(|byte| *byte == 7));
    println!("the discarded block is zeroes: {}", four[..BLOCK_BYTES].iter().all(|byte| *byte == 0));
    println!("the next ones are as written: {}", four[BLOCK_BYTES..] == text[BLOCK_BYTES..]);
    cluster.stop().await;
    Ok(())
}
