//! Whose data directory this is: the file `STORE`, replaced as a whole at each start.
//!
//! ```text
//! multiraft store\n
//! format = 3\n
//! cluster = 0123...\n         (32 hexadecimal digits)
//! store = 1\n
//! incarnation = 7\n
//! bootstrapped = true\n
//! longest_support_ms = 1000\n   (not in format 1)
//! floor = none\n               (or unknown, or a replica id; not in formats 1 and 2)
//! birth = 0123...\n            (16 hexadecimal digits, drawn when the directory was made; not in formats 1 and 2)
//! crc32c = 89abcdef\n         (of everything before this line)
//! ```

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use multiraft_raft::{ClusterId, Incarnation, ReplicaId, StoreId};
use multiraft_transport::Birth;

use crate::assembly::rejoined_incarnation;
use crate::error::StartError;
use crate::field_file::{FieldFile, Fields};
use crate::logic::Floor;

const FILE: FieldFile = FieldFile {
    name: "STORE",
    title: "multiraft store",
    format: 3,
    subject: "the data directory",
    cure: "put it back as it was, or set this store's data aside and let it rejoin under a new store id",
};

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreFile {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    /// The first regions are durably there.
    pub(crate) bootstrapped: bool,
    /// The longest support that a life of this store may have promised to a peer, in milliseconds. Nothing was promised by versions
    /// that wrote format 1, which does not have it.
    pub(crate) longest_support_ms: u64,
    /// Which replicas of this store were lost with an earlier directory. Versions that wrote formats 1 and 2 let a store rejoin only when no
    /// region counted on any.
    pub(crate) floor: Floor,
    /// What the directory is known by to other stores. Those of earlier versions get one when they are claimed next.
    pub(crate) birth: u64,
}

/// How a store begins in a new directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newborn {
    /// Its first incarnation, not zero.
    incarnation: Incarnation,
    /// What it may have promised.
    longest_support_ms: u64,
    /// What it may have forgotten.
    floor: Floor,
}

impl Newborn {
    /// A store that begins a cluster: nobody has ever heard of it.
    pub(crate) const FOUNDER: Self = Self { incarnation: Incarnation(1), longest_support_ms: 0, floor: Floor::Whole };

    /// The one that a start makes, which may promise support for `support_ms`.
    pub(crate) fn of(founds: bool, rejoins: bool, support_ms: u64) -> Self {
        match founds {
            true => Self::FOUNDER,
            false if rejoins => Self::rejoiner(SystemTime::now(), support_ms),
            false => Self::joiner(support_ms),
        }
    }

    /// A store that joins. It may be one that has lost its directory, although nobody says so, and have promised support for
    /// `support_ms` a moment ago. Then peers that remember a later incarnation refuse it, which is for the best: it has forgotten its votes.
    pub(crate) const fn joiner(support_ms: u64) -> Self {
        Self { incarnation: Incarnation(1), longest_support_ms: support_ms, floor: Floor::Whole }
    }

    /// A store that is known, has lost its directory, and is told so. Whatever it was before counts as lost.
    pub(crate) fn rejoiner(now: SystemTime, support_ms: u64) -> Self {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let incarnation = rejoined_incarnation(since_1970);
        Self { incarnation, longest_support_ms: support_ms, floor: Floor::Unknown }
    }
}

impl StoreFile {
    /// Claims a data directory for the next incarnation of `store`, durably; for `newborn` if the directory is new.
    ///
    /// # Errors
    /// The directory is another store's or cluster's, of a newer format, or cannot be read or written.
    pub(crate) fn claim(dir: &Path, cluster: ClusterId, store: StoreId, newborn: &Newborn) -> Result<Self, StartError> {
        let found = Self::read(dir)?;
        let is_new = found.is_none();
        let mut file = found.unwrap_or(Self {
            cluster,
            store,
            incarnation: newborn.incarnation,
            // The first regions were there long before: they are not made again, however the store is started next.
            bootstrapped: newborn.floor != Floor::Whole,
            longest_support_ms: newborn.longest_support_ms,
            floor: newborn.floor,
            birth: 0,
        });
        let path = dir.display();
        if file.store != store {
            return Err(StartError::DataDir(format!(
                "{path} belongs to store {}, not to store {store}: give each store a directory of its own",
                file.store
            )));
        }
        if file.cluster != cluster {
            return Err(StartError::DataDir(format!(
                "{path} belongs to cluster {}, not to cluster {cluster}: choose another directory or the right cluster id",
                file.cluster
            )));
        }
        if file.birth == 0 {
            file.birth = draw_birth();
        }
        if !is_new {
            file.incarnation = file.incarnation.next();
        }
        file.write(dir)?;
        Ok(file)
    }

    /// Notes that support for so many milliseconds may be promised from now on: durable when this returns.
    ///
    /// # Errors
    /// The file cannot be written: nothing may be promised.
    pub(crate) fn promise(&mut self, dir: &Path, duration_ms: u64) -> Result<(), StartError> {
        if self.longest_support_ms >= duration_ms {
            return Ok(());
        }
        self.longest_support_ms = duration_ms;
        self.write(dir)
    }

    /// What it tells other stores of the directory.
    pub(crate) fn as_birth(&self) -> Birth {
        Birth { number: self.birth, rejoined: self.floor != Floor::Whole }
    }

    /// A store rejoins only where none has run.
    ///
    /// # Errors
    /// One has.
    pub(crate) fn check_is_new(dir: &Path) -> Result<(), StartError> {
        if !Self::exists(dir) {
            return Ok(());
        }
        Err(StartError::DataDir(format!(
            "{} holds a store already: leave out rejoin, which is for one start in an empty directory",
            dir.display()
        )))
    }

    /// A store that has no floor yet has no replica: what is there all the same, in the log or as a state, is of before.
    ///
    /// # Errors
    /// There is something.
    pub(crate) fn check_is_bare(&self, dir: &Path, is_bare: bool) -> Result<(), StartError> {
        if is_bare || self.floor != Floor::Unknown {
            return Ok(());
        }
        Err(StartError::DataDir(format!(
            "{} holds what is left of replicas from before the store began anew, which may be older than what they promised: set all of it \
             aside, and let the store rejoin in an empty directory",
            dir.display()
        )))
    }

    /// Whether a store has run in this directory before.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(FILE.name).exists()
    }

    /// Reads the file; `None` if there is none yet.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, StartError> {
        let path = dir.join(FILE.name);
        let io = |source| StartError::Io { what: format!("reading {}", path.display()), source };
        let Some(text) = FILE.text(dir).map_err(io)? else { return Ok(None) };
        let invalid = |reason| StartError::DataDir(format!("{}: {reason}", path.display()));
        FILE.parse(&text, Self::from_fields).map(Some).map_err(invalid)
    }

    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            cluster: ClusterId(u128::from_str_radix(fields.next("cluster")?, 16).ok()?),
            store: StoreId(fields.next("store")?.parse().ok()?),
            incarnation: Incarnation(fields.next("incarnation")?.parse().ok()?),
            bootstrapped: fields.next("bootstrapped")?.parse().ok()?,
            longest_support_ms: match fields.next("longest_support_ms") {
                Some(duration) => duration.parse().ok()?,
                None => 0,
            },
            floor: fields.next("floor").map_or(Some(Floor::Whole), read_floor)?,
            birth: fields.next("birth").map_or(Some(0), |birth| u64::from_str_radix(birth, 16).ok())?,
        })
    }

    /// Replaces the file, durably.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), StartError> {
        let (floor, birth) = (Written(self.floor), format!("{:016x}", self.birth));
        let fields: [(&str, &dyn fmt::Display); 7] = [
            ("cluster", &self.cluster),
            ("store", &self.store),
            ("incarnation", &self.incarnation),
            ("bootstrapped", &self.bootstrapped),
            ("longest_support_ms", &self.longest_support_ms),
            ("floor", &floor),
            ("birth", &birth),
        ];
        let io = |source| StartError::Io { what: format!("writing {} in {}", FILE.name, dir.display()), source };
        FILE.write(dir, &fields).map_err(io)
    }
}

/// A number that no other directory has, not zero. The keys of the standard library's hash maps are drawn by the system.
fn draw_birth() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// How a floor is written.
struct Written(Floor);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Floor::Whole => f.write_str("none"),
            Floor::Unknown => f.write_str("unknown"),
            Floor::Above(last) => write!(f, "{last}"),
        }
    }
}

fn read_floor(value: &str) -> Option<Floor> {
    Some(match value {
        "none" => Floor::Whole,
        "unknown" => Floor::Unknown,
        last => Floor::Above(ReplicaId(last.parse().ok()?)),
    })
}

/// The file of a running store. Several write it: each keeps what the others have.
#[derive(Clone, Debug)]
pub(crate) struct SharedStoreFile {
    file: Arc<Mutex<StoreFile>>,
    dir: PathBuf,
}

impl SharedStoreFile {
    pub(crate) fn new(file: StoreFile, dir: &Path) -> Self {
        Self { file: Arc::new(Mutex::new(file)), dir: dir.to_owned() }
    }

    /// Changes what the file says: durable when this returns.
    ///
    /// # Errors
    /// The file cannot be written: it says what it did.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut StoreFile)) -> Result<(), StartError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = file.clone();
        change(&mut changed);
        if changed != *file {
            changed.write(&self.dir)?;
            *file = changed;
        }
        Ok(())
    }

    pub(crate) fn floor(&self) -> Floor {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).floor
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn claim(dir: &Path, cluster: ClusterId, store: u64) -> Result<StoreFile, StartError> {
        StoreFile::claim(dir, cluster, StoreId(store), &Newborn::FOUNDER)
    }

    #[test]
    fn each_start_is_a_new_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(dir.path(), CLUSTER, 1).unwrap();
        let second = claim(dir.path(), CLUSTER, 1).unwrap();
        assert_eq!((first.incarnation, second.incarnation), (Incarnation(1), Incarnation(2)));
        let other = claim(tempfile::tempdir().unwrap().path(), CLUSTER, 1).unwrap();
        assert!(first.birth != 0 && first.birth == second.birth && first.birth != other.birth);
    }

    #[test]
    fn a_store_that_rejoins_comes_back_later_than_it_was_and_has_promised_something() {
        let dir = tempfile::tempdir().unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let join = |now| StoreFile::claim(dir.path(), CLUSTER, StoreId(1), &Newborn::rejoiner(now, 700)).unwrap();
        let first = join(at(1_700_000_000));
        let again = join(at(0));
        assert_eq!(again.incarnation, first.incarnation.next(), "the time counts for a new directory alone");
        fs::remove_file(dir.path().join(FILE.name)).unwrap();
        let anew = join(at(1_700_000_009));
        assert!(anew.incarnation > again.incarnation);
        assert_eq!((anew.longest_support_ms, anew.floor, anew.bootstrapped), (700, Floor::Unknown, true));
        let joiner = Newborn { incarnation: Incarnation(1), longest_support_ms: 700, floor: Floor::Whole };
        assert_eq!((Newborn::joiner(700), Newborn::of(false, false, 700)), (joiner.clone(), joiner));
        assert_eq!(Newborn::of(true, false, 700), Newborn::FOUNDER);
        assert_eq!(Newborn::of(false, true, 700).floor, Floor::Unknown);
        assert_eq!(Newborn::rejoiner(UNIX_EPOCH - Duration::from_secs(1), 0).incarnation, Incarnation(1));
        assert!(Newborn::rejoiner(at(u64::MAX / 2), 0).incarnation.get() < 1 << 31);
    }

    #[test]
    fn another_stores_or_clusters_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), CLUSTER, 1).unwrap();
        let other_store = claim(dir.path(), CLUSTER, 2).unwrap_err().to_string();
        assert!(other_store.contains("belongs to store 1"), "{other_store}");
        let other_cluster = claim(dir.path(), ClusterId(8), 1).unwrap_err().to_string();
        assert!(other_cluster.contains("belongs to cluster"), "{other_cluster}");
    }

    #[test]
    fn what_was_promised_is_kept_and_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = claim(dir.path(), CLUSTER, 1).unwrap();
        assert_eq!(file.longest_support_ms, 0);
        file.promise(dir.path(), 1500).unwrap();
        file.promise(dir.path(), 1000).unwrap();
        assert_eq!(claim(dir.path(), CLUSTER, 1).unwrap().longest_support_ms, 1500);
    }

    #[test]
    fn a_file_of_format_1_is_of_a_store_that_has_promised_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let old = "multiraft store\nformat = 1\ncluster = 00000000000000000000000000000007\nstore = 1\nincarnation = 3\nbootstrapped = true\n";
        let old = format!("{old}crc32c = {:08x}\n", crc32c::crc32c(old.as_bytes()));
        fs::write(dir.path().join(FILE.name), old).unwrap();
        let file = claim(dir.path(), CLUSTER, 1).unwrap();
        assert_eq!((file.incarnation, file.bootstrapped, file.longest_support_ms), (Incarnation(4), true, 0));
        let text = fs::read_to_string(dir.path().join(FILE.name)).unwrap();
        assert!(text.contains("format = 3\n") && text.contains("longest_support_ms = 0\n"), "{text}");
    }

    #[test]
    fn a_file_of_format_2_is_of_a_store_that_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let old = "multiraft store\nformat = 2\ncluster = 00000000000000000000000000000007\nstore = 1\nincarnation = 3\nbootstrapped = false\nlongest_support_ms = 900\n";
        let old = format!("{old}crc32c = {:08x}\n", crc32c::crc32c(old.as_bytes()));
        fs::write(dir.path().join(FILE.name), old).unwrap();
        let file = claim(dir.path(), CLUSTER, 1).unwrap();
        let found = (file.incarnation, file.bootstrapped, file.longest_support_ms, file.floor);
        assert_eq!(found, (Incarnation(4), false, 900, Floor::Whole));
        assert!(file.birth != 0 && claim(dir.path(), CLUSTER, 1).unwrap().birth == file.birth, "from now on");
    }

    #[test]
    fn a_file_of_format_3_is_written_as_it_always_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = claim(dir.path(), CLUSTER, 1).unwrap();
        file.birth = 0xab;
        for (floor, written) in [
            (Floor::Whole, "floor = none\nbirth = 00000000000000ab\ncrc32c = 343305f5\n"),
            (Floor::Unknown, "floor = unknown\nbirth = 00000000000000ab\ncrc32c = 34e1c929\n"),
            (Floor::Above(ReplicaId(1 << 25)), "floor = 33554432\nbirth = 00000000000000ab\ncrc32c = d7bcbd49\n"),
        ] {
            file.floor = floor;
            file.write(dir.path()).unwrap();
            let text = fs::read_to_string(dir.path().join(FILE.name)).unwrap();
            let head = "multiraft store\nformat = 3\ncluster = 00000000000000000000000000000007\nstore = 1\nincarnation = 1\nbootstrapped = false\nlongest_support_ms = 0\n";
            assert_eq!(text, format!("{head}{written}"));
            assert_eq!(StoreFile::read(dir.path()).unwrap(), Some(file.clone()));
        }
    }

    #[test]
    fn those_who_write_the_file_of_a_running_store_keep_what_others_have_noted() {
        let dir = tempfile::tempdir().unwrap();
        let file = StoreFile::claim(dir.path(), CLUSTER, StoreId(1), &Newborn::of(false, true, 700)).unwrap();
        let (one, other) = {
            let shared = SharedStoreFile::new(file, dir.path());
            (shared.clone(), shared)
        };
        one.amend(|file| file.floor = Floor::Above(ReplicaId(9))).unwrap();
        other.amend(|file| file.longest_support_ms = 500).unwrap();
        let found = StoreFile::read(dir.path()).unwrap().unwrap();
        assert_eq!((found.floor, found.longest_support_ms), (Floor::Above(ReplicaId(9)), 500));
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(other.amend(|file| file.floor = Floor::Whole).is_err());
        assert_eq!(one.floor(), Floor::Above(ReplicaId(9)), "what is not durable does not count");
    }

    #[test]
    fn a_newer_format_and_damage_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), CLUSTER, 1).unwrap();
        let path = dir.path().join(FILE.name);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, good.replace("format = 3", "format = 9")).unwrap();
        assert!(claim(dir.path(), CLUSTER, 1).unwrap_err().to_string().contains("newer version"));
        for (from, to) in [("store = 1", "store = 2"), ("multiraft", "multi"), ("crc32c = ", "crc32c = f")] {
            fs::write(&path, good.replace(from, to)).unwrap();
            assert!(claim(dir.path(), CLUSTER, 1).unwrap_err().to_string().contains("damaged"), "{from}");
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(claim(dir.path(), CLUSTER, 1).unwrap_err().to_string().contains("damaged"));
    }
}
