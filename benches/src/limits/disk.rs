//! What the disk does: batches, each written and flushed (fdatasync) before the next, into files whose blocks are there and were
//! written before. As the log writes, and with its own means.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use multiraft_storage::{Disk, RealDisk};

use crate::clients::latencies;
use crate::cluster::Problem;

/// How long a file is: batches go round in it.
const FILE_BYTES: u64 = 16 << 20;

/// What came out.
pub(crate) struct Flushed {
    /// Bytes of a batch.
    pub(crate) batch: u64,
    /// Files that were written at once, each by a thread of its own.
    pub(crate) files: u64,
    /// Batches that became durable, in all files.
    pub(crate) syncs_per_s: f64,
    /// How long one took, in microseconds.
    pub(crate) times: Histogram<u64>,
}

impl Flushed {
    pub(crate) fn bytes_per_s(&self) -> f64 {
        self.syncs_per_s * self.batch as f64
    }
}

/// Writes batches of `batch` bytes into `files` files at once, below `place`, for some time.
pub(crate) fn measure(place: &Path, batch: u64, files: u64, time: Duration) -> Result<Flushed, Problem> {
    let io = |source| Problem::Io { what: "the disk cannot be measured: see --dir", source };
    let dir = tempfile::Builder::new().prefix("multiraft-bench-").tempdir_in(place).map_err(io)?;
    let disk = RealDisk::open(dir.path()).map_err(|error| io(std::io::Error::other(error)))?.with_direct_appends(true);
    let length = FILE_BYTES.max(batch.next_multiple_of(4096));
    let mut opened = Vec::new();
    for number in 0..files {
        let file = disk.create(&format!("file-{number}")).map_err(io)?;
        file.preallocate(length).map_err(io)?;
        opened.push(file);
    }
    let bytes = vec![7; usize::try_from(batch).unwrap_or(usize::MAX)];
    let begin = Instant::now();
    let write = |file: &dyn multiraft_storage::DiskFile| -> std::io::Result<Histogram<u64>> {
        let mut times = latencies();
        let mut at = 0;
        while begin.elapsed() < time {
            let begun = Instant::now();
            file.append_at(&bytes, at)?;
            file.sync_data()?;
            times.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
            // Frames of the log begin at multiples of eight bytes.
            at = (at + batch).next_multiple_of(8);
            at = if at + batch > length { 0 } else { at };
        }
        Ok(times)
    };
    let found: Vec<std::io::Result<Histogram<u64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = opened.iter().map(|file| scope.spawn(|| write(&**file))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Ok(latencies()))).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut times = latencies();
    for one in found {
        times.add(one.map_err(io)?).expect("the bounds are the same");
    }
    Ok(Flushed { batch, files, syncs_per_s: times.len() as f64 / seconds, times })
}
