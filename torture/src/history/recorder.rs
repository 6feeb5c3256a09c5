//! Writes a history while clients run.
//!
//! Index and time are given under one lock, an invocation before its request is sent, a completion after its answer came: so
//! the recorded interval contains the real one, and the order of records contradicts no order that clients could see.
//! Failed and unknown completions repeat what was asked for: Elle looks for it there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::record::{Kind, Process, Record};
use super::value::Value;
use super::{HEADER_FUNCTION, History};

/// What an invocation leaves to its completion. Dropped without one, the outcome stays unknown, and its client must not go on.
#[derive(Debug)]
#[must_use = "an operation ends"]
pub struct Ticket {
    process: u64,
    f: String,
    value: Value,
}

/// Records from many threads.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    next_client: u64,
}

impl Recorder {
    /// Begins a history of a workload. Time counts from now.
    #[must_use]
    pub fn new<'a>(workload: &str, options: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        let recorder = Self { start: Instant::now(), state: Mutex::default() };
        let options = options.into_iter().map(|(word, value)| (Value::keyword(word), value));
        let mut value: BTreeMap<Value, Value> = options.collect();
        value.insert(Value::keyword("name"), Value::from(workload));
        recorder.note("torture", HEADER_FUNCTION, Value::Map(value));
        recorder
    }

    /// Nanoseconds since the history began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number for a client that nobody has had. A client whose outcome is unknown goes on under another.
    #[must_use]
    pub fn new_client(&self) -> u64 {
        let mut state = self.lock();
        state.next_client += 1;
        state.next_client - 1
    }

    /// A client asks. Call it before anything is sent.
    pub fn invoke(&self, client: u64, f: &str, value: Value) -> Ticket {
        self.add(Process::Client(client), Kind::Invoke, f, value.clone(), BTreeMap::new());
        Ticket { process: client, f: f.to_owned(), value }
    }

    /// A client was answered.
    pub fn ok(&self, ticket: Ticket, value: Value) {
        self.add(Process::Client(ticket.process), Kind::Ok, &ticket.f, value, BTreeMap::new());
    }

    /// A client was told that nothing was done and nothing will be.
    pub fn fail(&self, ticket: Ticket, error: &str) {
        self.add(Process::Client(ticket.process), Kind::Fail, &ticket.f, ticket.value, because(error));
    }

    /// A client does not know what became of its request. Whoever goes on needs another number.
    pub fn info(&self, ticket: Ticket, error: &str) {
        self.add(Process::Client(ticket.process), Kind::Info, &ticket.f, ticket.value, because(error));
    }

    /// Something else happened: a fault began or ended.
    pub fn note(&self, process: &str, f: &str, value: Value) {
        self.add(Process::Named(process.to_owned()), Kind::Info, f, value, BTreeMap::new());
    }

    /// The history so far.
    #[must_use]
    pub fn history(&self) -> History {
        History { records: self.lock().records.clone(), lines: Vec::new() }
    }

    fn add(&self, process: Process, kind: Kind, f: &str, value: Value, extra: BTreeMap<Value, Value>) {
        let mut state = self.lock();
        let (index, time) = (state.records.len() as u64, self.now());
        state.records.push(Record { index, process, kind, f: f.to_owned(), value, time, extra });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A push is all or nothing: a client that panicked leaves no half record.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn because(error: &str) -> BTreeMap<Value, Value> {
    BTreeMap::from([(Value::keyword("error"), Value::from(error))])
}
