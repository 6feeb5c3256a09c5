//! Lists: transactions that append to and read several lists of one region, and appends and reads of one list alone.

use std::time::Duration;

use super::client::{Answer, Client, Done, named, number, text};
use super::elements::{element, numbers};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::{Reply, Words, words};
use crate::history::Value;
use crate::trouble::Outcome;

/// How many groups of lists are in use at a time, at least.
const SLOTS: u64 = 6;
/// Among many clients so many share a group.
const CLIENTS_OF_A_GROUP: u64 = 4;
/// Each read tells a whole list, so that lists stay short.
const LIFE: Life = Life { uses: 120, length: Duration::from_secs(5) };
/// How many lists there are in a group.
const LISTS: u64 = 3;
/// The most parts of a transaction.
const PARTS_MAX: u64 = 4;

#[derive(Debug)]
pub(super) struct Lists {
    keys: Keys,
}

impl Lists {
    pub(super) fn new(seed: u64, clients: u64) -> Self {
        Self { keys: Keys::new(seed, 'l', SLOTS.max(clients / CLIENTS_OF_A_GROUP), LIFE) }
    }
}

impl Scenario for Lists {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Writer { keys: &self.keys })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        let parts = (0..LISTS).map(|list| Part::Read(self.keys.member(group, list))).collect::<Vec<_>>();
        transact(client, &parts)
    }
}

#[derive(Debug)]
struct Writer<'a> {
    keys: &'a Keys,
}

impl Player for Writer<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.keys.draw(&mut client.random);
        let mut part = |appends: u64| {
            let list = self.keys.member(group, client.random.below(LISTS));
            if client.random.chance(appends) { Part::Append(list, client.unique()) } else { Part::Read(list) }
        };
        let one = part(600);
        let more: Vec<Part> = (1..PARTS_MAX).map(|_| part(500)).collect();
        if client.random.chance(300) {
            return alone(client, &one);
        }
        let parts = 1 + client.random.index(more.len() + 1);
        transact(client, &std::iter::once(one).chain(more).take(parts).collect::<Vec<_>>())
    }
}

/// A part of a transaction.
#[derive(Debug)]
enum Part {
    Append(String, i64),
    Read(String),
}

impl Part {
    fn command(&self) -> Words {
        match self {
            Self::Append(list, number) => words(&["APPEND", list, &element(*number)]),
            Self::Read(list) => words(&["GET", list]),
        }
    }

    fn list(&self) -> Value {
        let (Self::Append(list, _) | Self::Read(list)) = self;
        named(list)
    }

    /// The part as it is asked for, or with its answer.
    fn of(&self, value: Value) -> Value {
        let f = if matches!(self, Self::Append(..)) { "append" } else { "r" };
        Value::list([Value::keyword(f), self.list(), value])
    }

    fn asked(&self) -> Value {
        if let Self::Append(_, number) = self { Value::Int(*number) } else { Value::Nil }
    }

    fn told(&self, reply: Reply) -> Outcome<Value> {
        match self {
            Self::Append(..) => number(&reply).map(|_| self.asked()),
            Self::Read(_) => Ok(Value::list(numbers(text(reply)?.as_deref())?.into_iter().map(Value::Int))),
        }
    }
}

/// One part without a transaction around it.
fn alone(client: &mut Client<'_>, part: &Part) -> Outcome<Done> {
    let f = if matches!(part, Part::Append(..)) { "append" } else { "read" };
    client.perform(f, Value::keyed(part.list(), part.asked()), &part.command(), |reply| {
        Ok(Answer::Ok(Value::keyed(part.list(), part.told(reply)?)))
    })
}

fn transact(client: &mut Client<'_>, parts: &[Part]) -> Outcome<Done> {
    let asked = Value::list(parts.iter().map(|part| part.of(part.asked())));
    let commands: Vec<Words> = parts.iter().map(Part::command).collect();
    client.perform_all("txn", asked, &commands, |replies| {
        let told = parts.iter().zip(replies).map(|(part, reply)| Ok(part.of(part.told(reply)?)));
        Ok(Answer::Ok(Value::List(told.collect::<Outcome<_>>()?)))
    })
}
