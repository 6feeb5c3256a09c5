//! What is left of replicas that are gone, where state is kept in snapshot files: their tombstones, and what a crash left
//! beside them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term};
use multiraft_storage::snapshot::{SnapshotId, SnapshotItem};

use crate::apply::{CHUNK_BYTES, Cause, FIRST_INDEX, Tombstone};
use crate::region::merge::Absorbed;
use crate::snapshots::{SnapshotFiles, read_header, to_io};

/// Under this name, which no region has, the tombstones are kept: all of them in one piece, which replaces the one before.
pub(super) const TOMBSTONES: RegionId = RegionId(0);
const TOMBSTONES_HEADER: &[u8] = b"tombstones";

/// What a file says of its region.
struct State {
    index: LogIndex,
    term: Term,
    descriptor: RegionDescriptor,
    absorbed: Absorbed,
}

impl SnapshotFiles {
    /// Writes the tombstones, durably; then what `region` has here goes.
    pub(crate) fn bury(&self, tombstones: &BTreeMap<RegionId, Tombstone>, region: RegionId) -> io::Result<()> {
        self.write_tombstones(tombstones)?;
        if self.store.latest(region).is_some() {
            self.store.remove(region).map_err(to_io)?;
        }
        Ok(())
    }

    fn write_tombstones(&self, tombstones: &BTreeMap<RegionId, Tombstone>) -> io::Result<()> {
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
        self.store.save_many(vec![SnapshotItem { id, header, chunks }]).map_err(to_io)
    }

    /// The tombstones: those that are written, and those that a crash prevented. A state that names what its region has absorbed
    /// is durable before the tombstone of that is (M8).
    pub(crate) fn tombstones(&self, store: StoreId) -> io::Result<BTreeMap<RegionId, Tombstone>> {
        Ok(self.all_tombstones(&self.states(), store)?.0)
    }

    /// All tombstones, and whether some of them are not written yet.
    fn all_tombstones(&self, states: &[State], store: StoreId) -> io::Result<(BTreeMap<RegionId, Tombstone>, bool)> {
        let mut tombstones = self.written_tombstones()?;
        let mut grows = false;
        for state in states {
            let region = state.descriptor.id;
            let names_it = |other: &State| other.absorbed.0.iter().any(|(source, _)| *source == region);
            let is_known = tombstones.get(&region).is_some_and(|tombstone| tombstone.cause == Cause::Merged);
            if is_known || !states.iter().any(names_it) {
                continue;
            }
            grows = true;
            let tombstone = Tombstone {
                replica: state.descriptor.replica_on(store).map_or(ReplicaId::ZERO, |replica| replica.id),
                descriptor: Arc::new(state.descriptor.clone()),
                cause: Cause::Merged,
                version: state.descriptor.epoch.version,
                absorbed: state.absorbed.clone(),
                committed: (state.index, state.term),
            };
            tombstones.insert(region, tombstone);
        }
        Ok((tombstones, grows))
    }

    fn written_tombstones(&self) -> io::Result<BTreeMap<RegionId, Tombstone>> {
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

    /// What the files say of the regions in them.
    fn states(&self) -> Vec<State> {
        let saved = self.store.list().into_iter().filter(|saved| saved.id.region != TOMBSTONES);
        let state = |region| {
            // One that cannot be read is named when it is restored.
            let reader = self.store.read(region).ok()??;
            let SnapshotId { index, term, .. } = reader.id();
            let (_, absorbed, descriptor) = read_header(reader.header())?;
            Some(State { index, term, descriptor, absorbed })
        };
        saved.filter_map(|saved| state(saved.id.region)).collect()
    }

    /// Removes what a crash left of replicas that are gone, and of splits that are to be applied again: a child at its first
    /// state beside a parent that has not split yet. Tells which are to be left out, also if a full disk keeps their files.
    ///
    /// One whose absorption is durable gets its tombstone now: without it, what its log still holds would pass for entries whose
    /// state was lost.
    pub(super) fn remove_leftovers(&self, store: StoreId) -> io::Result<Vec<RegionId>> {
        let found = self.states();
        let (tombstones, grows) = self.all_tombstones(&found, store)?;
        let is_buried = |state: &&State| {
            tombstones.get(&state.descriptor.id).is_some_and(|tombstone| {
                state.descriptor.replica_on(store).is_none_or(|replica| tombstone.forbids(replica.id))
            })
        };
        // What is buried may have been written once more by a checkpoint that was under way: it owns nothing.
        let (buried, here): (Vec<&State>, Vec<&State>) = found.iter().partition(is_buried);
        let mut gone: Vec<RegionId> = buried.iter().map(|state| state.descriptor.id).collect();
        for State { index, descriptor, .. } in &here {
            let overlaps = |other: &&State| {
                let other = &other.descriptor;
                other.id != descriptor.id
                    && other.id != RegionId::ROOT
                    && other.range.overlaps(&descriptor.range)
                    && other.epoch.version < descriptor.epoch.version
            };
            if *index == FIRST_INDEX && descriptor.id != RegionId::ROOT && here.iter().any(overlaps) {
                gone.push(descriptor.id);
            }
        }
        // A tombstone that is only told by the state of its region is written before that goes.
        let written = if grows { self.write_tombstones(&tombstones) } else { Ok(()) };
        match written.and_then(|()| self.store.remove_many(&gone).map_err(to_io)) {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error),
            _ => Ok(gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{KeyRange, RegionEpoch, Replica, Role};
    use multiraft_storage::SimDisk;

    use super::*;
    use crate::snapshots::{CHECKPOINT, file_header};

    const STORE: StoreId = StoreId(1);

    fn save(
        files: &SnapshotFiles,
        id: u64,
        (start, end): (&'static str, &'static str),
        version: u64,
        absorbed: &[(u64, u64)],
    ) {
        let range = KeyRange { start: Bytes::from_static(start.as_bytes()), end: Bytes::from_static(end.as_bytes()) };
        let replicas = vec![Replica { id: ReplicaId(id * 10), store: STORE, role: Role::Voter }];
        let epoch = RegionEpoch { conf_version: 1, version };
        let descriptor = RegionDescriptor { id: RegionId(id), range, epoch, replicas };
        let absorbed = Absorbed(absorbed.iter().map(|(source, version)| (RegionId(*source), *version)).collect());
        let id = SnapshotId { region: descriptor.id, index: LogIndex(7), term: Term(2) };
        let header = file_header(CHECKPOINT, &absorbed, &descriptor);
        files.store.save_many(vec![SnapshotItem { id, header, chunks: vec![Bytes::from_static(b"state")] }]).unwrap();
    }

    #[test]
    fn a_source_whose_absorption_is_durable_and_whose_own_end_is_not_gets_its_tombstone_at_the_start() {
        let disk = Arc::new(SimDisk::new(1));
        let files = SnapshotFiles::open_on(Arc::clone(&disk) as _).unwrap();
        save(&files, 2, ("a", "z"), 5, &[(3, 4)]);
        save(&files, 3, ("m", "z"), 4, &[(9, 1)]);
        save(&files, 4, ("z", ""), 4, &[]);
        assert_eq!(files.remove_leftovers(STORE).unwrap(), [RegionId(3)]);
        drop(files);
        let files = SnapshotFiles::open_on(disk).unwrap();
        assert_eq!(files.remove_leftovers(STORE).unwrap(), []);
        let tombstones = files.tombstones(STORE).unwrap();
        assert_eq!(tombstones.keys().copied().collect::<Vec<_>>(), [RegionId(3)]);
        let tombstone = &tombstones[&RegionId(3)];
        assert_eq!((tombstone.cause, tombstone.replica, tombstone.version), (Cause::Merged, ReplicaId(30), 4));
        assert_eq!(tombstone.absorbed, Absorbed(vec![(RegionId(9), 1)]), "proof for others");
    }
}
