//! Whose data directory this is: the file `STORE`, replaced as a whole at each start.
//!
//! ```text
//! multiraft store\n
//! format = 1\n
//! cluster = 0123...\n         (32 hexadecimal digits)
//! store = 1\n
//! incarnation = 7\n
//! bootstrapped = true\n
//! crc32c = 89abcdef\n         (of everything before this line)
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use multiraft_raft::{ClusterId, Incarnation, StoreId};

use crate::error::StartError;

const NAME: &str = "STORE";
const TEMPORARY: &str = "STORE.new";
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreFile {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    /// The first regions are durably there.
    pub(crate) bootstrapped: bool,
}

impl StoreFile {
    /// Claims a data directory for the next incarnation of `store`, durably.
    ///
    /// # Errors
    /// The directory is another store's or cluster's, of a newer format, or cannot be read or written.
    pub(crate) fn claim(dir: &Path, cluster: ClusterId, store: StoreId) -> Result<Self, StartError> {
        let found = Self::read(dir)?;
        let mut file = found.unwrap_or(Self { cluster, store, incarnation: Incarnation::ZERO, bootstrapped: false });
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
        file.incarnation = file.incarnation.next();
        file.write(dir)?;
        Ok(file)
    }

    /// Whether a store has run in this directory before.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(NAME).exists()
    }

    /// Reads the file; `None` if there is none yet.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, StartError> {
        let path = dir.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StartError::Io { what: format!("reading {}", path.display()), source }),
        };
        Self::parse(&text).map(Some).map_err(|reason| StartError::DataDir(format!("{}: {reason}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let damaged = || {
            "the file is damaged: put it back as it was, or set this store's data aside and let it rejoin under a new store id".to_owned()
        };
        let mut lines = text.lines();
        if lines.next() != Some("multiraft store") {
            return Err(damaged());
        }
        let mut field = |name: &str| {
            let (found, value) = lines.next().and_then(|line| line.split_once(" = ")).ok_or_else(damaged)?;
            if found == name { Ok(value) } else { Err(damaged()) }
        };
        let format: u32 = field("format")?.parse().map_err(|_| damaged())?;
        if format > FORMAT {
            return Err(format!(
                "the data directory has format {format}, this program knows up to {FORMAT}: run a newer version"
            ));
        }
        let cluster = u128::from_str_radix(field("cluster")?, 16).map_err(|_| damaged())?;
        let store = field("store")?.parse().map_err(|_| damaged())?;
        let incarnation = field("incarnation")?.parse().map_err(|_| damaged())?;
        let bootstrapped = field("bootstrapped")?.parse().map_err(|_| damaged())?;
        let crc = u32::from_str_radix(field("crc32c")?, 16).map_err(|_| damaged())?;
        let file = Self {
            cluster: ClusterId(cluster),
            store: StoreId(store),
            incarnation: Incarnation(incarnation),
            bootstrapped,
        };
        if crc == crc32c::crc32c(file.body().as_bytes()) { Ok(file) } else { Err(damaged()) }
    }

    fn body(&self) -> String {
        format!(
            "multiraft store\nformat = {FORMAT}\ncluster = {}\nstore = {}\nincarnation = {}\nbootstrapped = {}\n",
            self.cluster, self.store, self.incarnation, self.bootstrapped
        )
    }

    /// Replaces the file, durably: written beside, synced, renamed, directory synced.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), StartError> {
        let body = self.body();
        let text = format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()));
        let replace = || -> io::Result<()> {
            let temporary = dir.join(TEMPORARY);
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, dir.join(NAME))?;
            File::open(dir)?.sync_all()
        };
        replace().map_err(|source| StartError::Io { what: format!("writing {NAME} in {}", dir.display()), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn claim(dir: &Path, cluster: ClusterId, store: u64) -> Result<StoreFile, StartError> {
        StoreFile::claim(dir, cluster, StoreId(store))
    }

    #[test]
    fn each_start_is_a_new_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(claim(dir.path(), CLUSTER, 1).unwrap().incarnation, Incarnation(1));
        assert_eq!(claim(dir.path(), CLUSTER, 1).unwrap().incarnation, Incarnation(2));
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
    fn a_newer_format_and_damage_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), CLUSTER, 1).unwrap();
        let path = dir.path().join(NAME);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, good.replace("format = 1", "format = 9")).unwrap();
        assert!(claim(dir.path(), CLUSTER, 1).unwrap_err().to_string().contains("newer version"));
        for (from, to) in [("store = 1", "store = 2"), ("multiraft", "multi"), ("crc32c = ", "crc32c = f")] {
            fs::write(&path, good.replace(from, to)).unwrap();
            assert!(claim(dir.path(), CLUSTER, 1).unwrap_err().to_string().contains("damaged"), "{from}");
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(claim(dir.path(), CLUSTER, 1).unwrap_err().to_string().contains("damaged"));
    }
}
