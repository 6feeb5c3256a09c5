//! Figures round by round, as lists: load, size, where they lie, and when regions are surveyed.

use std::time::Duration;

use multiraft_raft::{KeyRange, RegionEpoch, Replica, ReplicaId, Role, StoreId, Term};

use super::*;

fn led(id: u64, version: u64) -> LedRegion {
    let replicas = vec![Replica { id: ReplicaId(id), store: StoreId(1), role: Role::Voter }];
    let epoch = RegionEpoch { conf_version: 1, version };
    let descriptor = Arc::new(RegionDescriptor { id: RegionId(id), range: KeyRange::full(), epoch, replicas });
    LedRegion { descriptor, term: Term(1), behind: Vec::new(), fenced: Vec::new(), pending: false }
}

fn touched(keys: impl Iterator<Item = u64>, value: u64) -> Touches {
    let mut touches = Touches::default();
    for n in keys {
        touches.note(|| Bytes::from(format!("{n:06}")));
        touches.bytes += 6 + value;
    }
    touches
}

/// Gauges of regions that hold so many pairs of so many bytes each, a round a second.
struct Case {
    gauges: Gauges,
    now: Time,
    surveys: usize,
}

impl Case {
    fn new() -> Self {
        let sizes = Sizes { split_bytes: 64 << 10, merge_bytes: 8 << 10, split_writes_per_s: 400, ..Sizes::default() };
        let sizes = Sizes { split_reads_per_s: 800, merge_load_per_s: 50, ..sizes };
        Self { gauges: Gauges::new(sizes), now: Time::ZERO, surveys: 0 }
    }

    fn round(&mut self, led: &[LedRegion], tallies: Vec<(u64, Tally)>, pairs: u64) {
        self.now = self.now.plus(Duration::from_secs(1));
        self.gauges.begin(self.now, led);
        self.gauges.take(tallies.into_iter().map(|(id, tally)| (RegionId(id), tally)).collect(), |_| Some(1));
        for mut survey in self.gauges.take_due(100) {
            self.surveys += 1;
            survey.rounds = 1;
            (0..pairs).for_each(|n| survey.take(&Bytes::from(format!("{n:06}")), 100));
            self.gauges.on_surveyed(survey);
        }
    }

    fn of(&self, id: u64) -> Option<Figures> {
        self.gauges.figures().find(|figures| figures.region == RegionId(id))
    }
}

fn writes(keys: impl Iterator<Item = u64>, value: u64) -> Tally {
    Tally { writes: touched(keys, value), reads: Touches::default() }
}

fn reads(keys: impl Iterator<Item = u64>) -> Tally {
    Tally { writes: Touches::default(), reads: touched(keys, 0) }
}

/// The key before which half of what the samples bear lies, and the part before it in per cent.
fn half(figures: &Figures, of: fn(&KeySample) -> u64) -> (Bytes, u64) {
    let all: u64 = figures.samples.iter().map(of).sum();
    let mut before = 0;
    for sample in figures.samples.iter() {
        if before * 2 >= all {
            return (sample.key.clone(), before * 100 / all);
        }
        before += of(sample);
    }
    panic!("no half in {figures:?}");
}

#[test]
fn load_is_a_mean_over_the_last_rounds_and_ends_with_them() {
    let mut case = Case::new();
    let region = [led(2, 1)];
    for n in 0..30 {
        // The first tally is of before it was led.
        case.round(&region, vec![(2, writes(0..if n == 0 { 5_000 } else { 100 }, 0))], 10);
        let figures = case.of(2);
        assert_eq!(figures.is_some(), n >= 4, "round {n}");
        assert!(figures.is_none_or(|figures| figures.writes_per_s == 100), "round {n}");
    }
    for n in 1..=12 {
        case.round(&region, vec![], 10);
        let per_s = case.of(2).unwrap().writes_per_s;
        assert_eq!(per_s, 100u64.saturating_sub(10 * n), "{n} rounds of rest");
    }
    assert!(case.gauges.busy.is_empty());
}

#[test]
fn figures_begin_anew_with_each_version_and_leadership() {
    let mut case = Case::new();
    for _ in 0..6 {
        case.round(&[led(2, 1)], vec![(2, writes(0..100, 0))], 10);
    }
    assert_eq!((case.of(2).unwrap().version, case.of(2).unwrap().bytes), (1, 1_000));
    for n in 0..6 {
        case.round(&[led(2, 3)], vec![], 5);
        let told = case.of(2).map(|figures| (figures.version, figures.bytes, figures.writes_per_s));
        assert_eq!(told, (n >= 4).then_some((3, 500, 0)), "round {n}");
    }
    case.round(&[], vec![], 5);
    assert_eq!(case.of(2), None);
    case.round(&[led(2, 3)], vec![], 5);
    assert_eq!(case.of(2), None, "another may have led it meanwhile");
}

#[test]
fn a_hot_range_is_found_and_its_middle_divides_the_load() {
    let mut case = Case::new();
    let region = [led(2, 1)];
    for n in 0..20u64 {
        // Nine of ten writes go to a fiftieth of the keys.
        let hot = (0..900).map(|i| 70_000 + (i * 7_919 + n * 31) % 2_000);
        let cold = (0..100).map(|i| (i * 99_991 + n * 17) % 100_000);
        case.round(&region, vec![(2, writes(hot.chain(cold), 50))], 100);
    }
    let figures = case.of(2).unwrap();
    assert_eq!(figures.writes_per_s, 1_000);
    let (key, before) = half(&figures, |sample| sample.writes);
    assert!((Bytes::from("070000")..Bytes::from("072000")).contains(&key), "{key:?}");
    assert!((40..=60).contains(&before), "{before} per cent before {key:?}");
    let weight: u64 = figures.samples.iter().map(|sample| sample.writes).sum();
    assert!(weight.abs_diff(16_000) < 200, "{weight}: weights are sixteenths of a write a second");
}

#[test]
fn one_hot_key_is_a_stretch_of_its_own() {
    let mut case = Case::new();
    for _ in 0..20u64 {
        let cold = (0..200).map(|i| i * 500);
        case.round(&[led(2, 1)], vec![(2, reads((0..1_000).map(|_| 40_001).chain(cold)))], 100);
    }
    let figures = case.of(2).unwrap();
    let hot = figures.samples.iter().find(|sample| sample.key == "040001").unwrap();
    let all: u64 = figures.samples.iter().map(|sample| sample.reads).sum();
    assert!(hot.reads * 100 / all > 75, "{} of {all}", hot.reads);
}

#[test]
fn a_region_is_surveyed_when_enough_was_written_and_not_at_rest() {
    let mut case = Case::new();
    let region = [led(2, 1), led(3, 1)];
    for _ in 0..10 {
        case.round(&region, vec![], 200);
    }
    assert_eq!(case.surveys, 2, "once each");
    // An eighth of what it holds, 20,000 bytes, and more than the pittance of 2 KiB.
    case.round(&region, vec![(2, writes(0..20, 94))], 200);
    assert_eq!(case.surveys, 2);
    case.round(&region, vec![(2, writes(0..20, 94))], 220);
    assert_eq!((case.surveys, case.of(2).unwrap().bytes), (3, 22_000));
    // Written on and on, it has a pause between two.
    for _ in 0..12 {
        case.round(&region, vec![(2, writes(0..200, 94))], 200);
    }
    assert_eq!(case.surveys, 6);
    for _ in 0..20 {
        case.round(&region, vec![], 200);
    }
    assert!(case.surveys <= 7, "the last writes are looked at once: {}", case.surveys);
    // What is removed counts as what it held.
    let mut removed = touched(0..100, 0);
    (removed.removed, removed.bytes) = (100, 0);
    case.round(&region, vec![(3, Tally { writes: removed, reads: Touches::default() })], 100);
    assert_eq!(case.of(3).unwrap().bytes, 10_000);
}

#[test]
fn only_large_regions_tell_where_their_bytes_lie() {
    let mut case = Case::new();
    for _ in 0..5 {
        case.round(&[led(2, 1)], vec![], 480);
    }
    assert_eq!(case.of(2).unwrap().samples.len(), 0, "48,000 of 65,536 bytes");
    case.round(&[led(2, 1)], vec![(2, writes(0..200, 94))], 600);
    let figures = case.of(2).unwrap();
    let (key, before) = half(&figures, |sample| sample.bytes);
    assert!((45..=55).contains(&before), "{before} per cent before {key:?}");
    let at: u64 = String::from_utf8_lossy(&key).parse().unwrap();
    assert!((270..=330).contains(&at), "{key:?} of 600");
}

#[test]
fn a_follower_tells_of_the_queries_that_it_answers() {
    let mut case = Case::new();
    for n in 0..8 {
        case.round(&[], vec![(2, reads(0..300)), (3, writes(0..300, 1))], 0);
        let told = case.of(2).map(|figures| (figures.leads, figures.reads_per_s, figures.bytes));
        assert_eq!(told, (n >= 4).then_some((false, 300, 0)), "round {n}");
    }
    assert!(!case.of(2).unwrap().samples.is_empty());
    assert_eq!(case.of(3), None, "what the leader writes is the leader's to tell");
    for _ in 0..WINDOWS {
        case.round(&[], vec![], 0);
    }
    assert_eq!(case.of(2), None);
    assert!(case.gauges.regions.is_empty());
}

#[test]
fn of_a_machine_that_does_not_tell_its_size_neither_splits_nor_merges_come_up() {
    let mut case = Case::new();
    for _ in 0..6 {
        case.now = case.now.plus(Duration::from_secs(1));
        case.gauges.begin(case.now, &[led(2, 1)]);
        for mut survey in case.gauges.take_due(1) {
            survey.take_own(None, Vec::new());
            case.gauges.on_surveyed(survey);
        }
    }
    let bytes = case.of(2).unwrap().bytes;
    assert!(bytes > case.gauges.sizes.merge_bytes && bytes < case.gauges.sizes.split_bytes);
}

#[test]
fn a_survey_that_failed_is_made_again_and_one_of_the_past_is_dropped() {
    let mut case = Case::new();
    case.gauges.begin(Time::ZERO, &[led(2, 1)]);
    let survey = case.gauges.take_due(9).remove(0);
    case.gauges.on_failed(&survey);
    let tries = (0..40).filter(|_| {
        case.gauges.begin(case.gauges.now(), &[led(2, 1)]);
        !case.gauges.take_due(9).is_empty()
    });
    assert_eq!(tries.count(), 1, "it is under way from then on");
    case.gauges.begin(Time::ZERO, &[led(2, 2)]);
    case.gauges.on_surveyed(survey);
    assert!(case.gauges.regions[&RegionId(2)].size.is_none());
    assert_eq!(case.gauges.take_due(9).len(), 1);
}
