//! Counters: some only grow, others go in both directions.

use std::time::Duration;

use super::client::{Answer, Client, Done, held, named, number};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::words;
use crate::history::Value;
use crate::trouble::Outcome;

const SLOTS: u64 = 8;
const LIFE: Life = Life { uses: 5_000, length: Duration::from_secs(10) };
/// The largest step.
const STEP_MAX: u64 = 5;

#[derive(Debug)]
pub(super) struct Counters {
    keys: Keys,
}

impl Counters {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'c', SLOTS, LIFE) }
    }
}

impl Scenario for Counters {
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
        if client.random.chance(350) {
            return read(client, &key);
        }
        let step = i64::try_from(client.random.between(1, STEP_MAX)).unwrap_or(1);
        // Those of odd slots go down as well.
        let goes_down = group.slot % 2 == 1 && client.random.chance(500);
        let command = words(&[if goes_down { "DECRBY" } else { "INCRBY" }, &key, &step.to_string()]);
        let asked = Value::keyed(named(&key), Value::Int(if goes_down { -step } else { step }));
        client.perform("add", asked.clone(), &command, |reply| {
            number(&reply)?;
            Ok(Answer::Ok(asked))
        })
    }
}

fn read(client: &mut Client<'_>, key: &str) -> Outcome<Done> {
    client.perform("read", Value::keyed(named(key), Value::Nil), &words(&["GET", key]), |reply| {
        Ok(Answer::Ok(Value::keyed(named(key), Value::Int(held(reply)?.unwrap_or(0)))))
    })
}
