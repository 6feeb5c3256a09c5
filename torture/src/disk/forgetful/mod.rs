//! A file system that forgets what was not synced, as a disk does when the power goes.
//!
//! ```text
//!  store ──▶ kernel ──▶ this process ──▶ a directory of a real disk
//!                       what undoes each write since the file's last sync,
//!                       each change of a directory since the directory's
//! ```
//!
//! Everything is carried out at once on files beneath; [`Forgetful::forget`] undoes what no fsync or fdatasync has made durable. So
//! a killed store's data stands, as with any file system, until the power goes as well. Nothing is really synced: what is durable
//! here outlives stores, not the machine.
//!
//! It is stricter than usual file systems: a new file's name, a rename, a removal are durable only after an fsync of their
//! directory, and a file's sync makes nothing else durable. `sync_file_range` makes nothing durable. Writes of files with
//! `O_SYNC`, `O_DSYNC` or the flag of `chattr +S` are durable when they return, with all that was written to that file before.
//!
//! Not covered: renames across directories (refused with EXDEV), links, extended attributes, holes, shared memory maps, modes,
//! owners and times (these change at once, for good). `sync`, `syncfs` and unmounting make nothing durable.

mod serve;
mod tree;
mod unsynced;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::{UnmountFlags, unmount};

use self::serve::Shared;
use self::tree::Tree;
use crate::cleanup::{self, Guard};
use crate::random::Random;
use crate::trouble::{Outcome, Trouble, While};

/// How many requests are answered at once: syncs may wait while others go on.
const THREADS: usize = 6;

/// What went with the power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// In so many files something was written, or they were cut, since their last sync.
    pub files: u64,
    /// So many bytes of them are gone.
    pub bytes: u64,
    /// So many stayed all the same.
    pub bytes_kept: u64,
    /// So many files and directories that were made, renamed or removed are not any more.
    pub changes: u64,
    /// So many are all the same.
    pub changes_kept: u64,
}

/// What has been asked of the file system so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Writes of any size.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub directory_syncs: u64,
    /// How often the power went.
    pub forgotten: u64,
}

/// A mounted file system. It goes with this value, and with this process.
#[derive(Debug)]
pub struct Forgetful {
    path: PathBuf,
    shared: Shared,
    // In this order: unmounted first.
    _guard: Guard,
    _session: BackgroundSession,
}

impl Forgetful {
    /// Mounts it at a directory, which is made if need be. What it holds lies in the directory `beneath`, on a real disk, and is all
    /// durable at first.
    ///
    /// A store that runs in namespaces of its own must be started afterwards, to see it.
    ///
    /// # Errors
    /// The machine does not let this process mount, with the reason; or a directory cannot be made.
    pub fn mount(at: &Path, beneath: &Path) -> Outcome<Self> {
        let (used, removed) = (beneath.join("used"), beneath.join("removed"));
        if removed.exists() {
            // Of an earlier life, which has ended without undoing anything.
            fs::remove_dir_all(&removed).trying(|| format!("emptying {}", removed.display()))?;
        }
        for directory in [at, &used, &removed] {
            fs::create_dir_all(directory).trying(|| format!("making {}", directory.display()))?;
        }
        let path = at.canonicalize().trying(|| format!("finding {}", at.display()))?;
        let tree = Tree::new(&used, &removed).trying(|| format!("opening {}", beneath.display()))?;
        let shared = Shared::new(tree);
        let mounted = path.clone();
        // Who has files open there keeps them until it ends.
        let _making = cleanup::making();
        let guard = cleanup::at_end(move || {
            // Nothing is mounted there if mounting failed.
            let _ = unmount(mounted, UnmountFlags::DETACH);
        })?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".to_owned()), MountOption::NoAtime];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(shared.clone(), &path, &config).map_err(|error| why_not(&path, &error))?;
        Ok(Self { path, shared, _guard: guard, _session: session })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on a sync takes so long, and is done at its end: as on a real disk, and so that power can go within one.
    pub fn slow_syncs(&self, delay: Duration) {
        self.shared.lock().sync_delay = delay;
    }

    /// The power goes: from now on until [`Self::forget`], writes and syncs answer EIO and do nothing, those that are under way
    /// among them.
    ///
    /// A process in the middle of a sync cannot be killed before that has ended, so power has to go first; and to hear of no errors
    /// a store has to stand still by then. The whole order is: SIGSTOP, this, SIGKILL, [`Self::forget`].
    pub fn cut_power(&self) {
        self.shared.cut();
    }

    /// All that was not synced is gone. With luck some of it stays: of each file any of the written sectors, of
    /// each directory some changes, the first of them, as drawn.
    ///
    /// Who has a file open gets an error (EIO, ESTALE) for it from then on: end the store first.
    ///
    /// # Errors
    /// The disk beneath fails. What the file system holds is undefined then.
    pub fn forget(&self, luck: Option<&mut Random>) -> Outcome<Lost> {
        self.shared.lock().forget(luck).trying(|| format!("forgetting what was not synced at {}", self.path.display()))
    }

    /// How many bytes, and how many changes of directories, would be gone now.
    #[must_use]
    pub fn unsynced(&self) -> (u64, u64) {
        self.shared.lock().unsynced()
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.shared.lock().asked
    }
}

fn why_not(path: &Path, error: &std::io::Error) -> Trouble {
    let device = Path::new("/dev/fuse");
    let hint = if !device.exists() {
        "there is no /dev/fuse: load the kernel's module `fuse`, or give the container the device"
    } else if !rustix::process::geteuid().is_root() {
        "only root may mount: run this as root"
    } else {
        "the kernel refuses: a container needs the capability SYS_ADMIN and the device /dev/fuse"
    };
    Trouble::new(format!("mounting a file system of our own at {}: {error}; {hint}", path.display()))
}

#[cfg(test)]
mod tests;
