//! What a workload is to the clients that carry it out.

use std::fmt;

use super::client::{Client, Done};
use super::keys::{Group, Keys};
use super::{Settings, bank, bounded, counter, ids, lists, lock, long_fork, register, scan, sessions, set};
use crate::check::Workload;
use crate::client::{Words, words};
use crate::history::Value;
use crate::trouble::Outcome;

/// A workload. Shared by all its clients.
pub(super) trait Scenario: fmt::Debug + Send + Sync {
    /// Its keys, as far as they are in use.
    fn keys(&self) -> &Keys;

    /// What the history's first record says beside the name.
    fn promises(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// What is sent before clients begin, each until it is answered, none of it recorded. Something that changes nothing, unless
    /// there is something to make.
    fn initial(&self) -> Vec<Words> {
        self.keys().all().into_iter().map(|group| words(&["GET", &self.keys().name(group)])).collect()
    }

    /// The part that one client plays. Those with other numbers may play others.
    fn player<'a>(&'a self, number: u64) -> Box<dyn Player + 'a>;

    /// What is read in the end.
    fn last_reads(&self) -> Vec<Group> {
        self.keys().all()
    }

    /// Reads it, as an operation.
    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done>;
}

/// A client's part.
pub(super) trait Player {
    /// Does one operation, or an attempt at one.
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done>;

    /// Gives back, if it can, what it holds.
    fn leave(&mut self, _client: &mut Client<'_>) -> Outcome<()> {
        Ok(())
    }
}

/// The scenario of a workload.
pub(super) fn of(settings: &Settings) -> Box<dyn Scenario> {
    let seed = settings.seed;
    match settings.workload {
        Workload::Register => Box::new(register::Registers::new(seed)),
        Workload::ListAppend => Box::new(lists::Lists::new(seed, settings.clients)),
        Workload::Set => Box::new(set::Sets::new(seed)),
        Workload::Counter => Box::new(counter::Counters::new(seed)),
        Workload::Bank => Box::new(bank::Banks::new(seed)),
        Workload::UniqueIds => Box::new(ids::Sources::new(seed)),
        Workload::Sessions => Box::new(sessions::Logs::new(seed)),
        Workload::Scan => Box::new(scan::Space::new(seed)),
        Workload::Lock => Box::new(lock::Locks::new(seed)),
        Workload::BoundedStaleness => Box::new(bounded::Aging::new(seed)),
        Workload::LongFork => Box::new(long_fork::Forks::new(seed)),
    }
}
