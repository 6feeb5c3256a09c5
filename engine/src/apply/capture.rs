//! A region's state of one instant, to be written out or sent later.

use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, ReplicaId, Role};
use multiraft_storage::StateError;

use super::catalogue::Entries;
use super::record::{FIRST_INDEX, FIRST_TERM};
use super::regions::Progress;
use super::{Applier, Form, SnapshotSource};

impl Applier {
    /// The region's state of this instant, to be written out later; `None` if the region is not here, or has applied that
    /// its replica here is removed: a state that does not name its replica is nobody's, and is not kept.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed.
    pub fn capture(&self, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        // Another applier may have absorbed it: what is there of it then is no state of any instant.
        self.capture_among(&self.catalogue.lock(), region)
    }

    /// What one of a region's replicas is sent of its state: of a witness, no more than it needs to go on voting.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn capture_for(&self, region: RegionId, replica: ReplicaId) -> Result<Option<SnapshotSource>, StateError> {
        let entries = self.catalogue.lock();
        let progress = self.regions.get(region);
        let found = progress.as_ref().and_then(|progress| progress.descriptor.replica(replica));
        let role = found.map(|replica| replica.role);
        if role != Some(Role::Witness) {
            return self.capture_among(&entries, region);
        }
        let Some(Progress { descriptor, applied, term, merge, .. }) =
            progress.filter(|progress| entries.is_here(region) && self.is_kept(progress))
        else {
            return Ok(None);
        };
        match &self.form {
            Form::Shared(shared) => shared.capture_bare(&descriptor, applied, term, &merge.absorbed).map(Some),
            Form::Own(own) => Ok(own.capture_bare(region)),
        }
    }

    fn is_kept(&self, progress: &Progress) -> bool {
        progress.applied > LogIndex::ZERO && progress.descriptor.replica_on(self.store).is_some()
    }

    /// The same, for who holds the catalogue's lock.
    pub(super) fn capture_among(
        &self,
        entries: &Entries,
        region: RegionId,
    ) -> Result<Option<SnapshotSource>, StateError> {
        if entries.is_here(region) { self.capture_here(region) } else { Ok(None) }
    }

    pub(super) fn capture_here(&self, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        let Some(progress) = self.regions.get(region).filter(|progress| self.is_kept(progress)) else {
            return Ok(None);
        };
        match &self.form {
            Form::Shared(shared) => {
                let Progress { descriptor, applied, term, merge, .. } = progress;
                shared.capture(&descriptor, applied, term, &merge.absorbed).map(Some)
            }
            Form::Own(own) => Ok(own.capture(region)),
        }
    }

    /// The first state of a region that a split has just made; its own applier does not know it yet.
    pub(super) fn capture_first(&self, child: &Arc<RegionDescriptor>) -> Result<Option<SnapshotSource>, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.capture(child, FIRST_INDEX, FIRST_TERM, &Arc::default()).map(Some),
            Form::Own(own) => Ok(own.capture(child.id)),
        }
    }
}
