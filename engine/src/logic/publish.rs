//! Keeps [`Leases`] in step with the regions of a worker.

use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionId, StoreId, Term};
use multiraft_router::SlotKey;

use crate::logic::leases::{Asker, BACKING_MAX, Lease, Leases, PARTNERS_MAX, Standing};
use crate::logic::regions::Seen;
use crate::logic::worker::Worker;
use crate::region::holds_data;

impl<R> Worker<R> {
    /// Lists what is read there; before the first turn. Shared by the workers of a store.
    #[must_use]
    pub fn with_leases(mut self, leases: Arc<Leases>) -> Self {
        self.leases = leases;
        self
    }

    /// A region is read: from the end of this turn on callers need not ask for it here.
    pub(super) fn list(&mut self, key: SlotKey) {
        if !self.region(key).listed {
            self.region_mut(key).listed = true;
            self.touch(key);
        }
    }

    /// The index of a region that is led here, if the asker's word is all that a read there lacks (R2a).
    pub(super) fn index_by_word(&self, key: SlotKey, from: StoreId, term: Term) -> Option<(LogIndex, Term)> {
        self.standing_of(key)?.index_for(&Asker { store: from, term, lease_at: None })
    }

    /// Brings what is listed of a region up to date. To be called after everything that may change how it stands, in the same
    /// turn: nothing of the turn has left by then (rule R4).
    pub(super) fn list_again(&mut self, key: SlotKey) {
        if self.regions.get(key).is_none_or(|region| !region.listed) {
            return;
        }
        let id = self.region(key).id();
        match self.standing_of(key) {
            Some(standing) => self.leases.list(id, standing),
            None => {
                self.region_mut(key).listed = false;
                self.leases.take_off(id);
            }
        }
    }

    /// A region is quiet: if nobody reads it any more, it is listed no longer.
    pub(super) fn take_off_unused(&mut self, key: SlotKey) {
        let region = self.region(key);
        if region.listed && !self.leases.was_used(region.id()) {
            self.leases.take_off(region.id());
            self.region_mut(key).listed = false;
        }
    }

    /// How a region stands; `None` if its worker has to see to every read: there is no data, or nobody may read it (M1).
    fn standing_of(&self, key: SlotKey) -> Option<Standing> {
        let region = self.region(key);
        let can_serve = region.initialised && holds_data(region.descriptor(), self.config.store);
        if !can_serve || region.merge.frozen.is_some() {
            return None;
        }
        let group = &region.group;
        Some(Standing {
            epoch: region.descriptor().epoch,
            term: group.term(),
            applied: group.applied_index(),
            leader: region.leader_store().filter(|leader| *leader != self.config.store).unwrap_or(StoreId::ZERO),
            lease: self.lease_of(key),
        })
    }

    /// What the lease of a leader here rests on: the support under which its voters have promised, as it stands in the records.
    /// Whether that lasts is for whoever reads to see.
    fn lease_of(&self, key: SlotKey) -> Option<Lease> {
        let region = self.region(key);
        let membership = region.group.membership();
        // In two halves it is counted by the worker.
        let index = region.group.fortified_read_index().filter(|_| !membership.is_joint())?;
        let own = usize::from(membership.is_voter(region.group.id()));
        let needed = (membership.voters().count() / 2 + 1).saturating_sub(own);
        let others = || membership.voters().filter(|voter| *voter != region.group.id());
        let mut partners = [StoreId::ZERO; PARTNERS_MAX];
        if needed == 1 {
            let stores = others().filter_map(|voter| region.store_of(voter));
            partners.iter_mut().zip(stores).for_each(|(place, store)| *place = store);
        }
        let (mut backing, mut found) = ([const { None }; BACKING_MAX], 0);
        for voter in others().filter(|_| self.config.leases) {
            let record = region.group.promised_epoch(voter);
            let held = region.store_of(voter).and_then(|store| self.supports.held(store));
            if let Some((_, held)) = held.filter(|(epoch, _)| record == Some(*epoch))
                && found < BACKING_MAX
            {
                backing[found] = Some(held.clone());
                found += 1;
            }
        }
        Some(Lease { index, partners, needed, backing })
    }

    /// A region of which something else is listed than how it stands, or that is listed by mistake: for drivers that check their
    /// engine after each turn. What a lease rests on may be of an earlier period: that has ended for whoever reads.
    #[must_use]
    pub fn listed_wrongly(&self) -> Option<RegionId> {
        let is_wrong = |(key, region): &(SlotKey, Seen<'_, R>)| {
            let without_backing = |mut standing: Standing| {
                if let Some(lease) = &mut standing.lease {
                    lease.backing = [const { None }; BACKING_MAX];
                }
                standing
            };
            let stands = region.listed.then(|| self.standing_of(*key)).flatten().map(without_backing);
            self.leases.standing(region.id()).map(without_backing) != stands
        };
        self.regions.iter().find(is_wrong).map(|(_, region)| region.id())
    }
}
