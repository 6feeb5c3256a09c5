//! The verdict of a checker as a check of a report: each anomaly with the operations that show it.

use std::collections::BTreeSet;

use super::Check;
use super::words::counted;
use crate::check::Verdict;
use crate::history::History;

/// Of an anomaly that involves more, the first so many operations are told.
const OPERATIONS_TOLD: usize = 40;

impl Check {
    /// What a checker found in a history.
    #[must_use]
    pub fn of_verdict(verdict: &Verdict, history: &History) -> Self {
        let judgement = verdict.judgement();
        let found: u64 = judgement.rows().iter().map(|row| row.found).sum();
        let line = match (found, judgement.undecided().len() as u64) {
            (0, 0) => {
                format!("holds over {}", counted(verdict.answered(), "answered operation", "answered operations"))
            }
            (0, undecided) => format!("{} undecided", counted(undecided, "question", "questions")),
            (found, _) => format!("{}: {}", counted(found, "anomaly", "anomalies"), judgement.anomalies().join(", ")),
        };
        Self {
            name: verdict.workload().name().to_owned(),
            ok: judgement.holds(),
            line,
            details: details(verdict, history),
        }
    }
}

fn details(verdict: &Verdict, history: &History) -> Vec<String> {
    let judgement = verdict.judgement();
    let mut lines = Vec::new();
    let rows = judgement.rows().iter().filter(|row| row.found > 0);
    let operations = if judgement.holds() { Vec::new() } else { history.operations().unwrap_or_default() };
    for row in rows {
        for finding in &row.examples {
            lines.push(format!("{}: {}", row.kind.name, finding.what));
            let records: BTreeSet<u64> = finding.records.iter().copied().collect();
            let shows = operations.iter().filter(|one| one.records().iter().any(|record| records.contains(record)));
            let shows: Vec<String> = shows.map(|operation| format!("  {operation}")).collect();
            let left = shows.len().saturating_sub(OPERATIONS_TOLD);
            lines.extend(shows.into_iter().take(OPERATIONS_TOLD));
            if left > 0 {
                lines.push(format!("  and {}", counted(left as u64, "operation more", "operations more")));
            }
        }
        let left = row.found - row.examples.len() as u64;
        if left > 0 {
            lines.push(format!("{}: and {left} more", row.kind.name));
        }
    }
    lines.extend(judgement.undecided().iter().map(|what| format!("undecided: {what}")));
    lines
}
