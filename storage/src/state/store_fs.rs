//! What a state store asks of the file system beside reading and writing: to make files durable, and how much room is left.
//!
//! It is a seam, so that a test can stand between: to see which bytes were made durable, or to let the disk run full.

use std::{fmt::Debug, fs::File, io, path::Path};

use crate::disk::DiskSpace;

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

    /// Asks that every write to this file be durable when it returns, whoever writes. Answers whether that holds from now on.
    fn write_through(&self, path: &Path, file: &File) -> bool;

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

    fn write_through(&self, _path: &Path, file: &File) -> bool {
        write_through(file)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        DiskSpace::of(path).map(|space| space.free_bytes)
    }
}

/// Sets the file's own flag for synchronous writes (`chattr +S`).
#[cfg(target_os = "linux")]
fn write_through(file: &File) -> bool {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::SYNC)).is_ok()
        && ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::SYNC))
}

#[cfg(not(target_os = "linux"))]
fn write_through(_file: &File) -> bool {
    false
}
