//! A disk in memory that can fail as real ones do, from a seed.
//!
//! It keeps apart what a power cut can lose: pages written since their file's last sync, and names changed since the last
//! sync of the directory. [`SimDisk::crash`] keeps any mixture of the lost sectors, tears the last write, and undoes any
//! suffix of the directory's changes. Faults are armed by the caller: no room, failing syncs, a power cut after a number
//! of operations, flipped bits. Deterministic: no clock, no randomness but the given seeds.
//!
//! Clones share the disk; [`SimDisk::fork`] copies it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::sim_pages::{Dice, Inode, PAGE};
use super::{Disk, DiskFile};

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashStyle {
    /// Everything unsynced is there all the same, as after `kill -9`: only the process died. It is still not durable: the
    /// next crash may lose it.
    KeepAll,
    /// Nothing unsynced is there.
    LoseAll,
    /// Each unsynced sector is there or not, one of them perhaps torn; so are the directory's changes, in order.
    Mix,
}

/// A simulated disk. See the module.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    nonce: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    /// The names as of the last sync of the directory.
    durable_names: BTreeMap<String, u64>,
    /// What changed since.
    name_ops: Vec<NameOp>,
    next_inode: u64,
    /// Grows at each crash: handles of an earlier life are dead.
    life: u64,
    capacity: Option<u64>,
    /// How many more mutating operations succeed before the power is cut.
    power_ops: Option<u64>,
    /// How many more syncs succeed before one fails.
    sync_fails_in: Option<u64>,
    ops: u64,
    syncs: u64,
}

#[derive(Clone, Debug)]
enum NameOp {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl SimDisk {
    /// An empty disk. The seed becomes its [`Disk::nonce`]. Where it is even, [`DiskFile::append_at`] leaves zeros behind what it writes, up
    /// to the end of a page; else what was there.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { nonce: seed, ..State::default() })) }
    }

    /// A copy that goes its own way, unsynced writes and armed faults included. Open handles stay with the original.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// The power goes and comes back: what was not synced is treated as `style` says, `seed` deciding; all handles are
    /// dead, all armed faults but the capacity are disarmed.
    pub fn crash(&self, style: CrashStyle, seed: u64) {
        let mut state = self.lock();
        let mut dice = Dice(seed ^ 0x9e37_79b9_7f4a_7c15);
        if style != CrashStyle::KeepAll {
            for inode in state.inodes.values_mut() {
                inode.crash(style, &mut dice);
            }
            let keep = if style == CrashStyle::Mix { dice.below(state.name_ops.len() as u64 + 1) } else { 0 };
            let mut names = std::mem::take(&mut state.durable_names);
            for op in std::mem::take(&mut state.name_ops).into_iter().take(keep as usize) {
                op.apply(&mut names);
            }
            state.durable_names = names.clone();
            state.names = names;
            state.drop_unnamed();
        }
        state.life += 1;
        state.power_ops = None;
        state.sync_fails_in = None;
    }

    /// How many bytes files may have in all; growing beyond answers "no space". `None` lifts the bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Lets `count` more mutating operations (create, write, preallocate, sync, rename, remove) succeed; then the power is
    /// cut: every later operation fails until [`SimDisk::crash`].
    pub fn cut_power_after(&self, count: u64) {
        self.lock().power_ops = Some(count);
    }

    /// Lets `count` more syncs succeed; the one after fails, once. As on real systems, the pages it should have made durable
    /// then pass for clean: reads see them, later syncs leave them out, the next crash may lose them, unless they are
    /// written again.
    pub fn fail_sync_after(&self, count: u64) {
        self.lock().sync_fails_in = Some(count);
    }

    /// How many mutating operations there were since the disk was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().ops
    }

    /// How many syncs there were since the disk was made.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// What all files have allocated, in bytes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// The whole content of a file, if there is one of that name.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let inode = &state.inodes[state.names.get(name)?];
        let mut all = vec![0; inode.len as usize];
        inode.read(&mut all, 0);
        Some(all)
    }

    /// Puts a file there, durably, replacing one of that name: for images made elsewhere.
    pub fn install(&self, name: &str, content: &[u8]) {
        let mut state = self.lock();
        let number = state.new_inode();
        let mut inode = Inode::default();
        inode.resize(content.len() as u64);
        inode.write(content, 0);
        inode.settle();
        state.inodes.insert(number, inode);
        state.names.insert(name.to_owned(), number);
        state.durable_names.insert(name.to_owned(), number);
        state.drop_unnamed();
    }

    /// Flips bits of a byte, durably: what a failing medium does. Answers whether there is such a byte.
    pub fn corrupt(&self, name: &str, offset: u64, flip: u8) -> bool {
        let mut state = self.lock();
        let Some(number) = state.names.get(name).copied() else { return false };
        let Some(inode) = state.inodes.get_mut(&number).filter(|inode| offset < inode.len) else { return false };
        let mut byte = [0];
        inode.read(&mut byte, offset);
        let page = offset as usize / PAGE;
        let was_clean = !inode.before.contains_key(&page);
        inode.write(&[byte[0] ^ flip], offset);
        if was_clean {
            inode.before.remove(&page);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "SimDisk({} files, {} bytes, {} operations)", state.names.len(), state.used(), state.ops)
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.mutate()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.new_inode();
        state.inodes.insert(number, Inode::default());
        state.change_name(NameOp::Create(name.to_owned(), number));
        Ok(Arc::new(SimFile { disk: self.clone(), inode: number, life: state.life }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock();
        state.powered()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, life: state.life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.mutate()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameOp::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.mutate()?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameOp::Remove(name.to_owned()));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.lock();
        state.powered()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.mutate()?;
        state.sync()?;
        state.durable_names = state.names.clone();
        state.name_ops.clear();
        state.drop_unnamed();
        Ok(())
    }

    fn nonce(&self) -> u64 {
        self.lock().nonce
    }

    fn describe(&self, name: &str) -> String {
        format!("sim:{name}")
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    life: u64,
}

impl SimFile {
    /// Runs `step` on the file, if this handle's life still lasts.
    fn with<T>(&self, mutates: bool, step: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.life != self.life || !state.inodes.contains_key(&self.inode) {
            return Err(io::Error::other("the handle is from before a crash"));
        }
        if mutates {
            state.mutate()?;
        } else {
            state.powered()?;
        }
        step(&mut state, self.inode)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(false, |state, number| {
            let inode = &state.inodes[&number];
            if offset + into.len() as u64 > inode.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            inode.read(into, offset);
            Ok(())
        })
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.with(true, |state, number| {
            state.grow(number, offset + from.len() as u64)?;
            state.inode(number).write(from, offset);
            Ok(())
        })
    }

    fn append_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.with(true, |state, number| {
            let end = offset + from.len() as u64;
            state.grow(number, end)?;
            let writes_pages = state.nonce.is_multiple_of(2);
            let inode = state.inode(number);
            if writes_pages {
                let behind = end.next_multiple_of(PAGE as u64).min(inode.len) - end;
                inode.write(&[0; PAGE][..behind as usize], end);
            }
            inode.write(from, offset);
            Ok(())
        })
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.with(true, |state, number| {
            state.grow(number, len)?;
            state.sync()?;
            state.inode(number).settle();
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(true, |state, number| {
            if let Err(error) = state.sync() {
                state.inode(number).forsake();
                return Err(error);
            }
            state.inode(number).settle();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(false, |state, number| Ok(state.inodes[&number].len))
    }
}

impl State {
    fn powered(&self) -> io::Result<()> {
        if self.power_ops == Some(0) { Err(io::Error::other("the power is cut")) } else { Ok(()) }
    }

    fn mutate(&mut self) -> io::Result<()> {
        self.powered()?;
        if let Some(left) = &mut self.power_ops {
            *left -= 1;
        }
        self.ops += 1;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        match &mut self.sync_fails_in {
            Some(0) => {
                self.sync_fails_in = None;
                Err(io::Error::other("injected: sync failed"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).expect("handles name inodes that are there")
    }

    fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    fn used(&self) -> u64 {
        self.names.values().map(|number| self.inodes[number].len).sum()
    }

    fn grow(&mut self, number: u64, len: u64) -> io::Result<()> {
        let now = self.inodes[&number].len;
        if len <= now {
            return Ok(());
        }
        if self.capacity.is_some_and(|capacity| self.used() + (len - now) > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inode(number).resize(len);
        Ok(())
    }

    fn change_name(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.name_ops.push(op);
    }

    /// Forgets files that no name leads to, now or after a crash. An open handle to such a file goes dead.
    fn drop_unnamed(&mut self) {
        let mut created = Vec::new();
        for op in &self.name_ops {
            if let NameOp::Create(_, number) = op {
                created.push(*number);
            }
        }
        let (names, durable) = (&self.names, &self.durable_names);
        if self.inodes.len() > names.len() {
            let named: std::collections::BTreeSet<u64> =
                names.values().chain(durable.values()).chain(&created).copied().collect();
            self.inodes.retain(|number, _| named.contains(number));
        }
    }
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, number) => {
                names.insert(name.clone(), *number);
            }
            Self::Rename(from, to) => {
                if let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &SimDisk) -> Arc<dyn DiskFile> {
        let file = disk.create("f").unwrap();
        file.preallocate(16 << 10).unwrap();
        disk.sync_dir().unwrap();
        file.write_at(&[1; 6000], 100).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[2; 3000], 3000).unwrap();
        file
    }

    #[test]
    fn a_crash_loses_what_was_not_synced_and_keeps_what_was() {
        let disk = SimDisk::new(1);
        let file = written(&disk);
        let twin = disk.fork();
        disk.crash(CrashStyle::LoseAll, 0);
        assert!(file.len().is_err(), "handles die with the power");
        let content = disk.content("f").unwrap();
        assert!(content[100..6100].iter().all(|byte| *byte == 1));
        twin.crash(CrashStyle::KeepAll, 0);
        assert!(twin.content("f").unwrap()[3000..6000].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn a_mixed_crash_never_touches_synced_bytes_beside_the_write() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..50 {
            let disk = SimDisk::new(1);
            written(&disk);
            disk.crash(CrashStyle::Mix, seed);
            let content = disk.content("f").unwrap();
            assert!(content[100..3000].iter().chain(&content[6000..6100]).all(|byte| *byte == 1));
            kept += content.iter().filter(|byte| **byte == 2).count();
            lost += content[3000..6000].iter().filter(|byte| **byte == 1).count();
        }
        assert!(kept > 0 && lost > 0);
    }

    #[test]
    fn names_are_durable_after_a_sync_of_the_directory_only() {
        let disk = SimDisk::new(1);
        written(&disk);
        disk.rename("f", "g").unwrap();
        let twin = disk.fork();
        disk.crash(CrashStyle::LoseAll, 0);
        assert_eq!(disk.list().unwrap(), ["f"]);
        twin.sync_dir().unwrap();
        twin.crash(CrashStyle::LoseAll, 0);
        assert_eq!(twin.list().unwrap(), ["g"]);
    }

    #[test]
    fn a_full_disk_refuses_growth_but_not_overwriting() {
        let disk = SimDisk::new(1);
        let file = written(&disk);
        disk.set_capacity(Some(20 << 10));
        assert_eq!(disk.create("h").unwrap().preallocate(8192).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(&[3; 100], 0).unwrap();
    }

    #[test]
    fn the_power_goes_after_the_armed_count_and_a_failed_sync_loses() {
        let disk = SimDisk::new(1);
        let file = written(&disk);
        disk.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        disk.cut_power_after(1);
        file.write_at(&[4; 10], 12_000).unwrap();
        assert!(file.write_at(&[5; 10], 0).is_err());
        assert!(disk.list().is_err());
        disk.crash(CrashStyle::LoseAll, 0);
        assert_eq!(disk.content("f").unwrap()[3000], 1);
    }
}
