//! What a recovery leaves in a store's data directory for good: the file `RECOVERY`, replaced as a whole.
//!
//! ```text
//! multiraft recovery\n
//! format = 2\n
//! plan = 0123456789abcdef\n
//! state = begun\n             (or done)
//! ids = 16777300\n            (ids up to this one are used up)
//! dead = 3 4\n
//! out_of_service = 7 9\n      (regions whose replicas were out of service when the plan was begun; not in format 1)
//! crc32c = 89abcdef\n         (of everything before this line)
//! ```
//!
//! A store in which a plan was begun and not finished does not start. One in which it was finished refuses the dead for ever.

use std::io;
use std::path::Path;

use multiraft_raft::{RegionId, StoreId};
use multiraft_storage::Disk;

use super::PlanId;
use crate::field_file::{FieldFile, Fields};

const FILE: FieldFile = FieldFile {
    name: "RECOVERY",
    title: "multiraft recovery",
    format: 2,
    subject: "the file",
    cure: "put it back as it was; without it, dead stores could come back unnoticed",
};

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
    /// The regions whose replicas here could not start when the plan was begun. Any other one that cannot later, while the
    /// plan is carried out, can be read again: nothing may be given up for that.
    pub out_of_service: Vec<RegionId>,
}

impl Fence {
    /// Reads the file in a data directory; `None` if there was no recovery there.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense; the reason says what to do.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        Self::parse(FILE.text(dir)?, || dir.join(FILE.name).display().to_string())
    }

    /// Reads the file on a disk that stands for a data directory.
    ///
    /// # Errors
    /// As [`Fence::read`].
    pub fn read_on(disk: &dyn Disk) -> io::Result<Option<Self>> {
        Self::parse(FILE.text_on(disk)?, || disk.describe(FILE.name))
    }

    fn parse(text: Option<String>, path: impl Fn() -> String) -> io::Result<Option<Self>> {
        let Some(text) = text else { return Ok(None) };
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path()));
        FILE.parse(&text, Self::from_fields).map(Some).map_err(invalid)
    }

    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let plan = fields.next("plan")?.parse().ok()?;
        let done = match fields.next("state")? {
            "begun" => false,
            "done" => true,
            _ => return None,
        };
        let ids_upto = fields.next("ids")?.parse().ok()?;
        let dead = ids(fields.next("dead")?)?.into_iter().map(StoreId).collect();
        let out = fields.next("out_of_service").map_or(Some(Vec::new()), ids)?.into_iter().map(RegionId).collect();
        Some(Self { plan, done, ids_upto, dead, out_of_service: out })
    }

    /// Replaces the file, durably.
    pub(super) fn write_on(&self, disk: &dyn Disk) -> io::Result<()> {
        let dead = self.dead.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let out = self.out_of_service.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let state = if self.done { "done" } else { "begun" };
        let fields: [(&str, &dyn std::fmt::Display); 5] = [
            ("plan", &self.plan),
            ("state", &state),
            ("ids", &self.ids_upto),
            ("dead", &dead),
            ("out_of_service", &out),
        ];
        FILE.write_on(disk, &fields)
    }
}

/// Numbers with spaces between them.
fn ids(text: &str) -> Option<Vec<u64>> {
    text.split(' ').filter(|id| !id.is_empty()).map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use multiraft_storage::RealDisk;

    use super::*;

    #[test]
    fn the_file_is_read_as_it_was_written_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Fence::read(dir.path()).unwrap(), None);
        let disk = RealDisk::guarded(dir.path()).unwrap();
        let (dead, out) = (vec![StoreId(3), StoreId(4)], vec![RegionId(7)]);
        let fence = Fence { plan: PlanId(77), done: false, ids_upto: 1 << 40, dead, out_of_service: out };
        fence.write_on(&disk).unwrap();
        assert_eq!(Fence::read(dir.path()).unwrap(), Some(fence.clone()));
        assert_eq!(Fence::read_on(&disk).unwrap(), Some(fence.clone()));
        let path = dir.path().join(FILE.name);
        let good = fs::read_to_string(&path).unwrap();
        for (from, to, says) in [
            ("format = 2", "format = 9", "newer version"),
            ("dead = 3 4", "dead = 3", "damaged"),
            ("begun", "done", "damaged"),
            ("multiraft", "multi", "damaged"),
        ] {
            fs::write(&path, good.replace(from, to)).unwrap();
            let error = Fence::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(says), "{from}: {error}");
        }
        Fence { dead: Vec::new(), out_of_service: Vec::new(), done: true, ..fence }.write_on(&disk).unwrap();
        let read = Fence::read(dir.path()).unwrap().unwrap();
        assert_eq!((read.dead, read.out_of_service), (vec![], vec![]));
    }

    #[test]
    fn a_file_of_the_first_format_tells_of_nothing_that_is_out_of_service() {
        let body = "multiraft recovery\nformat = 1\nplan = 000000000000004d\nstate = done\nids = 9\ndead = 3\n";
        let text = format!("{body}crc32c = {:08x}\n", crc32c::crc32c(body.as_bytes()));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE.name), text).unwrap();
        let fence = Fence::read(dir.path()).unwrap().unwrap();
        let dead = vec![StoreId(3)];
        assert_eq!(fence, Fence { plan: PlanId(77), done: true, ids_upto: 9, dead, out_of_service: vec![] });
    }
}
