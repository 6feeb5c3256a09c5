//! Which state a store holds, and what can be done with it besides applying.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, StoreId, Term};
use multiraft_storage::{StateBatch, StateError, StateStore};

use crate::apply::barred::Barred;
use crate::apply::catalogue::{Catalogue, Entries};
use crate::apply::decide::{NEXT_ID, RECOVERED};
use crate::apply::own::OwnRegions;
use crate::apply::record::{AppliedRecord, FIRST_INDEX, FIRST_TERM};
use crate::apply::shared::{SharedBackend, lookup, put_region};
use crate::apply::source::{Content, SnapshotSource};
use crate::apply::{Applier, Chunks, Tombstone, to_state_error};
use crate::error::ReadError;
use crate::logic::RegionStart;
use crate::machine::{OwnStateFactory, StateMachine};
use crate::measure::{Survey, Tallies, Tally};
use crate::region::keys;
use crate::region::merge::MergeState;
use crate::region::stores::STORES;
use crate::snapshots::SnapshotFiles;

/// How many of the first regions are made in one write. sled keeps all that a write replaces until its end: thousands of old pages,
/// between which lies what stays.
const CREATED_AT_ONCE: usize = 64;

/// A region as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedRegion {
    /// The region, as of `index`.
    pub descriptor: Arc<RegionDescriptor>,
    /// The last index applied.
    pub index: LogIndex,
    /// The term there.
    pub term: Term,
    /// The state was replaced by a received snapshot, and nothing was applied since.
    pub installed: bool,
    /// How it stands with merges.
    pub merge: MergeState,
}

/// The state of a store, in one of the two forms.
#[derive(Clone)]
pub struct Backend {
    pub(super) form: Form,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) barred: Arc<Barred>,
    store: StoreId,
    /// Where states are kept that are not durable by themselves.
    pub(super) files: Option<SnapshotFiles>,
    /// Where it is counted what commands and queries touch, if it is.
    pub(super) tallies: Option<Arc<Tallies>>,
}

#[derive(Clone)]
pub(super) enum Form {
    /// On the shared state store.
    Shared(SharedBackend),
    /// A machine per region.
    Own(Arc<OwnRegions>),
}

impl Form {
    /// Writes a tombstone, durably, and removes with it what the region had here, of its keys those that are named.
    pub(super) fn bury(
        &self,
        files: Option<&SnapshotFiles>,
        entries: &Entries,
        region: RegionId,
        ranges: &[KeyRange],
        tombstone: &Tombstone,
    ) -> Result<(), StateError> {
        if let Some(files) = files {
            files.bury(entries.tombstones(), region).map_err(to_state_error)?;
        }
        match self {
            Self::Shared(shared) => {
                let mut batch = StateBatch::new();
                for range in ranges.iter().filter(|_| region != RegionId::ROOT) {
                    let (start, end) = keys::data_range(range);
                    batch.delete_range(start, end);
                }
                for (start, end) in [keys::sessions(region), keys::records(region)] {
                    batch.delete_range(start, end);
                }
                batch.delete(keys::applied(region));
                batch.delete(keys::descriptor(region));
                batch.put(keys::tombstone(region), tombstone.encode());
                shared.store.write(batch)?;
                if shared.store.is_durable() { shared.store.flush() } else { Ok(()) }
            }
            Self::Own(own) => {
                own.remove(region);
                Ok(())
            }
        }
    }
}

impl Backend {
    /// A machine on a shared state store.
    #[must_use]
    pub fn shared(machine: Arc<dyn StateMachine>, store: Arc<dyn StateStore>) -> Self {
        Self::new(Form::Shared(SharedBackend { machine, store }))
    }

    /// A machine of its own for each region.
    #[must_use]
    pub fn own(factory: Arc<dyn OwnStateFactory>) -> Self {
        Self::new(Form::Own(Arc::new(OwnRegions::new(factory))))
    }

    fn new(form: Form) -> Self {
        Self {
            form,
            catalogue: Arc::default(),
            barred: Arc::default(),
            store: StoreId::ZERO,
            files: None,
            tallies: None,
        }
    }

    /// The backend of this store; state that is not durable by itself is kept in these files.
    #[must_use]
    pub fn of_store(mut self, store: StoreId, files: &SnapshotFiles) -> Self {
        self.files = (!self.is_durable()).then(|| files.clone());
        self.store = store;
        self
    }

    /// The backend whose commands and queries are counted here.
    pub(crate) fn counted_in(mut self, tallies: Arc<Tallies>) -> Self {
        self.tallies = Some(tallies);
        self
    }

    /// What was counted since this was last asked.
    pub(crate) fn take_tallies(&self) -> BTreeMap<RegionId, Tally> {
        self.tallies.as_ref().map(|tallies| tallies.take()).unwrap_or_default()
    }

    /// Reads on in a region's range to find out how large it is, some bytes and at least one chunk; whether that was the rest
    /// of it.
    pub(crate) fn survey(&self, survey: &mut Survey, bytes: usize) -> Result<bool, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.survey(survey, bytes),
            Form::Own(own) => {
                own.survey(survey);
                Ok(true)
            }
        }
    }

    /// Which store's it is.
    pub(crate) fn store(&self) -> StoreId {
        self.store
    }

    /// Begins with what was found at the start of the store, before any applier works.
    pub fn begin(&self, starts: &[RegionStart], tombstones: &BTreeMap<RegionId, Tombstone>) {
        let regions = starts.iter().map(|start| {
            let MergeState { frozen, absorbed, .. } = start.merge.clone();
            (Arc::clone(&start.descriptor), frozen, absorbed)
        });
        let tombstones = tombstones.iter().map(|(region, tombstone)| (*region, tombstone.clone()));
        self.catalogue.lock().begin(self.store, regions, tombstones);
    }

    /// Takes note, after [`Backend::begin`], of replicas that are out of service: those of which there is a state, and all.
    pub(crate) fn hold(&self, held: &[AppliedRegion], all: impl Iterator<Item = RegionId>) {
        let mut entries = self.catalogue.lock();
        for AppliedRegion { descriptor, merge, .. } in held {
            entries.set_state(Arc::clone(descriptor));
            entries.set_merge(descriptor.id, merge.frozen.clone(), Arc::clone(&merge.absorbed));
        }
        all.for_each(|region| self.barred.insert(region));
    }

    /// Whether the region's replica here is out of service: nothing of its state is passed on.
    pub(crate) fn is_barred(&self, region: RegionId) -> bool {
        self.barred.contains(region)
    }

    /// The tombstones of replicas that are gone, by region.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn tombstones(&self) -> Result<BTreeMap<RegionId, Tombstone>, StateError> {
        match (&self.form, &self.files) {
            (_, Some(files)) => files.tombstones(self.store).map_err(to_state_error),
            (Form::Shared(shared), None) => shared.tombstones(),
            (Form::Own(_), None) => Ok(BTreeMap::new()),
        }
    }

    /// Whether the state survives a restart by itself. If not, each region's durable base is a snapshot file, and
    /// [`Backend::restore`] puts it back at the start.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        match &self.form {
            Form::Shared(shared) => shared.store.is_durable(),
            Form::Own(_) => false,
        }
    }

    /// Makes all state that was written before the call durable. Does nothing where that is the snapshot files' part.
    ///
    /// # Errors
    /// [`StateError`]; the store must then not be used any more.
    pub fn flush(&self) -> Result<(), StateError> {
        match &self.form {
            Form::Shared(shared) => shared.store.flush(),
            Form::Own(_) => Ok(()),
        }
    }

    /// Writes new regions into a durable state, in one atomic write, and makes them durable.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create_regions(&self, regions: &[Arc<RegionDescriptor>]) -> Result<(), StateError> {
        let Form::Shared(shared) = &self.form else {
            return Ok(());
        };
        let mut batch = StateBatch::new();
        for descriptor in regions {
            put_region(&mut batch, descriptor, AppliedRecord::FIRST);
        }
        shared.store.write(batch)?;
        shared.store.flush()
    }

    /// Writes the first regions of a cluster into a durable state, some at a time, and makes them durable. Until all are there the
    /// state has none that could be used; begun anew, this forgets those that it had made.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create_first_regions(&self, regions: &[Arc<RegionDescriptor>]) -> Result<(), StateError> {
        let Form::Shared(shared) = &self.form else {
            return Ok(());
        };
        let mut batch = StateBatch::new();
        if shared.is_being_made()? {
            for (start, end) in [keys::all_applied(), keys::all_descriptors()] {
                batch.delete_range(start, end);
            }
        }
        batch.put(keys::making(), Bytes::new());
        for some in regions.chunks(CREATED_AT_ONCE) {
            for descriptor in some {
                put_region(&mut batch, descriptor, AppliedRecord::FIRST);
            }
            shared.store.write(std::mem::take(&mut batch))?;
        }
        batch.delete(keys::making());
        shared.store.write(batch)?;
        shared.store.flush()
    }

    /// The first snapshot of a new region: its empty state.
    #[must_use]
    pub fn first_snapshot(&self, descriptor: &Arc<RegionDescriptor>) -> SnapshotSource {
        match &self.form {
            Form::Shared(_) => SnapshotSource {
                descriptor: Arc::clone(descriptor),
                index: FIRST_INDEX,
                term: FIRST_TERM,
                absorbed: Arc::default(),
                content: Content::Shared(Vec::new()),
            },
            Form::Own(own) => own.first(descriptor),
        }
    }

    /// Puts a region back to what a snapshot file holds, at the start of a store; tells how it stands with merges.
    ///
    /// # Errors
    /// The file or the state cannot be read or written.
    pub fn restore(&self, region: &AppliedRegion, chunks: Chunks<'_>) -> io::Result<MergeState> {
        let AppliedRegion { descriptor, index, term, installed, .. } = region;
        match &self.form {
            Form::Shared(shared) => {
                let record = AppliedRecord { index: *index, term: *term, installed: *installed };
                shared.restore(descriptor, record, chunks)
            }
            Form::Own(own) => own.restore(descriptor, *index, *term, chunks),
        }
    }

    /// The regions that a durable state knows, in order of id.
    ///
    /// # Errors
    /// [`StateError`]; also if the first ones were not all made.
    pub fn regions(&self) -> Result<Vec<AppliedRegion>, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.regions(),
            Form::Own(_) => Ok(Vec::new()),
        }
    }

    /// What applies the entries of these regions; each region belongs to one applier.
    #[must_use]
    pub fn applier(&self, regions: impl IntoIterator<Item = AppliedRegion>) -> Applier {
        Applier::new(self.clone(), regions)
    }

    /// The stores, as the root region's replica here knows them; `None`: it is not here, or knows of none.
    ///
    /// # Errors
    /// The state store failed.
    pub(crate) fn stores(&self) -> Result<Option<Bytes>, StateError> {
        self.record(RegionId::ROOT, STORES)
    }

    /// What is remembered of a region's last recovery, as its replica here knows it.
    ///
    /// # Errors
    /// The state store failed.
    pub(crate) fn recovered(&self, region: RegionId) -> Result<Option<Bytes>, StateError> {
        self.record(region, RECOVERED)
    }

    /// The next id that the root region's replica here would give away; `None`: it has given none yet, or is not here.
    ///
    /// # Errors
    /// The state store failed.
    pub(crate) fn next_id(&self) -> Result<Option<u64>, StateError> {
        let stored = self.record(RegionId::ROOT, NEXT_ID)?;
        Ok(stored.and_then(|stored| stored.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    fn record(&self, region: RegionId, name: &'static [u8]) -> Result<Option<Bytes>, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.record(region, name),
            Form::Own(own) => Ok(own.record(region, name)),
        }
    }

    /// Answers a query from the applied state of this instant, if the region is what the caller thinks it is.
    ///
    /// # Errors
    /// The region is not here, has changed, or the state store failed.
    pub fn lookup(&self, region: RegionId, epoch: Option<RegionEpoch>, query: &[u8]) -> Result<Bytes, ReadError> {
        if self.barred.contains(region) {
            return Err(ReadError::UnknownRegion { region });
        }
        match &self.form {
            Form::Shared(shared) => lookup(shared, self.store, (region, epoch), query, self.tallies.as_deref()),
            Form::Own(own) => own.lookup(self.store, (region, epoch), query, self.tallies.as_deref()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use multiraft_raft::{Replica, ReplicaId, Role};
    use multiraft_storage::state::SimStore;

    use super::*;
    use crate::apply::merge_tests::Keys;

    fn regions(count: u64) -> Vec<Arc<RegionDescriptor>> {
        let key = |id: u64| Bytes::copy_from_slice(&id.to_be_bytes());
        let region = |id| {
            let replicas = vec![Replica { id: ReplicaId(id), store: StoreId(1), role: Role::Voter }];
            let range = KeyRange { start: key(id), end: key(id + 1) };
            let epoch = RegionEpoch { conf_version: 1, version: 1 };
            Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas })
        };
        (2..count + 2).map(region).collect()
    }

    #[test]
    fn first_regions_are_there_all_or_not_at_all() {
        let disk = SimStore::new();
        let backend = Backend::shared(Arc::new(Keys), Arc::new(disk.clone()));
        let all = regions(3 * CREATED_AT_ONCE as u64);
        // A crash came between two writes.
        let mut batch = StateBatch::new();
        batch.put(keys::making(), Bytes::new());
        all.iter().take(CREATED_AT_ONCE).for_each(|region| put_region(&mut batch, region, AppliedRecord::FIRST));
        disk.write(batch).unwrap();
        assert!(matches!(backend.regions(), Err(StateError::Damaged { .. })));
        // Made anew, and fewer.
        backend.create_first_regions(&all[2..]).unwrap();
        let made: Vec<_> = backend.regions().unwrap().into_iter().map(|region| region.descriptor).collect();
        assert_eq!(made, all[2..]);
        assert_eq!(disk.view().get(&keys::applied(all[0].id)).unwrap(), None);
    }
}
