//! Recoveries of lost quorum: who may be touched, and what the regions are afterwards.

use std::collections::BTreeSet;

use multiraft_raft::{LogIndex, Membership, RegionId, Replica, ReplicaId, StoreId, Term};

use super::merges::End;
use super::{CONFIGURATIONS, Descriptor, Regions, Verdict, broken, is_quorum};

/// What a recovery has made of the regions that its plan names.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// They go on by themselves.
    pub left_alone: BTreeSet<RegionId>,
    /// They have begun a new life.
    pub recovered: BTreeSet<RegionId>,
    /// They are no more.
    pub ended: BTreeSet<RegionId>,
}

impl Regions {
    /// A plan touches a region that `survivors` alone may go on with, whose logs end at `last`. What is `buried` on a store, up to a
    /// replica's id, may have gone in a moment of which nobody was told any more.
    ///
    /// # Errors
    /// In every configuration that may be in force, or ever was, one of them can lead and get the votes of a quorum of them. That a
    /// quorum lives is not enough: what only the dead and a witness held leaves nobody for whom the witness votes.
    pub fn on_given_up(
        &self,
        region: RegionId,
        survivors: &BTreeSet<StoreId>,
        last: &dyn Fn(StoreId) -> (Term, LogIndex),
        buried: &dyn Fn(StoreId) -> Option<ReplicaId>,
    ) -> Verdict {
        // All that it ever had: survivors may not know yet which of them is in force.
        let all = self.configurations.get(&region).map_or(&[][..], |all| &all[..]);
        let lives = |store: StoreId| {
            let is_durable = self.stores.get(&store).is_some_and(|here| here.durable.contains_key(&region));
            let own = all.iter().filter_map(|(_, one)| one.replica_on(store)).map(|replica| replica.id).max();
            survivors.contains(&store) && is_durable && buried(store) < own
        };
        if self.newest.contains_key(&region) && all.iter().all(|(_, one)| goes_on(one, &lives, last)) {
            return broken("no region with a quorum is touched", format!("region {region}: {all:?}, {survivors:?}"));
        }
        Ok(())
    }

    /// Whether every region goes on without what `lost` has of it, in each configuration that may be in force, with logs that end at
    /// `last`.
    #[must_use]
    pub fn can_do_without(&self, lost: StoreId, last: &dyn Fn(StoreId, RegionId) -> (Term, LogIndex)) -> bool {
        self.newest.keys().all(|region| {
            let is_durable = |store| self.stores.get(&store).is_some_and(|here| here.durable.contains_key(region));
            let lives = |store| store != lost && is_durable(store);
            let all = self.configurations.get(region).map_or(&[][..], |all| &all[..]);
            let in_force = &all[all.len().saturating_sub(CONFIGURATIONS)..];
            in_force.iter().all(|(_, one)| goes_on(one, &lives, &|store| last(store, *region)))
        })
    }

    /// A region has begun a new life as this, with a state that stands for an entry at `index`.
    pub fn on_recovered(&mut self, index: LogIndex, becomes: &Descriptor) {
        self.configurations.remove(&becomes.id);
        self.digests.retain(|(region, _), _| *region != becomes.id);
        self.end_freezes(becomes.id, End::RolledBack);
        self.set_newest(index, becomes);
    }

    /// A recovery has carried regions into their new lives, ended some, and left others alone: whatever else there was is no more,
    /// but for what those that it left alone are still to make. Every key has its owner.
    ///
    /// # Errors
    /// Some key has none, or two.
    pub fn on_all_recovered(&mut self, outcome: &Outcome, survivors: &BTreeSet<StoreId>) -> Verdict {
        let Outcome { left_alone, recovered, ended } = outcome;
        let is_live = |region: &RegionId| {
            let is_named = left_alone.contains(region) || recovered.contains(region);
            is_named || (!ended.contains(region) && self.is_still_to_come(*region, left_alone, survivors))
        };
        let gone: Vec<RegionId> = self.newest.keys().filter(|region| !is_live(region)).copied().collect();
        for region in gone {
            self.end_freezes(region, End::Absorbed);
            self.newest.remove(&region);
        }
        for store in survivors {
            recovered.iter().for_each(|region| self.forget_absorption(*store, *region));
        }
        self.check_cover()
    }

    /// A region that goes on may come back where a neighbour had absorbed it, by a replica that was not there before.
    fn forget_absorption(&mut self, store: StoreId, region: RegionId) {
        let Some(here) = self.stores.get_mut(&store) else { return };
        let had_it = here.absorbed.remove(&region) | (here.tombstones.get(&region) == Some(&ReplicaId(u64::MAX)));
        if had_it {
            let known = self.known.values().filter(|descriptor| descriptor.id == region);
            let replicas = known.filter_map(|descriptor| descriptor.replica_on(store)).map(|replica| replica.id);
            here.tombstones.insert(region, replicas.max().unwrap_or_default());
        }
    }

    /// Whether a region is as a split made it that only the dead have applied, of a region that was left alone: that split is
    /// committed, and those who live have its quorum, so they will make it (R5).
    fn is_still_to_come(
        &self,
        region: RegionId,
        left_alone: &BTreeSet<RegionId>,
        survivors: &BTreeSet<StoreId>,
    ) -> bool {
        let parent = self.parents.get(&region).filter(|parent| left_alone.contains(parent));
        let as_made = self.configurations.get(&region).filter(|all| all.len() == 1).and_then(|all| all.first());
        let (Some(parent), Some((_, as_made))) = (parent, as_made) else { return false };
        let has_split = |store: &StoreId| {
            self.stores.get(store).is_some_and(|here| {
                let has_come_to = here.durable.get(parent).is_some_and(|at| at.version >= as_made.epoch.version);
                has_come_to || here.durable.contains_key(&region) || here.tombstones.contains_key(&region)
            })
        };
        !survivors.iter().any(has_split)
    }

    fn end_freezes(&mut self, source: RegionId, end: End) {
        for (_, freeze) in self.freezes.iter_mut().filter(|((region, _), _)| *region == source) {
            freeze.end.get_or_insert(end);
        }
    }
}

/// Whether a replica that lives can lead, and get the votes of a quorum of those who do.
fn goes_on(
    descriptor: &Descriptor,
    lives: &dyn Fn(StoreId) -> bool,
    last: &dyn Fn(StoreId) -> (Term, LogIndex),
) -> bool {
    let can_win = |candidate: &Replica| {
        let may_lead = Membership::from_replicas(&descriptor.replicas).may_lead(candidate.id);
        let votes = |store| lives(store) && last(store) <= last(candidate.store);
        may_lead && lives(candidate.store) && is_quorum(&descriptor.replicas, &votes)
    };
    descriptor.replicas.iter().any(can_win)
}
