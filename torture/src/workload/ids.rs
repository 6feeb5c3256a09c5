//! Ids: a counter's answers, each of which one client may get.

use super::client::{Answer, Client, Done, named, number};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::words;
use crate::history::Value;
use crate::trouble::Outcome;

const SLOTS: u64 = 6;

#[derive(Debug)]
pub(super) struct Sources {
    keys: Keys,
}

impl Sources {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'u', SLOTS, Life::ENDLESS) }
    }
}

impl Scenario for Sources {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Taker { keys: &self.keys })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        generate(client, &self.keys.name(group))
    }
}

#[derive(Debug)]
struct Taker<'a> {
    keys: &'a Keys,
}

impl Player for Taker<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.keys.draw(&mut client.random);
        generate(client, &self.keys.name(group))
    }
}

fn generate(client: &mut Client<'_>, key: &str) -> Outcome<Done> {
    client.perform("generate", Value::keyed(named(key), Value::Nil), &words(&["INCR", key]), |reply| {
        Ok(Answer::Ok(Value::keyed(named(key), Value::Int(number(&reply)?))))
    })
}
