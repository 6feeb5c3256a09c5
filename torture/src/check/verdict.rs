//! What a checker says, and how people and programs are told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Workload;
use crate::history::{Operation, Outcome};

/// How many anomalies of a kind are told in full; the others are counted.
pub const EXAMPLES_MAX: usize = 5;

/// A kind of anomaly that a checker looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
}

/// An anomaly that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What contradicts what.
    pub what: String,
    /// The indexes of the records that show it.
    pub records: Vec<u64>,
}

/// A kind of anomaly, and what was found of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was looked for.
    pub kind: Kind,
    /// How many were found.
    pub found: u64,
    /// The first of them, at most [`EXAMPLES_MAX`].
    pub examples: Vec<Finding>,
}

/// What a checker found in a history.
#[derive(Clone, Debug)]
pub struct Judgement {
    rows: Vec<Row>,
    undecided: Vec<String>,
}

impl Judgement {
    /// Nothing found yet, of these kinds.
    #[must_use]
    pub fn new(kinds: &[Kind]) -> Self {
        let row = |kind: &Kind| Row { kind: *kind, found: 0, examples: Vec::new() };
        Self { rows: kinds.iter().map(row).collect(), undecided: Vec::new() }
    }

    /// An anomaly was found.
    ///
    /// # Panics
    /// The checker does not say that it looks for such a thing.
    pub fn found(&mut self, name: &str, what: String, mut records: Vec<u64>) {
        let row = self.rows.iter_mut().find(|row| row.kind.name == name);
        let row = row.expect("a checker lists the kinds of anomaly that it looks for");
        row.found += 1;
        if row.examples.len() < EXAMPLES_MAX {
            records.sort_unstable();
            records.dedup();
            row.examples.push(Finding { what, records });
        }
    }

    /// Something could not be decided: nothing is known of it, and the history does not pass.
    pub fn leave_undecided(&mut self, what: String) {
        self.undecided.push(what);
    }

    /// The names of the anomalies that were found, in the checker's order.
    #[must_use]
    pub fn anomalies(&self) -> Vec<&'static str> {
        self.rows.iter().filter(|row| row.found > 0).map(|row| row.kind.name).collect()
    }

    /// Whether nothing was found and all was decided.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.undecided.is_empty() && self.rows.iter().all(|row| row.found == 0)
    }

    /// All kinds, with what was found of each.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What could not be decided.
    #[must_use]
    pub fn undecided(&self) -> &[String] {
        &self.undecided
    }
}

/// How operations of one function ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered.
    pub ok: u64,
    /// Surely without effect.
    pub fail: u64,
    /// Of unknown outcome.
    pub info: u64,
}

/// The verdict on a history.
#[derive(Clone, Debug)]
pub struct Verdict {
    workload: Workload,
    counts: BTreeMap<String, Counts>,
    judgement: Judgement,
}

impl Verdict {
    pub(super) fn new(workload: Workload, operations: &[Operation], judgement: Judgement) -> Self {
        let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
        for operation in operations {
            let counts = counts.entry(operation.f.clone()).or_default();
            match operation.outcome {
                Outcome::Ok(_) => counts.ok += 1,
                Outcome::Fail => counts.fail += 1,
                Outcome::Info => counts.info += 1,
            }
        }
        Self { workload, counts, judgement }
    }

    /// What the history was held against.
    #[must_use]
    pub const fn workload(&self) -> Workload {
        self.workload
    }

    /// How operations ended, by function.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<String, Counts> {
        &self.counts
    }

    /// How many operations were answered. A history without any shows nothing.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.counts.values().map(|counts| counts.ok).sum()
    }

    /// What was found.
    #[must_use]
    pub const fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    /// As a table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(format!("workload {}", self.workload.name()));
        line(format!("{:<24} {:>9} {:>9} {:>9}", "operations", "ok", "fail", "unknown"));
        for (function, counts) in &self.counts {
            line(format!("  {function:<22} {:>9} {:>9} {:>9}", counts.ok, counts.fail, counts.info));
        }
        line(format!("{:<24} {:>9}", "anomalies", "found"));
        for row in &self.judgement.rows {
            let found = if row.found == 0 { "none".to_owned() } else { row.found.to_string() };
            line(format!("  {:<22} {found:>9}   {}", row.kind.name, row.kind.about));
        }
        for row in &self.judgement.rows {
            for finding in &row.examples {
                line(format!("\n{}: {}", row.kind.name, finding.what));
                line(format!("  records {}", told_records(&finding.records)));
            }
            let left = row.found - row.examples.len() as u64;
            if left > 0 {
                line(format!("\n{}: and {left} more", row.kind.name));
            }
        }
        for what in &self.judgement.undecided {
            line(format!("\nundecided: {what}"));
        }
        line(format!("\n{}", self.sentence()));
        out
    }

    fn sentence(&self) -> String {
        let found: u64 = self.judgement.rows.iter().map(|row| row.found).sum();
        match (found, self.judgement.undecided.len(), self.answered()) {
            (0, 0, 0) => "nothing was answered: the history shows nothing".to_owned(),
            (0, 0, answered) => format!("holds, over {answered} answered operations"),
            (0, undecided, _) => format!("NOT DECIDED: {undecided}"),
            (found, ..) => format!("REFUSED: {found} anomalies"),
        }
    }

    /// As JSON for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let counts = self.counts.iter().map(|(function, counts)| {
            let counts = serde_json::json!({ "ok": counts.ok, "fail": counts.fail, "info": counts.info });
            (function.clone(), counts)
        });
        let finding = |finding: &Finding| serde_json::json!({ "what": finding.what, "records": finding.records });
        let rows = self.judgement.rows.iter().map(|row| {
            serde_json::json!({
                "anomaly": row.kind.name,
                "about": row.kind.about,
                "found": row.found,
                "examples": row.examples.iter().map(finding).collect::<Vec<_>>(),
            })
        });
        serde_json::json!({
            "ok": self.judgement.holds() && self.answered() > 0,
            "workload": self.workload.name(),
            "answered": self.answered(),
            "operations": counts.collect::<serde_json::Map<_, _>>(),
            "checks": rows.collect::<Vec<_>>(),
            "undecided": self.judgement.undecided,
        })
    }
}

fn told_records(records: &[u64]) -> String {
    const SHOWN: usize = 20;
    let mut out = String::new();
    for (place, record) in records.iter().take(SHOWN).enumerate() {
        let between = if place > 0 { ", " } else { "" };
        let _ = write!(out, "{between}{record}");
    }
    if records.len() > SHOWN {
        let _ = write!(out, " and {} more", records.len() - SHOWN);
    }
    out
}
