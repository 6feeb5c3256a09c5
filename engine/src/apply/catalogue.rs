//! What a store's appliers share about all its replicas: who owns which keys here, and who was here once.
//!
//! The one arbiter of the steps that move a range: split, install, destroy. Such a step takes the lock, decides, writes one
//! atomic batch, and gives the lock back; ordinary commands never take it. The rules are those of `docs/regions.md`.
//!
//! Invariant (F4): ranges of initialised replicas never overlap.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use multiraft_raft::{KeyRange, LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term};

use crate::apply::residents::{Known, Residents};
use crate::apply::tombstone::{Cause, Tombstone, later_of};
use crate::logic::Packed;
use crate::region::merge::{Absorbed, Frozen};

/// What is shared.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    entries: Mutex<Entries>,
}

/// Under the lock.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    residents: Residents,
    tombstones: BTreeMap<RegionId, Tombstone>,
    /// Regions without a replica here that others wait for: they are known to have come to this version without one.
    elsewhere: BTreeMap<RegionId, u64>,
}

/// Whether a snapshot may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Clearance {
    /// Yes, if these go in the same write: the snapshot's region has absorbed them.
    Clear(Vec<Arc<RegionDescriptor>>),
    /// Not yet: a parent has not split here, a region has not heard of its end, or a write is under way.
    Wait,
    /// Never: it is of the past.
    Stale,
}

impl Catalogue {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Entries> {
        // The entries are changed only after what they stand for was decided whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if nobody has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Entries>> {
        match self.entries.try_lock() {
            Ok(entries) => Some(entries),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Entries {
    /// Begins with what was found at the start of a store, each region once.
    pub(crate) fn begin(
        &mut self,
        store: StoreId,
        regions: impl Iterator<Item = (Arc<RegionDescriptor>, Option<Arc<Frozen>>, Arc<Absorbed>)>,
        tombstones: impl Iterator<Item = (RegionId, Tombstone)>,
    ) {
        self.tombstones = tombstones.collect();
        self.elsewhere.clear();
        let known = regions.map(|(descriptor, frozen, absorbed)| {
            let region = descriptor.id;
            let own = descriptor.replica_on(store).map_or_else(|| self.gone(region), |own| own.id);
            (region, Known { frozen, absorbed, ..Known::new(own, Some(descriptor)) })
        });
        self.residents = Residents::of(store, known.collect());
    }

    /// The id of the replica that `descriptor` has on this store.
    pub(crate) fn own(&self, descriptor: &RegionDescriptor) -> Option<ReplicaId> {
        descriptor.replica_on(self.residents.store()).map(|replica| replica.id)
    }

    /// A message asks for a replica without state (C1). Says whether it may come to be.
    pub(crate) fn create(&mut self, region: RegionId, replica: ReplicaId) -> bool {
        if self.tombstones.get(&region).is_some_and(|tombstone| tombstone.forbids(replica)) {
            return false;
        }
        let known = self.residents.get(region).map_or_else(|| Known::new(replica, None), Cow::into_owned);
        if known.state.is_some() || known.replica > replica {
            return false;
        }
        self.residents.put(region, Known { replica, ..known });
        true
    }

    /// Whether a split applied here gives its child a state (C4); if not, the child's own life is ahead of it.
    pub(crate) fn adopts(&self, child: &RegionDescriptor) -> bool {
        let Some(replica) = self.own(child) else { return false };
        if self.tombstones.get(&child.id).is_some_and(|tombstone| tombstone.forbids(replica)) {
            return false;
        }
        self.residents.get(child.id).is_none_or(|known| known.state.is_none() && known.replica <= replica)
    }

    /// The region is what `descriptor` says, and has its state. If its range shrinks, that is told before others get what it loses.
    pub(crate) fn set_state(&mut self, descriptor: Arc<RegionDescriptor>) {
        let region = descriptor.id;
        let here = self.residents.get(region).map(Cow::into_owned);
        let known = match self.own(&descriptor) {
            Some(replica) => here.filter(|known| known.replica == replica).unwrap_or_else(|| Known::new(replica, None)),
            // It has applied its own removal, and stays here until that is carried out.
            None => here.unwrap_or_else(|| Known::new(self.gone(region), None)),
        };
        self.residents.put(region, Known { state: Some(descriptor), ..known });
    }

    /// The highest id that a replica of the region had here which is gone.
    fn gone(&self, region: RegionId) -> ReplicaId {
        self.tombstones.get(&region).map_or(ReplicaId::ZERO, |tombstone| tombstone.replica)
    }

    /// Whether the region is frozen, and what it has absorbed.
    pub(crate) fn set_merge(&mut self, region: RegionId, frozen: Option<Arc<Frozen>>, absorbed: Arc<Absorbed>) {
        self.residents.update(region, |known| (known.frozen, known.absorbed) = (frozen, absorbed));
    }

    /// The region sleeps, and should be this: then no more is kept of it.
    pub(crate) fn rest(&mut self, region: RegionId, packed: &Packed) {
        self.residents.rest(region, packed);
    }

    /// Whether nothing is kept of the region but what it takes while it sleeps.
    #[cfg(test)]
    pub(crate) fn rests(&self, region: RegionId) -> bool {
        self.is_here(region) && self.residents.warm(region).is_none()
    }

    /// Whether the region has a replica here that the entry at `index` has frozen, durably.
    pub(crate) fn is_frozen_at(&self, region: RegionId, index: LogIndex) -> bool {
        let is_it = |known: &Known| known.frozen.as_ref().is_some_and(|frozen| frozen.index == index);
        self.residents.warm(region).is_some_and(|known| is_it(known) && !known.pending)
    }

    /// A region has come to be this without a replica here: noted if a region here is frozen for it.
    pub(crate) fn note_elsewhere(&mut self, descriptor: &RegionDescriptor) {
        let waits_for = |region: RegionId| {
            move |known: &Known| known.frozen.as_ref().is_some_and(|frozen| frozen.target.id == region)
        };
        let residents = &self.residents;
        self.elsewhere.retain(|region, _| residents.frozen().any(waits_for(*region)));
        if self.own(descriptor).is_none() && self.residents.frozen().any(waits_for(descriptor.id)) {
            let version = self.elsewhere.entry(descriptor.id).or_default();
            *version = (*version).max(descriptor.epoch.version);
        }
    }

    /// Whether a frozen region, of which it is known that its target has absorbed it, waits here in vain: the target has no
    /// replica here to do so too, and none that it had is behind the merge. What the region is here then.
    pub(crate) fn abandoned(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        let known = self.residents.warm(region).filter(|known| !known.pending)?;
        let (state, frozen) = (known.state.as_ref()?, known.frozen.as_ref()?);
        let merged = state.epoch.version.max(frozen.target.epoch.version) + 1;
        if self.residents.get(frozen.target.id).is_some() {
            return None;
        }
        let gone = self.tombstones.get(&frozen.target.id).map(|tombstone| tombstone.descriptor.epoch.version);
        let known = gone.max(self.elsewhere.get(&frozen.target.id).copied());
        known.filter(|known| *known >= merged).map(|_| Arc::clone(state))
    }

    /// Whether the region has a replica with a state here.
    pub(crate) fn is_here(&self, region: RegionId) -> bool {
        self.residents.has_state(region)
    }

    /// From now until [`Entries::settle`], nothing may be decided about the region's range.
    pub(crate) fn hold(&mut self, region: RegionId) {
        self.residents.update(region, |known| known.pending = true);
    }

    /// What the region is here, if its replica has a state.
    pub(crate) fn state(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        self.residents.get(region)?.into_owned().state
    }

    /// Whether a write that gives the region its state is not carried out yet.
    pub(crate) fn is_pending(&self, region: RegionId) -> bool {
        self.residents.warm(region).is_some_and(|known| known.pending)
    }

    /// The writes that these regions waited for are carried out.
    pub(crate) fn settle(&mut self, regions: &[RegionId]) {
        for region in regions {
            if self.is_pending(*region) {
                self.residents.update(*region, |known| known.pending = false);
            }
        }
    }

    /// The parts of a range that no other region with a state here owns.
    pub(crate) fn free_parts(&self, region: RegionId, range: KeyRange) -> Vec<KeyRange> {
        let others = self.residents.overlapping(&range).into_iter().filter(|other| *other != region);
        let taken = others.filter_map(|other| Some(self.state(other)?.range.clone()));
        taken.fold(vec![range], |free, taken| free.into_iter().flat_map(|part| without(part, &taken)).collect())
    }

    /// All tombstones, in order of region.
    pub(crate) fn tombstones(&self) -> &BTreeMap<RegionId, Tombstone> {
        &self.tombstones
    }

    /// Whether a snapshot of `descriptor`, a region that has `absorbed` these others, may be installed (C3).
    pub(crate) fn clearance(&self, descriptor: &RegionDescriptor, absorbed: &Absorbed) -> Clearance {
        if self.own(descriptor).is_none_or(|replica| {
            self.tombstones.get(&descriptor.id).is_some_and(|tombstone| tombstone.forbids(replica))
        }) {
            return Clearance::Stale;
        }
        let mut covered = Vec::new();
        if descriptor.id == RegionId::ROOT {
            return Clearance::Clear(covered);
        }
        // What was absorbed counts wherever its keys are by now: the region itself is no more.
        let sources: BTreeSet<RegionId> = absorbed.0.iter().map(|(source, _)| *source).collect();
        let mut others = self.residents.overlapping(&descriptor.range);
        others.extend(sources.iter().filter(|source| **source != RegionId::ROOT));
        others.remove(&descriptor.id);
        let mut wait = self.is_here(descriptor.id) && self.is_pending(descriptor.id);
        for region in others {
            let Some(state) = self.state(region) else { continue };
            let is_absorbed = sources.contains(&region);
            if !is_absorbed && state.epoch.version >= descriptor.epoch.version {
                return Clearance::Stale;
            }
            wait |= self.is_pending(region) || !is_absorbed;
            covered.push(state);
        }
        if wait { Clearance::Wait } else { Clearance::Clear(covered) }
    }

    /// What a replica leaves behind when it goes, given what was last heard of its region.
    pub(crate) fn tombstone_of(
        &self,
        region: RegionId,
        known: &Arc<RegionDescriptor>,
        cause: Cause,
        committed: (LogIndex, Term),
    ) -> Tombstone {
        let resident = self.residents.get(region);
        let resident = resident.as_deref();
        let earlier = self.tombstones.get(&region);
        let replica = resident.map(|resident| resident.replica).max(earlier.map(|earlier| earlier.replica));
        let here = resident.and_then(|resident| resident.state.clone());
        let newest = [here, earlier.map(|earlier| Arc::clone(&earlier.descriptor))].into_iter().flatten();
        let descriptor = newest.fold(Arc::clone(known), |known, other| {
            if known.epoch.is_behind(other.epoch) && !other.epoch.is_behind(known.epoch) { other } else { known }
        });
        // Of one state: the last that a replica had here, be it that of an earlier one.
        let last = resident.and_then(|resident| Some((resident.state.as_ref()?.epoch.version, &*resident.absorbed)));
        let last = last.or(earlier.map(|earlier| (earlier.version, &earlier.absorbed)));
        let (version, absorbed) = last.map(|(version, absorbed)| (version, absorbed.clone())).unwrap_or_default();
        // That the region was absorbed is for good, unless a recovery has brought it back: it has a later epoch then.
        let stays_merged = |earlier: &&Tombstone| earlier.cause == Cause::Merged && !earlier.is_before_recovery(known);
        let cause = if earlier.filter(stays_merged).is_some() { Cause::Merged } else { cause };
        let committed = earlier.map_or(committed, |earlier| later_of(earlier.committed, committed));
        Tombstone { replica: replica.unwrap_or(ReplicaId::ZERO), descriptor, cause, version, absorbed, committed }
    }

    /// Sets or removes a tombstone, and nothing else; gives back the one before.
    pub(crate) fn set_tombstone(&mut self, region: RegionId, tombstone: Option<Tombstone>) -> Option<Tombstone> {
        match tombstone {
            Some(tombstone) => self.tombstones.insert(region, tombstone),
            None => self.tombstones.remove(&region),
        }
    }

    /// The replica is gone.
    pub(crate) fn bury(&mut self, region: RegionId, tombstone: Tombstone) {
        self.residents.remove(region);
        self.tombstones.insert(region, tombstone);
    }
}

/// What is left of a range if another one is cut out of it.
fn without(part: KeyRange, taken: &KeyRange) -> impl Iterator<Item = KeyRange> + use<> {
    if !part.overlaps(taken) {
        return [Some(part), None].into_iter().flatten();
    }
    let before = (part.start < taken.start).then(|| KeyRange { start: part.start, end: taken.start.clone() });
    let ends_later = !taken.end.is_empty() && (part.end.is_empty() || taken.end < part.end);
    let behind = ends_later.then(|| KeyRange { start: taken.end.clone(), end: part.end });
    [before, behind].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use multiraft_raft::{RegionEpoch, Replica, Role};

    use super::*;
    use crate::apply::RECOVERY_LEAP;

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> Arc<RegionDescriptor> {
        let range = KeyRange { start: Bytes::from_static(start.as_bytes()), end: Bytes::from_static(end.as_bytes()) };
        let replicas = vec![Replica { id: ReplicaId(id * 10 + 1), store: StoreId(1), role: Role::Voter }];
        Arc::new(RegionDescriptor {
            id: RegionId(id),
            range,
            epoch: RegionEpoch { conf_version: 1, version },
            replicas,
        })
    }

    fn with(regions: &[Arc<RegionDescriptor>]) -> Entries {
        let mut entries = Entries::default();
        let regions = regions.iter().map(|region| (Arc::clone(region), None, Arc::default()));
        entries.begin(StoreId(1), regions, std::iter::empty());
        entries
    }

    #[test]
    fn a_childs_snapshot_waits_for_the_parents_split() {
        let (entries, none) = (with(&[region(2, "a", "z", 1)]), Absorbed::default());
        assert_eq!(entries.clearance(&region(3, "m", "z", 2), &none), Clearance::Wait);
    }

    #[test]
    fn a_snapshot_replaces_what_its_region_has_absorbed_and_nothing_else() {
        let older = region(2, "g", "m", 1);
        let entries = with(&[older.clone(), region(4, "m", "z", 3)]);
        let (none, absorbed) = (Absorbed::default(), Absorbed(vec![(RegionId(2), 1)]));
        assert_eq!(entries.clearance(&region(3, "a", "m", 2), &absorbed), Clearance::Clear(vec![older]));
        assert_eq!(entries.clearance(&region(3, "a", "m", 2), &none), Clearance::Wait, "it may live on elsewhere");
        let newer_stands_there = entries.clearance(&region(3, "a", "z", 2), &absorbed);
        assert_eq!(newer_stands_there, Clearance::Stale);
    }

    #[test]
    fn nothing_is_decided_about_a_range_whose_write_is_under_way() {
        let mut entries = with(&[region(2, "a", "m", 2), region(3, "m", "z", 2)]);
        let (none, third) = (Absorbed::default(), Absorbed(vec![(RegionId(3), 2)]));
        entries.hold(RegionId(3));
        assert_eq!(entries.clearance(&region(3, "m", "z", 3), &none), Clearance::Wait);
        assert_eq!(entries.clearance(&region(4, "m", "z", 9), &third), Clearance::Wait);
        entries.settle(&[RegionId(3)]);
        assert_eq!(entries.clearance(&region(3, "m", "z", 3), &none), Clearance::Clear(Vec::new()));
    }

    #[test]
    fn what_others_own_is_no_free_part_of_a_range() {
        let entries = with(&[region(2, "a", "z", 1), region(3, "c", "f", 2), region(4, "k", "", 2)]);
        let free = |start: &'static str, end: &'static str| -> Vec<(Bytes, Bytes)> {
            let parts = entries.free_parts(RegionId(2), region(2, start, end, 1).range.clone());
            parts.into_iter().map(|part| (part.start, part.end)).collect()
        };
        assert_eq!(free("a", "z"), [("a".into(), "c".into()), ("f".into(), "k".into())]);
        assert_eq!(free("", ""), [("".into(), "c".into()), ("f".into(), "k".into())]);
        assert_eq!(free("c", "f"), []);
        assert_eq!(free("d", "e"), []);
        assert_eq!(free("f", "k"), [("f".into(), "k".into())]);
        assert_eq!(free("e", "g"), [("f".into(), "g".into())]);
    }

    #[test]
    fn a_split_gives_its_child_a_state_once() {
        let child = region(3, "m", "z", 2);
        let mut entries = with(&[region(2, "a", "z", 1)]);
        assert!(entries.adopts(&child));
        assert!(entries.create(RegionId(3), ReplicaId(31)), "a vote came first");
        assert!(entries.adopts(&child), "it has no state yet");
        entries.set_state(child.clone());
        assert!(!entries.adopts(&child), "it has one");
        let tombstone = entries.tombstone_of(RegionId(3), &child, Cause::Removed, (LogIndex(4), Term(2)));
        entries.bury(RegionId(3), tombstone);
        assert!(!entries.adopts(&child), "it is gone");
        assert!(!entries.create(RegionId(3), ReplicaId(31)));
        assert!(entries.create(RegionId(3), ReplicaId(32)), "another replica of the region may come");
        assert!(!entries.adopts(&child), "one with a higher id is here");
    }

    #[test]
    fn a_tombstone_that_replaces_another_keeps_what_it_proves() {
        let mut entries = with(&[region(2, "a", "m", 7)]);
        entries.set_merge(RegionId(2), None, Arc::new(Absorbed(vec![(RegionId(3), 4)])));
        let known = region(2, "a", "m", 9);
        let first = entries.tombstone_of(RegionId(2), &known, Cause::Removed, Default::default());
        entries.bury(RegionId(2), first.clone());
        assert_eq!((first.version, first.absorbed.0.len()), (7, 1));
        // Written again because there was no space; and of a later replica that never had a state.
        assert_eq!(entries.tombstone_of(RegionId(2), &known, Cause::Removed, Default::default()), first);
        assert!(entries.create(RegionId(2), ReplicaId(30)));
        let second = entries.tombstone_of(RegionId(2), &known, Cause::Removed, Default::default());
        assert_eq!((second.version, &second.absorbed, second.replica), (7, &first.absorbed, ReplicaId(30)));
        entries.bury(RegionId(2), Tombstone { cause: Cause::Merged, ..second });
        let third = entries.tombstone_of(RegionId(2), &known, Cause::Removed, Default::default());
        assert_eq!(third.cause, Cause::Merged);
        // A recovery has brought the region back.
        let at = |conf_version, version| RegionDescriptor {
            epoch: RegionEpoch { conf_version, version },
            ..(*known).clone()
        };
        let newer = entries.tombstone_of(RegionId(2), &Arc::new(at(9, 10)), Cause::Removed, Default::default());
        assert_eq!(newer.cause, Cause::Merged, "what was here may have been behind when it was absorbed");
        let back = at(9 + RECOVERY_LEAP, 10 + RECOVERY_LEAP);
        let fourth = entries.tombstone_of(RegionId(2), &Arc::new(back), Cause::Removed, Default::default());
        assert_eq!((fourth.cause, fourth.version), (Cause::Removed, 7));
    }

    #[test]
    fn a_tombstone_names_the_last_entry_of_the_newest_history() {
        let mut entries = with(&[region(2, "a", "m", 7)]);
        let known = region(2, "a", "m", 9);
        let mut next = |committed: (u64, u64)| {
            let committed = (LogIndex(committed.0), Term(committed.1));
            let tombstone = entries.tombstone_of(RegionId(2), &known, Cause::Removed, committed);
            entries.bury(RegionId(2), tombstone.clone());
            (tombstone.committed.0.get(), tombstone.committed.1.get())
        };
        assert_eq!(next((59, 5)), (59, 5));
        assert_eq!(next((58, 5)), (59, 5));
        // A recovery has begun the region anew from a replica whose log was shorter.
        assert_eq!(next((41, 1_048_579)), (41, 1_048_579));
        assert_eq!(next((59, 5)), (41, 1_048_579));
    }

    #[test]
    fn a_frozen_region_waits_for_its_target_as_long_as_that_can_come() {
        let target = region(3, "m", "z", 4);
        let frozen = Arc::new(Frozen { index: LogIndex(9), target: Arc::clone(&target) });
        let mut entries = with(&[region(2, "a", "m", 6), target]);
        entries.set_merge(RegionId(2), Some(frozen), Arc::default());
        assert_eq!(entries.abandoned(RegionId(2)), None, "the target is here");
        // The target's replica is removed before it came to the merge, and told of a version before that.
        let early = entries.tombstone_of(RegionId(3), &region(3, "m", "z", 6), Cause::Removed, Default::default());
        entries.bury(RegionId(3), early);
        assert_eq!(entries.abandoned(RegionId(2)), None, "it may come again, with a snapshot of any age");
        let elsewhere = |version| RegionDescriptor { replicas: Vec::new(), ..(*region(3, "a", "z", version)).clone() };
        entries.note_elsewhere(&elsewhere(6));
        assert_eq!(entries.abandoned(RegionId(2)), None);
        entries.note_elsewhere(&elsewhere(7));
        assert_eq!(entries.abandoned(RegionId(2)), Some(region(2, "a", "m", 6)));
        assert!(entries.create(RegionId(3), ReplicaId(99)));
        assert_eq!(entries.abandoned(RegionId(2)), None, "a later replica of the target is to come");
        entries.note_elsewhere(&RegionDescriptor { id: RegionId(8), ..elsewhere(9) });
        assert_eq!(entries.elsewhere.len(), 1, "nobody waits for that one");
    }

    #[test]
    fn what_rests_answers_as_before() {
        let regions = [region(2, "a", "g", 3), region(3, "g", "m", 2), region(4, "m", "z", 5)];
        let (mut entries, warm) = (with(&regions), with(&regions));
        for region in &regions {
            entries.rest(region.id, &Packed::new(region));
        }
        let none = Absorbed::default();
        for asked in [region(9, "b", "h", 4), region(9, "h", "n", 9), region(3, "a", "m", 4), region(8, "z", "", 1)] {
            for absorbed in [&none, &Absorbed(vec![(RegionId(2), 3)]), &Absorbed(vec![(RegionId(4), 5)])] {
                assert_eq!(entries.clearance(&asked, absorbed), warm.clearance(&asked, absorbed));
            }
            assert_eq!(
                entries.free_parts(asked.id, asked.range.clone()),
                warm.free_parts(asked.id, asked.range.clone())
            );
        }
        let tombstone = |entries: &Entries| {
            entries.tombstone_of(RegionId(3), &region(3, "g", "m", 2), Cause::Removed, Default::default())
        };
        assert_eq!(tombstone(&entries), tombstone(&warm));
        assert!(entries.is_here(RegionId(2)) && !entries.is_pending(RegionId(2)));
        assert!(!entries.create(RegionId(2), ReplicaId(99)) && !entries.adopts(&regions[0]));
        entries.hold(RegionId(3));
        assert_eq!(entries.clearance(&region(3, "g", "m", 4), &none), Clearance::Wait);
    }

    #[test]
    fn only_what_is_known_whole_from_its_descriptor_rests() {
        let older = region(2, "a", "m", 6);
        let target = region(3, "m", "z", 4);
        let mut entries = with(&[older.clone(), target.clone()]);
        let frozen = Arc::new(Frozen { index: LogIndex(9), target: Arc::clone(&target) });
        entries.set_merge(RegionId(2), Some(frozen), Arc::default());
        entries.set_merge(RegionId(3), None, Arc::new(Absorbed(vec![(RegionId(8), 1)])));
        for descriptor in [&older, &target] {
            entries.rest(descriptor.id, &Packed::new(descriptor));
        }
        assert!(entries.is_frozen_at(RegionId(2), LogIndex(9)));
        assert_eq!(entries.tombstone_of(RegionId(3), &target, Cause::Removed, Default::default()).absorbed.0.len(), 1);
        entries.set_merge(RegionId(2), None, Arc::default());
        entries.rest(RegionId(2), &Packed::new(&region(2, "a", "c", 5)));
        assert_eq!(entries.state(RegionId(2)), Some(older), "told of another state");
    }

    #[test]
    fn keys_that_a_region_loses_are_found_at_who_gets_them() {
        let mut entries = with(&[region(2, "a", "", 1)]);
        entries.rest(RegionId(2), &Packed::new(&region(2, "a", "", 1)));
        for (id, start, end) in [(3, "t", ""), (4, "m", "t"), (5, "f", "m")] {
            entries.set_state(region(2, "a", start, id));
            entries.set_state(region(id, start, end, id));
            entries.rest(RegionId(id), &Packed::new(&region(id, start, end, id)));
        }
        let found = entries.clearance(&region(9, "g", "u", 9), &Absorbed(vec![(RegionId(2), 1)]));
        assert_eq!(found, Clearance::Wait);
        let all = Absorbed([2, 3, 4, 5].map(|id| (RegionId(id), 1)).to_vec());
        let Clearance::Clear(covered) = entries.clearance(&region(9, "g", "u", 9), &all) else { panic!() };
        assert_eq!(covered.iter().map(|one| one.id.get()).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(entries.free_parts(RegionId(4), region(4, "m", "z", 9).range.clone()).len(), 1);
    }
}
