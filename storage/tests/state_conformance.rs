//! The conformance suite over every state store of the crate.
#![allow(clippy::unwrap_used)]

use multiraft_storage::{
    MemStore, SimStore, SledConfig, SledStore,
    state::conformance::{self, Open},
};
use tempfile::TempDir;

#[test]
fn mem_store_conforms() {
    conformance::check_all(|_| MemStore::new());
}

#[test]
fn sim_store_conforms_whatever_a_crash_keeps() {
    for seed in [0, 1, 17, u64::MAX] {
        let mut disk = SimStore::new();
        conformance::check_all(|open| {
            match open {
                Open::Fresh => disk = SimStore::new(),
                Open::Again => disk.crash(seed),
            }
            disk.clone()
        });
    }
}

#[test]
fn sled_store_conforms() {
    let mut dir = TempDir::new().unwrap();
    conformance::check_all(|open| {
        if open == Open::Fresh {
            dir = TempDir::new().unwrap();
        }
        SledStore::open(dir.path().join("state"), SledConfig::default()).unwrap()
    });
}

/// Each range is removed piece by piece.
#[test]
fn sled_store_conforms_with_ranges_removed_later() {
    let mut dir = TempDir::new().unwrap();
    conformance::check_all(|open| {
        if open == Open::Fresh {
            dir = TempDir::new().unwrap();
        }
        let mut config = SledConfig::default();
        config.delete_range_keys_max = 0;
        SledStore::open(dir.path().join("state"), config).unwrap()
    });
}
