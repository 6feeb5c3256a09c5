//! Finding out how large a region is by reading its range, a piece at a time; and where its bytes lie.

use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{KeyRange, RegionDescriptor, RegionId};

use super::gauges::cut;

/// The range is told of in so many stretches at most.
pub(crate) const STRETCHES: usize = 64;

/// How much a region holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Of keys and values.
    pub(crate) bytes: u64,
    /// How many.
    pub(crate) keys: u64,
}

/// One pass over a region's range.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) region: RegionId,
    /// The version of the region that is looked at.
    pub(crate) version: u64,
    pub(crate) range: KeyRange,
    /// The round since which its figures are kept that this is for.
    pub(crate) since_round: u64,
    /// What had been written to it when this began.
    pub(crate) churned: u64,
    /// How many rounds it has taken.
    pub(crate) rounds: u64,
    /// Where it goes on, as the backend counts; `None`: at the start.
    pub(crate) next: Option<Bytes>,
    /// `None`: the region's machine does not tell.
    pub(crate) found: Option<Size>,
    stretches: Vec<(Bytes, u64)>,
    /// How large a stretch has to become before the next begins.
    enough: u64,
}

impl Survey {
    pub(crate) fn new(region: &RegionDescriptor, since_round: u64, churned: u64) -> Self {
        Self {
            region: region.id,
            version: region.epoch.version,
            range: region.range.clone(),
            since_round,
            churned,
            rounds: 0,
            next: None,
            found: Some(Size::default()),
            stretches: Vec::new(),
            enough: 1,
        }
    }

    /// Takes in the next pair, in key order.
    pub(crate) fn take(&mut self, key: &Bytes, bytes: u64) {
        let size = self.found.get_or_insert_default();
        size.bytes += bytes;
        size.keys += 1;
        match self.stretches.last_mut() {
            Some((_, stretch)) if *stretch < self.enough => *stretch += bytes,
            _ => self.stretches.push((cut(key), bytes)),
        }
        while self.stretches.len() >= 2 * STRETCHES {
            self.halve();
        }
    }

    /// Takes in what a machine of its own tells.
    pub(crate) fn take_own(&mut self, found: Option<Size>, stretches: Vec<(Bytes, u64)>) {
        self.found = found;
        self.stretches = stretches.into_iter().map(|(key, bytes)| (cut(&key), bytes)).collect();
    }

    /// The stretches, ascending, each with its first key and its bytes.
    pub(crate) fn into_stretches(mut self) -> Arc<[(Bytes, u64)]> {
        while self.stretches.len() > STRETCHES {
            self.halve();
        }
        self.stretches.into()
    }

    /// Joins each stretch with the next.
    fn halve(&mut self) {
        self.enough = self.enough.saturating_mul(2);
        let mut joined: Vec<(Bytes, u64)> = Vec::with_capacity(2 * STRETCHES);
        for (key, bytes) in self.stretches.drain(..) {
            match joined.last_mut() {
                Some((_, stretch)) if *stretch < self.enough => *stretch += bytes,
                _ => joined.push((key, bytes)),
            }
        }
        self.stretches = joined;
    }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::RegionEpoch;

    use super::*;

    fn survey(sizes: impl Iterator<Item = u64>) -> Survey {
        let epoch = RegionEpoch { conf_version: 1, version: 3 };
        let region = RegionDescriptor { id: RegionId(2), range: KeyRange::full(), epoch, replicas: Vec::new() };
        let mut survey = Survey::new(&region, 0, 0);
        sizes.enumerate().for_each(|(n, bytes)| survey.take(&Bytes::from(format!("{n:08}")), bytes));
        survey
    }

    #[test]
    fn stretches_hold_all_bytes_and_none_is_much_larger_than_its_share_or_than_one_pair() {
        for (count, largest) in [(0u64, 1u64), (1, 9), (63, 9), (64, 1), (129, 50), (5_000, 700), (70_000, 3)] {
            let sizes = move || (0..count).map(move |n| n * 7_919 % largest + 1);
            let survey = survey(sizes());
            let total: u64 = sizes().sum();
            assert_eq!(survey.found, Some(Size { bytes: total, keys: count }));
            let stretches = survey.into_stretches();
            assert!(stretches.len() <= STRETCHES && stretches.is_sorted_by_key(|(key, _)| key.clone()));
            assert_eq!(stretches.iter().map(|(_, bytes)| bytes).sum::<u64>(), total);
            let most = stretches.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
            assert!(most <= total / 8 + 2 * largest, "{count} pairs: a stretch of {most} of {total}");
        }
    }
}
