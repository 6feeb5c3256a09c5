//! A durable state store on sled.
//!
//! What sled does not give is added here:
//!
//! - **Reads of one instant.** A gate lets writers in alone and views together; a view keeps writers out while it lives.
//!   A thread must not write, nor open a second view, while it holds one: it could wait for itself.
//! - **Snapshots.** They read piece by piece under the gate, with the old values of keys that were overwritten since put over
//!   what is there now (see `overlay.rs`).
//! - **Durability.** sled's flush ends in `sync_file_range`, which forces out neither the file's length nor the disk's cache.
//!   [`StateStore::flush`] fdatasyncs every file itself (see `durable.rs`), and notes that beside sled, so that a sled that
//!   comes back without what was flushed is found out (see `watermark.rs`).
//! - **Large values** are cut into pieces, as sled is careless with large pages (see `layout.rs`).
//! - **A full disk.** sled does not go on after `ENOSPC`. So a write is refused while less than a reserve is free, before sled
//!   has seen it, and the store goes on by itself once there is room.
//! - **Damage.** sled panics on some damaged files. Every call into it is guarded: a panic becomes [`StateError::Damaged`], and
//!   the store refuses everything from then on. That needs unwinding: with `panic = "abort"` the program ends instead.
//!
//! sled's own background flush is off: nothing is flushed but by [`StateStore::flush`].

mod durable;
mod guard;
mod layout;
mod watermark;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;

use self::{durable::Durable, guard::Guarded, layout::Layout, watermark::Watermark};
use super::{
    Pair, RealFs, StateBatch, StateError, StateSnapshot, StateStore, StateView, StoreFs, mem::bound,
    metrics::StateMetrics, overlay::Overlays, resolved::Resolved,
};

/// How a [`SledStore`] is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SledConfig {
    /// The most bytes of pages that sled keeps in memory. Default: 64 MiB.
    pub cache_bytes_max: u64,
    /// Writes are refused while less than this is free on the file system. sled needs room to write out what it holds in
    /// memory; keep it above the cache. Default: 128 MiB.
    pub free_bytes_min: u64,
    /// The most bytes of old values kept for all open snapshots together. Default: 128 MiB.
    pub snapshot_bytes_max: usize,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self { cache_bytes_max: 64 << 20, free_bytes_min: 128 << 20, snapshot_bytes_max: 128 << 20 }
    }
}

/// The durable store. See the module's documentation.
///
/// Snapshots share it: the files stay open until the store and all its snapshots are dropped.
pub struct SledStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    config: SledConfig,
    fs: Arc<dyn StoreFs>,
    /// Writers alone, views and snapshots together.
    gate: RwLock<()>,
    layout: Layout,
    overlays: Overlays,
    /// Something was written since the last flush began. Set after the write and before it returns.
    is_dirty: AtomicBool,
    flusher: Mutex<Flusher>,
    metrics: StateMetrics,
}

/// What a flush works with; flushes come one after another.
struct Flusher {
    durable: Durable,
    watermark: Watermark,
}

impl SledStore {
    /// Opens the store in the directory `path`, which is made if it is missing.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if the files cannot be read; [`StateError::Io`] otherwise, also if another process has the
    /// store open.
    pub fn open(path: impl AsRef<Path>, config: SledConfig) -> Result<Self, StateError> {
        Self::open_on(path, config, Arc::new(RealFs))
    }

    /// Like [`SledStore::open`], with another [`StoreFs`].
    ///
    /// # Errors
    /// See [`SledStore::open`].
    pub fn open_on(path: impl AsRef<Path>, config: SledConfig, fs: Arc<dyn StoreFs>) -> Result<Self, StateError> {
        let path = path.as_ref().to_path_buf();
        let layout = Layout::open(Guarded::open(&path, config.cache_bytes_max)?)?;
        let io_error = |source| layout.db().io_error(source);
        let watermark = Watermark::open(&path, Arc::clone(&fs)).map_err(io_error)?;
        if let Some(objection) = watermark.objection(layout.flush_number()?) {
            return Err(layout.db().damaged(objection));
        }
        let durable = Durable::open(&path, Arc::clone(&fs)).map_err(io_error)?;
        let overlays = Overlays::new(config.snapshot_bytes_max);
        let flusher = Mutex::new(Flusher { durable, watermark });
        let (gate, is_dirty, metrics) = (RwLock::new(()), AtomicBool::new(true), StateMetrics::new());
        Ok(Self { shared: Arc::new(Shared { path, config, fs, gate, layout, overlays, is_dirty, flusher, metrics }) })
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl StateStore for SledStore {
    fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        let (start, bytes) = (Instant::now(), batch.bytes());
        self.shared.check_free(bytes)?;
        self.shared.write(batch)?;
        self.shared.metrics.wrote(start, bytes);
        Ok(())
    }

    fn view(&self) -> Box<dyn StateView + '_> {
        Box::new(SledView { shared: &self.shared, _gate: self.shared.enter() })
    }

    fn snapshot(&self, start: &[u8], end: &[u8]) -> Result<Box<dyn StateSnapshot>, StateError> {
        let _gate = self.shared.enter();
        self.shared.layout.db().check()?;
        let id = self.shared.overlays.open(start, end);
        Ok(Box::new(SledSnapshot { shared: Arc::clone(&self.shared), id }))
    }

    /// Takes no part of the gate: reads and writes go on while the disk works.
    fn flush(&self) -> Result<(), StateError> {
        let start = Instant::now();
        self.shared.flush()?;
        self.shared.metrics.flushed(start);
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

impl Shared {
    /// Refuses a write of `bytes` that might leave sled without room. sled writes whole pages, several times what came in.
    fn check_free(&self, bytes: usize) -> Result<(), StateError> {
        let free = self.fs.free_bytes(&self.path).map_err(|source| io_error(&self.path, source))?;
        if free < self.config.free_bytes_min.saturating_add((bytes as u64).saturating_mul(4)) {
            return Err(StateError::NoSpace { path: self.path.display().to_string() });
        }
        Ok(())
    }

    fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let changes = Resolved::of(batch, |start, end, found| {
            self.layout.keys(start, end).try_for_each(|key| {
                found(key?);
                Ok(())
            })
        })?;
        self.overlays.keep(changes.keys(), |key| self.layout.get(key))?;
        self.layout.apply(changes.into_changes())?;
        self.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Who finds nothing to flush has waited for the flush that took it along.
    fn flush(&self) -> Result<(), StateError> {
        let mut flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
        self.layout.db().check()?;
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let number = flusher.watermark.number().max(self.layout.flush_number()?) + 1;
        {
            let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            self.layout.set_flush_number(number)?;
        }
        self.layout.db().flush()?;
        flusher.durable.sync().and_then(|()| flusher.watermark.set(number)).map_err(|source| {
            self.layout.db().poison(format!("a flush failed: {source}"));
            io_error(&self.path, source)
        })
    }

    fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn io_error(path: &Path, source: std::io::Error) -> StateError {
    StateError::Io { path: path.display().to_string(), source }
}

/// Reads inside the gate.
struct SledView<'a> {
    shared: &'a Shared,
    _gate: RwLockReadGuard<'a, ()>,
}

impl StateView for SledView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.shared.layout.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, StateError> {
        self.shared.layout.scan(start, bound(end)).take(limit).collect()
    }
}

/// A scan that enters the gate for one chunk at a time.
struct SledSnapshot {
    shared: Arc<Shared>,
    id: u64,
}

impl StateSnapshot for SledSnapshot {
    fn next_chunk(&mut self, max_bytes: usize) -> Result<Vec<Pair>, StateError> {
        let shared = &self.shared;
        let _gate = shared.enter();
        let mut overlay = shared.overlays.take(self.id).expect("it is put back below, and only closed by the drop");
        let bytes_before = overlay.bytes();
        let chunk = match overlay.rest() {
            None => Ok(Vec::new()),
            Some((next, end)) => {
                let now = shared.layout.scan(next, bound(end));
                overlay.next_chunk(now, max_bytes)
            }
        };
        shared.overlays.put_back(self.id, overlay, bytes_before);
        chunk
    }
}

impl Drop for SledSnapshot {
    fn drop(&mut self) {
        self.shared.overlays.close(self.id);
    }
}
