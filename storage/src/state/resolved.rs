//! A batch reduced to its outcome: each key once, with what it is in the end.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{StateBatch, StateOp, mem::bound};

/// What a batch comes to: first the ranges go, then the changes are made.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// `None`: the key goes. Invariant: a key that lies in one of `ranges` was changed after it was cleared.
    changes: BTreeMap<Bytes, Option<Bytes>>,
    /// Ranges with too many keys to name them. `None`: no bound.
    ranges: Vec<(Bytes, Option<Bytes>)>,
}

/// What was found of a range that is to go.
pub(super) enum Found {
    /// All keys in it were shown.
    All,
    /// There are too many: it is to go as a range.
    TooMany,
}

impl Resolved {
    /// Follows the steps in their order. `scan(start, end, found)` shows the keys that the store holds in a range, or gives up.
    pub(super) fn of<E>(
        batch: StateBatch,
        mut scan: impl FnMut(&[u8], Option<&[u8]>, &mut dyn FnMut(Bytes)) -> Result<Found, E>,
    ) -> Result<Self, E> {
        let mut resolved = Self::default();
        for op in batch.into_ops() {
            match op {
                StateOp::Put { key, value } => resolved.set(key.to_bytes(), Some(value.to_bytes())),
                StateOp::Delete { key } => resolved.set(key.to_bytes(), None),
                StateOp::DeleteRange { start, end } => {
                    let bound = bound(&end);
                    if bound.is_some_and(|end| &start[..] >= end) {
                        continue;
                    }
                    resolved.clear(&start, bound);
                    if let Found::TooMany = scan(&start, bound, &mut |key| resolved.set(key, None))? {
                        let end = bound.is_some().then(|| end.clone());
                        resolved.clear_as_range(start, end);
                    }
                }
            }
        }
        Ok(resolved)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.changes.keys()
    }

    /// The changes, and the ranges that go before them.
    #[expect(clippy::type_complexity, reason = "two plain collections, taken apart at once")]
    pub(super) fn into_parts(self) -> (BTreeMap<Bytes, Option<Bytes>>, Vec<(Bytes, Option<Bytes>)>) {
        (self.changes, self.ranges)
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

    fn clear_as_range(&mut self, start: Bytes, end: Option<Bytes>) {
        let mut rest = self.changes.split_off(&start);
        if let Some(end) = &end {
            self.changes.append(&mut rest.split_off(end));
        }
        self.ranges.push((start, end));
    }
}
