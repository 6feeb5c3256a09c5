//! What a demo found, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::failover::Failover;
use super::seen::Counts;
use super::verify::Verdict;
use crate::serve::StatusReport;

/// What stores counted, over all their lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    log_syncs: u64,
    log_entries: u64,
    frames: u64,
    messages: u64,
    beats: u64,
    beat_messages: u64,
    connections_per_pair: u64,
}

impl Totals {
    /// Adds what a store counted since it started.
    pub(crate) fn add(&mut self, status: &StatusReport) {
        let counters = &status.counters;
        self.log_syncs += counters.log_syncs;
        self.log_entries += counters.log_entries;
        self.frames += counters.frames_sent;
        self.messages += counters.messages_sent;
        self.beats += counters.beats_sent;
        self.beat_messages += counters.beat_messages_sent;
        let most = status.peers.iter().map(|peer| peer.connections).max().unwrap_or(0);
        self.connections_per_pair = self.connections_per_pair.max(most);
    }
}

/// Everything that was measured.
pub(crate) struct Findings {
    pub(crate) stores: u64,
    /// How many regions there should have been.
    pub(crate) wanted: usize,
    /// How many there were at most, and at the end.
    pub(crate) regions: usize,
    pub(crate) regions_end: usize,
    /// Replicas of all of these, at most.
    pub(crate) replicas: usize,
    pub(crate) counts: Counts,
    pub(crate) leaders: Vec<(u64, usize)>,
    pub(crate) writes: u64,
    pub(crate) retried: u64,
    pub(crate) given_up: u64,
    pub(crate) writing: Duration,
    pub(crate) latencies_us: Histogram<u64>,
    pub(crate) failover: Failover,
    pub(crate) totals: Totals,
    pub(crate) resident_bytes: u64,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) regions_without_data: usize,
}

/// The last line of `--json`.
#[derive(Serialize)]
pub(crate) struct JsonReport {
    ok: bool,
    stores: u64,
    regions: usize,
    writes: u64,
    writes_per_s: f64,
    p50_us: u64,
    p99_us: u64,
    messages_per_frame: f64,
    entries_per_fsync: f64,
    failover_ms: f64,
    rss_bytes_per_replica: u64,
    lost: usize,
    regions_without_data: usize,
    heartbeats_per_message: f64,
    connections_per_peer_pair: u64,
    splits: usize,
    merges: usize,
    moves: usize,
    regions_end: usize,
}

impl Findings {
    /// Whether everything held that a cluster promises.
    pub(crate) fn ok(&self) -> bool {
        self.problems().is_empty()
    }

    /// What did not hold.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note = |wrong: bool, text: String| {
            if wrong {
                problems.push(text);
            }
        };
        note(self.lost() > 0, format!("{} acknowledged pairs are missing or wrong on a replica", self.lost()));
        note(self.given_up > 0, format!("{} pairs were not acknowledged by any store in time", self.given_up));
        note(
            self.failover.stuck > 0,
            format!("{} regions took no write after their leader was killed", self.failover.stuck),
        );
        note(self.failover.affected == 0, "the killed store led no region, so that nothing was shown".to_owned());
        note(self.regions_without_data > 0, format!("{} regions hold no pair", self.regions_without_data));
        note(self.regions != self.wanted, format!("there were {} regions, not {}", self.regions, self.wanted));
        note(
            self.counts.splits > 0 && self.counts.merges == 0,
            "no regions merged back after the half of the pairs was deleted".to_owned(),
        );
        note(
            self.regions_end + self.counts.merges != self.regions,
            format!("{} merges left {} regions", self.counts.merges, self.regions_end),
        );
        let connections = self.totals.connections_per_pair;
        note(connections != 1, format!("there were {connections} connections between two stores, not one"));
        problems
    }

    fn lost(&self) -> usize {
        self.verdicts.iter().map(|verdict| verdict.lost).max().unwrap_or(0)
    }

    fn resident_bytes_per_replica(&self) -> u64 {
        self.resident_bytes / (self.replicas as u64).max(1)
    }

    fn failover_ms(&self, quantile: f64) -> f64 {
        rounded(self.failover.times_us.value_at_quantile(quantile) as f64 / 1000.0)
    }

    fn writes_per_s(&self) -> f64 {
        rounded(self.writes as f64 / self.writing.as_secs_f64().max(0.001))
    }

    pub(crate) fn to_json(&self) -> JsonReport {
        JsonReport {
            ok: self.ok(),
            stores: self.stores,
            regions: self.regions,
            writes: self.writes,
            writes_per_s: self.writes_per_s(),
            p50_us: self.latencies_us.value_at_quantile(0.5),
            p99_us: self.latencies_us.value_at_quantile(0.99),
            messages_per_frame: ratio(self.totals.messages, self.totals.frames),
            entries_per_fsync: ratio(self.totals.log_entries, self.totals.log_syncs),
            failover_ms: self.failover_ms(0.99),
            rss_bytes_per_replica: self.resident_bytes_per_replica(),
            lost: self.lost(),
            regions_without_data: self.regions_without_data,
            heartbeats_per_message: ratio(self.totals.beats, self.totals.beat_messages),
            connections_per_peer_pair: self.totals.connections_per_pair,
            splits: self.counts.splits,
            merges: self.counts.merges,
            moves: self.counts.moves,
            regions_end: self.regions_end,
        }
    }

    /// The summary.
    pub(crate) fn to_text(&self) -> String {
        let json = self.to_json();
        let leaders: Vec<_> = self.leaders.iter().map(|(store, led)| format!("store {store}: {led}")).collect();
        let verified: Vec<_> = self.verdicts.iter().map(|verdict| format!("{} pairs", verdict.pairs)).collect();
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<24}{value}");
        };
        line(
            "regions",
            format!("{} on {} stores ({} without data)", self.regions, self.stores, self.regions_without_data),
        );
        if self.counts != Counts::default() {
            line(
                "lived through",
                format!(
                    "{} splits, {} moves, {} merges, {} regions at the end",
                    json.splits, json.moves, json.merges, json.regions_end
                ),
            );
        }
        line("leaders", leaders.join(", "));
        line(
            "writes",
            format!("{} acknowledged, {} tried again, {:.0} a second", self.writes, self.retried, json.writes_per_s),
        );
        line("latency", format!("p50 {} us, p99 {} us", json.p50_us, json.p99_us));
        line("messages per frame", format!("{}", json.messages_per_frame));
        line("entries per fsync", format!("{}", json.entries_per_fsync));
        line("heartbeats per message", format!("{}", json.heartbeats_per_message));
        line("connections", format!("{} between two stores", json.connections_per_peer_pair));
        line(
            "failover",
            format!(
                "p50 {} ms, p99 {} ms, of {} regions whose leader was killed",
                self.failover_ms(0.5),
                json.failover_ms,
                self.failover.affected
            ),
        );
        line("memory", format!("{} bytes a replica, resident", json.rss_bytes_per_replica));
        line("verified", format!("{} on every replica", verified.join(", then ")));
        line("lost", json.lost.to_string());
        text
    }
}

fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { rounded(of as f64 / to as f64) }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::super::load::histogram;
    use super::*;

    fn findings() -> Findings {
        let mut times_us = histogram();
        times_us.record(250_000).unwrap();
        Findings {
            stores: 3,
            wanted: 10,
            regions: 10,
            regions_end: 7,
            replicas: 30,
            counts: Counts { splits: 9, moves: 4, merges: 3 },
            leaders: vec![(1, 10)],
            writes: 1000,
            retried: 0,
            given_up: 0,
            writing: Duration::from_secs(2),
            latencies_us: histogram(),
            failover: Failover { times_us, affected: 3, stuck: 0 },
            totals: Totals { connections_per_pair: 1, log_entries: 9, log_syncs: 3, ..Totals::default() },
            resident_bytes: 3000,
            verdicts: vec![Verdict { pairs: 5, lost: 0 }, Verdict { pairs: 5, lost: 0 }],
            regions_without_data: 0,
        }
    }

    #[test]
    fn the_last_line_has_exactly_these_names_in_this_order() {
        let json = serde_json::to_string(&findings().to_json()).unwrap();
        assert_eq!(
            json,
            "{\"ok\":true,\"stores\":3,\"regions\":10,\"writes\":1000,\"writes_per_s\":500.0,\"p50_us\":0,\"p99_us\":0,\
             \"messages_per_frame\":0.0,\"entries_per_fsync\":3.0,\"failover_ms\":250.11,\"rss_bytes_per_replica\":100,\
             \"lost\":0,\"regions_without_data\":0,\"heartbeats_per_message\":0.0,\"connections_per_peer_pair\":1,\
             \"splits\":9,\"merges\":3,\"moves\":4,\"regions_end\":7}"
        );
    }

    #[test]
    fn anything_that_does_not_hold_is_a_failure() {
        type Spoil = fn(&mut Findings);
        let spoils: [Spoil; 9] = [
            |found| found.verdicts[1].lost = 1,
            |found| found.given_up = 1,
            |found| found.failover.stuck = 1,
            |found| found.failover.affected = 0,
            |found| found.regions_without_data = 1,
            |found| found.totals.connections_per_pair = 2,
            |found| found.wanted = 11,
            |found| found.regions_end = 8,
            |found| (found.counts.merges, found.regions_end) = (0, 10),
        ];
        assert!(findings().ok());
        for (number, spoil) in spoils.into_iter().enumerate() {
            let mut found = findings();
            spoil(&mut found);
            assert_eq!(found.problems().len(), 1, "{number}");
        }
    }
}
