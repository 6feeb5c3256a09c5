//! Splits: a region that is too large or too busy is divided where what is too much falls into halves. The one that exceeds a
//! threshold most comes first: where fewer may be split than should be, that is what helps most.

use std::cmp::Reverse;

use bytes::Bytes;

use super::cluster::{KeySample, RegionInfo, Stats};
use super::operation::{Obstacle, Reason, Step};
use super::options::{Kind, Sizes};
use super::round::Round;
use super::worklist::Worklist;

const KIND: Kind = Kind::Split;

pub(super) fn plan(round: &mut Round<'_>, worklist: &Worklist) {
    let mut left = round.regions_below_maximum();
    for (_, id) in round.candidates(KIND, false, &worklist.split) {
        if !round.may_begin(KIND) {
            return;
        }
        if left == 0 {
            round.block(id, KIND, Obstacle::Maximum);
            continue;
        }
        let Some((region, leader)) = round.free_region(id, KIND) else { continue };
        match divide(region, &round.options.sizes) {
            Some((key, reason)) => {
                left -= 1;
                round.begin(region, leader, Step::Split { keys: vec![key] }, reason);
            }
            None => round.block(id, KIND, Obstacle::NoKey),
        }
    }
}

/// By how much a region exceeds the threshold that it exceeds most, in thousandths of it.
pub(super) fn excess_permille(stats: &Stats, sizes: &Sizes) -> u64 {
    let (bytes, writes, reads) = (stats.bytes, stats.writes_per_s, stats.reads_per_s);
    let causes = [(bytes, sizes.split_bytes), (writes, sizes.split_writes_per_s), (reads, sizes.split_reads_per_s)];
    causes.into_iter().map(|(value, threshold)| permille(value, threshold)).fold(0, u64::max).saturating_sub(1_000)
}

fn permille(value: u64, threshold: u64) -> u64 {
    let part = u128::from(value) * 1_000 / u128::from(threshold.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// Where to divide, and why; the cause that is furthest above its threshold comes first.
fn divide(region: &RegionInfo, sizes: &Sizes) -> Option<(Bytes, Reason)> {
    let stats = &region.stats;
    let (bytes, writes, reads) = (stats.bytes, stats.writes_per_s, stats.reads_per_s);
    let reasons: [fn(u64, u32) -> Reason; 3] = [
        |bytes, before_percent| Reason::Large { bytes, before_percent },
        |per_s, before_percent| Reason::ManyWrites { per_s, before_percent },
        |per_s, before_percent| Reason::ManyReads { per_s, before_percent },
    ];
    let weights: [fn(&KeySample) -> u64; 3] = [|sample| sample.bytes, |sample| sample.writes, |sample| sample.reads];
    let mut causes =
        [(bytes, sizes.split_bytes, 0), (writes, sizes.split_writes_per_s, 1), (reads, sizes.split_reads_per_s, 2)];
    causes.sort_by_key(|(value, threshold, at)| (Reverse(permille(*value, *threshold)), *at));
    causes.into_iter().filter(|(value, threshold, _)| value > threshold).find_map(|(value, _, at)| {
        let (key, percent) = halving_key(region, weights[at], sizes.split_part_min_percent)?;
        Some((key, reasons[at](value, percent)))
    })
}

/// The sampled key inside the range that divides `weight` most evenly, and the part before it in per cent; none if the
/// smaller part would be below `part_min` per cent.
fn halving_key(region: &RegionInfo, weight: fn(&KeySample) -> u64, part_min: u64) -> Option<(Bytes, u32)> {
    let range = &region.descriptor.range;
    let samples = region.stats.samples.as_deref()?;
    // Samples of one thing say nothing of where another lies.
    let inside = || samples.iter().filter(|sample| weight(sample) > 0 && range.contains(&sample.key));
    let all: u128 = inside().map(|sample| u128::from(weight(sample))).sum();
    let mut before = 0;
    let mut best: Option<(u128, &Bytes, u128)> = None;
    for sample in inside() {
        let smaller = before.min(all - before);
        if sample.key > range.start && best.is_none_or(|(most, ..)| smaller > most) {
            best = Some((smaller, &sample.key, before));
        }
        before += u128::from(weight(sample));
    }
    let (smaller, key, before) = best?;
    let is_even = all > 0 && smaller * 100 >= all * u128::from(part_min);
    is_even.then(|| (key.clone(), (before * 100 / all) as u32))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use multiraft_raft::{KeyRange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Time};

    use super::*;
    use crate::placement::{
        ClusterView, Outcome, PlacementOptions, Planner, Replication, Stats, StoreInfo, StoreState,
    };

    fn region(samples: &[(&'static str, [u64; 3])], bytes: u64, writes_per_s: u64) -> RegionInfo {
        let sample = |(key, [bytes, writes, reads]): &(&'static str, [u64; 3])| KeySample {
            key: Bytes::from(*key),
            bytes: *bytes,
            writes: *writes,
            reads: *reads,
        };
        RegionInfo {
            descriptor: Arc::new(RegionDescriptor {
                id: RegionId(2),
                range: KeyRange { start: "b".into(), end: "m".into() },
                epoch: RegionEpoch::FIRST,
                replicas: vec![],
            }),
            leader: None,
            stats: Stats {
                version: 1,
                bytes,
                writes_per_s,
                samples: Some(samples.iter().map(sample).collect()),
                ..Stats::default()
            },
            behind: vec![],
            unsound: vec![],
            replication: None,
            pending: false,
        }
    }

    #[test]
    fn what_is_too_much_falls_into_halves() {
        let samples = [("b", [10, 1, 0]), ("d", [10, 1, 0]), ("f", [10, 2, 0]), ("h", [10, 4, 0])];
        let sizes = Sizes::default();
        let large = divide(&region(&samples, 300 << 20, 0), &sizes);
        assert_eq!(large, Some(("f".into(), Reason::Large { bytes: 300 << 20, before_percent: 50 })));
        let busy = divide(&region(&samples, 300 << 20, 40_000), &sizes);
        assert_eq!(busy, Some(("h".into(), Reason::ManyWrites { per_s: 40_000, before_percent: 50 })));
        assert_eq!(divide(&region(&samples, 1, 1), &sizes), None);
    }

    #[test]
    fn one_hot_key_is_not_divided_and_samples_outside_do_not_count() {
        let sizes = Sizes::default();
        assert_eq!(divide(&region(&[("b", [1, 1, 0]), ("c", [1, 98, 0]), ("d", [1, 1, 0])], 0, 9_000), &sizes), None);
        assert_eq!(
            divide(&region(&[("a", [9; 3]), ("b", [9; 3]), ("m", [9; 3]), ("z", [9; 3])], 0, 9_000), &sizes),
            None
        );
        assert_eq!(divide(&region(&[], 0, 9_000), &sizes), None);
    }

    /// A region of its own range, far too large.
    fn part(id: u64, start: &'static str, end: &'static str, middle: &'static str) -> RegionInfo {
        let replicas = vec![Replica { id: ReplicaId(id), store: StoreId(1), role: Role::Voter }];
        let range = KeyRange { start: start.into(), end: end.into() };
        let descriptor = RegionDescriptor { id: RegionId(id), range, epoch: RegionEpoch::FIRST, replicas };
        let whole = region(&[(start, [1, 0, 0]), (middle, [1, 0, 0])], 1 << 40, 0);
        RegionInfo { descriptor: Arc::new(descriptor), leader: Some(StoreId(1)), ..whole }
    }

    /// A planner that is content with one replica, and a view of one store.
    fn with_regions_max(regions_max: usize) -> (Planner, ClusterView, Time) {
        let sizes = Sizes { regions_max, ..Sizes::default() };
        let replication = Replication { voters: 1, ..Replication::default() };
        let options = PlacementOptions { sizes, replication, ..PlacementOptions::default() };
        let mut view = ClusterView::of_sizes(&sizes);
        let now = Time::ZERO.plus(Duration::from_secs(100));
        view.observe_store(StoreInfo {
            id: StoreId(1),
            address: String::new(),
            weight: 1,
            disk_bytes: 0,
            disk_free_bytes: 0,
            is_slow: false,
            labels: BTreeMap::new(),
            state: StoreState::Up,
            last_heard: now,
        });
        (Planner::new(options).unwrap(), view, now)
    }

    /// That region with so many times the bytes and the writes that it may have, in per cent.
    fn loaded(part: RegionInfo, bytes_percent: u64, writes_percent: u64) -> RegionInfo {
        let sizes = Sizes::default();
        let bytes = sizes.split_bytes / 100 * bytes_percent;
        let writes_per_s = sizes.split_writes_per_s / 100 * writes_percent;
        // Both lie alike.
        let sample = |sample: &KeySample| KeySample { writes: sample.bytes, ..sample.clone() };
        let samples = part.stats.samples.as_deref().map(|samples| samples.iter().map(sample).collect());
        RegionInfo { stats: Stats { bytes, writes_per_s, samples, ..part.stats }, ..part }
    }

    #[test]
    fn where_few_may_be_split_those_that_exceed_most_are() {
        let (mut planner, mut view, now) = with_regions_max(6);
        view.observe_region(loaded(part(2, "", "e", "c"), 300, 0));
        view.observe_region(loaded(part(3, "e", "k", "g"), 150, 700));
        view.observe_region(loaded(part(4, "k", "p", "m"), 500, 200));
        view.observe_region(loaded(part(5, "p", "", "t"), 500, 0));
        let split = |planner: &mut Planner, view: &ClusterView| -> Vec<u64> {
            planner.plan(now, view).operations.iter().map(|operation| operation.region.get()).collect()
        };
        assert_eq!(split(&mut planner.clone(), &view), [3, 4], "of two that are alike the first");
        // What has grown since comes first, also for a planner that looks at changes only.
        let mut aware = planner.clone();
        aware.rehearse(now, &view);
        view.observe_region(loaded(part(2, "", "e", "c"), 900, 0));
        assert_eq!(split(&mut planner, &view), [2, 3]);
        assert_eq!(split(&mut aware, &view), [2, 3]);
    }

    #[test]
    fn no_more_regions_come_than_there_may_be_also_while_some_are_not_known() {
        let (mut planner, mut view, now) = with_regions_max(4);
        view.observe_region(part(2, "", "g", "c"));
        view.observe_region(part(3, "p", "", "t"));
        assert_eq!(planner.plan(now, &view).operations, [], "nobody has told of g to p");
        view.observe_region(part(4, "g", "p", "k"));
        let plan = planner.plan(now, &view);
        assert_eq!(plan.operations.len(), 1, "a fourth");
        assert!(plan.blocked.iter().all(|blocked| blocked.obstacle == Obstacle::Maximum) && plan.blocked.len() == 2);
        // What is done and not seen yet counts as well.
        planner.report(now, plan.operations[0].id, Outcome::Done);
        assert_eq!(planner.plan(now, &view).operations, []);
    }
}
