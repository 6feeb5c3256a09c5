//! What becomes of regions, as one sees it who looks at them again and again. Ids of regions and of replicas are never used
//! again: so what was there can be told from what is there now.

use std::collections::{BTreeMap, BTreeSet};

use crate::serve::RegionView;

/// What was done to the regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) splits: usize,
    pub(crate) moves: usize,
    pub(crate) merges: usize,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The replicas that each region has had.
    replicas: BTreeMap<u64, BTreeSet<u64>>,
    present: usize,
}

impl Seen {
    /// Takes a look: all regions that own keys.
    pub(crate) fn look(&mut self, regions: &[RegionView]) {
        self.present = regions.len();
        for region in regions {
            self.replicas.entry(region.id).or_default().extend(region.replicas.iter().map(|replica| replica.id));
        }
    }

    /// What it took to come from one region to those that were seen last, where each has so many replicas.
    pub(crate) fn counts(&self, replication: usize) -> Counts {
        let moves = self.replicas.values().map(|replicas| replicas.len().saturating_sub(replication)).sum();
        let all = self.replicas.len();
        Counts { splits: all.saturating_sub(1), moves, merges: all - self.present }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::ReplicaReport;

    fn region(id: u64, replicas: &[u64]) -> RegionView {
        let replica = |id: &u64| ReplicaReport { id: *id, store: *id % 10, role: "voter".to_owned() };
        RegionView {
            id,
            start: String::new(),
            end: String::new(),
            conf_version: 1,
            version: 1,
            replicas: replicas.iter().map(replica).collect(),
            leader: None,
            applied: None,
            measured: None,
        }
    }

    #[test]
    fn splits_moves_and_merges_are_told_by_the_ids_that_come_and_go() {
        let mut seen = Seen::default();
        assert_eq!(seen.counts(3), Counts::default());
        seen.look(&[region(2, &[21])]);
        seen.look(&[region(2, &[21, 22, 23])]);
        assert_eq!(seen.counts(3), Counts::default(), "it has only grown");
        seen.look(&[region(2, &[21, 22, 23]), region(5, &[51, 52, 53]), region(9, &[91, 92, 93])]);
        seen.look(&[region(2, &[21, 22, 23]), region(5, &[51, 52, 53, 54]), region(9, &[91, 92, 93])]);
        seen.look(&[region(2, &[21, 22, 23]), region(5, &[52, 53, 54])]);
        assert_eq!(seen.counts(3), Counts { splits: 2, moves: 1, merges: 1 });
    }
}
