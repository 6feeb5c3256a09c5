//! How far an applier's regions have applied, in as little memory as each of them needs.
//!
//! ```text
//!            get_mut, insert
//!   resting ----------------> warm       two marks and the packed descriptor that all who keep one share
//!           <----------------            rest, if it is the region as applied, and nothing of a merge is known of it
//! ```
//!
//! Whoever is busy is warm, and found by one look into a table; who rests stands in a list, which takes the least.

use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, Term};
use rustc_hash::FxHashMap;

use super::record::AppliedRecord;
use super::sorted::{Place, Sorted};
use crate::logic::{MergeState, Packed};

/// How far one region has applied.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) descriptor: Arc<RegionDescriptor>,
    pub(super) applied: LogIndex,
    pub(super) term: Term,
    /// The state is a received snapshot, and nothing was applied since.
    pub(super) installed: bool,
    pub(super) merge: MergeState,
}

/// All of one applier, by id.
#[derive(Debug)]
pub(super) struct Regions {
    all: Sorted<(RegionId, Held)>,
    /// Looked up only, never iterated. Invariant: holds those that the list has as warm, and no others.
    warm: FxHashMap<RegionId, Box<Progress>>,
}

#[derive(Debug)]
enum Held {
    Warm,
    Resting {
        packed: Packed,
        applied: LogIndex,
        /// The term, doubled, and one more if the state is installed.
        mark: u64,
    },
}

/// The table of the warm keeps room for so many, whatever it had to hold.
const WARM_KEPT: usize = 64;

impl Progress {
    fn record(&self) -> AppliedRecord {
        AppliedRecord { index: self.applied, term: self.term, installed: self.installed }
    }
}

/// What rests, as it was.
fn progress_of(packed: &Packed, applied: LogIndex, mark: u64) -> Progress {
    let AppliedRecord { index: applied, term, installed } = record_of(applied, mark);
    Progress { descriptor: packed.unpack(), applied, term, installed, merge: MergeState::default() }
}

fn record_of(applied: LogIndex, mark: u64) -> AppliedRecord {
    AppliedRecord { index: applied, term: Term(mark >> 1), installed: mark & 1 == 1 }
}

impl Regions {
    /// These, each of them once.
    pub(super) fn new(mut regions: Vec<Progress>) -> Self {
        regions.sort_by_key(|progress| progress.descriptor.id);
        let all = regions.iter().map(|progress| (progress.descriptor.id, Held::Warm)).collect();
        let warm = regions.into_iter().map(|progress| (progress.descriptor.id, Box::new(progress)));
        Self { all: Sorted::of(all), warm: warm.collect() }
    }

    /// Reads what the next entries of a region will be checked against, and gives a number without meaning: see
    /// [`Group::read_ahead`](multiraft_raft::Group::read_ahead).
    pub(super) fn read_ahead(&self, region: RegionId) -> u64 {
        self.warm.get(&region).map_or(0, |progress| progress.applied.0 ^ progress.descriptor.epoch.version)
    }

    /// A copy of what is known of a region.
    pub(super) fn get(&self, region: RegionId) -> Option<Progress> {
        if let Some(progress) = self.warm.get(&region) {
            return Some(Progress::clone(progress));
        }
        match self.held(region)? {
            Held::Warm => None,
            Held::Resting { packed, applied, mark } => Some(progress_of(packed, *applied, *mark)),
        }
    }

    /// How far a region has applied.
    pub(super) fn record(&self, region: RegionId) -> Option<AppliedRecord> {
        if let Some(progress) = self.warm.get(&region) {
            return Some(progress.record());
        }
        match self.held(region)? {
            Held::Warm => None,
            Held::Resting { applied, mark, .. } => Some(record_of(*applied, *mark)),
        }
    }

    pub(super) fn is_frozen(&self, region: RegionId) -> bool {
        self.warm.get(&region).is_some_and(|progress| progress.merge.frozen.is_some())
    }

    /// What is known of a region, to be changed.
    pub(super) fn get_mut(&mut self, region: RegionId) -> Option<&mut Progress> {
        if !self.warm.contains_key(&region) {
            let place = self.place(region);
            let (_, held) = self.all.get_mut(place).filter(|(id, _)| *id == region)?;
            if let Held::Resting { packed, applied, mark } = held {
                let progress = progress_of(packed, *applied, *mark);
                *held = Held::Warm;
                self.warm.insert(region, Box::new(progress));
            }
        }
        self.warm.get_mut(&region).map(|progress| &mut **progress)
    }

    pub(super) fn insert(&mut self, progress: Progress) {
        let region = progress.descriptor.id;
        let place = self.place(region);
        match self.all.get_mut(place).filter(|(id, _)| *id == region) {
            Some((_, held)) => *held = Held::Warm,
            None => self.all.insert(place, (region, Held::Warm)),
        }
        self.warm.insert(region, Box::new(progress));
    }

    pub(super) fn remove(&mut self, region: RegionId) {
        if self.held(region).is_some() {
            self.all.remove(self.place(region));
            self.cool(region);
        }
    }

    /// The region sleeps, and should be this.
    pub(super) fn rest(&mut self, region: RegionId, packed: &Packed) {
        let place = self.place(region);
        let Some((_, held)) = self.all.get_mut(place).filter(|(id, _)| *id == region) else { return };
        match held {
            Held::Warm => {
                let progress = self.warm.get(&region).expect("invariant: it is warm");
                let term = progress.term.get();
                let is_plain = progress.merge == MergeState::default() && term >> 63 == 0;
                if is_plain && packed.is(&progress.descriptor) {
                    let mark = term << 1 | u64::from(progress.installed);
                    *held = Held::Resting { packed: packed.clone(), applied: progress.applied, mark };
                    self.cool(region);
                }
            }
            Held::Resting { packed: before, .. } => {
                // The same bytes, of which one copy is enough.
                if before == packed {
                    *before = packed.clone();
                }
            }
        }
    }

    /// Takes a region out of the warm, and gives memory back that only many of them need.
    fn cool(&mut self, region: RegionId) {
        self.warm.remove(&region);
        if self.warm.len() < self.warm.capacity() / 4 {
            self.warm.shrink_to(WARM_KEPT.max(self.warm.len() * 2));
        }
    }

    fn place(&self, region: RegionId) -> Place {
        self.all.place(|(id, _)| *id < region)
    }

    fn held(&self, region: RegionId) -> Option<&Held> {
        self.all.get(self.place(region)).filter(|(id, _)| *id == region).map(|(_, held)| held)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use bytes::Bytes;
    use multiraft_raft::{KeyRange, RegionEpoch, Replica, ReplicaId, Role, StoreId};

    use super::*;
    use crate::logic::Absorbed;

    fn progress(id: u64, term: u64) -> Progress {
        let range = KeyRange { start: Bytes::from_static(b"k"), end: Bytes::from_static(b"l") };
        let replicas = vec![Replica { id: ReplicaId(7), store: StoreId(1), role: Role::Voter }];
        let epoch = RegionEpoch { conf_version: 1, version: 1 };
        let descriptor = Arc::new(RegionDescriptor { id: RegionId(id), range, epoch, replicas });
        let merge = MergeState::default();
        Progress { descriptor, applied: LogIndex(40), term: Term(term), installed: id == 3, merge }
    }

    fn is_warm(regions: &Regions, id: u64) -> bool {
        matches!(regions.held(RegionId(id)), Some(Held::Warm))
    }

    #[test]
    fn what_rests_is_what_it_was_and_takes_one_entry() {
        let mut regions = Regions::new(vec![progress(3, 5), progress(2, 6)]);
        for id in [2, 3] {
            let before = regions.get(RegionId(id)).unwrap();
            let packed = Packed::new(&before.descriptor);
            regions.rest(RegionId(id), &packed);
            assert!(!is_warm(&regions, id));
            let after = regions.get(RegionId(id)).unwrap();
            assert_eq!((after.descriptor, after.applied, after.term), (before.descriptor, before.applied, before.term));
            assert_eq!((after.installed, after.merge), (before.installed, before.merge));
            let record = AppliedRecord { index: LogIndex(40), term: Term(8 - id), installed: id == 3 };
            assert_eq!(regions.record(RegionId(id)), Some(record));
        }
        regions.get_mut(RegionId(2)).unwrap().applied = LogIndex(41);
        assert!(is_warm(&regions, 2) && !is_warm(&regions, 3));
        assert_eq!(regions.record(RegionId(2)).unwrap().index, LogIndex(41));
        assert_eq!(size_of::<(RegionId, Held)>(), 40);
    }

    #[test]
    fn what_differs_from_the_descriptor_or_is_part_of_a_merge_stays_warm() {
        let mut regions = Regions::new(vec![progress(2, 5), progress(4, u64::MAX)]);
        let packed = Packed::new(&progress(2, 5).descriptor);
        regions.rest(RegionId(4), &Packed::new(&progress(4, 5).descriptor));
        assert!(is_warm(&regions, 4), "its term does not fit");
        regions.get_mut(RegionId(2)).unwrap().merge.absorbed = Arc::new(Absorbed(vec![(RegionId(9), 1)]));
        regions.rest(RegionId(2), &packed);
        assert!(is_warm(&regions, 2));
        let mut newer = progress(2, 5);
        Arc::make_mut(&mut newer.descriptor).epoch.version = 2;
        regions.insert(newer);
        regions.rest(RegionId(2), &packed);
        assert!(is_warm(&regions, 2));
        regions.remove(RegionId(2));
        regions.rest(RegionId(2), &packed);
        assert!(regions.get(RegionId(2)).is_none());
    }
}
