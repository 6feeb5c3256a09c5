//! Batches: their steps, their order.

use super::{Open, get, keys, put, scan, write};
use crate::state::StateStore;

/// An empty batch is written and changes nothing.
///
/// # Panics
/// If not.
pub fn empty_batch_changes_nothing<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    assert!(scan(&store, b"", b"").is_empty(), "a fresh store is not empty");
    write(&store, |_| ());
    put(&store, &[("a", "1")]);
    write(&store, |_| ());
    assert_eq!(keys(&scan(&store, b"", b"")), [b"a"], "an empty batch changed something");
}

/// A later step of a batch overrides an earlier one: puts, deletes and ranges, in every order.
///
/// # Panics
/// If not.
pub fn batch_steps_are_seen_in_order<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    put(&store, &[("b", "old"), ("c", "old"), ("d", "old"), ("e", "old")]);
    write(&store, |batch| {
        batch.put("a", "1");
        batch.put("a", "2");
        batch.put("b", "1");
        batch.delete("b");
        batch.delete("c");
        batch.put("c", "2");
        batch.put("d", "1");
        batch.put("d1", "1");
        batch.delete_range("d", "f");
        batch.put("e", "2");
    });
    assert_eq!(get(&store, b"a").as_deref(), Some(&b"2"[..]), "put, put: the later holds");
    assert_eq!(get(&store, b"b"), None, "put, delete: it is gone");
    assert_eq!(get(&store, b"c").as_deref(), Some(&b"2"[..]), "delete, put: it is there");
    assert_eq!(get(&store, b"d"), None, "put, delete_range: it is gone");
    assert_eq!(get(&store, b"d1"), None, "put of a new key, delete_range: it is gone");
    assert_eq!(get(&store, b"e").as_deref(), Some(&b"2"[..]), "delete_range, put: it is there");
    assert_eq!(keys(&scan(&store, b"", b"")), [b"a", b"c", b"e"], "a scan agrees with the reads");
}

/// Deleting what is not there is no error.
///
/// # Panics
/// If it is.
pub fn delete_of_a_missing_key_is_nothing<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    put(&store, &[("b", "1")]);
    write(&store, |batch| {
        batch.delete("a");
        batch.delete_range("c", "d");
        batch.delete("");
    });
    assert_eq!(keys(&scan(&store, b"", b"")), [b"b"]);
}
