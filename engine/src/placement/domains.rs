//! Failure domains: how far apart the replicas of a region are.
//!
//! Domains nest: two racks of the same name in different zones are different racks. A store without a label shares the one
//! unnamed domain with all others that have none.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::StoreInfo;

/// How many levels count.
const LEVELS: usize = 4;
/// More distinct domains than this make no difference.
const DISTINCT_MAX: usize = 16;

/// The domains that a store lies in, the widest first, numbered within one round.
pub(super) type Place = [u32; LEVELS];

/// How many different domains a set of stores covers, level by level. The greater, the better: zones count before racks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spread([u8; LEVELS]);

impl Spread {
    pub(super) fn of(places: &[Place]) -> Self {
        let mut spread = [0; LEVELS];
        for (level, count) in spread.iter_mut().enumerate() {
            let is_new = |at: &usize| places[..*at].iter().all(|earlier| earlier[level] != places[*at][level]);
            *count = (0..places.len()).filter(is_new).count().min(DISTINCT_MAX) as u8;
        }
        Self(spread)
    }
}

/// The domains of all stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Domains {
    /// How many different domains the stores cover that replicas may be put on, level by level.
    available: [u8; LEVELS],
}

impl Domains {
    /// The place of each store, and what can be reached with those that `accepts` says.
    pub(super) fn new<'a>(
        labels: &[String],
        stores: impl Iterator<Item = (&'a StoreInfo, bool)>,
    ) -> (Self, Vec<Place>) {
        let mut numbers = BTreeMap::new();
        let mut distinct: [BTreeSet<u32>; LEVELS] = Default::default();
        let mut places = Vec::new();
        for (store, accepts) in stores {
            let mut path = Vec::new();
            let mut place = [0; LEVELS];
            for (level, label) in labels.iter().take(LEVELS).enumerate() {
                path.push(store.labels.get(label).map_or("", String::as_str));
                let next = numbers.len() as u32;
                place[level] = *numbers.entry(path.clone()).or_insert(next);
                if accepts {
                    distinct[level].insert(place[level]);
                }
            }
            places.push(place);
        }
        let available = distinct.map(|distinct| distinct.len().clamp(1, DISTINCT_MAX) as u8);
        (Self { available }, places)
    }

    /// The best that so many replicas can have: as many domains as there are, or one each. All levels reach it at once: first
    /// one replica in every zone, then the others in racks of their own.
    pub(super) fn best(&self, replicas: usize) -> Spread {
        Spread(self.available.map(|available| available.min(replicas.min(DISTINCT_MAX) as u8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::StoreState;
    use multiraft_raft::{StoreId, Time};

    fn store(id: u64, zone: &str, rack: &str) -> StoreInfo {
        let labels = [("zone", zone), ("rack", rack)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        StoreInfo {
            id: StoreId(id),
            address: String::new(),
            weight: 1,
            disk_bytes: 0,
            disk_free_bytes: 0,
            is_slow: false,
            labels: labels.into(),
            state: StoreState::Up,
            last_heard: Time::ZERO,
        }
    }

    #[test]
    fn zones_count_before_racks_and_racks_belong_to_their_zone() {
        let labels = ["zone".to_owned(), "rack".to_owned()];
        let stores = [store(1, "a", "1"), store(2, "a", "2"), store(3, "b", "1"), store(4, "b", "1")];
        let (domains, places) = Domains::new(&labels, stores.iter().map(|store| (store, true)));
        let spread = |picked: &[usize]| Spread::of(&picked.iter().map(|at| places[*at]).collect::<Vec<_>>());
        assert!(spread(&[0, 2]) > spread(&[0, 1]), "two zones beat two racks of one");
        assert!(spread(&[0, 1, 2]) > spread(&[0, 2, 3]), "three racks beat two");
        assert_eq!(spread(&[0, 1, 2]), domains.best(3));
        assert!(spread(&[0, 2]) < domains.best(3));
        let (fewer, _) = Domains::new(&labels, stores.iter().map(|store| (store, store.id < StoreId(3))));
        assert_eq!(spread(&[0, 1]), fewer.best(2), "only what accepts replicas counts");
    }

    #[test]
    fn without_domains_every_choice_is_the_best() {
        let (domains, places) = Domains::new(&[], [store(1, "a", "1"), store(2, "a", "1")].iter().map(|s| (s, true)));
        assert_eq!(Spread::of(&places), domains.best(2));
    }
}
