//! Operations: invocations put together with what came of them.

use rustc_hash::{FxHashMap, FxHashSet};

use super::record::{Kind, Process};
use super::value::Value;
use super::{History, Malformed};

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The record's index: the order of events.
    pub index: u64,
    /// In nanoseconds.
    pub time: u64,
}

impl Moment {
    /// After everything.
    pub const NEVER: Self = Self { index: u64::MAX, time: u64::MAX };
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, and this is what the client was told.
    Ok(Value),
    /// It has not taken effect and never will.
    Fail,
    /// It may have taken effect, may still do so, or never.
    Info,
}

/// What a client asked for and was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client.
    pub process: u64,
    /// The function.
    pub f: String,
    /// What it was given.
    pub input: Value,
    /// When it was asked for.
    pub begin: Moment,
    /// When the answer came; [`Moment::NEVER`] if the outcome is unknown, since it may take effect after any answer.
    pub end: Moment,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, if it took effect.
    #[must_use]
    pub const fn answer(&self) -> Option<&Value> {
        if let Outcome::Ok(value) = &self.outcome { Some(value) } else { None }
    }

    /// Whether it surely took effect.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok(_))
    }

    /// Whether it surely took no effect.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Fail)
    }

    /// The records that it consists of.
    #[must_use]
    pub fn records(&self) -> Vec<u64> {
        let end = (self.end != Moment::NEVER).then_some(self.end.index);
        std::iter::once(self.begin.index).chain(end).collect()
    }
}

/// A value for people: of a long one the beginning and the end.
fn shortened(value: &Value) -> String {
    const KEPT: usize = 100;
    let text = value.to_string();
    let (begin, end) = (text.char_indices().nth(KEPT), text.char_indices().nth_back(KEPT));
    match (begin, end) {
        (Some((begin, _)), Some((end, _))) if end > begin + 20 => format!("{} ... {}", &text[..begin], &text[end..]),
        _ => text,
    }
}

/// Readable: process, function, values, outcome, records.
impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, f: function, begin, end, .. } = self;
        let input = shortened(&self.input);
        match &self.outcome {
            Outcome::Ok(answer) if *answer == self.input => {
                write!(f, "client {process} {function} {input} ok [{}, {}]", begin.index, end.index)
            }
            Outcome::Ok(answer) => {
                let answer = shortened(answer);
                write!(f, "client {process} {function} {input} -> {answer} [{}, {}]", begin.index, end.index)
            }
            Outcome::Fail => write!(f, "client {process} {function} {input} failed [{}, {}]", begin.index, end.index),
            Outcome::Info => write!(f, "client {process} {function} {input} -> unknown [{}, ..]", begin.index),
        }
    }
}

/// Puts the records of clients together. An invocation without an end has an unknown outcome.
pub(super) fn pair(history: &History) -> Result<Vec<Operation>, Malformed> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut under_way: FxHashMap<u64, usize> = FxHashMap::default();
    let mut ended: FxHashSet<u64> = FxHashSet::default();
    for record in history.records() {
        let Process::Client(process) = record.process else { continue };
        let refuse = |problem: String| Err(history.malformed(record.index, problem));
        let moment = Moment { index: record.index, time: record.time };
        if ended.contains(&process) {
            return refuse(format!(
                "client {process} goes on after an operation of unknown outcome; who goes on takes another number"
            ));
        }
        if record.kind == Kind::Invoke {
            if let Some(open) = under_way.insert(process, operations.len()) {
                let begin = operations[open].begin.index;
                return refuse(format!("client {process} asks while its operation of record {begin} is under way"));
            }
            operations.push(Operation {
                process,
                f: record.f.clone(),
                input: record.value.clone(),
                begin: moment,
                end: Moment::NEVER,
                outcome: Outcome::Info,
            });
            continue;
        }
        let Some(open) = under_way.remove(&process) else {
            return refuse(format!("client {process} is told `{}` and has nothing under way", record.kind.name()));
        };
        let operation = &mut operations[open];
        if operation.f != record.f {
            let (asked, begin) = (&operation.f, operation.begin.index);
            return refuse(format!("this ends `{}`, and record {begin} has begun `{asked}`", record.f));
        }
        match record.kind {
            Kind::Ok => operation.outcome = Outcome::Ok(record.value.clone()),
            Kind::Fail => operation.outcome = Outcome::Fail,
            Kind::Info | Kind::Invoke => {
                ended.insert(process);
                continue;
            }
        }
        operation.end = moment;
    }
    Ok(operations)
}
