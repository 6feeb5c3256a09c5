//! Installing a received snapshot: decided and carried out under the catalogue's lock, in one atomic write (C3 of
//! `docs/regions.md`).

use std::sync::Arc;

use multiraft_raft::StoreId;
use multiraft_transport::SnapshotHeader;

use super::catalogue::Clearance;
use super::{Applier, ApplyError, Form, ReceivedSnapshots, own};
use crate::apply::{Cause, Tombstone};
use crate::logic::{MergeState, RegionHandle, SnapshotInstalled};
use crate::region::merge::Absorbed;

/// What came of it.
enum Outcome {
    Installed(MergeState, Vec<Tombstone>),
    /// It may be installed a moment later.
    Waits,
    Refused,
}

impl Applier {
    /// Installs it if it helps. One that has to wait for another region stays where it is, to be tried again.
    pub(super) fn install(
        &mut self,
        received: &dyn ReceivedSnapshots,
        handle: RegionHandle,
        from: StoreId,
        header: SnapshotHeader,
    ) -> Result<SnapshotInstalled, ApplyError> {
        let outcome = self.try_install(received, from, &header)?;
        let waits = matches!(outcome, Outcome::Waits);
        if !waits {
            received.discard(from, &header);
        }
        let installed = matches!(outcome, Outcome::Installed(..));
        let (merge, covered) = match outcome {
            Outcome::Installed(merge, covered) => (merge, covered),
            Outcome::Waits | Outcome::Refused => Default::default(),
        };
        Ok(SnapshotInstalled { handle, from, header, installed, waits, merge, covered })
    }

    fn try_install(
        &mut self,
        received: &dyn ReceivedSnapshots,
        from: StoreId,
        header: &SnapshotHeader,
    ) -> Result<Outcome, ApplyError> {
        let catalogue = Arc::clone(&self.catalogue);
        let mut entries = catalogue.lock();
        let Some(absorbed) = Absorbed::decode(&header.absorbed) else {
            tracing::error!(region = %header.region, "a received snapshot does not tell what its region has absorbed");
            return Ok(Outcome::Refused);
        };
        let covered = match entries.clearance(&header.descriptor, &absorbed) {
            Clearance::Clear(covered) => covered,
            Clearance::Wait => return Ok(Outcome::Waits),
            Clearance::Stale => {
                tracing::info!(region = %header.region, "a received snapshot is of the past, and not installed");
                return Ok(Outcome::Refused);
            }
        };
        let tombstones: Vec<Tombstone> = covered
            .iter()
            .map(|state| entries.tombstone_of(state.id, state, Cause::Merged, Default::default()))
            .collect();
        let merge = match &mut self.form {
            Form::Shared(shared) => {
                shared.install(&mut self.regions, received, from, header, (&covered, &tombstones))?
            }
            Form::Own(own) => own::install(own, &mut self.regions, received, from, header, &covered),
        };
        let Some(merge) = merge else { return Ok(Outcome::Refused) };
        for tombstone in &tombstones {
            entries.bury(tombstone.descriptor.id, tombstone.clone());
            self.forget(tombstone.descriptor.id);
        }
        self.lagging.remove(&header.region);
        if self.files.is_some() && !tombstones.is_empty() {
            // The snapshot is durable, and names them: a crash before they are buried leaves no doubt whose the keys are.
            self.buried.extend(tombstones.iter().map(|tombstone| tombstone.descriptor.id));
            self.unsynced.push(Arc::clone(&header.descriptor));
        }
        entries.set_state(Arc::clone(&header.descriptor));
        entries.set_merge(header.region, merge.frozen.clone(), Arc::clone(&merge.absorbed));
        if entries.own(&header.descriptor).is_some_and(|own| merge.fenced.contains(own)) {
            self.barred.insert(header.region);
        }
        Ok(Outcome::Installed(merge, tombstones))
    }
}
