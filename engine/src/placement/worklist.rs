//! What each region needs, kept up to date from round to round.
//!
//! A refresh looks at the regions that the view's journal names, and at those on stores whose class (live,
//! draining, silent, gone) or place has changed. A first one looks at all, and so does one that finds other options, other failure domains or too
//! short a journal.

use std::collections::{BTreeMap, BTreeSet};

use multiraft_raft::{RegionId, StoreId, Time};

use super::board::{Board, Class};
use super::cluster::ClusterView;
use super::domains::{Domains, Place};
use super::health::{Needs, needs};
use super::options::PlacementOptions;
use super::split::excess_permille;

/// Regions, those of the lowest rank first.
pub(super) type Ranked = BTreeSet<(u64, RegionId)>;

/// What has to be done somewhere, kept up to date region by region.
#[derive(Clone, Debug, Default)]
pub(super) struct Worklist {
    /// The view's revision up to which this is right; `None`: not at all.
    seen: Option<u64>,
    /// What each store was good for, and where it stood, in numbers: those of two rounds group stores alike if they are equal.
    classes: BTreeMap<StoreId, (Class, Place)>,
    domains: Domains,
    /// What each needs, and its rank among those to be split.
    needs: BTreeMap<RegionId, (Needs, u64)>,
    /// The urgent ones come first.
    pub(super) repair: Ranked,
    /// The urgent ones come first.
    pub(super) renew: Ranked,
    /// Those whose leader is there come first.
    pub(super) drain: Ranked,
    /// Those that exceed a threshold most come first.
    pub(super) split: Ranked,
    pub(super) spread: Ranked,
    /// Since when each is small and idle.
    pub(super) merge: BTreeMap<RegionId, Time>,
    lost: BTreeSet<RegionId>,
}

impl Worklist {
    /// Looks at all regions the next time.
    pub(super) fn doubt(&mut self) {
        self.seen = None;
    }

    /// The regions that have lost their quorum.
    pub(super) fn lost(&self) -> &BTreeSet<RegionId> {
        &self.lost
    }

    /// Brings the list up to date with the view.
    pub(super) fn refresh(&mut self, cluster: &ClusterView, board: &Board<'_>, options: &PlacementOptions, now: Time) {
        let classes: BTreeMap<_, _> = board.seats.iter().map(|seat| (seat.id, (seat.class, seat.place))).collect();
        let same_domains = self.domains == board.domains;
        let changes = self.seen.filter(|_| same_domains).and_then(|seen| cluster.changed_since(seen));
        let mut look_at: BTreeSet<RegionId> = BTreeSet::new();
        if let Some(changed) = changes {
            look_at.extend(changed);
            let stores: BTreeSet<_> = classes.keys().chain(self.classes.keys()).copied().collect();
            for store in stores.into_iter().filter(|store| classes.get(store) != self.classes.get(store)) {
                look_at.extend(cluster.tally(store).into_iter().flat_map(|tally| tally.regions.iter()));
            }
        } else {
            // Since when each is small outlives a fresh start.
            let since = std::mem::take(self).merge;
            self.merge = since.into_iter().filter(|(id, _)| cluster.region(*id).is_some()).collect();
            look_at.extend(cluster.regions().map(|region| region.id()));
        }
        for id in look_at {
            self.look_at(id, cluster, board, options, now);
        }
        self.seen = Some(cluster.revision());
        self.classes = classes;
        self.domains = board.domains.clone();
    }

    fn look_at(&mut self, id: RegionId, view: &ClusterView, board: &Board<'_>, options: &PlacementOptions, now: Time) {
        let region = view.region(id);
        let found = region.map_or(Needs::default(), |region| needs(region, board, options));
        let led_there =
            region.and_then(|region| region.leader).is_some_and(|leader| board.class(leader) == Class::Draining);
        if let Some((_, split_rank)) = self.needs.remove(&id) {
            for rank in [0, 1] {
                self.repair.remove(&(rank, id));
                self.renew.remove(&(rank, id));
                self.drain.remove(&(rank, id));
            }
            self.split.remove(&(split_rank, id));
            self.spread.remove(&(0, id));
            self.lost.remove(&id);
        }
        if found.has(Needs::MERGE) {
            self.merge.entry(id).or_insert(now);
        } else {
            self.merge.remove(&id);
        }
        if found == Needs::default() {
            return;
        }
        let split_rank = region.map_or(0, |region| u64::MAX - excess_permille(&region.stats, &options.sizes));
        self.needs.insert(id, (found, split_rank));
        let by_urgency = (u64::from(!found.has(Needs::URGENT)), id);
        if found.has(Needs::LOST) {
            self.lost.insert(id);
        } else {
            if found.has(Needs::REPAIR) {
                self.repair.insert(by_urgency);
            }
            if found.has(Needs::RENEW) {
                self.renew.insert(by_urgency);
            }
        }
        if found.has(Needs::DRAIN) {
            self.drain.insert((u64::from(!led_there), id));
        }
        if found.has(Needs::SPLIT) {
            self.split.insert((split_rank, id));
        }
        if found.has(Needs::SPREAD) {
            self.spread.insert((0, id));
        }
    }
}
