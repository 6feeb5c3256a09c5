//! The map against a model that remembers everything it ever heard.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn key(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[n])
}

/// `end` 0 stands for the end of the key space, `start` 0 for its beginning.
fn range(start: u8, end: u8) -> KeyRange {
    let start = if start == 0 { Bytes::new() } else { key(start) };
    KeyRange { start, end: if end == 0 { Bytes::new() } else { key(end) } }
}

fn descriptor(id: u64, start: u8, end: u8, version: u64, conf_version: u64) -> RegionDescriptor {
    RegionDescriptor {
        id: RegionId(id),
        range: range(start, end),
        epoch: RegionEpoch { conf_version, version },
        replicas: Vec::new(),
    }
}

fn owner(map: &RangeMap, n: u8) -> Option<u64> {
    map.lookup(&[n]).map(|route| route.region.get())
}

fn scan_ids(map: &RangeMap, range: &KeyRange, max: usize) -> Vec<u64> {
    map.scan(range, max).into_iter().map(|route| route.region.get()).collect()
}

#[test]
fn child_heard_of_first_leaves_a_gap_until_its_parent_is() {
    let map = RangeMap::new();
    assert_eq!(map.update(&descriptor(10, 0, 0, 1, 1)), RangeUpdate::Replaced);
    assert_eq!(map.update(&descriptor(11, 100, 0, 2, 1)), RangeUpdate::Replaced);
    assert_eq!((owner(&map, 99), owner(&map, 100), owner(&map, 255)), (None, Some(11), Some(11)));
    assert_eq!(map.update(&descriptor(10, 0, 0, 1, 9)), RangeUpdate::Stale);
    assert_eq!(owner(&map, 99), None);
    assert_eq!(map.update(&descriptor(10, 0, 100, 2, 1)), RangeUpdate::Replaced);
    assert_eq!(owner(&map, 99), Some(10));
    assert_eq!(map.lookup(b""), map.lookup(&[99]));
}

#[test]
fn merge_replaces_source_and_target() {
    let map = RangeMap::new();
    map.update(&descriptor(10, 0, 100, 2, 1));
    map.update(&descriptor(11, 100, 0, 7, 1));
    assert_eq!(map.update(&descriptor(10, 0, 0, 8, 1)), RangeUpdate::Replaced);
    assert_eq!(scan_ids(&map, &KeyRange::full(), 9), [10]);
    assert_eq!(map.update(&descriptor(11, 100, 0, 7, 2)), RangeUpdate::Stale);
    assert_eq!(scan_ids(&map, &KeyRange::full(), 9), [10]);
}

#[test]
fn overtaken_news_still_drops_what_it_overtakes() {
    let map = RangeMap::new();
    map.update(&descriptor(12, 150, 0, 3, 1));
    map.update(&descriptor(10, 0, 100, 1, 1));
    // It once reached over both: newer than the one, older than the other.
    assert_eq!(map.update(&descriptor(11, 50, 200, 2, 1)), RangeUpdate::Stale);
    assert_eq!(scan_ids(&map, &KeyRange::full(), 9), [12]);
}

#[test]
fn change_of_replicas_refreshes_the_epoch_only_forward() {
    let map = RangeMap::new();
    map.update(&descriptor(10, 0, 0, 1, 3));
    assert_eq!(map.update(&descriptor(10, 0, 0, 1, 2)), RangeUpdate::Stale);
    assert_eq!(map.update(&descriptor(10, 0, 0, 1, 4)), RangeUpdate::Refreshed);
    assert_eq!(map.lookup(b"k").expect("known").epoch, RegionEpoch { conf_version: 4, version: 1 });
}

#[test]
fn root_region_owns_no_keys() {
    let map = RangeMap::new();
    assert_eq!(map.update(&descriptor(RegionId::ROOT.get(), 0, 0, 9, 1)), RangeUpdate::Stale);
    assert_eq!(map.update(&descriptor(9, 7, 7, 9, 1)), RangeUpdate::Stale);
    assert!(map.is_empty());
    assert_eq!(map.lookup(b"k"), None);
}

#[test]
fn scan_is_in_order_and_bounded() {
    let map = RangeMap::new();
    for n in [30_u8, 10, 20] {
        map.update(&descriptor(u64::from(n), n, n + 10, 1, 1));
    }
    assert_eq!(scan_ids(&map, &range(15, 31), 9), [10, 20, 30]);
    assert_eq!(scan_ids(&map, &range(20, 30), 9), [20]);
    assert_eq!(scan_ids(&map, &range(40, 0), 9), [0; 0]);
    assert_eq!(scan_ids(&map, &KeyRange::full(), 2), [10, 20]);
}

/// A step in a region's life; numbers pick regions and keys of the cluster as it then is.
#[derive(Clone, Debug)]
enum Step {
    Split(Index, u8),
    Merge(Index),
    Freeze(Index),
    ChangeReplicas(Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<Index>(), 1..=254_u8).prop_map(|(region, at)| Step::Split(region, at)),
        2 => any::<Index>().prop_map(Step::Merge),
        1 => any::<Index>().prop_map(Step::Freeze),
        1 => any::<Index>().prop_map(Step::ChangeReplicas),
    ]
}

/// Plays `steps` by the rules for epochs; returns every descriptor that ever stood, and those that stand at the end.
fn history(steps: &[Step]) -> (Vec<RegionDescriptor>, Vec<RegionDescriptor>) {
    let mut standing = vec![descriptor(2, 0, 0, 1, 1)];
    let mut ever = standing.clone();
    for (step, new_id) in steps.iter().zip(3..) {
        match step {
            Step::Split(region, at) => {
                let place = region.index(standing.len());
                let at = key(*at);
                let parent = &mut standing[place];
                if parent.range.start >= at || !parent.range.contains(&at) {
                    continue;
                }
                let mut child = parent.clone();
                child.id = RegionId(new_id);
                child.range.start = at.clone();
                parent.range.end = at;
                parent.epoch.version += 1;
                child.epoch.version += 1;
                // The id may stay with either part.
                if new_id % 2 == 0 {
                    std::mem::swap(&mut parent.id, &mut child.id);
                }
                ever.extend([parent.clone(), child.clone()]);
                standing.insert(place + 1, child);
            }
            Step::Merge(region) if standing.len() > 1 => {
                let place = region.index(standing.len() - 1);
                let source = standing.remove(place + 1);
                let target = &mut standing[place];
                target.epoch.version = target.epoch.version.max(source.epoch.version) + 1;
                target.range.end = source.range.end;
                ever.push(target.clone());
            }
            Step::Merge(_) => {}
            Step::Freeze(region) => {
                let place = region.index(standing.len());
                standing[place].epoch.version += 1;
                ever.push(standing[place].clone());
            }
            Step::ChangeReplicas(region) => {
                let place = region.index(standing.len());
                standing[place].epoch.conf_version += 1;
                ever.push(standing[place].clone());
            }
        }
    }
    (ever, standing)
}

fn age(descriptor: &RegionDescriptor) -> Age {
    (descriptor.epoch.version, descriptor.id)
}

/// The model: of all that was heard, those stand over whose keys nothing newer was heard of.
fn standing(heard: &[RegionDescriptor]) -> Vec<Route> {
    let mut routes: Vec<Route> = heard
        .iter()
        .filter(|one| {
            heard.iter().all(|other| {
                let is_later_form = age(other) == age(one) && other.epoch.conf_version > one.epoch.conf_version;
                !is_later_form && (age(other) <= age(one) || !other.range.overlaps(&one.range))
            })
        })
        .map(|one| Route { region: one.id, range: one.range.clone(), epoch: one.epoch })
        .collect();
    routes.sort_by(|one, other| one.range.start.cmp(&other.range.start));
    routes.dedup();
    routes
}

fn assert_sound(map: &RangeMap) {
    let pieces = map.read();
    let all: Vec<_> = pieces.iter().collect();
    for pair in all.windows(2) {
        let ((start, piece), (next, behind)) = (&pair[0], &pair[1]);
        assert!(*start < piece.end && piece.end <= *next, "pieces overlap: {all:?}");
        let twins = piece.age == behind.age && piece.live.is_none() && behind.live.is_none();
        assert!(!(twins && piece.end == *next), "neighbours of one age are one piece: {all:?}");
    }
}

proptest! {
    #[test]
    fn every_order_of_arrival_ends_in_the_truth(
        steps in prop::collection::vec(step(), 0..40),
        order in prop::collection::vec(any::<Index>(), 200),
    ) {
        let (mut ever, mut truth) = history(&steps);
        for (n, pick) in order.iter().enumerate().take(ever.len()) {
            let other = pick.index(ever.len());
            ever.swap(n, other);
        }
        let map = RangeMap::new();
        for heard in 1..=ever.len() {
            map.update(&ever[heard - 1]);
            assert_sound(&map);
            prop_assert_eq!(map.scan(&KeyRange::full(), usize::MAX), standing(&ever[..heard]));
        }
        truth.sort_by(|one, other| one.range.start.cmp(&other.range.start));
        let expected: Vec<_> =
            truth.iter().map(|one| Route { region: one.id, range: one.range.clone(), epoch: one.epoch }).collect();
        prop_assert_eq!(map.scan(&KeyRange::full(), usize::MAX), expected.as_slice());
        prop_assert_eq!(map.len(), expected.len());
        prop_assert_eq!(map.read().len(), expected.len(), "nothing superseded is kept");
        for n in 0..=255_u8 {
            prop_assert_eq!(map.lookup(&[n]), expected.iter().find(|route| route.range.contains(&[n])).cloned());
        }
    }

    #[test]
    fn arbitrary_news_never_overlaps_and_newest_wins(
        news in prop::collection::vec((2..6_u64, 0..=250_u8, any::<u8>(), 1..8_u64), 0..40),
    ) {
        let mut heard: Vec<RegionDescriptor> = Vec::new();
        let map = RangeMap::new();
        for (id, start, end, version) in news {
            let end = if end <= start { 0 } else { end };
            let mut one = descriptor(id, start, end, version, 1);
            // One region at one version has one range.
            if let Some(same) = heard.iter().find(|other| age(other) == age(&one)) {
                one = same.clone();
            }
            map.update(&one);
            heard.push(one);
            assert_sound(&map);
            let expected = standing(&heard);
            prop_assert_eq!(map.scan(&KeyRange::full(), usize::MAX), expected.as_slice());
            for n in (0..=255_u8).step_by(5) {
                prop_assert_eq!(map.lookup(&[n]), expected.iter().find(|route| route.range.contains(&[n])).cloned());
            }
        }
    }
}
