//! How operations were answered: how many, how fast, and how long nobody was.
//!
//! Answered means `ok`, here as in the verdicts of checkers. A stall begins with an answer, or with the first question
//! behind it if nothing was under way then, and ends with the next answer; refusals and unknown outcomes do not end it. The last
//! one goes to the last word that any client was told, or to the end of the history if somebody still waits. So a pause of all
//! clients is no stall.

use super::faults::Windows;
use super::operations::{Event, Operation, Outcome};

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// By [`Outcome`], in the order of [`Outcome::ALL`].
    pub(super) ended: [u64; 3],
    /// Of those of unknown outcome, the ones whose client was never told even that.
    pub(super) open: u64,
}

impl Tally {
    pub(super) fn add(&mut self, operation: &Operation) {
        self.ended[operation.outcome as usize] += 1;
        self.open += u64::from(operation.end.is_none());
    }

    pub(super) fn of(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize]
    }

    pub(super) fn ok(&self) -> u64 {
        self.of(Outcome::Ok)
    }

    pub(super) fn invoked(&self) -> u64 {
        self.ended.iter().sum()
    }
}

/// The latencies of answered operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

impl Latency {
    /// Of times in any order; none of none. Percentiles are by nearest rank.
    pub(super) fn of(mut times: Vec<u64>) -> Option<Self> {
        let max = times.iter().copied().max()?;
        let mut at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            *times.select_nth_unstable(rank - 1).1
        };
        Some(Self { p50: at(50), p99: at(99), max })
    }
}

/// The longest stalls, as intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stalls {
    pub(super) longest: Option<(u64, u64)>,
    /// The longest part of one in which there was no fault.
    pub(super) outside: Option<(u64, u64)>,
}

impl Stalls {
    fn add(&mut self, begin: u64, end: u64, windows: &Windows) {
        if end - begin > length(self.longest) {
            self.longest = Some((begin, end));
        }
        if end - begin > length(self.outside)
            && let Some(outside) = windows.longest_outside(begin, end)
            && length(Some(outside)) > length(self.outside)
        {
            self.outside = Some(outside);
        }
    }
}

/// How long an interval is.
pub(super) fn length(interval: Option<(u64, u64)>) -> u64 {
    interval.map_or(0, |(begin, end)| end - begin)
}

/// Follows operations through time.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    under_way: u64,
    /// Since when somebody waits for an answer.
    since: Option<u64>,
    /// When a client was last told something.
    last: u64,
    stalls: Stalls,
}

impl Watch {
    /// What happened next.
    pub(super) fn see(&mut self, event: &Event, windows: &Windows) {
        let Some(outcome) = event.told else {
            self.under_way += 1;
            self.since.get_or_insert(event.time);
            return;
        };
        self.under_way = self.under_way.saturating_sub(1);
        self.last = event.time;
        if outcome == Outcome::Ok {
            let since = self.since.take().unwrap_or(event.time);
            self.stalls.add(since, event.time, windows);
            self.since = (self.under_way > 0).then_some(event.time);
        }
    }

    /// The stalls of a run of that length.
    pub(super) fn finish(mut self, run: u64, windows: &Windows) -> Stalls {
        if let Some(since) = self.since {
            let end = if self.under_way > 0 { run } else { self.last };
            self.stalls.add(since, end.max(since), windows);
        }
        self.stalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalls(events: &[(u64, Option<Outcome>)], run: u64, windows: &Windows) -> (u64, u64) {
        let mut watch = Watch::default();
        for (time, told) in events {
            watch.see(&Event { time: *time, function: 0, told: *told }, windows);
        }
        let stalls = watch.finish(run, windows);
        (length(stalls.longest), length(stalls.outside))
    }

    #[test]
    fn a_stall_lasts_from_answer_to_answer_and_a_pause_is_none() {
        let (ask, ok, info) = (None, Some(Outcome::Ok), Some(Outcome::Info));
        let none = Windows::default();
        assert_eq!(stalls(&[(0, ask), (5, ok), (100, ask), (107, ok)], 200, &none), (7, 7));
        // Somebody gives up in between, and asks again.
        assert_eq!(stalls(&[(0, ask), (5, ok), (10, ask), (30, info), (40, ask), (50, ok)], 200, &none), (40, 40));
        // At the end: given up, or still waiting.
        assert_eq!(stalls(&[(10, ask), (30, info)], 200, &none), (20, 20));
        assert_eq!(stalls(&[(10, ask)], 200, &none), (190, 190));
        assert_eq!(stalls(&[], 200, &none), (0, 0));
    }

    #[test]
    fn outside_of_faults_counts_what_no_fault_covers() {
        let events = [(0, None), (100, Some(Outcome::Ok))];
        assert_eq!(stalls(&events, 100, &Windows::of([(20, 70)])), (100, 30));
        assert_eq!(stalls(&events, 100, &Windows::of([(0, 100)])), (100, 0));
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        assert_eq!(Latency::of(Vec::new()), None);
        assert_eq!(Latency::of(vec![7]), Some(Latency { p50: 7, p99: 7, max: 7 }));
        let times = (1..=200).rev().collect();
        assert_eq!(Latency::of(times), Some(Latency { p50: 100, p99: 198, max: 200 }));
    }
}
