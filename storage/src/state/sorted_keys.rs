//! The keys of one tree node, in order, laid out to be searched quickly.
//!
//! Beside the keys stand their *heads*: the eight bytes that follow what all keys of the node have in common. Heads lie in the node
//! itself, close together, and compare as numbers, so a search reads a few cache lines that it knows at once, and one key at most: none
//! if all keys have the same length and end within their heads, as numbers do.
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

/// How many keys there may be.
pub(super) const CAPACITY: usize = 65;

/// How many bytes a head holds.
const HEAD_BYTES: usize = 8;

/// How many heads a search looks at one by one: a cache line of them.
const LINE: usize = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct SortedKeys {
    heads: [u64; CAPACITY],
    prefix: Small,
    /// The prefix's own head, and which bits of a key's have to equal it: all there is to look at if it is no longer than a head.
    prefix_head: u64,
    prefix_mask: u64,
    /// How many bytes follow the prefix in every key, if that is the same for all, and no more than a head holds.
    tail: Option<u8>,
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
        let Some(rest) = self.strip_prefix(key) else {
            // It lies before or behind them all.
            return Err(if key < self.prefix.as_slice() { 0 } else { self.len() });
        };
        let (heads, head) = (&self.heads[..self.len()], head(rest));
        let from = count_below(heads, head);
        if heads.get(from) != Some(&head) {
            return Err(from);
        }
        if self.tail.is_some_and(|tail| usize::from(tail) == rest.len()) {
            return Ok(from);
        }
        let to = from + heads[from..].iter().take_while(|held| **held == head).count();
        match self.keys[from..to].binary_search_by(|held| held.as_slice().cmp(key)) {
            Ok(at) => Ok(from + at),
            Err(at) => Err(from + at),
        }
    }

    /// Whether that is the key at this place.
    pub(super) fn holds(&self, at: usize, key: &[u8]) -> bool {
        let Some(rest) = self.strip_prefix(key).filter(|_| at < self.len()) else { return false };
        let ends_in_head = self.tail.is_some_and(|tail| usize::from(tail) == rest.len());
        self.heads[at] == head(rest) && (ends_in_head || self.keys[at].as_slice() == key)
    }

    /// What of a key follows the prefix, if it begins with that.
    fn strip_prefix<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let prefix = self.prefix.as_slice();
        if prefix.len() > HEAD_BYTES {
            return key.strip_prefix(prefix);
        }
        let rest = key.get(prefix.len()..)?;
        (head(key) & self.prefix_mask == self.prefix_head).then_some(rest)
    }

    /// Reads something of each cache line that a search may look at: these loads wait for nothing but the processor's memory. What
    /// comes of it means nothing.
    pub(super) fn touch(&self) -> u64 {
        self.heads.iter().step_by(LINE).fold(self.prefix_mask, |all, head| all ^ head)
    }

    fn set_prefix(&mut self, prefix: Small) {
        let length = prefix.as_slice().len().min(HEAD_BYTES);
        self.prefix_head = head(&prefix.as_slice()[..length]);
        self.prefix_mask = u64::MAX.checked_shl(8 * (HEAD_BYTES - length) as u32).unwrap_or(0);
        self.prefix = prefix;
    }

    /// How many keys lie below `key`.
    pub(super) fn count_below(&self, key: &[u8]) -> usize {
        self.find(key).unwrap_or_else(|at| at)
    }

    /// Puts a key in where [`Self::find`] said. There must be room.
    pub(super) fn insert(&mut self, at: usize, key: Small) {
        let head = self.strip_prefix(key.as_slice()).map(|rest| (head(rest), tail(rest)));
        self.keys.insert(at, key);
        match head {
            Some((head, tail)) if self.len() > 1 => {
                self.heads.copy_within(at..self.keys.len() - 1, at + 1);
                self.heads[at] = head;
                self.tail = self.tail.filter(|_| self.tail == tail);
            }
            _ => self.index(),
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Small {
        self.heads.copy_within(at + 1..self.keys.len(), at);
        self.keys.remove(at)
    }

    pub(super) fn pop(&mut self) -> Option<Small> {
        self.keys.pop()
    }

    pub(super) fn remove_range(&mut self, range: Range<usize>) {
        self.heads.copy_within(range.end..self.keys.len(), range.start);
        self.keys.drain(range);
    }

    /// Moves the keys from `at` on into a set of their own.
    pub(super) fn cut_off(&mut self, at: usize) -> Self {
        let mut right = Self { keys: Vec::with_capacity(CAPACITY), ..Self::default() };
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

    /// A copy with room for as many as there may be.
    pub(super) fn roomy(&self) -> Self {
        let mut keys = Vec::with_capacity(CAPACITY);
        keys.extend_from_slice(&self.keys);
        let Self { heads, prefix_head, prefix_mask, tail, .. } = *self;
        Self { heads, prefix: self.prefix.clone(), prefix_head, prefix_mask, tail, keys }
    }

    /// Finds the longest prefix anew, and with it all heads.
    fn index(&mut self) {
        let ([first, ..], [.., last]) = (self.keys.as_slice(), self.keys.as_slice()) else {
            *self = Self { keys: std::mem::take(&mut self.keys), ..Self::default() };
            return;
        };
        // As the keys ascend, what the first and the last share all share.
        let shared = first.as_slice().iter().zip(last.as_slice()).take_while(|(a, b)| a == b).count();
        let prefix = first.start(shared);
        self.tail = tail(&first.as_slice()[shared..]);
        self.set_prefix(prefix);
        for (held, key) in self.heads.iter_mut().zip(&self.keys) {
            let rest = &key.as_slice()[shared..];
            *held = head(rest);
            self.tail = self.tail.filter(|_| self.tail == tail(rest));
        }
    }
}

impl Default for SortedKeys {
    fn default() -> Self {
        Self {
            heads: [0; CAPACITY],
            prefix: Small::default(),
            prefix_head: 0,
            prefix_mask: 0,
            tail: None,
            keys: Vec::new(),
        }
    }
}

impl From<Small> for SortedKeys {
    fn from(key: Small) -> Self {
        let mut keys = Self::default();
        keys.insert(0, key);
        keys
    }
}

/// How many of these, which ascend, are below `head`. Looks at the last of each cache line first: these loads do not wait for each
/// other, as the steps of a binary search do, which makes the difference where nothing is in the processor's caches.
fn count_below(heads: &[u64], head: u64) -> usize {
    let (lines, _) = heads.as_chunks::<LINE>();
    let from = LINE * lines.iter().filter(|line| line[LINE - 1] < head).count();
    from + heads[from..].iter().take(LINE).filter(|held| **held < head).count()
}

/// How long what follows the prefix is, if it ends within the head.
fn tail(rest: &[u8]) -> Option<u8> {
    u8::try_from(rest.len()).ok().filter(|tail| usize::from(*tail) <= HEAD_BYTES)
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

    /// Some of all lengths, or all of one.
    fn keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop_oneof![
            vec(vec(0..3u8, 0..14), 1..40),
            (1..12usize).prop_flat_map(|length| vec(vec(0..3u8, length), 1..40)),
        ]
    }

    proptest! {
        /// Keys with long and short common beginnings, zero bytes among them, which heads pad with.
        #[test]
        fn it_finds_like_a_sorted_set(
            start in vec(0..2u8, 0..12),
            keys in keys(),
            probes in vec(vec(0..3u8, 0..26), 0..60),
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
            let right = sorted.cut_off(cut % (model.len() + 1));
            sorted.append(right);
            let model: Vec<Vec<u8>> = model.into_iter().collect();
            prop_assert!(sorted.as_slice().iter().map(Small::as_slice).eq(model.iter().map(|key| &key[..])));
            for probe in probes.iter().chain(&keys) {
                prop_assert_eq!(sorted.find(probe), model.binary_search(probe));
                for (at, held) in model.iter().enumerate() {
                    prop_assert_eq!(sorted.holds(at, probe), held == probe);
                }
                prop_assert!(!sorted.holds(model.len(), probe));
            }
        }
    }
}
