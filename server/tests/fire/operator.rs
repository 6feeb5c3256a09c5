//! Operators: they split, merge and move regions and hand leaderships over, one after the other, through `multiraft ctl` and any
//! store, whatever happens to the stores meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use multiraft_sim::random::Random;

use crate::admin::{Region, ctl, regions};
use crate::clients::Trial;

/// Between these numbers of regions it is left to chance whether one splits or two merge.
const REGIONS: std::ops::Range<usize> = 6..20;
/// How long an operator waits after something did not go well.
const PAUSE: Duration = Duration::from_millis(200);

/// What was done, as the stores have confirmed, and what was not, or not confirmed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) splits: usize,
    pub(crate) merges: usize,
    pub(crate) moves: usize,
    pub(crate) transfers: usize,
    pub(crate) failed: usize,
}

impl Done {
    pub(crate) fn add(&mut self, other: Self) {
        self.splits += other.splits;
        self.merges += other.merges;
        self.moves += other.moves;
        self.transfers += other.transfers;
        self.failed += other.failed;
    }
}

/// One operator.
#[derive(Debug)]
pub(crate) struct Operator<'a> {
    trial: &'a Trial,
    admins: Vec<SocketAddr>,
    random: Random,
    done: Done,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(trial: &'a Trial, admins: Vec<SocketAddr>, random: Random) -> Self {
        Self { trial, admins, random, done: Done::default() }
    }

    /// Changes one thing after the other until the trial ends.
    pub(crate) fn run(mut self) -> Done {
        while !self.trial.stop.is_told() {
            let told = regions(self.random.pick(&self.admins)).and_then(|regions| self.change(&regions));
            match told {
                Ok(()) => {}
                Err(said) => {
                    self.done.failed += 1;
                    println!("{:7.3} {said}", self.trial.begun.elapsed().as_secs_f64());
                    self.trial.stop.within(PAUSE);
                }
            }
        }
        self.done
    }

    fn change(&mut self, regions: &[Region]) -> Result<(), String> {
        let chance = self.random.below(100);
        // The root region is one of them.
        let splits = regions.len() <= REGIONS.start || (chance < 25 && regions.len() < REGIONS.end);
        let merges = regions.len() >= REGIONS.end || chance < 50;
        if splits {
            let key = Trial::any_key(&mut self.random);
            let Some(region) = regions.iter().find(|region| region.owns(&key)) else { return Ok(()) };
            self.ask(&format!("split {} {key}", region.id))?;
            self.done.splits += 1;
        } else if merges {
            let owners: Vec<&Region> = regions.iter().filter(|region| region.id != 1).collect();
            let at = self.random.below(owners.len() as u64 - 1) as usize;
            let (mut source, mut into) = (owners[at], owners[at + 1]);
            if self.random.chance(500) {
                (source, into) = (into, source);
            }
            self.ask(&format!("merge {} {}", source.id, into.id))?;
            self.done.merges += 1;
        } else {
            let region = &regions[self.random.below(regions.len() as u64) as usize];
            self.change_replicas(region)?;
        }
        Ok(())
    }

    /// Moves a replica or the leadership of a region; puts right what an earlier attempt has left behind.
    fn change_replicas(&mut self, region: &Region) -> Result<(), String> {
        if let Some(command) = repair(region, self.admins.len() as u64, &mut self.random) {
            return self.ask(&command);
        }
        if !region.is_whole() {
            return Ok(());
        }
        let from = region.replicas[self.random.below(3) as usize].store;
        if self.random.chance(300) {
            self.ask(&format!("transfer {} {from}", region.id))?;
            self.done.transfers += 1;
            return Ok(());
        }
        let strangers = strangers(region, self.admins.len() as u64);
        let to = self.random.pick(&strangers);
        self.ask(&format!("move {} {from} {to}", region.id))?;
        self.done.moves += 1;
        Ok(())
    }

    fn ask(&mut self, command: &str) -> Result<(), String> {
        let admin = self.random.pick(&self.admins);
        ctl(admin, command).map(drop).map_err(|said| format!("{command}: {said}"))
    }
}

/// The stores that have no replica of a region.
fn strangers(region: &Region, stores: u64) -> Vec<u64> {
    (1..=stores).filter(|store| region.replica_on(*store).is_none()).collect()
}

/// The next command on the way to three voters and nothing else, if one is needed and can be given now.
pub(crate) fn repair(region: &Region, stores: u64, random: &mut Random) -> Option<String> {
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
        let done = if voters.len() < 3 { "promote" } else { "remove" };
        return Some(format!("{done} {id} {learner}"));
    }
    match voters.len() {
        3 => None,
        0..3 => Some(format!("add {id} {}", random.pick(&strangers(region, stores)))),
        _ => Some(format!("remove {id} {}", random.pick(&voters))),
    }
}
