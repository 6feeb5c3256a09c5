//! Recoveries of lost quorum: who may be touched, and what the regions are afterwards.

use std::collections::BTreeSet;

use multiraft_raft::{LogIndex, RegionId, StoreId};

use super::merges::End;
use super::{Descriptor, Regions, Verdict, broken, is_quorum};

impl Regions {
    /// A plan touches a region that `survivors` alone may go on with.
    ///
    /// # Errors
    /// Every configuration that may be in force, or ever was, has its quorum among them, and one of them has the region's state.
    pub fn on_given_up(&self, region: RegionId, survivors: &BTreeSet<StoreId>) -> Verdict {
        // All that it ever had: survivors may not know yet which of them is in force.
        let all = self.configurations.get(&region).map_or(&[][..], |all| &all[..]);
        let lives = |store: StoreId| {
            let here = self.stores.get(&store).and_then(|here| here.durable.get(&region));
            survivors.contains(&store) && here.is_some()
        };
        if self.newest.contains_key(&region) && all.iter().all(|(_, one)| is_quorum(&one.replicas, &lives)) {
            return broken("no region with a quorum is touched", format!("region {region}: {all:?}, {survivors:?}"));
        }
        Ok(())
    }

    /// A region has begun a new life as this, with a state that stands for an entry at `index`.
    pub fn on_recovered(&mut self, index: LogIndex, becomes: &Descriptor) {
        self.configurations.remove(&becomes.id);
        self.digests.retain(|(region, _), _| *region != becomes.id);
        self.end_freezes(becomes.id, End::RolledBack);
        self.set_newest(index, becomes);
    }

    /// A recovery has carried these regions into their new lives and left those alone that it names: whatever else there was is no
    /// more. Every key has its owner.
    ///
    /// # Errors
    /// Some key has none, or two.
    pub fn on_all_recovered(&mut self, live: &BTreeSet<RegionId>) -> Verdict {
        let gone: Vec<RegionId> = self.newest.keys().filter(|region| !live.contains(region)).copied().collect();
        for region in gone {
            self.end_freezes(region, End::Absorbed);
            self.newest.remove(&region);
        }
        self.check_cover()
    }

    fn end_freezes(&mut self, source: RegionId, end: End) {
        for (_, freeze) in self.freezes.iter_mut().filter(|((region, _), _)| *region == source) {
            freeze.end.get_or_insert(end);
        }
    }
}
