//! The report of a run: what was done, what was answered, under which faults, and what the checks said of it.
//!
//! Pure functions from what was recorded to text for a terminal ([`text`]), a page for a browser ([`html`]) and a line for
//! machines ([`json`]); no clock, no files. All three tell the same: it is counted once (`account.rs`) and then only written. A
//! history that is not well-formed is told of as well, since that is when somebody looks; what could not be put together is
//! counted as stray.
//!
//! Everything that a history or a check says comes from outside. None of it becomes markup or a command to a terminal, and
//! the page stays below 2 MB however long the run was: operations are aggregated, and what is told word for word has limits.
//!
//! The faults of a run are notes of the process `nemesis`: the function is the fault's name, the value
//! `{:phase :begin, :stores [1 3], :id 7, :how "..."}`, and with `:phase :end` and a `:trace` of what was done when it is
//! over. What other processes with a name have left, such as `operator` with `:ok true`, is shown beside them.

mod account;
mod answers;
mod bins;
mod faults;
mod judged;
mod machine;
mod notes;
mod operations;
mod page;
mod terminal;
mod words;

use account::Account;

use crate::history::History;

/// What is known of a run.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The command that runs the same again.
    pub command: String,
    /// What operations and faults were drawn from.
    pub seed: u64,
    /// What clients did.
    pub workload: String,
    /// Which kinds of faults there were to be.
    pub nemeses: Vec<String>,
    /// How many stores.
    pub stores: u64,
    /// How long it was to be.
    pub seconds: u64,
    /// How it was run, one line each: what the machine had, and what it had not.
    pub ground: Vec<String>,
    /// What clients were told, and the notes of faults.
    pub history: &'a History,
    /// What the checks said.
    pub checks: Vec<Check>,
    /// Where logs and histories lie, if they were kept.
    pub artefacts: Vec<String>,
}

impl Facts<'_> {
    /// The checks, those that fail before the others: they are what a reader came for.
    fn worst_first(&self) -> impl Iterator<Item = &Check> {
        let of = |ok: bool| self.checks.iter().filter(move |check| check.ok == ok);
        of(false).chain(of(true))
    }
}

/// What a check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What it found, in a line.
    pub line: String,
    /// What it found, in full: lines, such as an anomaly with its operations.
    pub details: Vec<String>,
}

/// The report for a terminal of 100 columns. Commands and paths are not broken, since somebody wants to copy them.
#[must_use]
pub fn text(facts: &Facts<'_>) -> String {
    terminal::write(facts, &Account::of(facts))
}

/// The report as one HTML file that needs no other: no script, nothing fetched.
#[must_use]
pub fn html(facts: &Facts<'_>) -> String {
    page::write(facts, &Account::of(facts))
}

/// The report for programs, to be written in a line. Times are in nanoseconds since the history began.
#[must_use]
pub fn json(facts: &Facts<'_>) -> serde_json::Value {
    machine::write(facts, &Account::of(facts))
}
