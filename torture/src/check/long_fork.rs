//! Long forks: two reads that see two writes in contrary orders. (Sovran, Power, Aguilera and Li, "Transactional storage for
//! geo-replicated systems", SOSP 2011; Jepsen's `long-fork` workload.)
//!
//! `txn [[:w k v]]` writes, `txn [[:r k nil] [:r k2 nil] ...]` reads; each key is written once. If one read sees the write of k
//! and not that of k2, and another that of k2 and not that of k, there is no order of the four. That holds for reads of one
//! moment. Where keys are read one after the other, each linearizably, the history's first record says `:atomic false`: then a
//! read counts only as far as it saw a write *before* it missed the other, and two such reads contradict each other as well.
//! Reads see all that was answered before they began, unless the first record says `:stale true`.
//!
//! Cost: reads times keys of a read, squared.

use rustc_hash::FxHashMap;

use super::input::{Unusable, answered, asked, flag, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Header, Operation, Value};

const FORK: &str = "long-fork";
const STALE: &str = "stale-read";
const PHANTOM: &str = "phantom-value";

/// What is looked for.
pub const KINDS: [Kind; 3] = [
    Kind { name: FORK, about: "two reads that see two writes in contrary orders" },
    Kind { name: STALE, about: "a read that misses a write which was answered before it began" },
    Kind { name: PHANTOM, about: "a read of what was not written, not yet written, or whose write failed" },
];

/// What the workload promises.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// A transaction reads all its keys at one moment.
    pub atomic: bool,
    /// Reads may be of the past.
    pub stale: bool,
}

impl Promise {
    pub(super) fn of(header: &Header) -> Result<Self, Unusable> {
        Ok(Self { atomic: flag(header, "atomic", true)?, stale: flag(header, "stale", false)? })
    }
}

/// Judges a history of single writes and reads of several keys.
///
/// # Errors
/// An operation is not of this workload, or a key is written twice.
pub fn check(operations: &[Operation], promise: &Promise) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    let mut writes: FxHashMap<&Value, (&Value, &Operation)> = FxHashMap::default();
    let mut reads: Vec<(&Operation, Vec<(&Value, &Value)>)> = Vec::new();
    for operation in operations {
        if operation.f != "txn" {
            return Err(unknown(operation, "txn"));
        }
        let parts = parts_of(&operation.input).ok_or_else(|| asked(operation, NOT_PARTS))?;
        if let [("w", key, value)] = parts.as_slice() {
            if operation.answer().is_some_and(|answer| *answer != operation.input) {
                return Err(answered(operation, "the answer repeats the question"));
            }
            if **value == Value::Nil {
                return Err(asked(operation, "nil means not written and cannot be written"));
            }
            if writes.insert(key, (value, operation)).is_some() {
                return Err(asked(operation, "the key is written a second time"));
            }
            continue;
        }
        if parts.iter().any(|(f, _, nil)| *f != "r" || **nil != Value::Nil) {
            return Err(asked(operation, NOT_PARTS));
        }
        let Some(answer) = operation.answer() else { continue };
        let told = parts_of(answer).ok_or_else(|| answered(operation, NOT_PARTS))?;
        let names = |parts: &[(&str, &Value, &Value)]| -> Vec<(String, Value)> {
            parts.iter().map(|(f, key, _)| ((*f).to_owned(), (*key).clone())).collect()
        };
        if names(&told) != names(&parts) {
            return Err(answered(operation, "its parts are not those that were asked for"));
        }
        reads.push((operation, told.into_iter().map(|(_, key, value)| (key, value)).collect()));
    }
    find_phantoms(&reads, &writes, &mut judgement);
    if !promise.stale {
        find_stale(&reads, &writes, &mut judgement);
    }
    find_forks(&reads, promise, &mut judgement);
    Ok(judgement)
}

const NOT_PARTS: &str = "a transaction is [[:w key value]], or any number of [:r key nil]";

fn parts_of(value: &Value) -> Option<Vec<(&str, &Value, &Value)>> {
    let part = |part| match Value::as_list(part) {
        Some([f, key, value]) => f.as_text().map(|f| (f, key, value)),
        _ => None,
    };
    value.as_list()?.iter().map(part).collect()
}

fn find_phantoms(
    reads: &[(&Operation, Vec<(&Value, &Value)>)],
    writes: &FxHashMap<&Value, (&Value, &Operation)>,
    judgement: &mut Judgement,
) {
    for (read, seen) in reads {
        for (key, value) in seen.iter().filter(|(_, value)| **value != Value::Nil) {
            let is_written = writes
                .get(key)
                .is_some_and(|(written, write)| written == value && !write.has_failed() && write.begin < read.end);
            if !is_written {
                judgement.found(PHANTOM, format!("key {key}: {value} in\n    {read}"), read.records());
            }
        }
    }
}

fn find_stale(
    reads: &[(&Operation, Vec<(&Value, &Value)>)],
    writes: &FxHashMap<&Value, (&Value, &Operation)>,
    judgement: &mut Judgement,
) {
    for (read, seen) in reads {
        for (key, _) in seen.iter().filter(|(_, value)| **value == Value::Nil) {
            let Some((_, write)) = writes.get(key).filter(|(_, write)| write.is_ok() && write.end < read.begin) else {
                continue;
            };
            let what = format!("key {key}:\n    {write}\n    {read}");
            judgement.found(STALE, what, [write.records(), read.records()].concat());
        }
    }
}

/// For every two keys, a read that saw the first and not the second.
fn find_forks(reads: &[(&Operation, Vec<(&Value, &Value)>)], promise: &Promise, judgement: &mut Judgement) {
    let mut before: FxHashMap<(&Value, &Value), &Operation> = FxHashMap::default();
    for (read, seen) in reads {
        for (place, (key, value)) in seen.iter().enumerate().filter(|(_, (_, value))| **value != Value::Nil) {
            let from = if promise.atomic { 0 } else { place + 1 };
            for (missed, _) in seen[from..].iter().filter(|(other, nil)| other != key && **nil == Value::Nil) {
                if before.contains_key(&(*key, *missed)) {
                    continue;
                }
                before.insert((key, missed), read);
                if let Some(contrary) = before.get(&(*missed, *key)) {
                    let what = format!("keys {key} ({value}) and {missed}:\n    {contrary}\n    {read}");
                    judgement.found(FORK, what, [contrary.records(), read.records()].concat());
                }
            }
        }
    }
}
