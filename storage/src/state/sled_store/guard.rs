//! sled behind a guard: its panics and errors come out as [`StateError`], and after the first that leaves its state in doubt
//! every further call is refused.
//!
//! A batch that failed half way may be there in part after a restart. So the directory is marked, and a marked directory does
//! not open any more: its regions are filled from their peers.

use std::{
    fs::File,
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use sled::{Batch, Db, IVec};

use super::{super::Pair, super::StateError, durable::DB};

/// A file of this name says that a batch failed half way.
const FAILED_MARK: &str = "FAILED";

/// sled counts a cached page by the bytes that it has in the log, and a small pair takes several times as many in memory.
const MEMORY_PER_LOGGED_BYTE: u64 = 4;

/// The least that sled is given for pages, as it counts them: it has 256 parts, and room for one page in each.
const SLED_CACHE_MIN: u64 = 256 << 10;

/// One sled database.
#[derive(Debug)]
pub(super) struct Guarded {
    path: PathBuf,
    db: Db,
    poisoned: OnceLock<String>,
    /// Dropped after `db`.
    released: Released,
}

impl Guarded {
    pub(super) fn open(path: &Path, cache_bytes_max: u64) -> Result<Self, StateError> {
        let mark = path.join(FAILED_MARK);
        if mark.exists() {
            return Err(damaged(path, format!("{} exists: a batch failed half way", mark.display())));
        }
        let config = sled::Config::new()
            .path(path)
            .cache_capacity((cache_bytes_max / MEMORY_PER_LOGGED_BYTE).max(SLED_CACHE_MIN))
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let db = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(opened) => opened.map_err(|error| open_error(path, error))?,
            Err(panic) => return Err(damaged(path, panic_text(&*panic))),
        };
        let released = Released { file: path.join(DB), is_leaked: AtomicBool::new(false) };
        Ok(Self { path: path.to_path_buf(), db, poisoned: OnceLock::new(), released })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.read(key, Bytes::copy_from_slice)
    }

    /// Reads a value where it lies.
    pub(super) fn read<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, StateError> {
        Ok(self.call(|db| db.get(key))?.map(|value| read(&value)))
    }

    /// The pairs from `start` to `end` (excluded; `None`: no bound), in order. Nothing follows an error.
    pub(super) fn range<'a>(
        &'a self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair, StateError>> + use<'a> {
        let range =
            (Bound::Included(start.to_vec()), end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.to_vec())));
        // sled asserts that the bounds are in order.
        let is_empty = end.is_some_and(|end| start >= end);
        let mut iter = (!is_empty).then(|| self.db.range::<Vec<u8>, _>(range));
        std::iter::from_fn(move || {
            let sled = iter.as_mut()?;
            match self.call(|_| sled.next().transpose()) {
                Ok(pair) => pair.map(|(key, value)| Ok((to_bytes(&key), to_bytes(&value)))),
                Err(error) => {
                    iter = None;
                    Some(Err(error))
                }
            }
        })
    }

    /// Applies a batch of about so many changes.
    pub(super) fn apply(&self, batch: Batch, changes: usize) -> Result<(), StateError> {
        self.check()?;
        let done = self.call(|db| db.apply_batch(batch));
        free_replaced(changes);
        if let Err(error) = &done {
            self.poison(format!("a batch failed half way: {error}"));
            // Best effort: on a disk that refuses this as well, the applied index tells at the next start.
            if let Err(error) = File::create(self.path.join(FAILED_MARK)).and_then(|file| file.sync_all()) {
                tracing::error!(path = %self.path.display(), %error, "cannot mark the failed state store");
            }
        }
        done
    }

    pub(super) fn flush(&self) -> Result<(), StateError> {
        self.call(|db| db.flush()).map(|_| ()).inspect_err(|error| self.poison(format!("a flush failed: {error}")))
    }

    /// Refuses everything from now on.
    pub(super) fn poison(&self, reason: String) {
        tracing::error!(path = %self.path.display(), %reason, "the state store is not used any more");
        let _ = self.poisoned.set(reason);
    }

    /// An error if the store is not to be used any more.
    pub(super) fn check(&self) -> Result<(), StateError> {
        match self.poisoned.get() {
            None => Ok(()),
            Some(reason) => Err(self.io_error(io::Error::other(format!("it has failed before ({reason})")))),
        }
    }

    /// The error for contents that cannot be.
    pub(super) fn damaged(&self, reason: String) -> StateError {
        damaged(&self.path, reason)
    }

    pub(super) fn io_error(&self, source: io::Error) -> StateError {
        io_error(&self.path, source)
    }

    fn call<T>(&self, call: impl FnOnce(&Db) -> sled::Result<T>) -> Result<T, StateError> {
        self.check()?;
        match catch_unwind(AssertUnwindSafe(|| call(&self.db))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(sled::Error::Io(source))) => Err(io_error(&self.path, source)),
            Ok(Err(error)) => {
                self.poison(error.to_string());
                Err(damaged(&self.path, error.to_string()))
            }
            Err(panic) => {
                self.poison(panic_text(&*panic));
                // Closing it would flush a state that nobody vouches for, and might wait for a lock that is never released.
                std::mem::forget(self.db.clone());
                self.released.is_leaked.store(true, Ordering::Relaxed);
                Err(damaged(&self.path, panic_text(&*panic)))
            }
        }
    }
}

/// Frees what a batch has replaced. sled copies a page for each change, and frees what it replaces some at a time, once in so many
/// calls, however many changes those bring: without this, large batches leave more and more behind, and what stays lies in between.
fn free_replaced(changes: usize) {
    // Two turns make what was just replaced old enough; each frees up to 512 pieces, and a change leaves at most three or four.
    for _ in 0..3 + changes / 128 {
        sled::pin().flush();
    }
}

/// Waits, when dropped, until sled has let go of its file. sled's threads may hold it for a moment after the last handle is
/// gone, and whoever opens the store again just then would be told that another process has it.
#[derive(Debug)]
struct Released {
    file: PathBuf,
    is_leaked: AtomicBool,
}

impl Released {
    const PATIENCE: Duration = Duration::from_secs(5);

    fn is_free(&self) -> bool {
        let lock = |file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
        // The lock that this takes goes with the file handle. A file that cannot be opened is in nobody's way.
        !matches!(File::open(&self.file).and_then(lock), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Released {
    #[expect(
        clippy::disallowed_methods,
        reason = "sled has no event for having closed its file; this polls, with a deadline"
    )]
    fn drop(&mut self) {
        let start = Instant::now();
        while !*self.is_leaked.get_mut() && !self.is_free() && start.elapsed() < Self::PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A copy: sled's own buffer may be a part of a page.
fn to_bytes(value: &IVec) -> Bytes {
    Bytes::copy_from_slice(value)
}

/// Files that end too early or lack a part are damage; everything else that the system says is not.
fn open_error(path: &Path, error: sled::Error) -> StateError {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    match error {
        sled::Error::Io(source) if !matches!(source.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof) => {
            io_error(path, source)
        }
        error => damaged(path, error.to_string()),
    }
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.display().to_string(), source }
}

fn damaged(path: &Path, reason: String) -> StateError {
    StateError::Damaged { path: path.display().to_string(), reason }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("sled panicked: {}", text.unwrap_or("without a message"))
}
