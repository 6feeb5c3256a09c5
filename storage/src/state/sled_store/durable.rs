//! Makes sled's files durable: what its own flush leaves to the system's good will is fdatasynced here.
//!
//! ```text
//!   <store>/            synced (entries)
//!     conf  db  snap.*  synced every time; the handle of `db` stays open, so that no write error goes by unseen
//!     blobs/            synced (entries)
//!       <lsn>           very large pages, see `layout.rs`: written once, so synced until the length stays the same
//!     FLUSHED           not sled's: see `watermark.rs`
//! ```
//!
//! Between two flushes sled reuses room of its log as soon as *it* takes the replacement for durable, after a
//! `sync_file_range`. A disk that then keeps the later write and loses the earlier one loses what had been flushed. So `db` is
//! marked synchronous where the file system knows that (ext4, xfs, btrfs): each of sled's writes, of half a megabyte mostly,
//! is then durable before the next one that depends on it. Where it does not, the watermark tells a store that fell back.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::StoreFs;

/// Where sled keeps very large pages.
const BLOBS: &str = "blobs";

/// sled's log of pages.
pub(super) const DB: &str = "db";

/// The files of one sled directory.
#[derive(Debug)]
pub(super) struct Durable {
    path: PathBuf,
    fs: Arc<dyn StoreFs>,
    db: File,
    blobs_synced: BTreeMap<OsString, u64>,
}

impl Durable {
    /// Makes the directory itself and what sled wrote at its opening durable.
    pub(super) fn open(path: &Path, fs: Arc<dyn StoreFs>) -> io::Result<Self> {
        let db = File::open(path.join(DB))?;
        if !fs.write_through(&path.join(DB), &db) {
            tracing::warn!(path = %path.display(), "the file system has no synchronous files: sled's order of writes is its own");
        }
        let mut durable = Self { path: path.to_path_buf(), fs, db, blobs_synced: BTreeMap::new() };
        durable.sync()?;
        if let Some(parent) = fs::canonicalize(path)?.parent() {
            durable.fs.sync_dir(parent, &File::open(parent)?)?;
        }
        Ok(durable)
    }

    /// After an error nothing that was written since the last success may be taken as durable, ever.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.sync_blobs()?;
        self.fs.sync_file(&self.path.join(DB), &self.db)?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != DB && entry.file_type()?.is_file() {
                self.sync_named(&entry.path())?;
            }
        }
        self.fs.sync_dir(&self.path, &File::open(&self.path)?)
    }

    /// A page that another thread is just writing is taken for what it is now; its length tells at the next flush that there
    /// is more. Each length is read before the sync, so it never promises more than was made durable.
    fn sync_blobs(&mut self) -> io::Result<()> {
        let dir = self.path.join(BLOBS);
        let mut present = BTreeMap::new();
        let mut changed = false;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let len = match entry.metadata() {
                Ok(metadata) => metadata.len(),
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if self.blobs_synced.get(&entry.file_name()) != Some(&len) {
                self.sync_named(&entry.path())?;
                changed = true;
            }
            present.insert(entry.file_name(), len);
        }
        if changed || present.len() != self.blobs_synced.len() {
            self.fs.sync_dir(&dir, &File::open(&dir)?)?;
        }
        self.blobs_synced = present;
        Ok(())
    }

    /// sled removes old files as it goes; one that is gone needs no sync.
    fn sync_named(&self, path: &Path) -> io::Result<()> {
        match File::open(path) {
            Ok(file) => self.fs.sync_file(path, &file),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}
