//! In which directories other stores run: the file `PEERS` beside `STORE`, replaced as a whole when another is met.
//!
//! ```text
//! multiraft peers\n
//! format = 1\n
//! births = 2:0123456789abcdef:7 3:...\n   (store, what its directory is known by, the incarnation in which it was met so first)
//! crc32c = 89abcdef\n                     (of everything before this line)
//! ```
//!
//! Invariant: a store that comes in another directory than the one it is known by is let in only if it says that it has lost that one
//! (`docs/regions.md`, section "A store begins anew"), and in a later incarnation. One that does not say in which it comes, since it speaks
//! version 1 of the wire format, is taken at its incarnation, and changes nothing of what is known.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use multiraft_raft::{Incarnation, StoreId};
use multiraft_transport::{Birth, Births};

use crate::error::StartError;
use crate::field_file::{FieldFile, Fields};

const FILE: FieldFile = FieldFile {
    name: "PEERS",
    title: "multiraft peers",
    format: 1,
    subject: "the file",
    cure: "set it aside if no other store has lost its data directory: what it says is found out anew",
};

/// What other stores are known by.
#[derive(Debug)]
pub(super) struct KnownBirths {
    dir: PathBuf,
    known: Mutex<BTreeMap<StoreId, Known>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    number: u64,
    since: Incarnation,
}

impl KnownBirths {
    /// Reads the file; nobody is known if there is none.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    pub(super) fn open(dir: &Path) -> Result<Self, StartError> {
        let path = dir.join(FILE.name);
        let io = |source| StartError::Io { what: format!("reading {}", path.display()), source };
        let invalid = |reason| StartError::DataDir(format!("{}: {reason}", path.display()));
        let known = match FILE.text(dir).map_err(io)? {
            Some(text) => FILE.parse(&text, read).map_err(invalid)?,
            None => BTreeMap::new(),
        };
        Ok(Self { dir: dir.to_owned(), known: Mutex::new(known) })
    }
}

impl Births for KnownBirths {
    fn admit(&self, peer: StoreId, incarnation: Incarnation, birth: Birth) -> Result<(), String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&peer) {
            Some(before) if birth.number == 0 && incarnation < before.since => {
                return Err(format!(
                    "store {peer} comes with incarnation {incarnation}, and does not say in which data directory: the one that it is known \
                     by has had incarnation {}; put that one back, or, if it is lost, start the store in an empty one with --rejoin, with \
                     the release that the others run",
                    before.since
                ));
            }
            // Its version knows of no births.
            _ if birth.number == 0 => return Ok(()),
            Some(before) if before.number == birth.number => return Ok(()),
            Some(before) if !birth.rejoined || incarnation <= before.since => {
                return Err(format!(
                    "store {peer} comes in another data directory than it is known by: put that one back, or, if it is lost, start the \
                     store in an empty one with --rejoin"
                ));
            }
            _ => {}
        }
        let mut changed = known.clone();
        changed.insert(peer, Known { number: birth.number, since: incarnation });
        FILE.write(&self.dir, &[("births", &Written(&changed))])
            .map_err(|error| format!("store {peer} is new, which could not be written down: {error}"))?;
        *known = changed;
        Ok(())
    }
}

/// How they are written.
struct Written<'a>(&'a BTreeMap<StoreId, Known>);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (store, known)) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{store}:{:016x}:{}", known.number, known.since)?;
        }
        Ok(())
    }
}

fn read(fields: &mut Fields<'_>) -> Option<BTreeMap<StoreId, Known>> {
    let one = |text: &str| {
        let (store, rest) = text.split_once(':')?;
        let (number, since) = rest.split_once(':')?;
        let known = Known { number: u64::from_str_radix(number, 16).ok()?, since: Incarnation(since.parse().ok()?) };
        Some((StoreId(store.parse().ok()?), known))
    };
    fields.next("births")?.split(' ').map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn birth(number: u64) -> Birth {
        Birth { number, rejoined: false }
    }

    fn rejoined(number: u64) -> Birth {
        Birth { number, rejoined: true }
    }

    const PEER: StoreId = StoreId(2);

    #[test]
    fn a_store_in_another_directory_is_refused_unless_it_says_that_it_has_lost_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let open = || KnownBirths::open(dir.path()).unwrap();
        assert_eq!(open().admit(PEER, Incarnation(3), birth(7)), Ok(()));
        assert_eq!(open().admit(PEER, Incarnation(4), birth(7)), Ok(()), "as it was, whatever it says");
        let refused = open().admit(PEER, Incarnation(1), birth(8)).unwrap_err();
        assert!(refused.contains("store 2") && refused.contains("--rejoin"), "{refused}");
        assert_eq!(open().admit(PEER, Incarnation(3), rejoined(8)), Err(refused.clone()), "that was before");
        assert_eq!(open().admit(PEER, Incarnation(9), rejoined(8)), Ok(()));
        assert_eq!(open().admit(PEER, Incarnation(10), rejoined(8)), Ok(()));
        assert_eq!(open().admit(PEER, Incarnation(5), birth(7)), Err(refused.clone()), "the old one comes back");
        assert_eq!(open().admit(PEER, Incarnation(11), birth(7)), Err(refused));
        assert_eq!(open().admit(StoreId(3), Incarnation(1), birth(8)), Ok(()));
    }

    #[test]
    fn a_store_that_is_taken_back_to_a_version_without_births_is_let_in_but_for_an_earlier_life_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || KnownBirths::open(dir.path()).unwrap();
        assert_eq!(open().admit(PEER, Incarnation(1), birth(0)), Ok(()), "nobody knows it");
        assert_eq!(open().admit(PEER, Incarnation(5), birth(7)), Ok(()), "it is upgraded");
        let refused = open().admit(PEER, Incarnation(4), birth(0)).unwrap_err();
        assert!(refused.contains("incarnation 4") && refused.contains("--rejoin"), "{refused}");
        assert_eq!(open().admit(PEER, Incarnation(5), birth(0)), Ok(()));
        assert_eq!(open().admit(PEER, Incarnation(6), birth(0)), Ok(()), "it is taken back");
        open().admit(PEER, Incarnation(7), birth(8)).unwrap_err();
        assert_eq!(open().admit(PEER, Incarnation(7), birth(7)), Ok(()), "what was known is known still");
    }

    #[test]
    fn a_store_that_cannot_be_remembered_is_not_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let births = KnownBirths::open(dir.path()).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(births.admit(PEER, Incarnation(3), birth(7)).unwrap_err().contains("could not be written down"));
        fs::create_dir(dir.path()).unwrap();
        assert_eq!(births.admit(PEER, Incarnation(3), birth(8)), Ok(()));
    }

    #[test]
    fn the_file_is_written_as_it_always_was_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let births = KnownBirths::open(dir.path()).unwrap();
        births.admit(StoreId(3), Incarnation(1), birth(0xab)).unwrap();
        births.admit(PEER, Incarnation(70), rejoined(u64::MAX)).unwrap();
        let path = dir.path().join(FILE.name);
        let text = fs::read_to_string(&path).unwrap();
        let body = "multiraft peers\nformat = 1\nbirths = 2:ffffffffffffffff:70 3:00000000000000ab:1\n";
        assert_eq!(text, format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes())));
        fs::write(&path, text.replace("70", "71")).unwrap();
        assert!(KnownBirths::open(dir.path()).unwrap_err().to_string().contains("damaged"));
    }
}
