//! Figures from times: quantiles, and what a change did to the writes around it.
//!
//! All instants are given as the time since the writers began.

use std::time::Duration;

use serde_json::{Value, json};

/// Durations, from the shortest.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// The shortest that at least so many percent do not exceed (nearest rank); zero of nothing.
    pub(crate) fn quantile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// Those of the writes that were due in one of these windows.
    pub(crate) fn of_writes(writes: impl IntoIterator<Item = Span>, windows: &[Window]) -> Self {
        let is_within =
            |write: &Span| windows.iter().any(|window| window.from <= write.due && write.due < window.until);
        writes.into_iter().filter(is_within).map(|write| write.done - write.due).collect()
    }

    /// Median, 99th percentile and maximum, for a table.
    pub(crate) fn json(&self) -> Value {
        let [p50, p99, max] = [50, 99, 100].map(|percent| millis(self.quantile(percent)));
        json!({ "count": self.0.len(), "p50": p50, "p99": p99, "max": max })
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

/// In milliseconds, to the hundredth.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

/// One write: when it was due, and when it was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) due: Duration,
    pub(crate) done: Duration,
}

/// The part of time in which a change had its effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Window {
    /// The longest that a write took of those that were under way in this window.
    pub(crate) fn longest_write(&self, writes: impl IntoIterator<Item = Span>) -> Duration {
        let is_within = |write: &Span| write.due < self.until && write.done > self.from;
        writes.into_iter().filter(is_within).map(|write| write.done - write.due).max().unwrap_or_default()
    }

    /// The longest time between two answers, one right after the other, that reaches into this window. If there is none before
    /// it or none after it, the window's own end stands for it.
    pub(crate) fn longest_silence(&self, answers: impl IntoIterator<Item = Duration>) -> Duration {
        let mut answers: Vec<Duration> = answers.into_iter().collect();
        answers.sort_unstable();
        let begin = answers.partition_point(|answer| *answer <= self.from);
        let end = answers.partition_point(|answer| *answer < self.until);
        let before = begin.checked_sub(1).map_or(self.from, |at| answers[at]);
        let after = answers.get(end).copied().unwrap_or(self.until);
        let within = answers.get(begin..end).unwrap_or_default().iter().copied().chain([after]);
        let (longest, _) = within.fold((Duration::ZERO, before), |(longest, last), answer| {
            (longest.max(answer.saturating_sub(last)), answer)
        });
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times: Times = (1..=200).rev().map(ms).collect();
        assert_eq!([50, 99, 100].map(|percent| times.quantile(percent)), [ms(100), ms(198), ms(200)]);
        let few: Times = [ms(7), ms(3)].into_iter().collect();
        assert_eq!([50, 99, 100].map(|percent| few.quantile(percent)), [ms(3), ms(7), ms(7)]);
        assert_eq!(Times::default().quantile(99), Duration::ZERO);
        assert_eq!(few.json(), json!({ "count": 2, "p50": 3.0, "p99": 7.0, "max": 7.0 }));
    }

    #[test]
    fn writes_belong_to_the_window_in_which_they_were_due() {
        let windows = [(100, 200), (300, 400)].map(|(from, until)| Window { from: ms(from), until: ms(until) });
        let writes = [(99, 150), (100, 500), (199, 201), (200, 260), (350, 353), (400, 900)];
        let times = Times::of_writes(writes.map(|(due, done)| Span { due: ms(due), done: ms(done) }), &windows);
        assert_eq!(times.json(), json!({ "count": 3, "p50": 3.0, "p99": 400.0, "max": 400.0 }));
    }

    #[test]
    fn the_longest_write_is_of_those_under_way() {
        let window = Window { from: ms(100), until: ms(200) };
        let span = |due, done| Span { due: ms(due), done: ms(done) };
        let before_and_after = [span(0, 99), span(200, 500)];
        assert_eq!(window.longest_write(before_and_after), ms(0));
        // One that began before and ended within, one within, one that ended after.
        assert_eq!(window.longest_write([span(60, 110), span(120, 130), before_and_after[0]]), ms(50));
        assert_eq!(window.longest_write([span(120, 130), span(190, 280), before_and_after[1]]), ms(90));
    }

    #[test]
    fn the_longest_silence_reaches_into_the_window() {
        let window = Window { from: ms(100), until: ms(200) };
        assert_eq!(window.longest_silence([10, 90, 130, 170, 190, 900].map(ms)), ms(710));
        assert_eq!(window.longest_silence([40, 130, 170, 190, 210].map(ms)), ms(90));
        assert_eq!(window.longest_silence([210, 90, 150].map(ms)), ms(60));
        // What lies outside does not count, and an end that is missing is the window's.
        assert_eq!(window.longest_silence([10, 80, 110, 120, 200, 990].map(ms)), ms(80));
        assert_eq!(window.longest_silence([]), ms(100));
        assert_eq!(window.longest_silence([ms(160)]), ms(60));
    }
}
