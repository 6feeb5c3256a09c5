//! What has changed since the root region's leader was last told: that, and no more, is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use multiraft_raft::{RegionEpoch, RegionId, ReplicaId, Term};

use super::report::Report;
use crate::logic::LedRegion;
use crate::measure::Figures;
use crate::placement::Sizes;

/// How large a report becomes, about, before the rest goes into another.
const REPORT_BYTES: usize = 256 << 10;

/// Everything is told again after this many rounds, whether it has changed or not: whatever was lost on the way heals.
const ROUNDS_TO_REPEAT: u32 = 60;
/// Where bytes and load lie is told again after so many.
const ROUNDS_TO_SAMPLE: u32 = 8;

/// Figures are told again when one of them is off by more than one part in this many, and by half a pittance.
const CHANGE_PART: u64 = 8;

/// What makes two states of a led region equal for whoever plans.
type Told = (Term, RegionEpoch, [Vec<ReplicaId>; 2], bool);

fn told_of(region: &LedRegion) -> Told {
    (region.term, region.descriptor.epoch, [region.behind.clone(), region.fenced.clone()], region.pending)
}

/// Figures as they were told, and when.
#[derive(Clone, Copy, Debug)]
struct ToldFigures {
    leads: bool,
    version: u64,
    bytes: u64,
    load: [u64; 2],
    is_sampled: bool,
    round: u32,
}

impl ToldFigures {
    fn of(figures: &Figures, round: u32) -> Self {
        Self {
            leads: figures.leads,
            version: figures.version,
            bytes: figures.bytes,
            load: [figures.writes_per_s, figures.reads_per_s],
            is_sampled: !figures.samples.is_empty(),
            round,
        }
    }

    /// Whether these figures are no news.
    fn is_near(&self, new: &Self, (bytes, per_s): (u64, u64)) -> bool {
        let near = |old: u64, new: u64, pittance: u64| old.abs_diff(new) <= (old / CHANGE_PART).max(pittance / 2);
        let is_fresh = !self.is_sampled || new.round.wrapping_sub(self.round) < ROUNDS_TO_SAMPLE;
        (self.leads, self.version, self.is_sampled) == (new.leads, new.version, new.is_sampled)
            && is_fresh
            && near(self.bytes, new.bytes, bytes)
            && self.load.iter().zip(new.load).all(|(old, new)| near(*old, new, per_s))
    }
}

/// Remembers what the root region's leader has taken, so that only changes are told.
#[derive(Debug)]
pub(super) struct Reporter {
    /// The term of the leader that has taken it.
    term: Term,
    told: BTreeMap<RegionId, Told>,
    figures: BTreeMap<RegionId, ToldFigures>,
    /// Bytes and load that are not worth telling.
    pittance: (u64, u64),
    rounds: u32,
}

impl Reporter {
    pub(super) fn new(sizes: &Sizes) -> Self {
        let pittance = (sizes.pittance_bytes(), sizes.pittance_per_s());
        Self { term: Term::default(), told: BTreeMap::new(), figures: BTreeMap::new(), pittance, rounds: 0 }
    }

    /// What is to be told now; one report at least, as a sign of life.
    pub(super) fn reports(&mut self, held: usize, led: Vec<LedRegion>, figures: Vec<Figures>) -> Vec<Report> {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(ROUNDS_TO_REPEAT) {
            self.told.clear();
            self.figures.clear();
        }
        let still: BTreeSet<RegionId> = led.iter().map(|region| region.descriptor.id).collect();
        self.told.retain(|region, _| still.contains(region));
        let mut reports = Cutter { reports: vec![Report { held: held as u64, ..Report::default() }], bytes: 0 };
        for region in led {
            if self.told.get(&region.descriptor.id).is_some_and(|told| *told == told_of(&region)) {
                continue;
            }
            let range = &region.descriptor.range;
            let bytes = 64 + 24 * region.descriptor.replicas.len() + range.start.len() + range.end.len();
            reports.next(bytes).led.push(region);
        }
        for figures in self.changed(figures, &still) {
            let bytes = 64 + figures.samples.iter().map(|sample| sample.key.len() + 16).sum::<usize>();
            reports.next(bytes).figures.push(figures);
        }
        reports.reports
    }

    /// The figures that are news. Of a region that is neither led here any more nor read from it is told once that nothing is
    /// read.
    fn changed(&mut self, figures: Vec<Figures>, led: &BTreeSet<RegionId>) -> Vec<Figures> {
        let known: BTreeSet<RegionId> = figures.iter().map(|figures| figures.region).collect();
        let is_over = |region: &RegionId| !known.contains(region) && !led.contains(region);
        let over: Vec<_> = self.figures.iter().filter(|(region, told)| is_over(region) && !told.leads).collect();
        let over = over.into_iter().map(|(region, told)| Figures { version: told.version, ..nothing_of(*region) });
        let over: Vec<Figures> = over.collect();
        self.figures.retain(|region, told| known.contains(region) || !(told.leads && is_over(region)));
        let (rounds, pittance) = (self.rounds, self.pittance);
        let is_news = |new: &Figures| {
            let told = self.figures.get(&new.region);
            told.is_none_or(|told| !told.is_near(&ToldFigures::of(new, rounds), pittance))
        };
        figures.into_iter().filter(is_news).chain(over).collect()
    }

    /// The root region's leader of `term` has taken a report. What earlier ones have taken it does not know; false if that is
    /// so, and more is to be told.
    pub(super) fn on_taken(&mut self, term: Term, report: &Report) -> bool {
        let is_same = self.term == term;
        if !is_same {
            self.term = term;
            self.told.clear();
            self.figures.clear();
        }
        self.told.extend(report.led.iter().map(|region| (region.descriptor.id, told_of(region))));
        for figures in &report.figures {
            if *figures == (Figures { version: figures.version, ..nothing_of(figures.region) }) {
                self.figures.remove(&figures.region);
            } else {
                self.figures.insert(figures.region, ToldFigures::of(figures, self.rounds));
            }
        }
        is_same
    }
}

/// Figures of a region that a store does not lead and answers no queries for.
fn nothing_of(region: RegionId) -> Figures {
    let (writes_per_s, reads_per_s, samples) = (0, 0, Arc::default());
    Figures { region, leads: false, version: 0, bytes: 0, keys: 0, writes_per_s, reads_per_s, samples }
}

/// Cuts what is to be told into reports that are not too large.
struct Cutter {
    reports: Vec<Report>,
    bytes: usize,
}

impl Cutter {
    /// The report that so many more bytes go into.
    fn next(&mut self, bytes: usize) -> &mut Report {
        self.bytes += bytes;
        if self.bytes > REPORT_BYTES {
            self.bytes = bytes;
            let held = self.reports[0].held;
            self.reports.push(Report { held, ..Report::default() });
        }
        let last = self.reports.len() - 1;
        &mut self.reports[last]
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::placement::KeySample;
    use crate::steward::report::tests::led;

    fn told(held: u64, led: Vec<LedRegion>) -> Report {
        Report { held, led, ..Report::default() }
    }

    fn reporter() -> Reporter {
        Reporter::new(&Sizes::default())
    }

    /// What is told in a round without regions, and taken.
    fn figures_told(reporter: &mut Reporter, figures: Vec<Figures>) -> Vec<Figures> {
        let reports = reporter.reports(0, Vec::new(), figures);
        for report in &reports {
            assert!(reporter.on_taken(Term(0), report));
        }
        reports.into_iter().flat_map(|report| report.figures).collect()
    }

    fn figures(bytes: u64, writes_per_s: u64) -> Figures {
        Figures { leads: true, version: 4, bytes, writes_per_s, ..nothing_of(RegionId(2)) }
    }

    #[test]
    fn only_changes_are_told_and_a_new_leader_hears_everything() {
        let mut reporter = reporter();
        let both = || vec![led(2, 1, 1), led(3, 1, 1)];
        let first = reporter.reports(2, both(), Vec::new());
        assert_eq!(first, [told(2, both())]);
        assert!(!reporter.on_taken(Term(7), &first[0]), "a leader that has heard nothing yet");
        let nothing = told(2, Vec::new());
        assert_eq!(reporter.reports(2, both(), Vec::new()), std::slice::from_ref(&nothing));
        assert!(reporter.on_taken(Term(7), &nothing));
        let changed = vec![led(2, 1, 1), led(3, 1, 2)];
        let second = reporter.reports(2, changed.clone(), Vec::new());
        assert_eq!(second, [told(2, vec![led(3, 1, 2)])]);
        assert_eq!(reporter.reports(2, changed.clone(), Vec::new()), second, "what was not taken is told again");
        assert!(!reporter.on_taken(Term(8), &second[0]));
        assert_eq!(reporter.reports(2, changed, Vec::new()), [told(2, vec![led(2, 1, 1)])]);
    }

    #[test]
    fn a_region_that_is_led_here_again_is_told_again() {
        let mut reporter = reporter();
        let first = reporter.reports(1, vec![led(2, 1, 1)], Vec::new());
        reporter.on_taken(Term(1), &first[0]);
        let lost = reporter.reports(1, Vec::new(), Vec::new());
        reporter.on_taken(Term(1), &lost[0]);
        assert_eq!(reporter.reports(1, vec![led(2, 1, 1)], Vec::new())[0].led.len(), 1);
    }

    #[test]
    fn everything_is_repeated_now_and_then_and_much_is_cut_into_several_reports() {
        let mut reporter = reporter();
        let many: Vec<_> = (2..8_000).map(|id| led(id, 1, 1)).collect();
        let reports = reporter.reports(many.len(), many.clone(), Vec::new());
        assert!(reports.len() > 2);
        assert_eq!(reports.iter().map(|report| report.led.len()).sum::<usize>(), many.len());
        for report in &reports {
            reporter.on_taken(Term(1), report);
            assert!(report.encode().len() < 2 * REPORT_BYTES);
        }
        let repeats = |reporter: &mut Reporter| reporter.reports(1, many.clone(), Vec::new()).len() > 1;
        let quiet = (1..ROUNDS_TO_REPEAT).position(|_| repeats(&mut reporter));
        assert_eq!(quiet, Some(ROUNDS_TO_REPEAT as usize - 2), "the first round was counted before");
    }

    #[test]
    fn figures_that_waver_are_told_once_and_those_that_move_again() {
        let mut reporter = reporter();
        assert_eq!(figures_told(&mut reporter, vec![figures(100 << 20, 800)]), [figures(100 << 20, 800)]);
        for (bytes, per_s) in [(101, 800), (90, 700), (112, 890), (100, 799)] {
            assert_eq!(figures_told(&mut reporter, vec![figures(bytes << 20, per_s)]), [], "{bytes} MiB, {per_s}/s");
        }
        for moved in
            [figures(113 << 20, 800), figures(113 << 20, 600), Figures { version: 5, ..figures(113 << 20, 600) }]
        {
            assert_eq!(figures_told(&mut reporter, vec![moved.clone()]), [moved]);
        }
        // Of little, half a pittance does not count.
        figures_told(&mut reporter, vec![figures(0, 0)]);
        assert_eq!(figures_told(&mut reporter, vec![figures(500 << 10, 5)]), []);
        assert_eq!(figures_told(&mut reporter, vec![figures(0, 6)]).len(), 1);
    }

    #[test]
    fn what_was_not_taken_is_told_again_and_samples_every_few_rounds() {
        let mut reporter = reporter();
        let sample = KeySample { key: Bytes::from_static(b"k"), bytes: 1, writes: 0, reads: 0 };
        let sampled = Figures { samples: [sample].into(), ..figures(1 << 30, 0) };
        for _ in 0..3 {
            assert_eq!(reporter.reports(0, Vec::new(), vec![sampled.clone()])[0].figures.len(), 1);
        }
        let rounds = 3 * ROUNDS_TO_SAMPLE as usize;
        let told = (0..rounds).filter(|_| !figures_told(&mut reporter, vec![sampled.clone()]).is_empty());
        assert_eq!(told.count(), 3);
    }

    #[test]
    fn the_end_of_reading_from_a_region_is_told_and_that_of_leading_is_not() {
        let mut reporter = reporter();
        let served = Figures { version: 3, reads_per_s: 900, ..nothing_of(RegionId(9)) };
        assert_eq!(figures_told(&mut reporter, vec![figures(0, 900), served.clone()]).len(), 2);
        assert_eq!(figures_told(&mut reporter, Vec::new()), [Figures { reads_per_s: 0, ..served }]);
        assert_eq!(figures_told(&mut reporter, Vec::new()), []);
        assert_eq!(figures_told(&mut reporter, vec![figures(0, 900)]).len(), 1, "led again");
    }

    #[test]
    fn many_samples_are_cut_into_reports_of_a_bounded_size() {
        let mut reporter = reporter();
        let sample = |n: u32| KeySample { key: Bytes::from(vec![n as u8; 256]), bytes: 1 << 40, writes: 0, reads: 0 };
        let samples: Arc<[KeySample]> = (0..200).map(sample).collect();
        let all = (2..50).map(|id| Figures { region: RegionId(id), samples: samples.clone(), ..figures(1 << 40, 0) });
        let reports = reporter.reports(0, Vec::new(), all.collect());
        assert!(reports.len() > 5);
        assert!(reports.iter().all(|report| report.encode().len() < 2 * REPORT_BYTES));
        assert_eq!(reports.iter().map(|report| report.figures.len()).sum::<usize>(), 48);
    }
}
