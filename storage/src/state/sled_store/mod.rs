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
//! - **Large ranges** are removed by a record that hides them, and key by key later, in writes and flushes to come (see
//!   `clears.rs`).
//! - **Many small records** of one kind lie together, as sled takes much memory for each page, in memory or not (see `groups.rs`).
//! - **Large values** are cut into pieces, as sled is careless with large pages (see `layout.rs`).
//! - **A full disk.** sled does not go on after `ENOSPC`. So a write is refused while less than a reserve is free, before sled
//!   has seen it, and the store goes on by itself once there is room.
//! - **Damage.** sled panics on some damaged files. Every call into it is guarded: a panic becomes [`StateError::Damaged`], and
//!   the store refuses everything from then on. That needs unwinding: with `panic = "abort"` the program ends instead.
//!
//! sled's own background flush is off: nothing is flushed but by [`StateStore::flush`].

mod clears;
mod contents;
mod durable;
mod groups;
mod guard;
mod layout;
mod watermark;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;

use self::{
    clears::Clears, contents::Contents, durable::Durable, guard::Guarded, layout::Layout, watermark::Watermark,
};
use super::{
    Pair, RealFs, StateBatch, StateError, StateSnapshot, StateStore, StateView, StoreFs,
    mem::bound,
    metrics::StateMetrics,
    overlay::Overlays,
    resolved::{Found, Resolved},
};

/// How many hidden keys go at once; nobody is let in meanwhile.
const CLEARED_KEYS_STEP: usize = 1_000;

/// How many such steps a flush takes at most.
const CLEARING_STEPS: usize = 64;

/// From this many clears on a write takes a step.
const CLEARS_MAX: usize = 256;

/// From this many exempt keys on a write takes a step.
const EXEMPT_KEYS_MAX: usize = 100_000;

/// How a [`SledStore`] is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SledConfig {
    /// About how many bytes of memory sled may fill with pages; at least 1 MiB. Pages that are not in it are read from the file when
    /// they are wanted, and a few dozen bytes of each pair stay in memory to find them. Default: 4 MiB.
    pub cache_bytes_max: u64,
    /// Writes are refused while less than this is free on the file system. sled needs room to write out what it holds in
    /// memory; keep it above the cache. Default: 128 MiB.
    pub free_bytes_min: u64,
    /// The most bytes of old values kept for all open snapshots together. Default: 128 MiB.
    pub snapshot_bytes_max: usize,
    /// A range with more keys than this is removed piece by piece, after it has gone for everybody. Default: 4096.
    pub delete_range_keys_max: usize,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self {
            cache_bytes_max: 4 << 20,
            free_bytes_min: 128 << 20,
            snapshot_bytes_max: 128 << 20,
            delete_range_keys_max: 4096,
        }
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
    gate: RwLock<Clears>,
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
    /// [`StateError::Damaged`] if the files cannot be read; [`StateError::NoSpace`] if they are of an older layout and there is
    /// no room to rewrite them; [`StateError::Io`] otherwise, also if another process has the store open.
    pub fn open(path: impl AsRef<Path>, config: SledConfig) -> Result<Self, StateError> {
        Self::open_on(path, config, Arc::new(RealFs))
    }

    /// Like [`SledStore::open`], with another [`StoreFs`].
    ///
    /// # Errors
    /// See [`SledStore::open`].
    pub fn open_on(path: impl AsRef<Path>, config: SledConfig, fs: Arc<dyn StoreFs>) -> Result<Self, StateError> {
        let path = path.as_ref().to_path_buf();
        let has_room = |bytes| check_free(&*fs, &path, config.free_bytes_min, bytes);
        let layout = Layout::open(Guarded::open(&path, config.cache_bytes_max)?, has_room)?;
        let io_error = |source| layout.db().io_error(source);
        let watermark = Watermark::open(&path, Arc::clone(&fs)).map_err(io_error)?;
        if let Some(objection) = watermark.objection(layout.flush_number()?) {
            return Err(layout.db().damaged(objection));
        }
        let durable = Durable::open(&path, Arc::clone(&fs)).map_err(io_error)?;
        let clears = Clears::new(layout.clears()?);
        let overlays = Overlays::new(config.snapshot_bytes_max);
        let flusher = Mutex::new(Flusher { durable, watermark });
        let (gate, is_dirty, metrics) = (RwLock::new(clears), AtomicBool::new(true), StateMetrics::new());
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
        check_free(&*self.shared.fs, &self.shared.path, self.shared.config.free_bytes_min, bytes)?;
        self.shared.write(batch)?;
        self.shared.metrics.wrote(start, bytes);
        Ok(())
    }

    fn view(&self) -> Box<dyn StateView + '_> {
        Box::new(SledView { layout: &self.shared.layout, clears: self.shared.enter() })
    }

    fn snapshot(&self, start: &[u8], end: &[u8]) -> Result<Box<dyn StateSnapshot>, StateError> {
        let shared = &self.shared;
        loop {
            let clears = shared.enter();
            shared.layout.db().check()?;
            // What a clear hides would be taken for overwritten as it goes: it goes before.
            if !clears.overlap(start, bound(end)) {
                let id = shared.overlays.open(start, end);
                return Ok(Box::new(SledSnapshot { shared: Arc::clone(shared), id }));
            }
            drop(clears);
            shared.clear_some()?;
        }
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
    fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        let mut clears = self.enter_alone();
        let contents = Contents { layout: &self.layout, clears: &clears };
        let outcome = Resolved::of(batch, |start, end, found| {
            // An open snapshot wants the old values of all the keys: then they are named.
            let keys_max = if self.overlays.want(start, end) { usize::MAX } else { self.config.delete_range_keys_max };
            for (seen, key) in contents.keys(start, end).enumerate() {
                if seen == keys_max {
                    return Ok(Found::TooMany);
                }
                found(key?);
            }
            Ok(Found::All)
        })?;
        self.overlays.keep(outcome.keys(), |key| contents.get(key))?;
        contents::apply(&self.layout, &mut clears, outcome)?;
        // Flushes do this; a caller that writes much between two of them has to bear a part itself.
        if clears.len() > CLEARS_MAX || clears.exempt_keys() > EXEMPT_KEYS_MAX {
            contents::clear_some(&self.layout, &mut clears, CLEARED_KEYS_STEP)?;
        }
        self.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes some of the keys that are hidden; answers whether there is more.
    fn clear_some(&self) -> Result<bool, StateError> {
        contents::clear_some(&self.layout, &mut self.enter_alone(), CLEARED_KEYS_STEP)
    }

    /// Who finds nothing to flush has waited for the flush that took it along.
    fn flush(&self) -> Result<(), StateError> {
        let mut flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
        self.layout.db().check()?;
        // Each step lets others in between.
        let mut is_clearing = !self.enter().is_empty();
        let has_cleared = is_clearing;
        for _ in 0..CLEARING_STEPS {
            is_clearing = is_clearing && self.clear_some()?;
        }
        if !self.is_dirty.swap(false, Ordering::AcqRel) && !has_cleared {
            return Ok(());
        }
        let number = flusher.watermark.number().max(self.layout.flush_number()?) + 1;
        {
            let _alone = self.enter_alone();
            self.layout.set_flush_number(number)?;
        }
        self.layout.db().flush()?;
        flusher.durable.sync().and_then(|()| flusher.watermark.set(number)).map_err(|source| {
            self.layout.db().poison(format!("a flush failed: {source}"));
            io_error(&self.path, source)
        })
    }

    fn enter(&self) -> RwLockReadGuard<'_, Clears> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter_alone(&self) -> RwLockWriteGuard<'_, Clears> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a write of `bytes` that might leave sled without room. sled writes whole pages, several times what came in.
fn check_free(fs: &dyn StoreFs, path: &Path, free_bytes_min: u64, bytes: usize) -> Result<(), StateError> {
    let free = fs.free_bytes(path).map_err(|source| io_error(path, source))?;
    if free < free_bytes_min.saturating_add((bytes as u64).saturating_mul(4)) {
        return Err(StateError::NoSpace { path: path.display().to_string() });
    }
    Ok(())
}

fn io_error(path: &Path, source: std::io::Error) -> StateError {
    StateError::Io { path: path.display().to_string(), source }
}

/// Reads inside the gate.
struct SledView<'a> {
    layout: &'a Layout,
    clears: RwLockReadGuard<'a, Clears>,
}

impl SledView<'_> {
    fn contents(&self) -> Contents<'_> {
        Contents { layout: self.layout, clears: &self.clears }
    }
}

impl StateView for SledView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.contents().get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, StateError> {
        self.contents().scan(start, bound(end)).take(limit).collect()
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
        let clears = shared.enter();
        let mut overlay = shared.overlays.take(self.id).expect("it is put back below, and only closed by the drop");
        let bytes_before = overlay.bytes();
        let chunk = match overlay.rest() {
            None => Ok(Vec::new()),
            Some((next, end)) => {
                let now = Contents { layout: &shared.layout, clears: &clears }.scan(next, bound(end));
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
