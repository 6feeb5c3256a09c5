//! What clients asked for and how it ended, as a report needs it: without values, and with the moment at which a client gave
//! up, since that is what it saw.
//!
//! Where [`History::operations`] refuses, this counts what cannot be put together and goes on.

use rustc_hash::FxHashMap;

use crate::history::{History, Kind, Process};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    Fail,
    Info,
}

impl Outcome {
    /// All, in the order in which they are counted and drawn.
    pub(super) const ALL: [Self; 3] = [Self::Ok, Self::Fail, Self::Info];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }
}

/// An operation. Times are in nanoseconds since the first of all records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    /// Its place in [`Operations::functions`].
    pub(super) function: usize,
    pub(super) begin: u64,
    /// When the client was told; none if it never was.
    pub(super) end: Option<u64>,
    /// [`Outcome::Info`] without an end.
    pub(super) outcome: Outcome,
}

/// That a client asked or was told something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) time: u64,
    pub(super) function: usize,
    /// None: it asked.
    pub(super) told: Option<Outcome>,
}

/// All operations of a history.
#[derive(Debug, Default)]
pub(super) struct Operations<'a> {
    pub(super) functions: Vec<&'a str>,
    pub(super) all: Vec<Operation>,
    /// In the order of time.
    pub(super) events: Vec<Event>,
    /// Records that end nothing.
    pub(super) strays: u64,
    /// The first moment of the history, as it counts.
    pub(super) start: u64,
    /// From there to the last.
    pub(super) length: u64,
}

impl<'a> Operations<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let times = || history.records().iter().map(|record| record.time);
        let start = times().min().unwrap_or(0);
        let mut found = Self { start, length: times().max().unwrap_or(0) - start, ..Self::default() };
        let mut numbers: FxHashMap<&str, usize> = FxHashMap::default();
        let mut under_way: FxHashMap<u64, usize> = FxHashMap::default();
        for record in history.records() {
            let Process::Client(client) = record.process else { continue };
            let function = *numbers.entry(&record.f).or_insert_with(|| {
                found.functions.push(&record.f);
                found.functions.len() - 1
            });
            let time = record.time - start;
            let told = match record.kind {
                Kind::Invoke => {
                    // Whatever was under way stays without an end.
                    under_way.insert(client, found.all.len());
                    found.all.push(Operation { function, begin: time, end: None, outcome: Outcome::Info });
                    found.events.push(Event { time, function, told: None });
                    continue;
                }
                Kind::Ok => Outcome::Ok,
                Kind::Fail => Outcome::Fail,
                Kind::Info => Outcome::Info,
            };
            let open = under_way.get(&client).copied().filter(|open| found.all[*open].function == function);
            let Some(open) = open else {
                found.strays += 1;
                continue;
            };
            under_way.remove(&client);
            let operation = &mut found.all[open];
            (operation.end, operation.outcome) = (Some(time.max(operation.begin)), told);
            found.events.push(Event { time: time.max(operation.begin), function, told: Some(told) });
        }
        // Nearly sorted already; records of one time keep their order.
        found.events.sort_by_key(|event| event.time);
        found
    }
}
