//! State stores: where applied data, region descriptors and applied indexes live.

use std::fmt::Debug;

use bytes::Bytes;

/// One atomic change of a state store, possibly across regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateBatch {
    ops: Vec<StateOp>,
    bytes: usize,
}

/// One step of a [`StateBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateOp {
    /// Set a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Remove a key, if it is there.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Remove every key from `start` (included) to `end` (excluded; empty: no bound).
    DeleteRange {
        /// The first key to go.
        start: Bytes,
        /// The first key to stay, or empty.
        end: Bytes,
    },
}

impl StateBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key. Later steps see and override earlier ones.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(StateOp::Put { key, value });
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(StateOp::Delete { key });
    }

    /// Removes a range of keys; an empty `end` means no upper bound.
    pub fn delete_range(&mut self, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        let (start, end) = (start.into(), end.into());
        self.bytes += start.len() + end.len();
        self.ops.push(StateOp::DeleteRange { start, end });
    }

    /// The steps, in order.
    #[must_use]
    pub fn ops(&self) -> &[StateOp] {
        &self.ops
    }

    /// The steps, in order, by value.
    #[must_use]
    pub fn into_ops(self) -> Vec<StateOp> {
        self.ops
    }

    /// The bytes of keys and values in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Why a state store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The disk is full. Nothing of the failed batch is visible; the store works again once there is space.
    #[error("no space left for the state store at {path}: free some, the store goes on by itself")]
    NoSpace {
        /// Where.
        path: String,
    },
    /// The files are damaged or of another format.
    #[error("the state store at {path} cannot be read ({reason}): restore it from a peer or a backup")]
    Damaged {
        /// Where.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused. After a failed flush the store must not be used any more.
    #[error("the state store at {path} failed: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

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
    /// writers for longer than one chunk.
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
