//! Whether a store is slow: it works, and asks for support, but parts of it stand still again and again (`docs/liveness.md`, L12).

use std::time::Duration;

use multiraft_raft::Time;

use super::LivenessOptions;

/// A score of so much or more makes a store slow...
const SLOW_FROM: u32 = 40;
/// ...until all its scores are below this.
const WELL_BELOW: u32 = 10;
/// For how many windows it is slow at least: at first, and if it becomes slow again soon after it was well, twice as long as before.
const SLOW_FOR: u32 = 10;
const SLOW_FOR_MAX: u32 = 640;
/// What the newest window counts for in a score: one part of so many.
const PARTS: u32 = 4;

/// For how long parts of a store have had something to do and not got on with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standstills {
    /// The worst of the workers.
    pub workers: Duration,
    /// The worst of those who carry entries out. A wait for space on a full disk is none.
    pub appliers: Duration,
    /// The log's writer.
    pub log: Duration,
}

impl Standstills {
    /// The longest of them.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.workers.max(self.appliers).max(self.log)
    }

    fn max(self, other: Self) -> Self {
        Self {
            workers: self.workers.max(other.workers),
            appliers: self.appliers.max(other.appliers),
            log: self.log.max(other.log),
        }
    }
}

/// How slow each part of a store has been lately: 0 not at all, 100 as slow as if it had stood still for the progress bound in
/// each window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scores {
    /// The workers.
    pub workers: u32,
    /// Those who carry entries out.
    pub appliers: u32,
    /// The log's writer.
    pub log: u32,
}

/// The scores of a store, and whether it is slow.
///
/// Time is cut into windows of the support duration. What counts of a window is the longest standstill of each part that was
/// seen in it, as a share of the progress bound; a score moves a quarter of the way there. So one hiccup never makes a store
/// slow, and two windows with standstills as long as the bound do. It is slow for ten windows at least, and for twice as long as the
/// last time if that is not long ago.
#[derive(Clone, Debug)]
pub struct Health {
    options: LivenessOptions,
    window_ends: Time,
    peaks: Standstills,
    /// In hundredths.
    scores: [u32; 3],
    /// Never, where leaders stay in any case.
    is_slow: bool,
    /// For how many windows at least it is slow the next time, or is slow now.
    slow_for: u32,
    /// How many windows ago that changed.
    windows: u32,
}

impl Health {
    /// Of a store that has been watched from `now` on, and is well.
    #[must_use]
    pub fn new(options: LivenessOptions, now: Time) -> Self {
        let window_ends = now.plus(options.support_duration);
        Self {
            options,
            window_ends,
            peaks: Standstills::default(),
            scores: [0; 3],
            is_slow: false,
            slow_for: SLOW_FOR,
            windows: 0,
        }
    }

    /// Takes a look at the store into account; the looks should come several times a window. Returns whether the store is slow,
    /// if that has changed.
    pub fn observe(&mut self, now: Time, standstills: Standstills) -> Option<bool> {
        self.peaks = self.peaks.max(standstills);
        if now < self.window_ends {
            return None;
        }
        let peaks = std::mem::take(&mut self.peaks);
        let bound = self.options.progress_bound().as_nanos().max(1);
        // Windows without a look are not made up for: whoever did not look cannot say how they were.
        self.window_ends = now.plus(self.options.support_duration);
        for (score, peak) in self.scores.iter_mut().zip([peaks.workers, peaks.appliers, peaks.log]) {
            let seen = (peak.as_nanos() * 10_000 / bound).min(10_000) as u32;
            *score = (*score * (PARTS - 1) + seen) / PARTS;
        }
        let worst = self.scores.into_iter().max().unwrap_or_default();
        self.windows = self.windows.saturating_add(1);
        if !self.options.sheds_leaders {
            return None;
        }
        let is_slow = if self.is_slow {
            self.windows < self.slow_for || worst >= WELL_BELOW * 100
        } else {
            worst >= SLOW_FROM * 100
        };
        if is_slow == self.is_slow {
            return None;
        }
        // What it gave away makes it well, and what comes back makes it slow: that is not to go on for ever.
        if is_slow && self.windows < self.slow_for.saturating_mul(2) {
            self.slow_for = (self.slow_for * 2).min(SLOW_FOR_MAX);
        } else if is_slow {
            self.slow_for = SLOW_FOR;
        }
        (self.is_slow, self.windows) = (is_slow, 0);
        Some(is_slow)
    }

    /// The scores as of the last window that has ended.
    #[must_use]
    pub fn scores(&self) -> Scores {
        let [workers, appliers, log] = self.scores.map(|score| score / 100);
        Scores { workers, appliers, log }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn log(ms: u64) -> Standstills {
        Standstills { log: Duration::from_millis(ms), ..Standstills::default() }
    }

    /// Looks five times in each of `windows` seconds; the log is seen to stand still for `peak` in one look of each. Says after
    /// which window the store has become slow or well, and which.
    fn run(health: &mut Health, now: &mut Time, windows: usize, peak: u64) -> Vec<(usize, bool)> {
        let mut changes = Vec::new();
        for window in 1..=windows {
            for look in 0..5 {
                *now = now.plus(ms(200));
                let standstill = if look == 2 { log(peak) } else { log(20) };
                changes.extend(health.observe(*now, standstill).map(|is_slow| (window, is_slow)));
            }
        }
        changes
    }

    fn health(sheds_leaders: bool) -> (Health, Time) {
        let now = Time::ZERO.plus(ms(5_000));
        (Health::new(LivenessOptions { sheds_leaders, ..LivenessOptions::default() }, now), now)
    }

    #[test]
    fn a_hiccup_is_forgotten_and_standstills_of_half_the_bound_are_not() {
        let (mut health, mut now) = health(true);
        assert_eq!(run(&mut health, &mut now, 1, 2_000), []);
        assert_eq!(health.scores(), Scores { log: 25, ..Scores::default() });
        assert_eq!(run(&mut health, &mut now, 20, 20), []);
        assert!(health.scores().log < 6);
        // As long as a fifth of the bound: never. Half of it: after some seconds.
        assert_eq!(run(&mut health, &mut now, 50, 100), []);
        assert_eq!(run(&mut health, &mut now, 20, 250), [(4, true)]);
        // It is well again only once that lies well behind it.
        assert_eq!(run(&mut health, &mut now, 20, 20), [(8, false)]);
    }

    #[test]
    fn a_store_that_stands_still_in_every_window_is_slow_after_two() {
        let (mut health, mut now) = health(true);
        assert_eq!(run(&mut health, &mut now, 10, 500), [(2, true)]);
        let stands = |part: fn(&mut Standstills) -> &mut Duration| {
            let (mut health, now) = self::health(true);
            let mut standstills = Standstills::default();
            *part(&mut standstills) = ms(600);
            let after = |n: u64| now.plus(ms(1_000 * n));
            (1..=2).filter_map(|n| health.observe(after(n), standstills)).collect::<Vec<_>>()
        };
        assert_eq!(stands(|all| &mut all.workers), [true]);
        assert_eq!(stands(|all| &mut all.appliers), [true]);
    }

    #[test]
    fn windows_without_a_look_count_for_nothing() {
        let (mut health, now) = health(true);
        assert_eq!(health.observe(now.plus(ms(60_000)), log(500)), None);
        assert_eq!(health.scores().log, 25);
    }

    #[test]
    fn scores_are_kept_where_leaders_stay() {
        let (mut health, mut now) = health(false);
        assert_eq!(run(&mut health, &mut now, 10, 500), []);
        assert!(health.scores().log > 90);
    }

    #[test]
    fn a_store_that_is_slow_again_and_again_stays_so_for_longer_each_time() {
        let (mut health, mut now) = health(true);
        let mut lasts = Vec::new();
        for _ in 0..4 {
            let slow = run(&mut health, &mut now, 40, 500);
            assert!(matches!(slow[..], [(2 | 3, true)]), "{slow:?}");
            let well = run(&mut health, &mut now, 700, 0);
            assert!(matches!(well[..], [(_, false)]), "{well:?}");
            lasts.push(well[0].0);
        }
        // It was well for long in between: each time it is slow until the scores say otherwise.
        assert_eq!(lasts, [10; 4]);
        let mut lasts = Vec::new();
        for _ in 0..9 {
            assert_eq!(run(&mut health, &mut now, 2, 500).len(), 1);
            let mut windows = 2;
            while run(&mut health, &mut now, 1, 0).is_empty() {
                windows += 1;
            }
            lasts.push(windows);
        }
        assert_eq!(lasts, [11, 21, 41, 81, 161, 321, 641, 641, 641]);
    }
}
