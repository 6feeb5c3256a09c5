//! The clocks of a cluster's stores, each its own: their pace, if the program is built with the feature `torture`, and the time
//! of day that they show, if libfaketime is installed.
//!
//! Both are orders in a file that the store's process looks at again and again.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// What turns a store's clocks.
pub(crate) struct Clocks {
    dir: PathBuf,
    /// The library that shows a program another time of day.
    library: Option<PathBuf>,
}

impl Clocks {
    /// Clocks that go right so far, whose orders lie in this directory.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), library: library() }
    }

    /// Whether the program under test knows a pace.
    pub(crate) fn can_drift(&self) -> bool {
        cfg!(feature = "torture")
    }

    /// Whether the time of day can be set.
    pub(crate) fn can_jump(&self) -> bool {
        self.library.is_some()
    }

    /// From now on a store's clock runs so many millionths faster.
    pub(crate) fn set_pace(&self, store: u64, ppm: i64) {
        self.order("pace", store, &ppm.to_string());
    }

    /// What it was told last.
    pub(crate) fn pace(&self, store: u64) -> i64 {
        fs::read_to_string(self.file("pace", store)).map_or(0, |text| text.trim().parse().unwrap())
    }

    /// From now on a store takes the time of day to be so many seconds later.
    pub(crate) fn set_day(&self, store: u64, seconds: i64) {
        self.order("day", store, &format!("{seconds:+}"));
    }

    /// What a store's process finds in its environment. Orders outlive it.
    pub(super) fn environment(&self, store: u64) -> Vec<(&'static str, OsString)> {
        let mut variables = Vec::new();
        if self.can_drift() {
            variables.push(("MULTIRAFT_TORTURE_CLOCK", self.file("pace", store).into()));
        }
        if let Some(library) = &self.library {
            if !self.file("day", store).exists() {
                self.set_day(store, 0);
            }
            variables.extend([
                ("LD_PRELOAD", library.into()),
                ("FAKETIME_TIMESTAMP_FILE", self.file("day", store).into()),
                ("FAKETIME_CACHE_DURATION", "1".into()),
                // Waits are counted on the monotonic clock, and end by the kernel's.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("NO_FAKE_STAT", "1".into()),
            ]);
        }
        variables
    }

    fn file(&self, what: &str, store: u64) -> PathBuf {
        self.dir.join(format!("{what}-{store}"))
    }

    /// Replaces the orders at once: who reads sees the old ones or the new ones.
    fn order(&self, what: &str, store: u64, text: &str) {
        let (file, new) = (self.file(what, store), self.dir.join(format!("{what}-{store}.new")));
        fs::write(&new, format!("{text}\n")).unwrap();
        fs::rename(new, file).unwrap();
    }
}

/// Removes what libfaketime leaves of a process that was killed.
pub(super) fn clean_up_after(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        // Most processes leave nothing.
        let _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

/// libfaketime, for programs with threads, where Debian and others install it.
fn library() -> Option<PathBuf> {
    let name = "faketime/libfaketimeMT.so.1";
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let triplets = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    places.into_iter().chain(triplets).map(|place| place.join(name)).find(|path| path.exists())
}
