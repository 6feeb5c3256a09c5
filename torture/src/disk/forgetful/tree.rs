//! Files and directories, as they are for those who use them, and how they would be if the power went.
//!
//! What is used lies in one directory of a real disk, what was removed and would come back in another. A change of a directory is
//! carried out at once and kept in a list with what undoes it, until that directory is synced.
//!
//! Invariant: undoing the listed changes, the youngest first, gives every directory as it was when it was synced last.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, Stat, fstat, mkdirat, openat, renameat, statat, unlinkat};

use super::Lost;
use super::unsynced::Unsynced;
use crate::random::Random;

/// The number of the uppermost directory.
pub(super) const ROOT: u64 = 1;

/// A file or a directory that the kernel knows by a number.
struct Node {
    object: Object,
    /// How often the kernel was told its number; it says how often it has forgotten that.
    known: u64,
    /// In which directory, by what name; nowhere once it was removed.
    place: Option<(u64, OsString)>,
}

#[derive(Clone)]
pub(super) enum Object {
    Directory(Arc<OwnedFd>),
    File(Arc<File>),
}

/// What is to be known of a file beside its bytes.
struct Record {
    file: Arc<File>,
    unsynced: Unsynced,
    /// Every write is durable when it returns (`chattr +S`).
    writes_through: bool,
}

/// A change of a directory that was not synced.
struct Change {
    directory: u64,
    at: Arc<OwnedFd>,
    what: What,
}

enum What {
    Made(OsString),
    /// It lies among the removed under this number.
    Removed(OsString, u64),
    /// And what had the new name before lies among the removed.
    Renamed(OsString, OsString, Option<u64>),
}

/// All of it.
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    removed: Arc<OwnedFd>,
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<(u64, OsString), u64>,
    records: BTreeMap<u64, Record>,
    changes: Vec<Change>,
    next_node: u64,
    next_removed: u64,
}

impl Tree {
    /// What lies in the first directory; the second is empty.
    pub(super) fn new(used: &Path, removed: &Path) -> io::Result<Self> {
        let root = Arc::new(open_directory(CWD, used.as_os_str())?);
        let removed = Arc::new(open_directory(CWD, removed.as_os_str())?);
        let mut tree = Self {
            root,
            removed,
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            records: BTreeMap::new(),
            changes: Vec::new(),
            next_node: ROOT + 1,
            next_removed: 0,
        };
        tree.begin();
        Ok(tree)
    }

    fn begin(&mut self) {
        self.nodes.clear();
        self.names.clear();
        self.records.clear();
        self.changes.clear();
        self.nodes.insert(ROOT, Node { object: Object::Directory(Arc::clone(&self.root)), known: 1, place: None });
    }

    /// What has this number. A number of before the power went is nobody's.
    pub(super) fn object(&self, node: u64) -> io::Result<Object> {
        self.nodes.get(&node).map(|node| node.object.clone()).ok_or_else(|| rustix::io::Errno::STALE.into())
    }

    pub(super) fn directory(&self, node: u64) -> io::Result<Arc<OwnedFd>> {
        match self.object(node)? {
            Object::Directory(directory) => Ok(directory),
            Object::File(_) => Err(rustix::io::Errno::NOTDIR.into()),
        }
    }

    pub(super) fn file(&self, node: u64) -> io::Result<Arc<File>> {
        match self.object(node)? {
            Object::File(file) => Ok(file),
            Object::Directory(_) => Err(rustix::io::Errno::ISDIR.into()),
        }
    }

    pub(super) fn stat(&self, node: u64) -> io::Result<Stat> {
        Ok(match self.object(node)? {
            Object::Directory(directory) => fstat(&directory)?,
            Object::File(file) => fstat(&file)?,
        })
    }

    /// The number of what has this name; the kernel is told it.
    pub(super) fn look_up(&mut self, directory: u64, name: &OsStr) -> io::Result<u64> {
        let at = self.directory(directory)?;
        let place = (directory, name.to_owned());
        let node = match self.names.get(&place) {
            Some(node) => *node,
            None => {
                let stat = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)?;
                self.insert(place, open(&at, name, &stat)?)?
            }
        };
        self.nodes.get_mut(&node).ok_or(rustix::io::Errno::STALE)?.known += 1;
        Ok(node)
    }

    fn insert(&mut self, place: (u64, OsString), object: Object) -> io::Result<u64> {
        let node = self.next_node;
        self.next_node += 1;
        if let Object::File(file) = &object {
            let unsynced = Unsynced::none(file.metadata()?.len());
            self.records.insert(node, Record { file: Arc::clone(file), unsynced, writes_through: false });
        }
        self.names.insert(place.clone(), node);
        self.nodes.insert(node, Node { object, known: 0, place: Some(place) });
        Ok(node)
    }

    /// The kernel has forgotten a number that it was told so often.
    pub(super) fn let_go(&mut self, node: u64, times: u64) {
        let Some(entry) = self.nodes.get_mut(&node) else { return };
        entry.known = entry.known.saturating_sub(times);
        let is_needed = entry.known > 0
            || node == ROOT
            || self.records.get(&node).is_some_and(|record| !record.unsynced.is_empty() || record.writes_through)
            || self.changes.iter().any(|change| change.directory == node)
            || self.names.range((node, OsString::new())..(node + 1, OsString::new())).next().is_some();
        if is_needed {
            return;
        }
        if let Some(place) = self.nodes.remove(&node).and_then(|node| node.place) {
            self.names.remove(&place);
        }
        self.records.remove(&node);
    }

    /// Makes a file or a directory; its number is known to the kernel once.
    pub(super) fn make(&mut self, directory: u64, name: &OsStr, mode: u32, is_directory: bool) -> io::Result<u64> {
        let at = self.directory(directory)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let object = if is_directory {
            mkdirat(&at, name, mode)?;
            Object::Directory(Arc::new(open_directory(&at, name)?))
        } else {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            Object::File(Arc::new(openat(&at, name, flags, mode)?.into()))
        };
        self.change(directory, at, What::Made(name.to_owned()));
        let node = self.insert((directory, name.to_owned()), object)?;
        self.nodes.entry(node).and_modify(|node| node.known += 1);
        Ok(node)
    }

    pub(super) fn remove(&mut self, directory: u64, name: &OsStr, is_directory: bool) -> io::Result<()> {
        let at = self.directory(directory)?;
        let found = open_any(&at, name)?;
        match (&found, is_directory) {
            (Object::Directory(_), false) => return Err(rustix::io::Errno::ISDIR.into()),
            (Object::File(_), true) => return Err(rustix::io::Errno::NOTDIR.into()),
            (Object::Directory(inner), true) if !entries(inner)?.is_empty() => {
                return Err(rustix::io::Errno::NOTEMPTY.into());
            }
            _ => {}
        }
        let number = self.put_away(&at, directory, name)?;
        self.change(directory, at, What::Removed(name.to_owned(), number));
        Ok(())
    }

    /// Within one directory: what nobody does across two is refused, as between two file systems.
    pub(super) fn rename(&mut self, directory: u64, from: &OsStr, to: &OsStr, may_replace: bool) -> io::Result<()> {
        let at = self.directory(directory)?;
        statat(&at, from, AtFlags::SYMLINK_NOFOLLOW)?;
        if from == to {
            return Ok(());
        }
        let is_there = statat(&at, to, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if is_there && !may_replace {
            return Err(rustix::io::Errno::EXIST.into());
        }
        let replaced = if is_there { Some(self.put_away(&at, directory, to)?) } else { None };
        renameat(&at, from, &at, to)?;
        if let Some(node) = self.names.remove(&(directory, from.to_owned())) {
            let place = (directory, to.to_owned());
            self.names.insert(place.clone(), node);
            self.nodes.entry(node).and_modify(|node| node.place = Some(place));
        }
        self.change(directory, at, What::Renamed(from.to_owned(), to.to_owned(), replaced));
        Ok(())
    }

    /// Moves something to what was removed, from where it can come back. Who has it open goes on with it.
    fn put_away(&mut self, at: &OwnedFd, directory: u64, name: &OsStr) -> io::Result<u64> {
        let number = self.next_removed;
        renameat(at, name, &self.removed, number.to_string())?;
        self.next_removed += 1;
        if let Some(node) = self.names.remove(&(directory, name.to_owned())) {
            self.nodes.entry(node).and_modify(|node| node.place = None);
        }
        Ok(number)
    }

    fn change(&mut self, directory: u64, at: Arc<OwnedFd>, what: What) {
        self.changes.push(Change { directory, at, what });
    }

    /// How many changes of directories would be gone.
    pub(super) fn changes(&self) -> u64 {
        self.changes.len() as u64
    }

    /// How many bytes would be gone.
    pub(super) fn bytes(&self) -> u64 {
        self.records.values().map(|record| record.unsynced.bytes()).sum()
    }

    /// To be called before bytes are written, and the same with [`Self::after_write`] behind.
    pub(super) fn before_write(&mut self, node: u64, at: u64, bytes: u64) -> io::Result<Arc<File>> {
        let record = self.records.get_mut(&node).ok_or(rustix::io::Errno::STALE)?;
        record.unsynced.before_write(&record.file, at, bytes)?;
        Ok(Arc::clone(&record.file))
    }

    /// What was written is durable if the file, or who wrote, wants it so; with it all that was written to the file before.
    pub(super) fn after_write(&mut self, node: u64, writes_through: bool) -> io::Result<()> {
        match self.records.get(&node) {
            Some(record) if record.writes_through || writes_through => self.sync_file(node),
            _ => Ok(()),
        }
    }

    pub(super) fn resize(&mut self, node: u64, length: u64) -> io::Result<()> {
        let record = self.records.get_mut(&node).ok_or(rustix::io::Errno::STALE)?;
        record.unsynced.before_resize(&record.file, length)?;
        record.file.set_len(length)?;
        self.after_write(node, false)
    }

    pub(super) fn writes_through(&self, node: u64) -> bool {
        self.records.get(&node).is_some_and(|record| record.writes_through)
    }

    pub(super) fn set_writes_through(&mut self, node: u64, writes_through: bool) {
        self.records.entry(node).and_modify(|record| record.writes_through = writes_through);
    }

    pub(super) fn sync_file(&mut self, node: u64) -> io::Result<()> {
        let record = self.records.get_mut(&node).ok_or(rustix::io::Errno::STALE)?;
        record.unsynced.synced(record.file.metadata()?.len());
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, node: u64) -> io::Result<()> {
        self.directory(node)?;
        let (synced, others) = std::mem::take(&mut self.changes).into_iter().partition(|one| one.directory == node);
        self.changes = others;
        let synced: Vec<Change> = synced;
        synced.into_iter().try_for_each(|change| self.forget_removed(&change.what))
    }

    /// What a durable change has removed does not come back.
    fn forget_removed(&self, what: &What) -> io::Result<()> {
        match what {
            What::Removed(_, number) | What::Renamed(_, _, Some(number)) => {
                remove_whole(&self.removed, OsStr::new(&number.to_string()))
            }
            What::Made(_) | What::Renamed(_, _, None) => Ok(()),
        }
    }

    /// The power goes. With luck, of each file some sectors stay that were not synced, and of each directory some changes, the
    /// first of them.
    pub(super) fn forget(&mut self, mut luck: Option<&mut Random>) -> io::Result<Lost> {
        let mut lost = Lost::default();
        for record in self.records.values_mut().filter(|record| !record.unsynced.is_empty()) {
            let (dropped, stayed) = record.unsynced.forget(&record.file, luck.as_deref_mut())?;
            lost.files += 1;
            lost.bytes += dropped;
            lost.bytes_kept += stayed;
        }
        let stays = luck.map_or_else(|| vec![false; self.changes.len()], |luck| self.draw(luck));
        let changes = std::mem::take(&mut self.changes);
        for (change, stays) in changes.iter().zip(stays).rev() {
            if stays {
                lost.changes_kept += 1;
                self.forget_removed(&change.what)?;
            } else {
                lost.changes += 1;
                self.undo(change)?;
            }
        }
        self.begin();
        Ok(lost)
    }

    /// Which of the changes stay.
    fn draw(&self, luck: &mut Random) -> Vec<bool> {
        let mut left: BTreeMap<u64, u64> = BTreeMap::new();
        for change in &self.changes {
            *left.entry(change.directory).or_default() += 1;
        }
        left.values_mut().for_each(|count| *count = luck.between(0, *count));
        let mut stays = |change: &Change| {
            let left = left.entry(change.directory).or_default();
            *left = left.checked_sub(1)?;
            Some(())
        };
        self.changes.iter().map(|change| stays(change).is_some()).collect()
    }

    fn undo(&self, change: &Change) -> io::Result<()> {
        if fstat(&change.at)?.st_nlink == 0 {
            // The directory itself is gone for good.
            return self.forget_removed(&change.what);
        }
        let back = |number: &u64, name: &OsStr| renameat(&self.removed, number.to_string(), &change.at, name);
        match &change.what {
            What::Made(name) => remove_whole(&change.at, name)?,
            What::Removed(name, number) => back(number, name)?,
            What::Renamed(from, to, replaced) => {
                renameat(&change.at, to, &change.at, from)?;
                if let Some(number) = replaced {
                    back(number, to)?;
                }
            }
        }
        Ok(())
    }
}

/// Names and kinds of what is in a directory, without the two that are in each.
pub(super) fn entries(directory: &OwnedFd) -> io::Result<Vec<(OsString, rustix::fs::FileType)>> {
    use std::os::unix::ffi::OsStrExt;
    // One of its own, since reading moves on.
    let opened = open_directory(directory, OsStr::new("."))?;
    let mut buffer = Vec::with_capacity(8192);
    let mut raw = RawDir::new(&opened, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

fn open_directory(at: impl std::os::fd::AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn open_any(at: &OwnedFd, name: &OsStr) -> io::Result<Object> {
    open(at, name, &statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn open(at: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<Object> {
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => Ok(Object::Directory(Arc::new(open_directory(at, name)?))),
        rustix::fs::FileType::RegularFile => {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(Object::File(Arc::new(openat(at, name, flags, Mode::empty())?.into())))
        }
        // Stores have neither links nor sockets on disk.
        _ => Err(rustix::io::Errno::OPNOTSUPP.into()),
    }
}

/// Removes a file, or a directory with what is in it.
fn remove_whole(at: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(at, name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
            fs::remove_dir_all(Path::new("/proc/self/fd").join(at.as_raw_fd().to_string()).join(name))
        }
        Err(errno) => Err(errno.into()),
    }
}
