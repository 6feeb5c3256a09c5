//! What of one file would be gone if the power went: what the places that were written since the last sync held before.
//!
//! Invariant: writing what is kept here back, and cutting the file to its durable length, gives the file as it was when it was
//! synced last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::random::Random;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: u64 = 512;
/// How much is kept at a time.
const BLOCK: u64 = 4096;

/// What happened to a file since its last sync.
#[derive(Debug)]
pub(super) struct Unsynced {
    /// How long it was at the last sync.
    length: u64,
    /// Where it was written, from and to. No two overlap or touch.
    written: BTreeMap<u64, u64>,
    /// What blocks held, by their number, up to the durable length.
    before: BTreeMap<u64, Vec<u8>>,
    /// Cut or grown without a write.
    resized: bool,
}

impl Unsynced {
    /// Of a file of which everything is durable.
    pub(super) fn none(length: u64) -> Self {
        Self { length, written: BTreeMap::new(), before: BTreeMap::new(), resized: false }
    }

    /// Nothing would be gone.
    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty() && !self.resized
    }

    /// How many bytes would be gone.
    pub(super) fn bytes(&self) -> u64 {
        self.written.iter().map(|(from, to)| to - from).sum()
    }

    /// To be called before so many bytes are written there.
    pub(super) fn before_write(&mut self, file: &File, at: u64, bytes: u64) -> io::Result<()> {
        let (mut from, mut to) = (at, at.saturating_add(bytes));
        if from == to {
            return Ok(());
        }
        self.keep(file, from, to)?;
        // One range with all that it overlaps or touches.
        while let Some((&start, &end)) = self.written.range(..=to).next_back().filter(|(_, end)| **end >= from) {
            (from, to) = (from.min(start), to.max(end));
            self.written.remove(&start);
        }
        self.written.insert(from, to);
        Ok(())
    }

    /// To be called before the file gets this length.
    pub(super) fn before_resize(&mut self, file: &File, length: u64) -> io::Result<()> {
        self.resized = true;
        self.keep(file, length, self.length)?;
        // What was written behind the new end is gone already.
        self.written.retain(|from, _| *from < length);
        self.written.values_mut().for_each(|to| *to = length.min(*to));
        Ok(())
    }

    /// Keeps what the blocks from here to there hold, unless that is known.
    fn keep(&mut self, file: &File, from: u64, to: u64) -> io::Result<()> {
        let to = to.min(self.length);
        if from >= to {
            return Ok(());
        }
        for block in from / BLOCK..to.div_ceil(BLOCK) {
            if self.before.contains_key(&block) {
                continue;
            }
            let start = block * BLOCK;
            let mut held = vec![0; BLOCK.min(self.length - start) as usize];
            file.read_exact_at(&mut held, start)?;
            self.before.insert(block, held);
        }
        Ok(())
    }

    /// Everything is durable now.
    pub(super) fn synced(&mut self, length: u64) {
        *self = Self::none(length);
    }

    /// The power goes: the file is what it was, but for the sectors that `luck` lets stay. Returns how many bytes were dropped
    /// and how many stayed.
    ///
    /// A file that was cut is as long again; one that grew is so long as what stayed of it.
    pub(super) fn forget(&mut self, file: &File, luck: Option<&mut Random>) -> io::Result<(u64, u64)> {
        let bytes = self.bytes();
        let stays = luck.map(|luck| self.draw(file, luck)).transpose()?.unwrap_or_default();
        file.set_len(self.length)?;
        for (block, held) in &self.before {
            file.write_all_at(held, block * BLOCK)?;
        }
        let mut stayed = 0;
        for (at, sector) in stays {
            file.write_all_at(&sector, at)?;
            stayed += sector.len() as u64;
        }
        self.synced(file.metadata()?.len());
        Ok((bytes - stayed, stayed))
    }

    /// What the sectors that stay hold, where.
    fn draw(&self, file: &File, luck: &mut Random) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let mut stays = Vec::new();
        // A write that failed may have written less than it was to.
        let length = file.metadata()?.len();
        for (&from, &to) in &self.written {
            let to = to.min(length);
            for sector in from / SECTOR..to.div_ceil(SECTOR) {
                if !luck.chance(500) {
                    continue;
                }
                let (start, end) = (from.max(sector * SECTOR), to.min((sector + 1) * SECTOR));
                let mut holds = vec![0; (end - start) as usize];
                file.read_exact_at(&mut holds, start)?;
                stays.push((start, holds));
            }
        }
        Ok(stays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with what was written to it last, and what it held at its last sync.
    struct Twin {
        file: File,
        durable: Vec<u8>,
        unsynced: Unsynced,
    }

    impl Twin {
        fn new(held: &[u8]) -> Self {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(held, 0).unwrap();
            Self { file, durable: held.to_vec(), unsynced: Unsynced::none(held.len() as u64) }
        }

        fn write(&mut self, at: u64, bytes: &[u8]) {
            self.unsynced.before_write(&self.file, at, bytes.len() as u64).unwrap();
            self.file.write_all_at(bytes, at).unwrap();
        }

        fn resize(&mut self, length: u64) {
            self.unsynced.before_resize(&self.file, length).unwrap();
            self.file.set_len(length).unwrap();
        }

        fn sync(&mut self) {
            self.durable = self.holds();
            self.unsynced.synced(self.durable.len() as u64);
        }

        fn holds(&self) -> Vec<u8> {
            let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
            self.file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        }
    }

    #[test]
    fn a_file_is_again_what_it_was_at_its_last_sync() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut twin = Twin::new(&vec![1; random.below(20_000) as usize]);
            for step in 0..30 {
                let length = twin.file.metadata().unwrap().len();
                match random.below(10) {
                    0 => twin.resize(random.below(25_000)),
                    1 => twin.sync(),
                    2 => {
                        twin.unsynced.forget(&twin.file, None).unwrap();
                        assert!(twin.holds() == twin.durable, "seed {seed}, step {step}");
                    }
                    _ => {
                        let bytes = vec![step as u8; random.below(9_000) as usize];
                        twin.write(random.below(length + 2_000), &bytes);
                    }
                }
            }
            twin.unsynced.forget(&twin.file, None).unwrap();
            assert!(twin.holds() == twin.durable, "seed {seed}");
            assert!(twin.unsynced.is_empty());
        }
    }

    #[test]
    fn bytes_written_over_each_other_count_once() {
        let mut twin = Twin::new(&[1; 100]);
        twin.write(10, &[2; 50]);
        twin.write(40, &[3; 40]);
        twin.write(200, &[4; 10]);
        assert_eq!(twin.unsynced.bytes(), 80);
        twin.resize(205);
        assert_eq!(twin.unsynced.bytes(), 75);
        assert_eq!(twin.unsynced.forget(&twin.file, None).unwrap(), (75, 0));
    }

    #[test]
    fn with_luck_some_sectors_stay_and_the_others_do_not() {
        let mut twin = Twin::new(&[1; 64 * 512]);
        twin.write(0, &[2; 96 * 512]);
        let (dropped, stayed) = twin.unsynced.forget(&twin.file, Some(&mut Random::new(7))).unwrap();
        assert_eq!(dropped + stayed, 96 * 512);
        let holds = twin.holds();
        let sectors: Vec<&[u8]> = holds.chunks(512).collect();
        assert!(sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        let new = sectors.iter().filter(|sector| sector[0] == 2).count() as u64;
        let old = sectors[..64].iter().filter(|sector| sector[0] == 1).count();
        assert_eq!(new * 512, stayed);
        assert!(new > 20 && old > 10, "{new} new, {old} old");
    }
}
