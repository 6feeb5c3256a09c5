//! Regions without a usable replica on this store: where requests for them go, and what the answers teach.
//!
//! ```text
//!   caller --- request ---> no replica here --- route? ---> leader, else the replicas' stores in turn
//!                                  |                               |
//!                                  | none                          | not leader (but X): X next, or the next in turn
//!                                  v                               | epoch mismatch: the newer descriptor is the route
//!                           UnknownRegion: the handle              | unknown region, from all of them: the route is gone
//!                           finds a descriptor, gives it           v
//!                           as a route, and asks again       answer of the region
//! ```
//!
//! A route is a hint from a descriptor that this store heard of: the region itself checks its epoch again. There are no
//! time-outs here: each attempt has one answer, and who asked decides whether to try again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{RegionDescriptor, RegionEpoch, RegionId, StoreId, Term, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{ForwardOutcome, ForwardRequest};

use crate::logic::forward::{Address, ForwardKind};
use crate::logic::worker::Worker;
use crate::logic::{Notice, Outcome};

/// How many routes a worker keeps; beyond, the next in line goes and is given anew when it is wanted.
const ROUTES_MAX: usize = 1 << 14;

/// What this worker knows of regions that it cannot serve itself.
pub(super) struct Routes {
    routes: BTreeMap<RegionId, Route>,
    /// The route that made room last; the one behind it is the next to go.
    swept: RegionId,
    /// The peer that was asked last where a region is.
    asked: StoreId,
}

struct Route {
    descriptor: Arc<RegionDescriptor>,
    /// The store that leads, as far as an answer said so.
    leader: Option<StoreId>,
    /// The term that it leads in; zero while it has not said so. Commands are proposed in this term or not at all.
    term: Term,
    /// Which of the descriptor's replicas is tried next while no leader is known.
    next: usize,
    /// How many stores answered since the last useful answer that they know no such region.
    strangers: usize,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self { routes: BTreeMap::new(), swept: RegionId(0), asked: StoreId::ZERO }
    }

    /// Learns where a region is; older news than what is known only gives its stores another chance.
    fn learn(&mut self, descriptor: Arc<RegionDescriptor>) {
        if let Some(route) = self.routes.get_mut(&descriptor.id) {
            route.strangers = 0;
            if route.descriptor.epoch.is_behind(descriptor.epoch) {
                route.leader = route.leader.filter(|leader| descriptor.replica_on(*leader).is_some());
                route.descriptor = descriptor;
            }
            return;
        }
        if self.routes.len() >= ROUTES_MAX {
            let behind = self.routes.range((Bound::Excluded(self.swept), Bound::Unbounded)).next();
            let goes = behind.or_else(|| self.routes.first_key_value()).map(|(region, _)| *region);
            if let Some(goes) = goes {
                self.routes.remove(&goes);
                self.swept = goes;
            }
        }
        let route = Route { leader: None, term: Term(0), next: 0, strangers: 0, descriptor };
        self.routes.insert(route.descriptor.id, route);
    }

    /// The store to ask, and in which term it leads; `None` if there is no route, `Some(None)` if none of its stores can be
    /// reached.
    fn pick(&mut self, region: RegionId, is_reached: impl Fn(StoreId) -> bool) -> Option<Option<(StoreId, Term)>> {
        let route = self.routes.get_mut(&region)?;
        route.leader = route.leader.filter(|leader| is_reached(*leader));
        if let Some(leader) = route.leader {
            return Some(Some((leader, route.term)));
        }
        route.term = Term(0);
        let replicas = &route.descriptor.replicas;
        let in_turn = (0..replicas.len()).map(|offset| (route.next + offset) % replicas.len());
        let found = in_turn.map(|at| (at, replicas[at].store)).find(|(_, store)| is_reached(*store));
        route.next = found.map_or(route.next, |(at, _)| at);
        Some(found.map(|(_, store)| (store, Term(0))))
    }

    /// Learns from what a store answered; returns whether the region is still looked for under this route.
    fn on_answer(&mut self, region: RegionId, from: StoreId, outcome: &ForwardOutcome) -> bool {
        let Some(route) = self.routes.get_mut(&region) else { return false };
        match outcome {
            ForwardOutcome::NotLeader { hint } => {
                // One that names itself leads, and not in the term that it was told.
                route.leader = *hint;
                route.term = Term(0);
                route.next += usize::from(route.leader.is_none());
            }
            ForwardOutcome::UnknownRegion => {
                route.leader = None;
                route.next += 1;
                route.strangers += 1;
                if route.strangers >= route.descriptor.replicas.len() {
                    self.routes.remove(&region);
                    return false;
                }
            }
            ForwardOutcome::Leads { term } => {
                (route.leader, route.term) = (Some(from), *term);
                route.strangers = 0;
            }
            ForwardOutcome::Uncertain => route.leader = None,
            // Who answers so may have been left out by what it tells.
            ForwardOutcome::EpochMismatch { .. } => {
                route.leader = Some(from).filter(|from| route.descriptor.replica_on(*from).is_some());
                route.strangers = 0;
            }
            // Only a leader answers anything else.
            _ => {
                route.leader = Some(from);
                route.strangers = 0;
            }
        }
        true
    }
}

impl<R> Worker<R> {
    /// Whether other stores can be asked for a region whose leader is not known here.
    pub(super) fn has_route(&self, region: RegionId) -> bool {
        self.routes.routes.contains_key(&region)
    }

    /// A descriptor that this store heard of: requests for a region without a replica here may go to its stores.
    pub(super) fn on_route(&mut self, descriptor: Arc<RegionDescriptor>) {
        self.routes.learn(descriptor);
    }

    /// Sends a request to wherever the region is led: to the leader that its replica here knows, else along its route.
    pub(super) fn forward_on(
        &mut self,
        now: Time,
        slot: Option<SlotKey>,
        (region, epoch): (RegionId, RegionEpoch),
        request: ForwardRequest,
        kind: ForwardKind<R>,
    ) {
        if let Some(slot) = slot.filter(|slot| self.region(*slot).leader_store().is_some()) {
            return self.forward(now, slot, epoch, request, kind);
        }
        let (own, silence) = (self.config.store, self.config.raft.election_timeout_min);
        let peers = &self.peers;
        let is_reached = |store: StoreId| store != own && peers.is_heard(store, now, silence);
        match self.routes.pick(region, is_reached) {
            Some(to) => {
                let (to, term) = to.map_or((None, Term(0)), |(to, term)| (Some(to), term));
                self.forward_to(now, to, Address { region, epoch, term }, request, kind);
            }
            None => {
                if let Some(slot) = slot {
                    self.miss_leader(now, slot);
                }
                let outcome = slot.map_or(Outcome::UnknownRegion, |_| Outcome::NotLeader { hint: None });
                self.refuse(kind, &outcome);
            }
        }
    }

    /// What an answer teaches of the region, before whoever asked gets it.
    pub(super) fn learn_from_answer(
        &mut self,
        region: RegionId,
        from: StoreId,
        outcome: ForwardOutcome,
    ) -> ForwardOutcome {
        if let ForwardOutcome::EpochMismatch { current } = &outcome {
            self.notices.push(Notice::Heard(Arc::clone(current)));
            if self.routes.routes.contains_key(&region) && current.id == region {
                self.routes.learn(Arc::clone(current));
            }
        }
        if matches!(outcome, ForwardOutcome::NotLeader { .. } | ForwardOutcome::UnknownRegion) {
            self.doubt_leader(region, from);
        }
        let is_known = self.routes.on_answer(region, from, &outcome) || self.slot_of(region).is_some();
        match outcome {
            // There are other stores to try.
            ForwardOutcome::UnknownRegion if is_known => ForwardOutcome::NotLeader { hint: None },
            outcome => outcome,
        }
    }

    /// Asks the next of the peers in turn where a key or a region is.
    pub(super) fn handle_locate(&mut self, now: Time, region: RegionId, key: Option<Bytes>, reply: R) {
        let silence = self.config.raft.election_timeout_min;
        let kind = ForwardKind::Locate(reply);
        match self.peers.next_heard(self.routes.asked, now, silence) {
            Some(peer) => {
                self.routes.asked = peer;
                let address = Address { region, epoch: RegionEpoch::default(), term: Term(0) };
                self.forward_to(now, Some(peer), address, ForwardRequest::Locate { key }, kind);
            }
            None => self.refuse(kind, &Outcome::NotLeader { hint: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::KeyRange;

    use super::*;

    #[test]
    fn routes_make_room_in_turn() {
        let mut routes = Routes::new();
        let region = |id: usize| {
            let (id, epoch) = (RegionId(id as u64), RegionEpoch::FIRST);
            Arc::new(RegionDescriptor { id, range: KeyRange::full(), epoch, replicas: Vec::new() })
        };
        (1..=ROUTES_MAX + 3).for_each(|id| routes.learn(region(id)));
        assert_eq!(routes.routes.len(), ROUTES_MAX);
        assert_eq!(routes.routes.first_key_value().map(|(id, _)| *id), Some(RegionId(4)));
        // Given anew, one of the first is not the next to go.
        routes.learn(region(1));
        routes.learn(region(2));
        assert!(routes.routes.contains_key(&RegionId(1)) && !routes.routes.contains_key(&RegionId(5)));
    }
}
