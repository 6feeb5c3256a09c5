//! Merges: of every committed freeze, whom it is for, that all replicas of its source are durably frozen before it is absorbed, and
//! that it comes to one end.

use std::sync::Arc;

use multiraft::logic::{Absorbed, Frozen, MergeState};
use multiraft_raft::{KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, Replica, StoreId};

use super::{Descriptor, ONE_OWNER, Regions, Verdict, Violation, broken};

const ONE_END: &str = "a merge has one end";
const ALL_FROZEN: &str = "a merge commits only when every replica of its source is durably frozen";
const TOGETHER: &str = "only regions on the same stores merge";

/// A committed freeze.
#[derive(Debug)]
pub(super) struct Freeze {
    index: LogIndex,
    target: Descriptor,
    pub(super) end: Option<End>,
    /// Deaths of its stores meanwhile.
    crashes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Absorbed,
    RolledBack,
}

/// What is to be told of a merge that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Deaths of its stores since the freeze.
    pub crashes: u64,
    /// The source was the target of another merge.
    pub frozen_target: bool,
}

impl Regions {
    /// A committed freeze at `index` has made `region` of a region: for the first time (then the answer is yes), or as elsewhere
    /// before.
    ///
    /// # Errors
    /// It does not follow from what the region was, or names a target that is not beside it on the same stores.
    pub fn on_frozen(&mut self, index: LogIndex, region: &Descriptor, frozen: &Frozen) -> Result<bool, Violation> {
        if !self.take_step(index, region)? {
            return Ok(false);
        }
        if !are_together(region, &frozen.target) {
            return Err(Violation::new(TOGETHER, format!("{region:?} is frozen for {:?}", frozen.target)));
        }
        let target = Arc::clone(&frozen.target);
        let freeze = Freeze { index, target, end: None, crashes: 0 };
        self.freezes.insert((region.id, region.epoch.version), freeze);
        Ok(true)
    }

    /// A committed roll-back, likewise.
    ///
    /// # Errors
    /// The region was not frozen, or is absorbed.
    pub fn on_thawed(&mut self, index: LogIndex, region: &Descriptor) -> Result<bool, Violation> {
        if self.is_known(region)? {
            return Ok(false);
        }
        let frozen = (region.id, region.epoch.version - 1);
        match self.freezes.get_mut(&frozen) {
            Some(freeze) if freeze.end.is_none() => freeze.end = Some(End::RolledBack),
            freeze => return Err(Violation::new(ONE_END, format!("{region:?} is rolled back: {freeze:?}"))),
        }
        self.take_step(index, region)
    }

    /// A committed fence, likewise.
    ///
    /// # Errors
    /// It does not follow from what the region was.
    pub fn on_fenced(&mut self, index: LogIndex, region: &Descriptor) -> Result<bool, Violation> {
        self.take_step(index, region)
    }

    /// A committed merge at `index` has made `region` of the target; what it has absorbed in all ends with the source. For the
    /// first time, or (`None`) as elsewhere before.
    ///
    /// # Errors
    /// It is not what the source's freeze was for, comes before every replica of the source was durably frozen, or after it was
    /// rolled back; or leaves a gap or an overlap.
    pub fn on_merged(
        &mut self,
        index: LogIndex,
        region: &Descriptor,
        source: RegionId,
        absorbed: &Absorbed,
    ) -> Result<Option<Merged>, Violation> {
        if self.is_known(region)? {
            return Ok(None);
        }
        let bad = |rule, what: &dyn std::fmt::Debug| Err(Violation::new(rule, format!("{region:?} of {what:?}")));
        let Some(name) = absorbed.0.last().copied().filter(|(last, _)| *last == source) else {
            return bad(ONE_END, absorbed);
        };
        let (before, gone) = (self.newest.get(&region.id).cloned(), self.newest.get(&source).cloned());
        let (Some(before), Some(gone)) = (before, gone) else { return bad(ONE_END, &name) };
        let frozen_target =
            self.freezes.iter().any(|((_, _), freeze)| freeze.end.is_none() && freeze.target.id == source);
        let Some(freeze) = self.freezes.get_mut(&name) else { return bad(ONE_END, &name) };
        if freeze.end.is_some() || gone.epoch.version != name.1 {
            return bad(ONE_END, freeze);
        }
        let version = before.epoch.version.max(gone.epoch.version) + 1;
        let follows = freeze.target.id == region.id
            && freeze.target.epoch == before.epoch
            && region.epoch == RegionEpoch { version, ..before.epoch }
            && region.replicas == before.replicas
            && is_union(&region.range, &before.range, &gone.range);
        if !follows {
            return bad(ONE_OWNER, &(before, gone, freeze));
        }
        let is_frozen = |replica: &&Replica| {
            self.stores.get(&replica.store).is_some_and(|here| here.frozen.contains(&(source, freeze.index)))
        };
        if let Some(missing) = gone.replicas.iter().find(|replica| !is_frozen(replica)) {
            return bad(ALL_FROZEN, missing);
        }
        freeze.end = Some(End::Absorbed);
        let crashes = freeze.crashes;
        self.newest.remove(&source);
        self.set_newest(index, region);
        self.check_cover()?;
        Ok(Some(Merged { crashes, frozen_target }))
    }

    /// A step that makes a region one version newer, and else leaves it what it is: says whether it is new.
    fn take_step(&mut self, index: LogIndex, region: &Descriptor) -> Result<bool, Violation> {
        if self.is_known(region)? {
            return Ok(false);
        }
        let before = self.newest.get(&region.id);
        let follows = before.is_some_and(|before| {
            before.range == region.range
                && before.replicas == region.replicas
                && before.epoch.conf_version == region.epoch.conf_version
                && before.epoch.version + 1 == region.epoch.version
        });
        if !follows {
            return Err(Violation::new(ONE_OWNER, format!("{region:?} does not follow {before:?}")));
        }
        self.set_newest(index, region);
        Ok(true)
    }

    /// `store` has a region durably frozen by the entry at `index`.
    pub fn on_frozen_here(&mut self, store: StoreId, region: RegionId, index: LogIndex) {
        self.stores.entry(store).or_default().frozen.insert((region, index));
    }

    /// What a region's state on `store`, found at a start or brought by a snapshot, says of merges. Says whether it names more
    /// than was known to be absorbed there.
    pub fn on_merge_state(&mut self, store: StoreId, region: RegionId, merge: &MergeState) -> bool {
        if let Some(frozen) = &merge.frozen {
            self.on_frozen_here(store, region, frozen.index);
        }
        self.on_list_here(store, region, &merge.absorbed)
    }

    /// `store`'s replica of a region has this list of what it has absorbed. Says whether it is longer than before.
    pub fn on_list_here(&mut self, store: StoreId, region: RegionId, absorbed: &Absorbed) -> bool {
        let known = self.stores.entry(store).or_default().lists.entry(region).or_default();
        let grows = absorbed.0.len() > *known;
        *known = (*known).max(absorbed.0.len());
        grows
    }

    /// On `store` a region's replica was absorbed, durably; its worker does not know yet.
    pub fn on_absorbed_here(&mut self, store: StoreId, region: RegionId) {
        let here = self.stores.entry(store).or_default();
        here.here.remove(&region);
        here.durable.remove(&region);
        here.absorbed.insert(region);
    }

    /// A read was answered from a region at this version.
    ///
    /// # Errors
    /// It was frozen then.
    pub fn on_read(&self, region: RegionId, version: u64) -> Verdict {
        match self.freezes.get(&(region, version)) {
            Some(freeze) => broken("a frozen region serves no reads", format!("region {region}: {freeze:?}")),
            None => Ok(()),
        }
    }

    /// Somebody is told that a merge is done, or that it is rolled back.
    ///
    /// # Errors
    /// It is not so.
    pub fn on_told_of_merge(&self, source: RegionId, version: u64, is_done: bool) -> Verdict {
        let freeze = self.freezes.get(&(source, version));
        let is_absorbed = freeze.is_some_and(|freeze| freeze.end == Some(End::Absorbed));
        if is_absorbed == is_done {
            return Ok(());
        }
        broken("what is told of a merge is so", format!("{source} at {version}, done: {is_done}, is {freeze:?}"))
    }

    /// A store has died.
    pub fn on_crash(&mut self, store: StoreId) {
        for freeze in self.freezes.values_mut().filter(|freeze| freeze.end.is_none()) {
            freeze.crashes += u64::from(freeze.target.replica_on(store).is_some());
        }
    }

    /// A live region, as the newest committed changes have it.
    #[must_use]
    pub fn newest_of(&self, region: RegionId) -> Option<&RegionDescriptor> {
        self.newest.get(&region).map(AsRef::as_ref)
    }

    /// Whether the region that owns a key is frozen: its merge has not ended.
    #[must_use]
    pub fn is_frozen(&self, key: &[u8]) -> bool {
        let owns = |region: &RegionId| self.newest.get(region).is_some_and(|newest| newest.range.contains(key));
        self.freezes.iter().any(|((region, _), freeze)| freeze.end.is_none() && owns(region))
    }

    /// A region whose merge has not ended.
    #[must_use]
    pub fn unfinished(&self) -> Option<RegionId> {
        self.freezes.iter().find(|(_, freeze)| freeze.end.is_none()).map(|((region, _), _)| *region)
    }
}

/// Whether two regions have replicas of the same kinds on the same stores.
#[must_use]
pub fn are_together(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    let places = |region: &RegionDescriptor| {
        let mut places: Vec<_> = region.replicas.iter().map(|replica| (replica.store, replica.role)).collect();
        places.sort_unstable();
        places
    };
    places(one) == places(other)
}

fn is_union(whole: &KeyRange, one: &KeyRange, other: &KeyRange) -> bool {
    let joins = |left: &KeyRange, right: &KeyRange| {
        !left.end.is_empty() && left.end == right.start && whole.start == left.start && whole.end == right.end
    };
    joins(one, other) || joins(other, one)
}
