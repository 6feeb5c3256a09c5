//! Disks that are slow, full, or fail to sync, for one process: a small library in C that is loaded in front of libc.
//!
//! It is compiled here, with the `cc` that Rust links with. It obeys a file of orders, in which it also counts what it did; both last
//! as long as the directory, not as long as the store. The layout of the file stands at the head of `shim.c`.
//!
//! Not seen are calls that do not go by way of libc: of a store `fallocate`, `flock` and `statvfs`. So with [`Order::full`] a store still
//! finds free space when it asks how much there is, and finds out by writing: as with a quota, not as on a full disk. Where it can
//! be had, [`super::small`] is the better full disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::Store;
use crate::trouble::{Outcome, Trouble, While};

const SOURCE: &str = include_str!("shim.c");
const MAGIC: &[u8; 8] = b"MRDISK01";
const LENGTH: usize = 4096;
const ON: u64 = 8;
const SYNC_FAILS: u64 = 16;
const SYNCS_SEEN: u64 = 64;
const DIRECTORY: u64 = 1024;
const DIRECTORY_MAX: usize = 3071;
/// What is counted, in the order of the file.
const COUNTERS: [&str; 7] =
    ["syncs", "syncs_failed", "syncs_delayed", "writes", "writes_delayed", "writes_refused", "reservations_refused"];

/// What a process finds in its environment.
pub type Environment = Vec<(&'static str, OsString)>;

/// Which syncs fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFails {
    /// All from now on.
    All,
    /// The one after so many others, once.
    After(u64),
    /// The one after so many others, and all behind it.
    FromAfter(u64),
}

/// What goes wrong from now on, below one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Syncs answer EIO, and are not carried out. Below a store's `log` that ends it, and it can be started again; below its `state`
    /// it may mark that as failed, and then has to begin anew with an empty directory.
    pub sync_fails: Option<SyncFails>,
    /// Each sync takes so much longer.
    pub sync_delay: Duration,
    /// Each write takes so much longer.
    pub write_delay: Duration,
    /// Writes answer ENOSPC, and are not carried out.
    pub full: bool,
}

/// The library, and the orders of a cluster's stores.
#[derive(Clone, Debug)]
pub struct Shim {
    dir: PathBuf,
    library: PathBuf,
}

impl Shim {
    /// Compiles the library into a directory, which is made if need be.
    ///
    /// # Errors
    /// There is no C compiler, or it says why not.
    pub fn build(dir: &Path) -> Outcome<Self> {
        fs::create_dir_all(dir).trying(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize().trying(|| format!("finding {}", dir.display()))?;
        let (source, library) = (dir.join("shim.c"), dir.join("disk-shim.so"));
        fs::write(&source, SOURCE).trying(|| format!("writing {}", source.display()))?;
        let mut command = Command::new("cc");
        command.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = command.output().trying(|| "running cc (install a C compiler)".to_owned())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Trouble::new(format!("compiling {}: {said}", source.display())));
        }
        Ok(Self { dir, library })
    }

    /// What a store's process must find in its environment: the library, which may stand in `LD_PRELOAD` beside others, before
    /// or behind, and where its orders are. There are none until some are given.
    ///
    /// # Errors
    /// The file for the orders cannot be made.
    pub fn environment(&self, store: u64) -> Outcome<Environment> {
        self.orders(store)?;
        Ok(vec![("LD_PRELOAD", self.library.clone().into()), ("MULTIRAFT_DISK_SHIM", self.file(store).into())])
    }

    /// The store's process finds it there, beside what else is to be loaded before.
    ///
    /// # Errors
    /// As before.
    pub fn lie_under(&self, store: &mut Store) -> Outcome<()> {
        for (name, value) in self.environment(store.place.store)? {
            if name == "LD_PRELOAD" {
                store.preload.push(value.into());
            } else {
                store.environment.insert(name.into(), value);
            }
        }
        Ok(())
    }

    /// From now on this goes wrong with what a store's process does below a directory, and nothing else.
    ///
    /// # Errors
    /// The file of orders cannot be written, or the directory is not there.
    pub fn order(&self, store: u64, below: &Path, order: &Order) -> Outcome<()> {
        let below = below.canonicalize().trying(|| format!("finding {}", below.display()))?;
        let directory = below.as_os_str().as_bytes();
        if directory.len() > DIRECTORY_MAX {
            return Err(Trouble::new(format!("{} is too long a path for orders", below.display())));
        }
        let file = self.orders(store)?;
        let trying = || format!("ordering what goes wrong with the disk of store {store}");
        put(&file, ON, 0).trying(trying)?;
        file.write_all_at(&[directory, &[0]].concat(), DIRECTORY).trying(trying)?;
        // Nobody counts while it is off.
        let next = number(&file, SYNCS_SEEN).trying(trying)? + 1;
        let (from, once) = match order.sync_fails {
            None => (0, 0),
            Some(SyncFails::All) => (next, 0),
            Some(SyncFails::After(others)) => (next + others, 1),
            Some(SyncFails::FromAfter(others)) => (next + others, 0),
        };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let words = [from, once, ms(order.sync_delay), ms(order.write_delay), u64::from(order.full)];
        for (word, at) in words.into_iter().zip((SYNC_FAILS..).step_by(8)) {
            put(&file, at, word).trying(trying)?;
        }
        put(&file, ON, 1).trying(trying)
    }

    /// Nothing goes wrong any more with a store's disk.
    ///
    /// # Errors
    /// The file of orders cannot be written.
    pub fn heal(&self, store: u64) -> Outcome<()> {
        put(&self.orders(store)?, ON, 0).trying(|| format!("healing the disk of store {store}"))
    }

    /// What went by while there were orders, and what went wrong, over all of a store's lives: `syncs`, `syncs_failed`,
    /// `syncs_delayed`, `writes`, `writes_delayed`, `writes_refused`, `reservations_refused`.
    ///
    /// # Errors
    /// The file of orders cannot be read.
    pub fn hits(&self, store: u64) -> Outcome<BTreeMap<String, u64>> {
        let file = self.orders(store)?;
        let count = |(name, at): (&str, u64)| Ok((name.to_owned(), number(&file, at)?));
        let counts = COUNTERS.into_iter().zip((SYNCS_SEEN..).step_by(8)).map(count);
        counts
            .collect::<std::io::Result<_>>()
            .trying(|| format!("reading what went wrong with the disk of store {store}"))
    }

    /// Some of these, together.
    ///
    /// # Errors
    /// As before.
    pub fn hits_of(&self, store: u64, counters: &[&str]) -> Outcome<u64> {
        let hits = self.hits(store)?;
        Ok(counters.iter().map(|counter| hits.get(*counter).copied().unwrap_or(0)).sum())
    }

    fn file(&self, store: u64) -> PathBuf {
        self.dir.join(format!("disk-{store}"))
    }

    /// The orders of a store: none, when it is asked for them first.
    fn orders(&self, store: u64) -> Outcome<File> {
        let path = self.file(store);
        let trying = || format!("opening {}", path.display());
        if !path.exists() {
            let mut empty = vec![0; LENGTH];
            empty[..MAGIC.len()].copy_from_slice(MAGIC);
            fs::write(&path, empty).trying(trying)?;
        }
        OpenOptions::new().read(true).write(true).open(&path).trying(trying)
    }
}

fn put(file: &File, at: u64, word: u64) -> std::io::Result<()> {
    file.write_all_at(&word.to_ne_bytes(), at)
}

fn number(file: &File, at: u64) -> std::io::Result<u64> {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, at)?;
    Ok(u64::from_ne_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs dd, which writes some blocks and syncs, with the library; whether it went well, and what it said.
    fn dd(shim: &Shim, to: &Path) -> (bool, String) {
        let mut command = Command::new("dd");
        command.envs(shim.environment(1).unwrap()).env("LC_ALL", "C");
        command.args(["if=/dev/zero", "bs=4096", "count=3", "conv=notrunc,fsync"]);
        let output = command.arg(format!("of={}", to.display())).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    #[test]
    fn orders_are_obeyed_below_their_directory_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let shim = Shim::build(&dir.path().join("shim")).unwrap();
        let (inside, outside) = (dir.path().join("store"), dir.path().join("store-2"));
        [&inside, &outside].into_iter().for_each(|path| fs::create_dir(path).unwrap());
        let hit = |name: &str| shim.hits(1).unwrap()[name];
        assert!(dd(&shim, &inside.join("a")).0);
        assert_eq!(hit("writes"), 0, "nothing is looked at without orders");

        let fails = Order { sync_fails: Some(SyncFails::After(1)), ..Order::default() };
        shim.order(1, &inside, &fails).unwrap();
        assert!(dd(&shim, &outside.join("a")).0);
        assert!(dd(&shim, &inside.join("a")).0);
        let (well, said) = dd(&shim, &inside.join("a"));
        assert!(!well && said.contains("Input/output error"), "{said}");
        assert!(dd(&shim, &inside.join("a")).0);
        assert_eq!((hit("syncs"), hit("syncs_failed"), hit("writes")), (3, 1, 9));

        shim.order(1, &inside, &Order { full: true, ..Order::default() }).unwrap();
        let (well, said) = dd(&shim, &inside.join("b"));
        assert!(!well && said.contains("No space left on device"), "{said}");
        assert_eq!(hit("writes_refused"), 1);
        assert_eq!(fs::metadata(inside.join("b")).unwrap().len(), 0);

        let late = Duration::from_millis(100);
        shim.order(1, &inside, &Order { sync_delay: late, write_delay: late, ..Order::default() }).unwrap();
        let begun = std::time::Instant::now();
        assert!(dd(&shim, &inside.join("b")).0);
        assert!(begun.elapsed() >= late * 4);
        assert_eq!((hit("syncs_delayed"), hit("writes_delayed")), (1, 3));

        shim.order(1, &inside, &Order { sync_fails: Some(SyncFails::All), ..Order::default() }).unwrap();
        assert!(!dd(&shim, &inside.join("b")).0 && !dd(&shim, &inside.join("b")).0);
        assert_eq!(hit("syncs_failed"), 3);
        let syncs = hit("syncs");
        shim.heal(1).unwrap();
        assert!(dd(&shim, &inside.join("b")).0);
        assert_eq!(hit("syncs"), syncs);
    }
}
