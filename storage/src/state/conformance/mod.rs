//! What every [`StateStore`] has to pass, for stores made here and elsewhere.
//!
//! Each function is one behaviour. It takes a way to open stores and panics, with what it found, where the store does not
//! behave. [`check_all`] runs them all:
//!
//! ```
//! use multiraft_storage::{MemStore, state::conformance};
//!
//! conformance::check_all(|_| MemStore::new());
//! ```
//!
//! For a durable store the opener keeps the place of the last store and opens it again when asked to:
//!
//! ```
//! use multiraft_storage::{SimStore, state::conformance::{self, Open}};
//!
//! let mut disk = SimStore::new();
//! conformance::check_all(|open| {
//!     match open {
//!         Open::Fresh => disk = SimStore::new(),
//!         Open::Again => disk.crash(0),
//!     }
//!     disk.clone()
//! });
//! ```

mod batches;
mod durability;
mod ranges;
mod snapshots;
mod views;

use bytes::Bytes;

pub use batches::{batch_steps_are_seen_in_order, delete_of_a_missing_key_is_nothing, empty_batch_changes_nothing};
pub use durability::{flushed_batches_survive_a_restart, restart_never_shows_half_a_batch};
pub use ranges::{
    delete_range_removes_what_lies_inside, keys_come_in_byte_order, ranges_may_be_unbounded, scan_keeps_its_limit,
};
pub use snapshots::{
    chunks_are_bounded_and_never_empty_before_the_end, delete_range_does_not_reach_into_a_snapshot,
    snapshot_stands_still_under_writers, snapshots_are_independent,
};
pub use views::{large_values_come_back, many_keys_come_back, view_is_one_instant_under_a_writer};

use super::{Pair, StateBatch, StateSnapshot, StateStore};

/// Which store a test asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// A new, empty one, with nothing in common with any before.
    Fresh,
    /// The last one again, as after a crash. It has been dropped. Only asked of stores that say
    /// [`StateStore::is_durable`].
    Again,
}

/// Runs everything.
///
/// # Panics
/// Where the store does not behave.
pub fn check_all<S: StateStore>(mut open: impl FnMut(Open) -> S) {
    let open = &mut open;
    empty_batch_changes_nothing(open);
    batch_steps_are_seen_in_order(open);
    delete_of_a_missing_key_is_nothing(open);
    keys_come_in_byte_order(open);
    ranges_may_be_unbounded(open);
    scan_keeps_its_limit(open);
    delete_range_removes_what_lies_inside(open);
    large_values_come_back(open);
    many_keys_come_back(open);
    view_is_one_instant_under_a_writer(open);
    chunks_are_bounded_and_never_empty_before_the_end(open);
    snapshots_are_independent(open);
    delete_range_does_not_reach_into_a_snapshot(open);
    snapshot_stands_still_under_writers(open);
    flushed_batches_survive_a_restart(open);
    restart_never_shows_half_a_batch(open);
}

/// Writes one batch.
fn write(store: &dyn StateStore, fill: impl FnOnce(&mut StateBatch)) {
    let mut batch = StateBatch::new();
    fill(&mut batch);
    store.write(batch).expect("a batch is written");
}

fn put(store: &dyn StateStore, pairs: &[(&'static str, &'static str)]) {
    write(store, |batch| pairs.iter().for_each(|(key, value)| batch.put(*key, *value)));
}

/// All pairs of the range, by one view.
fn scan(store: &dyn StateStore, start: &[u8], end: &[u8]) -> Vec<Pair> {
    store.view().scan(start, end, usize::MAX).expect("a range is read")
}

fn get(store: &dyn StateStore, key: &[u8]) -> Option<Bytes> {
    store.view().get(key).expect("a key is read")
}

fn keys(pairs: &[Pair]) -> Vec<&[u8]> {
    pairs.iter().map(|(key, _)| &key[..]).collect()
}

/// All that is left of a snapshot.
fn drain(snapshot: &mut dyn StateSnapshot, max_bytes: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    loop {
        let chunk = snapshot.next_chunk(max_bytes).expect("a chunk is read");
        if chunk.is_empty() {
            return pairs;
        }
        pairs.extend(chunk);
    }
}
