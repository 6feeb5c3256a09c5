//! A set that only grows: what was added stays, and nothing else is in it. (The model of Jepsen's `set-full`.)
//!
//! `add v` and `read nil`, which answers a list of all elements; with a key, `add [k v]` and `read [k nil]`, which answers
//! `[k [..]]`. An element is a number or a text. It is known to be there from the end of its add, or from the end of the first
//! read that saw it; every read that begins later has to have it.
//!
//! Cost: reads times elements, in look-ups.

use rustc_hash::{FxHashMap, FxHashSet};

use super::input::{Unusable, answered, asked, by_key, of_key, repeated, split_answer, split_key, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Moment, Operation, Value};

const LOST: &str = "lost-element";
const STALE: &str = "stale-read";
const DUPLICATE: &str = "duplicate-element";
const PHANTOM: &str = "phantom-element";

/// What is looked for.
pub const KINDS: [Kind; 4] = [
    Kind { name: LOST, about: "a known element is missing in a read, and in the last one" },
    Kind { name: STALE, about: "a known element is missing in a read, and there in the last one" },
    Kind { name: DUPLICATE, about: "a read has an element twice" },
    Kind { name: PHANTOM, about: "a read has what was not added, not yet added, or whose add failed" },
];

struct Read<'a> {
    operation: &'a Operation,
    elements: FxHashSet<&'a Value>,
}

/// Judges a history of sets.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_key(operations) {
        check_set(&key, &operations, &mut judgement)?;
    }
    Ok(judgement)
}

fn check_set(key: &Value, operations: &[&Operation], judgement: &mut Judgement) -> Result<(), Unusable> {
    // Of each element, its adds that may have taken effect: the same may be added again.
    let mut adds: FxHashMap<Value, Vec<&Operation>> = FxHashMap::default();
    let mut reads = Vec::new();
    for operation in operations {
        let (_, input) = split_key(operation);
        match operation.f.as_str() {
            "add" if !input.is_scalar() || *input == Value::Nil => {
                return Err(asked(operation, "an element is a number, a text or a keyword"));
            }
            "add" => {
                repeated(operation)?;
                if !operation.has_failed() {
                    adds.entry(input.clone()).or_default().push(operation);
                }
            }
            "read" if *input != Value::Nil => return Err(asked(operation, "a read asks for nil")),
            "read" => {
                if let Some(answer) = split_answer(operation)? {
                    let list = answer.as_list().ok_or_else(|| answered(operation, "a read answers a list"))?;
                    reads.push((*operation, list));
                }
            }
            _ => return Err(unknown(operation, "add, read")),
        }
    }
    let mut whole = Vec::new();
    for (operation, list) in reads {
        whole.push(Read { operation, elements: elements_of(key, operation, list, &adds, judgement) });
    }
    find_missing(key, &adds, &whole, judgement);
    Ok(())
}

/// The elements of a read; those that stand twice or cannot be there are told.
fn elements_of<'a>(
    key: &Value,
    read: &Operation,
    list: &'a [Value],
    adds: &FxHashMap<Value, Vec<&Operation>>,
    judgement: &mut Judgement,
) -> FxHashSet<&'a Value> {
    let mut elements = FxHashSet::default();
    for element in list {
        let kind = if !elements.insert(element) {
            DUPLICATE
        } else if !adds.get(element).is_some_and(|adds| adds.iter().any(|add| add.begin < read.end)) {
            PHANTOM
        } else {
            continue;
        };
        judgement.found(kind, format!("{}{element} in\n    {}", of_key(key), short(read)), read.records());
    }
    elements
}

fn find_missing(key: &Value, adds: &FxHashMap<Value, Vec<&Operation>>, reads: &[Read<'_>], judgement: &mut Judgement) {
    let mut elements: Vec<(&Value, Moment)> = Vec::new();
    for (element, adds) in adds {
        let answered = adds.iter().filter(|add| add.is_ok()).map(|add| add.end);
        let seen = reads.iter().filter(|read| read.elements.contains(element)).map(|read| read.operation.end);
        elements.extend(answered.chain(seen).min().map(|known| (element, known)));
    }
    elements.sort_unstable_by_key(|(_, known)| *known);
    for (element, known) in elements {
        let later = || reads.iter().filter(|read| read.operation.begin > known);
        let Some(missing) = later().find(|read| !read.elements.contains(element)) else { continue };
        let last = later().max_by_key(|read| read.operation.begin);
        let is_back = last.is_some_and(|read| read.elements.contains(element));
        let kind = if is_back { STALE } else { LOST };
        let what = format!(
            "{}{element}, known since record {}, is not in\n    {}",
            of_key(key),
            known.index,
            short(missing.operation)
        );
        let mut records = missing.operation.records();
        records.push(known.index);
        judgement.found(kind, what, records);
    }
}

/// A read may have thousands of elements.
fn short(read: &Operation) -> String {
    let Operation { process, f, input, begin, end, .. } = read;
    format!("client {process} {f} {input} [{}, {}]", begin.index, end.index)
}
