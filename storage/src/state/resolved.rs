//! A batch reduced to its outcome: each key once, with what it is in the end.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{StateBatch, StateOp, mem::bound};

/// What a batch comes to. `None`: the key goes.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl Resolved {
    /// Follows the steps in their order. `scan(start, end, found)` shows the keys that the store holds in a range.
    pub(super) fn of<E>(
        batch: StateBatch,
        mut scan: impl FnMut(&[u8], Option<&[u8]>, &mut dyn FnMut(Bytes)) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut resolved = Self::default();
        for op in batch.into_ops() {
            match op {
                StateOp::Put { key, value } => resolved.set(key, Some(value)),
                StateOp::Delete { key } => resolved.set(key, None),
                StateOp::DeleteRange { start, end } => {
                    let end = bound(&end);
                    if end.is_none_or(|end| &start[..] < end) {
                        resolved.clear(&start, end);
                        scan(&start, end, &mut |key| resolved.set(key, None))?;
                    }
                }
            }
        }
        Ok(resolved)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.changes.keys()
    }

    pub(super) fn into_changes(self) -> BTreeMap<Bytes, Option<Bytes>> {
        self.changes
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        self.changes.insert(key, value);
    }

    /// What earlier steps of the batch put into the range goes.
    fn clear(&mut self, start: &[u8], end: Option<&[u8]>) {
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        for (_, value) in self.changes.range_mut::<[u8], _>(range) {
            *value = None;
        }
    }
}
