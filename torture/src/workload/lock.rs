//! Locks with fencing tokens, built from compare-and-set as one builds them: the lock's key holds `free` or who holds it, each by
//! a name that is used once; a token is taken from a counter while the lock is held.
//!
//! ```text
//! acquire   SET lock me IFEQ free     OK: mine;  nil: somebody else's;  unknown: GET lock tells, now or later
//!           INCR token                until it is answered: the lock is mine meanwhile
//! release   SET lock free IFEQ me     until it is answered
//! ```
//!
//! A name is tried once. If nobody knows whether it got the lock and it is not seen there, it may still get it; whoever used it
//! remembers, and takes the lock over when he finds his name there. A release of unknown outcome is sent again until it is
//! answered: a name whose release may be on its way is never taken over.

use std::time::Instant;

use super::client::{Answer, Client, Done, named, number, text, was_done};
use super::keys::{Group, Keys, Life, Memory};
use super::scenario::{Player, Scenario};
use crate::client::{Told, Words, words};
use crate::history::Value;
use crate::trouble::Outcome;

const LOCKS: u64 = 4;
const FREE: &str = "free";
const HELD: &str = "somebody else holds it";
const NOT_OURS: &str = "the lock is not the holder's";

#[derive(Debug)]
pub(super) struct Locks {
    keys: Keys,
}

impl Locks {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'o', LOCKS, Life::ENDLESS) }
    }
}

impl Scenario for Locks {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Should it take effect late, it finds the key and does nothing.
    fn initial(&self) -> Vec<Words> {
        let free = |group| words(&["SET", &lock(&self.keys, group), FREE, "NX"]);
        self.keys.all().into_iter().map(free).collect()
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Holder { keys: &self.keys, holds: None, tried: Memory::default(), leaving: Memory::default() })
    }

    /// Whether it can be had, or somebody who has left has it: that is an answer, too.
    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        let mut last = Holder { keys: &self.keys, holds: None, tried: Memory::default(), leaving: Memory::default() };
        let done = last.acquire(client, group)?;
        last.leave(client)?;
        Ok(done)
    }
}

fn lock(keys: &Keys, group: Group) -> String {
    keys.member(group, 0)
}

fn counter(keys: &Keys, group: Group) -> String {
    keys.member(group, 1)
}

#[derive(Debug)]
struct Hold {
    group: Group,
    name: String,
    token: i64,
}

#[derive(Debug)]
struct Holder<'a> {
    keys: &'a Keys,
    holds: Option<Hold>,
    /// Names that may have got a lock, or may yet.
    tried: Memory<Vec<String>>,
    /// Names whose release has an unknown outcome.
    leaving: Memory<String>,
}

impl Player for Holder<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        match self.holds.take() {
            Some(hold) => self.release(client, hold),
            None => {
                let (group, _) = self.keys.draw(&mut client.random);
                self.acquire(client, group)
            }
        }
    }

    fn leave(&mut self, client: &mut Client<'_>) -> Outcome<()> {
        match self.holds.take() {
            Some(hold) => self.release(client, hold).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// What came of an attempt to get a lock.
enum Got {
    /// It is held, under this name.
    Lock(String),
    /// Somebody else holds it.
    Nothing,
    Refused(String),
    Unknown(String),
}

impl Holder<'_> {
    fn acquire(&mut self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        let key = named(&self.keys.name(group));
        let Some(ticket) = client.begin("acquire", Value::keyed(key.clone(), Value::Nil)) else {
            return Ok(client.unasked());
        };
        let name = match self.get(client, group)? {
            Got::Lock(name) => name,
            Got::Nothing => return Ok(client.end_answered(ticket, Answer::Not(HELD))),
            Got::Refused(why) => return Ok(client.end_refused(ticket, why)),
            Got::Unknown(why) => return Ok(client.end_unknown(ticket, why)),
        };
        let begun = Instant::now();
        loop {
            match client.ask(&words(&["INCR", &counter(self.keys, group)]))? {
                Told::Answered(reply) => {
                    let token = number(&reply)?;
                    self.holds = Some(Hold { group, name, token });
                    return Ok(client.end_answered(ticket, Answer::Ok(Value::keyed(key, Value::Int(token)))));
                }
                Told::Refused(_) | Told::Unknown(_) if client.may_try_again(begun) => {}
                // It has the lock, and no token: whoever finds the name there later goes on from here.
                Told::Refused(why) | Told::Unknown(why) => {
                    self.remember(group, name);
                    return Ok(client.end_unknown(ticket, why));
                }
            }
        }
    }

    /// Tries to get the lock.
    fn get(&mut self, client: &mut Client<'_>, group: Group) -> Outcome<Got> {
        if let Some(name) = self.leaving.take(group) {
            match self.free(client, group, &name)? {
                Ok(_) => {}
                Err(why) => {
                    self.leaving.keep(group, name);
                    return Ok(Got::Refused(why));
                }
            }
        }
        if self.tried.get(group).is_some_and(|names| !names.is_empty()) {
            match self.holder(client, group)? {
                Ok(holder) if self.forget(group, &holder) => return Ok(Got::Lock(holder)),
                Ok(_) => {}
                Err(why) => return Ok(Got::Refused(why)),
            }
        }
        let name = format!("h{}", client.unique());
        match client.ask(&words(&["SET", &lock(self.keys, group), &name, "IFEQ", FREE]))? {
            Told::Answered(reply) => Ok(if was_done(&reply)? { Got::Lock(name) } else { Got::Nothing }),
            Told::Refused(why) => Ok(Got::Refused(why)),
            Told::Unknown(why) => match self.holder(client, group)? {
                Ok(holder) if holder == name => Ok(Got::Lock(name)),
                _ => {
                    self.remember(group, name);
                    Ok(Got::Unknown(why))
                }
            },
        }
    }

    /// Who holds a lock, or why nobody tells.
    fn holder(&self, client: &mut Client<'_>, group: Group) -> Outcome<Result<String, String>> {
        let begun = Instant::now();
        loop {
            match client.ask(&words(&["GET", &lock(self.keys, group)]))? {
                Told::Answered(reply) => return Ok(Ok(text(reply)?.unwrap_or_default())),
                Told::Refused(_) | Told::Unknown(_) if client.may_try_again(begun) => {}
                Told::Refused(why) | Told::Unknown(why) => return Ok(Err(why)),
            }
        }
    }

    fn release(&mut self, client: &mut Client<'_>, hold: Hold) -> Outcome<Done> {
        let asked = Value::keyed(named(&self.keys.name(hold.group)), Value::Int(hold.token));
        let Some(ticket) = client.begin("release", asked.clone()) else {
            self.holds = Some(hold);
            return Ok(client.unasked());
        };
        match self.free(client, hold.group, &hold.name)? {
            Ok(true) => Ok(client.end_answered(ticket, Answer::Ok(asked))),
            // What was answered to the acquire is gone: the judge sees a holder who never left.
            Ok(false) => Ok(client.end_answered(ticket, Answer::Not(NOT_OURS))),
            Err(why) => {
                self.leaving.keep(hold.group, hold.name);
                Ok(client.end_unknown(ticket, why))
            }
        }
    }

    /// Frees a lock, as often as it takes to be told: whether it was freed, or why nobody tells.
    fn free(&self, client: &mut Client<'_>, group: Group, name: &str) -> Outcome<Result<bool, String>> {
        let (begun, mut may_be_free) = (Instant::now(), false);
        loop {
            match client.ask(&words(&["SET", &lock(self.keys, group), FREE, "IFEQ", name]))? {
                Told::Answered(reply) => return Ok(Ok(was_done(&reply)? || may_be_free)),
                Told::Refused(_) if client.may_try_again(begun) => {}
                Told::Unknown(_) if client.may_try_again(begun) => may_be_free = true,
                Told::Refused(why) | Told::Unknown(why) => return Ok(Err(why)),
            }
        }
    }

    fn remember(&mut self, group: Group, name: String) {
        let mut names = self.tried.take(group).unwrap_or_default();
        names.push(name);
        self.tried.keep(group, names);
    }

    /// Whether the name was one of those that were tried; it is none any more.
    fn forget(&mut self, group: Group, name: &str) -> bool {
        let mut names = self.tried.take(group).unwrap_or_default();
        let before = names.len();
        names.retain(|tried| tried != name);
        let is_known = names.len() < before;
        self.tried.keep(group, names);
        is_known
    }
}
