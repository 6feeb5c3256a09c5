//! The cursors of `SCAN`: what a number given to a client stands for.
//!
//! Held by this store only, and not for ever: when there are too many, the oldest go. A number that is not, or no longer,
//! known is told as such rather than taken for the beginning. The numbers start somewhere at random, so that one of another
//! store, or of this store before a restart, is not mistaken for one of these.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

/// The most cursors held.
const MAX_CURSORS: usize = 4096;
/// The most bytes of keys held in cursors.
const MAX_KEY_BYTES: usize = 16 << 20;

/// The cursors that were given out.
#[derive(Debug)]
pub(crate) struct Cursors {
    next: u64,
    /// Invariant: holds exactly the numbers in `age`.
    keys: HashMap<u64, Bytes>,
    /// The oldest first.
    age: VecDeque<u64>,
    bytes: usize,
}

impl Cursors {
    pub(crate) fn new() -> Self {
        // The hasher's seed is the only randomness that the standard library gives.
        Self { next: RandomState::new().hash_one("cursors"), keys: HashMap::new(), age: VecDeque::new(), bytes: 0 }
    }

    /// The key at which a scan goes on, if the cursor is known. A cursor may be used more than once.
    pub(crate) fn get(&self, cursor: u64) -> Option<Bytes> {
        self.keys.get(&cursor).cloned()
    }

    /// A number for a scan that goes on at `key`. Never zero.
    pub(crate) fn put(&mut self, key: Bytes) -> u64 {
        self.next = self.next.wrapping_add(1).max(1);
        self.bytes += key.len();
        // A slice of a larger buffer would hold all of it.
        self.keys.insert(self.next, Bytes::copy_from_slice(&key));
        self.age.push_back(self.next);
        while self.age.len() > MAX_CURSORS || (self.bytes > MAX_KEY_BYTES && self.age.len() > 1) {
            if let Some(key) = self.age.pop_front().and_then(|oldest| self.keys.remove(&oldest)) {
                self.bytes -= key.len();
            }
        }
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_known_until_too_many_came_after_it() {
        let mut cursors = Cursors::new();
        let first = cursors.put(Bytes::from_static(b"a"));
        assert_eq!(cursors.get(first), Some(Bytes::from_static(b"a")));
        assert_eq!(cursors.get(first.wrapping_add(1)), None);
        for _ in 0..MAX_CURSORS {
            cursors.put(Bytes::from_static(b"b"));
        }
        assert_eq!(cursors.get(first), None);
    }

    #[test]
    fn long_keys_push_older_cursors_out() {
        let mut cursors = Cursors::new();
        let long = Bytes::from(vec![0; 64 << 10]);
        let given: Vec<_> = (0..300).map(|_| cursors.put(long.clone())).collect();
        assert_eq!(cursors.get(given[0]), None);
        assert!(cursors.get(given[299]).is_some());
        assert!(cursors.bytes <= MAX_KEY_BYTES);
    }

    #[test]
    fn zero_is_never_given_out() {
        let mut cursors = Cursors::new();
        cursors.next = u64::MAX;
        assert_eq!(cursors.put(Bytes::new()), 1);
    }
}
