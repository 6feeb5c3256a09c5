//! A directory of files, as the log sees it: few operations, each with a stated durability.
//!
//! Everything that the log does to a disk goes through [`Disk`] and [`DiskFile`]. [`RealDisk`] is a directory of the
//! operating system; [`SimDisk`] lives in memory, is deterministic, and can lose what a power cut can lose. The code above
//! cannot tell them apart.
//!
//! What a caller may rely on, and no more:
//! - what was written with [`DiskFile::write_at`] is durable once a later [`DiskFile::sync_data`] returned without error;
//! - a file created, renamed or removed is so durably once a later [`Disk::sync_dir`] returned without error;
//! - before that, any part of it may be lost by a power cut, in any combination;
//! - after a `sync_data` that failed, nothing is known of what was written since the last good one.

mod direct;
mod real;
mod sim;
mod sim_pages;
mod space;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use real::{DiskOpenError, RealDisk};
pub use sim::{CrashStyle, SimDisk};
pub use space::DiskSpace;

/// Named files in one flat directory.
pub trait Disk: Send + Sync + Debug {
    /// Makes a new, empty file. The name is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is such a file, else what the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such file, else what the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file a new name, atomically replacing a file that had it. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the system says; then the file has either name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, ascending.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes all creations, renames and removals so far durable.
    ///
    /// # Errors
    /// What the system says; never to be retried.
    fn sync_dir(&self) -> io::Result<()>;

    /// A number that outsiders cannot guess. It salts checksums; it decides nothing.
    fn nonce(&self) -> u64;

    /// The name of a file as an operator would look for it.
    fn describe(&self, name: &str) -> String;
}

/// One open file. It stays readable under its handle when it is renamed or removed.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before, else what the system says.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `from` at `offset`. Durable after [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// What the system says; then any part of it may be written.
    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `from` at `offset`, like [`DiskFile::write_at`], into a file that is filled from front to back: what lies behind it
    /// in the same 4 KiB means nothing to anybody, and may be zeros afterwards.
    ///
    /// # Errors
    /// As there.
    fn append_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(from, offset)
    }

    /// Makes the file `len` bytes long with real blocks of zeros behind its present end, and makes that durable: later
    /// writes inside `len` change no metadata of the file system. Does nothing if it is that long already.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no room, else what the system says.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// The same for somebody who is in a hurry: the file gets as long and has room for that, which is made durable, but nothing is
    /// written into it. Later writes inside `len` find room, and their syncs may have to wait for the file system's own records.
    ///
    /// # Errors
    /// As there.
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.preallocate(len)
    }

    /// Makes all writes so far durable.
    ///
    /// # Errors
    /// What the system says; never to be retried, see the module's contract.
    fn sync_data(&self) -> io::Result<()>;

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
