//! What a state store asks of the file system beside reading and writing: to make files durable, and how much room is left.
//!
//! It is a seam, so that a test can stand between: to see which bytes were made durable, or to let the disk run full.

use std::{fmt::Debug, fs::File, io, path::Path};

/// The calls themselves. [`RealFs`] is what a program uses.
pub trait StoreFs: Send + Sync + Debug + 'static {
    /// Makes the contents of a file durable (fdatasync).
    ///
    /// # Errors
    /// What the system call answers; the file must then be taken as lost.
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()>;

    /// Makes the entries of a directory durable (fsync).
    ///
    /// # Errors
    /// What the system call answers.
    fn sync_dir(&self, path: &Path, dir: &File) -> io::Result<()>;

    /// How many bytes may still be written in this directory's file system.
    ///
    /// # Errors
    /// What the system call answers.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The operating system's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl StoreFs for RealFs {
    fn sync_file(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, _path: &Path, dir: &File) -> io::Result<()> {
        dir.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
