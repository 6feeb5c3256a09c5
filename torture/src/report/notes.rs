//! What processes with a name have left in a history besides faults: splits, merges, moves, whatever they tell.

use std::collections::BTreeMap;

use super::faults::{field, phase};
use crate::history::{HEADER_FUNCTION, History, Process, Value};

/// The notes of one process with one function.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes<'a> {
    pub(super) process: &'a str,
    pub(super) function: &'a str,
    /// When, in nanoseconds since the first of all records, and whether it came to what it was meant to, if it says so.
    pub(super) each: Vec<(u64, Option<bool>)>,
}

impl Notes<'_> {
    pub(super) fn said(&self, ok: bool) -> u64 {
        self.each.iter().filter(|(_, said)| *said == Some(ok)).count() as u64
    }
}

/// All of them, by process and function.
pub(super) fn of(history: &History, start: u64) -> Vec<Notes<'_>> {
    let mut notes: BTreeMap<(&str, &str), Notes<'_>> = BTreeMap::new();
    for (place, record) in history.records().iter().enumerate() {
        let Process::Named(process) = &record.process else { continue };
        let is_header = place == 0 && record.f == HEADER_FUNCTION;
        if is_header || phase(record).is_some() {
            continue;
        }
        let ok = match &record.value {
            Value::Map(fields) => match field(fields, "ok") {
                Value::Bool(ok) => Some(*ok),
                _ => None,
            },
            _ => None,
        };
        let entry = notes.entry((process, &record.f)).or_insert_with(|| Notes {
            process,
            function: &record.f,
            each: Vec::new(),
        });
        entry.each.push((record.time - start, ok));
    }
    notes.into_values().collect()
}
