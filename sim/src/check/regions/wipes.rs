//! Stores that have lost their disk, and begin anew under their number.

use std::collections::BTreeMap;

use multiraft_raft::{RegionId, ReplicaId, StoreId};

use super::{Regions, Store, Verdict, broken};

const SILENT: &str = "what was lost with a disk is silent";

impl Regions {
    /// `store` has lost its disk: its replicas are gone, and it will not know that others had ended there. What it has said to be frozen
    /// was frozen, and may have been counted; and what its replicas have voted holds.
    pub fn on_wiped(&mut self, store: StoreId) {
        let Some(here) = self.stores.get_mut(&store) else { return };
        *here = Store { frozen: std::mem::take(&mut here.frozen), ..Store::default() };
    }

    /// `store` has lost its disk, and begins anew: whatever replicas of it any region has named are lost.
    pub fn on_rejoined(&mut self, store: StoreId) {
        let mut forgotten = BTreeMap::<RegionId, ReplicaId>::new();
        for descriptor in self.known.values() {
            if let Some(own) = descriptor.replica_on(store) {
                let highest = forgotten.entry(descriptor.id).or_default();
                *highest = (*highest).max(own.id);
            }
        }
        self.stores.entry(store).or_default().forgotten = forgotten;
    }

    /// A store that begins anew has its floor: replicas up to it are lost.
    ///
    /// # Errors
    /// One that was there before the disk was lost is above it.
    pub fn on_floor(&self, store: StoreId, last: ReplicaId) -> Verdict {
        let forgotten = self.stores.get(&store).into_iter().flat_map(|here| &here.forgotten);
        match forgotten.into_iter().find(|(_, forgotten)| **forgotten > last) {
            Some((region, replica)) => {
                broken(SILENT, format!("store {store} takes replicas above {last}, and had {replica} of {region}"))
            }
            None => Ok(()),
        }
    }

    /// Whether a replica was lost with its store's disk: what it voted and acknowledged is forgotten.
    #[must_use]
    pub fn is_forgotten(&self, store: StoreId, region: RegionId, replica: ReplicaId) -> bool {
        let forgotten = self.stores.get(&store).and_then(|here| here.forgotten.get(&region));
        forgotten.is_some_and(|forgotten| replica <= *forgotten)
    }

    /// A replica on `store` says something, comes to be, or gets a state.
    ///
    /// # Errors
    /// It was lost with the store's disk.
    pub(super) fn check_not_forgotten(&self, store: StoreId, region: RegionId, replica: ReplicaId) -> Verdict {
        if self.is_forgotten(store, region, replica) {
            return broken(SILENT, format!("store {store} has replica {replica} of {region} again"));
        }
        Ok(())
    }
}
