//! What the kernel asks, answered out of the [`Tree`].
//!
//! The kernel is told to keep nothing itself, neither bytes nor names, so that what is forgotten is gone at once. Locks are the
//! kernel's own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, Mode, OFlags, Stat, fallocate, fchmod, fstatvfs};

use super::tree::{Object, Tree, entries};
use super::{Asked, Lost};
use crate::random::Random;

/// For so long the kernel may believe what it was told.
const NOT_AT_ALL: Duration = Duration::ZERO;
/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS`, and the flag of `chattr +S`.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const WRITES_THROUGH: u32 = 0x8;
/// `FS_IOC_FSGETXATTR`, which the kernel asks before it sets flags, its flag for the same, and how long the answer is.
const GET_MORE_FLAGS: u32 = 0x801c_581f;
const WRITES_THROUGH_TOO: u32 = 0x20;
const MORE_FLAGS: usize = 28;
/// What a listing says of numbers that nobody was told.
const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);

type Listing = Vec<(OsString, FileType)>;

/// What is mounted.
pub(super) struct Served {
    tree: Tree,
    pub(super) asked: Asked,
    /// Directories that are being read, as they were when they were opened.
    listings: BTreeMap<u64, Arc<Listing>>,
    next_listing: u64,
    /// How long a sync takes.
    pub(super) sync_delay: Duration,
    /// The power is off, until what was not synced is forgotten.
    is_off: bool,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Served {
    pub(super) fn new(tree: Tree) -> Self {
        let (listings, next_listing) = (BTreeMap::new(), 0);
        Self { tree, asked: Asked::default(), listings, next_listing, sync_delay: Duration::ZERO, is_off: false }
    }

    pub(super) fn forget(&mut self, luck: Option<&mut Random>) -> io::Result<Lost> {
        let lost = self.tree.forget(luck)?;
        self.asked.forgotten += 1;
        self.listings.clear();
        self.is_off = false;
        Ok(lost)
    }

    pub(super) fn unsynced(&self) -> (u64, u64) {
        (self.tree.bytes(), self.tree.changes())
    }

    /// Handles stand for the time between two losses of power.
    fn check(&self, handle: FileHandle) -> io::Result<()> {
        let is_of_now = handle.0 == self.asked.forgotten && !self.is_off;
        if is_of_now { Ok(()) } else { Err(rustix::io::Errno::IO.into()) }
    }

    fn handle(&self) -> FileHandle {
        FileHandle(self.asked.forgotten)
    }

    fn attributes(&self, node: u64) -> io::Result<FileAttr> {
        Ok(attributes(node, &self.tree.stat(node)?))
    }

    fn resize(&mut self, node: u64, length: u64) -> io::Result<()> {
        self.tree.resize(node, length)
    }

    fn reserve(&mut self, node: u64, at: u64, length: u64, mode: i32) -> io::Result<()> {
        let file = self.tree.file(node)?;
        let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let end = at.checked_add(length).ok_or(rustix::io::Errno::FBIG)?;
        if flags != FallocateFlags::KEEP_SIZE && !flags.is_empty() {
            return Err(rustix::io::Errno::OPNOTSUPP.into());
        }
        fallocate(&file, FallocateFlags::KEEP_SIZE, at, length)?;
        if flags.is_empty() && file.metadata()?.len() < end {
            self.resize(node, end)?;
        }
        Ok(())
    }

    fn write(&mut self, node: u64, at: u64, bytes: &[u8], flags: OpenFlags) -> io::Result<u32> {
        self.asked.writes += 1;
        let file = self.tree.before_write(node, at, bytes.len() as u64)?;
        file.write_all_at(bytes, at)?;
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        self.tree.after_write(node, flags.intersects(OFlags::SYNC | OFlags::DSYNC))?;
        Ok(bytes.len() as u32)
    }
}

/// The same, held by the kernel's side and by the harness.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<(Mutex<Served>, Condvar)>);

impl Shared {
    pub(super) fn new(tree: Tree) -> Self {
        Self(Arc::new((Mutex::new(Served::new(tree)), Condvar::new())))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Served> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes, also for syncs that are under way.
    pub(super) fn cut(&self) {
        self.lock().is_off = true;
        self.0.1.notify_all();
    }

    /// After so long as a sync takes, or when the power goes.
    fn lock_for_sync(&self) -> MutexGuard<'_, Served> {
        let served = self.lock();
        let delay = served.sync_delay;
        let waited = self.0.1.wait_timeout_while(served, delay, |served| !served.is_off);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn entry(&self, look: impl FnOnce(&mut Tree) -> io::Result<u64>, reply: ReplyEntry) {
        let mut served = self.lock();
        match look(&mut served.tree).and_then(|node| served.attributes(node)) {
            Ok(attributes) => reply.entry(&NOT_AT_ALL, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn empty(&self, work: impl FnOnce(&mut Served) -> io::Result<()>, reply: ReplyEmpty) {
        tell(work(&mut self.lock()), reply);
    }
}

impl Filesystem for Shared {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(|tree| tree.look_up(parent.0, name), reply);
    }

    fn forget(&self, _: &Request, node: INodeNo, times: u64) {
        self.lock().tree.let_go(node.0, times);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.lock().attributes(node.0);
        match found {
            Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut served = self.lock();
        let work = |served: &mut Served| {
            if let Some(mode) = mode {
                let mode = Mode::from_raw_mode(mode & 0o7777);
                match served.tree.object(node.0)? {
                    Object::Directory(directory) => fchmod(directory, mode)?,
                    Object::File(file) => fchmod(file, mode)?,
                }
            }
            size.map_or(Ok(()), |size| served.resize(node.0, size))?;
            served.attributes(node.0)
        };
        match work(&mut served) {
            Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.entry(|tree| tree.make(parent.0, name, mode & !umask, true), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(|served| served.tree.remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(|served| served.tree.remove(parent.0, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if parent != new_parent {
            return reply.error(Errno::EXDEV);
        }
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let may_replace = flags.is_empty();
        self.empty(|served| served.tree.rename(parent.0, name, new_name, may_replace), reply);
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let served = self.lock();
        match served.tree.file(node.0) {
            Ok(_) => reply.opened(served.handle(), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let mut served = self.lock();
        let made = served.tree.make(parent.0, name, mode & !umask, false).and_then(|node| served.attributes(node));
        match made {
            Ok(attributes) => {
                reply.created(&NOT_AT_ALL, &attributes, Generation(0), served.handle(), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let served = self.lock();
        let mut bytes = vec![0; size as usize];
        match served.check(handle).and_then(|()| read_at(&*served.tree.file(node.0)?, &mut bytes, offset)) {
            Ok(read) => reply.data(&bytes[..read]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut served = self.lock();
        match served.check(handle).and_then(|()| served.write(node.0, offset, data, flags)) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut served = self.lock_for_sync();
        let work = |served: &mut Served| {
            served.check(handle)?;
            served.asked.syncs += 1;
            served.tree.sync_file(node.0)
        };
        tell(work(&mut served), reply);
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut served = self.lock();
        match served.tree.directory(node.0).and_then(|directory| entries(&directory)) {
            Ok(found) => {
                let kinds = found.into_iter().map(|(name, kind)| (name, kind_of(kind)));
                let listing = [".", ".."].map(|name| (OsString::from(name), FileType::Directory));
                let number = served.next_listing;
                served.next_listing += 1;
                served.listings.insert(number, Arc::new(listing.into_iter().chain(kinds).collect()));
                reply.opened(FileHandle(number), FopenFlags::empty());
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = self.lock().listings.get(&handle.0).cloned();
        let Some(listing) = listing else { return reply.error(Errno::EIO) };
        for (number, (name, kind)) in (1_u64..).zip(listing.iter()).skip(offset as usize) {
            if reply.add(UNKNOWN, number, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.lock().listings.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut served = self.lock_for_sync();
        let work = |served: &mut Served| {
            if served.is_off || !served.listings.contains_key(&handle.0) {
                return Err(rustix::io::Errno::IO.into());
            }
            served.asked.directory_syncs += 1;
            served.tree.sync_directory(node.0)
        };
        tell(work(&mut served), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let found = self.lock().tree.directory(super::tree::ROOT).and_then(|root| Ok(fstatvfs(root)?));
        match found {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                stat.f_bsize as u32,
                stat.f_namemax as u32,
                stat.f_frsize as u32,
            ),
            Err(error) => reply.error(error.into()),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        told: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let mut served = self.lock();
        let writes_through = served.tree.writes_through(node.0);
        match (command, told.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))) {
            (GET_FLAGS, _) => {
                let flags = if writes_through { WRITES_THROUGH } else { 0 };
                reply.ioctl(0, &flags.to_ne_bytes());
            }
            (GET_MORE_FLAGS, _) => {
                let flags = if writes_through { WRITES_THROUGH_TOO } else { 0 };
                let mut more = [0; MORE_FLAGS];
                more[..4].copy_from_slice(&flags.to_ne_bytes());
                reply.ioctl(0, &more);
            }
            (SET_FLAGS, Some(flags)) if flags & !WRITES_THROUGH == 0 => {
                served.tree.set_writes_through(node.0, flags & WRITES_THROUGH != 0);
                reply.ioctl(0, &[]);
            }
            _ => reply.error(Errno::ENOTTY),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = |served: &mut Served| {
            served.check(handle)?;
            served.reserve(node.0, offset, length, mode)
        };
        self.empty(work, reply);
    }
}

fn tell(done: io::Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn read_at(file: &std::fs::File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

fn kind_of(kind: rustix::fs::FileType) -> FileType {
    if kind.is_dir() { FileType::Directory } else { FileType::RegularFile }
}

fn attributes(node: u64, stat: &Stat) -> FileAttr {
    let time = |seconds: i64, nanos: u64| UNIX_EPOCH + Duration::new(seconds.max(0).cast_unsigned(), nanos as u32);
    FileAttr {
        ino: INodeNo(node),
        size: stat.st_size.max(0).cast_unsigned(),
        blocks: stat.st_blocks.max(0).cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind_of(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
