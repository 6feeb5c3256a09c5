//! Changes of regions under load: operators split, merge, move, add and remove, hand over and drain, one after the other, through
//! `multiraft ctl` and any store, whatever happens to the stores meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Kind, Notes};
use crate::cluster::{Admin, Region};
use crate::random::Random;
use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble};

/// Between these numbers of regions it is left to chance whether one splits or two merge.
const REGIONS: std::ops::Range<usize> = 6..20;
/// How long an operator waits between two changes, in milliseconds.
const BETWEEN_MS: (u64, u64) = (20, 400);
/// The voters that a region is to have.
const VOTERS: usize = 3;

/// How often each change was confirmed, and how often one was not.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// By kind.
    pub done: BTreeMap<Kind, u64>,
    /// Refused, or not confirmed in time.
    pub failed: u64,
    /// What is left as it must not be, if anything.
    pub left: Option<Trouble>,
}

impl Changed {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        for (kind, times) in other.done {
            *self.done.entry(kind).or_default() += times;
        }
        self.failed += other.failed;
        self.left = self.left.take().or(other.left);
    }
}

/// One operator.
pub struct Operator<'a> {
    pub(super) admins: &'a [Admin],
    pub(super) notes: Notes<'a>,
    kinds: Vec<Kind>,
    /// Where a region may be cut.
    cut: &'a (dyn Fn(&mut Random) -> Vec<u8> + Sync),
    pub(super) random: Random,
    changed: Changed,
}

impl<'a> Operator<'a> {
    /// One that makes changes of these kinds, those of the nemesis left out.
    #[must_use]
    pub fn new(
        admins: &'a [Admin],
        notes: Notes<'a>,
        kinds: &[Kind],
        cut: &'a (dyn Fn(&mut Random) -> Vec<u8> + Sync),
        random: Random,
    ) -> Self {
        let kinds = kinds.iter().copied().filter(|kind| kind.is_change()).collect();
        Self { admins, notes, kinds, cut, random, changed: Changed::default() }
    }

    /// Makes one change after the other until it is told to stop.
    #[must_use]
    pub fn run(mut self, stop: &Stop) -> Changed {
        while !self.kinds.is_empty() && !stop.is_told() {
            let kind = *self.random.pick(&self.kinds);
            // Stores that are gone tell nothing, and a change that is refused is one more thing that happens.
            if self.random.pick(self.admins).regions().and_then(|regions| self.change(kind, &regions, stop)).is_err() {
                self.changed.failed += 1;
            }
            stop.within(Duration::from_millis(self.random.between(BETWEEN_MS.0, BETWEEN_MS.1)));
        }
        self.changed
    }

    fn change(&mut self, kind: Kind, regions: &[Region], stop: &Stop) -> Outcome<()> {
        let owners: Vec<&Region> = regions.iter().filter(|region| region.id != 1).collect();
        match kind {
            Kind::Split if owners.len() < REGIONS.end => {
                let key = (self.cut)(&mut self.random);
                let Some(region) = owners.iter().find(|region| region.owns(&key)) else { return Ok(()) };
                let text = String::from_utf8_lossy(&key).into_owned();
                self.ask(kind, &["split", &region.id.to_string(), &text])
            }
            Kind::Merge if owners.len() > REGIONS.start.min(2) => {
                let at = self.random.index(owners.len() - 1);
                let (mut source, mut into) = (owners[at], owners[at + 1]);
                if self.random.chance(500) {
                    (source, into) = (into, source);
                }
                self.ask(kind, &["merge", &source.id.to_string(), &into.id.to_string()])
            }
            Kind::Move | Kind::Members | Kind::Transfer if !regions.is_empty() => {
                let region = self.random.pick(regions).clone();
                self.change_replicas(kind, &region)
            }
            Kind::Drain => self.drain(stop),
            _ => Ok(()),
        }
    }

    fn change_replicas(&mut self, kind: Kind, region: &Region) -> Outcome<()> {
        let stores = self.admins.len() as u64;
        if let Some(command) = repair(region, stores, &mut self.random) {
            return self.ask_line(Kind::Members, &command);
        }
        if !region.is_whole() {
            return Ok(());
        }
        let (id, from) = (region.id, self.random.pick(&region.replicas).store);
        let strangers = strangers(region, stores);
        match kind {
            Kind::Transfer => self.ask_line(kind, &format!("transfer {id} {from}")),
            // With no store to move to there is a member less for a while.
            Kind::Members if strangers.is_empty() => self.ask_line(kind, &format!("remove {id} {from}")),
            Kind::Members => {
                let to = *self.random.pick(&strangers);
                let learner = if self.random.chance(500) { " --learner" } else { "" };
                self.ask_line(kind, &format!("add {id} {to}{learner}"))
            }
            _ if strangers.is_empty() => Ok(()),
            _ => {
                let to = *self.random.pick(&strangers);
                self.ask_line(kind, &format!("move {id} {from} {to}"))
            }
        }
    }

    fn ask_line(&mut self, kind: Kind, command: &str) -> Outcome<()> {
        self.ask(kind, &command.split(' ').collect::<Vec<_>>())
    }

    fn ask(&mut self, kind: Kind, words: &[&str]) -> Outcome<()> {
        self.told(kind, words)?;
        self.count(kind);
        Ok(())
    }

    /// Asks any store, and notes what it says.
    pub(super) fn told(&mut self, kind: Kind, words: &[&str]) -> Outcome<()> {
        let told = self.random.pick(self.admins).ctl(words);
        self.notes.change(kind.name(), &words.join(" "), told.as_ref().map(drop).map_err(Trouble::as_str));
        told.map(drop)
    }

    /// Something could not be put right.
    pub(super) fn leave(&mut self, left: Trouble) {
        self.changed.left = Some(left);
    }

    /// A change was confirmed.
    pub(super) fn count(&mut self, kind: Kind) {
        *self.changed.done.entry(kind).or_default() += 1;
    }
}

/// The stores that have no replica of a region.
fn strangers(region: &Region, stores: u64) -> Vec<u64> {
    (1..=stores).filter(|store| region.replica_on(*store).is_none()).collect()
}

/// The next command on the way to three voters and nothing else, if one is needed and can be given now.
#[must_use]
pub fn repair(region: &Region, stores: u64, random: &mut Random) -> Option<String> {
    let id = region.id;
    let of_role = |role: &str| -> Vec<u64> {
        region.replicas.iter().filter(|replica| replica.role == role).map(|replica| replica.store).collect()
    };
    let (voters, learners) = (of_role("voter"), of_role("learner"));
    if voters.len() + learners.len() < region.replicas.len() {
        // A joint configuration is left by itself.
        return None;
    }
    if let Some(learner) = learners.first() {
        let done = if voters.len() < VOTERS { "promote" } else { "remove" };
        return Some(format!("{done} {id} {learner}"));
    }
    let strangers = strangers(region, stores);
    match voters.len() {
        VOTERS => None,
        0..VOTERS if strangers.is_empty() => None,
        0..VOTERS => Some(format!("add {id} {}", random.pick(&strangers))),
        _ => Some(format!("remove {id} {}", random.pick(&voters))),
    }
}
