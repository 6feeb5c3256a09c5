//! A directory of the operating system.
//!
//! Owns the directory: as long as a [`RealDisk`] lives, no other can open it, in this process or another. Never touches
//! sub-directories.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::direct::Appender;
use super::{Disk, DiskFile};

/// The file whose lock says that the directory is in use.
const LOCK_FILE: &str = "LOCK";
/// How many zeros are written, then synced, at a time: small, so that the log's own syncs never wait long behind them.
const ZERO_STEP: usize = 1 << 20;

/// Why a directory was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskOpenError {
    /// Another process, or another part of this one, holds it.
    #[error("{path} is in use by another process: stop it, or choose another directory")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot open directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A directory of the operating system, held under an exclusive lock.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
    /// Held, never read: the lock goes with it.
    _lock: Option<File>,
    appends_directly: bool,
}

impl RealDisk {
    /// Opens the directory, creating it if need be, and locks it. The lock ends with the value, or with the process.
    ///
    /// # Errors
    /// [`DiskOpenError::Locked`] if someone else holds it, else what the system says.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DiskOpenError> {
        let path = path.into();
        let attempt = || -> io::Result<Option<(File, File)>> {
            if !path.is_dir() {
                fs::create_dir_all(&path)?;
                if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    File::open(parent)?.sync_all()?;
                }
            }
            let lock =
                OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path.join(LOCK_FILE))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some((File::open(&path)?, lock))),
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(errno) => Err(errno.into()),
            }
        };
        match attempt() {
            Ok(Some((directory, lock))) => Ok(Self { path, directory, _lock: Some(lock), appends_directly: false }),
            Ok(None) => Err(DiskOpenError::Locked { path }),
            Err(source) => Err(DiskOpenError::Io { path, source }),
        }
    }

    /// A directory that is there and whose use another lock guards: this one takes none.
    ///
    /// # Errors
    /// What the system says.
    pub fn guarded(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        Ok(Self { directory: File::open(&path)?, path, _lock: None, appends_directly: false })
    }

    /// Lets [`DiskFile::append_at`] and [`DiskFile::preallocate`] go past the system's page cache where the file system can: less
    /// processor time and memory for what is read soon by few. What is read later comes from the disk.
    #[must_use]
    pub fn with_direct_appends(self, direct: bool) -> Self {
        Self { appends_directly: direct, ..self }
    }

    fn handle(&self, file: File) -> Arc<dyn DiskFile> {
        let file = Arc::new(RealFile { file, appender: self.appends_directly.then(Mutex::default) });
        #[cfg(feature = "torture")]
        let file = crate::plant::hold_back(file);
        file
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK_FILE
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn nonce(&self) -> u64 {
        RandomState::new().hash_one(std::process::id())
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    appender: Option<Mutex<Appender>>,
}

impl RealFile {
    fn appender(&self) -> Option<MutexGuard<'_, Appender>> {
        // Who panics with it leaves it knowing nothing of the page that was being written.
        self.appender.as_ref().map(|appender| appender.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        if let Some(mut appender) = self.appender() {
            appender.rest();
        }
        self.file.write_all_at(from, offset)
    }

    fn append_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        match self.appender() {
            Some(mut appender) => appender.append(&self.file, from, offset),
            None => self.file.write_all_at(from, offset),
        }
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut at = self.file.metadata()?.len();
        if at >= len {
            return Ok(());
        }
        // All the room or none: a disk that is nearly full would else be written full at every attempt. What cannot reserve
        // (some file systems) finds out by writing.
        let reserved = fallocate(&self.file, FallocateFlags::KEEP_SIZE, at, len - at);
        if let Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = reserved {
            return Err(errno.into());
        }
        // Written, not only reserved: the first write into a block that is merely reserved changes the file's extents, and
        // then every fdatasync has to wait for the file system's journal as well.
        if let Some(mut appender) = self.appender() {
            at = appender.fill(&self.file, (at, len), ZERO_STEP, || self.file.sync_data())?;
        }
        let zeros = vec![0; if at < len { ZERO_STEP } else { 0 }];
        while at < len {
            let step = (len - at).min(ZERO_STEP as u64) as usize;
            self.file.write_all_at(&zeros[..step], at)?;
            self.file.sync_data()?;
            at += step as u64;
        }
        self.file.sync_all()
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        if self.file.metadata()?.len() >= len {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => self.file.sync_all(),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(errno.into()),
            // Some file systems cannot.
            Err(_) => self.preallocate(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_opens_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let first = RealDisk::open(&path).unwrap();
        assert!(matches!(RealDisk::open(&path), Err(DiskOpenError::Locked { .. })));
        drop(first);
        RealDisk::open(&path).unwrap();
    }

    #[test]
    fn what_is_reserved_reads_as_zeros_and_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk::open(dir.path()).unwrap().create("a").unwrap();
        file.write_at(b"kept", 0).unwrap();
        file.reserve(1 << 20).unwrap();
        file.reserve(1 << 10).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        let mut read = vec![1; 1 << 20];
        file.read_at(&mut read, 0).unwrap();
        assert!(read.starts_with(b"kept") && read[4..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn files_are_preallocated_renamed_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("a").unwrap();
        file.preallocate(3 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 3 << 20);
        file.write_at(b"hello", 1 << 20).unwrap();
        file.sync_data().unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        let mut read = [1; 6];
        disk.open("b").unwrap().read_at(&mut read, 1 << 20).unwrap();
        assert_eq!(&read, b"hello\0");
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert_eq!(file.read_at(&mut read, (3 << 20) - 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        disk.remove("b").unwrap();
        assert!(disk.list().unwrap().is_empty());
    }
}
