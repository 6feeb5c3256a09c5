//! What changes a state store: an ordered list of steps that is applied as a whole.
//!
//! A batch knows nothing of any store. Its steps are seen in their order: a later one overrides an earlier one.

use bytes::Bytes;
use multiraft_raft::Payload;

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
        key: Payload,
        /// Its new value.
        value: Payload,
    },
    /// Remove a key, if it is there.
    Delete {
        /// The key.
        key: Payload,
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

    /// Makes room for so many more steps.
    pub fn reserve(&mut self, steps: usize) {
        self.ops.reserve(steps);
    }

    /// Sets a key. Later steps see and override earlier ones.
    pub fn put(&mut self, key: impl Into<Payload>, value: impl Into<Payload>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(StateOp::Put { key, value });
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Payload>) {
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
