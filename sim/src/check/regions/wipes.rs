//! Stores that have lost their disk, and begin anew under their number.

use std::collections::BTreeMap;

use multiraft_raft::{Body, LogIndex, Message, RegionId, ReplicaId, StoreId};

use super::{Regions, Store, Verdict, broken};

impl Regions {
    /// `store` has lost its disk: its replicas are gone, and it will not know that others had ended there. What it has said to be frozen
    /// was frozen, and may have been counted; and what its replicas have voted holds.
    pub fn on_wiped(&mut self, store: StoreId) {
        let Some(here) = self.stores.get_mut(&store) else { return };
        *here = Store { frozen: std::mem::take(&mut here.frozen), ..Store::default() };
    }

    /// `store` has lost its disk, and begins anew: nobody may count on what its replicas were before.
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

    /// A message of a replica leaves `store`; the logs of stores end at `last`. A candidate that has yet to apply that its region has given
    /// `store` up may ask a replica that was lost with the disk. If it holds that change, any quorum that has gone on since has a member
    /// among its other voters, or itself: it does no harm. Without the change, what was forgotten may be all that kept it from leading.
    ///
    /// # Errors
    /// Such a replica votes for a candidate without that change.
    pub fn on_forgotten_vote(
        &self,
        store: StoreId,
        region: RegionId,
        message: &Message,
        last: &dyn Fn(StoreId) -> LogIndex,
    ) -> Verdict {
        let Message { from, to, term, body } = message;
        let forgotten = self.stores.get(&store).and_then(|here| here.forgotten.get(&region));
        if forgotten.is_none_or(|forgotten| forgotten < from) || *body != (Body::VoteReply { granted: true }) {
            return Ok(());
        }
        let all = self.configurations.get(&region).map_or(&[][..], |all| &all[..]);
        let names = |at: usize| all[at].1.replicas.iter().any(|replica| replica.id == *from);
        // One that was absorbed has gone with its replicas.
        let Some(given_up) = (0..all.len()).rev().find(|at| names(*at)).and_then(|at| all.get(at + 1)) else {
            return Ok(());
        };
        let homes = all.iter().flat_map(|(_, one)| &one.replicas);
        let Some(candidate) = homes.into_iter().find(|replica| replica.id == *to) else { return Ok(()) };
        if last(candidate.store) >= given_up.0 {
            return Ok(());
        }
        let detail = format!(
            "store {store} votes by replica {from} of {region} for {to} in term {term}, given up at {given_up:?}"
        );
        broken("what was lost with a disk votes for nobody who missed that", detail)
    }
}
