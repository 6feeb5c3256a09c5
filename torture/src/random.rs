//! Numbers from a seed, for what is drawn in a run (`splitmix64`; Steele, Lea and Flood, 2014).
//!
//! The same seed draws the same operations and faults; how the processes run is not drawn.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for a part that has a name, so that what one part draws does not depend on another.
    #[must_use]
    pub fn of_part(seed: u64, part: &str, number: u64) -> Self {
        let of_name = part.bytes().fold(seed, |sum, byte| mix(sum ^ u64::from(byte)));
        Self(mix(of_name ^ mix(number)))
    }

    /// The next number, of all there are.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        // The high half of the product: as good as even for bounds far below 2^64.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        assert!(least <= most, "{least} to {most} is empty");
        least + self.below(most - least + 1)
    }

    /// True so many times of a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }

    /// One of several, of which there is at least one.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.index(things.len())]
    }

    /// A place in something that is so long, and not empty.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// Brings things into a drawn order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for at in (1..things.len()).rev() {
            things.swap(at, self.index(at + 1));
        }
    }
}

/// A number that looks unlike `number`, always the same.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_within_bounds() {
        let draw = || {
            let mut random = Random::of_part(7, "clients", 3);
            (0..1_000).map(|_| random.between(5, 9)).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        assert_eq!(draw().iter().min(), Some(&5));
        assert_eq!(draw().iter().max(), Some(&9));
        let other = Random::of_part(7, "clients", 4).next_u64();
        assert_ne!(Random::of_part(7, "clients", 3).next_u64(), other);
    }
}
