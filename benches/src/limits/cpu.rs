//! What one core does: encrypting packets, checksums, and handing things from thread to thread.

use std::time::{Duration, Instant};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// A packet on loopback, about.
const PACKET: usize = 16 << 10;
/// What is done between two looks at the clock.
const AT_ONCE: u64 = 64;
/// What waits between two threads at most.
const QUEUE: usize = 1024;

/// Bytes a second that one core seals with AES-128-GCM, packet by packet.
pub(crate) fn seal(time: Duration) -> f64 {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key of the right length");
    let key = LessSafeKey::new(key);
    let mut packet = vec![7; PACKET];
    let mut number: u64 = 0;
    let per_s = repeat(time, || {
        number += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut packet);
        std::hint::black_box(tag.is_ok());
    });
    per_s * PACKET as f64
}

/// Bytes a second that one core takes the checksum of which every record of the log has.
pub(crate) fn checksum(time: Duration) -> f64 {
    let block = vec![7; PACKET];
    let mut crc = 0;
    let per_s = repeat(time, || crc = crc32c::crc32c_append(crc, std::hint::black_box(&block)));
    std::hint::black_box(crc);
    per_s * PACKET as f64
}

/// Messages a second from one thread to another, through the queue that leads into a worker.
pub(crate) fn channel(time: Duration) -> f64 {
    let (sender, receiver) = crossbeam_channel::bounded::<u64>(QUEUE);
    let reading = std::thread::spawn(move || receiver.into_iter().map(std::hint::black_box).count());
    let per_s = repeat(time, || {
        let _ = sender.send(1);
    });
    drop(sender);
    let _ = reading.join();
    per_s
}

/// Answers a second that a task waits for from another thread, one after the other: the least that a caller's wait costs.
pub(crate) fn wake(time: Duration) -> f64 {
    let (sender, receiver) = crossbeam_channel::bounded::<tokio::sync::oneshot::Sender<u64>>(QUEUE);
    let answering = std::thread::spawn(move || {
        for answer in receiver {
            let _ = answer.send(1);
        }
    });
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return 0.0 };
    let per_s = repeat(time, || {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let _ = sender.send(answer);
        let _ = runtime.block_on(answered);
    });
    drop(sender);
    let _ = answering.join();
    per_s
}

/// How often a second something can be done.
fn repeat(time: Duration, mut one: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut count: u64 = 0;
    while begin.elapsed() < time {
        for _ in 0..AT_ONCE {
            one();
        }
        count += AT_ONCE;
    }
    count as f64 / begin.elapsed().as_secs_f64()
}
