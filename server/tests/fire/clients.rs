//! Clients that ask any store and keep a record of what they asked, when, and what they were told.
//!
//! They meet on a few keys, spread over all regions; every few seconds these are others, so that no key's history becomes long.
//! An answer of `UNCERTAIN` and a connection that breaks leave the outcome open; any other error means "no effect", and the
//! judge takes it at its word.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use multiraft_sim::check::linearizable::check_key;
use multiraft_sim::history::{Action, Answer, History, Key, Operation};
use multiraft_sim::random::{Random, mix};
use multiraft_sim::schedule::Moment;

use crate::counters::{self, Counted};
use crate::resp::{Line, Reply};
use multiraft_torture::stop::Stop;

/// How long the same keys are used.
const GENERATION: Duration = Duration::from_secs(5);
/// How many keys of each kind are used at a time.
const SLOTS: u64 = 8;
/// An element of a list, with the comma behind it.
const ELEMENT_BYTES: u64 = 13;
/// A write that is taken only after that is told of.
const SLOW: Duration = Duration::from_secs(2);
/// How long a client waits after it was refused.
const PAUSE: Duration = Duration::from_millis(10);
/// The errors that a client may get when stores die and regions change. None of them means an effect.
const REFUSALS: &[&str] = &["CLUSTERDOWN ", "TRYAGAIN ", "BUSY ", "ERR this store has stopped: "];

/// What all clients of a trial share.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    pub(crate) stores: Vec<SocketAddr>,
    pub(crate) begun: Instant,
    pub(crate) stop: Stop,
    values: AtomicU64,
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Register,
    List,
    Counter,
}

/// One of the keys: when it was used, and which of those of its time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    kind: Kind,
    generation: u64,
    slot: u64,
}

impl Place {
    /// A register, the first of all.
    pub(crate) const fn register() -> Self {
        Self { kind: Kind::Register, generation: 0, slot: 0 }
    }
}

/// Everything that clients were told, and how often they were not.
#[derive(Debug, Default)]
pub(crate) struct Record {
    history: Vec<Operation>,
    counted: BTreeMap<Place, Vec<Counted>>,
    /// When something was answered, in nanoseconds of the trial.
    answered: Vec<u64>,
    pub(crate) unknown: usize,
    pub(crate) refused: usize,
    /// Reads that may be old.
    pub(crate) bounded: usize,
}

impl Trial {
    pub(crate) fn new(seed: u64, stores: Vec<SocketAddr>) -> Self {
        Self { seed, stores, begun: Instant::now(), stop: Stop::default(), values: AtomicU64::new(0) }
    }

    /// Nanoseconds since it began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    /// One of the keys that are used now.
    pub(crate) fn draw(&self, random: &mut Random) -> Place {
        let generation = self.now() / u64::try_from(GENERATION.as_nanos()).unwrap();
        let kind = random.pick(&[Kind::Register, Kind::Register, Kind::List, Kind::Counter]);
        Place { kind, generation, slot: random.below(SLOTS) }
    }

    pub(crate) fn key(&self, place: Place) -> String {
        let Place { kind, generation, slot } = place;
        let number = mix(self.seed ^ (generation << 8) ^ slot) % 1_000_000;
        let letter = ["r", "l", "c"][kind as usize];
        format!("key:000000{number:06}:{letter}{generation}.{slot}")
    }

    /// Every key that clients have used.
    fn places(&self) -> impl Iterator<Item = Place> {
        let generations = self.now() / u64::try_from(GENERATION.as_nanos()).unwrap();
        let places = (0..=generations).flat_map(|generation| (0..SLOTS).map(move |slot| (generation, slot)));
        places.flat_map(|(generation, slot)| {
            [Kind::Register, Kind::List, Kind::Counter].map(|kind| Place { kind, generation, slot })
        })
    }

    /// The names of all keys that clients have used.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.places().map(|place| self.key(place)).collect()
    }

    /// A key somewhere among them all, to split at.
    pub(crate) fn any_key(random: &mut Random) -> String {
        format!("key:000000{:06}", random.below(1_000_000))
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    trial: &'a Trial,
    name: u64,
    random: Random,
    line: Option<Line>,
    /// What a store said last when it refused something.
    refused: String,
    /// What it has last seen of registers.
    seen: BTreeMap<Place, u64>,
    record: Record,
}

impl<'a> Client<'a> {
    pub(crate) fn new(trial: &'a Trial, name: u64) -> Self {
        let random = Random::new(mix(trial.seed) ^ mix(name));
        Self {
            trial,
            name,
            random,
            line: None,
            refused: String::new(),
            seen: BTreeMap::new(),
            record: Record::default(),
        }
    }

    /// Asks one thing after the other until the trial ends.
    pub(crate) fn run(mut self) -> Record {
        while !self.trial.stop.is_told() {
            let place = self.trial.draw(&mut self.random);
            let reads = self.random.chance(350);
            self.act(place, reads);
        }
        self.record
    }

    /// Reads every key until it is told what it holds.
    pub(crate) fn read_all(mut self, patience: Duration) -> Record {
        let begun = Instant::now();
        for place in self.trial.places() {
            while !self.act(place, true) {
                assert!(begun.elapsed() < patience, "{}: nobody reads it any more", self.trial.key(place));
            }
        }
        self.record
    }

    /// Writes to so many keys of the present, through any store; how long the slowest took until it was taken.
    pub(crate) fn write_everywhere(mut self, keys: usize, patience: Duration) -> (Record, Duration) {
        let mut slowest = Duration::ZERO;
        for _ in 0..keys {
            let place = self.trial.draw(&mut self.random);
            self.line = None;
            let asked = Instant::now();
            while !self.act(place, false) {
                let key = self.trial.key(place);
                assert!(asked.elapsed() < patience, "{key}: nobody writes it any more: {}", self.refused);
            }
            slowest = slowest.max(asked.elapsed());
            if asked.elapsed() > SLOW {
                let (key, took) = (self.trial.key(place), asked.elapsed());
                println!("{key} took its write after {took:?}; last it was said: {}", self.refused);
            }
        }
        (self.record, slowest)
    }

    /// Does something with a key; whether it was answered.
    fn act(&mut self, place: Place, reads: bool) -> bool {
        let Some(mut line) = self.line.take().or_else(|| self.open()) else { return false };
        let key = self.trial.key(place);
        let value = self.trial.values.fetch_add(1, Ordering::Relaxed) + 1;
        let (action, words) = self.draw(place, reads, value);
        let words: Vec<&str> = words.iter().map(|word| if word.is_empty() { key.as_str() } else { word }).collect();
        let invoked = self.trial.now();
        let told = line.ask(&words);
        let returned = self.trial.now();
        let reply = match told {
            Ok(Reply::Error(text)) if text.starts_with("UNCERTAIN ") => {
                self.line = Some(line);
                None
            }
            Ok(Reply::Error(text)) => {
                assert!(REFUSALS.iter().any(|known| text.starts_with(known)), "{words:?}: {text}");
                self.line = self.random.chance(500).then_some(line);
                self.record.refused += 1;
                self.refused = text;
                pause();
                return false;
            }
            Ok(reply) => {
                self.line = self.random.chance(990).then_some(line);
                Some(reply)
            }
            Err(_) => None,
        };
        if reply.is_none() {
            self.record.unknown += 1;
            if action == Action::Read {
                return false;
            }
        } else {
            self.record.add_answer(returned);
        }
        let is_told = reply.is_some();
        let told = reply.map(|reply| (returned, reply));
        if let Some(value) = self.record.add_told(self.name, place, action, invoked, told) {
            self.seen.insert(place, value);
        }
        is_told
    }

    /// What to ask; the key stands where a word is empty.
    fn draw(&mut self, place: Place, reads: bool, value: u64) -> (Action, Vec<String>) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        if reads {
            return (Action::Read, words(&["GET", ""]));
        }
        match place.kind {
            Kind::List => (Action::Append(value), words(&["APPEND", "", &format!("{value:012},")])),
            Kind::Counter => (Action::Append(value), words(&["INCR", ""])),
            Kind::Register => match self.seen.get(&place).filter(|seen| **seen != 0) {
                Some(seen) if self.random.chance(500) => {
                    let asked = words(&["SET", "", &value.to_string(), "IFEQ", &seen.to_string(), "GET"]);
                    (Action::Cas(*seen, value), asked)
                }
                _ => (Action::Put(value), words(&["SET", "", &value.to_string(), "GET"])),
            },
        }
    }

    /// A connection to any store that takes one.
    fn open(&mut self) -> Option<Line> {
        let line = Line::open(self.random.pick(&self.trial.stores)).ok();
        if line.is_none() {
            pause();
        }
        line
    }
}

/// Not the trial's: after its end, too, there is something to wait for.
fn pause() {
    Stop::default().within(PAUSE);
}

fn key_of(place: Place) -> Key {
    Key { region: place.generation, number: place.slot * 2 + u64::from(place.kind == Kind::List) }
}

/// The number in a reply; an absent key holds none.
fn number(reply: &Reply) -> u64 {
    match reply {
        Reply::Number(number) => *number,
        Reply::Value(None) => 0,
        Reply::Value(Some(bytes)) => std::str::from_utf8(bytes).unwrap().parse().unwrap(),
        other => panic!("{other:?} is no number"),
    }
}

fn answer(action: Action, kind: Kind, reply: &Reply) -> Answer {
    match (action, kind) {
        (Action::Put(_), _) => Answer::Previous(number(reply)),
        (Action::Cas(..), _) => Answer::Found(number(reply)),
        (Action::Append(_), _) => {
            let bytes = number(reply);
            assert_eq!(bytes % ELEMENT_BYTES, 0, "a list has a part of an element");
            Answer::Length(bytes / ELEMENT_BYTES)
        }
        (Action::Read, Kind::List) => {
            let Reply::Value(bytes) = reply else { panic!("{reply:?} is no list") };
            let text = std::str::from_utf8(bytes.as_deref().unwrap_or_default()).unwrap();
            Answer::List(text.split_terminator(',').map(|element| element.parse().unwrap()).collect())
        }
        (Action::Read, _) => Answer::Value(number(reply)),
    }
}

impl Record {
    /// Adds what somebody asked of a key, and what he was told; the value that a register is known to have had by then.
    pub(crate) fn add_told(
        &mut self,
        client: u64,
        place: Place,
        action: Action,
        invoked: u64,
        told: Option<(u64, Reply)>,
    ) -> Option<u64> {
        if place.kind == Kind::Counter {
            let returned = told.map(|(at, reply)| (at, number(&reply)));
            let counted = Counted { invoked, returned, adds: action != Action::Read };
            self.counted.entry(place).or_default().push(counted);
            return None;
        }
        let returned = told.map(|(at, reply)| (Moment(at), answer(action, place.kind, &reply)));
        let seen = match &returned {
            Some((_, Answer::Previous(value) | Answer::Found(value) | Answer::Value(value))) => Some(*value),
            _ => None,
        };
        self.history.push(Operation { client, key: key_of(place), action, invoked: Moment(invoked), returned });
        seen
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.history.extend(other.history);
        for (place, counted) in other.counted {
            self.counted.entry(place).or_default().extend(counted);
        }
        self.answered.extend(other.answered);
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.bounded += other.bounded;
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered.len()
    }

    /// How often somebody was answered after that.
    pub(crate) fn answered_since(&self, at: u64) -> usize {
        self.answered.iter().filter(|answered| **answered >= at).count()
    }

    /// The longest time in which nobody was answered.
    pub(crate) fn longest_stall(&mut self) -> Duration {
        self.answered.sort_unstable();
        let gaps = self.answered.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_nanos(gaps.max().unwrap_or(0))
    }

    /// Somebody was answered then.
    pub(crate) fn add_answer(&mut self, at: u64) {
        self.answered.push(at);
    }

    /// There has to be an order of the requests that the answers fit: every key is linearizable, and what was answered took
    /// effect once.
    pub(crate) fn judge(self, trial: &Trial) {
        if let Err(refused) = self.verdict(trial) {
            panic!("seed {}: {refused}", trial.seed);
        }
    }

    /// The same, told.
    pub(crate) fn verdict(self, trial: &Trial) -> Result<(), String> {
        let mut history = History::default();
        self.history.into_iter().for_each(|operation| history.add(operation));
        for (key, operations) in history.by_key() {
            check_key(key, &operations).map_err(|refused| format!("generation and place {refused}"))?;
        }
        for (place, counted) in self.counted {
            counters::check(&counted).map_err(|refused| format!("{}: {refused}\n{counted:#?}", trial.key(place)))?;
        }
        Ok(())
    }
}
