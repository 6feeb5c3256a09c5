//! Which regions there are, by id and by key, as this store knows it.
//!
//! Regions that were absorbed are forgotten, so that memory follows the number of those that there are: those whose first key has
//! another owner of a later version. That is a guess (a region that has absorbed its left neighbour may have given away what was its
//! first key), and a wrong one costs a question: whoever names a region that is forgotten is sent to look for it, and any news of it
//! brings it back.
//!
//! A region that sleeps is kept packed, in bytes that are shared with its worker and its applier, until its replica here is woken.
//! Whoever asks for it meanwhile is given it unpacked, and what was unpacked is kept for who asks next: for a bounded number of
//! regions, so that reads that wake nobody (`Local`), over ever so many regions, leave little behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use multiraft_raft::{KeyRange, RegionDescriptor, RegionId};
use multiraft_router::{Address, IdMap, RangeMap, RangeUpdate, RegionMap};
use rustc_hash::FxBuildHasher;

use crate::logic::{Packed, RegionHandle};

/// Shared by workers, which keep it up to date, and callers, who route by it.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    ranges: RangeMap,
    /// Where the replicas of this store live.
    addresses: RegionMap,
    known: RwLock<Known>,
}

/// Regions by id.
#[derive(Debug)]
struct Known {
    regions: IdMap<Entry>,
    asked: Asked,
    /// With more than these it is looked for such as are no more.
    enough: usize,
}

/// What is known of a region.
#[derive(Debug)]
enum Entry {
    /// It may change any time.
    Awake(Arc<RegionDescriptor>),
    /// Its replica here has come to rest since it was heard of last, and has not been woken.
    Rested(Packed),
}

/// Regions at rest that somebody has asked for.
///
/// Invariant: what is here is what their entries say.
#[derive(Debug, Default)]
struct Asked {
    unpacked: HashMap<RegionId, Arc<RegionDescriptor>, FxBuildHasher>,
    /// How often somebody asked for one that is not here since there has been no room for it.
    missed: AtomicUsize,
}

/// With fewer regions it is not worth while to look for such as are no more.
const FEW: usize = 256;

/// So many regions are kept unpacked because they were asked for while they slept (some 250 bytes each), at most; or one of
/// [`ASKED_SHARE`], if these are more.
const ASKED_MAX: usize = 4_096;
const ASKED_SHARE: usize = 16;

/// When there is no room for so many times as many as are kept, others are kept in their place.
const MISSED_SHARE: usize = 8;

impl Default for Known {
    fn default() -> Self {
        Self { regions: IdMap::new(), asked: Asked::default(), enough: FEW }
    }
}

impl Entry {
    /// What it says. Takes its memory anew if it is packed.
    fn unpack(&self) -> Arc<RegionDescriptor> {
        match self {
            Self::Awake(descriptor) => Arc::clone(descriptor),
            Self::Rested(packed) => packed.unpack(),
        }
    }
}

impl Known {
    /// A region; or its packed form, which is not unpacked under the lock.
    fn find(&self, region: RegionId) -> Option<Result<&Arc<RegionDescriptor>, &Packed>> {
        Some(match self.regions.get(region)? {
            Entry::Awake(descriptor) => Ok(descriptor),
            Entry::Rested(packed) => self.asked.unpacked.get(&region).ok_or(packed),
        })
    }

    fn update(&mut self, descriptor: &Arc<RegionDescriptor>) {
        let Some(entry) = self.regions.get_mut(descriptor.id) else {
            self.regions.insert(descriptor.id, Entry::Awake(Arc::clone(descriptor)));
            return;
        };
        if entry.unpack().epoch.is_behind(descriptor.epoch) {
            *entry = Entry::Awake(Arc::clone(descriptor));
            self.asked.unpacked.remove(&descriptor.id);
        }
    }

    /// Keeps the packed form of what is known.
    fn rest(&mut self, descriptor: &RegionDescriptor, packed: &Packed) {
        let Some(entry) = self.regions.get_mut(descriptor.id) else { return };
        let is_same = match entry {
            Entry::Awake(known) => **known == *descriptor,
            Entry::Rested(known) => known == packed,
        };
        if is_same {
            *entry = Entry::Rested(packed.clone());
            self.asked.unpacked.remove(&descriptor.id);
        }
    }

    /// Keeps what is known as it is again.
    fn wake(&mut self, descriptor: &Arc<RegionDescriptor>) {
        if let Some(entry) = self.regions.get_mut(descriptor.id)
            && matches!(entry, Entry::Rested(packed) if packed.is(descriptor))
        {
            *entry = Entry::Awake(Arc::clone(descriptor));
            self.asked.unpacked.remove(&descriptor.id);
        }
    }

    /// How many regions are kept unpacked, at most, because they were asked for while they slept.
    fn asked_max(&self) -> usize {
        (self.regions.len() / ASKED_SHARE).max(ASKED_MAX)
    }

    /// Whether a region that is unpacked for who has asked is to be kept. While there is no room it is not, until so many have
    /// asked for others that those which are kept have had their time.
    fn keeps_asked(&self) -> bool {
        let max = self.asked_max();
        self.asked.unpacked.len() < max
            || self.asked.missed.fetch_add(1, Ordering::Relaxed) >= max.saturating_mul(MISSED_SHARE)
    }

    /// Keeps a region that was unpacked, unless there has been news of it meanwhile; returns what is kept no more.
    fn keep_asked(&mut self, descriptor: &Arc<RegionDescriptor>, packed: &Packed) -> Asked {
        let is_full = self.asked.unpacked.len() >= self.asked_max();
        let before = if is_full { std::mem::take(&mut self.asked) } else { Asked::default() };
        if let Some(Entry::Rested(known)) = self.regions.get(descriptor.id)
            && known == packed
        {
            self.asked.unpacked.insert(descriptor.id, Arc::clone(descriptor));
        }
        before
    }

    /// Forgets regions that are no more, once as many have come as were left the last time.
    fn tidy(&mut self, ranges: &RangeMap) {
        if self.regions.len() <= self.enough {
            return;
        }
        self.regions.retain(|id, entry| {
            // The root region owns no keys.
            if id == RegionId::ROOT {
                return true;
            }
            let known = entry.unpack();
            let owner = ranges.owner(&known.range.start);
            !owner.is_some_and(|owner| owner.region != id && owner.epoch.version > known.epoch.version)
        });
        self.asked.unpacked.retain(|id, _| self.regions.get(*id).is_some());
        self.enough = (self.regions.len() * 2).max(FEW);
    }
}

impl Directory {
    /// Takes news of a region; older news than what is known is dropped.
    pub(crate) fn update(&self, descriptor: &Arc<RegionDescriptor>) {
        // Held over both, as every look-up holds it: a key found in one must be the region's in the other.
        let mut known = self.write();
        if self.ranges.update(descriptor) == RangeUpdate::Replaced {
            tracing::debug!(?descriptor, "a region is heard of");
        }
        known.update(descriptor);
        known.tidy(&self.ranges);
    }

    /// A replica lives on this worker from now on.
    pub(crate) fn host(&self, worker: usize, handle: RegionHandle) {
        self.addresses.insert(handle.region, address(worker, handle));
    }

    /// It lives there no more; a successor that is there already stays known.
    pub(crate) fn vacate(&self, worker: usize, handle: RegionHandle) {
        self.addresses.remove(handle.region, address(worker, handle));
    }

    /// A replica of this store sleeps: if its region is known as just this, it is kept in these bytes from now on. Else nothing
    /// changes: there is news of it that the replica has not had yet.
    pub(crate) fn rest(&self, packed: &Packed) {
        let descriptor = packed.unpack();
        self.write().rest(&descriptor, packed);
    }

    /// It sleeps no more.
    pub(crate) fn wake(&self, descriptor: &Arc<RegionDescriptor>) {
        self.write().wake(descriptor);
    }

    /// The worker that drives the region's replica on this store; `None` if there is none.
    pub(crate) fn worker(&self, region: RegionId) -> Option<usize> {
        self.addresses.get(region).map(|address| address.worker as usize)
    }

    /// Takes the news of a split: no reader sees only a part of it.
    pub(crate) fn update_all(&self, parts: &[Arc<RegionDescriptor>]) {
        let mut known = self.write();
        parts.iter().for_each(|part| known.update(part));
        self.ranges.update_all(parts.iter().map(Arc::as_ref));
        known.tidy(&self.ranges);
        tracing::debug!(?parts, "a split is heard of");
    }

    /// A region by id.
    pub(crate) fn get(&self, region: RegionId) -> Option<Arc<RegionDescriptor>> {
        let known = self.read();
        let packed = match known.find(region)? {
            Ok(descriptor) => return Some(Arc::clone(descriptor)),
            Err(packed) => packed.clone(),
        };
        let is_kept = known.keeps_asked();
        drop(known);
        Some(self.unpack(&packed, is_kept))
    }

    /// The region that owns a key: what is done under the epoch of this descriptor is done where the key is.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<Arc<RegionDescriptor>> {
        let known = self.read();
        let packed = match known.find(self.ranges.owner(key)?.region)? {
            Ok(descriptor) => return descriptor.owns(key).then(|| Arc::clone(descriptor)),
            Err(packed) => packed.clone(),
        };
        let is_kept = known.keeps_asked();
        drop(known);
        Some(self.unpack(&packed, is_kept)).filter(|region| region.owns(key))
    }

    /// All regions that own keys, in key order.
    pub(crate) fn in_key_order(&self) -> Vec<Arc<RegionDescriptor>> {
        let routes = self.ranges.scan(&KeyRange::full(), usize::MAX);
        // Who asks for all asks for none in particular.
        routes
            .into_iter()
            .filter_map(|route| Some(self.read().find(route.region)?.map_or_else(Packed::unpack, Arc::clone)))
            .collect()
    }

    fn unpack(&self, packed: &Packed, is_kept: bool) -> Arc<RegionDescriptor> {
        let descriptor = packed.unpack();
        if is_kept {
            let before = self.write().keep_asked(&descriptor, packed);
            // Not under the lock: these may be many.
            drop(before);
        }
        descriptor
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(worker: usize, handle: RegionHandle) -> Address {
    let worker = u32::try_from(worker).expect("invariant: at most 255 workers");
    Address { worker, slot: handle.slot, generation: handle.generation }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use multiraft_raft::RegionEpoch;

    use super::*;

    fn region(id: u64, (start, end): (u64, u64), version: u64) -> Arc<RegionDescriptor> {
        let key = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
        let range = KeyRange { start: key(start), end: key(end) };
        let epoch = RegionEpoch { conf_version: 1, version };
        Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas: Vec::new() })
    }

    #[test]
    fn regions_that_were_absorbed_are_forgotten() {
        let directory = Directory::default();
        directory.update(&region(1, (0, 0), 1));
        directory.update(&region(2, (0, 100), 1));
        let first_child = 3;
        for round in 0..10_000 {
            // Region 2 splits, and absorbs its child again.
            let (child, version) = (first_child + round, 2 * round + 2);
            directory.update_all(&[region(2, (0, 50), version), region(child, (50, 100), version)]);
            assert_eq!(directory.in_key_order().len(), 2);
            directory.update(&region(2, (0, 100), version + 1));
        }
        let known = directory.read().regions.len();
        assert!(known <= 2 * FEW, "{known}");
        let last = region(2, (0, 100), 20_001);
        assert_eq!(directory.get(RegionId(2)), Some(Arc::clone(&last)));
        assert_eq!(directory.in_key_order(), [last]);
        assert!(directory.get(RegionId::ROOT).is_some(), "it owns no keys, and is there");
        assert_eq!(directory.get(RegionId(first_child)), None);
    }

    #[test]
    fn regions_that_there_are_stay_known_however_many() {
        let directory = Directory::default();
        for id in 2..2_000 {
            directory.update(&region(id, (id, id + 1), 5));
        }
        // Old news of one that has given keys away since.
        directory.update(&region(7, (7, 100), 4));
        assert!((2..2_000).all(|id| directory.get(RegionId(id)).is_some()));
    }

    /// As many regions as that, of one key each, at rest.
    fn at_rest(count: u64) -> Directory {
        let directory = Directory::default();
        for id in 2..2 + count {
            let region = region(id, (id, id + 1), 5);
            directory.update(&region);
            directory.rest(&Packed::new(&region));
        }
        directory
    }

    #[test]
    fn who_is_woken_is_kept_unpacked_again() {
        let directory = at_rest(3);
        directory.wake(&region(2, (2, 3), 5));
        directory.wake(&region(3, (3, 4), 4));
        assert!(!is_at_rest(&directory, 2));
        assert!(is_at_rest(&directory, 3), "what is said of it is of the past");
        assert_eq!(directory.get(RegionId(2)), Some(region(2, (2, 3), 5)));
    }

    fn is_packed(directory: &Directory, id: u64) -> bool {
        directory.read().find(RegionId(id)).unwrap().is_err()
    }

    fn is_at_rest(directory: &Directory, id: u64) -> bool {
        matches!(directory.read().regions.get(RegionId(id)), Some(Entry::Rested(_)))
    }

    #[test]
    fn a_region_at_rest_is_found_as_it_was_and_kept_for_who_asks_next() {
        let directory = at_rest(20);
        let seven = region(7, (7, 8), 5);
        assert!(is_packed(&directory, 7));
        assert_eq!(directory.lookup(&7_u64.to_be_bytes()), Some(Arc::clone(&seven)));
        assert_eq!(directory.get(RegionId(8)), Some(region(8, (8, 9), 5)));
        assert!(!is_packed(&directory, 7) && !is_packed(&directory, 8));
        let (once, again) = (directory.get(RegionId(7)).unwrap(), directory.lookup(&seven.range.start).unwrap());
        assert!(Arc::ptr_eq(&once, &again));
        assert_eq!(directory.in_key_order(), (2..22).map(|id| region(id, (id, id + 1), 5)).collect::<Vec<_>>());
        assert!((9..22).all(|id| is_packed(&directory, id)), "who asks for all leaves none behind");
        // It has been busy, and rests again.
        directory.rest(&Packed::new(&seven));
        assert!(is_packed(&directory, 7));
        // A store keeps the bytes that its worker keeps.
        let packed = Packed::new(&seven);
        directory.rest(&packed);
        assert!(directory.read().find(RegionId(7)).unwrap().unwrap_err().is_same_memory(&packed));
    }

    #[test]
    fn news_of_a_region_at_rest_counts_and_its_older_form_does_not() {
        let directory = at_rest(20);
        let (old, new) = (region(7, (7, 8), 5), region(7, (7, 8), 6));
        directory.get(RegionId(7));
        directory.update(&old);
        assert!(is_at_rest(&directory, 7), "nothing new");
        directory.update(&new);
        assert_eq!(directory.get(RegionId(7)), Some(Arc::clone(&new)));
        directory.rest(&Packed::new(&old));
        assert!(!is_at_rest(&directory, 7), "it rests as what it was");
        assert_eq!(directory.lookup(&7_u64.to_be_bytes()), Some(Arc::clone(&new)));
        // The same epoch, as somebody else tells it.
        let other = Arc::new(RegionDescriptor { range: region(7, (7, 9), 6).range.clone(), ..(*new).clone() });
        directory.rest(&Packed::new(&other));
        assert_eq!(directory.get(RegionId(7)), Some(Arc::clone(&new)));
        directory.rest(&Packed::new(&new));
        assert!(is_at_rest(&directory, 7));
        directory.rest(&Packed::new(&region(99, (99, 100), 1)));
        assert_eq!(directory.get(RegionId(99)), None);
    }

    #[test]
    fn regions_that_were_absorbed_at_rest_are_forgotten() {
        let directory = at_rest(FEW as u64 + 4);
        directory.get(RegionId(7));
        directory.update(&region(1_000, (0, 100), 9));
        // More come, so that it is looked for such as are no more.
        (2_000..2_000 + FEW as u64).for_each(|id| directory.update(&region(id, (id, id + 1), 5)));
        assert_eq!(directory.get(RegionId(7)), None);
        assert_eq!(directory.get(RegionId(150)), Some(region(150, (150, 151), 5)));
        assert!(directory.read().asked.unpacked.len() <= 1);
    }

    #[test]
    fn what_readers_leave_behind_is_bounded() {
        let regions = 2 * ASKED_MAX as u64;
        let directory = at_rest(regions);
        let ask = |id: u64| assert_eq!(directory.get(RegionId(id)).unwrap().id.0, id);
        for id in 2..2 + regions {
            ask(id);
            assert!(directory.read().asked.unpacked.len() <= ASKED_MAX);
        }
        assert!(!is_packed(&directory, 2) && is_packed(&directory, regions));
        // Those that are asked for by now are kept in the end.
        let mut asked = 0;
        while is_packed(&directory, regions) {
            ask(regions);
            asked += 1;
        }
        assert!(asked <= MISSED_SHARE * ASKED_MAX, "{asked}");
        assert!(is_packed(&directory, 2));
    }

    #[test]
    fn an_entry_takes_no_more_than_what_points_to_its_bytes() {
        assert_eq!(size_of::<Entry>(), size_of::<Packed>());
    }

    #[test]
    fn a_key_is_never_found_in_a_region_that_does_not_own_it() {
        let (directory, is_over) = (Directory::default(), std::sync::atomic::AtomicBool::new(false));
        directory.update(&region(2, (0, 100), 1));
        let key = region(3, (50, 100), 1).range.start.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..4_000 {
                    let parts = [region(2, (0, 50), version * 2), region(3, (50, 100), version * 2)];
                    directory.update_all(&parts);
                    parts.iter().for_each(|part| directory.rest(&Packed::new(part)));
                    let whole = region(2, (0, 100), version * 2 + 1);
                    directory.update(&whole);
                    directory.rest(&Packed::new(&whole));
                }
                is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(found) = directory.lookup(&key) {
                    assert!(found.owns(&key), "{found:?}");
                }
            }
        });
    }
}
