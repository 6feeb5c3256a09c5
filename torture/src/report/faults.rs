//! The faults of a run, put together from the notes of their beginnings and ends, and the time that they took.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::history::{History, Process, Record, Value};

/// The process that leaves notes of faults.
pub(super) const NEMESIS: &str = "nemesis";

/// A fault. Times are in nanoseconds since the first of all records.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) id: String,
    pub(super) name: String,
    /// Which stores it struck.
    pub(super) stores: String,
    /// What else its notes say.
    pub(super) about: String,
    pub(super) begin: u64,
    /// None: it lasted to the end of the run.
    pub(super) end: Option<u64>,
    /// What was done, word for word.
    pub(super) traces: Vec<String>,
}

impl Fault {
    /// Its end in a run that was so long.
    pub(super) fn end_within(&self, length: u64) -> u64 {
        self.end.unwrap_or(length).max(self.begin)
    }

    fn begun(record: &Record, fields: &BTreeMap<Value, Value>, time: u64) -> Self {
        let known = ["phase", "stores", "id", "how", "trace"].map(Value::keyword);
        let others = fields.iter().filter(|(key, _)| !known.contains(key));
        let others: Vec<String> = others.map(|(key, value)| format!("{} {}", spelled(key), spelled(value))).collect();
        let mut fault = Self {
            id: spelled(field(fields, "id")),
            name: record.f.clone(),
            stores: listed(field(fields, "stores")),
            about: others.join(", "),
            begin: time,
            end: None,
            traces: Vec::new(),
        };
        fault.add_trace(fields);
        fault
    }

    fn add_trace(&mut self, fields: &BTreeMap<Value, Value>) {
        for said in ["how", "trace"].map(|name| spelled(field(fields, name))) {
            if !said.is_empty() && !self.traces.contains(&said) {
                self.traces.push(said);
            }
        }
    }
}

/// All faults, in the order in which they began, and how many ends belong to none.
pub(super) fn of(history: &History, start: u64) -> (Vec<Fault>, u64) {
    let mut faults: Vec<Fault> = Vec::new();
    let mut open: FxHashMap<(&str, &Value), usize> = FxHashMap::default();
    let mut strays = 0;
    for record in history.records() {
        let Some((fields, begins)) = phase(record) else { continue };
        let (key, time) = ((record.f.as_str(), field(fields, "id")), record.time - start);
        if begins {
            open.insert(key, faults.len());
            faults.push(Fault::begun(record, fields, time));
        } else if let Some(place) = open.remove(&key) {
            let fault = &mut faults[place];
            fault.end = Some(time.max(fault.begin));
            fault.add_trace(fields);
        } else {
            strays += 1;
        }
    }
    faults.sort_by_key(|fault| fault.begin);
    (faults, strays)
}

/// What a note of a fault says, and whether it is of the beginning; none if it is no such note.
pub(super) fn phase(record: &Record) -> Option<(&BTreeMap<Value, Value>, bool)> {
    let Value::Map(fields) = &record.value else { return None };
    if !matches!(&record.process, Process::Named(name) if name == NEMESIS) {
        return None;
    }
    match field(fields, "phase").as_text()? {
        "begin" => Some((fields, true)),
        "end" => Some((fields, false)),
        _ => None,
    }
}

pub(super) fn field<'a>(fields: &'a BTreeMap<Value, Value>, name: &str) -> &'a Value {
    fields.get(&Value::keyword(name)).unwrap_or(&Value::Nil)
}

/// A value without quotes and colons.
fn spelled(value: &Value) -> String {
    match (value, value.as_text()) {
        (Value::Nil, _) => String::new(),
        (_, Some(text)) => text.to_owned(),
        _ => value.to_string(),
    }
}

fn listed(value: &Value) -> String {
    let parts = value.as_list().map(|parts| parts.iter().map(spelled).collect::<Vec<_>>().join(", "));
    parts.unwrap_or_else(|| spelled(value))
}

/// The time in which at least one fault was under way.
///
/// Invariant: windows rise and do not touch.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows(Vec<(u64, u64)>);

impl Windows {
    /// Of intervals in any order.
    pub(super) fn of(intervals: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut intervals: Vec<(u64, u64)> = intervals.into_iter().collect();
        intervals.sort_unstable();
        let mut windows: Vec<(u64, u64)> = Vec::new();
        for (begin, end) in intervals {
            match windows.last_mut() {
                Some(last) if begin <= last.1 => last.1 = last.1.max(end),
                _ => windows.push((begin, end)),
            }
        }
        Self(windows)
    }

    /// Whether some fault was under way at some moment from `begin` to `end`.
    pub(super) fn meet(&self, begin: u64, end: u64) -> bool {
        let first = self.0.partition_point(|window| window.1 < begin);
        self.0.get(first).is_some_and(|window| window.0 <= end)
    }

    /// The longest part of an interval in which there was no fault, if there is any.
    pub(super) fn longest_outside(&self, begin: u64, end: u64) -> Option<(u64, u64)> {
        let first = self.0.partition_point(|window| window.1 < begin);
        let inside = self.0[first..].iter().take_while(|window| window.0 < end);
        let (mut from, mut longest) = (begin, None);
        let mut offer = |from: u64, to: u64| {
            if to > from && longest.is_none_or(|(begin, end)| to - from > end - begin) {
                longest = Some((from, to));
            }
        };
        for window in inside {
            offer(from, window.0);
            from = from.max(window.1);
        }
        offer(from, end);
        longest
    }

    /// How much time it is, in all.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(begin, end)| end - begin).sum()
    }

    pub(super) fn each(&self) -> &[(u64, u64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_overlap_or_touch_are_one() {
        let windows = Windows::of([(50, 60), (10, 20), (15, 30), (30, 31), (70, 70)]);
        assert_eq!(windows.each(), [(10, 31), (50, 60), (70, 70)]);
        assert_eq!(windows.total(), 31);
        let meet =
            [(0, 9), (0, 10), (31, 40), (32, 49), (65, 75), (71, 99)].map(|(begin, end)| windows.meet(begin, end));
        assert_eq!(meet, [false, true, true, false, true, false]);
    }

    #[test]
    fn what_lies_outside_is_the_longest_piece_without_a_fault() {
        let windows = Windows::of([(10, 20), (40, 50)]);
        let outside = [(0, 100), (0, 45), (12, 18), (15, 25), (60, 61), (20, 20)].map(|(begin, end)| {
            let found = windows.longest_outside(begin, end);
            found.unwrap_or((0, 0))
        });
        assert_eq!(outside, [(50, 100), (20, 40), (0, 0), (20, 25), (60, 61), (0, 0)]);
    }
}
