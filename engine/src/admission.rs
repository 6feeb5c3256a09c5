//! How much callers of this store may have under way: as much as is answered in good time.
//!
//! Queues are bounded in bytes, but what one disk drains in milliseconds takes another seconds, and everybody stands in the same
//! queues: log, lanes and appliers serve all regions in turn. So the bytes that may be under way follow from how long those took
//! that were under way before: a window as TCP's (Jacobson and Karels, 1988), cut when answers take longer than the target, and
//! growing while they come well within it. Beyond the window callers are told `Busy` at once, before anything is done or sent.
//!
//! Whoever wants little is let in beside a crowd: of each region, [`FLOOR_BYTES`] may be under way although the window is full. So a
//! crowd in some regions is held back and does not make others wait. A crowd that is spread over many regions wants little of each: the
//! more is under way beyond the window, the less is little, and nothing is at twice the window.
//!
//! Decides by what it is told of time and has none of its own. Invariant: what was let in is counted until it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use multiraft_raft::{RegionId, Time};

/// What may be under way of one region although the window is full, in bytes.
const FLOOR_BYTES: u64 = 64 << 10;
/// What may be under way however long it takes, in bytes.
const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// The mean of what was under way goes back so many attempts, about.
const MEAN_OF: u64 = 64;
/// Regions share so many counters. Two that share one share a floor.
const COUNTERS: usize = 1024;
/// Spreads numbers evenly, by their high bits (Knuth, TAOCP 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// For how long the shortest time to an answer is remembered, at least.
const LEAST_FOR: Duration = Duration::from_secs(300);
/// Answers may take so many times as long as the shortest: where the network is far or the disk slow, no queue need be the cause.
const TIMES_LEAST: u32 = 4;
/// But not longer than so many targets: in an overload that lasts, the shortest one stands in a queue as well.
const TIMES_TARGET: u32 = 5;
/// How often the window is cut at most, however long answers take.
const CUT_EVERY_MAX: Duration = Duration::from_secs(1);

/// What is under way, and how much may be.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Zero: whoever comes is let in.
    target: Duration,
    window_max: u64,
    window: AtomicU64,
    total: AtomicU64,
    regions: Box<[AtomicU64]>,
    /// What was under way of late, as those saw it who wanted much.
    mean: AtomicU64,
    /// What was drawn last.
    drawn: AtomicU64,
    /// The window is not cut again before this.
    cut_again_at: AtomicU64,
    least: Least,
    refused_total: metrics::Counter,
    window_bytes: metrics::Gauge,
}

/// The shortest time to an answer, of the current stretch of time and the one before it, in nanoseconds.
#[derive(Debug)]
struct Least {
    now: AtomicU64,
    before: AtomicU64,
    until: AtomicU64,
}

/// Something that was let in, until it is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it counts for nothing"]
pub(crate) struct Admitted<'a> {
    admission: &'a Admission,
    region: &'a AtomicU64,
    bytes: u64,
}

impl Admission {
    /// Lets in up to `window_max` bytes, as long as answers come within `target`.
    pub(crate) fn new(target: Duration, window_max: u64) -> Self {
        let never = || AtomicU64::new(u64::MAX);
        let window_max = window_max.max(WINDOW_BYTES_MIN);
        Self {
            target,
            window_max,
            window: AtomicU64::new(window_max),
            total: AtomicU64::new(0),
            regions: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            mean: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
            cut_again_at: AtomicU64::new(0),
            least: Least { now: never(), before: never(), until: AtomicU64::new(0) },
            refused_total: metrics::counter!("propose_refused_total"),
            window_bytes: metrics::gauge!("propose_window_bytes"),
        }
    }

    /// Lets a command in, or not. It may be as large as the window allows and more: what counts is what was there before it.
    pub(crate) fn enter(&self, region: RegionId, bytes: u64) -> Option<Admitted<'_>> {
        let region = &self.regions[(region.0.wrapping_mul(SPREAD) >> 54) as usize % COUNTERS];
        let own = region.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let others = self.total.fetch_add(bytes, Ordering::Relaxed);
        let admitted = Admitted { admission: self, region, bytes };
        if self.target.is_zero() || own <= self.floor(others) || self.has_room(others) {
            return Some(admitted);
        }
        self.refused_total.increment(1);
        None
    }

    /// What of a region counts as little while so much is under way.
    fn floor(&self, others: u64) -> u64 {
        let window = self.window.load(Ordering::Relaxed);
        if others <= window {
            return FLOOR_BYTES;
        }
        FLOOR_BYTES * ((2 * window).saturating_sub(others) >> 10) / (window >> 10)
    }

    /// The fuller the window has been, the fewer get in (Floyd and Jacobson, 1993): were it all up to the last byte, those who have just
    /// been answered would always be the first to take the place that they have left.
    fn has_room(&self, others: u64) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        let mean = self.mean.load(Ordering::Relaxed);
        let mean = mean - mean / MEAN_OF + others / MEAN_OF;
        // Of two who note it at the same time, one may be forgotten.
        self.mean.store(mean, Ordering::Relaxed);
        let beyond = mean.saturating_sub(window / 2);
        others == 0 || others < window && (beyond == 0 || self.draw(window / 2) >= beyond)
    }

    /// A number below `bound`, spread evenly.
    fn draw(&self, bound: u64) -> u64 {
        let drawn = self.drawn.fetch_add(SPREAD, Ordering::Relaxed);
        ((u128::from(drawn) * u128::from(bound)) >> 64) as u64
    }

    /// How long somebody who is told `Busy` had better wait: until some of what is under way is answered, and not all at once.
    pub(crate) fn retry_after(&self) -> Duration {
        self.target / 4 + self.target * self.draw(32) as u32 / 64
    }

    fn on_answer(&self, now: Time, took: Duration, bytes: u64) {
        let window = self.window.load(Ordering::Relaxed);
        let least = self.least.note(now, took);
        let target = least.saturating_mul(TIMES_LEAST).clamp(self.target, self.target * TIMES_TARGET);
        if took > target {
            self.cut(now, took, window);
        } else if took < target / 2 && window < self.window_max && self.total.load(Ordering::Relaxed) > window / 2 {
            // A quarter more for each window that is answered.
            let window = self.window.fetch_add(bytes / 4, Ordering::Relaxed) + bytes / 4;
            self.window_bytes.set(window as f64);
        }
    }

    /// Once for all that was under way together: those who come next will show whether it was enough.
    fn cut(&self, now: Time, took: Duration, window: u64) {
        let again_at = self.cut_again_at.load(Ordering::Relaxed);
        let next = now.plus(took.min(CUT_EVERY_MAX)).0;
        let is_mine =
            || self.cut_again_at.compare_exchange(again_at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now.0 < again_at || !is_mine() {
            return;
        }
        let used = window.min(self.total.load(Ordering::Relaxed));
        let window = (used / 10 * 7).max(WINDOW_BYTES_MIN);
        self.window.store(window, Ordering::Relaxed);
        self.window_bytes.set(window as f64);
    }
}

impl Least {
    /// Notes how long an answer took, and says what the shortest of late is.
    fn note(&self, now: Time, took: Duration) -> Duration {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let until = self.until.load(Ordering::Relaxed);
        if now.0 >= until {
            let next = now.plus(LEAST_FOR).0;
            if self.until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.before.store(self.now.swap(took, Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        if took < self.now.load(Ordering::Relaxed) {
            self.now.fetch_min(took, Ordering::Relaxed);
        }
        Duration::from_nanos(self.now.load(Ordering::Relaxed).min(self.before.load(Ordering::Relaxed)))
    }
}

impl Admitted<'_> {
    /// It was carried out. Only this tells of queues: an answer of another kind comes sooner or later for other reasons.
    pub(crate) fn served(self, began: Time, now: Time) {
        if !self.admission.target.is_zero() {
            self.admission.on_answer(now, now.since(began), self.bytes);
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.region.fetch_sub(self.bytes, Ordering::Relaxed);
        self.admission.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TARGET: Duration = Duration::from_millis(200);

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// Lets in all that fits, in commands of 16 KiB of one region.
    fn fill<'a>(admission: &'a Admission, region: u64, under_way: &mut Vec<Admitted<'a>>) {
        let mut refused = 0;
        while refused < 100 {
            match admission.enter(RegionId(region), 16 << 10) {
                Some(admitted) => under_way.push(admitted),
                None => refused += 1,
            }
            assert!(under_way.len() < 100_000, "it has no bound");
        }
    }

    /// A disk that takes 20 MiB a second, and as many callers as are let in: how long the last of many rounds took.
    fn press(admission: &Admission, ms: &mut u64, rounds: u64) -> u64 {
        let mut took = 0;
        for _ in 0..rounds {
            let mut under_way = Vec::new();
            fill(admission, 1, &mut under_way);
            let began = at(*ms);
            took = 5 + admission.total.load(Ordering::Relaxed) * 1_000 / (20 * MIB);
            *ms += took;
            under_way.into_iter().for_each(|admitted| admitted.served(began, at(*ms)));
        }
        took
    }

    #[test]
    fn a_crowd_gets_as_much_as_is_answered_in_time() {
        let (admission, mut ms) = (Admission::new(TARGET, 128 * MIB), 0);
        admission.enter(RegionId(2), 100).unwrap().served(at(0), at(5));
        assert!(press(&admission, &mut ms, 1) > 3_000, "nothing is known yet");
        let took = press(&admission, &mut ms, 40);
        assert!(took <= 300, "{took}: {admission:?}");
        // Neither less than what the disk can do in that time.
        assert!((0..20).all(|_| press(&admission, &mut ms, 1) >= 50), "{admission:?}");
    }

    #[test]
    fn whoever_wants_little_is_let_in_beside_a_crowd() {
        let (admission, mut under_way) = (Admission::new(TARGET, MIB), Vec::new());
        fill(&admission, 1, &mut under_way);
        assert!(admission.enter(RegionId(1), 100).is_none());
        assert!(admission.enter(RegionId(2), 100).is_some());
        let large = admission.enter(RegionId(2), 60 << 10);
        assert!(large.is_some() && admission.enter(RegionId(2), 16 << 10).is_none());
        under_way.clear();
        drop(large);
        assert!(admission.enter(RegionId(1), 8 * MIB).is_some(), "any one command finds its way in");
        assert_eq!(admission.total.load(Ordering::Relaxed), 0);
        assert!(admission.regions.iter().all(|region| region.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_crowd_over_many_regions_is_held_back_and_leaves_room_for_others() {
        let (admission, mut under_way) = (Admission::new(TARGET, MIB), Vec::new());
        for _ in 0..200 {
            under_way.extend((1..=800).filter_map(|region| admission.enter(RegionId(region), 1_000)));
        }
        let total = admission.total.load(Ordering::Relaxed);
        assert!((MIB..2 * MIB + 1_000).contains(&total), "{total}");
        let let_in = (10_000..10_100).filter(|region| admission.enter(RegionId(*region), 100).is_some()).count();
        assert!(let_in > 30, "{let_in} of 100, most of which share their counter with the crowd");
    }

    #[test]
    fn whoever_has_just_been_answered_does_not_keep_the_others_out() {
        let (admission, mut served) = (Admission::new(TARGET, MIB), [0_u32; 200]);
        let mut under_way: Vec<(usize, Admitted<'_>)> = Vec::new();
        let _another = admission.enter(RegionId(2), 100).unwrap();
        // In each round all try, first those who have just been answered.
        for round in 0..200 {
            let answered: Vec<usize> = under_way.drain(..).map(|(caller, _)| caller).collect();
            answered.iter().for_each(|caller| served[*caller] += 1);
            let all = (0..served.len()).map(|caller| (caller + round * 37) % 200);
            let others: Vec<usize> = all.filter(|caller| !answered.contains(caller)).collect();
            for caller in answered.into_iter().chain(others) {
                // More than the floor: nobody gets in by that.
                under_way.extend(admission.enter(RegionId(1), FLOOR_BYTES + 1).map(|admitted| (caller, admitted)));
            }
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(*least > 0 && *most < 100, "{least} to {most} of 200");
    }

    #[test]
    fn the_window_is_cut_once_for_what_was_under_way_together_and_grows_again() {
        let (admission, mut under_way) = (Admission::new(TARGET, 10 * MIB), Vec::new());
        fill(&admission, 1, &mut under_way);
        admission.enter(RegionId(2), 1).unwrap().served(at(0), at(1));
        let before = admission.total.load(Ordering::Relaxed);
        for _ in 0..100 {
            under_way.pop().unwrap().served(at(0), at(1_000));
        }
        let cut = admission.window.load(Ordering::Relaxed);
        assert!((before * 6 / 10..before * 8 / 10).contains(&cut), "{cut} after {before}");
        under_way.clear();
        let mut ms = 10_000;
        for _ in 0..30 {
            fill(&admission, 1, &mut under_way);
            under_way.drain(..).for_each(|admitted| admitted.served(at(ms), at(ms + 10)));
            ms += 10;
        }
        assert!(admission.window.load(Ordering::Relaxed) > cut * 5 / 4);
    }

    #[test]
    fn where_every_answer_takes_long_nobody_is_held_back() {
        let admission = Admission::new(TARGET, 10 * MIB);
        let mut under_way = Vec::new();
        fill(&admission, 1, &mut under_way);
        // The network is far: nobody is ever answered sooner than after 400 ms.
        under_way.into_iter().for_each(|admitted| admitted.served(at(0), at(400)));
        assert_eq!(admission.window.load(Ordering::Relaxed), 10 * MIB);
    }

    #[test]
    fn without_a_target_everybody_is_let_in() {
        let (admission, mut under_way) = (Admission::new(Duration::ZERO, MIB), Vec::new());
        for _ in 0..1_000 {
            under_way.push(admission.enter(RegionId(1), 16 << 10).unwrap());
        }
        under_way.into_iter().for_each(|admitted| admitted.served(at(0), at(9_000)));
        assert_eq!(admission.window.load(Ordering::Relaxed), MIB);
    }
}
