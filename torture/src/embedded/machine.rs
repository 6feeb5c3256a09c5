//! The state machine: texts under keys, several commands at once or none of them.

use bytes::Bytes;
use multiraft::{ApplyContext, RegionView, StateError, StateMachine, StateTxn};
use serde::{Deserialize, Serialize};

/// A command, or a part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Op {
    Get(String),
    Set { key: String, value: String, if_equal: Option<String> },
    Append(String, String),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Done {
    /// It was done.
    Ok,
    /// The value, or that there is none.
    Value(Option<String>),
    /// How long the text is now.
    Length(usize),
}

/// What became of all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Done(Vec<Done>),
    /// A key is another region's: nothing was done.
    Outside,
    /// What came is no command of this machine.
    Nonsense,
}

impl Op {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Get(key) | Self::Set { key, .. } | Self::Append(key, _) => key,
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Get(_))
    }
}

/// The machine of all regions.
pub(super) struct Texts;

impl StateMachine for Texts {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let Some(ops) = read(command) else { return Ok(bytes(&Answer::Nonsense)) };
        if !ops.iter().all(|op| state.region().owns(op.key().as_bytes())) {
            return Ok(bytes(&Answer::Outside));
        }
        let mut done = Vec::new();
        for op in ops {
            done.push(carry_out(op, state)?);
        }
        Ok(bytes(&Answer::Done(done)))
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        let Some(ops) = read(query).filter(|ops| ops.iter().all(Op::is_read)) else {
            return Ok(bytes(&Answer::Nonsense));
        };
        if !ops.iter().all(|op| view.region().owns(op.key().as_bytes())) {
            return Ok(bytes(&Answer::Outside));
        }
        let found = ops.iter().map(|op| Ok(Done::Value(view.get(op.key().as_bytes())?.map(|value| text(&value)))));
        Ok(bytes(&Answer::Done(found.collect::<Result<_, StateError>>()?)))
    }
}

fn carry_out(op: Op, state: &mut StateTxn<'_>) -> Result<Done, StateError> {
    let held = state.get(op.key().as_bytes())?.map(|value| text(&value));
    let (key, value, done) = match op {
        Op::Get(_) => return Ok(Done::Value(held)),
        Op::Set { if_equal: Some(_), .. } if if_differs(&op, held.as_deref()) => return Ok(Done::Value(None)),
        Op::Set { key, value, .. } => (key, value, Done::Ok),
        Op::Append(key, more) => {
            let value = held.unwrap_or_default() + &more;
            let length = value.len();
            (key, value, Done::Length(length))
        }
    };
    state.put(key.as_bytes(), value.into_bytes()).expect("the region owns every key of the command");
    Ok(done)
}

fn if_differs(op: &Op, held: Option<&str>) -> bool {
    matches!(op, Op::Set { if_equal: Some(wanted), .. } if held != Some(wanted))
}

pub(super) fn bytes<T: Serialize>(what: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(what).expect("texts and numbers can be written"))
}

fn read(command: &[u8]) -> Option<Vec<Op>> {
    serde_json::from_slice(command).ok()
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
