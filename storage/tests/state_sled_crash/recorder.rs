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
        // A thread of sled's may cut segments off that are free. That is done at once or not at all: not half of one is read.
        let contents = loop {
            let contents = fs::read(path)?;
            if fs::metadata(path)?.len() >= contents.len() as u64 {
                break contents;
            }
        };
        self.synced.lock().unwrap().push(Synced::File(path.to_path_buf(), Arc::new(contents)));
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
    ///
    /// What lies between two images may be several writes of sled's log, each of one segment at most. Of those that were under way at once
    /// any pages may be there; but the header of a segment says up to where the log was durable when it was written, and so no page
    /// of that is lacking where the header is there.
    pub(crate) fn with_pages_of(&self, later: &Self, mut is_written: impl FnMut(usize) -> bool) -> Self {
        let mut image = self.clone();
        for (name, now) in later.files.iter().filter(|(name, _)| !name.ends_with("FLUSHED")) {
            let before = self.files.get(name).map(|contents| contents.to_vec()).unwrap_or_default();
            let mut written: Vec<bool> = (0..now.len().div_ceil(PAGE)).map(&mut is_written).collect();
            if name.ends_with("db") {
                add_what_is_durable(&before, now, &mut written);
            }
            let mut mixed = before;
            mixed.resize(now.len().max(mixed.len()), 0);
            for (page, bytes) in now.chunks(PAGE).enumerate().filter(|(page, _)| written[*page]) {
                mixed[page * PAGE..page * PAGE + bytes.len()].copy_from_slice(bytes);
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

/// How long sled's segments are, unless one chooses otherwise.
const SEGMENT: usize = 512 << 10;

/// Where the segment that begins here lies in the order of the log, and up to where the log was durable when it was begun: numbers of
/// bytes, as sled 0.34 has them in its `SegmentHeader`.
fn segment_header(segment: &[u8]) -> Option<(i64, i64)> {
    let number = |at: usize| Some(i64::from_le_bytes(segment.get(at..at + 8)?.try_into().ok()?) ^ i64::MAX);
    let (begins, durable) = (number(4)?, number(12)?);
    let is_sound = begins >= 0 && begins % SEGMENT as i64 == 0 && durable >= 0;
    is_sound.then_some((begins, durable))
}

/// Adds the pages of the log that a header among those `written` proves to have been durable before it.
fn add_what_is_durable(before: &[u8], now: &[u8], written: &mut [bool]) {
    let header = |file: &[u8], segment: usize| segment_header(file.get(segment * SEGMENT..)?);
    loop {
        let is_new =
            |segment: &usize| written[segment * SEGMENT / PAGE] && header(before, *segment) != header(now, *segment);
        let new = (0..now.len().div_ceil(SEGMENT)).filter(is_new);
        let durable = new.filter_map(|segment| Some(header(now, segment)?.1)).max().unwrap_or(0);
        let is_durable = |page: usize| {
            let (segment, within) = (page * PAGE / SEGMENT, page * PAGE % SEGMENT);
            header(now, segment).is_some_and(|(begins, _)| begins + (within as i64) < durable)
        };
        let lacking: Vec<usize> = (0..written.len()).filter(|page| !written[*page] && is_durable(*page)).collect();
        if lacking.is_empty() {
            return;
        }
        lacking.into_iter().for_each(|page| written[page] = true);
    }
}
