//! What a store keeps of a sleeping region in its directory, counted by the allocator (the table in `docs/performance.md`).
//!
//! The directory is no part of the library's interface: its source is compiled into this program, which does nothing beside it.

#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a test, which says what it has counted; and it needs a part of the directory"
)]

#[path = "../src/directory.rs"]
mod directory;

/// What the directory takes from its crate.
mod logic {
    pub(crate) use multiraft::logic::{Packed, RegionHandle};
}

use std::sync::Arc;

use bytes::Bytes;
use directory::Directory;
use logic::{Packed, RegionHandle};
use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const REGIONS: u64 = 100_000;

/// A sleeping region takes no more than this, in bytes: 56 are its packed descriptor, which the worker and the applier share.
const SLEEPING_MAX: u64 = 110;

/// With all that is kept for readers, when each region has been asked for while it slept.
const ASKED_MAX: u64 = 130;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("{number:08}"))
}

fn region(id: u64) -> Arc<RegionDescriptor> {
    let replica = |store| Replica { id: ReplicaId(3 * id + store), store: StoreId(store), role: Role::Voter };
    let range = KeyRange { start: key(id), end: key(id + 1) };
    let epoch = RegionEpoch { conf_version: 1, version: 17 };
    Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas: (1..=3).map(replica).collect() })
}

/// What a region takes, after `ids` were heard of in this order, have come to rest, and each was asked for.
fn held(ids: impl Iterator<Item = u64>) -> (u64, u64) {
    let before = ALLOCATED.current_usage();
    let each = || (ALLOCATED.current_usage() - before) as u64 / REGIONS;
    let directory = Directory::default();
    for id in ids {
        directory.update(&region(id));
        directory.host(1, RegionHandle { region: RegionId(id), slot: id as u32, generation: 3 });
    }
    let first = RegionId::ROOT.0 + 1;
    let awake = each();
    for id in first..first + REGIONS {
        directory.rest(&Packed::new(&region(id)));
    }
    let sleeping = each();
    for id in first..first + REGIONS {
        assert_eq!(directory.lookup(&key(id)), Some(region(id)));
        assert_eq!(directory.worker(RegionId(id)), Some(1));
    }
    let asked = each();
    println!("a region in the directory: {awake} bytes awake, {sleeping} sleeping, {asked} when all were asked for");
    (sleeping, asked)
}

fn main() {
    let first = RegionId::ROOT.0 + 1;
    let rising = first..first + REGIONS;
    // A prime that is no divisor of their number: each once.
    let mixed = (0..REGIONS).map(|number| first + number * 7_919 % REGIONS);
    for (sleeping, asked) in [held(rising), held(mixed)] {
        assert!(sleeping <= SLEEPING_MAX, "{sleeping} bytes a region");
        assert!(asked <= ASKED_MAX, "{asked} bytes a region");
    }
}
