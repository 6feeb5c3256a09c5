//! Sets that only grow: the elements of a set are appended to one key.

use std::time::Duration;

use super::client::{Answer, Client, Done, named, number, text};
use super::elements::{element, numbers};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::words;
use crate::history::Value;
use crate::trouble::Outcome;

const SLOTS: u64 = 6;
/// Each read tells a whole set.
const LIFE: Life = Life { uses: 300, length: Duration::from_secs(10) };

#[derive(Debug)]
pub(super) struct Sets {
    keys: Keys,
}

impl Sets {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 's', SLOTS, LIFE) }
    }
}

impl Scenario for Sets {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Adder { keys: &self.keys })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        read(client, &self.keys.name(group))
    }
}

#[derive(Debug)]
struct Adder<'a> {
    keys: &'a Keys,
}

impl Player for Adder<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.keys.draw(&mut client.random);
        let key = self.keys.name(group);
        if client.random.chance(300) {
            return read(client, &key);
        }
        let new = client.unique();
        let asked = Value::keyed(named(&key), Value::Int(new));
        client.perform("add", asked.clone(), &words(&["APPEND", &key, &element(new)]), |reply| {
            number(&reply)?;
            Ok(Answer::Ok(asked))
        })
    }
}

fn read(client: &mut Client<'_>, key: &str) -> Outcome<Done> {
    client.perform("read", Value::keyed(named(key), Value::Nil), &words(&["GET", key]), |reply| {
        let elements = numbers(text(reply)?.as_deref())?.into_iter().map(Value::Int);
        Ok(Answer::Ok(Value::keyed(named(key), Value::list(elements))))
    })
}
