//! Operations as their workload means them: what does not fit is refused, never guessed at.

use std::collections::BTreeMap;

use crate::history::{Header, Operation, Value};

/// An operation that is none of its workload's, so that the history cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The index of its record.
    pub record: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// What is wrong with the question of `operation`.
pub(super) fn asked(operation: &Operation, problem: &str) -> Unusable {
    let Operation { f, input, begin, .. } = operation;
    Unusable { record: begin.index, problem: format!("`{f}` asks for {input}: {problem}") }
}

/// What is wrong with the answer to `operation`.
pub(super) fn answered(operation: &Operation, problem: &str) -> Unusable {
    let Operation { f, input, end, .. } = operation;
    let answer = operation.answer().unwrap_or(&Value::Nil);
    Unusable { record: end.index, problem: format!("`{f}` of {input} is answered by {answer}: {problem}") }
}

/// Refuses a function that the workload does not have.
pub(super) fn unknown(operation: &Operation, functions: &str) -> Unusable {
    Unusable { record: operation.begin.index, problem: format!("`{}` is none of {functions}", operation.f) }
}

/// The value of an option of the workload.
pub(super) fn option<T>(
    header: &Header,
    name: &str,
    wanted: &str,
    take: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, Unusable> {
    let Some(value) = header.options.get(&Value::keyword(name)) else {
        return Ok(None);
    };
    let refuse = || Unusable { record: 0, problem: format!("the workload's `{name}` is {value}: {wanted}") };
    take(value).map(Some).ok_or_else(refuse)
}

/// An option that is true or false.
pub(super) fn flag(header: &Header, name: &str, default: bool) -> Result<bool, Unusable> {
    let take = |value: &Value| if let Value::Bool(yes) = value { Some(*yes) } else { None };
    Ok(option(header, name, "true or false", take)?.unwrap_or(default))
}

/// The key of an object that need not have one, and what is said of it. Only a question that is a pair has a key.
pub(super) fn split_key(operation: &Operation) -> (Value, &Value) {
    operation.input.as_pair().map_or((Value::Nil, &operation.input), |(key, value)| (key.clone(), value))
}

/// What an answer says of the object that was asked about, if there is one.
pub(super) fn split_answer(operation: &Operation) -> Result<Option<&Value>, Unusable> {
    let Some(answer) = operation.answer() else {
        return Ok(None);
    };
    let Some((key, _)) = operation.input.as_pair() else {
        return Ok(Some(answer));
    };
    match answer.as_pair() {
        Some((answered_key, value)) if answered_key == key => Ok(Some(value)),
        _ => Err(answered(operation, "an answer about another key")),
    }
}

/// An answer must repeat what was asked for.
pub(super) fn repeated(operation: &Operation) -> Result<(), Unusable> {
    match operation.answer() {
        Some(answer) if *answer != operation.input => Err(answered(operation, "the answer repeats the question")),
        _ => Ok(()),
    }
}

/// Operations by the object that they are about.
pub(super) fn by_key(operations: &[Operation]) -> BTreeMap<Value, Vec<&Operation>> {
    let mut keys: BTreeMap<Value, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(split_key(operation).0).or_default().push(operation);
    }
    keys
}

/// What stands before a finding about an object that has a key.
pub(super) fn of_key(key: &Value) -> String {
    if *key == Value::Nil { String::new() } else { format!("key {key}: ") }
}
