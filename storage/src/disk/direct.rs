//! Writes that go past the system's page cache.
//!
//! What is appended to a log is read again by few, and soon, if at all. Through the page cache each page of it would first be found a place in
//! memory, filled, written to disk, and pushed out again, later, for the next one: more processor time than all else that a flush costs,
//! where memory that is not in use has gone back to a host. So appends bypass it (`O_DIRECT`, open(2)): whole pages, from memory that
//! begins at a page. Reads go through the cache all the same; the system sees to it that they find what was written.
//!
//! It is for files that are filled from front to back: the page that a write ends in is written again by the next, and what lies behind the
//! end in it becomes zeros. What cannot be written in this way (some file systems) is written through the cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Where direct writes begin and end, in the file and in memory. Nearly all devices want this or less.
pub(super) const PAGE: usize = 4096;
/// The most that goes to the system at a time.
const STEP: usize = 1 << 20;

/// How one file is appended to.
#[derive(Debug, Default)]
pub(super) struct Appender {
    /// The file, opened once more. Only while it is appended to: a log has many files, and appends to one.
    handle: Option<File>,
    /// It was tried in vain.
    is_refused: bool,
    /// How long the file is at least.
    length: u64,
    /// Where the last append ended, if nothing else was written since. What comes before that in its page is in `page`.
    end: Option<u64>,
    page: Vec<u8>,
    buffer: Vec<u8>,
}

impl Appender {
    /// Something else is written to the file, or nothing for a while.
    pub(super) fn rest(&mut self) {
        *self = Self { is_refused: self.is_refused, ..Self::default() };
    }

    /// Writes all of `from` at `offset`, and zeros behind it up to the end of a page.
    pub(super) fn append(&mut self, file: &File, from: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + from.len() as u64;
        if self.reaches(file, end.next_multiple_of(PAGE as u64))? && self.opens(file) {
            match self.write(file, from, offset) {
                Ok(()) => return Ok(()),
                Err(error) if is_refusal(&error) => self.is_refused = true,
                Err(error) => return Err(error),
            }
        }
        self.rest();
        file.write_all_at(from, offset)
    }

    /// Fills the file with zeros from `from`, the end of a page, to `to`, and calls `done` after each piece of at most `step` bytes.
    /// Answers how far that went: where it ends early, this file cannot be written to directly.
    pub(super) fn fill(
        &mut self,
        file: &File,
        (from, to): (u64, u64),
        step: usize,
        done: impl Fn() -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut at = from;
        if !from.is_multiple_of(PAGE as u64) || !to.is_multiple_of(PAGE as u64) || !self.opens(file) {
            return Ok(at);
        }
        let handle = self.handle.as_ref().expect("it has just been opened");
        let mut zeros = Vec::new();
        let zeros = aligned(&mut zeros, step.next_multiple_of(PAGE));
        while at < to {
            let piece = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
            match handle.write_all_at(&zeros[..piece], at) {
                Ok(()) => done()?,
                Err(error) if is_refusal(&error) => {
                    self.is_refused = true;
                    break;
                }
                Err(error) => return Err(error),
            }
            at += piece as u64;
        }
        self.rest();
        Ok(at)
    }

    fn reaches(&mut self, file: &File, end: u64) -> io::Result<bool> {
        if end > self.length {
            self.length = file.metadata()?.len();
        }
        Ok(end <= self.length)
    }

    fn opens(&mut self, file: &File) -> bool {
        if self.handle.is_none() && !self.is_refused {
            // By its number: its name may change while it is open.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let opened = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
            self.is_refused = opened.is_err();
            self.handle = opened.ok();
        }
        self.handle.is_some()
    }

    fn write(&mut self, file: &File, from: &[u8], offset: u64) -> io::Result<()> {
        let handle = self.handle.as_ref().expect("the caller has opened it");
        let skip = (offset % PAGE as u64) as usize;
        let mut at = offset - skip as u64;
        // What the first page holds already. Nothing is known of it if this fails half-way.
        if self.end.take() != Some(offset) {
            self.page.resize(PAGE, 0);
            file.read_exact_at(&mut self.page[..skip], at)?;
        }
        let mut rest = from;
        let mut kept = skip;
        while !rest.is_empty() {
            let length = (kept + rest.len()).min(STEP);
            let buffer = aligned(&mut self.buffer, length.next_multiple_of(PAGE));
            let (now, later) = rest.split_at(length - kept);
            buffer[..kept].copy_from_slice(&self.page[..kept]);
            buffer[kept..length].copy_from_slice(now);
            buffer[length..].fill(0);
            handle.write_all_at(buffer, at)?;
            let last = length % PAGE;
            self.page.resize(PAGE, 0);
            self.page[..last].copy_from_slice(&buffer[length - last..length]);
            (at, rest, kept) = (at + length as u64, later, 0);
        }
        self.end = Some(offset + from.len() as u64);
        Ok(())
    }
}

/// The file or its device has no direct writes, or not such.
fn is_refusal(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::INVAL, Errno::OPNOTSUPP].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// So many bytes of a buffer, which is made large enough, from one that begins at a page.
fn aligned(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length + PAGE {
        *buffer = vec![0; length.next_power_of_two() + PAGE];
    }
    let skip = buffer.as_ptr().align_offset(PAGE);
    &mut buffer[skip..skip + length]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::disk::sim_pages::Dice;
    use crate::disk::{Disk, DiskFile, RealDisk};

    const LENGTH: u64 = 4 << 20;

    fn disk(dir: &tempfile::TempDir) -> RealDisk {
        RealDisk::open(dir.path()).unwrap().with_direct_appends(true)
    }

    fn content(file: &dyn DiskFile) -> Vec<u8> {
        let mut read = vec![1; file.len().unwrap() as usize];
        file.read_at(&mut read, 0).unwrap();
        read
    }

    /// Writes of all sizes, each behind the one before, some by another handle, some through the cache.
    #[test]
    fn what_is_appended_is_read_with_zeros_up_to_the_end_of_its_page() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(&dir);
        for seed in 0..8 {
            let (name, mut dice) = (format!("f{seed}"), Dice(seed));
            let mut file = disk.create(&name).unwrap();
            file.preallocate(LENGTH).unwrap();
            let junk = vec![0xee; LENGTH as usize];
            file.write_at(&junk, 0).unwrap();
            let (mut expected, mut at) = (junk, 0_usize);
            loop {
                let most = [64, 5_000, 20_000, 700_000][dice.below(4) as usize];
                let from = vec![dice.below(251) as u8; 1 + dice.below(most) as usize];
                let end = at + from.len();
                if end > expected.len() {
                    break;
                }
                expected[at..end].copy_from_slice(&from);
                match dice.below(8) {
                    0 => file.write_at(&from, at as u64).unwrap(),
                    other => {
                        if other == 1 {
                            file = disk.open(&name).unwrap();
                        }
                        file.append_at(&from, at as u64).unwrap();
                        expected[end..end.next_multiple_of(PAGE)].fill(0);
                    }
                }
                at = end.next_multiple_of(8);
            }
            file.sync_data().unwrap();
            assert!(content(&*file) == expected && content(&*disk.open(&name).unwrap()) == expected, "seed {seed}");
        }
    }

    #[test]
    fn where_a_page_would_reach_beyond_the_file_nothing_behind_the_end_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let file = disk(&dir).create("a").unwrap();
        file.preallocate(5000).unwrap();
        file.append_at(&[7; 900], 4096).unwrap();
        assert_eq!(content(&*file), [vec![0; 4096], vec![7; 900], vec![0; 4]].concat());
        file.append_at(&[8; 10], 4996).unwrap();
        assert_eq!(content(&*file), [vec![0; 4096], vec![7; 900], vec![8; 10]].concat(), "a write may lengthen it");
        file.preallocate(8192).unwrap();
        file.append_at(&[9; 10], 5006).unwrap();
        assert_eq!(content(&*file)[4990..5020], [vec![7; 6], vec![8; 10], vec![9; 10], vec![0; 4]].concat());
        assert_eq!(file.len().unwrap(), 8192);
    }

    #[test]
    fn what_cannot_be_written_directly_goes_through_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![1; 8192]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut appender = Appender { is_refused: true, ..Appender::default() };
        appender.append(&file, &[2; 100], 50).unwrap();
        assert_eq!(appender.fill(&file, (8192, 12288), 4096, || Ok(())).unwrap(), 8192);
        assert_eq!(std::fs::read(&path).unwrap(), [vec![1; 50], vec![2; 100], vec![1; 8042]].concat());
        let refused = io::Error::from_raw_os_error(Errno::INVAL.raw_os_error());
        assert!(is_refusal(&refused) && !is_refusal(&io::Error::other("full")));
    }

    /// Reads go through the system's cache while pages are written again past it.
    #[test]
    fn a_reader_never_finds_less_than_what_was_written_before_it_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = disk(&dir).create("a").unwrap();
        file.preallocate(LENGTH).unwrap();
        let written = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for seed in 0..2 {
                let (file, written) = (&file, &written);
                scope.spawn(move || {
                    let mut dice = Dice(seed);
                    loop {
                        let end = written.load(Ordering::Acquire);
                        if end > LENGTH - PAGE as u64 {
                            return;
                        }
                        let from = end.saturating_sub(dice.below(9_000));
                        let mut read = vec![0; (end - from) as usize];
                        file.read_at(&mut read, from).unwrap();
                        assert!(read.iter().all(|byte| *byte == 0x55), "{from} to {end}");
                    }
                });
            }
            let mut dice = Dice(9);
            let mut at = 0;
            while at <= LENGTH - PAGE as u64 {
                let from = vec![0x55; (1 + dice.below(2_000)) as usize];
                file.append_at(&from, at).unwrap();
                at += from.len() as u64;
                written.store(at, Ordering::Release);
            }
        });
    }
}
