//! Ids that nobody gets twice. (Jepsen's `unique-ids`.)
//!
//! `generate nil` answers an id; with a key for each source of ids, `generate [k nil]` answers `[k id]`.
//!
//! Cost: linear.

use rustc_hash::FxHashMap;

use super::input::{Unusable, answered, asked, by_key, of_key, split_answer, split_key, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Operation, Value};

const DUPLICATE: &str = "duplicate-id";

/// What is looked for.
pub const KINDS: [Kind; 1] = [Kind { name: DUPLICATE, about: "two answers with one id" }];

/// Judges a history of ids.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_key(operations) {
        let mut owners: FxHashMap<&Value, &Operation> = FxHashMap::default();
        for operation in operations {
            if operation.f != "generate" {
                return Err(unknown(operation, "generate"));
            }
            if *split_key(operation).1 != Value::Nil {
                return Err(asked(operation, "it asks for nil"));
            }
            let Some(id) = split_answer(operation)? else { continue };
            if *id == Value::Nil {
                return Err(answered(operation, "nil is no id"));
            }
            if let Some(first) = owners.insert(id, operation) {
                let what = format!("{}{id} in\n    {first}\n    {operation}", of_key(&key));
                judgement.found(DUPLICATE, what, [first.records(), operation.records()].concat());
            }
        }
    }
    Ok(judgement)
}
