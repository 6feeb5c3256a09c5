//! Transactions as data: keys and elements are numbers.

use rustc_hash::FxHashMap;

use super::super::input::{Unusable, answered, asked, unknown};
use crate::history::{Operation, Value};

/// A list.
pub(super) type Key = usize;
/// An element of a list; elements of different lists have different numbers.
pub(super) type Element = usize;

/// A part of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Append(Key, Element),
    /// What was read; `None` if there was no answer.
    Read(Key, Option<Vec<Element>>),
}

#[derive(Debug)]
pub(super) struct Transaction<'a> {
    pub(super) operation: &'a Operation,
    pub(super) parts: Vec<Part>,
}

/// Who appended an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub(super) transaction: usize,
    /// What its transaction appended to the same list just before.
    pub(super) before: Option<Element>,
    /// What its transaction appended to the same list just after.
    pub(super) after: Option<Element>,
}

#[derive(Debug, Default)]
pub(super) struct Transactions<'a> {
    pub(super) all: Vec<Transaction<'a>>,
    pub(super) keys: Vec<Value>,
    /// What each element is, and in which list.
    pub(super) elements: Vec<(Key, Value)>,
    /// Who appended it; nobody, if it was only ever read.
    pub(super) writers: Vec<Option<Writer>>,
    key_numbers: FxHashMap<Value, Key>,
    element_numbers: FxHashMap<(Key, Value), Element>,
}

impl<'a> Transactions<'a> {
    pub(super) fn parse(operations: &'a [Operation]) -> Result<Self, Unusable> {
        let mut transactions = Self::default();
        for operation in operations {
            let parts = transactions.parts_of(operation)?;
            transactions.add(Transaction { operation, parts })?;
        }
        Ok(transactions)
    }

    fn add(&mut self, transaction: Transaction<'a>) -> Result<(), Unusable> {
        let number = self.all.len();
        let mut last: FxHashMap<Key, Element> = FxHashMap::default();
        for part in &transaction.parts {
            let Part::Append(key, element) = part else { continue };
            if self.writers[*element].is_some() {
                return Err(asked(transaction.operation, "the element is appended a second time"));
            }
            let before = last.insert(*key, *element);
            self.writers[*element] = Some(Writer { transaction: number, before, after: None });
            if let Some(writer) = before.and_then(|before| self.writers[before].as_mut()) {
                writer.after = Some(*element);
            }
        }
        self.all.push(transaction);
        Ok(())
    }

    fn parts_of(&mut self, operation: &Operation) -> Result<Vec<Part>, Unusable> {
        match operation.f.as_str() {
            "append" => {
                let (key, value) =
                    operation.input.as_pair().ok_or_else(|| asked(operation, "an append is [key element]"))?;
                if operation.answer().is_some_and(|answer| *answer != operation.input) {
                    return Err(answered(operation, "the answer repeats the question"));
                }
                Ok(vec![self.append(operation, key, value)?])
            }
            "read" => {
                let (key, nil) = operation.input.as_pair().ok_or_else(|| asked(operation, "a read is [key nil]"))?;
                let told = match operation.answer().map(|answer| (answer, answer.as_pair())) {
                    None => None,
                    Some((_, Some((of, list)))) if of == key => Some(list),
                    Some(_) => return Err(answered(operation, "a read answers [key list] of the same key")),
                };
                Ok(vec![self.read(operation, key, nil, told)?])
            }
            "txn" => {
                let asked_for = parts(&operation.input).ok_or_else(|| asked(operation, NOT_PARTS))?;
                let told = match operation.answer() {
                    None => None,
                    Some(answer) => Some(parts(answer).ok_or_else(|| answered(operation, NOT_PARTS))?),
                };
                if told.as_ref().is_some_and(|told| told.len() != asked_for.len()) {
                    return Err(answered(operation, "it has as many parts as were asked for"));
                }
                let part = |(place, (f, key, value)): (usize, (&str, &Value, &Value))| {
                    let told = told.as_ref().map(|told| told[place]);
                    if told.is_some_and(|(told_f, told_key, _)| (told_f, told_key) != (f, key)) {
                        return Err(answered(operation, "its parts are not those that were asked for"));
                    }
                    match f {
                        "append" if told.is_some_and(|(.., told)| told != value) => {
                            Err(answered(operation, "an append repeats what was asked for"))
                        }
                        "append" => self.append(operation, key, value),
                        _ => self.read(operation, key, value, told.map(|(.., list)| list)),
                    }
                };
                asked_for.iter().copied().enumerate().map(part).collect()
            }
            _ => Err(unknown(operation, "txn, append, read")),
        }
    }

    fn append(&mut self, operation: &Operation, key: &Value, value: &Value) -> Result<Part, Unusable> {
        if !value.is_scalar() || *value == Value::Nil {
            return Err(asked(operation, "an element is a number, a text or a keyword"));
        }
        let key = self.key(key);
        Ok(Part::Append(key, self.element(key, value)))
    }

    fn read(&mut self, op: &Operation, key: &Value, nil: &Value, told: Option<&Value>) -> Result<Part, Unusable> {
        if *nil != Value::Nil {
            return Err(asked(op, "a read asks for nil"));
        }
        let key = self.key(key);
        let list = match told {
            None => None,
            // A list that nobody has appended to.
            Some(Value::Nil) => Some(Vec::new()),
            Some(Value::List(list)) => Some(list.iter().map(|value| self.element(key, value)).collect()),
            Some(_) => return Err(answered(op, "a read answers a list, or nil for the empty one")),
        };
        Ok(Part::Read(key, list))
    }

    fn key(&mut self, key: &Value) -> Key {
        if let Some(number) = self.key_numbers.get(key) {
            return *number;
        }
        self.keys.push(key.clone());
        self.key_numbers.insert(key.clone(), self.keys.len() - 1);
        self.keys.len() - 1
    }

    fn element(&mut self, key: Key, value: &Value) -> Element {
        let named = (key, value.clone());
        if let Some(number) = self.element_numbers.get(&named) {
            return *number;
        }
        self.elements.push(named.clone());
        self.writers.push(None);
        self.element_numbers.insert(named, self.elements.len() - 1);
        self.elements.len() - 1
    }

    /// An element for people.
    pub(super) fn name(&self, element: Element) -> String {
        let (key, value) = &self.elements[element];
        format!("{value} of key {}", self.keys[*key])
    }
}

const NOT_PARTS: &str = "a transaction is a list of [:append key element] and [:r key nil]";

fn parts(value: &Value) -> Option<Vec<(&str, &Value, &Value)>> {
    let part = |part| match Value::as_list(part) {
        Some([f, key, value]) => {
            f.as_text().filter(|f| matches!(*f, "append" | "r")).map(|function| (function, key, value))
        }
        _ => None,
    };
    value.as_list()?.iter().map(part).collect()
}
