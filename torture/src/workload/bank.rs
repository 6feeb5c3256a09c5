//! Banks: money moves between the accounts of one bank, which stay in one region; each read sees all of them at once.
//!
//! Accounts may be in debt: a transfer is two additions in one transaction and asks nothing first.

use super::client::{Answer, Client, Done, held, named, number, senseless};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::{Reply, Words, words};
use crate::history::Value;
use crate::trouble::Outcome;

const BANKS: u64 = 8;
const ACCOUNTS: u64 = 5;
/// What is in each account at first.
const BALANCE: i64 = 100;
const AMOUNT_MAX: u64 = 10;

#[derive(Debug)]
pub(super) struct Banks {
    keys: Keys,
}

impl Banks {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'b', BANKS, Life::ENDLESS) }
    }
}

impl Scenario for Banks {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn promises(&self) -> Vec<(&'static str, Value)> {
        vec![("total", Value::Int(BALANCE * ACCOUNTS as i64)), ("negative", Value::Bool(true))]
    }

    /// All accounts of a bank at once: should such a command take effect late, the total stays what it is.
    fn initial(&self) -> Vec<Words> {
        let fill = |group| {
            let mut command = words(&["MSET"]);
            (0..ACCOUNTS).for_each(|account| command.extend([self.keys.member(group, account), BALANCE.to_string()]));
            command
        };
        self.keys.all().into_iter().map(fill).collect()
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Customer { keys: &self.keys })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        read(client, &self.keys, group)
    }
}

#[derive(Debug)]
struct Customer<'a> {
    keys: &'a Keys,
}

impl Player for Customer<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let (group, _) = self.keys.draw(&mut client.random);
        if client.random.chance(400) {
            return read(client, self.keys, group);
        }
        let from = client.random.below(ACCOUNTS);
        let to = (from + client.random.between(1, ACCOUNTS - 1)) % ACCOUNTS;
        let amount = client.random.between(1, AMOUNT_MAX);
        let [from_value, to_value, amount_value] = [from, to, amount].map(|number| Value::Int(number as i64));
        let transfer = Value::map([("from", from_value), ("to", to_value), ("amount", amount_value)]);
        let asked = Value::keyed(named(&self.keys.name(group)), transfer);
        let amount = amount.to_string();
        let commands = [
            words(&["DECRBY", &self.keys.member(group, from), &amount]),
            words(&["INCRBY", &self.keys.member(group, to), &amount]),
        ];
        client.perform_all("transfer", asked.clone(), &commands, |replies| {
            replies.iter().try_for_each(|reply| number(reply).map(|_| ()))?;
            Ok(Answer::Ok(asked))
        })
    }
}

fn read(client: &mut Client<'_>, keys: &Keys, group: Group) -> Outcome<Done> {
    let bank = named(&keys.name(group));
    let mut command = words(&["MGET"]);
    command.extend((0..ACCOUNTS).map(|account| keys.member(group, account)));
    client.perform("read", Value::keyed(bank.clone(), Value::Nil), &command, |reply| match reply {
        Reply::Array(parts) if parts.len() as u64 == ACCOUNTS => {
            let balance = |(account, part)| Ok((Value::Int(account), Value::Int(held(part)?.unwrap_or(0))));
            let balances = (0..).zip(parts).map(balance).collect::<Outcome<_>>()?;
            Ok(Answer::Ok(Value::keyed(bank, Value::Map(balances))))
        }
        other => Err(senseless(&other)),
    })
}
