//! Ordered scans over keys that come and go, across regions: each scan is in order, and of each key it says something that was so
//! at some moment of the scan. A scan need not be of one moment for all keys.
//!
//! `put key` or `put [key value]`, `delete key`, and `scan [from to]`, which answers the list of keys from `from` on and below
//! `to`; nil for either, or for both, means no bound. Numbers come before texts, texts in the order of their bytes.
//!
//! A key was surely there during a scan if a put of it was answered, or another scan with it had ended, before the scan began and
//! every delete that could come after that was asked for only after the scan had ended. It may have been there if some put began before the scan ended
//! and no delete surely came between the two.
//!
//! Cost: scans times keys, times the logarithm of the puts of a key.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use super::input::{Unusable, answered, asked, repeated, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Moment, Operation, Value};

const UNORDERED: &str = "unordered";
const DUPLICATE: &str = "duplicate-key";
const MISSING: &str = "missing-key";
const PHANTOM: &str = "phantom-key";
const OUTSIDE: &str = "outside-range";

/// What is looked for.
pub const KINDS: [Kind; 5] = [
    Kind { name: UNORDERED, about: "a scan whose keys do not rise" },
    Kind { name: DUPLICATE, about: "a scan with a key twice" },
    Kind { name: MISSING, about: "a scan without a key that was there all the time" },
    Kind { name: PHANTOM, about: "a scan with a key that was never put, or surely deleted" },
    Kind { name: OUTSIDE, about: "a scan with a key outside its range" },
];

struct Scan<'a> {
    operation: &'a Operation,
    from: &'a Value,
    to: &'a Value,
    keys: &'a [Value],
}

impl Scan<'_> {
    fn covers(&self, key: &Value) -> bool {
        (*self.from == Value::Nil || self.from <= key) && (*self.to == Value::Nil || key < self.to)
    }
}

/// Judges a history of scans.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    let mut changes: BTreeMap<&Value, Changes<'_>> = BTreeMap::new();
    let mut scans = Vec::new();
    for operation in operations {
        match operation.f.as_str() {
            "put" | "delete" => {
                repeated(operation)?;
                let key =
                    operation.input.as_pair().filter(|_| operation.f == "put").map_or(&operation.input, |(key, _)| key);
                if !matches!(key, Value::Int(_) | Value::Text(_)) {
                    return Err(asked(operation, "a key is a number or a text"));
                }
                if !operation.has_failed() {
                    let changes = changes.entry(key).or_default();
                    if operation.f == "put" { changes.puts.push(operation) } else { changes.deletes.push(operation) }
                }
            }
            "scan" => scans.extend(scan_of(operation)?),
            _ => return Err(unknown(operation, "put, delete, scan")),
        }
    }
    for scan in &scans {
        for key in scan.keys {
            if let Some(changes) = changes.get_mut(key) {
                changes.sights.push(scan.operation);
            }
        }
    }
    let presences: BTreeMap<&Value, Presence> =
        changes.into_iter().map(|(key, changes)| (key, changes.presence())).collect();
    for scan in &scans {
        check_scan(scan, &presences, &mut judgement);
    }
    Ok(judgement)
}

fn scan_of(operation: &Operation) -> Result<Option<Scan<'_>>, Unusable> {
    let (from, to) = match &operation.input {
        Value::Nil => (&Value::Nil, &Value::Nil),
        input => input.as_pair().ok_or_else(|| asked(operation, "a scan is nil or [from to]"))?,
    };
    let Some(answer) = operation.answer() else { return Ok(None) };
    let keys = answer.as_list().ok_or_else(|| answered(operation, "a scan answers a list of keys"))?;
    Ok(Some(Scan { operation, from, to, keys }))
}

fn check_scan(scan: &Scan<'_>, presences: &BTreeMap<&Value, Presence>, judgement: &mut Judgement) {
    let operation = scan.operation;
    let mut found = |kind, what: String| {
        let Operation { process, begin, end, input, .. } = operation;
        let what = format!("{what} in scan {input} of client {process} [{}, {}]", begin.index, end.index);
        judgement.found(kind, what, operation.records());
    };
    if let Some((before, after)) = scan.keys.iter().zip(scan.keys.iter().skip(1)).find(|(one, next)| one > next) {
        found(UNORDERED, format!("{before} before {after}"));
    }
    let mut here: FxHashSet<&Value> = FxHashSet::default();
    for key in scan.keys {
        if !here.insert(key) {
            found(DUPLICATE, key.to_string());
        } else if !scan.covers(key) {
            found(OUTSIDE, key.to_string());
        } else if !presences.get(key).is_some_and(|presence| presence.may_be_there(operation)) {
            found(PHANTOM, key.to_string());
        }
    }
    for (key, presence) in presences.iter().filter(|(key, _)| scan.covers(key) && !here.contains(*key)) {
        if presence.was_there(operation) {
            found(MISSING, key.to_string());
        }
    }
}

/// Puts and deletes of a key that may have taken effect.
#[derive(Default)]
struct Changes<'a> {
    puts: Vec<&'a Operation>,
    deletes: Vec<&'a Operation>,
    /// Scans that saw it.
    sights: Vec<&'a Operation>,
}

/// From a moment on until another.
type Span = (Moment, Moment);

/// When a key was there.
struct Presence {
    /// Sorted by their beginnings, each with the latest end of all up to it.
    sure: Vec<Span>,
    possible: Vec<Span>,
}

impl Changes<'_> {
    fn presence(mut self) -> Presence {
        // By their ends: the earliest beginning of each delete and those that end later.
        self.deletes.sort_unstable_by_key(|delete| delete.end);
        let by_end = earliest_from(self.deletes.iter().map(|delete| (delete.end, delete.begin)).collect());
        // By their beginnings: the earliest end of each answered delete and those that begin later.
        self.deletes.retain(|delete| delete.is_ok());
        self.deletes.sort_unstable_by_key(|delete| delete.begin);
        let by_begin = earliest_from(self.deletes.iter().map(|delete| (delete.begin, delete.end)).collect());
        let sure = self.puts.iter().filter(|put| put.is_ok()).chain(&self.sights).map(|put| {
            // Deletes that ended before it began came before it; any other may come after it.
            (put.end, earliest(&by_end, |end| end < put.begin))
        });
        let possible = self.puts.iter().map(|put| (put.begin, earliest(&by_begin, |begin| begin < put.end)));
        Presence { sure: latest_up_to(sure.collect()), possible: latest_up_to(possible.collect()) }
    }
}

/// Replaces each second moment by the earliest from there on.
fn earliest_from(mut sorted: Vec<Span>) -> Vec<Span> {
    let mut earliest = Moment::NEVER;
    for (_, moment) in sorted.iter_mut().rev() {
        earliest = earliest.min(*moment);
        *moment = earliest;
    }
    sorted
}

/// The earliest second moment of those whose first is not `skipped`.
fn earliest(sorted: &[Span], skipped: impl Fn(Moment) -> bool) -> Moment {
    sorted.get(sorted.partition_point(|(moment, _)| skipped(*moment))).map_or(Moment::NEVER, |(_, earliest)| *earliest)
}

/// Sorts spans, and replaces each end by the latest up to there.
fn latest_up_to(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut latest: Option<Moment> = None;
    for (_, end) in &mut spans {
        let moment = latest.map_or(*end, |latest| latest.max(*end));
        *end = moment;
        latest = Some(moment);
    }
    spans
}

/// The latest end of spans that begin before `moment`.
fn latest_before(spans: &[Span], moment: Moment) -> Option<Moment> {
    spans[..spans.partition_point(|(begin, _)| *begin < moment)].last().map(|(_, end)| *end)
}

impl Presence {
    fn was_there(&self, scan: &Operation) -> bool {
        latest_before(&self.sure, scan.begin).is_some_and(|end| end > scan.end)
    }

    fn may_be_there(&self, scan: &Operation) -> bool {
        latest_before(&self.possible, scan.end).is_some_and(|end| end > scan.begin)
    }
}
