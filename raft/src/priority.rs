//! Who should campaign first.

use std::time::Duration;

use crate::random::Random;

/// How early a replica campaigns when the leader is gone. It changes nothing about how the replica votes, and nothing about
/// safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// Never campaigns by itself; still campaigns when it is told to.
    pub const NEVER: Self = Self(0);
    /// Waits for a length drawn from the whole of `[election_timeout_min, election_timeout_max)`. Higher priorities draw
    /// from an earlier part of it, lower ones wait longer.
    pub const NORMAL: Self = Self(128);

    /// How long to wait for a leader; `None`: for ever. Never less than `min`.
    pub(crate) fn wait(self, min: Duration, max: Duration, random: &mut Random) -> Option<Duration> {
        let spread = max - min;
        match self {
            Self::NEVER => None,
            Self(high) if self >= Self::NORMAL => {
                let part = 256 - u32::from(high);
                Some(min + random.below(spread * part / 128))
            }
            Self(low) => {
                let late = 128 - u32::from(low);
                Some(min + random.below(spread) + spread * late / 128)
            }
        }
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_priorities_wait_less_and_none_less_than_the_minimum() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut random = Random::new(1);
        let mut longest = |priority: Priority| {
            let waits: Vec<_> = (0..200).map(|_| priority.wait(min, max, &mut random).expect("campaigns")).collect();
            assert!(waits.iter().all(|wait| *wait >= min));
            waits.into_iter().max().expect("some")
        };
        assert!(longest(Priority::NORMAL) < max);
        assert!(longest(Priority(255)) < Duration::from_millis(1010));
        assert!(longest(Priority(1)) > max);
        assert_eq!(Priority::NEVER.wait(min, max, &mut Random::new(1)), None);
    }
}
