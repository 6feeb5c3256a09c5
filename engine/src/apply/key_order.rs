//! Which regions here have keys in a range, found without going through all of them.
//!
//! Regions are kept in the order in which their ranges begin; where a range begins is asked of whoever keeps it. Of ranges that do
//! not overlap, those that share keys with another one stand side by side:
//!
//! ```text
//!   in order   [a c) [c f) [h k) [k ~)          asked: [d i)  ->  the last that begins at or before d, and on to i
//!   loose      [b d)                            looked at each time
//! ```
//!
//! Invariant: ranges in order do not overlap, and none of them is empty. What overlaps another when it comes is *loose*. Ranges of
//! initialised replicas never overlap (F4 of `docs/regions.md`), so only a replica that is out of service, with a state of the
//! past, can be loose, or one whose range was written anew offline.

use std::collections::BTreeSet;

use multiraft_raft::{KeyRange, RegionId};

use super::sorted::Sorted;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KeyOrder {
    order: Sorted<RegionId>,
    loose: BTreeSet<RegionId>,
}

fn is_empty(range: &KeyRange) -> bool {
    !range.end.is_empty() && range.end <= range.start
}

impl KeyOrder {
    /// The order of these regions.
    pub(super) fn of(mut ranges: Vec<(RegionId, KeyRange)>) -> Self {
        ranges.sort_by(|one, other| (&one.1.start, one.0).cmp(&(&other.1.start, other.0)));
        let mut loose = BTreeSet::new();
        let mut order: Vec<RegionId> = Vec::with_capacity(ranges.len());
        let mut last: Option<KeyRange> = None;
        for (region, range) in ranges {
            if is_empty(&range) || last.as_ref().is_some_and(|last| last.overlaps(&range)) {
                loose.insert(region);
            } else {
                order.push(region);
                last = Some(range);
            }
        }
        Self { order: Sorted::of(order), loose }
    }

    /// A region has this range now, and had none.
    pub(super) fn insert(&mut self, region: RegionId, range: &KeyRange, range_of: impl Fn(RegionId) -> KeyRange) {
        let place = self.order.place(|other| range_of(*other).start <= range.start);
        let beside = [self.order.before(place), self.order.get(place)];
        if is_empty(range) || beside.into_iter().flatten().any(|other| range_of(*other).overlaps(range)) {
            self.loose.insert(region);
        } else {
            self.order.insert(place, region);
        }
    }

    /// A region that has this range will have none.
    pub(super) fn remove(&mut self, region: RegionId, range: &KeyRange, range_of: impl Fn(RegionId) -> KeyRange) {
        if !self.loose.remove(&region) {
            let place = self.order.place(|other| range_of(*other).start < range.start);
            let removed = self.order.remove(place);
            assert_eq!(removed, Some(region), "invariant: ranges in order do not overlap");
        }
    }

    /// The regions that share keys with a range, in order of id.
    pub(super) fn overlapping(&self, range: &KeyRange, range_of: impl Fn(RegionId) -> KeyRange) -> BTreeSet<RegionId> {
        let place = self.order.place(|other| range_of(*other).start <= range.start);
        let before = self.order.before(place).into_iter().chain(&self.loose);
        let mut found: BTreeSet<RegionId> =
            before.copied().filter(|region| range_of(*region).overlaps(range)).collect();
        found.extend(self.order.from(place).take_while(|region| range_of(**region).overlaps(range)));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn it_finds_what_going_through_all_would_find() {
        let mut seed = 3_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let key = |key: u64| Bytes::copy_from_slice(&u16::try_from(key).unwrap_or(0).to_be_bytes());
        let (mut ranges, mut order) = (BTreeMap::<RegionId, KeyRange>::new(), KeyOrder::default());
        let (mut most, mut loosest) = (0, 0);
        for step in 0..6_000 {
            let region = RegionId(draw(400));
            // Few overlap, and a few are empty, or have no end.
            let start = draw(4_000);
            let end = if draw(40) == 0 { Bytes::new() } else { key(start + draw(6)) };
            let range = KeyRange { start: key(start), end };
            let of = |ranges: &BTreeMap<RegionId, KeyRange>, region| ranges[&region].clone();
            if let Some(before) = ranges.get(&region).cloned() {
                order.remove(region, &before, |other| of(&ranges, other));
                ranges.remove(&region);
            } else if !(range.end.is_empty() && draw(10) > 0) {
                order.insert(region, &range, |other| of(&ranges, other));
                ranges.insert(region, range.clone());
            }
            if step % 1_500 == 0 {
                order = KeyOrder::of(ranges.clone().into_iter().collect());
            }
            let found = order.overlapping(&range, |other| of(&ranges, other));
            let all = ranges.iter().filter(|(_, other)| other.overlaps(&range)).map(|(region, _)| *region);
            assert_eq!(found, all.collect::<BTreeSet<_>>(), "step {step}");
            (most, loosest) = (most.max(ranges.len()), loosest.max(order.loose.len()));
        }
        assert!(most > 150 && loosest > 5 && loosest < most, "{most} {loosest}");
    }
}
