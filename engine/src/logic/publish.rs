//! Keeps [`Leases`] in step with the regions of a worker.

use std::sync::Arc;

use multiraft_raft::{RegionId, StoreId};
use multiraft_router::SlotKey;

use crate::logic::leases::{BACKING_MAX, Lease, Leases, Standing};
use crate::logic::regions::Seen;
use crate::logic::worker::Worker;
use crate::region::holds_data;

impl<R> Worker<R> {
    /// Lists what is read by lease there; before the first turn. Shared by the workers of a store.
    #[must_use]
    pub fn with_leases(mut self, leases: Arc<Leases>) -> Self {
        self.leases = leases;
        self
    }

    /// A region is read by lease: from the end of this turn on callers need not ask for it here.
    pub(super) fn list(&mut self, key: SlotKey) {
        if self.config.leases {
            self.region_mut(key).listed = true;
            self.touch(key);
        }
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
        let (mut backing, mut found, mut voters) = ([const { None }; BACKING_MAX], 0, 0);
        for voter in membership.voters() {
            voters += 1;
            if voter == region.group.id() {
                continue;
            }
            let record = region.group.promised_epoch(voter);
            let held = region.store_of(voter).and_then(|store| self.supports.held(store));
            if let Some((_, held)) = held.filter(|(epoch, _)| record == Some(*epoch))
                && found < BACKING_MAX
            {
                backing[found] = Some(held.clone());
                found += 1;
            }
        }
        let own = usize::from(membership.is_voter(region.group.id()));
        let needed = (voters / 2 + 1_usize).saturating_sub(own);
        Some(Lease { index, needed, backing })
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
