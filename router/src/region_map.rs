//! Region id to the worker slot that drives it, for every thread that has something for a region.
//!
//! Owns no group: an [`Address`] is a hint that the worker checks again by its generation. What it keeps: an address is
//! taken out only by someone who names exactly that address, so a late removal never hits a successor. Addresses lie in
//! pages (`id_map.rs`), 12 bytes each and little besides; a page is locked with a 64th of the others.

use dashmap::DashMap;
use multiraft_raft::RegionId;
use rustc_hash::FxBuildHasher;

use crate::SlotKey;
use crate::id_map::{Page, locate};

/// Number of locks of the map: a power of two, enough that two threads rarely meet, bounded whatever the core count.
const SHARDS: usize = 64;

/// Where a group lives in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The worker that drives it.
    pub worker: u32,
    /// Its slot in that worker's slab.
    pub slot: u32,
    /// Which occupant of the slot it is.
    pub generation: u32,
}

impl Address {
    /// The address of the occupant `key` of `worker`'s slab.
    #[must_use]
    pub const fn new(worker: u32, key: SlotKey) -> Self {
        Self { worker, slot: key.slot, generation: key.generation }
    }

    /// The part that the worker's own slab understands.
    #[must_use]
    pub const fn key(self) -> SlotKey {
        SlotKey { slot: self.slot, generation: self.generation }
    }
}

/// A concurrent map from region to address.
#[derive(Debug)]
pub struct RegionMap {
    pages: DashMap<u64, Page<Address>, FxBuildHasher>,
}

impl Default for RegionMap {
    fn default() -> Self {
        Self::new()
    }
}

impl RegionMap {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self { pages: DashMap::with_capacity_and_hasher_and_shard_amount(0, FxBuildHasher, SHARDS) }
    }

    /// Records where `region` lives and returns the address that this replaces.
    pub fn insert(&self, region: RegionId, address: Address) -> Option<Address> {
        let (page, place) = locate(region);
        self.pages.entry(page).or_default().insert(place, address)
    }

    /// Records where `region` lives unless it is known already: of two threads that create a region, one wins.
    ///
    /// # Errors
    /// The address that stands.
    pub fn insert_new(&self, region: RegionId, address: Address) -> Result<(), Address> {
        let (page, place) = locate(region);
        let mut page = self.pages.entry(page).or_default();
        match page.get(place) {
            Some(standing) => Err(*standing),
            None => {
                page.insert(place, address);
                Ok(())
            }
        }
    }

    /// Where `region` lives.
    #[must_use]
    pub fn get(&self, region: RegionId) -> Option<Address> {
        let (page, place) = locate(region);
        self.pages.get(&page)?.get(place).copied()
    }

    /// Where each of `regions` lives, appended to `out` in the same order.
    pub fn get_many(&self, regions: &[RegionId], out: &mut Vec<Option<Address>>) {
        out.reserve(regions.len());
        out.extend(regions.iter().map(|region| self.get(*region)));
    }

    /// Forgets `region` if it still lives at exactly `address`; says whether it did.
    pub fn remove(&self, region: RegionId, address: Address) -> bool {
        let (number, place) = locate(region);
        let is_empty = {
            let Some(mut page) = self.pages.get_mut(&number) else { return false };
            if page.get(place) != Some(&address) {
                return false;
            }
            page.remove(place);
            page.is_empty()
        };
        if is_empty {
            // Looked at again under the lock: somebody may have come in between.
            self.pages.remove_if(&number, |_, page| page.is_empty());
        }
        true
    }

    /// Number of regions. Costs a walk of all pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.iter().map(|page| page.len()).sum()
    }

    /// Whether no region is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.iter().all(|page| page.is_empty())
    }

    /// All regions with their addresses, by ascending id. Costs a walk of the whole map: for start-up, reports and tests.
    #[must_use]
    pub fn to_sorted_vec(&self) -> Vec<(RegionId, Address)> {
        let mut all = Vec::new();
        for page in &self.pages {
            all.extend(page.iter(*page.key()).map(|(region, address)| (region, *address)));
        }
        all.sort_unstable();
        all
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn address(slot: u32, generation: u32) -> Address {
        Address { worker: 0, slot, generation }
    }

    #[test]
    fn late_removal_does_not_hit_the_successor() {
        let map = RegionMap::new();
        assert_eq!(map.insert(RegionId(7), address(1, 1)), None);
        assert_eq!(map.insert(RegionId(7), address(1, 2)), Some(address(1, 1)));
        assert!(!map.remove(RegionId(7), address(1, 1)));
        assert_eq!(map.get(RegionId(7)), Some(address(1, 2)));
        assert!(map.remove(RegionId(7), address(1, 2)));
        assert!(map.is_empty());
    }

    #[test]
    fn first_creator_wins() {
        let map = RegionMap::new();
        assert_eq!(map.insert_new(RegionId(7), address(1, 1)), Ok(()));
        assert_eq!(map.insert_new(RegionId(7), address(2, 1)), Err(address(1, 1)));
    }

    #[test]
    fn one_creator_of_many_threads_wins() {
        let map = RegionMap::new();
        let winners: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|worker| {
                    let map = &map;
                    scope.spawn(move || {
                        (1..=1_000)
                            .filter(|id| {
                                let own = Address { worker, slot: 0, generation: 1 };
                                map.insert_new(RegionId(*id), own).is_ok()
                            })
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(winners, 1_000);
        assert_eq!(map.len(), 1_000);
    }

    #[test]
    fn regions_of_one_page_come_and_go_from_many_threads() {
        let map = RegionMap::new();
        let page: Vec<RegionId> = (0..64).map(|place| RegionId(5 + 64 * place)).collect();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (map, page) = (&map, &page);
                scope.spawn(move || {
                    for generation in 1..500 {
                        let own = Address { worker, slot: 0, generation };
                        for region in page.iter().skip(worker as usize).step_by(4) {
                            assert_eq!(map.insert(*region, own), None);
                            assert_eq!(map.get(*region), Some(own));
                            assert!(map.remove(*region, own));
                        }
                    }
                });
            }
        });
        assert!(map.is_empty());
        assert_eq!(map.pages.len(), 0, "an empty page goes");
    }

    #[test]
    fn get_many_keeps_the_order_asked_in() {
        let map = RegionMap::new();
        map.insert(RegionId(2), address(2, 1));
        map.insert(RegionId(9), address(9, 1));
        let mut out = Vec::new();
        map.get_many(&[RegionId(9), RegionId(5), RegionId(2)], &mut out);
        assert_eq!(out, [Some(address(9, 1)), None, Some(address(2, 1))]);
        assert_eq!(map.to_sorted_vec(), [(RegionId(2), address(2, 1)), (RegionId(9), address(9, 1))]);
    }
}
