//! The nemesis: what goes wrong in a run, drawn from its seed.
//!
//! Faults overlap: up to three are under way at a time. Of the stores that are dead, stand still or have a sick disk there is
//! never more than a minority, unless a fault is meant to take quorums away; such a one waits until nothing else hurts. One fault at
//! a time lies between stores, and may do with others what none may do alone: leave no quorum for as long as both last. So faults
//! come as a storm, and after each there is a calm, in which leaders can be elected and clients answered; what has to succeed is
//! judged after the last. Every fault has to leave a trace: one that does not is a failure of the run.

mod between;
mod changes;
mod clocks;
mod disks;
mod drain;
mod kind;
mod notes;
mod processes;
mod snapshots;
mod upgrade;
mod voter;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use changes::{Changed, Operator, repair};
pub use disks::Disks;
pub use kind::{GROUPS, Kind};
pub use notes::Notes;

use crate::cluster::Cluster;
use crate::random::Random;
use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble};

/// How many faults are under way at most.
const AT_ONCE: usize = 3;
/// How long it is quiet between two blows, in milliseconds.
const BETWEEN_MS: (u64, u64) = (300, 2_500);

/// For how long faults follow upon each other; those that are under way then last as long as they were to.
const STORM: Duration = Duration::from_secs(8);
/// How long it is quiet after a storm, from the end of its last fault on: longer than a failover takes.
const CALM: Duration = Duration::from_millis(2_500);

/// How often each fault was there, and a trace of the last.
pub type Tally = BTreeMap<Kind, (u64, String)>;

/// A fault that is under way.
struct Active {
    kind: Kind,
    id: u64,
    /// The places of the stores that it hurts.
    stores: Vec<usize>,
    ends: Instant,
    /// It can end only after others, and nothing else begins until then.
    waits: bool,
    cure: Cure,
}

/// A fault that has just begun, and is to last so long.
struct Begun {
    stores: Vec<usize>,
    cure: Cure,
    how: String,
    length: Duration,
}

/// How a fault is ended.
enum Cure {
    /// By starting stores again.
    Start(processes::Dead),
    /// By letting a store go on.
    Resume(processes::Still),
    /// By what lies between stores.
    Heal(between::Struck),
    /// By setting clocks right.
    SetRight(clocks::Turned),
    /// By healing a disk.
    Disk(disks::Sick),
    /// By starting a store in its new version.
    Upgrade(upgrade::Restarted),
    /// By filling a replica.
    Fill(snapshots::Empty),
    /// By letting both sides of a voter reach each other.
    Join(voter::Voter),
}

/// Whoever strikes.
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    disks: &'a Disks,
    notes: Notes<'a>,
    random: Random,
    kinds: Vec<Kind>,
    /// What comes next.
    deck: Vec<Kind>,
    active: Vec<Active>,
    next: u64,
    tally: Tally,
    rollout: upgrade::Rollout,
    begun: Instant,
    storm: Storm,
    /// When something last ceased to hurt a store.
    recovered: BTreeMap<usize, Instant>,
}

/// Where the faults stand between storm and calm.
#[derive(Clone, Copy)]
struct Storm {
    /// When its first fault may begin, or has.
    begins: Instant,
}

impl Storm {
    /// Whether another fault may begin, with so many under way.
    fn rages(&mut self, active: usize, now: Instant) -> bool {
        if now.saturating_duration_since(self.begins) > STORM && active == 0 {
            self.begins = now + CALM;
        }
        now >= self.begins && now.saturating_duration_since(self.begins) <= STORM
    }
}

impl<'a> Nemesis<'a> {
    /// One that strikes with these faults, those of operators left out.
    #[must_use]
    pub fn new(cluster: &'a mut Cluster, disks: &'a Disks, notes: Notes<'a>, kinds: &[Kind], random: Random) -> Self {
        let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| !kind.is_change()).collect();
        let (deck, active, tally, rollout) = (Vec::new(), Vec::new(), Tally::new(), upgrade::Rollout::new());
        let begun = Instant::now();
        let storm = Storm { begins: begun };
        let recovered = BTreeMap::new();
        Self { cluster, disks, notes, random, kinds, deck, active, next: 1, tally, rollout, begun, storm, recovered }
    }

    /// Strikes until `end`, or until it is told to stop; then everything is healed and all stores run.
    ///
    /// # Errors
    /// A store did what it must not, a fault left no trace, or the machine did not do what was asked of it. Faults that are
    /// still under way are left so.
    pub fn strike_until(mut self, end: Instant, stop: &Stop) -> Outcome<Tally> {
        while !stop.is_told() && Instant::now() < end {
            let pause = Duration::from_millis(self.random.between(BETWEEN_MS.0, BETWEEN_MS.1));
            let next = self.active.iter().map(|fault| fault.ends).min().unwrap_or(end);
            let left = next.min(end).saturating_duration_since(Instant::now());
            stop.within(left.min(pause));
            self.end_due(Instant::now())?;
            self.check_running()?;
            let is_awaited = self.active.iter().any(|fault| fault.waits);
            let rages = self.storm.rages(self.active.len(), Instant::now());
            if rages && self.active.len() < AT_ONCE && !is_awaited && Instant::now() < end {
                self.begin_one()?;
            }
        }
        // The longest may have some seconds to go. One that ends before its time may have met nobody.
        while let Some(next) = self.active.iter().map(|fault| fault.ends).min() {
            Stop::default().within(next.saturating_duration_since(Instant::now()));
            self.end_due(Instant::now())?;
        }
        self.check_running()?;
        self.rollout.check()?;
        self.disks.check_forgotten(self.tally.get(&Kind::PowerLoss).map_or(0, |(times, _)| *times))?;
        let missing = self.kinds.iter().find(|kind| !self.tally.contains_key(kind));
        match missing {
            Some(kind)
                if self.begun.elapsed() > Duration::from_secs(20) * u32::try_from(self.kinds.len()).unwrap_or(1) =>
            {
                Err(Trouble::new(format!("the fault `{}` never came about", kind.name())))
            }
            _ => Ok(self.tally),
        }
    }

    fn end_due(&mut self, now: Instant) -> Outcome<()> {
        while let Some(at) = (0..self.active.len()).min_by_key(|at| self.active[*at].ends) {
            if self.active[at].ends > now {
                break;
            }
            let kind = self.active[at].kind;
            // A store that is cut off writes nothing, and would never meet its sick disk.
            let hinders = |other: &Active| kind.needs_peace() || (kind.needs_traffic() && other.kind.is_between());
            let others = self.active.iter().enumerate().filter(|(place, other)| *place != at && hinders(other));
            if let Some(last) = others.map(|(_, other)| other.ends).max() {
                self.active[at].ends = last + Duration::from_millis(1);
                self.active[at].waits = true;
                continue;
            }
            let fault = self.active.remove(at);
            self.end(fault)?;
        }
        Ok(())
    }

    fn end(&mut self, fault: Active) -> Outcome<()> {
        let Active { kind, id, stores, cure, .. } = fault;
        let trace = match cure {
            Cure::Start(dead) => Ok(dead.start(self.cluster)?),
            Cure::Resume(still) => Ok(still.go_on(self.cluster)?),
            Cure::Heal(struck) => {
                // A store that has just come back had no time to meet it either.
                let mut hurt = self.hurt();
                hurt.extend(lately(&self.recovered, Instant::now()));
                struck
                    .heal(self.cluster, &hurt)?
                    .ok_or("nobody met it: whoever would have was dead, stood still, or had no time to dial again")
            }
            Cure::SetRight(turned) => Ok(turned.set_right(self.cluster)?),
            Cure::Disk(sick) => sick.heal(self.disks, self.cluster)?.ok_or("the store had nothing to write"),
            Cure::Upgrade(restarted) => restarted
                .start(self.cluster, &mut self.rollout)?
                .ok_or("nobody has reached it yet: the others were dead, cut off, or stood still"),
            Cure::Fill(empty) => Ok(empty.fill(self.cluster, &mut self.random)?),
            Cure::Join(voter) => Ok(voter.heal(self.cluster)?),
        };
        let now = Instant::now();
        self.recovered.extend(stores.iter().map(|at| (*at, now)));
        let trace = match trace {
            Ok(trace) => trace,
            // It does not count.
            Err(why) => {
                self.notes.end(kind.name(), id, &numbers(&stores), why);
                self.notes.tell(&format!("{} ends: {why}", kind.name()));
                return Ok(());
            }
        };
        self.notes.end(kind.name(), id, &numbers(&stores), &trace);
        self.notes.tell(&format!("{} ends: {trace}", kind.name()));
        let entry = self.tally.entry(kind).or_default();
        *entry = (entry.0 + 1, trace);
        Ok(())
    }

    /// Begins the next fault that can be begun now, if there is one.
    fn begin_one(&mut self) -> Outcome<()> {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
            self.random.shuffle(&mut self.deck);
        }
        // One that cannot be begun now keeps its turn.
        for at in (0..self.deck.len()).rev() {
            let kind = self.deck[at];
            let Some(Begun { stores, cure, how, length }) = self.try_begin(kind)? else { continue };
            self.deck.remove(at);
            let (id, ends) = (self.next, Instant::now() + length);
            self.next += 1;
            self.notes.begin(kind.name(), id, &numbers(&stores), &how);
            self.notes.tell(&format!("{} for {length:.1?}: {how}", kind.name()));
            self.active.push(Active { kind, id, stores, ends, waits: false, cure });
            break;
        }
        Ok(())
    }

    fn try_begin(&mut self, kind: Kind) -> Outcome<Option<Begun>> {
        let stores = self.cluster.stores.len();
        let minority = (stores - 1) / 2;
        let hurt = self.hurt();
        let wanted = match kind {
            Kind::Kill | Kind::Pause | Kind::Restart | Kind::Upgrade | Kind::Jump | Kind::Snapshot => 1,
            Kind::DiskFull | Kind::SyncFails | Kind::DiskSlow | Kind::TornLog | Kind::DamagedLog | Kind::Wipe => 1,
            Kind::PowerLoss if hurt.is_empty() && self.random.chance(400) => stores,
            Kind::PowerLoss => 1,
            Kind::KillMinority => minority,
            Kind::KillMajority => minority + 1,
            Kind::KillAll => stores,
            _ => 0,
        };
        let may =
            if kind.takes_quorums() { hurt.is_empty() } else { hurt.len() + wanted <= minority || kind == Kind::Jump };
        let is_twice = self.active.iter().any(|fault| {
            fault.kind == kind
                || (fault.kind.is_between() && kind.is_between())
                || (fault.kind.needs_peace() && kind.needs_peace())
        });
        if !may || is_twice {
            return Ok(None);
        }
        let mut well: Vec<usize> = (0..stores).filter(|at| !hurt.contains(at)).collect();
        if kind.needs_traffic() {
            // Who has no regions writes nothing, and would not notice.
            well.retain(|at| self.cluster.admin(*at).status().is_ok_and(|status| !status.regions.is_empty()));
        }
        if kind.loses_data() {
            // Whoever stands still would not say what it knows of regions, but be waited for; and where messages are late, changes
            // of which nobody has heard yet may be on their way.
            let is_quiet = hurt.is_empty() && !self.active.iter().any(|fault| fault.kind.is_between());
            well.retain(|at| is_quiet && disks::can_do_without(self.cluster, *at));
        }
        if kind == Kind::Upgrade {
            self.rollout.turn_round(self.cluster);
            well.retain(|at| self.rollout.is_due(self.cluster, *at));
        }
        self.random.shuffle(&mut well);
        let mut victims: Vec<usize> = well.into_iter().take(wanted).collect();
        victims.sort_unstable();
        if victims.len() < wanted {
            return Ok(None);
        }
        let mut lasts = |least: u64, most: u64| Duration::from_millis(self.random.between(least, most));
        let (stores, cure, how, length) = match kind {
            Kind::Kill | Kind::KillMinority => {
                let length = lasts(200, 4_000);
                let (dead, how) = processes::kill(self.cluster, &victims)?;
                (victims, Cure::Start(dead), how, length)
            }
            Kind::KillMajority | Kind::KillAll => {
                let length = lasts(100, 1_500);
                let (dead, how) = processes::kill(self.cluster, &victims)?;
                (victims, Cure::Start(dead), how, length)
            }
            Kind::Restart => {
                let length = lasts(100, 1_500);
                let (dead, how) = processes::stop(self.cluster, &victims)?;
                (victims, Cure::Start(dead), how, length)
            }
            Kind::Upgrade => {
                let length = lasts(100, 1_500);
                let (restarted, how) = self.rollout.stop(self.cluster, victims[0])?;
                (victims, Cure::Upgrade(restarted), how, length)
            }
            Kind::Pause => {
                let length = lasts(1_500, 7_000);
                let (still, how) = processes::pause(self.cluster, victims[0])?;
                (victims, Cure::Resume(still), how, length)
            }
            Kind::Partition | Kind::Loss | Kind::Delay | Kind::Duplicate => {
                let length = lasts(1_000, 7_000);
                let (struck, how) = between::strike(self.cluster, kind, &hurt, &mut self.random)?;
                (Vec::new(), Cure::Heal(struck), how, length)
            }
            Kind::Snapshot => {
                let length = lasts(500, 3_000);
                let (empty, how) = snapshots::begin(self.cluster, victims[0], &mut self.random)?;
                (victims, Cure::Fill(empty), how, length)
            }
            Kind::KillVoter => {
                let length = lasts(4_000, 6_000);
                let (voter, how) = voter::strike(self.cluster, &mut self.random)?;
                // It hurts all: each is cut off from somebody, and one dies twice.
                ((0..stores).collect(), Cure::Join(voter), how, length)
            }
            Kind::Drift | Kind::Jump => {
                let length = lasts(3_000, 8_000);
                let turned = if kind == Kind::Drift {
                    clocks::drift(self.cluster, &mut self.random)?
                } else {
                    clocks::jump(self.cluster, victims[0], &mut self.random)?
                };
                let how = turned.describe();
                // It hurts nobody.
                (Vec::new(), Cure::SetRight(turned), how, length)
            }
            Kind::PowerLoss => {
                let length = lasts(100, 2_000);
                let (dead, how) = self.disks.lose_power(self.cluster, &victims, &mut self.random)?;
                (victims, Cure::Start(dead), how, length)
            }
            Kind::DiskFull | Kind::SyncFails | Kind::DiskSlow | Kind::TornLog | Kind::DamagedLog | Kind::Wipe => {
                let length = lasts(1_000, 6_000);
                let begun = self.disks.begin(self.cluster, kind, victims[0], &mut self.random)?;
                let Some((sick, how)) = begun else { return Ok(None) };
                (victims, Cure::Disk(sick), how, length)
            }
            other => return Err(Trouble::new(format!("the fault `{}` is not one of the nemesis", other.name()))),
        };
        Ok(Some(Begun { stores, cure, how, length }))
    }

    /// The places of the stores that something hurts.
    fn hurt(&self) -> BTreeSet<usize> {
        self.active.iter().flat_map(|fault| fault.stores.iter().copied()).collect()
    }

    /// Whatever was started and not struck runs.
    fn check_running(&mut self) -> Outcome<()> {
        for at in 0..self.cluster.stores.len() {
            let may_end = |fault: &Active| matches!(&fault.cure, Cure::Disk(sick) if sick.may_end() == Some(at));
            if !self.cluster.is_started(at) || self.active.iter().any(may_end) {
                continue;
            }
            if let Some(ended) = self.cluster.ended(at)? {
                let log = self.cluster.log_file(at);
                return Err(Trouble::new(format!(
                    "store {} has ended by itself ({ended:?}): {}",
                    at + 1,
                    log.display()
                )));
            }
        }
        Ok(())
    }
}

/// The stores that have been well for less time than others need to dial them again, and they others.
fn lately(recovered: &BTreeMap<usize, Instant>, now: Instant) -> impl Iterator<Item = usize> {
    let is_new = move |since: &Instant| now.saturating_duration_since(*since) <= between::DIALS_WITHIN;
    recovered.iter().filter(move |(_, since)| is_new(since)).map(|(at, _)| *at)
}

fn numbers(places: &[usize]) -> Vec<u64> {
    places.iter().map(|at| *at as u64 + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_has_just_come_back_need_not_have_dialled() {
        let begun = Instant::now();
        let recovered = BTreeMap::from([(2, begun), (4, begun + Duration::from_secs(2))]);
        let after = |seconds| lately(&recovered, begun + Duration::from_secs_f64(seconds)).collect::<Vec<_>>();
        assert_eq!(after(2.5), [2, 4]);
        assert_eq!(after(3.5), [4]);
        assert!(after(5.5).is_empty());
    }

    #[test]
    fn after_a_storm_and_its_last_fault_there_is_a_calm() {
        let begun = Instant::now();
        let mut storm = Storm { begins: begun };
        let mut rages = |active, seconds| storm.rages(active, begun + Duration::from_secs_f64(seconds));
        assert!(rages(0, 0.0) && rages(2, 3.0) && rages(0, 8.0));
        // Two are still under way; then one is.
        assert!(!rages(2, 8.1) && !rages(1, 12.0));
        // The last has ended.
        assert!(!rages(0, 13.0) && !rages(0, 15.4));
        assert!(rages(0, 15.5) && rages(1, 23.0) && !rages(1, 23.6));
    }
}
