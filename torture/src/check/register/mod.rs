//! Registers under keys, with read, write and compare-and-set: each must be linearizable (Herlihy and Wing, 1990).
//!
//! `read [k nil]` answers `[k value]`; `write [k value]`; `cas [k [old new]]`, which is `fail` where it found something else. One
//! register may go without a key: `read nil`, `write value`, `cas [old new]`. A read of nil means "never written", so that a
//! register which forgets is found out; it does not mean "anything".
//!
//! Linearizability is local: a history is linearizable if each key's part of it is. (Horn and Kroening, "Faster linearizability
//! checking via P-compositionality", 2015.) Each key is searched by Lowe's just-in-time method ("Testing for linearizability",
//! 2017), with his cache of configurations that were visited, on the footing of Wing and Gong (1993).
//!
//! Cost: nearly linear in practice; at worst exponential in how many writes are under way on one key at a time, and in how many
//! of them have an unknown outcome. Beyond [`WORK_MAX`] a key is left undecided.

mod search;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::input::{Unusable, answered, asked, of_key, repeated, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Operation, Value};

pub(super) use search::{Call, Found, NEVER_WRITTEN, Place, Refusal, Step, search};
pub use search::{UNDER_WAY_MAX, WORK_MAX};

const PHANTOM: &str = "phantom-value";
const NONLINEARIZABLE: &str = "nonlinearizable";

/// After how many keys that could not be decided no other is searched.
pub(super) const UNDECIDED_MAX: usize = 5;

/// What is looked for.
pub const KINDS: [Kind; 2] = [
    Kind { name: PHANTOM, about: "a read of what nobody can have written" },
    Kind { name: NONLINEARIZABLE, about: "no order of the operations on a key explains its answers" },
];

/// Judges a history of registers.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_register(operations) {
        let mut values = Numbers::default();
        let mut calls = Vec::new();
        let mut sources = Vec::new();
        for operation in operations {
            let Some(step) = step_of(operation, &mut values)? else { continue };
            let place = |index| (index, 0);
            let end = operation.is_ok().then(|| place(operation.end.index));
            calls.push(Call { step, begin: place(operation.begin.index), end });
            sources.push(operation);
        }
        if let Some(read) = first_phantom(&calls) {
            judgement.found(PHANTOM, format!("{}{}", of_key(&key), sources[read]), sources[read].records());
            continue;
        }
        if judgement.undecided().len() >= UNDECIDED_MAX {
            judgement.leave_undecided(format!("{}and all keys behind it: not searched after so many", of_key(&key)));
            break;
        }
        match search(&calls) {
            Found::Order => {}
            Found::GaveUp(why) => judgement.leave_undecided(format!("{}{why}", of_key(&key))),
            Found::NoOrder(refusal) => {
                let (what, records) = tell(&key, &refusal, &sources, &values);
                judgement.found(NONLINEARIZABLE, what, records);
            }
        }
    }
    Ok(judgement)
}

/// Numbers for values, from [`NEVER_WRITTEN`] for nil.
#[derive(Debug)]
pub(super) struct Numbers {
    numbers: FxHashMap<Value, u32>,
    values: Vec<Value>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { numbers: FxHashMap::from_iter([(Value::Nil, NEVER_WRITTEN)]), values: vec![Value::Nil] }
    }
}

impl Numbers {
    pub(super) fn of(&mut self, value: &Value) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).expect("a history has fewer values than that");
        self.numbers.insert(value.clone(), number);
        self.values.push(value.clone());
        number
    }
}

/// The key of an operation, and what it is given. A compare-and-set without a key is a pair as well, of two values.
pub(super) fn split(operation: &Operation) -> (Option<&Value>, &Value) {
    let is_keyed = |value: &Value| operation.f != "cas" || value.as_list().is_some();
    match operation.input.as_pair().filter(|(_, value)| is_keyed(value)) {
        Some((key, value)) => (Some(key), value),
        None => (None, &operation.input),
    }
}

pub(super) fn by_register(operations: &[Operation]) -> BTreeMap<Value, Vec<&Operation>> {
    let mut registers: BTreeMap<Value, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        registers.entry(split(operation).0.cloned().unwrap_or_default()).or_default().push(operation);
    }
    registers
}

/// What a read that was answered saw.
pub(super) fn seen(operation: &Operation, values: &mut Numbers) -> Result<Option<Step>, Unusable> {
    let Some(answer) = operation.answer() else { return Ok(None) };
    let value = match (split(operation).0, answer.as_pair()) {
        (None, _) => answer,
        (Some(key), Some((of, value))) if of == key => value,
        _ => return Err(answered(operation, "a read of [key ..] answers [key value] of the same key")),
    };
    Ok(Some(Step::Read(values.of(value))))
}

/// What an operation does to its register; `None` if it cannot have done anything and tells nothing.
pub(super) fn step_of(operation: &Operation, values: &mut Numbers) -> Result<Option<Step>, Unusable> {
    let (_, input) = split(operation);
    let step = match operation.f.as_str() {
        "read" => {
            if *input != Value::Nil {
                return Err(asked(operation, "a read asks for [key nil], or nil"));
            }
            return seen(operation, values);
        }
        "write" => {
            repeated(operation)?;
            if *input == Value::Nil {
                return Err(asked(operation, "nil means never written and cannot be written"));
            }
            Step::Write(values.of(input))
        }
        "cas" => {
            repeated(operation)?;
            match input.as_pair() {
                Some((old, new)) if *new != Value::Nil => Step::Cas(values.of(old), values.of(new)),
                _ => {
                    return Err(asked(
                        operation,
                        "a compare-and-set is [key [old new]], or [old new], and new is not nil",
                    ));
                }
            }
        }
        _ => return Err(unknown(operation, "read, write, cas")),
    };
    Ok((!operation.has_failed()).then_some(step))
}

/// The first read of a value that no call can have written.
pub(super) fn first_phantom(calls: &[Call]) -> Option<usize> {
    let mut written = rustc_hash::FxHashSet::from_iter([NEVER_WRITTEN]);
    written.extend(calls.iter().filter_map(|call| match call.step {
        Step::Write(value) | Step::Cas(_, value) => Some(value),
        Step::Read(_) => None,
    }));
    calls.iter().position(|call| matches!(call.step, Step::Read(value) if !written.contains(&value)))
}

/// A refusal for people, and the records that belong to it.
pub(super) fn tell(key: &Value, refusal: &Refusal, sources: &[&Operation], numbers: &Numbers) -> (String, Vec<u64>) {
    let value = |number: &u32| numbers.values.get(*number as usize).map_or_else(String::new, Value::to_string);
    let values: Vec<String> = refusal.values.iter().take(10).map(value).collect();
    let mut what = format!(
        "{}nothing explains the answer to\n    {}\n  Just before it the register could hold {}. Around it:",
        of_key(key),
        sources[refusal.call],
        values.join(", ")
    );
    let mut records = Vec::new();
    for call in &refusal.around {
        what.push_str(&format!("\n    {}", sources[*call]));
        records.extend(sources[*call].records());
    }
    (what, records)
}
