//! The number of the last flush, kept beside sled, to tell when sled comes back with less than was flushed.
//!
//! On some damaged files sled opens without a word at an earlier state, even at none. A replica that forgets what it had
//! applied, or acknowledged, must not go on as if nothing had happened. So each flush has a number, which is written into sled
//! before the flush and into this file after it: sled's may be ahead, never behind.
//!
//! ```text
//!   FLUSHED   0: magic "mrflush1" | number: u64 le | crc32c of both: u32 le     even numbers
//!           512: the same                                                       odd numbers
//! ```
//!
//! The slots are written in turn, so one that is torn leaves the other.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::StoreFs;

const NAME: &str = "FLUSHED";
const MAGIC: &[u8; 8] = b"mrflush1";
const SLOT_BYTES: usize = 20;
const SLOT_DISTANCE: usize = 512;

/// The file.
#[derive(Debug)]
pub(super) struct Watermark {
    path: PathBuf,
    fs: Arc<dyn StoreFs>,
    file: Option<File>,
    number: u64,
}

impl Watermark {
    pub(super) fn open(dir: &Path, fs: Arc<dyn StoreFs>) -> io::Result<Self> {
        let path = dir.join(NAME);
        let (file, bytes) = match fs::read(&path) {
            Ok(bytes) => (Some(File::options().write(true).open(&path)?), bytes),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => (None, Vec::new()),
            Err(error) => return Err(error),
        };
        let number = [0, SLOT_DISTANCE].into_iter().filter_map(|at| read_slot(&bytes, at)).max().unwrap_or(0);
        Ok(Self { path, fs, file, number })
    }

    /// The last flush that was noted.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What is wrong with a state of flush `found`, if anything.
    pub(super) fn objection(&self, found: u64) -> Option<String> {
        if found < self.number {
            return Some(format!("what was flushed is missing: it stands at flush {found} of {}", self.number));
        }
        // The first flush makes the file, so only a state of the first may come without.
        (self.number == 0 && found > 1).then(|| format!("{} is missing or damaged", self.path.display()))
    }

    /// Notes a flush; durable when this returns.
    pub(super) fn set(&mut self, number: u64) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::options().write(true).create(true).truncate(false).open(&self.path)?),
        };
        let slot = if number.is_multiple_of(2) { 0 } else { SLOT_DISTANCE };
        file.write_all_at(&slot_bytes(number), slot as u64)?;
        self.fs.sync_file(&self.path, file)?;
        if self.number == 0 {
            let dir = self.path.parent().expect("it was made by joining a name to a directory");
            self.fs.sync_dir(dir, &File::open(dir)?)?;
        }
        self.number = number;
        Ok(())
    }
}

fn slot_bytes(number: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..16]);
    slot[16..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn read_slot(bytes: &[u8], at: usize) -> Option<u64> {
    let slot = bytes.get(at..at + SLOT_BYTES)?;
    let number = u64::from_le_bytes(slot[8..16].try_into().ok()?);
    (slot == slot_bytes(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{super::super::RealFs, *};

    fn open(dir: &Path) -> Watermark {
        Watermark::open(dir, Arc::new(RealFs)).expect("the directory is there")
    }

    #[test]
    fn the_last_number_comes_back_and_a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 1..6 {
            assert_eq!(open(dir.path()).number(), number - 1);
            open(dir.path()).set(number).expect("it is written");
        }
        let path = dir.path().join(NAME);
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[SLOT_DISTANCE + 9] ^= 1;
        fs::write(&path, &bytes).expect("it is written");
        assert_eq!(open(dir.path()).number(), 4);
    }

    #[test]
    fn a_state_behind_the_number_is_objected_to() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(open(dir.path()).objection(1), None);
        assert!(open(dir.path()).objection(2).is_some());
        let mut watermark = open(dir.path());
        watermark.set(7).expect("it is written");
        assert!(watermark.objection(6).is_some());
        assert_eq!(watermark.objection(7), None);
        assert_eq!(watermark.objection(8), None);
    }
}
