//! Damage to the files of a store that does not run: what bad disks do between two lives of it.
//!
//! Knows as much of the log as `docs/log-format.md` says of segments and frames, checksums excepted, and shares no code with who
//! writes it. What a store has to make of each damage stands with its [`Kind`].

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::random::Random;
use crate::trouble::{Outcome, Trouble, While};

/// Where in a store's directory its log lies.
const LOG: &str = "log";
const SEGMENT_HEADER: u64 = 64;
const FRAME_HEADER: u64 = 40;
const DIRECTORY_ENTRY: u64 = 24;
const BLOCK: u64 = 4096;

/// A kind of damage, and what is to be expected of a store with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Behind the last frame lies the beginning of another, and garbage: a write that power has cut off, of which nobody was told that it is
    /// durable. The store starts, cuts it, and has everything.
    TornWrite,
    /// The end of the last frame is zeros or garbage: synced bytes have rotted. No log can tell that from a torn write, so the store starts
    /// without that frame and says nothing: acknowledged entries or a vote may be gone.
    RottenTail,
    /// One bit of a frame with others behind it. The store names the regions that may have lost a record and takes its replicas of
    /// them out of service.
    FlippedBit,
    /// A block of 4 KiB with frames behind it is zeros; the same.
    ZeroedBlock,
    /// The newest segment is gone. The store takes every region without a later record out of service, so all.
    LostSegment,
    /// Everything is gone: the store has forgotten that it was ever there.
    Wiped,
}

/// What was done, for the notes of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What was done.
    pub kind: Kind,
    /// To which file, or directory.
    pub file: PathBuf,
    /// From which byte on.
    pub offset: u64,
    /// How many bytes have another content now, or none.
    pub bytes: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, file, offset, bytes } = self;
        write!(f, "{kind:?}: {bytes} bytes at {offset} of {}", file.display())
    }
}

/// Damages the files below a store's data directory, at a place that is drawn.
///
/// # Errors
/// The store runs; or its log is too short for this kind, which says so; or its files cannot be read or written.
pub fn strike(data: &Path, kind: Kind, random: &mut Random) -> Outcome<Damage> {
    refuse_if_it_runs(data)?;
    if kind == Kind::Wiped {
        return wipe(data);
    }
    let segments = Segment::all(&data.join(LOG))?;
    let newest = segments.last().ok_or_else(|| Trouble::new(format!("{} holds no segment", data.display())))?;
    match kind {
        Kind::TornWrite => newest.tear(random),
        Kind::RottenTail => {
            let last = segments.iter().rev().find(|segment| !segment.frames.is_empty());
            last.unwrap_or(newest).rot(random)
        }
        Kind::FlippedBit | Kind::ZeroedBlock => {
            let fitting: Vec<&Segment> = segments.iter().filter(|segment| segment.has_middle(kind)).collect();
            if fitting.is_empty() {
                let path = newest.path.display();
                return Err(Trouble::new(format!("{path} has too few frames for {kind:?}: write more before")));
            }
            let segment = *random.pick(&fitting);
            if kind == Kind::FlippedBit { segment.flip(random) } else { segment.zero(random) }
        }
        Kind::LostSegment => {
            fs::remove_file(&newest.path).trying(|| format!("removing {}", newest.path.display()))?;
            Ok(newest.damage(kind, 0, newest.length))
        }
        Kind::Wiped => wipe(data),
    }
}

/// A segment's file, as far as its frames can be walked over.
struct Segment {
    path: PathBuf,
    number: u32,
    length: u64,
    bytes: Vec<u8>,
    /// Where each begins, and how long it is.
    frames: Vec<(u64, u64)>,
}

impl Segment {
    /// All of a log, the newest last.
    fn all(log: &Path) -> Outcome<Vec<Self>> {
        let trying = || format!("reading the log {}", log.display());
        let mut segments = Vec::new();
        for entry in fs::read_dir(log).trying(trying)? {
            let path = entry.trying(trying)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(number) = name.strip_prefix("seg-").and_then(|digits| digits.parse().ok()) {
                let bytes = fs::read(&path).trying(|| format!("reading {}", path.display()))?;
                let frames = frames(&bytes, number);
                segments.push(Self { length: bytes.len() as u64, path, number, bytes, frames });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        Ok(segments)
    }

    /// Where the frames end.
    fn end(&self) -> u64 {
        self.frames.last().map_or(SEGMENT_HEADER, |(at, length)| at + length)
    }

    /// The frames with a sound one behind them. The last may be a torn one, which is not looked into here, so neither is that before it.
    fn middle(&self) -> &[(u64, u64)] {
        &self.frames[..self.frames.len().saturating_sub(2)]
    }

    /// Where the middle ends.
    fn middle_end(&self) -> u64 {
        self.middle().last().map_or(SEGMENT_HEADER, |(at, length)| at + length)
    }

    fn has_middle(&self, kind: Kind) -> bool {
        match kind {
            Kind::ZeroedBlock => self.middle_end() >= 2 * BLOCK,
            _ => !self.middle().is_empty(),
        }
    }

    /// A frame that claims to be longer than what is written of it, which is garbage besides.
    fn tear(&self, random: &mut Random) -> Outcome<Damage> {
        let at = self.end();
        let room = self.length.saturating_sub(at);
        if room < 2 * BLOCK {
            return Err(Trouble::new(format!("{} is full: nothing can be torn behind its end", self.path.display())));
        }
        let claimed = random.between(BLOCK / 8, room / 8).min(1 << 20) * 8;
        let written = random.between(FRAME_HEADER, claimed - 1).min(64 << 10);
        let mut frame = garbage(written, random);
        for (at, word) in [(0, u32::from_le_bytes(*b"MRFR")), (8, self.number), (12, at as u32), (16, claimed as u32)] {
            frame[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        self.write(Kind::TornWrite, at, &frame)
    }

    fn rot(&self, random: &mut Random) -> Outcome<Damage> {
        let Some((at, length)) = self.frames.last() else {
            return Err(Trouble::new(format!(
                "{} holds no frame that could rot: write something before",
                self.path.display()
            )));
        };
        let from = random.between(*at, at + length - DIRECTORY_ENTRY);
        let bytes = at + length - from;
        let rotten = if random.chance(500) { vec![0; bytes as usize] } else { garbage(bytes, random) };
        self.write(Kind::RottenTail, from, &rotten)
    }

    fn flip(&self, random: &mut Random) -> Outcome<Damage> {
        let (at, length) = *random.pick(self.middle());
        // Behind the frame's header: a record or the directory, at worst their padding.
        let place = random.between(at + FRAME_HEADER, at + length - 1);
        let flipped = self.bytes[place as usize] ^ (1 << random.below(8));
        self.write(Kind::FlippedBit, place, &[flipped])
    }

    fn zero(&self, random: &mut Random) -> Outcome<Damage> {
        let block = random.between(1, self.middle_end() / BLOCK - 1);
        self.write(Kind::ZeroedBlock, block * BLOCK, &vec![0; BLOCK as usize])
    }

    fn write(&self, kind: Kind, at: u64, bytes: &[u8]) -> Outcome<Damage> {
        let trying = || format!("damaging {}", self.path.display());
        let file = OpenOptions::new().write(true).open(&self.path).trying(trying)?;
        file.write_all_at(bytes, at).trying(trying)?;
        file.sync_all().trying(trying)?;
        Ok(self.damage(kind, at, bytes.len() as u64))
    }

    fn damage(&self, kind: Kind, offset: u64, bytes: u64) -> Damage {
        Damage { kind, file: self.path.clone(), offset, bytes }
    }
}

/// The frames of a segment, up to the first place that holds none.
fn frames(bytes: &[u8], number: u32) -> Vec<(u64, u64)> {
    let word = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let mut frames = Vec::new();
    let mut at = SEGMENT_HEADER as usize;
    while word(at) == Some(u32::from_le_bytes(*b"MRFR"))
        && word(at + 8) == Some(number)
        && word(at + 12) == Some(at as u32)
    {
        let Some(length) = word(at + 16).map(|length| length as usize) else { break };
        let is_whole = length >= FRAME_HEADER as usize && length % 8 == 0 && at + length <= bytes.len();
        if !is_whole {
            break;
        }
        frames.push((at as u64, length as u64));
        at += length;
    }
    frames
}

fn garbage(bytes: u64, random: &mut Random) -> Vec<u8> {
    (0..bytes).map(|_| random.below(256) as u8).collect()
}

/// A store holds its log's lock as long as it lives.
fn refuse_if_it_runs(data: &Path) -> Outcome<()> {
    let path = data.join(LOG).join("LOCK");
    let lock = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).trying(|| format!("opening {}", path.display())),
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .trying(|| format!("damaging {} while its store runs: stop it first", data.display()))
}

/// Everything in the directory goes; it stays itself, since it may be a mount's.
pub(crate) fn wipe(data: &Path) -> Outcome<Damage> {
    let trying = || format!("wiping {}", data.display());
    let mut bytes = 0;
    for entry in fs::read_dir(data).trying(trying)? {
        let entry = entry.trying(trying)?;
        bytes += size(&entry.path()).trying(trying)?;
        let gone = if entry.file_type().trying(trying)?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        gone.trying(trying)?;
    }
    Ok(Damage { kind: Kind::Wiped, file: data.to_owned(), offset: 0, bytes })
}

fn size(path: &Path) -> std::io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?.try_fold(0, |sum, entry| Ok(sum + size(&entry?.path())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory whose log has two segments, with frames of these lengths.
    fn log(first: &[u64], second: &[u64]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(LOG)).unwrap();
        fs::write(dir.path().join("STORE"), "1").unwrap();
        for (number, lengths) in [(1_u32, first), (2, second)] {
            let mut bytes = vec![9; SEGMENT_HEADER as usize];
            for length in lengths {
                let at = bytes.len();
                bytes.resize(at + *length as usize, 7);
                let head = [u32::from_le_bytes(*b"MRFR"), 0, number, at as u32, *length as u32];
                bytes[at..at + 20].copy_from_slice(&head.map(u32::to_le_bytes).concat());
            }
            bytes.resize(32 << 10, 0);
            fs::write(dir.path().join(LOG).join(format!("seg-{number:010}")), bytes).unwrap();
        }
        dir
    }

    /// Strikes a fresh log; what was done, what the damaged file held before, and what it holds now.
    fn struck(kind: Kind, seed: u64) -> (Damage, Vec<u8>, Vec<u8>) {
        let (fresh, dir) =
            (log(&[5_000, 5_000, 80, 80], &[80, 9_000, 80, 800]), log(&[5_000, 5_000, 80, 80], &[80, 9_000, 80, 800]));
        let damage = strike(dir.path(), kind, &mut Random::new(seed)).unwrap();
        let name = damage.file.strip_prefix(dir.path()).unwrap();
        (damage.clone(), fs::read(fresh.path().join(name)).unwrap(), fs::read(&damage.file).unwrap_or_default())
    }

    #[test]
    fn damage_is_where_it_says_and_nowhere_else() {
        for seed in 0..40 {
            for kind in [Kind::TornWrite, Kind::RottenTail, Kind::FlippedBit, Kind::ZeroedBlock] {
                let (damage, before, after) = struck(kind, seed);
                let (from, to) = (damage.offset as usize, (damage.offset + damage.bytes) as usize);
                assert_eq!(before.len(), after.len());
                assert!(before[..from] == after[..from] && before[to..] == after[to..], "{damage}");
                assert!(before[from..to] != after[from..to], "{damage}");
                let is_newest = damage.file.ends_with("seg-0000000002");
                let end = 64 + if is_newest { 80 + 9_000 + 80 + 800 } else { 5_000 + 5_000 + 80 + 80 };
                let last = end - if is_newest { 800 } else { 80 };
                match kind {
                    Kind::TornWrite => assert!(is_newest && from == end),
                    Kind::RottenTail => assert!(is_newest && from >= last && to == end),
                    _ => assert!(from >= 64 + 40 && to <= last - 80, "{damage}"),
                }
            }
        }
    }

    #[test]
    fn the_newest_segment_or_everything_goes() {
        let dir = log(&[80], &[80]);
        let damage = strike(dir.path(), Kind::LostSegment, &mut Random::new(1)).unwrap();
        assert!(damage.file.ends_with("log/seg-0000000002") && !damage.file.exists());
        assert!(dir.path().join("log/seg-0000000001").exists());
        let damage = strike(dir.path(), Kind::Wiped, &mut Random::new(1)).unwrap();
        assert_eq!((damage.file.as_path(), damage.bytes), (dir.path(), (32 << 10) + 1));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_there_cannot_be_damaged() {
        let dir = log(&[80, 80], &[]);
        for kind in [Kind::FlippedBit, Kind::ZeroedBlock] {
            let trouble = strike(dir.path(), kind, &mut Random::new(1)).unwrap_err();
            assert!(trouble.to_string().contains("too few frames"), "{trouble}");
        }
        let lock = fs::File::create(dir.path().join("log/LOCK")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let trouble = strike(dir.path(), Kind::Wiped, &mut Random::new(1)).unwrap_err();
        assert!(trouble.to_string().contains("stop it first"), "{trouble}");
    }
}
