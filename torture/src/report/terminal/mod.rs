//! The report for a terminal: [`COLUMNS`] columns, and no letter that acts on it.

mod timeline;

use super::Facts;
use super::account::{Account, Aftermath, Line, Verdict};
use super::answers::{Latency, length};
use super::faults::Fault;
use super::operations::Outcome;
use super::words::{count, counted, cut, duration, moment, share, tame, wrapped};

/// How wide it is.
const COLUMNS: usize = 100;

/// What is told of each kind at most; the others are counted.
const FAULTS_TOLD: usize = 200;
const FUNCTIONS_TOLD: usize = 40;
const DETAILS_TOLD: usize = 200;
/// The most of a text from outside that is told, in letters.
const TEXT_TOLD: usize = 2_000;

/// Lines.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.0.push('\n');
        self.line(text);
    }

    /// A text from outside, on as many lines as it takes.
    fn foreign(&mut self, indent: usize, text: &str) {
        let blank = " ".repeat(indent);
        for part in cut(text, TEXT_TOLD).lines() {
            for line in wrapped(&tame(part), COLUMNS - indent) {
                self.line(&format!("{blank}{line}"));
            }
        }
    }

    /// The same, and of many the first ones.
    fn foreign_list<'a>(&mut self, indent: usize, texts: impl IntoIterator<Item = &'a String>, told: usize) {
        let mut texts = texts.into_iter();
        texts.by_ref().take(told).for_each(|text| self.foreign(indent, text));
        self.and_more(indent, texts.count());
    }

    fn and_more(&mut self, indent: usize, left: usize) {
        if left > 0 {
            self.line(&format!("{}and {} more", " ".repeat(indent), count(left as u64)));
        }
    }
}

/// A foreign name in a column of a table.
fn name(text: &str, letters: usize) -> String {
    cut(&tame(&cut(text, 200)), letters).into_owned()
}

pub(super) fn write(facts: &Facts<'_>, account: &Account<'_>) -> String {
    let mut lines = Lines::default();
    write_verdict(&mut lines, facts, account);
    write_checks(&mut lines, facts);
    write_functions(&mut lines, account);
    lines.heading("timeline");
    timeline::write(account).iter().for_each(|line| lines.line(line));
    write_faults(&mut lines, account);
    write_notes(&mut lines, account);
    write_ground(&mut lines, facts, account);
    lines.0
}

fn write_verdict(lines: &mut Lines, facts: &Facts<'_>, account: &Account<'_>) {
    let word = account.verdict.word();
    let all = &account.all;
    match &account.verdict {
        Verdict::Passed => {
            let answered = counted(all.tally.ok(), "answered operation", "answered operations");
            let checks = counted(facts.checks.len() as u64, "check holds", "checks hold");
            lines.line(&format!("{word}   {checks}, over {answered}"));
        }
        verdict => {
            lines.line(word);
            lines.foreign_list(2, &verdict.reasons(), DETAILS_TOLD);
        }
    }
    lines.line("");
    let nemeses = if facts.nemeses.is_empty() { "none".to_owned() } else { facts.nemeses.join(", ") };
    lines.foreign(0, &format!("workload  {}   nemeses  {nemeses}", facts.workload));
    let (stores, seconds) = (count(facts.stores), count(facts.seconds));
    lines.line(&format!("stores    {stores}   seconds  {seconds}   seed  {}", facts.seed));
    // In one piece, however long.
    lines.line(&format!("again     {}", tame(&facts.command)));
    lines.line("");
    let (stall, outside) = (length(all.stalls.longest), length(all.stalls.outside));
    lines.line(&format!(
        "{}, {} of them ok; the longest time without an answer was {}, outside of faults {}",
        counted(all.tally.invoked(), "operation", "operations"),
        share(all.tally.ok(), all.tally.invoked()),
        duration(stall),
        duration(outside),
    ));
}

fn write_checks(lines: &mut Lines, facts: &Facts<'_>) {
    lines.heading("checks");
    for check in facts.checks.iter().take(DETAILS_TOLD) {
        let mark = if check.ok { "holds" } else { "FAILS" };
        let text = format!("{mark}  {}: {}", check.name, check.line);
        lines.foreign(2, &text);
        lines.foreign_list(9, &check.details, DETAILS_TOLD);
    }
    lines.and_more(2, facts.checks.len().saturating_sub(DETAILS_TOLD));
    if facts.checks.is_empty() {
        lines.line("  none");
    }
}

fn write_functions(lines: &mut Lines, account: &Account<'_>) {
    let most = account.functions.iter().take(FUNCTIONS_TOLD);
    let rows: Vec<&Line<'_>> = std::iter::once(&account.all).chain(most).collect();
    lines.heading(&format!(
        "{:<18}{:>10}{:>10}{:>9}{:>9}{:>11}{:>17}{:>16}",
        "operations", "invoked", "ok", "fail", "info", "available", "longest stall", "outside faults",
    ));
    for row in &rows {
        let [ok, fail, info] = Outcome::ALL.map(|outcome| count(row.tally.of(outcome)));
        lines.line(&format!(
            "  {:<16}{:>10}{ok:>10}{fail:>9}{info:>9}{:>11}{:>17}{:>16}",
            name(row.name, 15),
            count(row.tally.invoked()),
            share(row.tally.ok(), row.tally.invoked()),
            duration(length(row.stalls.longest)),
            duration(length(row.stalls.outside)),
        ));
    }
    let left = account.functions.len().saturating_sub(FUNCTIONS_TOLD);
    lines.and_more(2, left);
    lines.heading(&format!("{:<28}{:^36}{:^36}", "latency of what was ok", "outside faults", "in faults"));
    lines.line(&format!("{:28}{}", "", format!("{:>12}{:>12}{:>12}", "p50", "p99", "max").repeat(2)));
    for row in &rows {
        lines.line(&format!("  {:<26}{}{}", name(row.name, 25), latency(row.calm), latency(row.struck)));
    }
    lines.and_more(2, left);
}

fn latency(latency: Option<Latency>) -> String {
    match latency {
        Some(Latency { p50, p99, max }) => format!("{:>12}{:>12}{:>12}", duration(p50), duration(p99), duration(max)),
        None => format!("{0:>12}{0:>12}{0:>12}", "-"),
    }
}

fn write_faults(lines: &mut Lines, account: &Account<'_>) {
    lines.heading(&format!(
        "{:<22}{:>12}{:>14}{:>12}{:>12}{:>12}{:>16}",
        "faults", "id", "stores", "from", "for", "ok in it", "ok again after",
    ));
    for (fault, after) in account.faults.iter().take(FAULTS_TOLD) {
        write_fault(lines, fault, *after, account.length);
    }
    lines.and_more(2, account.faults.len().saturating_sub(FAULTS_TOLD));
    if account.faults.is_empty() {
        lines.line("  none");
    }
}

fn write_fault(lines: &mut Lines, fault: &Fault, after: Aftermath, run: u64) {
    let again = match (fault.end, after.again) {
        (None, _) => "did not end".to_owned(),
        (_, None) => "never".to_owned(),
        (_, Some(again)) => duration(again),
    };
    lines.line(&format!(
        "  {:<20}{:>12}{:>14}{:>12}{:>12}{:>12}{again:>16}",
        name(&fault.name, 19),
        name(&fault.id, 11),
        name(&fault.stores, 13),
        moment(fault.begin, run),
        duration(fault.end_within(run) - fault.begin),
        count(after.answered),
    ));
    if !fault.about.is_empty() {
        lines.foreign(4, &fault.about);
    }
    lines.foreign_list(4, &fault.traces, DETAILS_TOLD);
}

fn write_notes(lines: &mut Lines, account: &Account<'_>) {
    if account.notes.is_empty() {
        return;
    }
    lines.heading(&format!("{:<58}{:>14}{:>14}{:>14}", "notes of others", "count", "ok", "failed"));
    for notes in account.notes.iter().take(FUNCTIONS_TOLD) {
        lines.line(&format!(
            "  {:<56}{:>14}{:>14}{:>14}",
            name(&format!("{} {}", notes.process, notes.function), 55),
            count(notes.each.len() as u64),
            count(notes.said(true)),
            count(notes.said(false)),
        ));
    }
    lines.and_more(2, account.notes.len().saturating_sub(FUNCTIONS_TOLD));
}

fn write_ground(lines: &mut Lines, facts: &Facts<'_>, account: &Account<'_>) {
    lines.heading("ground");
    lines.foreign_list(2, facts.ground.iter().chain(&account.oddities), DETAILS_TOLD);
    if !facts.artefacts.is_empty() {
        lines.heading("kept");
        facts.artefacts.iter().take(DETAILS_TOLD).for_each(|path| lines.line(&format!("  {}", tame(path))));
        lines.and_more(2, facts.artefacts.len().saturating_sub(DETAILS_TOLD));
    }
}
