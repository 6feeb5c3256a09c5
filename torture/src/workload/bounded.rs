//! Registers that are also read with a bound on age, from any replica, through the stores' admin endpoints.

use std::time::Duration;

use super::client::{Answer, Client, Done, held, named, or_nil};
use super::keys::{Group, Keys, Life, Memory};
use super::register::{self, Registers};
use super::scenario::{Player, Scenario};
use crate::history::Value;
use crate::trouble::Outcome;

const SLOTS: u64 = 8;
const LIFE: Life = Life { uses: 1_000, length: Duration::from_secs(5) };
/// How old an answer may be, in milliseconds.
const BOUNDS_MS: &[u64] = &[50, 200, 1_000];
/// Ages are measured on the clock of the store that is asked, which may be slow by one per cent.
const DRIFT_PERMILLE: i64 = 11;
/// How long such a read is waited for. A store without a replica takes long to say that it cannot tell.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Aging(Registers);

impl Aging {
    pub(super) fn new(seed: u64) -> Self {
        Self(Registers::with(Keys::new(seed, 'a', SLOTS, LIFE)))
    }
}

impl Scenario for Aging {
    fn keys(&self) -> &Keys {
        &self.0.keys
    }

    fn promises(&self) -> Vec<(&'static str, Value)> {
        vec![("drift-permille", Value::Int(DRIFT_PERMILLE))]
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Reader { registers: &self.0, silent: Memory::default() })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        register::read(client, &self.0.keys.name(group)).map(|(done, _)| done)
    }
}

#[derive(Debug)]
struct Reader<'a> {
    registers: &'a Registers,
    /// Stores that could not tell what a key holds; they are asked again for the next generation.
    silent: Memory<Vec<usize>>,
}

impl Player for Reader<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.registers.keys.draw(&mut client.random);
        if client.random.chance(400) {
            return self.registers.act(client, group);
        }
        client.choose_store();
        let (store, silent) = (client.store(), self.silent.get(group).cloned().unwrap_or_default());
        if silent.contains(&store) {
            return self.registers.act(client, group);
        }
        let done = self.read(client, group)?;
        if done != Done::Answered {
            self.silent.keep(group, [silent, vec![store]].concat());
        }
        Ok(done)
    }
}

impl Reader<'_> {
    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        let (key, bound_ms) = (self.registers.keys.name(group), *client.random.pick(BOUNDS_MS));
        let bound = i64::try_from(bound_ms * 1_000_000).unwrap_or(i64::MAX);
        let asked = Value::keyed(named(&key), Value::Int(bound));
        client.perform_local("read-bounded", asked, (&key, bound_ms), TIMEOUT, |reply| {
            Ok(Answer::Ok(Value::keyed(named(&key), or_nil(held(reply)?))))
        })
    }
}
