//! Long forks: keys of one region, each written once, alone; reads see all of them at one moment.

use std::time::Duration;

use super::client::{Answer, Client, Done, held, is_done, named, or_nil, senseless};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::{Reply, words};
use crate::history::Value;
use crate::trouble::Outcome;

const SLOTS: u64 = 4;
/// How many keys there are in a group.
const KEYS: u64 = 4;
/// Of so many uses of a group one is a write.
const WRITE_EVERY: u64 = 5;
const LIFE: Life = Life { uses: (KEYS + 1) * WRITE_EVERY, length: Duration::from_secs(10) };

#[derive(Debug)]
pub(super) struct Forks {
    keys: Keys,
}

impl Forks {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'f', SLOTS, LIFE) }
    }
}

impl Scenario for Forks {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn promises(&self) -> Vec<(&'static str, Value)> {
        vec![("atomic", Value::Bool(true)), ("stale", Value::Bool(false))]
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Witness { keys: &self.keys })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        read(client, &self.keys, group)
    }
}

#[derive(Debug)]
struct Witness<'a> {
    keys: &'a Keys,
}

impl Player for Witness<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, turn) = self.keys.draw(&mut client.random);
        // Whose turn it is writes the key, and nobody else ever does.
        let member = turn / WRITE_EVERY;
        if turn % WRITE_EVERY == WRITE_EVERY / 2 && member < KEYS {
            return write(client, &self.keys.member(group, member));
        }
        read(client, self.keys, group)
    }
}

fn write(client: &mut Client<'_>, key: &str) -> Outcome<Done> {
    let new = client.unique();
    let asked = Value::list([Value::list([Value::keyword("w"), named(key), Value::Int(new)])]);
    client.perform("txn", asked.clone(), &words(&["SET", key, &new.to_string()]), |reply| {
        is_done(&reply)?;
        Ok(Answer::Ok(asked))
    })
}

fn read(client: &mut Client<'_>, keys: &Keys, group: Group) -> Outcome<Done> {
    let mut members: Vec<String> = (0..KEYS).map(|member| keys.member(group, member)).collect();
    client.random.shuffle(&mut members);
    let part = |key: &String, value| Value::list([Value::keyword("r"), named(key), value]);
    let asked = Value::list(members.iter().map(|key| part(key, Value::Nil)));
    let command = [&words(&["MGET"])[..], &members[..]].concat();
    client.perform("txn", asked, &command, |reply| match reply {
        Reply::Array(values) if values.len() == members.len() => {
            let told = members.iter().zip(values).map(|(key, value)| Ok(part(key, or_nil(held(value)?))));
            Ok(Answer::Ok(Value::List(told.collect::<Outcome<_>>()?)))
        }
        other => Err(senseless(&other)),
    })
}
