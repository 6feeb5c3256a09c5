//! A volatile state store in memory.
//!
//! Readers never wait for readers and writers never wait for views or snapshots: both hold a copy of the map that shares all
//! unchanged nodes. A view waits for at most one batch. An open view or snapshot costs a copy of what is overwritten while it
//! lives, so memory stays below twice the data for each of them.
//!
//! Nothing survives a restart: regions on it are kept by snapshot files and the log.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
    time::Instant,
};

use bytes::Bytes;

use super::{
    Pair, StateBatch, StateError, StateOp, StateSnapshot, StateStore, StateView,
    cow_map::{CowMap, Garbage, Way},
    metrics::StateMetrics,
    small::Small,
};

/// How many keys are looked for together ahead of a batch: what lies on their ways stays in the processor's caches until then.
const LOCATED_TOGETHER: usize = 64;

/// In maps of fewer levels nothing is looked for ahead: they are in the processor's caches anyway. Three levels are some
/// thousand keys and more.
const LOCATED_DEPTH_MIN: usize = 3;

/// A batch of fewer steps has too few ways to wait for at once.
const LOCATED_MIN: usize = 8;

/// The volatile store. See the module's documentation.
pub struct MemStore {
    map: RwLock<CowMap>,
    metrics: StateMetrics,
}

impl MemStore {
    /// An empty store. It reports to the metrics recorder that is installed now.
    #[must_use]
    pub fn new() -> Self {
        Self { map: RwLock::default(), metrics: StateMetrics::new() }
    }

    /// Looks for what a batch will change, before anybody is locked out: in a large map a put waits for memory most of its time.
    /// Answers where each of its keys is, if it is there; nothing if that would not pay.
    fn locate(&self, batch: &StateBatch) -> Vec<Option<Way>> {
        let mut ways = Vec::new();
        if batch.ops().len() < LOCATED_MIN {
            return ways;
        }
        for ops in batch.ops().chunks(LOCATED_TOGETHER) {
            let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
            if map.depth() < LOCATED_DEPTH_MIN {
                return Vec::new();
            }
            let keys = ops.iter().map(|op| match op {
                StateOp::Put { key, .. } | StateOp::Delete { key } => &key[..],
                StateOp::DeleteRange { start, .. } => &start[..],
            });
            map.locate(keys, &mut ways);
        }
        ways
    }

    /// The map of this instant. Copies of it are whole even if a writer panicked: then its batch is partly there, and the
    /// panic has ended the store's worker.
    fn map(&self) -> CowMap {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for MemStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemStore").finish_non_exhaustive()
    }
}

impl StateStore for MemStore {
    fn write(&self, batch: StateBatch) -> Result<(), StateError> {
        let (start, bytes) = (Instant::now(), batch.bytes());
        let ways = self.locate(&batch);
        let garbage = {
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            apply(&mut map, batch, &ways)
        };
        self.metrics.wrote(start, bytes);
        // Dropped here, where no reader waits for the lock.
        drop(garbage);
        Ok(())
    }

    fn view(&self) -> Box<dyn StateView + '_> {
        Box::new(self.map())
    }

    fn snapshot(&self, start: &[u8], end: &[u8]) -> Result<Box<dyn StateSnapshot>, StateError> {
        Ok(Box::new(MapSnapshot::new(self.map(), start, end)))
    }

    fn flush(&self) -> Result<(), StateError> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

/// Applies the steps of a batch in their order. `ways` are those to their keys, as far as they are known, and may be old.
pub(super) fn apply(map: &mut CowMap, batch: StateBatch, ways: &[Option<Way>]) -> Vec<Garbage> {
    let mut garbage = Vec::new();
    for (place, op) in batch.into_ops().into_iter().enumerate() {
        match op {
            StateOp::Put { key, value } => {
                let replaced = match ways.get(place) {
                    Some(Some(way)) => map.replace(way, &key, value),
                    _ => Err(value),
                };
                if let Err(value) = replaced {
                    map.insert(key, value);
                }
            }
            StateOp::Delete { key } => map.remove(&key),
            StateOp::DeleteRange { start, end } => garbage.push(map.remove_range(&start, bound(&end))),
        }
    }
    garbage
}

/// An empty end means no bound.
pub(super) fn bound(end: &[u8]) -> Option<&[u8]> {
    (!end.is_empty()).then_some(end)
}

impl StateView for CowMap {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(CowMap::get(self, key).map(Small::to_bytes))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, StateError> {
        let mut pairs = Vec::new();
        if limit > 0 {
            self.visit(start, bound(end), |key, value| {
                pairs.push((key.to_bytes(), value.to_bytes()));
                pairs.len() < limit
            });
        }
        Ok(pairs)
    }
}

/// A scan over one copy of the map.
pub(super) struct MapSnapshot {
    map: CowMap,
    /// The first key that was not handed out yet, or `None` at the end.
    next: Option<Bytes>,
    end: Bytes,
}

impl MapSnapshot {
    pub(super) fn new(map: CowMap, start: &[u8], end: &[u8]) -> Self {
        Self { map, next: Some(Bytes::copy_from_slice(start)), end: Bytes::copy_from_slice(end) }
    }
}

impl StateSnapshot for MapSnapshot {
    fn next_chunk(&mut self, max_bytes: usize) -> Result<Vec<Pair>, StateError> {
        let Some(start) = self.next.take() else { return Ok(Vec::new()) };
        let (mut pairs, mut bytes, mut next) = (Vec::new(), 0, None);
        self.map.visit(&start, bound(&self.end), |key, value| {
            let size = key.as_slice().len() + value.as_slice().len();
            if !pairs.is_empty() && bytes + size > max_bytes {
                next = Some(key.to_bytes());
                return false;
            }
            bytes += size;
            pairs.push((key.to_bytes(), value.to_bytes()));
            true
        });
        self.next = next;
        if self.next.is_none() {
            // Nothing more to hand out: let go of the old nodes now, not when the caller drops the snapshot.
            self.map = CowMap::default();
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const KEYS: u32 = 12_000;

    fn key(number: u32) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    fn step() -> impl Strategy<Value = (u8, u32, u32)> {
        // Keys that are there and that are not, some of them several times.
        (0..20u8, prop_oneof![0..KEYS * 2, 0..50u32], 1..400u32)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// In a map large enough for keys to be looked for ahead: later steps of a batch make that old for others.
        #[test]
        fn batches_do_what_their_steps_do_one_by_one(batches in vec(vec(step(), 1..300), 1..4)) {
            let (store, mut model, mut all) = (MemStore::new(), BTreeMap::new(), StateBatch::new());
            for number in 0..KEYS {
                all.put(key(number * 2), Bytes::from_static(b"first"));
                model.insert(key(number * 2), Bytes::from_static(b"first"));
            }
            store.write(all).unwrap();
            prop_assert!(store.map().depth() >= LOCATED_DEPTH_MIN);
            for (turn, steps) in batches.into_iter().enumerate() {
                let mut batch = StateBatch::new();
                for (place, (kind, number, length)) in steps.into_iter().enumerate() {
                    match kind {
                        0 => {
                            let (start, end) = (key(number), key(number + length));
                            model.retain(|key, _| *key < start || *key >= end);
                            batch.delete_range(start, end);
                        }
                        1..4 => {
                            model.remove(&key(number));
                            batch.delete(key(number));
                        }
                        _ => {
                            let value = Bytes::from(format!("{turn} {place}"));
                            model.insert(key(number), value.clone());
                            batch.put(key(number), value);
                        }
                    }
                }
                store.write(batch).unwrap();
                let held = store.view().scan(b"", b"", usize::MAX).unwrap();
                prop_assert!(held.into_iter().eq(model.clone()));
            }
        }
    }
}
