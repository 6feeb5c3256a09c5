//! Makes sled's files durable: what its own flush leaves to the system's good will is fdatasynced here.
//!
//! ```text
//!   <store>/            synced (entries)
//!     conf  db  snap.*  synced every time; the handle of `db` stays open, so that no write error goes by unseen
//!     blobs/            synced (entries)
//!       <lsn>           large values, written once: synced until its length stays the same
//! ```

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::super::StoreFs;

/// Where sled keeps large values.
const BLOBS: &str = "blobs";

/// sled's log of pages.
const DB: &str = "db";

/// The files of one sled directory.
#[derive(Debug)]
pub(super) struct Durable {
    path: PathBuf,
    fs: Arc<dyn StoreFs>,
    db: File,
    /// Serves as the lock of a flush as well: they come one after another.
    blobs_synced: Mutex<BTreeMap<OsString, u64>>,
}

impl Durable {
    /// Makes the directory itself and what sled wrote at its opening durable.
    pub(super) fn open(path: &Path, fs: Arc<dyn StoreFs>) -> io::Result<Self> {
        let db = File::open(path.join(DB))?;
        let durable = Self { path: path.to_path_buf(), fs, db, blobs_synced: Mutex::default() };
        durable.sync()?;
        let parent = fs::canonicalize(path)?.parent().map(Path::to_path_buf);
        if let Some(parent) = parent {
            durable.fs.sync_dir(&parent, &File::open(&parent)?)?;
        }
        Ok(durable)
    }

    /// After an error nothing that was written since the last success may be taken as durable, ever.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut blobs_synced = self.blobs_synced.lock().unwrap_or_else(PoisonError::into_inner);
        self.sync_blobs(&mut blobs_synced)?;
        self.fs.sync_file(&self.path.join(DB), &self.db)?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != DB && entry.file_type()?.is_file() {
                self.sync_named(&entry.path())?;
            }
        }
        self.fs.sync_dir(&self.path, &File::open(&self.path)?)
    }

    /// A large value that another thread is just writing is taken for what it is now; its length tells at the next flush that
    /// there is more. Each length is read before the sync, so it never promises more than was made durable.
    fn sync_blobs(&self, synced: &mut BTreeMap<OsString, u64>) -> io::Result<()> {
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
            if synced.get(&entry.file_name()) != Some(&len) {
                self.sync_named(&entry.path())?;
                changed = true;
            }
            present.insert(entry.file_name(), len);
        }
        if changed || present.len() != synced.len() {
            self.fs.sync_dir(&dir, &File::open(&dir)?)?;
        }
        *synced = present;
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
