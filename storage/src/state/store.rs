//! The seam between the engine and whatever keeps its applied state.

use std::fmt::Debug;

use bytes::Bytes;

use super::{StateBatch, StateError};

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// An ordered map of byte strings that changes by atomic batches.
///
/// All regions of a store share one. Implementations are thread-safe; `write` is called by several threads, for disjoint
/// sets of keys, and a batch is seen as a whole or not at all by every [`StateView`] and [`StateSnapshot`].
pub trait StateStore: Send + Sync + Debug + 'static {
    /// Applies a batch atomically. It is visible when this returns, and durable once a later [`StateStore::flush`] has.
    ///
    /// # Errors
    /// [`StateError`]; then nothing of the batch is visible, now or after a restart.
    fn write(&self, batch: StateBatch) -> Result<(), StateError>;

    /// The state of this instant, for a few short reads. Writers may wait while it lives: keep it short.
    fn view(&self) -> Box<dyn StateView + '_>;

    /// The keys from `start` to `end` (excluded; empty: no bound) as of this instant, for a long scan. Never blocks
    /// writers for longer than one chunk. A store may give a snapshot up that is read too slowly, see
    /// [`StateError::SnapshotLost`].
    ///
    /// # Errors
    /// [`StateError`].
    fn snapshot(&self, start: &[u8], end: &[u8]) -> Result<Box<dyn StateSnapshot>, StateError>;

    /// Makes everything that was written before the call durable: its bytes and its directory entries have been
    /// fdatasynced when this returns. A volatile store does nothing.
    ///
    /// # Errors
    /// [`StateError`]; the store must not be used any more.
    fn flush(&self) -> Result<(), StateError>;

    /// Whether what was flushed survives a restart. Regions on a store that is not durable are kept by snapshot files and
    /// the log.
    fn is_durable(&self) -> bool;
}

/// Several reads of one instant.
pub trait StateView {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StateError`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// The pairs from `start` to `end` (excluded; empty: no bound) in key order, at most `limit` of them.
    ///
    /// # Errors
    /// [`StateError`].
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, StateError>;
}

/// A long scan over one instant, piece by piece.
pub trait StateSnapshot: Send {
    /// The next pairs in key order, about `max_bytes` of them and at least one; empty at the end.
    ///
    /// # Errors
    /// [`StateError`].
    fn next_chunk(&mut self, max_bytes: usize) -> Result<Vec<Pair>, StateError>;
}
