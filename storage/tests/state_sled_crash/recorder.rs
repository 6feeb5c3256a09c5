//! Records what syncs made durable, and puts images of the files together from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use multiraft_storage::StoreFs;
use tempfile::TempDir;

const PAGE: usize = 4096;

#[derive(Clone, Debug)]
enum Synced {
    File(PathBuf, Arc<Vec<u8>>),
    Dir(PathBuf, BTreeSet<PathBuf>),
}

/// Keeps what each sync made durable. The syncs themselves are left out: nothing here depends on the real disk.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    synced: Mutex<Vec<Synced>>,
}

impl StoreFs for Recorder {
    fn sync_file(&self, path: &Path, _file: &File) -> io::Result<()> {
        self.synced.lock().unwrap().push(Synced::File(path.to_path_buf(), Arc::new(fs::read(path)?)));
        Ok(())
    }

    fn sync_dir(&self, path: &Path, _dir: &File) -> io::Result<()> {
        let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        self.synced.lock().unwrap().push(Synced::Dir(path.to_path_buf(), entries));
        Ok(())
    }

    fn write_through(&self, _path: &Path, _file: &File) -> bool {
        false
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl Recorder {
    pub(crate) fn count(&self) -> usize {
        self.synced.lock().unwrap().len()
    }

    /// The durable contents of all files below `root` after the first `count` syncs.
    pub(crate) fn image(&self, root: &Path, count: usize) -> Image {
        let (mut files, mut dirs) = (BTreeMap::new(), BTreeMap::new());
        for synced in self.synced.lock().unwrap().iter().take(count).cloned() {
            match synced {
                Synced::File(path, contents) => drop(files.insert(path, contents)),
                Synced::Dir(path, entries) => drop(dirs.insert(path, entries)),
            }
        }
        let has_entry = |path: &Path| dirs.get(path.parent().unwrap()).is_some_and(|entries| entries.contains(path));
        let mut image = Image::default();
        for path in dirs.values().flatten().filter(|path| path.starts_with(root) && !path.is_dir()) {
            // A file below a directory that has no durable entry itself is lost with it.
            if path.ancestors().take_while(|part| *part != root).all(&has_entry) {
                let contents = files.get(path).cloned().unwrap_or_default();
                image.files.insert(path.strip_prefix(root).unwrap().to_path_buf(), contents);
            }
        }
        image
    }
}

/// The files of a store at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    files: BTreeMap<PathBuf, Arc<Vec<u8>>>,
}

impl Image {
    pub(crate) fn names(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    pub(crate) fn file(&self, name: impl AsRef<Path>) -> &[u8] {
        &self.files[name.as_ref()]
    }

    pub(crate) fn set(&mut self, name: impl AsRef<Path>, contents: Vec<u8>) {
        self.files.insert(name.as_ref().to_path_buf(), Arc::new(contents));
    }

    pub(crate) fn remove(&mut self, name: impl AsRef<Path>) {
        self.files.remove(name.as_ref());
    }

    /// This image with some pages of sled's files as they are in a later one. The watermark is written after them, so it stays.
    pub(crate) fn with_pages_of(&self, later: &Self, mut is_written: impl FnMut(usize) -> bool) -> Self {
        let mut image = self.clone();
        for (name, now) in later.files.iter().filter(|(name, _)| !name.ends_with("FLUSHED")) {
            let mut mixed = self.files.get(name).map(|contents| contents.to_vec()).unwrap_or_default();
            mixed.resize(now.len().max(mixed.len()), 0);
            for (page, bytes) in now.chunks(PAGE).enumerate() {
                if is_written(page) {
                    mixed[page * PAGE..page * PAGE + bytes.len()].copy_from_slice(bytes);
                }
            }
            image.set(name, mixed);
        }
        image
    }

    /// The files, below `state` in a directory of their own.
    pub(crate) fn lay_out(&self) -> TempDir {
        let dir = TempDir::new().unwrap();
        for (name, contents) in &self.files {
            let path = dir.path().join("state").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents.as_slice()).unwrap();
        }
        dir
    }
}
