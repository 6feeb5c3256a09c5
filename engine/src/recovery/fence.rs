//! What a recovery leaves in a store's data directory for good: the file `RECOVERY`, replaced as a whole.
//!
//! ```text
//! multiraft recovery\n
//! format = 1\n
//! plan = 0123456789abcdef\n
//! state = begun\n             (or done)
//! ids = 16777300\n            (ids up to this one are used up)
//! dead = 3 4\n
//! crc32c = 89abcdef\n         (of everything before this line)
//! ```
//!
//! A store in which a plan was begun and not finished does not start. One in which it was finished refuses the dead for ever.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use multiraft_raft::StoreId;

use super::PlanId;

const NAME: &str = "RECOVERY";
const TEMPORARY: &str = "RECOVERY.new";
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The last plan that was carried out here, or begun.
    pub plan: PlanId,
    /// Whether it was carried out to the end.
    pub done: bool,
    /// Ids up to this one are used up.
    pub ids_upto: u64,
    /// The stores that are refused.
    pub dead: Vec<StoreId>,
}

impl Fence {
    /// Reads the file in a data directory; `None` if there was no recovery there.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense; the reason says what to do.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid =
            |reason: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path.display()));
        Self::parse(&text).map(Some).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let damaged = || {
            "the file is damaged: put it back as it was; without it, dead stores could come back unnoticed".to_owned()
        };
        let mut lines = text.lines();
        if lines.next() != Some("multiraft recovery") {
            return Err(damaged());
        }
        let mut field = |name: &str| {
            let (found, value) = lines.next().and_then(|line| line.split_once(" = ")).ok_or_else(damaged)?;
            if found == name { Ok(value) } else { Err(damaged()) }
        };
        let format: u32 = field("format")?.parse().map_err(|_| damaged())?;
        if format > FORMAT {
            return Err(format!(
                "the file has format {format}, this program knows up to {FORMAT}: run a newer version"
            ));
        }
        let plan = field("plan")?.parse().map_err(|_| damaged())?;
        let done = match field("state")? {
            "begun" => false,
            "done" => true,
            _ => return Err(damaged()),
        };
        let ids_upto = field("ids")?.parse().map_err(|_| damaged())?;
        let dead = field("dead")?.split(' ').filter(|id| !id.is_empty()).map(|id| id.parse().map(StoreId));
        let dead = dead.collect::<Result<Vec<_>, _>>().map_err(|_| damaged())?;
        let crc = u32::from_str_radix(field("crc32c")?, 16).map_err(|_| damaged())?;
        let fence = Self { plan, done, ids_upto, dead };
        if crc == crc32c::crc32c(fence.body().as_bytes()) { Ok(fence) } else { Err(damaged()) }
    }

    fn body(&self) -> String {
        let dead: Vec<String> = self.dead.iter().map(ToString::to_string).collect();
        let state = if self.done { "done" } else { "begun" };
        format!(
            "multiraft recovery\nformat = {FORMAT}\nplan = {}\nstate = {state}\nids = {}\ndead = {}\n",
            self.plan,
            self.ids_upto,
            dead.join(" ")
        )
    }

    /// Replaces the file, durably: written beside, synced, renamed, directory synced.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let body = self.body();
        let text = format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()));
        let temporary = dir.join(TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(NAME))?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_was_written_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Fence::read(dir.path()).unwrap(), None);
        let fence = Fence { plan: PlanId(77), done: false, ids_upto: 1 << 40, dead: vec![StoreId(3), StoreId(4)] };
        fence.write(dir.path()).unwrap();
        assert_eq!(Fence::read(dir.path()).unwrap(), Some(fence.clone()));
        let path = dir.path().join(NAME);
        let good = fs::read_to_string(&path).unwrap();
        for (from, to, says) in [
            ("format = 1", "format = 9", "newer version"),
            ("dead = 3 4", "dead = 3", "damaged"),
            ("begun", "done", "damaged"),
            ("multiraft", "multi", "damaged"),
        ] {
            fs::write(&path, good.replace(from, to)).unwrap();
            let error = Fence::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(says), "{from}: {error}");
        }
        Fence { dead: Vec::new(), done: true, ..fence }.write(dir.path()).unwrap();
        assert_eq!(Fence::read(dir.path()).unwrap().unwrap().dead, []);
    }
}
