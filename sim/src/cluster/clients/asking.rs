//! Whom a client asks, and how fresh an answer it wants.

use std::sync::Arc;
use std::time::Duration;

use multiraft::logic::Freshness;
use multiraft_raft::RegionDescriptor;

use super::super::{Cluster, Waiter, place_of};
use super::Role;
use crate::history::Key;
use crate::machine;
use crate::random::mix;
use crate::schedule::{MILLI, Moment};

/// How old reads of bounded age may be, beside a little.
const AGE_MAX: u64 = 1_500 * MILLI;

impl Cluster {
    /// How fresh a read is to be. One that may be so old is as if it had been asked for so long before: for the rest, the history has
    /// to be as linearizable.
    pub(super) fn freshness_of(&mut self, client: usize, waiter: Waiter) -> Freshness {
        if self.plan.leases && waiter.0.is_multiple_of(2) {
            return Freshness::Lease;
        }
        if self.clients.clients[client].role != Role::Loader || waiter.0 % 4 != 1 {
            return Freshness::Linearizable;
        }
        let age = 20 * MILLI + mix(waiter.0) % AGE_MAX;
        if let Some(running) = &mut self.clients.clients[client].running {
            // The store's own clock may be slow.
            let before = Moment(self.schedule.now().0.saturating_sub(age + age / 10));
            running.invoked = running.invoked.min(before);
        }
        Freshness::Within(Duration::from_nanos(age))
    }

    /// A store to ask: mostly one that is known to have the region, sometimes any.
    pub(super) fn choose_store(&mut self, key: Key) -> usize {
        let owner = self.clients.routes.owner(&machine::key_bytes(key));
        let near: Vec<usize> = owner.iter().flat_map(|owner| &owner.replicas).map(|one| place_of(one.store)).collect();
        let random = &mut self.clients.random;
        if near.is_empty() || random.chance(250) {
            random.below(self.nodes.len() as u64) as usize
        } else {
            random.pick(&near)
        }
    }

    /// The region that owns a key, as the clients know it; where they know nothing, as a store knows it.
    pub(super) fn route(&mut self, store: usize, key: Key) -> Option<Arc<RegionDescriptor>> {
        let key = machine::key_bytes(key);
        if self.clients.routes.owner(&key).is_none() {
            self.ask_for_route(store, &key);
        }
        self.clients.routes.owner(&key)
    }

    /// The clients learn what a store knows of a key's owner.
    pub(super) fn ask_for_route(&mut self, store: usize, key: &[u8]) {
        let process = self.nodes[store].process.as_ref();
        let known = process.and_then(|process| process.routes.owner(key));
        known.iter().for_each(|known| self.clients.routes.learn(known));
    }
}
