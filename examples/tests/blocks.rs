//! The block device on three stores, against a plain array of bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use multiraft_examples::block_device::{BLOCK_BYTES, BlockDevice, Blocks, block_key};
use multiraft_examples::client::ClientError;
use multiraft_examples::cluster::Cluster;

const BLOCKS: u64 = 1024;

async fn cluster() -> Cluster {
    let boundaries = [100, 500, 501].map(block_key);
    Cluster::start(boundaries, |builder, _| builder.own_state(Blocks::create)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_holds_what_an_array_would_while_stores_restart() {
    let mut cluster = cluster().await;
    let mut model = vec![0; BLOCKS as usize * BLOCK_BYTES];
    // From block, so many, and the byte that fills them; zero discards. Across boundaries and more than a command takes.
    let rounds: [&[(usize, usize, u8)]; 3] = [
        &[(0, 8, 1), (96, 8, 2), (498, 6, 3), (600, 300, 4)],
        &[(99, 2, 5), (100, 1, 6), (610, 20, 0), (1023, 1, 7)],
        &[(0, 1, 8), (497, 5, 0), (500, 1, 9)],
    ];
    for (round, away) in rounds.into_iter().zip([3, 1, 2]) {
        cluster.stop_store(away).await;
        let disk = BlockDevice::new(cluster.engine(away % 3 + 1), BLOCKS);
        for (first, count, fill) in round {
            let (offset, length) = (first * BLOCK_BYTES, count * BLOCK_BYTES);
            model[offset..offset + length].fill(*fill);
            if *fill == 0 {
                disk.discard(offset as u64, length as u64).await.unwrap();
            } else {
                disk.write_at(offset as u64, &vec![*fill; length]).await.unwrap();
            }
        }
        cluster.start_store(away).await.unwrap();
        // The store that was away answers too, with everything.
        let back = BlockDevice::new(cluster.engine(away), BLOCKS);
        assert!(back.read_at(0, model.len()).await.unwrap() == model, "the disk differs after store {away} was away");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_and_change_nothing() {
    let mut cluster = cluster().await;
    let disk = BlockDevice::new(cluster.engine(1), BLOCKS);
    let one = vec![1; BLOCK_BYTES];
    for (offset, data) in [(1, &one[..]), (0, &one[1..]), (disk.bytes(), &one[..]), (u64::MAX - 4095, &one[..])] {
        assert!(matches!(disk.write_at(offset, data).await, Err(ClientError::Misuse(_))), "{offset}");
    }
    assert!(matches!(disk.read_at(1, BLOCK_BYTES).await, Err(ClientError::Misuse(_))));
    assert!(disk.read_at(0, BLOCK_BYTES).await.unwrap().iter().all(|byte| *byte == 0));
    disk.write_at(0, &[]).await.unwrap();
    cluster.stop().await;
}
