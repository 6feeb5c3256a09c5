//! The clocks of a cluster's stores, each its own: their pace, if the program is built with the feature `torture`, and the time
//! of day that they show, if libfaketime is installed.
//!
//! Both are orders in a file that the store's process looks at again and again; it says in its log when it follows one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::trouble::{Outcome, While};

/// What turns stores' clocks.
#[derive(Debug)]
pub struct Clocks {
    dir: PathBuf,
    can_drift: bool,
    /// The library that shows a program another time of day.
    library: Option<PathBuf>,
}

impl Clocks {
    /// Clocks that go right so far, whose orders lie in this directory. They drift only if the program can follow that.
    #[must_use]
    pub fn new(dir: &Path, can_drift: bool) -> Self {
        Self { dir: dir.to_owned(), can_drift, library: library() }
    }

    /// Whether stores' clocks can run fast and slow.
    #[must_use]
    pub fn can_drift(&self) -> bool {
        self.can_drift
    }

    /// Whether the time of day can be set.
    #[must_use]
    pub fn can_jump(&self) -> bool {
        self.library.is_some()
    }

    /// From now on a store's clock runs so many millionths faster.
    ///
    /// # Errors
    /// The order cannot be written.
    pub fn set_pace(&self, store: u64, ppm: i64) -> Outcome<()> {
        self.order("pace", store, &ppm.to_string())
    }

    /// What it was told last.
    #[must_use]
    pub fn pace(&self, store: u64) -> i64 {
        let told = fs::read_to_string(self.file("pace", store)).ok();
        told.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// From now on a store takes the time of day to be so many seconds later.
    ///
    /// # Errors
    /// The order cannot be written.
    pub fn set_day(&self, store: u64, seconds: i64) -> Outcome<()> {
        self.order("day", store, &format!("{seconds:+}"))
    }

    /// The library to be loaded before all others, if there is one.
    #[must_use]
    pub fn preload(&self) -> Option<&Path> {
        self.library.as_deref()
    }

    /// What a store's process finds in its environment, beside [`Clocks::preload`]. Orders outlive it.
    ///
    /// # Errors
    /// The first order cannot be written.
    pub fn environment(&self, store: u64) -> Outcome<Vec<(&'static str, OsString)>> {
        let mut variables = Vec::new();
        if self.can_drift {
            variables.push(("MULTIRAFT_TORTURE_CLOCK", self.file("pace", store).into()));
        }
        if self.library.is_some() {
            if !self.file("day", store).exists() {
                self.set_day(store, 0)?;
            }
            variables.extend([
                ("FAKETIME_TIMESTAMP_FILE", self.file("day", store).into()),
                ("FAKETIME_CACHE_DURATION", "1".into()),
                // Waits are counted on the monotonic clock, and end by the kernel's.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("NO_FAKE_STAT", "1".into()),
            ]);
        }
        Ok(variables)
    }

    fn file(&self, what: &str, store: u64) -> PathBuf {
        self.dir.join(format!("{what}-{store}"))
    }

    /// Replaces the orders at once: who reads sees the old ones or the new ones.
    fn order(&self, what: &str, store: u64, text: &str) -> Outcome<()> {
        let (file, new) = (self.file(what, store), self.dir.join(format!("{what}-{store}.new")));
        let trying = || format!("telling the clock of store {store}");
        fs::write(&new, format!("{text}\n")).trying(trying)?;
        fs::rename(new, file).trying(trying)
    }
}

/// A turn of its clock's pace, as a store's log tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The new pace, in millionths faster.
    pub ppm: i64,
    /// By how much the clock was off then, in microseconds.
    pub off_us: i64,
}

/// Each turn of its clock's pace that a store tells of in its log.
#[must_use]
pub fn turns_of(log: &str) -> Vec<Turn> {
    let number = |line: &str, name: &str| -> Option<i64> {
        let (_, rest) = line.split_once(name)?;
        rest.split(' ').next()?.trim().parse().ok()
    };
    let lines = log.lines().filter(|line| line.contains("the clock runs otherwise from now on"));
    let turn = |line: &str| {
        let off_us = number(line, " own_us=")? - number(line, " machine_us=")?;
        Some(Turn { ppm: number(line, " ppm=")?, off_us })
    };
    lines.filter_map(turn).collect()
}

/// Removes what libfaketime leaves of a process that was killed.
pub fn clean_up_after(pid: u32) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_found_in_what_a_store_says() {
        let said = "2026-11-30T22:39:11.256581Z  WARN multiraft_router::clock::torture: the clock runs otherwise from now on \
                    ppm=-9900 own_us=5000 machine_us=7000\n\
                    2027-02-01T08:00:00.000000Z  WARN multiraft: another\nand its second line\n";
        assert_eq!(turns_of(said), [Turn { ppm: -9900, off_us: -2000 }]);
        assert_eq!(turns_of("the clock runs otherwise from now on ppm=x"), []);
    }
}
