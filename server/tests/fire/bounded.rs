//! Reads of bounded age, of any replica: whoever asks is told of all that was answered so long ago.
//!
//! Such a read counts as one that was begun so much earlier: with that, the history of its key has to be linearizable.

use std::net::SocketAddr;
use std::time::Duration;

use multiraft_sim::history::Action;
use multiraft_sim::random::{Random, mix};

use crate::admin::{bounded, unhex};
use crate::clients::{Record, Trial};
use crate::resp::Reply;

/// How old an answer may be, in milliseconds.
const AGES_MS: &[u64] = &[50, 200, 1_000];
/// Ages are measured on the clock of the store that is asked, which may be slow by one per cent.
const DRIFT_PERMILLE: u64 = 11;
/// How long a reader waits between two reads; each takes a connection.
const PAUSE: Duration = Duration::from_millis(5);

/// Somebody who reads in that way.
pub(crate) struct Reader<'a> {
    trial: &'a Trial,
    name: u64,
    admins: Vec<SocketAddr>,
    random: Random,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(trial: &'a Trial, name: u64, admins: Vec<SocketAddr>) -> Self {
        let random = Random::new(mix(trial.seed) ^ mix(name));
        Self { trial, name, admins, random }
    }

    /// Reads one key after the other until the trial ends.
    pub(crate) fn run(mut self) -> Record {
        let mut record = Record::default();
        while !self.trial.stop.within(PAUSE) {
            let place = self.trial.draw(&mut self.random);
            let (admin, age_ms) = (self.random.pick(&self.admins), self.random.pick(AGES_MS));
            let invoked = self.trial.now();
            // A store that is gone, or cannot tell, has told nothing.
            let Ok(told) = bounded(admin, &self.trial.key(place), age_ms) else { continue };
            let reply = Reply::Value(told.as_deref().map(unhex));
            let since = invoked.saturating_sub(age_ms * 1_000 * (1_000 + DRIFT_PERMILLE));
            record.add_told(self.name, place, Action::Read, since, Some((self.trial.now(), reply)));
            record.bounded += 1;
        }
        record
    }
}
