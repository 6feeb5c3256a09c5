//! The simulator's only source of chance: everything that a run draws comes from its seed through here.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Any seed is a good one; equal seeds draw equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// A generator of its own for one purpose, so that what one part draws does not shift what the others draw.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.number())
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product maps the full range onto [0, bound) without a division.
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A length around `mean`, between a fifth and three times of it: spread out, and never far off.
    pub fn around(&mut self, mean: u64) -> u64 {
        let low = mean / 5;
        if self.chance(800) { self.between(low, mean * 3 / 2) } else { self.between(mean, mean * 3) }
    }
}

/// The finaliser of SplitMix64: spreads a number over all bits.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Folds `part` into a running digest.
#[must_use]
pub const fn fold(digest: u64, part: u64) -> u64 {
    mix(digest.rotate_left(23) ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A digest of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> u64 {
    let mut digest = bytes.len() as u64;
    for piece in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        digest = fold(digest, u64::from_le_bytes(word));
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_they_stay_in_bounds() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.between(3, 9)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|number| (3..=9).contains(number)));
        assert_eq!(Random::new(1).below(0), 0);
    }

    #[test]
    fn digests_tell_contents_and_lengths_apart() {
        assert_ne!(digest_of(b"a"), digest_of(b"b"));
        assert_ne!(digest_of(b"a"), digest_of(b"a\0"));
        assert_ne!(fold(fold(0, 1), 2), fold(fold(0, 2), 1));
    }
}
