//! Scans: keys all over the space come and go, and some clients walk through all of it, over every region, on one connection.

use std::time::{Duration, Instant};

use super::client::{Answer, Client, Done, is_done, number, senseless};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::{Reply, Told, words};
use crate::history::Value;
use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble};

/// How many keys come and go.
const KEYS: u64 = 120;
/// One client in so many walks; the others put and delete.
const WALKERS: u64 = 3;
/// How long a walker waits before it begins again.
const PAUSE: Duration = Duration::from_millis(50);
/// The most steps of a walk: far more than there are keys and regions.
const STEPS_MAX: u64 = 100_000;

#[derive(Debug)]
pub(super) struct Space {
    keys: Keys,
}

impl Space {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'k', KEYS, Life::ENDLESS) }
    }
}

impl Scenario for Space {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, number: u64) -> Box<dyn Player + 'a> {
        if number.is_multiple_of(WALKERS) {
            Box::new(Walker { keys: &self.keys })
        } else {
            Box::new(Changer { keys: &self.keys })
        }
    }

    /// One walk sees all keys.
    fn last_reads(&self) -> Vec<Group> {
        vec![Group { slot: 0, generation: 0 }]
    }

    fn read(&self, client: &mut Client<'_>, _group: Group) -> Outcome<Done> {
        walk(client, &self.keys)
    }
}

#[derive(Debug)]
struct Changer<'a> {
    keys: &'a Keys,
}

impl Player for Changer<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.keys.draw(&mut client.random);
        let key = self.keys.name(group);
        let asked = Value::from(key.as_str());
        if client.random.chance(550) {
            return client.perform("put", asked.clone(), &words(&["SET", &key, "x"]), |reply| {
                is_done(&reply)?;
                Ok(Answer::Ok(asked))
            });
        }
        client.perform("delete", asked.clone(), &words(&["DEL", &key]), |reply| {
            number(&reply)?;
            Ok(Answer::Ok(asked))
        })
    }
}

#[derive(Debug)]
struct Walker<'a> {
    keys: &'a Keys,
}

impl Player for Walker<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        Stop::default().within(PAUSE);
        walk(client, self.keys)
    }
}

/// From the first key to the last. A step that is refused is asked for again, as long as the connection lasts: a cursor is its
/// store's.
fn walk(client: &mut Client<'_>, keys: &Keys) -> Outcome<Done> {
    let Some(ticket) = client.begin("scan", Value::Nil) else { return Ok(client.unasked()) };
    let mark = format!(":{}", keys.mark());
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    let count = client.random.between(1, 40).to_string();
    let mut answered = Instant::now();
    for _ in 0..STEPS_MAX {
        let (next, page) = match client.ask(&words(&["SCAN", &cursor, "COUNT", &count]))? {
            Told::Answered(reply) => page_of(reply)?,
            Told::Refused(why) => {
                if why.starts_with("TRYAGAIN ") && client.may_try_again(answered) {
                    continue;
                }
                return Ok(client.end_refused(ticket, why));
            }
            Told::Unknown(why) => return Ok(client.end_unknown(ticket, why)),
        };
        answered = Instant::now();
        // Other runs may have left keys of their own.
        found.extend(page.into_iter().filter(|key| key.contains(&mark)).map(|key| Value::from(key.as_str())));
        if next == "0" {
            return Ok(client.end_answered(ticket, Answer::Ok(Value::List(found))));
        }
        cursor = next;
    }
    Err(Trouble::new(format!("a scan does not end: {STEPS_MAX} steps, the last from cursor {cursor}")))
}

/// The next cursor, and the keys of a step.
fn page_of(reply: Reply) -> Outcome<(String, Vec<String>)> {
    let Reply::Array(parts) = &reply else { return Err(senseless(&reply)) };
    let [Reply::Value(Some(cursor)), Reply::Array(keys)] = parts.as_slice() else { return Err(senseless(&reply)) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = |key: &Reply| match key {
        Reply::Value(Some(key)) => Ok(text(key)),
        other => Err(senseless(other)),
    };
    Ok((text(cursor), keys.iter().map(key).collect::<Outcome<_>>()?))
}
