//! What is left of replicas that are gone, where state is kept in snapshot files: their tombstones, and what a crash left
//! beside them.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use multiraft_storage::snapshot::{SnapshotId, SnapshotItem};

use crate::apply::{CHUNK_BYTES, FIRST_INDEX, Tombstone};
use crate::region::merge::Absorbed;
use crate::snapshots::{SnapshotFiles, read_header, to_io};

/// Under this name, which no region has, the tombstones are kept: all of them in one piece, which replaces the one before.
pub(super) const TOMBSTONES: RegionId = RegionId(0);
const TOMBSTONES_HEADER: &[u8] = b"tombstones";

impl SnapshotFiles {
    /// Writes the tombstones, durably; then what `region` has here goes.
    pub(crate) fn bury(&self, tombstones: &BTreeMap<RegionId, Tombstone>, region: RegionId) -> io::Result<()> {
        let index = self.store.latest(TOMBSTONES).map_or(LogIndex(1), |saved| saved.id.index.next());
        let id = SnapshotId { region: TOMBSTONES, index, term: Term::ZERO };
        let mut all = Vec::new();
        for tombstone in tombstones.values() {
            let stored = tombstone.encode();
            let length = u32::try_from(stored.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            all.extend_from_slice(&length.to_le_bytes());
            all.extend_from_slice(&stored);
        }
        let chunks = all.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
        let header = Bytes::from_static(TOMBSTONES_HEADER);
        self.store.save_many(vec![SnapshotItem { id, header, chunks }]).map_err(to_io)?;
        if self.store.latest(region).is_some() {
            self.store.remove(region).map_err(to_io)?;
        }
        Ok(())
    }

    /// The tombstones.
    pub(crate) fn tombstones(&self) -> io::Result<BTreeMap<RegionId, Tombstone>> {
        let mut found = BTreeMap::new();
        let Some(mut reader) = self.store.read(TOMBSTONES).map_err(to_io)? else {
            return Ok(found);
        };
        let mut all = Vec::new();
        while let Some(chunk) = reader.next_chunk().map_err(to_io)? {
            all.extend_from_slice(&chunk);
        }
        let mut rest = Bytes::from(all);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the tombstones cannot be read");
        while !rest.is_empty() {
            let length = rest.get(..4).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
            let end = length.map(|length| 4 + length as usize).filter(|end| *end <= rest.len()).ok_or_else(damaged)?;
            let tombstone = Tombstone::decode(&rest.slice(4..end)).ok_or_else(damaged)?;
            found.insert(tombstone.descriptor.id, tombstone);
            rest = rest.slice(end..);
        }
        Ok(found)
    }

    /// Removes what a crash left of replicas that are gone, and of splits that are to be applied again: a child at its first
    /// state beside a parent that has not split yet. Tells which are to be left out, also if a full disk keeps their files.
    pub(super) fn remove_leftovers(&self, store: StoreId) -> io::Result<Vec<RegionId>> {
        let tombstones = self.tombstones()?;
        let mut found = Vec::new();
        for saved in self.store.list().into_iter().filter(|saved| saved.id.region != TOMBSTONES) {
            // One that cannot be read is named when it is restored.
            let Ok(Some(reader)) = self.store.read(saved.id.region) else { continue };
            if let Some((_, absorbed, descriptor)) = read_header(reader.header()) {
                found.push((saved.id.index, descriptor, absorbed));
            }
        }
        let mut gone = Vec::new();
        for (index, descriptor, _) in &found {
            let is_buried = tombstones.get(&descriptor.id).is_some_and(|tombstone| {
                descriptor.replica_on(store).is_none_or(|replica| tombstone.forbids(replica.id))
            });
            // The one that has absorbed it is durable, and its own removal was not.
            let is_absorbed =
                found.iter().any(|(_, _, absorbed)| absorbed.0.iter().any(|(source, _)| *source == descriptor.id));
            let overlaps = |other: &&(LogIndex, RegionDescriptor, Absorbed)| {
                let other = &other.1;
                other.id != descriptor.id
                    && other.id != RegionId::ROOT
                    && other.range.overlaps(&descriptor.range)
                    && other.epoch.version < descriptor.epoch.version
            };
            let is_early =
                *index == FIRST_INDEX && descriptor.id != RegionId::ROOT && found.iter().any(|other| overlaps(&other));
            if is_buried || is_early || is_absorbed {
                gone.push(descriptor.id);
            }
        }
        if !gone.is_empty() {
            match self.store.remove_many(&gone).map_err(to_io) {
                Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
                _ => {}
            }
        }
        Ok(gone)
    }
}
