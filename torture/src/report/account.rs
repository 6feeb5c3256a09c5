//! Everything that is counted of a run, once, for all forms of the report.

use super::answers::{Latency, Stalls, Tally, Watch};
use super::faults::{self, Fault, Windows};
use super::notes::{self, Notes};
use super::operations::{Operations, Outcome};
use super::words::{counted, tame};
use super::{Check, Facts};

/// What was counted.
#[derive(Debug)]
pub(super) struct Account<'a> {
    pub(super) verdict: Verdict,
    /// How long the run was, in nanoseconds.
    pub(super) length: u64,
    pub(super) operations: Operations<'a>,
    /// Of all operations.
    pub(super) all: Line<'a>,
    /// By function, in the order of names.
    pub(super) functions: Vec<Line<'a>>,
    /// In the order in which they began.
    pub(super) faults: Vec<(Fault, Aftermath)>,
    pub(super) windows: Windows,
    pub(super) notes: Vec<Notes<'a>>,
    /// What does not fit together in the history, in words.
    pub(super) oddities: Vec<String>,
}

/// What is to be thought of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All checks hold, and something was answered.
    Passed,
    /// These checks do not hold.
    Failed(Vec<String>),
    /// Nothing can be concluded, for this reason.
    Nothing(&'static str),
}

impl Verdict {
    fn of(checks: &[Check], answered: u64) -> Self {
        let broken: Vec<String> =
            checks.iter().filter(|check| !check.ok).map(|check| format!("{}: {}", check.name, check.line)).collect();
        match (broken.is_empty(), checks.is_empty(), answered) {
            (false, ..) => Self::Failed(broken),
            (true, true, _) => Self::Nothing("nothing was checked"),
            (true, false, 0) => Self::Nothing("nothing was answered, so it shows nothing"),
            _ => Self::Passed,
        }
    }

    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "PASS",
            Self::Failed(_) => "FAIL",
            Self::Nothing(_) => "SHOWS NOTHING",
        }
    }

    /// Why it did not pass.
    pub(super) fn reasons(&self) -> Vec<String> {
        match self {
            Self::Passed => Vec::new(),
            Self::Failed(reasons) => reasons.clone(),
            Self::Nothing(reason) => vec![(*reason).to_owned()],
        }
    }
}

/// How the operations of a function, or all, were answered.
#[derive(Clone, Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) tally: Tally,
    pub(super) stalls: Stalls,
    /// Of answered operations during which there was no fault.
    pub(super) calm: Option<Latency>,
    /// Of answered operations during which there was one, for whatever part of them.
    pub(super) struck: Option<Latency>,
}

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aftermath {
    /// How many operations were answered while it was under way.
    pub(super) answered: u64,
    /// How long after its end something was answered again; none if it did not end or nothing was.
    pub(super) again: Option<u64>,
    /// How many other faults were under way when it ended.
    pub(super) others: u64,
}

impl<'a> Account<'a> {
    pub(super) fn of(facts: &Facts<'a>) -> Self {
        let operations = Operations::of(facts.history);
        let length = operations.length;
        let (faults, stray_ends) = faults::of(facts.history, operations.start);
        let windows = Windows::of(faults.iter().map(|fault| (fault.begin, fault.end_within(length))));
        let mut lines = lines(&operations, &windows);
        let all = lines.remove(0);
        lines.sort_by_key(|line| line.name);
        Self {
            verdict: Verdict::of(&facts.checks, all.tally.ok()),
            length,
            all,
            functions: lines,
            faults: with_aftermath(faults, &operations),
            notes: notes::of(facts.history, operations.start),
            oddities: oddities(facts, &operations, stray_ends),
            windows,
            operations,
        }
    }
}

/// The line of all operations, and then one for each function.
fn lines<'a>(operations: &Operations<'a>, windows: &Windows) -> Vec<Line<'a>> {
    let lines = operations.functions.len() + 1;
    let mut tallies = vec![Tally::default(); lines];
    let mut latencies = vec![(Vec::new(), Vec::new()); lines];
    for operation in &operations.all {
        for line in [0, operation.function + 1] {
            tallies[line].add(operation);
            if let (Some(end), Outcome::Ok) = (operation.end, operation.outcome) {
                let (calm, struck) = &mut latencies[line];
                let is_struck = windows.meet(operation.begin, end);
                (if is_struck { struck } else { calm }).push(end - operation.begin);
            }
        }
    }
    let mut watches = vec![Watch::default(); lines];
    for event in &operations.events {
        watches[0].see(event, windows);
        watches[event.function + 1].see(event, windows);
    }
    let names = std::iter::once("all").chain(operations.functions.iter().copied());
    let counted = names.zip(tallies).zip(latencies.into_iter().zip(watches));
    let line = |((name, tally), ((calm, struck), watch)): ((&'a str, Tally), ((Vec<u64>, Vec<u64>), Watch))| Line {
        name,
        tally,
        stalls: watch.finish(operations.length, windows),
        calm: Latency::of(calm),
        struck: Latency::of(struck),
    };
    counted.map(line).collect()
}

fn with_aftermath(faults: Vec<Fault>, operations: &Operations<'_>) -> Vec<(Fault, Aftermath)> {
    let answers = operations.events.iter().filter(|event| event.told == Some(Outcome::Ok));
    let answers: Vec<u64> = answers.map(|event| event.time).collect();
    let begins: Vec<u64> = faults.iter().map(|fault| fault.begin).collect();
    let mut ends: Vec<u64> = faults.iter().filter_map(|fault| fault.end).collect();
    ends.sort_unstable();
    let after = |fault: &Fault| {
        let end = fault.end_within(operations.length);
        let first = answers.partition_point(|time| *time < fault.begin);
        let answered = answers.partition_point(|time| *time <= end) - first;
        let next = answers.get(answers.partition_point(|time| *time < end));
        let begun = begins.partition_point(|begin| *begin <= end);
        let over = ends.partition_point(|other| *other <= end);
        Aftermath {
            answered: answered as u64,
            again: fault.end.and(next).map(|time| time - end),
            others: begun.saturating_sub(over + usize::from(fault.end.is_none())) as u64,
        }
    };
    faults.into_iter().map(|fault| (fault.clone(), after(&fault))).collect()
}

fn oddities(facts: &Facts<'_>, operations: &Operations<'_>, stray_ends: u64) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(malformed) = facts.history.operations() {
        found.push(format!("the history is not well-formed: {}", tame(&malformed.to_string())));
    }
    if operations.strays > 0 {
        found.push(format!("{} nothing that was asked", counted(operations.strays, "record ends", "records end")));
    }
    if stray_ends > 0 {
        found.push(format!("{} a fault that never began", counted(stray_ends, "note ends", "notes end")));
    }
    found
}
