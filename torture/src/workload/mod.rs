//! Clients that put a cluster under load and record what they were told, one file for each workload that a checker judges.
//!
//! ```text
//! Load::new      the recorder, with the header that the checker reads
//! Load::prepare  what has to be there before clients begin
//! Load::run      clients as threads, until told to stop; faults happen meanwhile
//! Load::finish   after all faults: an operation through every store, and every key once more
//! ```
//!
//! Keys are `key:NNNNNN:...`, with six digits spread evenly; what has to stay in one region shares the digits, and a region may
//! be split at any `key:NNNNNN` (see [`Load::cut`]).

mod bank;
mod bounded;
mod client;
mod counter;
mod elements;
mod ground;
mod ids;
mod keys;
mod lists;
mod lock;
mod long_fork;
mod register;
mod scan;
mod scenario;
mod sessions;
mod set;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::check;
use crate::client::Told;
use crate::history::Recorder;
use crate::random::Random;
use crate::stop::{Stop, look_again};
use crate::trouble::{Outcome, Trouble, While as _};

use client::{Client, Done};
use ground::Ground;
use scenario::Scenario;

/// How long a client waits after it was not answered.
const PAUSE: Duration = Duration::from_millis(10);

/// Where a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which store.
    pub store: u64,
    /// Where it speaks RESP.
    pub resp: SocketAddr,
    /// Where its admin endpoint is.
    pub admin: SocketAddr,
}

/// What load there is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What clients do.
    pub workload: check::Workload,
    /// What they draw is drawn from it; keys bear its mark, so that runs with different seeds share none.
    pub seed: u64,
    /// The stores, at least one.
    pub places: Vec<Place>,
    /// How many clients there are at a time, at least one.
    pub clients: u64,
    /// Operations a second of all clients together; `None`: as fast as they can.
    pub rate: Option<u64>,
    /// How long a client waits for an answer. Longer than a store takes to say that it does not know.
    pub request_timeout: Duration,
}

/// How the cluster was found after all faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// How long the slowest operation took until it was answered, counted from when it was first asked for.
    pub slowest: Duration,
    /// The store through which that was.
    pub slowest_store: u64,
    /// How many keys were read once more.
    pub reads: u64,
}

/// A workload, its clients and their record.
#[derive(Debug)]
pub struct Load {
    ground: Ground,
    scenario: Box<dyn Scenario>,
}

impl Load {
    /// A load that has not begun. The history's time counts from now.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let scenario = scenario::of(&settings);
        let recorder = Recorder::new(settings.workload.name(), scenario.promises());
        Self { ground: Ground::new(settings, recorder), scenario }
    }

    /// Makes what has to be there before clients begin, and waits until it is taken.
    ///
    /// # Errors
    /// It is not taken within `patience`; or an answer makes no sense.
    pub fn prepare(&self, patience: Duration) -> Outcome<()> {
        let mut client = self.client(u64::MAX - 1)?;
        for command in self.scenario.initial() {
            let begun = Instant::now();
            while let Told::Refused(why) | Told::Unknown(why) = client.ask(&command)? {
                client.hang_up();
                if !look_again(begun, patience) {
                    return Err(Trouble::new(format!("nobody took `{}`: {why}", command.join(" "))));
                }
            }
        }
        Ok(())
    }

    /// Runs the clients until told to stop.
    ///
    /// # Errors
    /// One of them met an answer that makes no sense: the harness or a store is broken, and the history shows nothing. All
    /// clients have ended.
    pub fn run(&self, stop: &Stop) -> Outcome<()> {
        let clients: Vec<Client<'_>> =
            (0..self.ground.settings.clients).map(|number| self.client(number)).collect::<Outcome<_>>()?;
        if clients.is_empty() {
            return Err(Trouble::new("a load needs a client: ask for one at least"));
        }
        thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(clients)
                .map(|(number, client)| {
                    scope.spawn(move || {
                        let ended = self.play(number, client, stop);
                        if ended.is_err() {
                            self.ground.broken.tell();
                        }
                        ended.trying(|| format!("client {number}"))
                    })
                })
                .collect();
            let ended: Vec<Outcome<()>> = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(Trouble::new("a client panicked"))))
                .collect();
            ended.into_iter().collect()
        })
    }

    fn play(&self, number: u64, mut client: Client<'_>, stop: &Stop) -> Outcome<()> {
        let is_over = || stop.is_told() || self.ground.broken.is_told();
        let mut player = self.scenario.player(number);
        let pace = self.ground.pace();
        let begun = Instant::now();
        // Not all at once.
        let mut due = begun + pace.mul_f64(number as f64 / self.ground.settings.clients as f64);
        while !is_over() {
            if !pace.is_zero() {
                let now = Instant::now();
                if stop.within(due.saturating_duration_since(now)) {
                    break;
                }
                // What was missed while nobody answered is not made up for.
                due = (due + pace).max(now);
            }
            if !matches!(player.step(&mut client)?, Done::Answered) {
                stop.within(PAUSE);
            }
        }
        player.leave(&mut client)
    }

    /// After all faults: does something through every store, and reads every key once more. Part of the history.
    ///
    /// # Errors
    /// An operation is not answered within `patience`; or an answer makes no sense.
    pub fn finish(&self, patience: Duration) -> Outcome<Recovered> {
        let mut client = self.client(u64::MAX)?;
        let mut player = self.scenario.player(self.ground.settings.clients);
        let mut recovered = Recovered { slowest: Duration::ZERO, slowest_store: 0, reads: 0 };
        for (at, place) in self.ground.settings.places.iter().enumerate() {
            client.pin(Some(at));
            let what = || format!("store {} takes nothing after the last fault", place.store);
            let took = until_answered(patience, what, || player.step(&mut client))?;
            self.ground.note_slow(&mut recovered, took, at);
        }
        client.pin(None);
        player.leave(&mut client)?;
        for group in self.scenario.last_reads() {
            let what = || format!("{} is not read after the last fault", self.scenario.keys().name(group));
            let took = until_answered(patience, what, || self.scenario.read(&mut client, group))?;
            self.ground.note_slow(&mut recovered, took, client.store());
            recovered.reads += 1;
        }
        Ok(recovered)
    }

    /// The record.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.ground.recorder
    }

    /// How many operations were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.ground.answered()
    }

    /// How many operations have an unknown outcome so far.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.ground.unknown()
    }

    /// How many operations were refused so far, without an effect.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.ground.refused()
    }

    /// A key at which a region may be split: near those that are in use, and never within what has to stay in one region.
    pub fn cut(&self, random: &mut Random) -> Vec<u8> {
        self.scenario.keys().cut(random)
    }

    fn client(&self, number: u64) -> Outcome<Client<'_>> {
        if self.ground.settings.places.is_empty() {
            return Err(Trouble::new("a load needs a store: name one at least"));
        }
        Ok(Client::new(&self.ground, number))
    }
}

/// Tries again until something is answered; how long that took.
fn until_answered(
    patience: Duration,
    what: impl Fn() -> String,
    mut attempt: impl FnMut() -> Outcome<Done>,
) -> Outcome<Duration> {
    let begun = Instant::now();
    loop {
        match attempt()? {
            Done::Answered => return Ok(begun.elapsed()),
            Done::NotAnswered(why) if begun.elapsed() >= patience => {
                return Err(Trouble::new(format!("{}, for {patience:?}: {why}", what())));
            }
            Done::NotAnswered(_) => {
                Stop::default().within(PAUSE);
            }
        }
    }
}
