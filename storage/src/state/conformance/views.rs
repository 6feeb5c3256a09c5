//! Views: one instant, any size.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bytes::Bytes;

use super::{Open, get, scan, write};
use crate::state::{StateBatch, StateStore};

/// Values up to 1 MiB and keys of some kilobytes come back, after being overwritten too.
///
/// # Panics
/// If not.
pub fn large_values_come_back<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    let value = |seed: usize, len: usize| Bytes::from_iter((0..len).map(|at| (at.wrapping_mul(seed) >> 3) as u8));
    for (turn, len) in [0, 1, 22, 23, 100, 4_096, 65_535, 1 << 17, 1 << 20, 10].into_iter().enumerate() {
        let key = Bytes::from(vec![b'k'; 1 + turn * 400]);
        write(&store, |batch| {
            batch.put(key.clone(), value(turn + 3, len));
            batch.put("same", value(turn + 5, len));
        });
        assert_eq!(get(&store, &key), Some(value(turn + 3, len)), "a value of {len} bytes");
        assert_eq!(get(&store, b"same"), Some(value(turn + 5, len)), "an overwritten value, now of {len} bytes");
    }
    assert_eq!(scan(&store, b"", b"").len(), 11);
}

/// Twenty thousand keys, written in no order, by several threads, come back in order.
///
/// # Panics
/// If not.
pub fn many_keys_come_back<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    const THREADS: u32 = 4;
    const KEYS: u32 = 20_000;
    let store = open(Open::Fresh);
    let key = |number: u32| Bytes::from(format!("key/{number:08}"));
    thread::scope(|scope| {
        for part in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let mine: Vec<u32> =
                    (0..KEYS).map(|at| at * 7_919 % KEYS).filter(|number| number % THREADS == part).collect();
                for some in mine.chunks(250) {
                    write(store, |batch| {
                        some.iter().for_each(|number| batch.put(key(*number), number.to_be_bytes().to_vec()));
                    });
                }
            });
        }
    });
    let pairs = scan(&store, b"", b"");
    assert_eq!(pairs.len(), KEYS as usize);
    for (number, (held, value)) in (0..KEYS).zip(pairs) {
        assert_eq!((held, &value[..]), (key(number), &number.to_be_bytes()[..]));
    }
    assert_eq!(get(&store, &key(12_345)).as_deref(), Some(&12_345u32.to_be_bytes()[..]));
    assert_eq!(get(&store, &key(KEYS)), None);
}

/// While a writer changes several keys together, every view sees them equal, in all its reads.
///
/// # Panics
/// If not.
pub fn view_is_one_instant_under_a_writer<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    const ROUNDS: u32 = 400;
    let store = open(Open::Fresh);
    let keys = ["a", "m", "z"];
    let batch_of = |round: u32| {
        let mut batch = StateBatch::new();
        // Round by round the middle key goes and comes back.
        batch.delete_range("b", "y");
        for key in keys.iter().filter(|key| **key != "m" || round.is_multiple_of(2)) {
            batch.put(*key, round.to_be_bytes().to_vec());
        }
        batch
    };
    store.write(batch_of(0)).expect("a batch is written");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..=ROUNDS {
                store.write(batch_of(round)).expect("a batch is written");
            }
            done.store(true, Ordering::Release);
        });
        let mut newest = 0;
        while !done.load(Ordering::Acquire) {
            let view = store.view();
            let get = |key: &str| view.get(key.as_bytes()).expect("a key is read");
            let first = get("a").expect("it is never deleted");
            let round = u32::from_be_bytes(first[..].try_into().expect("four bytes were written"));
            assert!(round >= newest, "a later view shows an earlier instant");
            newest = round;
            assert_eq!(get("z").as_ref(), Some(&first), "two reads of a view differ in time");
            assert_eq!(get("m").is_some(), round.is_multiple_of(2), "two reads of a view differ in time");
            let pairs = view.scan(b"", b"", 10).expect("a range is read");
            assert_eq!(
                pairs.len(),
                if round.is_multiple_of(2) { 3 } else { 2 },
                "a scan and a read of a view differ in time"
            );
            assert!(pairs.iter().all(|(_, value)| *value == first), "a scan shows half a batch");
        }
        writer.join().expect("the writer does not panic");
    });
}
