//! The keys of one tree node, in order, laid out to be searched quickly.
//!
//! Beside each key stands its *head*: the eight bytes that follow what all keys of the node have in common. Heads lie close
//! together and compare as numbers, so a search reads a few cache lines and, mostly, one key.
//!
//! ```text
//!   keys    user/0017  user/0102  user/01029
//!   prefix  user/0
//!   heads          017        102        1029      (as big-endian numbers, padded with zero bytes)
//! ```
//!
//! Invariants: keys ascend strictly; every key begins with `prefix`; `heads[n]` belongs to `keys[n]`. So heads ascend too, and
//! only keys of equal heads have to be compared.

use std::ops::Range;

use super::small::Small;

/// How many bytes a head holds.
const HEAD_BYTES: usize = 8;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct SortedKeys {
    prefix: Small,
    heads: Vec<u64>,
    keys: Vec<Small>,
}

impl SortedKeys {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn as_slice(&self) -> &[Small] {
        &self.keys
    }

    /// Where `key` is, or where it would have to be.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(rest) = key.strip_prefix(self.prefix.as_slice()) else {
            // It lies before or behind them all.
            return Err(if key < self.prefix.as_slice() { 0 } else { self.len() });
        };
        let head = head(rest);
        let from = self.heads.partition_point(|held| *held < head);
        let to = from + self.heads[from..].iter().take_while(|held| **held == head).count();
        match self.keys[from..to].binary_search_by(|held| held.as_slice().cmp(key)) {
            Ok(at) => Ok(from + at),
            Err(at) => Err(from + at),
        }
    }

    /// How many keys lie below `key`.
    pub(super) fn count_below(&self, key: &[u8]) -> usize {
        self.find(key).unwrap_or_else(|at| at)
    }

    /// Puts a key in where [`Self::find`] said.
    pub(super) fn insert(&mut self, at: usize, key: Small) {
        let head = key.as_slice().strip_prefix(self.prefix.as_slice()).map(head);
        self.keys.insert(at, key);
        match head {
            Some(head) if self.len() > 1 => self.heads.insert(at, head),
            _ => self.index(),
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Small {
        self.heads.remove(at);
        self.keys.remove(at)
    }

    pub(super) fn pop(&mut self) -> Option<Small> {
        self.heads.pop();
        self.keys.pop()
    }

    pub(super) fn remove_range(&mut self, range: Range<usize>) {
        self.heads.drain(range.clone());
        self.keys.drain(range);
    }

    /// Moves the keys from `at` on into a set of their own, with room for `capacity`.
    pub(super) fn cut_off(&mut self, at: usize, capacity: usize) -> Self {
        let mut right = Self { keys: Vec::with_capacity(capacity), ..Self::default() };
        right.keys.extend(self.keys.drain(at..));
        right.index();
        self.index();
        right
    }

    /// Appends keys that are all larger.
    pub(super) fn append(&mut self, keys: Self) {
        self.keys.extend(keys.keys);
        self.index();
    }

    /// A copy with room for `capacity`.
    pub(super) fn roomy(&self, capacity: usize) -> Self {
        let (mut heads, mut keys) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        heads.extend_from_slice(&self.heads);
        keys.extend_from_slice(&self.keys);
        Self { prefix: self.prefix.clone(), heads, keys }
    }

    /// Finds the longest prefix anew, and with it all heads.
    fn index(&mut self) {
        self.heads.clear();
        let ([first, ..], [.., last]) = (self.keys.as_slice(), self.keys.as_slice()) else {
            self.prefix = Small::default();
            return;
        };
        // As the keys ascend, what the first and the last share all share.
        let shared = first.as_slice().iter().zip(last.as_slice()).take_while(|(a, b)| a == b).count();
        self.prefix = first.start(shared);
        self.heads.reserve(self.keys.capacity());
        self.heads.extend(self.keys.iter().map(|key| head(&key.as_slice()[shared..])));
    }
}

impl From<Small> for SortedKeys {
    fn from(key: Small) -> Self {
        let mut keys = Self::default();
        keys.insert(0, key);
        keys
    }
}

/// Orders like the bytes, but for keys that differ further on.
fn head(rest: &[u8]) -> u64 {
    let mut head = [0; HEAD_BYTES];
    match rest.first_chunk() {
        Some(first) => head = *first,
        None => head[..rest.len()].copy_from_slice(rest),
    }
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn small(key: &[u8]) -> Small {
        Small::from(Bytes::copy_from_slice(key))
    }

    proptest! {
        /// Keys with long and short common beginnings, zero bytes among them, which heads pad with.
        #[test]
        fn it_finds_like_a_sorted_set(
            start in vec(0..2u8, 0..12),
            keys in vec(vec(0..3u8, 0..14), 1..40),
            probes in vec(vec(0..3u8, 0..26), 0..40),
            cut in any::<usize>(),
        ) {
            let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| [&start[..], &key].concat()).collect();
            let (mut sorted, mut model) = (SortedKeys::default(), BTreeSet::new());
            for key in &keys {
                match sorted.find(key) {
                    Ok(at) => prop_assert_eq!(sorted.as_slice()[at].as_slice(), &key[..]),
                    Err(at) => sorted.insert(at, small(key)),
                }
                model.insert(key.clone());
            }
            let right = sorted.cut_off(cut % (model.len() + 1), 50);
            sorted.append(right);
            let model: Vec<Vec<u8>> = model.into_iter().collect();
            prop_assert!(sorted.as_slice().iter().map(Small::as_slice).eq(model.iter().map(|key| &key[..])));
            for probe in probes.iter().chain(&keys) {
                prop_assert_eq!(sorted.find(probe), model.binary_search(probe));
            }
        }
    }
}
