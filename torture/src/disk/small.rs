//! A small disk for a store's data directory, which can be filled to the brim: a file system in memory.
//!
//! What fills it is a file beside the store's, so everything the system says of the disk is true: how large it is, how much is free,
//! and that a write finds no space.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::cleanup::{self, Guard};
use crate::trouble::{Outcome, Trouble, While};

/// The file that takes the space.
const BALLAST: &str = "BALLAST";
/// What is written at a time; at last single bytes of the last page are tried.
const STEPS: [usize; 3] = [1 << 20, 1 << 12, 1];

/// A mounted disk. It goes with this value, and with what it holds.
#[derive(Debug)]
pub struct Small {
    path: PathBuf,
    full: Mutex<Option<Fullness>>,
    _guard: Guard,
}

/// A disk that has been filled.
#[derive(Clone, Copy, Debug)]
struct Fullness {
    since: Instant,
    refused: u64,
    ballast: u64,
}

/// How a disk was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WasFull {
    /// From the first write that found no space until space was given back.
    pub lasted: Duration,
    /// So often a write found no space, and the system said that nothing was free: at least once, and once for each [`Small::fill`].
    pub refused: u64,
    /// What took the space.
    pub ballast: u64,
    /// What was free just before space was given back: something, if the store has removed files.
    pub free_before: u64,
    /// What is free now.
    pub free_after: u64,
}

impl Small {
    /// Mounts a disk of so many bytes, of memory, at a directory that is made if need be.
    ///
    /// A store that runs in namespaces of its own must be started afterwards, to see it.
    ///
    /// # Errors
    /// The machine does not let this process mount, with the reason: then [`super::shim::Order::full`] is what is left.
    pub fn mount(at: &Path, bytes: u64) -> Outcome<Self> {
        fs::create_dir_all(at).trying(|| format!("making {}", at.display()))?;
        let path = at.canonicalize().trying(|| format!("finding {}", at.display()))?;
        let mounted = path.clone();
        let _making = cleanup::making();
        let guard = cleanup::at_end(move || {
            // Nothing is mounted there if mounting failed.
            let _ = unmount(mounted, UnmountFlags::DETACH);
        })?;
        let options =
            std::ffi::CString::new(format!("size={bytes},mode=0700")).trying(|| "naming a size".to_owned())?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        mount("small", &path, "tmpfs", flags, options.as_c_str()).map_err(|errno| {
            let hint = if rustix::process::geteuid().is_root() {
                "a container needs the capability SYS_ADMIN"
            } else {
                "only root may mount: run this as root"
            };
            Trouble::new(format!("mounting a disk in memory at {}: {errno}; {hint}", path.display()))
        })?;
        Ok(Self { path, full: Mutex::default(), _guard: guard })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is free for whoever writes.
    ///
    /// # Errors
    /// The system does not say.
    pub fn free(&self) -> Outcome<u64> {
        let stat = statvfs(&self.path).trying(|| format!("asking for the free space of {}", self.path.display()))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills it until a write finds no space and the system says that nothing is free. May be done again, when a store has made
    /// space by itself. Returns how large the ballast is.
    ///
    /// # Errors
    /// It does not become full: the ballast cannot be written, or somebody frees space as fast as it is taken.
    pub fn fill(&self) -> Outcome<u64> {
        let trying = || format!("filling {}", self.path.display());
        let mut full = self.lock();
        let ballast = OpenOptions::new().create(true).append(true).open(self.ballast()).trying(trying)?;
        // Somebody may free a little between two steps.
        for _ in 0..100 {
            for step in STEPS {
                write_until_refused(&ballast, step).trying(trying)?;
            }
            if self.free()? == 0 {
                let ballast = ballast.metadata().trying(trying)?.len();
                let refused = full.as_ref().map_or(0, |full| full.refused) + 1;
                let since = full.as_ref().map_or_else(Instant::now, |full| full.since);
                *full = Some(Fullness { since, refused, ballast });
                return Ok(ballast);
            }
        }
        Err(Trouble::new(format!("{} does not stay full: its store frees space all the time", self.path.display())))
    }

    /// Gives the space back. `None` if it was not full.
    ///
    /// # Errors
    /// The ballast cannot be removed.
    pub fn give_back(&self) -> Outcome<Option<WasFull>> {
        let Some(full) = self.lock().take() else { return Ok(None) };
        let free_before = self.free()?;
        fs::remove_file(self.ballast()).trying(|| format!("giving space of {} back", self.path.display()))?;
        let lasted = full.since.elapsed();
        let free_after = self.free()?;
        Ok(Some(WasFull { lasted, refused: full.refused, ballast: full.ballast, free_before, free_after }))
    }

    fn ballast(&self) -> PathBuf {
        self.path.join(BALLAST)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Fullness>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_until_refused(mut file: &File, step: usize) -> std::io::Result<()> {
    let bytes = vec![0x5a; step];
    loop {
        match file.write_all(&bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::print_stdout, reason = "whoever runs the tests wants to know what was left out")]
    fn a_small_disk_is_full_until_space_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let small = match Small::mount(&dir.path().join("disk"), 8 << 20) {
            Ok(small) => small,
            Err(trouble) => {
                println!("SKIPPED: {trouble}");
                return;
            }
        };
        let path = small.path().to_owned();
        assert_eq!(small.give_back().unwrap(), None);
        fs::write(path.join("mine"), [1; 100_000]).unwrap();
        assert!(small.fill().unwrap() > 7 << 20);
        assert_eq!(fs::write(path.join("more"), [1; 5_000]).unwrap_err().kind(), ErrorKind::StorageFull);
        fs::remove_file(path.join("mine")).unwrap();
        assert!(small.free().unwrap() > 0);
        let ballast = small.fill().unwrap();
        assert_eq!(small.free().unwrap(), 0);
        let was = small.give_back().unwrap().unwrap();
        assert_eq!((was.refused, was.ballast, was.free_before), (2, ballast, 0));
        assert!(was.free_after > 7 << 20);
        fs::write(path.join("more"), [1; 5_000]).unwrap();
        let is_mounted = || fs::read_to_string("/proc/self/mounts").unwrap().contains(path.to_str().unwrap());
        assert!(is_mounted());
        drop(small);
        assert!(!is_mounted());
    }
}
