//! Registers: many keys, read, written and swapped under conditions. Every value is written once in a run.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::{Answer, Client, Done, held, is_done, named, or_nil, was_done};
use super::keys::{Group, Keys, Life, Memory};
use super::scenario::{Player, Scenario};
use crate::client::words;
use crate::history::Value;
use crate::trouble::Outcome;

/// How many keys are in use at a time: few, so that clients meet.
const SLOTS: u64 = 12;
const LIFE: Life = Life { uses: 1_500, length: Duration::from_secs(5) };

#[derive(Debug)]
pub(super) struct Registers {
    pub(super) keys: Keys,
    /// What clients last saw registers hold, so that conditions often hold.
    seen: Mutex<Memory<i64>>,
}

impl Registers {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(Keys::new(seed, 'r', SLOTS, LIFE))
    }

    pub(super) fn with(keys: Keys) -> Self {
        Self { keys, seen: Mutex::default() }
    }

    /// Reads, writes or swaps.
    pub(super) fn act(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        let (key, new) = (self.keys.name(group), client.unique());
        let seen = self.seen().get(group).copied();
        let (done, holds) = match (client.random.below(100), seen) {
            (0..35, _) => read(client, &key)?,
            (35..65, Some(old)) => swap(client, &key, old, new)?,
            _ => write(client, &key, new)?,
        };
        if let Some(value) = holds {
            self.seen().keep(group, value);
        }
        Ok(done)
    }

    fn seen(&self) -> MutexGuard<'_, Memory<i64>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scenario for Registers {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Writer(self))
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        read(client, &self.keys.name(group)).map(|(done, _)| done)
    }
}

#[derive(Debug)]
struct Writer<'a>(&'a Registers);

impl Player for Writer<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.0.keys.draw(&mut client.random);
        self.0.act(client, group)
    }
}

/// Reads a register; what it held, if it held anything.
pub(super) fn read(client: &mut Client<'_>, key: &str) -> Outcome<(Done, Option<i64>)> {
    let mut value = None;
    let done = client.perform("read", Value::keyed(named(key), Value::Nil), &words(&["GET", key]), |reply| {
        value = held(reply)?;
        Ok(Answer::Ok(Value::keyed(named(key), or_nil(value))))
    })?;
    Ok((done, value))
}

/// Writes; what the register held then.
fn write(client: &mut Client<'_>, key: &str, new: i64) -> Outcome<(Done, Option<i64>)> {
    let asked = Value::keyed(named(key), Value::Int(new));
    let done = client.perform("write", asked.clone(), &words(&["SET", key, &new.to_string()]), |reply| {
        is_done(&reply)?;
        Ok(Answer::Ok(asked))
    })?;
    let holds = (done == Done::Answered).then_some(new);
    Ok((done, holds))
}

/// Writes if the register holds `old`; what it held then, if it did.
fn swap(client: &mut Client<'_>, key: &str, old: i64, new: i64) -> Outcome<(Done, Option<i64>)> {
    let asked = Value::keyed(named(key), Value::keyed(Value::Int(old), Value::Int(new)));
    let command = words(&["SET", key, &new.to_string(), "IFEQ", &old.to_string()]);
    let mut holds = None;
    let done = client.perform("cas", asked.clone(), &command, |reply| {
        if !was_done(&reply)? {
            return Ok(Answer::Not("it holds another value"));
        }
        holds = Some(new);
        Ok(Answer::Ok(asked))
    })?;
    Ok((done, holds))
}
