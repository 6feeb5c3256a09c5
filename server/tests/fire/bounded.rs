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
            let since = counts_from(invoked, age_ms);
            record.add_told(self.name, place, Action::Read, since, Some((self.trial.now(), reply)));
            record.bounded += 1;
        }
        record
    }
}

/// When a read of that age that was begun then counts as begun, in nanoseconds.
fn counts_from(invoked: u64, age_ms: u64) -> u64 {
    invoked.saturating_sub(age_ms * 1_000 * (1_000 + DRIFT_PERMILLE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Place;

    #[test]
    fn a_read_may_miss_what_is_younger_than_its_age_and_nothing_older() {
        const MS: u64 = 1_000_000;
        let trial = Trial::new(1, Vec::new());
        let verdict = |age_ms| {
            let (mut record, value) = (Record::default(), |text: &str| Reply::Value(Some(text.as_bytes().to_vec())));
            let place = Place::register();
            record.add_told(1, place, Action::Put(7), 0, Some((MS, Reply::Value(None))));
            record.add_told(1, place, Action::Put(8), 10 * MS, Some((11 * MS, value("7"))));
            record.add_told(2, place, Action::Read, counts_from(100 * MS, age_ms), Some((101 * MS, value("7"))));
            record.verdict(&trial)
        };
        verdict(200).unwrap();
        verdict(90).unwrap();
        verdict(50).unwrap_err();
    }
}
