//! Commands of sessions take effect exactly once, however often they are sent.
//!
//! All commands go into one log, and each is told its place there, from 1 on: `command [session sequence]` answers
//! `[session sequence place]`. A client that does not know what became of a command sends the same again, as another operation.
//! `read nil` answers the log so far, a list of `[session sequence]`. With a key for each log: `command [k session sequence]`,
//! which answers `[k session sequence place]`, and `read [k nil]`, which answers `[k [..]]`.
//!
//! A command that was sent several times took effect between the first of these invocations and the first answer.
//!
//! Cost: linear in what is read, and sorting.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::input::{Unusable, answered, asked, of_key, split_answer, split_key, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Moment, Operation, Value};

const TWICE: &str = "applied-twice";
const LOST: &str = "lost-command";
const PHANTOM: &str = "phantom-command";
const SHARED: &str = "shared-place";
const PLACE: &str = "wrong-place";
const ORDER: &str = "out-of-order";

/// What is looked for.
pub const KINDS: [Kind; 6] = [
    Kind { name: TWICE, about: "a command stands in the log twice, or was told two places" },
    Kind { name: LOST, about: "an answered command is not in a log that was read later" },
    Kind { name: PHANTOM, about: "a log has what was not sent, not yet sent, or failed" },
    Kind { name: SHARED, about: "two commands have one place" },
    Kind { name: PLACE, about: "a command stands elsewhere than was told or read, or behind more than were sent" },
    Kind { name: ORDER, about: "a command was answered before another was sent, and comes after it" },
];

/// Session and sequence.
type Command = (Value, i64);

/// What is known of a command, from all operations that sent it and could have an effect.
#[derive(Debug)]
struct Sent<'a> {
    begin: Moment,
    /// Its first answer.
    answered: Option<(&'a Operation, i64)>,
}

#[derive(Debug, Default)]
struct Log<'a> {
    sent: FxHashMap<Command, Sent<'a>>,
    reads: Vec<(&'a Operation, Vec<Command>)>,
    /// Who told which place first.
    places: FxHashMap<i64, (Command, &'a Operation)>,
}

/// Judges a history of sessions.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    let mut logs: BTreeMap<Value, Log<'_>> = BTreeMap::new();
    for operation in operations {
        match operation.f.as_str() {
            "command" => {
                let wanted = "a command is [session sequence], with a number for the sequence";
                let parts = operation.input.as_list().unwrap_or_default();
                let (key, command) = command_of(parts).ok_or_else(|| asked(operation, wanted))?;
                let place = place_of(operation, &key, &command)?;
                if !operation.has_failed() {
                    logs.entry(key.clone()).or_default().send(&key, command, operation, place, &mut judgement);
                }
            }
            "read" => {
                let (key, input) = split_key(operation);
                if *input != Value::Nil {
                    return Err(asked(operation, "a read asks for nil"));
                }
                if let Some(answer) = split_answer(operation)? {
                    let commands = read_of(operation, answer)?;
                    logs.entry(key).or_default().reads.push((operation, commands));
                }
            }
            _ => return Err(unknown(operation, "command, read")),
        }
    }
    for (key, log) in &mut logs {
        log.check_reads(key, &mut judgement);
        log.check_order(key, &mut judgement);
    }
    Ok(judgement)
}

fn command_of(parts: &[Value]) -> Option<(Value, Command)> {
    match parts {
        [session, Value::Int(sequence)] => Some((Value::Nil, (session.clone(), *sequence))),
        [key, session, Value::Int(sequence)] => Some((key.clone(), (session.clone(), *sequence))),
        _ => None,
    }
}

/// The place that a command was told.
fn place_of(operation: &Operation, key: &Value, command: &Command) -> Result<Option<i64>, Unusable> {
    let Some(answer) = operation.answer() else { return Ok(None) };
    let wanted = || answered(operation, "a command answers what was sent, and a place from 1 on behind it");
    let (place, sent) = answer.as_list().and_then(|parts| parts.split_last()).ok_or_else(wanted)?;
    let (told_key, told) = command_of(sent).ok_or_else(wanted)?;
    let place = place.as_int().filter(|place| *place >= 1).ok_or_else(wanted)?;
    if told_key == *key && told == *command { Ok(Some(place)) } else { Err(wanted()) }
}

fn read_of(operation: &Operation, answer: &Value) -> Result<Vec<Command>, Unusable> {
    let wanted = || answered(operation, "a read answers a list of [session sequence]");
    let command = |value: &Value| match value.as_pair() {
        Some((session, Value::Int(sequence))) => Ok((session.clone(), *sequence)),
        _ => Err(wanted()),
    };
    answer.as_list().ok_or_else(wanted)?.iter().map(command).collect()
}

fn told(command: &Command) -> String {
    format!("command {} of session {}", command.1, command.0)
}

impl<'a> Log<'a> {
    fn send(
        &mut self,
        key: &Value,
        command: Command,
        operation: &'a Operation,
        place: Option<i64>,
        judgement: &mut Judgement,
    ) {
        let sent = self.sent.entry(command.clone()).or_insert_with(|| Sent { begin: operation.begin, answered: None });
        sent.begin = sent.begin.min(operation.begin);
        let Some(place) = place else { return };
        match &mut sent.answered {
            None => sent.answered = Some((operation, place)),
            Some((first, first_place)) => {
                if *first_place != place {
                    let what =
                        format!("{}{} was told two places:\n    {first}\n    {operation}", of_key(key), told(&command));
                    judgement.found(TWICE, what, [first.records(), operation.records()].concat());
                }
                if operation.end < first.end {
                    *first = operation;
                    *first_place = place;
                }
            }
        }
        self.take_place(key, place, &command, operation, judgement);
    }

    fn take_place(
        &mut self,
        key: &Value,
        place: i64,
        command: &Command,
        operation: &'a Operation,
        judgement: &mut Judgement,
    ) {
        let (owner, first) = self.places.entry(place).or_insert_with(|| (command.clone(), operation));
        if owner != command {
            let what = format!(
                "{}place {place} has {} and {}:\n    {first}\n    {operation}",
                of_key(key),
                told(owner),
                told(command)
            );
            judgement.found(SHARED, what, [first.records(), operation.records()].concat());
        }
    }

    fn check_reads(&mut self, key: &Value, judgement: &mut Judgement) {
        let mut seen: FxHashMap<Command, (i64, &Operation)> = FxHashMap::default();
        for (read, commands) in std::mem::take(&mut self.reads) {
            let mut here: FxHashSet<&Command> = FxHashSet::default();
            for (place, command) in (1..).zip(&commands) {
                let mut found = |kind, more: &Operation| {
                    let what = format!("{}{} at place {place}:\n    {read}\n    {more}", of_key(key), told(command));
                    judgement.found(kind, what, [read.records(), more.records()].concat());
                };
                if !here.insert(command) {
                    found(TWICE, read);
                    continue;
                }
                let Some(sent) = self.sent.get(command).filter(|sent| sent.begin < read.end) else {
                    found(PHANTOM, read);
                    continue;
                };
                if let Some((operation, _)) = sent.answered.filter(|(_, told)| *told != place) {
                    found(PLACE, operation);
                } else if let Some((_, other)) = seen.get(command).filter(|(before, _)| *before != place) {
                    found(PLACE, other);
                }
                seen.entry(command.clone()).or_insert((place, read));
                self.take_place(key, place, command, read, judgement);
            }
            for (command, sent) in &self.sent {
                let Some((operation, _)) = sent.answered.filter(|(operation, _)| operation.end < read.begin) else {
                    continue;
                };
                if !here.contains(command) {
                    let what = format!(
                        "{}{} is not in\n    {read}\n  although before it\n    {operation}",
                        of_key(key),
                        told(command)
                    );
                    judgement.found(LOST, what, [read.records(), operation.records()].concat());
                }
            }
        }
    }

    /// Places rise in real time.
    fn check_order(&self, key: &Value, judgement: &mut Judgement) {
        let mut all: Vec<(Moment, i64, &Operation, Moment)> = self
            .sent
            .values()
            .filter_map(|sent| sent.answered.map(|(operation, place)| (operation.end, place, operation, sent.begin)))
            .collect();
        all.sort_unstable_by_key(|(end, ..)| *end);
        let mut highest: Vec<(i64, &Operation)> = Vec::new();
        for (_, place, operation, _) in &all {
            let before = highest.last().filter(|(higher, _)| higher > place);
            highest.push(before.copied().unwrap_or((*place, operation)));
        }
        let mut sent: Vec<Moment> = self.sent.values().map(|sent| sent.begin).collect();
        sent.sort_unstable();
        for (end, place, operation, begin) in &all {
            let sent = sent.partition_point(|begin| begin < end);
            if u64::try_from(*place).is_ok_and(|place| place > sent as u64) {
                let what = format!("{}only {sent} commands had been sent by then:\n    {operation}", of_key(key));
                judgement.found(PLACE, what, operation.records());
            }
            let ended = all.partition_point(|(end, ..)| end < begin);
            let Some((higher, before)) = ended.checked_sub(1).map(|last| highest[last]) else { continue };
            if higher > *place {
                let what = format!("{}the first comes after the second:\n    {before}\n    {operation}", of_key(key));
                judgement.found(ORDER, what, [before.records(), operation.records()].concat());
            }
        }
    }
}
