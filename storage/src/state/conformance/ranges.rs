//! Ranges: order, bounds, limits, removal.

use bytes::Bytes;

use super::{Open, keys, put, scan, write};
use crate::state::StateStore;

/// Keys come in the order of their bytes, the empty key and keys with zero bytes included.
///
/// # Panics
/// If not.
pub fn keys_come_in_byte_order<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    let sorted: Vec<&'static [u8]> = vec![
        b"",
        b"\0",
        b"\0\0",
        b"\x01",
        b"A",
        b"a",
        b"a\0",
        b"a\0b",
        b"ab",
        b"b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\xff",
    ];
    for at in [3, 7, 0, 13, 1, 9, 2, 12, 5, 4, 6, 8, 11, 10] {
        write(&store, |batch| batch.put(sorted[at], Bytes::copy_from_slice(sorted[at])));
    }
    let pairs = scan(&store, b"", b"");
    assert_eq!(keys(&pairs), sorted);
    assert!(pairs.iter().all(|(key, value)| key == value));
}

/// `start` is included and `end` is not; an empty end means no bound; an empty or inverted range holds nothing.
///
/// # Panics
/// If not.
pub fn ranges_may_be_unbounded<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    put(&store, &[("a", "1"), ("b", "2"), ("c", "3")]);
    let cases = [
        ("", "", "abc"),
        ("b", "", "bc"),
        ("", "b", "a"),
        ("a", "c", "ab"),
        ("a\0", "b\0", "b"),
        ("b", "b", ""),
        ("c", "a", ""),
        ("d", "", ""),
    ];
    for (start, end, want) in cases {
        let (start, end) = (start.as_bytes(), end.as_bytes());
        let want: Vec<&[u8]> = want.as_bytes().chunks(1).collect();
        assert_eq!(keys(&scan(&store, start, end)), want, "scan of {start:?} to {end:?}");
        let mut snapshot = store.snapshot(start, end).expect("a snapshot is opened");
        assert_eq!(keys(&super::drain(&mut *snapshot, 1)), want, "snapshot of {start:?} to {end:?}");
    }
}

/// A scan hands out at most `limit` pairs, the first ones.
///
/// # Panics
/// If not.
pub fn scan_keeps_its_limit<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    put(&store, &[("a", "1"), ("b", "2"), ("c", "3")]);
    let view = store.view();
    for limit in 0..5 {
        let pairs = view.scan(b"", b"", limit).expect("a range is read");
        assert_eq!(keys(&pairs), [b"a", b"b", b"c"][..limit.min(3)]);
    }
}

/// Ranges that are removed: bounded, unbounded, empty, inverted, many keys, all keys; what lies outside stays.
///
/// # Panics
/// If not.
pub fn delete_range_removes_what_lies_inside<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    let key = |number: u32| Bytes::from(format!("k{number:05}"));
    let fill = || {
        write(&store, |batch| batch.put("a", "1"));
        write(&store, |batch| (0..2_000).for_each(|number| batch.put(key(number), key(number))));
        write(&store, |batch| batch.put("z", "1"));
    };
    fill();
    write(&store, |batch| {
        batch.delete_range(key(5), key(5));
        batch.delete_range(key(9), key(5));
    });
    assert_eq!(scan(&store, b"", b"").len(), 2_002, "an empty range removed something");
    write(&store, |batch| batch.delete_range(key(10), key(1_990)));
    assert_eq!(scan(&store, b"k", b"l").len(), 20, "the bounds are not kept");
    write(&store, |batch| batch.delete_range("k", "l"));
    assert_eq!(keys(&scan(&store, b"", b"")), [b"a", b"z"]);
    fill();
    write(&store, |batch| batch.delete_range(key(1_000), ""));
    assert_eq!(scan(&store, b"", b"").len(), 1_001, "an empty end is no bound");
    write(&store, |batch| batch.delete_range("", key(0)));
    assert_eq!(scan(&store, b"", b"").len(), 1_000, "an empty start is the first key");
    write(&store, |batch| {
        batch.delete_range("", "");
        batch.put("k", "1");
    });
    assert_eq!(keys(&scan(&store, b"", b"")), [b"k"]);
}
