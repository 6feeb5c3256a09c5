//! Registers: many keys, read, written and swapped under conditions. Every value is written once in a run.

use std::time::Duration;

use super::client::{Answer, Client, Done, Memory, held, is_done, named, or_nil, was_done};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::words;
use crate::history::Value;
use crate::trouble::Outcome;

/// How many keys are in use at a time: few, so that clients meet.
const SLOTS: u64 = 12;
const LIFE: Life = Life { uses: 1_500, length: Duration::from_secs(5) };

#[derive(Debug)]
pub(super) struct Registers {
    keys: Keys,
}

impl Registers {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'r', SLOTS, LIFE) }
    }
}

impl Scenario for Registers {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Writer { keys: &self.keys, seen: Memory::default() })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        read(client, &self.keys.name(group)).map(|(done, _)| done)
    }
}

#[derive(Debug)]
pub(super) struct Writer<'a> {
    pub(super) keys: &'a Keys,
    /// What registers were last seen to hold.
    pub(super) seen: Memory<i64>,
}

impl Player for Writer<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.keys.draw(&mut client.random);
        self.act(client, group)
    }
}

impl Writer<'_> {
    /// Reads, writes or swaps.
    pub(super) fn act(&mut self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        let (key, new) = (self.keys.name(group), client.unique());
        let seen = self.seen.get(group).copied();
        match (client.random.below(100), seen) {
            (0..35, _) => {
                let (done, value) = read(client, &key)?;
                if let Some(value) = value {
                    self.seen.keep(group, value);
                }
                Ok(done)
            }
            (35..65, Some(old)) => {
                let done = swap(client, &key, old, new)?;
                if done == Done::Answered {
                    self.seen.keep(group, new);
                }
                Ok(done)
            }
            _ => {
                let done = write(client, &key, new)?;
                if done == Done::Answered {
                    self.seen.keep(group, new);
                }
                Ok(done)
            }
        }
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

fn write(client: &mut Client<'_>, key: &str, new: i64) -> Outcome<Done> {
    let asked = Value::keyed(named(key), Value::Int(new));
    client.perform("write", asked.clone(), &words(&["SET", key, &new.to_string()]), |reply| {
        is_done(&reply)?;
        Ok(Answer::Ok(asked))
    })
}

fn swap(client: &mut Client<'_>, key: &str, old: i64, new: i64) -> Outcome<Done> {
    let asked = Value::keyed(named(key), Value::keyed(Value::Int(old), Value::Int(new)));
    let command = words(&["SET", key, &new.to_string(), "IFEQ", &old.to_string()]);
    client.perform("cas", asked.clone(), &command, |reply| {
        Ok(if was_done(&reply)? { Answer::Ok(asked) } else { Answer::Not("it holds another value") })
    })
}
