//! The state machine: texts under keys, several commands at once or none of them; a number is a text in decimal digits.

use bytes::Bytes;
use multiraft::{ApplyContext, RegionView, StateError, StateMachine, StateTxn};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const OWNED: &str = "the region owns every key of the command";

/// A command, or a part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Op {
    Get(String),
    GetMany(Vec<String>),
    Set {
        key: String,
        value: String,
        condition: Condition,
    },
    SetMany(Vec<(String, String)>),
    Append(String, String),
    /// Adds to a number; a key that is not there holds zero.
    Add(String, i64),
    Delete(Vec<String>),
}

/// What a key must hold, or else nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Condition {
    Always,
    Absent,
    Equals(String),
}

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Query {
    /// All of these, which are reads.
    Ops(Vec<Op>),
    /// The first keys of the region from one on, so many at most.
    Keys { from: Vec<u8>, limit: usize },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Done {
    /// It was done.
    Ok,
    /// The key did not hold what it had to.
    Nothing,
    /// The value, or that there is none.
    Value(Option<String>),
    Values(Vec<Option<String>>),
    /// How long the text is now, what the number is now, how many keys were there.
    Number(i64),
    /// The key holds no number, or the sum is none of 64 bits: nothing was done.
    NotANumber,
}

/// What became of all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Done(Vec<Done>),
    /// Keys in order, and where the region ends; empty: nowhere.
    Keys {
        keys: Vec<String>,
        end: Vec<u8>,
    },
    /// A key is another region's: nothing was done.
    Outside,
    /// What came is no command of this machine.
    Nonsense,
}

impl Op {
    /// Its keys, one at least.
    pub(super) fn keys(&self) -> Vec<&str> {
        match self {
            Self::Get(key) | Self::Set { key, .. } | Self::Append(key, _) | Self::Add(key, _) => vec![key],
            Self::GetMany(keys) | Self::Delete(keys) => keys.iter().map(String::as_str).collect(),
            Self::SetMany(pairs) => pairs.iter().map(|(key, _)| key.as_str()).collect(),
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Get(_) | Self::GetMany(_))
    }
}

/// The machine of all regions.
pub(super) struct Texts;

impl StateMachine for Texts {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let Some(ops) = read::<Vec<Op>>(command) else { return Ok(bytes(&Answer::Nonsense)) };
        if !ops.iter().flat_map(Op::keys).all(|key| state.region().owns(key.as_bytes())) {
            return Ok(bytes(&Answer::Outside));
        }
        let mut done = Vec::new();
        for op in ops {
            done.push(carry_out(op, state)?);
        }
        Ok(bytes(&Answer::Done(done)))
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        let answer = match read(query) {
            Some(Query::Ops(ops)) if ops.iter().all(Op::is_read) => {
                if ops.iter().flat_map(Op::keys).all(|key| view.region().owns(key.as_bytes())) {
                    let found = ops.into_iter().map(|op| look_up(op, view));
                    Answer::Done(found.collect::<Result<_, StateError>>()?)
                } else {
                    Answer::Outside
                }
            }
            Some(Query::Keys { from, .. }) if !view.region().owns(&from) => Answer::Outside,
            Some(Query::Keys { from, limit }) => {
                let pairs = view.scan(&from, &[], limit)?;
                let keys = pairs.iter().map(|(key, _)| text(key)).collect();
                Answer::Keys { keys, end: view.region().range.end.to_vec() }
            }
            _ => Answer::Nonsense,
        };
        Ok(bytes(&answer))
    }
}

fn look_up(op: Op, view: &RegionView<'_>) -> Result<Done, StateError> {
    let held = |key: &String| Ok(view.get(key.as_bytes())?.map(|value| text(&value)));
    Ok(match op {
        Op::GetMany(keys) => Done::Values(keys.iter().map(held).collect::<Result<_, StateError>>()?),
        Op::Get(key) => Done::Value(held(&key)?),
        Op::Set { .. } | Op::SetMany(_) | Op::Append(..) | Op::Add(..) | Op::Delete(_) => Done::Nothing,
    })
}

fn carry_out(op: Op, state: &mut StateTxn<'_>) -> Result<Done, StateError> {
    Ok(match op {
        Op::Get(key) => Done::Value(held(state, &key)?),
        Op::GetMany(keys) => Done::Values(keys.iter().map(|key| held(state, key)).collect::<Result<_, StateError>>()?),
        Op::Set { key, value, condition } => {
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => held(state, &key)?.is_none(),
                Condition::Equals(wanted) => held(state, &key)? == Some(wanted),
            };
            if !holds {
                return Ok(Done::Nothing);
            }
            put(state, &key, value);
            Done::Ok
        }
        Op::SetMany(pairs) => {
            pairs.into_iter().for_each(|(key, value)| put(state, &key, value));
            Done::Ok
        }
        Op::Append(key, more) => {
            let value = held(state, &key)?.unwrap_or_default() + &more;
            let length = value.len();
            put(state, &key, value);
            Done::Number(i64::try_from(length).unwrap_or(i64::MAX))
        }
        Op::Add(key, more) => {
            let number = held(state, &key)?.map_or(Some(0), |value| value.parse::<i64>().ok());
            let Some(sum) = number.and_then(|number| number.checked_add(more)) else { return Ok(Done::NotANumber) };
            put(state, &key, sum.to_string());
            Done::Number(sum)
        }
        Op::Delete(keys) => {
            let mut removed = 0;
            for key in keys {
                if held(state, &key)?.is_some() {
                    state.delete(key.as_bytes()).expect(OWNED);
                    removed += 1;
                }
            }
            Done::Number(removed)
        }
    })
}

fn held(state: &StateTxn<'_>, key: &str) -> Result<Option<String>, StateError> {
    Ok(state.get(key.as_bytes())?.map(|value| text(&value)))
}

fn put(state: &mut StateTxn<'_>, key: &str, value: String) {
    state.put(key.as_bytes(), value.into_bytes()).expect(OWNED);
}

pub(super) fn bytes<T: Serialize>(what: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(what).expect("texts and numbers can be written"))
}

fn read<T: DeserializeOwned>(what: &[u8]) -> Option<T> {
    serde_json::from_slice(what).ok()
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
