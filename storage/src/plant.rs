//! Bugs that can be planted, so that whoever tests whole stores can see that the test finds them; compiled with the feature
//! `torture` alone, never into what ships.
//!
//! The environment variable [`ORDER`] names one, for the whole process. This module owns the names, and the bug of the
//! disk; the engine's are beside what they spoil.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk::DiskFile;

/// Names the bug.
pub const ORDER: &str = "MULTIRAFT_TORTURE_PLANT";

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The log's records are reported as durable while they are in this process's memory alone, where they stay for [`HELD_BACK`].
    /// Shows when a quorum of a region's stores is killed at once, with pairs in memory: what sled has written, a kill leaves.
    AckBeforeFsync,
    /// Leases, and the support that they rest on, are looked at with a reading of the clock that may be five seconds old. Shows when
    /// a leader stands still, or is cut off, until another has taken a write.
    LeaseAfterPause,
    /// Linearizable reads are answered from what has been applied on the store that is asked. Shows on followers at once.
    StaleRead,
    /// A child of a split begins without some of its pairs. Shows with the first split.
    LostSplitWrites,
    /// The log keeps no votes, nor a term in which there was nothing but a vote. Shows when a voter is killed and starts again
    /// within the term in which it voted.
    VoteNotPersisted,
    /// A command of a session is carried out again when it is repeated. Shows with the first repetition.
    DoubleApply,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AckBeforeFsync,
        Self::LeaseAfterPause,
        Self::StaleRead,
        Self::LostSplitWrites,
        Self::VoteNotPersisted,
        Self::DoubleApply,
    ];

    /// How [`ORDER`] names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeFsync => "ack-before-fsync",
            Self::LeaseAfterPause => "lease-after-pause",
            Self::StaleRead => "stale-read",
            Self::LostSplitWrites => "lost-split-writes",
            Self::VoteNotPersisted => "vote-not-persisted",
            Self::DoubleApply => "double-apply",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| plant.name() == name)
    }

    /// Whether it is this process's.
    #[must_use]
    pub fn is_planted(self) -> bool {
        static CHOSEN: OnceLock<Option<Plant>> = OnceLock::new();
        let order = || std::env::var(ORDER).ok().and_then(|name| Self::named(&name));
        *CHOSEN.get_or_init(order) == Some(self)
    }
}

/// Says in the log which bug is planted, if one is.
///
/// # Errors
/// What is wrong with [`ORDER`]: a store must not start then, since its test would test nothing.
pub fn announce() -> Result<(), String> {
    let Some(order) = std::env::var_os(ORDER) else { return Ok(()) };
    let plant = order.to_str().and_then(Plant::named).ok_or_else(|| {
        let known = Plant::ALL.map(Plant::name).join(", ");
        format!("{ORDER}={} names no planted bug: choose one of {known}, or unset it", order.display())
    })?;
    tracing::error!(plant = plant.name(), "A BUG IS PLANTED IN THIS STORE: it breaks its promises on purpose");
    Ok(())
}

/// How long what was written is held back: a kill within this time loses it, since the system has never seen it.
pub const HELD_BACK: Duration = Duration::from_millis(300);

/// A file as it is, or one that holds back what is written to it.
pub(crate) fn hold_back(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
    if Plant::AckBeforeFsync.is_planted() { Arc::new(HeldFile::new(file)) } else { file }
}

/// Shows what was written at once, reports it as synced at once, and writes it later, in order.
///
/// Only what lies within the file's length is held back, and nothing at its very beginning: so a kill leaves a log that ends
/// earlier, and not one that cannot be opened.
#[derive(Debug)]
struct HeldFile(Arc<Held>);

#[derive(Debug)]
struct Held {
    file: Arc<dyn DiskFile>,
    waiting: Mutex<VecDeque<Write>>,
    writer: OnceLock<()>,
}

#[derive(Debug)]
struct Write {
    at: u64,
    bytes: Vec<u8>,
    due: Instant,
}

impl HeldFile {
    fn new(file: Arc<dyn DiskFile>) -> Self {
        Self(Arc::new(Held { file, waiting: Mutex::default(), writer: OnceLock::new() }))
    }
}

impl DiskFile for HeldFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let waiting = self.0.waiting();
        self.0.file.read_at(into, offset)?;
        for write in waiting.iter() {
            overlay(into, offset, write);
        }
        Ok(())
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        if offset == 0 || offset + from.len() as u64 > self.0.file.len()? {
            self.0.write_due(None)?;
            return self.0.file.write_at(from, offset);
        }
        self.0.waiting().push_back(Write { at: offset, bytes: from.to_vec(), due: Instant::now() + HELD_BACK });
        self.0.writer.get_or_init(|| {
            let held = Arc::downgrade(&self.0);
            thread::spawn(move || write_later(&held));
        });
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.0.file.preallocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.file.len()
    }
}

impl Held {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Write>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is due by then; everything, for `None`.
    fn write_due(&self, now: Option<Instant>) -> io::Result<()> {
        let mut waiting = self.waiting();
        while let Some(write) = waiting.front().filter(|write| now.is_none_or(|now| write.due <= now)) {
            self.file.write_at(&write.bytes, write.at)?;
            waiting.pop_front();
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A store that stops in order loses nothing; what cannot be written now is lost, as planted.
        let _ = self.write_due(None);
    }
}

fn write_later(held: &Weak<Held>) {
    while let Some(held) = held.upgrade() {
        // One that fails stays, and is tried again.
        let _ = held.write_due(Some(Instant::now()));
        drop(held);
        thread::park_timeout(HELD_BACK / 20);
    }
}

/// Copies the part of a write that lies within what was read from `offset` on.
fn overlay(into: &mut [u8], offset: u64, write: &Write) {
    let (start, end) = (write.at.max(offset), (write.at + write.bytes.len() as u64).min(offset + into.len() as u64));
    if start < end {
        let length = (end - start) as usize;
        let (to, from) = ((start - offset) as usize, (start - write.at) as usize);
        into[to..to + length].copy_from_slice(&write.bytes[from..from + length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, RealDisk};

    #[test]
    fn each_plant_has_a_name_of_its_own() {
        for plant in Plant::ALL {
            assert_eq!(Plant::named(plant.name()), Some(plant));
        }
        assert_eq!(Plant::named("no-such-bug"), None);
    }

    #[test]
    fn what_is_held_back_is_read_and_not_in_the_file_until_it_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let below = disk.create("a").unwrap();
        below.preallocate(4096).unwrap();
        let held = HeldFile::new(Arc::clone(&below));
        held.write_at(b"header", 0).unwrap();
        held.write_at(b"abcdef", 100).unwrap();
        held.write_at(b"XY", 102).unwrap();
        held.sync_data().unwrap();
        let read = |file: &dyn DiskFile, at| {
            let mut bytes = [0; 6];
            file.read_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!((&read(&held, 100), &read(&held, 98), &read(&held, 0)), (b"abXYef", b"\0\0abXY", b"header"));
        assert_eq!((&read(&*below, 100), &read(&*below, 0)), (b"\0\0\0\0\0\0", b"header"));
        let begun = Instant::now();
        while &read(&*below, 100) != b"abXYef" {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
        held.write_at(b"last", 200).unwrap();
        drop(held);
        assert_eq!(&read(&*below, 200), b"last\0\0", "a file that is closed is written");
    }
}
