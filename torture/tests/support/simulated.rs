//! Correct objects, and clients that use them: requests take effect some time after they are sent, answers come some time later,
//! or never.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use multiraft_torture::history::{History, Kind, Operation, Outcome, Process, Record, Value};

use super::random::Random;

/// An object that does one thing at a time.
pub(crate) trait Object: Clone {
    /// Carries a request out; `None` if it is refused, without an effect.
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value>;

    /// The same, with what time it is and when the request was sent.
    fn apply_at(&mut self, f: &str, input: &Value, _sent: u64, _now: u64, _random: &mut Random) -> Option<Value> {
        self.apply(f, input)
    }
}

/// What a client asks for next, by what it was told last.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&mut Random, Option<&(String, Value)>) -> (String, Value);

/// How things go, in percent of the operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) unknown: u64,
    pub(crate) failed: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Answer(usize),
    Effect(usize),
    Invoke(usize),
}

struct Client {
    process: u64,
    told: Option<(String, Value)>,
}

struct Request {
    client: usize,
    process: u64,
    f: String,
    input: Value,
    sent: u64,
    /// Whether the client hears of what happened.
    is_known: bool,
    answer: Option<Value>,
}

/// Runs `clients` clients until they have asked `count` times in all.
pub(crate) fn simulate(
    random: &mut Random,
    mut object: impl Object,
    (clients, count): (usize, usize),
    weather: Weather,
    ask: Ask<'_>,
) -> History {
    let mut events = BinaryHeap::new();
    let mut requests: Vec<Request> = Vec::new();
    let mut all: Vec<Client> = (0..clients as u64).map(|process| Client { process, told: None }).collect();
    let mut next_process = clients as u64;
    let mut records: Vec<Record> = Vec::new();
    for client in 0..clients {
        events.push(std::cmp::Reverse((random.below(50), Event::Invoke(client))));
    }
    while let Some(std::cmp::Reverse((now, event))) = events.pop() {
        let mut record = |process, kind, f: &str, value: &Value| {
            let (process, f, value) = (Process::Client(process), f.to_owned(), value.clone());
            let index = records.len() as u64;
            records.push(Record { index, process, kind, f, value, time: now, extra: BTreeMap::new() });
        };
        match event {
            Event::Invoke(client) if requests.len() < count => {
                let (f, input) = ask(random, all[client].told.as_ref());
                let process = all[client].process;
                record(process, Kind::Invoke, &f, &input);
                let number = requests.len();
                let effect = now + 1 + random.below(100);
                let answer = effect + 1 + random.below(100);
                let has_failed = random.chance(weather.failed);
                let is_known = !random.chance(weather.unknown);
                if is_known {
                    if !has_failed {
                        events.push(std::cmp::Reverse((effect, Event::Effect(number))));
                    }
                } else if random.chance(70) {
                    events.push(std::cmp::Reverse((now + 1 + random.below(1_000), Event::Effect(number))));
                }
                events.push(std::cmp::Reverse((answer, Event::Answer(number))));
                requests.push(Request { client, process, f, input, sent: now, is_known, answer: None });
            }
            Event::Invoke(_) => {}
            Event::Effect(number) => {
                let request = &mut requests[number];
                request.answer = object.apply_at(&request.f, &request.input, request.sent, now, random);
            }
            Event::Answer(number) => {
                let request = &requests[number];
                let client = &mut all[request.client];
                if !request.is_known {
                    if random.chance(50) {
                        record(request.process, Kind::Info, &request.f, &request.input);
                    }
                    (client.process, client.told) = (next_process, None);
                    next_process += 1;
                } else if let Some(answer) = &request.answer {
                    record(request.process, Kind::Ok, &request.f, answer);
                    client.told = Some((request.f.clone(), answer.clone()));
                } else {
                    record(request.process, Kind::Fail, &request.f, &request.input);
                }
                events.push(std::cmp::Reverse((now + 1 + random.below(50), Event::Invoke(request.client))));
            }
        }
    }
    History::new(records).expect("records are in order")
}

/// Makes one answer wrong, perhaps. The key of a keyed answer stays.
pub(crate) fn spoil(random: &mut Random, operations: &mut [Operation]) {
    let answered: Vec<usize> = (0..operations.len()).filter(|number| operations[*number].is_ok()).collect();
    if answered.is_empty() {
        return;
    }
    let operation = &mut operations[answered[random.below(answered.len() as u64) as usize]];
    let Outcome::Ok(answer) = &mut operation.outcome else { return };
    match answer {
        Value::List(parts) if operation.f == "txn" => {
            let part = random.below(parts.len() as u64) as usize;
            if let Value::List(words) = &mut parts[part] {
                spoil_value(random, &mut words[2]);
            }
        }
        Value::List(parts) if operation.f == "command" => {
            let place = parts.len() - 1;
            spoil_value(random, &mut parts[place]);
        }
        Value::List(parts) if operation.input.as_pair().is_some() && operation.f != "scan" => {
            spoil_value(random, &mut parts[1]);
        }
        other => spoil_value(random, other),
    }
}

fn spoil_value(random: &mut Random, value: &mut Value) {
    match value {
        Value::List(parts) => {
            let length = parts.len() as u64;
            match random.below(4) {
                0 if length > 0 => drop(parts.remove(random.below(length) as usize)),
                1 if length > 0 => parts.push(parts[random.below(length) as usize].clone()),
                2 if length > 1 => parts.swap(random.below(length) as usize, random.below(length) as usize),
                _ => parts.push(Value::Int(random.below(8) as i64)),
            }
        }
        Value::Map(balances) => {
            let place = random.below(balances.len() as u64) as usize;
            if let Some(Value::Int(balance)) = balances.values_mut().nth(place) {
                *balance += random.below(5) as i64 - 2;
            }
        }
        other if random.chance(20) => *other = Value::Nil,
        other => *other = Value::Int(random.below(6) as i64),
    }
}

/// Registers under keys; bounded reads see something that is old enough.
#[derive(Clone, Default)]
pub(crate) struct Registers {
    values: BTreeMap<Value, Value>,
    past: BTreeMap<Value, Vec<(u64, Value)>>,
}

impl Object for Registers {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        let (key, value) = input.as_pair()?;
        let now = self.values.get(key).cloned().unwrap_or_default();
        let new = match f {
            "read" | "read-bounded" => return Some(Value::keyed(key.clone(), now)),
            "write" => value,
            _ => value.as_pair().filter(|(old, _)| **old == now).map(|(_, new)| new)?,
        };
        self.values.insert(key.clone(), new.clone());
        Some(input.clone())
    }

    fn apply_at(&mut self, f: &str, input: &Value, sent: u64, now: u64, random: &mut Random) -> Option<Value> {
        let key = input.as_pair()?.0;
        if f == "read-bounded" {
            let bound = input.as_pair()?.1.as_int()? as u64;
            let since = sent.saturating_sub(bound);
            let seen = since + random.below(now - since + 1);
            let past = self.past.get(key).and_then(|past| past.iter().rev().find(|(at, _)| *at <= seen));
            return Some(Value::keyed(key.clone(), past.map(|(_, value)| value.clone()).unwrap_or_default()));
        }
        let answer = self.apply(f, input)?;
        let value = self.values.get(key).cloned().unwrap_or_default();
        self.past.entry(key.clone()).or_default().push((now, value));
        Some(answer)
    }
}

/// Lists under keys, and transactions over them; also keys that are written once.
#[derive(Clone, Default)]
pub(crate) struct Lists(BTreeMap<Value, Vec<Value>>);

impl Object for Lists {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        if f != "txn" {
            let (key, value) = input.as_pair()?;
            let list = self.0.entry(key.clone()).or_default();
            if f == "append" {
                list.push(value.clone());
                return Some(input.clone());
            }
            return Some(Value::keyed(key.clone(), Value::List(list.clone())));
        }
        let part = |part: &Value| {
            let [f, key, value] = part.as_list()? else { return None };
            let list = self.0.entry(key.clone()).or_default();
            let told = match f.as_text()? {
                "r" => Value::List(list.clone()),
                _ => {
                    list.push(value.clone());
                    value.clone()
                }
            };
            Some(Value::list([f.clone(), key.clone(), told]))
        };
        Some(Value::List(input.as_list()?.iter().map(part).collect::<Option<_>>()?))
    }
}

/// Keys that are written once, for long forks.
#[derive(Clone, Default)]
pub(crate) struct Once(BTreeMap<Value, Value>);

impl Object for Once {
    fn apply(&mut self, _: &str, input: &Value) -> Option<Value> {
        let part = |part: &Value| {
            let [f, key, value] = part.as_list()? else { return None };
            if f.as_text()? == "w" {
                self.0.insert(key.clone(), value.clone());
            }
            Some(Value::list([f.clone(), key.clone(), self.0.get(key).cloned().unwrap_or_default()]))
        };
        Some(Value::List(input.as_list()?.iter().map(part).collect::<Option<_>>()?))
    }
}

/// One set.
#[derive(Clone, Default)]
pub(crate) struct Set(BTreeSet<Value>);

impl Object for Set {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        if f == "add" {
            self.0.insert(input.clone());
            return Some(input.clone());
        }
        Some(Value::List(self.0.iter().cloned().collect()))
    }
}

/// One counter.
#[derive(Clone, Default)]
pub(crate) struct Counter(i64);

impl Object for Counter {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        if f == "add" {
            self.0 += input.as_int()?;
            return Some(input.clone());
        }
        Some(Value::Int(self.0))
    }
}

/// One bank without debts.
#[derive(Clone)]
pub(crate) struct Bank(pub(crate) BTreeMap<Value, Value>);

impl Object for Bank {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        let Value::Map(transfer) = input else { return (f == "read").then(|| Value::Map(self.0.clone())) };
        let field = |name: &str| transfer.get(&Value::keyword(name));
        let (from, to, amount) = (field("from")?, field("to")?, field("amount")?.as_int()?);
        let after = self.0.get(from)?.as_int()? - amount;
        if after < 0 || from == to {
            return None;
        }
        let other = self.0.get(to)?.as_int()? + amount;
        self.0.insert(from.clone(), Value::Int(after));
        self.0.insert(to.clone(), Value::Int(other));
        Some(input.clone())
    }
}

/// A source of ids.
#[derive(Clone, Default)]
pub(crate) struct Ids(i64);

impl Object for Ids {
    fn apply(&mut self, _: &str, _: &Value) -> Option<Value> {
        self.0 += 1;
        Some(Value::Int(self.0))
    }
}

/// One log of sessions' commands.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Vec<Value>);

impl Object for Sessions {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        if f == "read" {
            return Some(Value::List(self.0.clone()));
        }
        let found = self.0.iter().position(|command| command == input);
        let place = found.unwrap_or_else(|| {
            self.0.push(input.clone());
            self.0.len() - 1
        });
        let mut answer = input.as_list()?.to_vec();
        answer.push(Value::Int(place as i64 + 1));
        Some(Value::List(answer))
    }
}

/// Keys in an order.
#[derive(Clone, Default)]
pub(crate) struct Ordered(BTreeSet<Value>);

impl Object for Ordered {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        match f {
            "put" => drop(self.0.insert(input.clone())),
            "delete" => drop(self.0.remove(input)),
            _ => {
                let (from, to) = input.as_pair()?;
                return Some(Value::list(self.0.range(from.clone()..to.clone()).cloned()));
            }
        }
        Some(input.clone())
    }
}

/// One lock.
#[derive(Clone, Default)]
pub(crate) struct Lock {
    token: i64,
    is_held: bool,
}

impl Object for Lock {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        if f == "acquire" {
            if self.is_held {
                return None;
            }
            (self.token, self.is_held) = (self.token + 1, true);
            return Some(Value::Int(self.token));
        }
        if !self.is_held || *input != Value::Int(self.token) {
            return None;
        }
        self.is_held = false;
        Some(input.clone())
    }
}

/// An object of which requests that only look see one part after the other, each as it is at that moment.
#[derive(Clone, Default)]
pub(crate) struct Piecewise<O> {
    now: O,
    past: Vec<(u64, O)>,
}

impl<O: Object + Default> Piecewise<O> {
    /// Asks for a part, as it was at some moment of the request.
    fn ask(&self, f: &str, part: &Value, at: u64) -> Option<Value> {
        let found = self.past.iter().rev().find(|(time, _)| *time <= at);
        found.map(|(_, object)| object.clone()).unwrap_or_default().apply(f, part)
    }
}

impl<O: Object + Default> Object for Piecewise<O> {
    fn apply(&mut self, f: &str, input: &Value) -> Option<Value> {
        self.now.apply(f, input)
    }

    fn apply_at(&mut self, f: &str, input: &Value, sent: u64, now: u64, random: &mut Random) -> Option<Value> {
        let moments = |random: &mut Random, count: u64| {
            let mut moments: Vec<u64> = (0..count).map(|_| sent + random.below(now - sent + 1)).collect();
            moments.sort_unstable();
            moments
        };
        let parts = input.as_list().unwrap_or_default();
        if f == "scan" {
            let (from, to) = (parts.first()?.as_int()?, parts.get(1)?.as_int()?);
            let mut keys = Vec::new();
            for (key, at) in (from..to).zip(moments(random, (to - from) as u64)) {
                let range = Value::list([Value::Int(key), Value::Int(key + 1)]);
                keys.extend_from_slice(self.ask(f, &range, at)?.as_list()?);
            }
            return Some(Value::List(keys));
        }
        let is_read = parts.first().and_then(Value::as_list).is_some_and(|part| part[0].as_text() == Some("r"));
        if f == "txn" && is_read {
            let moments = moments(random, parts.len() as u64);
            let told = parts.iter().zip(moments).map(|(part, at)| {
                let answer = self.ask(f, &Value::list([part.clone()]), at)?;
                answer.as_list()?.first().cloned()
            });
            return Some(Value::List(told.collect::<Option<_>>()?));
        }
        let answer = self.now.apply(f, input);
        self.past.push((now, self.now.clone()));
        answer
    }
}
