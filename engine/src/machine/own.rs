//! A machine per region that holds its data itself.

use std::io::{self, Read, Write};

use bytes::Bytes;
use multiraft_raft::RegionDescriptor;

use crate::machine::ApplyContext;

/// The state of one region, held by the embedder.
///
/// The engine serialises `apply`, `restore`, `split_off` and `absorb` of one region; `lookup` and the writing of a snapshot
/// run beside each other. What is applied is durable through the log and the snapshots that the engine takes; a machine
/// need not persist anything itself, and one that does may be asked to apply again what it has already seen only after
/// `restore` has put it back to an earlier snapshot.
pub trait OwnState: Send + Sync + 'static {
    /// Carries a committed command out and answers its caller. Deterministic; refusals are answers.
    fn apply(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Bytes;

    /// Answers a query without changing anything.
    fn lookup(&self, region: &RegionDescriptor, query: &[u8]) -> Bytes;

    /// Captures the state of this instant. The thread that applies waits for it, with all regions that it serves: it must be
    /// quick whatever the size of the state, as the copy of a reference to persistent or copy-on-write data is. Nothing may be
    /// written yet.
    ///
    /// The returned closure writes the captured state out later, on another thread, beside further applies and lookups; it
    /// must write what was captured, not what is there by then. It should keep writing: a transfer to a follower for which it
    /// yields no 256 KiB within `SnapshotLimits::step_timeout` is given up. It ends early, with an error of its writer, when
    /// nobody wants the snapshot any more.
    fn snapshot(&self) -> SnapshotWrite;

    /// Captures, as [`OwnState::snapshot`] does and as quickly, what a consistency check compares between replicas: bytes that are
    /// the same whenever the same commands were applied, whichever of snapshots, restarts, splits and merges a replica has gone
    /// through. Sort what has no order, and leave out what is only a cache.
    ///
    /// `None`, the default: this machine cannot be checked. One whose snapshots are such bytes answers `Some(self.snapshot())`.
    fn digest(&self) -> Option<SnapshotWrite> {
        None
    }

    /// Replaces the state by what a snapshot holds.
    ///
    /// # Errors
    /// The snapshot cannot be read or makes no sense; the replica is then set aside and reported.
    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()>;

    /// Moves everything at or after `key` into a new machine, which is returned.
    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState>;

    /// Takes over a neighbour's whole state.
    fn absorb(&mut self, neighbour: Box<dyn OwnState>);

    /// How many bytes it holds, and how many keys, about; `None`: it does not tell, and is neither split nor merged because of
    /// its size. Asked now and then while others look things up: it must be quick, as a counter is.
    fn size(&self) -> Option<(u64, u64)> {
        None
    }

    /// Keys that ascend and part what it holds into about so many stretches, each with the bytes from it to the next. Without
    /// them nobody knows where to split what has grown too large. Asked only where [`size`](Self::size) is, and as quick.
    fn sample(&self, stretches: usize) -> Vec<(Bytes, u64)> {
        let _ = stretches;
        Vec::new()
    }

    /// A key that a command or a query is about. Without it nobody knows where to split what has become too busy. Asked for
    /// each, where load is measured; it must not depend on the state.
    fn key_of(&self, request: &[u8]) -> Option<Bytes> {
        let _ = request;
        None
    }

    /// For `absorb` implementations that need the neighbour's concrete type.
    fn as_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// Writes a captured snapshot out. Runs on a background thread.
pub type SnapshotWrite = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// Makes the machine of a new or restarting region, empty.
pub trait OwnStateFactory: Send + Sync + 'static {
    /// The machine of `region`. When the region existed before, `restore` follows.
    fn create(&self, region: &RegionDescriptor) -> Box<dyn OwnState>;
}

impl<F> OwnStateFactory for F
where
    F: Fn(&RegionDescriptor) -> Box<dyn OwnState> + Send + Sync + 'static,
{
    fn create(&self, region: &RegionDescriptor) -> Box<dyn OwnState> {
        self(region)
    }
}
