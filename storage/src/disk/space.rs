//! How large a disk is, and what of it is free.

use std::io;
use std::path::Path;

/// The file system that a directory lies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Its size in bytes; zero: unknown.
    pub bytes: u64,
    /// What this program may still write, in bytes.
    pub free_bytes: u64,
}

impl DiskSpace {
    /// Asks the system about the file system of `dir`.
    ///
    /// # Errors
    /// What the system call answers.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lies_on_a_disk_and_one_that_is_not_there_on_none() {
        let dir = tempfile::tempdir().unwrap();
        let space = DiskSpace::of(dir.path()).unwrap();
        assert!(space.bytes > 0 && space.free_bytes <= space.bytes, "{space:?}");
        assert!(DiskSpace::of(&dir.path().join("nowhere")).is_err());
    }
}
