//! What a seed decides about the regions' lives: which of their changes are asked for, how often, and how much the clients
//! hear of them.

use std::time::Duration;

use multiraft::logic::MERGE_TIMEOUT;

use crate::random::Random;
use crate::schedule::MILLI;

/// A change that is asked of a region. Which of them a seed turns on is drawn anew for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// One or several keys become the first keys of regions of their own.
    Split,
    /// A replica that does not count, on a store that has none.
    AddLearner,
    /// A learner becomes a voter.
    Promote,
    /// A voter becomes a learner.
    Demote,
    /// A replica goes.
    Remove,
    /// One or two replicas go and others come, all at once, through a joint configuration.
    Replace,
    /// A voter that never leads.
    AddWitness,
    /// A region takes over its neighbour, whose replicas are moved beside its own first.
    Merge,
    /// A store that had lost its disk becomes a voter again. Never drawn: it comes after a wipe, where voters are missing.
    GiveBack,
    /// A voter on a store that is cut off for long is replaced by one elsewhere. Never drawn, likewise.
    Repair,
}

impl Operation {
    /// All that are drawn, with how often they are asked for in relation to each other when they are on.
    pub const ALL: [(Self, u64); 8] = [
        (Self::Split, 30),
        (Self::AddLearner, 20),
        (Self::Promote, 20),
        (Self::Demote, 10),
        (Self::Remove, 20),
        (Self::Replace, 20),
        (Self::AddWitness, 10),
        (Self::Merge, 30),
    ];
}

/// Everything that a seed decides about the regions' lives.
#[derive(Clone, Debug)]
pub struct Life {
    /// Stores that hold nothing at first.
    pub spares: usize,
    /// How many ask for changes, each one at a time.
    pub operators: usize,
    /// The mean pause of an operator between two changes, in nanoseconds.
    pub think: u64,
    /// The changes that are on, with their weights.
    pub operations: Vec<(Operation, u64)>,
    /// No region is split any more once there are so many.
    pub regions_max: usize,
    /// No region is merged any more once there are so few.
    pub regions_min: usize,
    /// See `WorkerConfig::merge_timeout`.
    pub merge_timeout: Duration,
    /// How many of a thousand merges have one of their stores die, cut off or stand still in the middle, of the kinds of faults
    /// that the seed has.
    pub strikes: u64,
    /// No replica is taken from a region that would have fewer voters than this.
    pub voters_min: usize,
    /// How many of a thousand notices of the stores reach the clients by themselves.
    pub hearsay: u64,
}

impl Life {
    /// What `seed` decides, for a cluster that begins with so many regions.
    #[must_use]
    pub fn draw(seed: u64, regions: u64) -> Self {
        let mut random = Random::new(seed ^ 0x11fe_0f5e_61d5);
        let is_on = random.chance(800);
        let share = random.pick(&[400, 700, 1000]);
        let drawn = Operation::ALL.into_iter().filter(|_| random.chance(share));
        let operations: Vec<_> = drawn.filter(|_| is_on).collect();
        Self {
            spares: if is_on { random.pick(&[0, 1, 1, 2]) } else { 0 },
            operators: random.between(1, 3) as usize,
            think: random.pick(&[100, 300, 1000]) * MILLI,
            operations,
            regions_max: (regions + random.between(2, 12)) as usize,
            regions_min: random.between(1, 3) as usize,
            merge_timeout: Duration::from_millis(random.pick(&[300, 1_000, 3_000, 10_000])),
            strikes: random.pick(&[0, 300, 700]),
            voters_min: random.between(1, 3) as usize,
            hearsay: random.pick(&[0, 100, 900]),
        }
    }

    /// A cluster whose regions stay what they are.
    #[must_use]
    pub fn none() -> Self {
        Self {
            spares: 0,
            operators: 0,
            think: 0,
            operations: Vec::new(),
            regions_max: 0,
            regions_min: 0,
            merge_timeout: MERGE_TIMEOUT,
            strikes: 0,
            voters_min: 0,
            hearsay: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_on_in_some_seeds_and_off_in_others() {
        for (operation, _) in Operation::ALL {
            let is_on = |seed| Life::draw(seed, 3).operations.iter().any(|(other, _)| *other == operation);
            let on = (0..200).filter(|seed| is_on(*seed)).count();
            assert!((40..180).contains(&on), "{operation:?} is on in {on} of 200 seeds");
        }
    }
}
