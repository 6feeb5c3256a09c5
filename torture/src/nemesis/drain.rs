//! Drains of stores: asked for through any store, again if that one dies, seen from outside, and always taken back.

use std::time::{Duration, Instant};

use super::Kind;
use super::changes::Operator;
use crate::cluster::Admin;
use crate::random::Random;
use crate::stop::{Stop, look_again};
use crate::trouble::{Outcome, Trouble};

/// How long a store may take until it is empty, with faults all the time.
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
/// How long a store that is said to be drained may take to be rid of its last replica.
const RID_WITHIN: Duration = Duration::from_secs(10);
/// How long somebody may take to take back that a store is to be empty.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long a store stays empty, in milliseconds.
const EMPTY_MS: (u64, u64) = (2_000, 6_000);
/// How long to wait before somebody else is asked.
const PAUSE: Duration = Duration::from_millis(500);

impl Operator<'_> {
    /// Has a store emptied, leaves it so for a while, and takes it back.
    pub(super) fn drain(&mut self, stop: &Stop) -> Outcome<()> {
        let store = self.random.between(1, self.admins.len() as u64);
        let begun = Instant::now();
        let mut emptied = self.ask_to_drain(store);
        // Whoever was asked may have died, and the store goes on being emptied; when the faults are over as well.
        while emptied.is_err() && begun.elapsed() < EMPTY_WITHIN {
            Stop::default().within(PAUSE);
            emptied = self.ask_to_drain(store);
        }
        if emptied.is_ok() {
            emptied = see_empty(self.admins, store, &mut self.random);
        }
        if emptied.is_ok() {
            self.count(Kind::Drain);
            stop.within(Duration::from_millis(self.random.between(EMPTY_MS.0, EMPTY_MS.1)));
        }
        let taken_back = take_back(self.admins, store, &mut self.random);
        let command = format!("drain {store} --cancel");
        self.notes.change(Kind::Drain.name(), &command, taken_back.as_ref().map(drop).map_err(Trouble::as_str));
        if let Err(trouble) = taken_back {
            self.leave(trouble);
        }
        emptied
    }

    fn ask_to_drain(&mut self, store: u64) -> Outcome<()> {
        let words = ["drain", &store.to_string()];
        self.told(Kind::Drain, &words)
    }
}

/// No replica is left on a store, as others tell.
fn see_empty(admins: &[Admin], store: u64, random: &mut Random) -> Outcome<()> {
    let begun = Instant::now();
    loop {
        let left = random.pick(admins).regions().map(|regions| {
            regions
                .iter()
                .filter(|region| region.replica_on(store).is_some())
                .map(|region| region.id)
                .collect::<Vec<_>>()
        });
        match left {
            Ok(left) if left.is_empty() => return Ok(()),
            Ok(left) if !look_again(begun, RID_WITHIN) => {
                return Err(Trouble::new(format!("store {store} is said to be drained, and has replicas of {left:?}")));
            }
            Err(trouble) if !look_again(begun, RID_WITHIN) => return Err(trouble),
            Ok(_) | Err(_) => {}
        }
    }
}

/// A store may have replicas again.
///
/// # Errors
/// Nobody takes the request.
fn take_back(admins: &[Admin], store: u64, random: &mut Random) -> Outcome<()> {
    let begun = Instant::now();
    while let Err(trouble) = random.pick(admins).ctl(&["drain", &store.to_string(), "--cancel"]) {
        if !look_again(begun, TAKEN_BACK_WITHIN) {
            return Err(Trouble::new(format!("store {store} was drained and cannot be taken back: {trouble}")));
        }
    }
    Ok(())
}
