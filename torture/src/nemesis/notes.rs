//! What is written into histories of faults and changes, so that a reader sees what was going on.
//!
//! A fault is two notes of the process `nemesis` with the fault's name and one id: `{:phase :begin, :id 3, :stores [1 2]}` and
//! `{:phase :end, :id 3, :stores [1 2], :trace "…"}`. A change is one note of the process `operator`.

#![allow(clippy::print_stdout, reason = "a run goes on for long: whoever waits sees what it does")]

use crate::history::{Recorder, Value};

/// Where notes go: the histories of all workloads of a run.
#[derive(Clone, Copy, Debug)]
pub struct Notes<'a> {
    recorders: &'a [&'a Recorder],
}

impl<'a> Notes<'a> {
    /// Notes go to these.
    #[must_use]
    pub fn new(recorders: &'a [&'a Recorder]) -> Self {
        Self { recorders }
    }

    /// A fault begins.
    pub fn begin(&self, fault: &str, id: u64, stores: &[u64], how: &str) {
        self.fault(fault, "begin", id, stores, ("how", how));
    }

    /// A fault has ended, and has left a trace.
    pub fn end(&self, fault: &str, id: u64, stores: &[u64], trace: &str) {
        self.fault(fault, "end", id, stores, ("trace", trace));
    }

    fn fault(&self, fault: &str, phase: &str, id: u64, stores: &[u64], (word, text): (&str, &str)) {
        let number = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
        let value = Value::map([
            ("phase", Value::keyword(phase)),
            ("id", number(id)),
            ("stores", Value::list(stores.iter().map(|store| number(*store)))),
            (word, Value::from(text)),
        ]);
        self.add("nemesis", fault, &value);
    }

    /// An operator has changed something, or has tried to.
    pub fn change(&self, what: &str, command: &str, told: Result<(), &str>) {
        let mut value = vec![("command", Value::from(command)), ("ok", Value::Bool(told.is_ok()))];
        value.extend(told.err().map(|said| ("said", Value::from(said))));
        self.add("operator", what, &Value::map(value));
    }

    /// The run itself has come to something.
    pub fn say(&self, what: &str) {
        self.add("torture", "progress", &Value::from(what));
        self.tell(what);
    }

    /// Says something to whoever waits for the run, with the seconds since the history began.
    pub fn tell(&self, what: &str) {
        let seconds = self.recorders.first().map_or(0, |recorder| recorder.now()) as f64 / 1e9;
        println!("{seconds:8.3}  {what}");
    }

    fn add(&self, process: &str, f: &str, value: &Value) {
        for recorder in self.recorders {
            recorder.note(process, f, value.clone());
        }
    }
}
