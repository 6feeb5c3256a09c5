//! Who leads what, seen from outside all the time: a term of a region has one leader at most (Ongaro's Election Safety).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::Admin;
use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble};

/// How often a store is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// Which store was seen to lead, by region and term.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaders {
    seen: BTreeMap<(u64, u64), u64>,
    /// The first two that were seen to lead one region in one term.
    doubled: Option<String>,
}

impl Leaders {
    /// Asks one store until it is told to stop.
    pub(super) fn watch(admin: &Admin, stop: &Stop) -> Self {
        let mut leaders = Self::default();
        while !stop.within(INTERVAL) {
            // A store that is gone leads nothing.
            let Ok(status) = admin.status() else { continue };
            for region in status.regions.iter().filter(|region| region.is_leader) {
                leaders.note(region.id, region.term, status.store);
            }
        }
        leaders
    }

    fn note(&mut self, region: u64, term: u64, store: u64) {
        let first = *self.seen.entry((region, term)).or_insert(store);
        if first != store && self.doubled.is_none() {
            self.doubled = Some(format!("region {region} was led in term {term} by stores {first} and {store}"));
        }
    }

    /// What another store was seen to lead as well.
    pub(super) fn add(&mut self, other: Self) {
        self.doubled = self.doubled.take().or(other.doubled);
        for ((region, term), store) in other.seen {
            self.note(region, term, store);
        }
    }

    pub(super) fn verdict(&self) -> Outcome<String> {
        match &self.doubled {
            Some(doubled) => Err(Trouble::new(doubled.clone())),
            None => Ok(format!("{} leaderships were seen", self.seen.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_are_found_also_if_two_stores_tell_of_them() {
        let seen = |region, term, store| {
            let mut leaders = Leaders::default();
            leaders.note(region, term, store);
            leaders
        };
        let mut all = seen(2, 7, 1);
        [seen(2, 8, 3), seen(3, 7, 3), seen(2, 7, 1)].into_iter().for_each(|other| all.add(other));
        assert_eq!(all.verdict(), Ok("3 leaderships were seen".to_owned()));
        all.add(seen(2, 7, 2));
        assert!(all.verdict().unwrap_err().to_string().contains("region 2 was led in term 7 by stores 1 and 2"));
    }
}
