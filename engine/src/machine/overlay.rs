//! What one apply batch has written and the state store does not show yet.
//!
//! Most machines only write. So writes are kept as they come, and are put in order when somebody asks for one of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use multiraft_raft::Payload;
use multiraft_storage::StateBatch;

/// By stored key; `None` is a deletion.
#[derive(Debug, Default)]
pub(crate) struct Overlay(RefCell<Writes>);

#[derive(Debug, Default)]
struct Writes {
    /// Those that came before somebody last asked.
    in_order: BTreeMap<Payload, Option<Payload>>,
    /// Those that came since, as they came.
    recent: Vec<(Payload, Option<Payload>)>,
}

impl Writes {
    fn put_in_order(&mut self) -> &BTreeMap<Payload, Option<Payload>> {
        self.in_order.extend(self.recent.drain(..));
        &self.in_order
    }
}

impl Overlay {
    /// Makes room for so many more writes.
    pub(crate) fn reserve(&mut self, writes: usize) {
        self.0.get_mut().recent.reserve(writes);
    }

    /// Sets a key, or removes it.
    pub(crate) fn set(&mut self, key: impl Into<Payload>, value: Option<Payload>) {
        self.0.get_mut().recent.push((key.into(), value));
    }

    /// What was last written to a key, if anything was.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.0.borrow_mut().put_in_order().get(key).map(|value| value.as_ref().map(Payload::to_bytes))
    }

    /// What was last written to each key from `start` to `end` (excluded; empty: no bound), in order.
    pub(crate) fn range(&self, start: &Bytes, end: &Bytes) -> Vec<(Bytes, Option<Bytes>)> {
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end[..]) };
        let mut writes = self.0.borrow_mut();
        let found = writes.put_in_order().range::<[u8], _>((Bound::Included(&start[..]), upper));
        found.map(|(key, value)| (key.to_bytes(), value.as_ref().map(Payload::to_bytes))).collect()
    }

    /// Moves the writes into a batch: there, too, the last of a key counts.
    pub(crate) fn drain_into(self, batch: &mut StateBatch) {
        let Writes { in_order, recent } = self.0.into_inner();
        batch.reserve(in_order.len() + recent.len());
        for (key, value) in in_order.into_iter().chain(recent) {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use multiraft_storage::{MemStore, StateStore};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[number])
    }

    proptest! {
        /// Writes with questions between them, of one key or of a range: answers and what is stored in the end are a map's.
        #[test]
        fn it_equals_a_map(steps in vec((0..8u8, any::<Option<u8>>(), 0..4u8), 0..40)) {
            let (mut overlay, mut model) = (Overlay::default(), BTreeMap::new());
            for (at, value, question) in steps {
                let value = value.map(key);
                overlay.set(key(at), value.clone().map(Payload::from));
                model.insert(key(at), value);
                if question == 0 {
                    for asked in 0..8 {
                        prop_assert_eq!(overlay.get(&[asked]), model.get(&key(asked)).cloned());
                    }
                }
                if question == 1 {
                    for end in [Bytes::new(), key(6)] {
                        let want: Vec<_> = model
                            .iter()
                            .filter(|(held, _)| **held >= key(2) && (end.is_empty() || **held < end))
                            .map(|(held, value)| (held.clone(), value.clone()))
                            .collect();
                        prop_assert_eq!(overlay.range(&key(2), &end), want);
                    }
                }
            }
            let (store, mut batch) = (MemStore::new(), StateBatch::new());
            overlay.drain_into(&mut batch);
            store.write(batch).unwrap();
            let want: Vec<_> = model.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            prop_assert_eq!(store.view().scan(b"", b"", usize::MAX).unwrap(), want);
        }
    }
}
