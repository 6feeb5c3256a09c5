//! What callers and links may know of regions without asking a worker: who leads them, and the leases of those that are led here
//! (R2 and R4 of `docs/liveness.md`).
//!
//! A worker lists a region once somebody has read it, keeps what is listed in step with each turn, before anything of
//! the turn leaves, and takes it off when nobody has looked for a while. Of support nothing is written here: a lease names
//! what it rests on, which is renewed, and ended, for all regions at once.
//!
//! Invariant: at every moment a listed lease is that of a leader that may serve reads, its index is at or above all that anybody
//! was told to be committed, and what is listed as applied is in the state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use multiraft_raft::{LogIndex, RegionEpoch, RegionId, StoreId, Term, Time};
use rustc_hash::FxHashMap;

use crate::liveness::Held;
use crate::region::command::EpochRule;

/// Number of locks: readers of different regions rarely meet a worker that writes.
const SHARDS: usize = 64;
/// Of so many stores a lease names the support. Of more voters the others do without.
pub(super) const BACKING_MAX: usize = 4;
/// So many partners a leader has at most: with more voters beside it, one of them is not enough.
pub(super) const PARTNERS_MAX: usize = 2;

/// How a region stands on this store, as its worker knew at the end of its last turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What the region is.
    pub epoch: RegionEpoch,
    /// The term of this replica.
    pub term: Term,
    /// The state here holds everything up to this.
    pub applied: LogIndex,
    /// The store that leads it, if that is another one and known; else zero.
    pub leader: StoreId,
    /// If it is led from here.
    pub lease: Option<Lease>,
}

/// How a leader may have its reads confirmed. Its lease lasts as long as enough of what it rests on does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// A read sees everything up to this at least.
    pub index: LogIndex,
    /// The stores of voters each of which is a quorum together with the leader; zero: nobody.
    pub(super) partners: [StoreId; PARTNERS_MAX],
    /// How much of `backing` it needs beside the leader itself.
    pub(super) needed: usize,
    /// The support under which voters have promised.
    pub(super) backing: [Option<Held>; BACKING_MAX],
}

/// What another store says that asks for an index, beside the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Which store it is.
    pub store: StoreId,
    /// The term of its replica, after the reads had come in for which it asks; zero: it has none.
    pub term: Term,
    /// If a lease will do: a reading of the own clock, made after the question had come in.
    pub lease_at: Option<Time>,
}

/// Where a read is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Here, from a view of the state that is taken now or later, if the region is still at this epoch in that view.
    Here {
        /// The epoch.
        epoch: RegionEpoch,
    },
    /// This store is to be asked for an index first.
    There {
        /// The store.
        leader: StoreId,
        /// In which term it leads, as far as is known.
        term: Term,
        /// The epoch under which the state is looked at in the end.
        epoch: RegionEpoch,
    },
    /// The worker has to see to it.
    Worker,
}

impl Lease {
    /// Whether it lasts at a reading of the store's clock.
    #[must_use]
    pub fn holds_at(&self, now: Time) -> bool {
        let held = self.backing.iter().flatten().filter(|held| now < held.until());
        held.take(self.needed).count() == self.needed
    }

    /// Whether it lasts at this reading, or whatever any clock reads if there is none.
    fn serves_at(&self, now: Option<Time>) -> bool {
        now.map_or(self.needed == 0, |now| self.holds_at(now))
    }
}

impl Standing {
    /// Where a read is answered that names `epoch`, or none. If a lease will do, `lease_at` is what the clock read after the read
    /// had come in.
    #[must_use]
    pub fn look(&self, epoch: Option<RegionEpoch>, lease_at: Option<Time>) -> Look {
        if epoch.is_some_and(|epoch| !EpochRule::COMMAND.admits(epoch, self.epoch)) {
            return Look::Worker;
        }
        match &self.lease {
            Some(lease) if self.applied >= lease.index && lease.serves_at(lease_at) => Look::Here { epoch: self.epoch },
            None if self.leader != StoreId::ZERO => {
                Look::There { leader: self.leader, term: self.term, epoch: self.epoch }
            }
            _ => Look::Worker,
        }
    }

    /// From which index on a read may be served that another store asks for, and a term whose leader had committed it; `None`: the
    /// worker has to be asked.
    ///
    /// That a voter's replica was in the leader's term after the read had come in is its share in confirming the leader, as an
    /// answered heartbeat would be (R2a).
    #[must_use]
    pub fn index_for(&self, asker: &Asker) -> Option<(LogIndex, Term)> {
        let is_whole = |lease: &&Lease| {
            let completes = asker.term == self.term && lease.partners.contains(&asker.store);
            completes || lease.serves_at(asker.lease_at)
        };
        self.lease.as_ref().filter(is_whole).map(|lease| (lease.index, self.term))
    }
}

/// How the regions that are read stand on one store. Shared by its workers, which write, and all who read.
#[derive(Debug)]
pub struct Leases {
    shards: [RwLock<FxHashMap<RegionId, Listed>>; SHARDS],
}

#[derive(Debug)]
struct Listed {
    standing: Standing,
    /// Somebody has looked since the worker last asked.
    used: AtomicBool,
}

impl Default for Leases {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl Leases {
    /// Where a read is answered, as [`Standing::look`].
    #[must_use]
    pub fn look(&self, region: RegionId, epoch: Option<RegionEpoch>, lease_at: Option<Time>) -> Look {
        self.with(region, |standing| standing.look(epoch, lease_at)).unwrap_or(Look::Worker)
    }

    /// What to answer another store that asks for an index, as [`Standing::index_for`].
    #[must_use]
    pub fn index_for(&self, region: RegionId, asker: &Asker) -> Option<(LogIndex, Term)> {
        self.with(region, |standing| standing.index_for(asker))?
    }

    /// Whether the state here is known to hold everything up to `index`.
    #[must_use]
    pub fn holds(&self, region: RegionId, index: LogIndex) -> bool {
        self.with(region, |standing| standing.applied >= index).unwrap_or(false)
    }

    /// How a region stands, if it is listed.
    #[must_use]
    pub fn standing(&self, region: RegionId) -> Option<Standing> {
        self.read(region).get(&region).map(|listed| listed.standing.clone())
    }

    fn with<T>(&self, region: RegionId, look: impl FnOnce(&Standing) -> T) -> Option<T> {
        let shard = self.read(region);
        let listed = shard.get(&region)?;
        if !listed.used.load(Ordering::Relaxed) {
            listed.used.store(true, Ordering::Relaxed);
        }
        Some(look(&listed.standing))
    }

    pub(super) fn list(&self, region: RegionId, standing: Standing) {
        let mut shard = self.write(region);
        match shard.get_mut(&region) {
            Some(listed) => listed.standing = standing,
            None => {
                shard.insert(region, Listed { standing, used: AtomicBool::new(true) });
            }
        }
    }

    pub(super) fn take_off(&self, region: RegionId) {
        let mut shard = self.write(region);
        shard.remove(&region);
        if shard.is_empty() {
            *shard = FxHashMap::default();
        }
    }

    /// Whether somebody has looked since this was last asked.
    pub(super) fn was_used(&self, region: RegionId) -> bool {
        self.read(region).get(&region).is_some_and(|listed| listed.used.swap(false, Ordering::Relaxed))
    }

    fn read(&self, region: RegionId) -> RwLockReadGuard<'_, FxHashMap<RegionId, Listed>> {
        self.shards[shard_of(region)].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, region: RegionId) -> RwLockWriteGuard<'_, FxHashMap<RegionId, Listed>> {
        self.shards[shard_of(region)].write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fibonacci hashing: ids are often consecutive.
fn shard_of(region: RegionId) -> usize {
    (region.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
}

#[cfg(test)]
mod tests {
    use multiraft_raft::Incarnation;

    use super::*;

    const EPOCH: RegionEpoch = RegionEpoch { conf_version: 3, version: 7 };

    fn held(until: u64) -> Held {
        Held::new(1, Incarnation(1), Time(until))
    }

    fn standing(needed: usize, backing: &[&Held]) -> Standing {
        let mut all = [const { None }; BACKING_MAX];
        all.iter_mut().zip(backing).for_each(|(place, held)| *place = Some((*held).clone()));
        Standing {
            epoch: EPOCH,
            term: Term(5),
            applied: LogIndex(10),
            leader: StoreId::ZERO,
            lease: Some(Lease { index: LogIndex(10), partners: [StoreId::ZERO; PARTNERS_MAX], needed, backing: all }),
        }
    }

    #[test]
    fn a_lease_lasts_as_long_as_enough_of_its_support() {
        let here = Look::Here { epoch: EPOCH };
        let (first, second) = (held(100), held(200));
        let one = standing(1, &[&first, &second]);
        let both = standing(2, &[&first, &second]);
        assert_eq!([99, 199, 200].map(|now| one.look(None, Some(Time(now)))), [here, here, Look::Worker]);
        assert_eq!([99, 100].map(|now| both.look(None, Some(Time(now)))), [here, Look::Worker]);
        first.extend(Time(150));
        assert_eq!(both.look(None, Some(Time(149))), here, "renewed without the region's worker");
        second.end();
        assert_eq!(both.look(None, Some(Time(50))), Look::Worker, "given up");
        assert_eq!(standing(0, &[]).look(None, None), here, "the only voter");
        assert_eq!(both.look(None, None), Look::Worker, "no lease will do");
    }

    #[cfg(feature = "torture")]
    #[test]
    fn an_old_reading_of_the_clock_finds_a_lease_that_is_over() {
        let second = 1_000_000_000;
        let (mut old, support) = (crate::plant::OldReading::default(), held(12 * second));
        let standing = standing(1, &[&support]);
        let mut look = |seconds: u64| standing.look(None, Some(old.at(Time(seconds * second))));
        assert_eq!(look(10), Look::Here { epoch: EPOCH });
        // After a pause of four seconds; and later, when the clock is read again.
        assert_eq!(look(14), Look::Here { epoch: EPOCH });
        assert_eq!(look(15), Look::Worker);
        assert_eq!(standing.look(None, Some(Time(14 * second))), Look::Worker, "as it is");
    }

    #[test]
    fn what_is_not_applied_is_not_read() {
        let backing = held(100);
        let mut behind = standing(1, &[&backing]);
        behind.applied = LogIndex(9);
        assert_eq!(behind.look(None, Some(Time(1))), Look::Worker);
        let leases = Leases::default();
        leases.list(RegionId(8), behind);
        let asker = |now| Asker { store: StoreId(2), term: Term::ZERO, lease_at: Some(Time(now)) };
        let index_at = |now| leases.index_for(RegionId(8), &asker(now));
        assert_eq!(index_at(1), Some((LogIndex(10), Term(5))));
        assert_eq!(index_at(100), None);
        assert_eq!([9, 10].map(|index| leases.holds(RegionId(8), LogIndex(index))), [true, false]);
    }

    #[test]
    fn another_epoch_goes_to_the_worker() {
        let backing = held(100);
        let standing = standing(1, &[&backing]);
        let at = |version| standing.look(Some(RegionEpoch { conf_version: 9, version }), Some(Time(1)));
        assert_eq!([6, 7, 8].map(at), [Look::Worker, Look::Here { epoch: EPOCH }, Look::Worker]);
    }

    #[test]
    fn a_follower_names_its_leader() {
        let backing = held(100);
        let mut standing = standing(1, &[&backing]);
        (standing.lease, standing.leader) = (None, StoreId(2));
        let there = Look::There { leader: StoreId(2), term: Term(5), epoch: EPOCH };
        assert_eq!(standing.look(None, Some(Time(1))), there);
        standing.leader = StoreId::ZERO;
        assert_eq!(standing.look(None, Some(Time(1))), Look::Worker);
    }

    #[test]
    fn what_nobody_looks_at_is_told() {
        let (leases, region) = (Leases::default(), RegionId(8));
        leases.list(region, standing(0, &[]));
        assert!(leases.was_used(region), "listed for somebody");
        assert!(!leases.was_used(region));
        assert!(leases.holds(region, LogIndex(1)));
        assert!(leases.was_used(region));
        leases.take_off(region);
        assert!(!leases.was_used(region) && leases.standing(region).is_none());
    }
}
