//! Durability: what was flushed is there after a crash, and no batch ever in part. Stores that are not durable pass by saying so.

use bytes::Bytes;

use super::{Open, get, scan, write};
use crate::state::StateStore;

/// What was written before a flush is there after a restart, large values, removals and ranges included.
///
/// # Panics
/// If not.
pub fn flushed_batches_survive_a_restart<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let mut store = open(Open::Fresh);
    store.flush().expect("an empty store is flushed");
    for round in 0..4u32 {
        write(&store, |batch| {
            (0..500u32).for_each(|number| batch.put(number.to_be_bytes().to_vec(), round.to_string()));
            batch.put("large", Bytes::from(vec![round as u8; 300_000]));
        });
        write(&store, |batch| {
            batch.delete(7u32.to_be_bytes().to_vec());
            batch.delete_range(100u32.to_be_bytes().to_vec(), 200u32.to_be_bytes().to_vec());
        });
        store.flush().expect("the store is flushed");
        store.flush().expect("there is nothing to flush");
        if !store.is_durable() {
            return;
        }
        let want = scan(&store, b"", b"");
        drop(store);
        store = open(Open::Again);
        assert_eq!(want.len(), 400);
        assert!(scan(&store, b"", b"") == want, "round {round}: what was flushed is not what came back");
        assert_eq!(get(&store, b"large"), Some(Bytes::from(vec![round as u8; 300_000])));
    }
}

/// Batches that were not flushed may be gone after a restart, but only whole ones, and none before another that is there.
///
/// # Panics
/// If not.
pub fn restart_never_shows_half_a_batch<S: StateStore>(open: &mut impl FnMut(Open) -> S) {
    let store = open(Open::Fresh);
    let key = |round: u32, part: u32| Bytes::from(format!("{part}/{round:04}"));
    for round in 0..60 {
        write(&store, |batch| (0..20).for_each(|part| batch.put(key(round, part), vec![1; 500])));
        if round == 20 {
            store.flush().expect("the store is flushed");
        }
    }
    if !store.is_durable() {
        return;
    }
    drop(store);
    let store = open(Open::Again);
    let mut was_whole = true;
    for round in 0..60 {
        let parts = (0..20).filter(|part| get(&store, &key(round, *part)).is_some()).count();
        assert!(parts == 0 || parts == 20, "{parts} of 20 keys of batch {round} are there");
        assert!(parts == 0 || was_whole, "batch {round} is there, but one before it is not");
        was_whole = parts == 20;
        assert!(was_whole || round > 20, "batch {round} was flushed and is gone");
    }
}
