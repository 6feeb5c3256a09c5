//! The figures of the regions that a store leads, and of those that it answers queries for: kept from round to round.
//!
//! Load is a mean over the last [`WINDOWS`] rounds. Size is what the last survey found; what is written meanwhile only
//! decides when the next one is due. All figures begin anew with each version of a region and each leadership, and are told
//! once a size was found and some rounds have gone by: a part of a split is not taken for idle because it is new.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{RegionDescriptor, RegionId, Time};

use super::survey::{Size, Survey};
use super::touches::{Tally, Touches};
use crate::logic::LedRegion;
use crate::placement::{KeySample, Sizes};

/// Load is averaged over so many rounds.
pub(crate) const WINDOWS: usize = 10;
/// Load is told after so many.
const WARM_UP: u64 = 4;
/// Sampled keys are cut to so many bytes. A cut key divides a range as well as a whole one does, nearly.
const KEY_BYTES_MAX: usize = 256;
/// How many stretches load is told in; one that bears more than its share is a stretch of its own.
const LOAD_STRETCHES: u64 = 32;
/// A region is surveyed again when so much of what it holds, one part in this many, may have changed.
const CHURN_PART: u64 = 8;
/// Rounds between two surveys of a region; and for each round that one took, so many more.
const SURVEY_PAUSE: u64 = 4;
/// When to try again after a survey that failed.
const SURVEY_RETRY: u64 = 16;
/// Weights of sampled keys are in sixteenths of a touch a second.
const WEIGHT_SCALE: u64 = 16;

/// Size and load of a region, as one store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// The region.
    pub region: RegionId,
    /// Whether the store leads it. One that does not only tells the queries that it answers from its own replica.
    pub leads: bool,
    /// The `version` of the region's epoch under which this was measured.
    pub version: u64,
    /// What it holds: keys and values.
    pub bytes: u64,
    /// How many keys.
    pub keys: u64,
    /// Keys written a second.
    pub writes_per_s: u64,
    /// Keys read a second, by this store.
    pub reads_per_s: u64,
    /// Where all this lies, ascending by key; only of regions that are large or busy.
    pub samples: Arc<[KeySample]>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gauges {
    sizes: Sizes,
    round: u64,
    /// When the last rounds began, the present one last.
    began: VecDeque<Time>,
    regions: BTreeMap<RegionId, Gauge>,
    /// Those that were touched in one of the last rounds.
    busy: BTreeSet<RegionId>,
    /// Those that want a survey, by the round from which on they may have one.
    due: BTreeSet<(u64, RegionId)>,
}

#[derive(Debug)]
struct Gauge {
    leads: bool,
    version: u64,
    descriptor: Option<Arc<RegionDescriptor>>,
    /// The round in which it was last seen to be led.
    seen: u64,
    since: Time,
    since_round: u64,
    size: Option<Measured>,
    /// What was written since it began, and what a removal may have made of it.
    churned: u64,
    survey: Wait,
    rest_until: u64,
    /// What happened in the last rounds, the oldest first; rounds without anything are left out.
    load: VecDeque<(u64, Tally)>,
}

/// How it stands with a region's next survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// None is wanted.
    Idle,
    /// It may be made from this round on.
    Due(u64),
    UnderWay,
}

#[derive(Debug)]
struct Measured {
    size: Size,
    stretches: Arc<[(Bytes, u64)]>,
    /// What had been written when it was measured.
    churned: u64,
}

impl Gauges {
    pub(crate) fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            round: 0,
            began: VecDeque::new(),
            regions: BTreeMap::new(),
            busy: BTreeSet::new(),
            due: BTreeSet::new(),
        }
    }

    /// A round begins: these regions are led here now.
    pub(crate) fn begin(&mut self, now: Time, led: &[LedRegion]) {
        self.round += 1;
        self.began.push_back(now);
        if self.began.len() > WINDOWS + 1 {
            self.began.pop_front();
        }
        for region in led.iter().filter(|region| region.descriptor.id != RegionId::ROOT) {
            let id = region.descriptor.id;
            let version = region.descriptor.epoch.version;
            let known = self.regions.get_mut(&id).filter(|gauge| gauge.leads && gauge.version == version);
            if let Some(gauge) = known {
                gauge.seen = self.round;
                continue;
            }
            let mut gauge = Gauge::new(version, now, self.round);
            (gauge.leads, gauge.survey) = (true, Wait::Due(self.round));
            gauge.descriptor = Some(Arc::clone(&region.descriptor));
            self.regions.insert(id, gauge);
            self.due.insert((self.round, id));
        }
        let round = self.round;
        self.regions.retain(|_, gauge| !gauge.leads || gauge.seen == round);
    }

    /// Takes in what was done since the last round. `version_of` tells the version of a region that is not led here.
    pub(crate) fn take(&mut self, tallies: BTreeMap<RegionId, Tally>, version_of: impl Fn(RegionId) -> Option<u64>) {
        let (round, now) = (self.round, self.now());
        for (id, tally) in tallies.into_iter().filter(|(id, _)| *id != RegionId::ROOT) {
            if let Some(gauge) = self.regions.get_mut(&id).filter(|gauge| gauge.leads) {
                if gauge.since_round < round {
                    gauge.take(round, tally);
                    self.busy.insert(id);
                    if let Some(due) = gauge.maybe_survey(&self.sizes, round) {
                        self.due.insert((due, id));
                    }
                }
                continue;
            }
            let Some(version) = version_of(id).filter(|_| tally.reads.count > 0) else { continue };
            let gauge = self.regions.entry(id).or_insert_with(|| Gauge::new(version, now, round));
            if gauge.version == version && gauge.since_round < round {
                gauge.take(round, tally);
            } else {
                *gauge = Gauge::new(version, now, round);
            }
            self.busy.insert(id);
        }
        self.rest(round);
    }

    /// Forgets what is too long ago, of those only that were busy.
    fn rest(&mut self, round: u64) {
        let regions = &mut self.regions;
        self.busy.retain(|id| {
            let Some(gauge) = regions.get_mut(id) else { return false };
            let is_past = |then: u64| then + WINDOWS as u64 <= round;
            while gauge.load.front().is_some_and(|(then, _)| is_past(*then)) {
                gauge.load.pop_front();
            }
            let is_busy = !gauge.load.is_empty() || gauge.since_round == round;
            if !is_busy && !gauge.leads {
                regions.remove(id);
            }
            is_busy
        });
    }

    /// Surveys that are due, at most so many. Each of them has to be given back.
    pub(crate) fn take_due(&mut self, count: usize) -> Vec<Survey> {
        let mut surveys = Vec::new();
        while surveys.len() < count {
            let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= self.round) else { break };
            self.due.remove(&(due, id));
            let Some(gauge) = self.regions.get_mut(&id).filter(|gauge| gauge.survey == Wait::Due(due)) else {
                continue;
            };
            gauge.survey = Wait::UnderWay;
            surveys
                .extend(gauge.descriptor.as_ref().map(|region| Survey::new(region, gauge.since_round, gauge.churned)));
        }
        surveys
    }

    /// Takes in what a survey has found.
    pub(crate) fn on_surveyed(&mut self, survey: Survey) {
        let round = self.round;
        let Some(gauge) = self.regions.get_mut(&survey.region).filter(|gauge| gauge.wants(&survey)) else { return };
        gauge.survey = Wait::Idle;
        gauge.rest_until = self.round + SURVEY_PAUSE * survey.rounds.max(1);
        // Of a machine that does not tell: too much to be merged, too little to be split.
        let size = survey.found.unwrap_or(Size { bytes: self.sizes.split_bytes / 2 + 1, keys: 0 });
        let (region, churned) = (survey.region, survey.churned);
        let is_large = size.bytes > large(self.sizes.split_bytes);
        let stretches = if is_large { survey.into_stretches() } else { Arc::default() };
        gauge.size = Some(Measured { size, stretches, churned });
        if let Some(due) = gauge.maybe_survey(&self.sizes, round) {
            self.due.insert((due, region));
        }
    }

    /// A survey could not be finished: it is tried again later.
    pub(crate) fn on_failed(&mut self, survey: &Survey) {
        let due = self.round + SURVEY_RETRY;
        if let Some(gauge) = self.regions.get_mut(&survey.region).filter(|gauge| gauge.wants(survey)) {
            gauge.survey = Wait::Due(due);
            self.due.insert((due, survey.region));
        }
    }

    /// What can be told now, by region.
    pub(crate) fn figures(&self) -> impl Iterator<Item = Figures> + '_ {
        self.regions.iter().filter_map(|(id, gauge)| self.figures_of(*id, gauge))
    }

    fn figures_of(&self, region: RegionId, gauge: &Gauge) -> Option<Figures> {
        let size = match &gauge.size {
            _ if self.round < gauge.since_round + WARM_UP => return None,
            Some(measured) => measured.size,
            None if gauge.leads => return None,
            None => Size::default(),
        };
        let nanos = gauge.observed(self.now(), &self.began);
        let per_s = |count: u64| u64::try_from(u128::from(count) * 1_000_000_000 / nanos.max(1)).unwrap_or(u64::MAX);
        let sum = |of: fn(&Tally) -> &Touches| per_s(gauge.load.iter().map(|(_, tally)| of(tally).count).sum());
        let (writes_per_s, reads_per_s) = (sum(|tally| &tally.writes), sum(|tally| &tally.reads));
        let mut samples = Vec::new();
        for (key, bytes) in gauge.size.iter().flat_map(|measured| &*measured.stretches) {
            samples.push(KeySample { key: key.clone(), bytes: *bytes, writes: 0, reads: 0 });
        }
        if writes_per_s > large(self.sizes.split_writes_per_s) {
            let found = gauge.spread(|tally| &tally.writes, writes_per_s);
            samples.extend(found.into_iter().map(|(key, writes)| KeySample { key, bytes: 0, writes, reads: 0 }));
        }
        // Several stores may answer queries of one region: each has to tell of its part.
        if reads_per_s > self.sizes.split_reads_per_s / 8 {
            let found = gauge.spread(|tally| &tally.reads, reads_per_s);
            samples.extend(found.into_iter().map(|(key, reads)| KeySample { key, bytes: 0, writes: 0, reads }));
        }
        samples.sort_by(|one, other| one.key.cmp(&other.key));
        let (leads, version) = (gauge.leads, gauge.version);
        let Size { bytes, keys } = size;
        Some(Figures { region, leads, version, bytes, keys, writes_per_s, reads_per_s, samples: samples.into() })
    }

    fn now(&self) -> Time {
        self.began.back().copied().unwrap_or_default()
    }
}

impl Gauge {
    fn new(version: u64, now: Time, round: u64) -> Self {
        Self {
            leads: false,
            version,
            descriptor: None,
            seen: round,
            since: now,
            since_round: round,
            size: None,
            churned: 0,
            survey: Wait::Idle,
            rest_until: round,
            load: VecDeque::new(),
        }
    }

    fn take(&mut self, round: u64, tally: Tally) {
        // A removal takes away what the keys hold on the average.
        let size = self.size.as_ref().map_or(Size::default(), |measured| measured.size);
        let pair = size.bytes / size.keys.max(1);
        self.churned += tally.writes.bytes + tally.writes.removed.saturating_mul(pair);
        self.load.push_back((round, tally));
    }

    /// Has it surveyed if what was found last may be off by more than a little; gives when, if that is news.
    fn maybe_survey(&mut self, sizes: &Sizes, round: u64) -> Option<u64> {
        let measured = self.size.as_ref().filter(|_| self.survey == Wait::Idle)?;
        let is_off = self.churned - measured.churned > (measured.size.bytes / CHURN_PART).max(sizes.pittance_bytes());
        let due = self.rest_until.max(round);
        is_off.then(|| self.survey = Wait::Due(due)).map(|()| due)
    }

    /// Whether a survey was made for this.
    fn wants(&self, survey: &Survey) -> bool {
        self.leads && self.since_round == survey.since_round && self.version == survey.version
    }

    /// How long its load has been looked at, in nanoseconds.
    fn observed(&self, now: Time, began: &VecDeque<Time>) -> u128 {
        let from = began.front().copied().unwrap_or_default().max(self.since);
        now.since(from).as_nanos()
    }

    /// Where the keys of the last rounds lie: stretches that ascend, with what each bears.
    fn spread(&self, of: fn(&Tally) -> &Touches, per_s: u64) -> Vec<(Bytes, u64)> {
        let mut points: BTreeMap<Bytes, u64> = BTreeMap::new();
        for touches in self.load.iter().map(|(_, tally)| of(tally)) {
            let each = touches.count.saturating_mul(1 << 10) / (touches.keys.len() as u64).max(1);
            for key in &touches.keys {
                let weight = points.entry(cut(key)).or_default();
                *weight = weight.saturating_add(each);
            }
        }
        let all: u128 = points.values().map(|weight| u128::from(*weight)).sum();
        let scaled = |weight: u64| {
            let scaled = u128::from(weight) * u128::from(per_s) * u128::from(WEIGHT_SCALE) / all.max(1);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let mut stretches: Vec<(Bytes, u64)> = Vec::new();
        let share = u64::try_from(all / u128::from(LOAD_STRETCHES)).unwrap_or(u64::MAX);
        for (key, weight) in points {
            match stretches.last_mut() {
                Some((_, stretch)) if *stretch < share && weight < share => *stretch += weight,
                _ => stretches.push((key, weight)),
            }
        }
        stretches.into_iter().map(|(key, weight)| (key, scaled(weight))).collect()
    }
}

/// From here on it is told where a region's load or bytes lie.
fn large(threshold: u64) -> u64 {
    threshold - threshold / 4
}

/// A key, or its beginning.
pub(super) fn cut(key: &Bytes) -> Bytes {
    // A copy: a slice would keep alive whatever it was cut from.
    Bytes::copy_from_slice(&key[..key.len().min(KEY_BYTES_MAX)])
}

#[cfg(test)]
#[path = "gauges_tests.rs"]
mod tests;
