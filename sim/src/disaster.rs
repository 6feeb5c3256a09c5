//! What a seed decides about a disaster: that so many stores die for good that a region can decide nothing any more, and how the
//! recovery of what survivors hold goes.

use crate::random::Random;
use crate::schedule::{MILLI, SECOND};

/// A disaster and the recovery after it.
#[derive(Clone, Copy, Debug)]
pub struct Disaster {
    /// When it happens, in nanoseconds.
    pub at: u64,
    /// How long the survivors go on before they are stopped, in nanoseconds.
    pub delay: u64,
    /// Of a region with an even number of voters only half of them die: nothing is lost then.
    pub half: bool,
    /// How many of a thousand attempts to carry the plan out on a store lose power in the middle.
    pub cuts: u64,
    /// Decides the rest.
    pub seed: u64,
}

impl Disaster {
    /// What `seed` decides; in any case one if that is `wanted`. Has a source of its own, so that the rest of a seed stays what
    /// it was.
    #[must_use]
    pub fn draw(seed: u64, wanted: bool) -> Option<Self> {
        let mut random = Random::new(seed ^ 0xd15a_57e2_0fa1_1005);
        let comes = random.chance(150);
        (comes || wanted).then(|| Self {
            at: random.between(10_000, 25_000) * MILLI,
            delay: random.below(3 * SECOND),
            half: random.chance(300),
            cuts: random.pick(&[0, 500, 800]),
            seed: random.number(),
        })
    }
}
