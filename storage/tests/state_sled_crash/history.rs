//! Batches from a seed, and what a store has to hold after each of them.

use bytes::Bytes;
use multiraft_storage::{StateBatch, StateStore};

use crate::Model;

/// The batches so far.
pub(crate) struct History {
    /// `models[n]`: the contents after `n` batches.
    models: Vec<Model>,
    random: u64,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self { models: vec![Model::new()], random: seed }
    }

    pub(crate) fn batches(&self) -> usize {
        self.models.len() - 1
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// About 60 kB of overwrites over 400 keys, and some short records of neighbours, now and then a large value or the removal of a range. Each batch changes what
    /// no other does, so the contents tell the batch.
    pub(crate) fn next_batch(&mut self) -> StateBatch {
        let (mut batch, mut model) = (StateBatch::new(), self.models[self.batches()].clone());
        let number = self.models.len();
        let mut put = |key: Bytes, value: Vec<u8>| {
            let value = Bytes::from(value);
            batch.put(key.clone(), value.clone());
            model.insert(key, value);
        };
        for _ in 0..30 {
            let (key, len) = (self.random(400), self.random(4_000));
            put(format!("k{key:04}").into(), vec![number as u8; len as usize]);
        }
        if self.random(8) == 0 {
            put(format!("large{}", self.random(3)).into(), vec![number as u8; 300_000]);
        }
        // Some of these lie in groups, one in eight is too long for it.
        for _ in 0..10 {
            let (key, len) = (self.random(100).to_be_bytes(), if self.random(8) == 0 { 300 } else { 18 });
            let kind = 1 + self.random(2) as u8;
            put([&[kind], &key[..]].concat().into(), vec![number as u8; len]);
        }
        put("number".into(), number.to_be_bytes().to_vec());
        if self.random(4) == 0 {
            let from = self.random(400);
            let (from, to) = (Bytes::from(format!("k{from:04}")), Bytes::from(format!("k{:04}", from + 20)));
            model.retain(|key, _| *key < from || *key >= to);
            batch.delete_range(from, to);
        }
        self.models.push(model);
        batch
    }

    /// After which batch a store stands.
    pub(crate) fn batch_of(&self, store: &dyn StateStore) -> Result<usize, String> {
        let pairs = store.view().scan(b"", b"", usize::MAX).map_err(|error| error.to_string())?;
        let found: Model = pairs.into_iter().collect();
        self.models.iter().rposition(|model| *model == found).ok_or_else(|| "it stands after no batch".to_string())
    }
}
