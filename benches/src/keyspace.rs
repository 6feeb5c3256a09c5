//! The keys, how they are cut into regions, and the state machine that keeps them: a map from keys of eight bytes.

use bytes::{BufMut, Bytes, BytesMut};
use multiraft::{ApplyContext, RegionView, StateError, StateMachine, StateTxn};

/// Length of a key in bytes.
const KEY_BYTES: usize = 8;
/// About how many keys all regions have together: few, since it is the engine that is measured, not the map.
const KEYS: u64 = 1 << 16;

/// A value of so many bytes.
pub(crate) fn value(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|place| (place % 251) as u8).collect()
}

/// All keys: of each region the first few.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpace {
    regions: u64,
}

impl KeySpace {
    /// `regions` is at least 1.
    pub(crate) fn new(regions: u64) -> Self {
        Self { regions }
    }

    /// Where the regions are cut: one key fewer than there are regions.
    pub(crate) fn boundaries(self) -> Vec<Bytes> {
        (1..self.regions).map(|region| self.key(region, 0)).collect()
    }

    /// A key of the `region`th region in key order; `draw` picks which.
    pub(crate) fn key(self, region: u64, draw: u64) -> Bytes {
        let each = (KEYS / self.regions).max(1);
        Bytes::copy_from_slice(&(self.first(region) + draw % each).to_be_bytes())
    }

    /// The command that sets a key.
    pub(crate) fn put(self, region: u64, draw: u64, value: &[u8]) -> Bytes {
        set(&self.key(region, draw), value)
    }

    /// The `number`th of the keys of a region that are written once each: another one for each number below [`KeySpace::span`],
    /// any few in a row evenly over that span.
    pub(crate) fn spread(self, region: u64, number: u64) -> u64 {
        self.first(region) + (number.wrapping_mul(SCATTER) & (self.span() - 1))
    }

    /// The key that halves what [`KeySpace::spread`] gives.
    pub(crate) fn middle(self, region: u64) -> u64 {
        self.first(region) + self.span() / 2
    }

    fn first(self, region: u64) -> u64 {
        region * (u64::MAX / self.regions)
    }

    /// How many keys `spread` gives: a power of two.
    fn span(self) -> u64 {
        1 << (u64::MAX / self.regions).ilog2()
    }
}

/// Odd, so that multiplication by it permutes the numbers below any power of two; near the golden section of 2^64, so that it
/// scatters them (Knuth, "The Art of Computer Programming", volume 3, section 6.4).
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The command that sets a key.
pub(crate) fn set(key: &[u8], value: &[u8]) -> Bytes {
    let mut command = BytesMut::with_capacity(key.len() + value.len());
    command.put_slice(key);
    command.put_slice(value);
    command.freeze()
}

/// Sets the key that begins a command to the rest of it; answers `ok`, or what is wrong.
pub(crate) struct PutMap;

/// What [`PutMap`] answers to a command that it carried out.
pub(crate) const DONE: &[u8] = b"ok";

impl StateMachine for PutMap {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let Some((key, value)) = command.split_at_checked(KEY_BYTES) else {
            return Ok(Bytes::from_static(b"a command has at least the eight bytes of its key"));
        };
        Ok(match state.put(key, value) {
            Ok(()) => Bytes::from_static(DONE),
            Err(outside) => Bytes::from(outside.to_string()),
        })
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        Ok(view.get(query)?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_lies_between_the_boundaries_of_its_region() {
        for regions in [1, 2, 48, 1000] {
            let keys = KeySpace::new(regions);
            let boundaries = keys.boundaries();
            assert_eq!(boundaries.len() as u64, regions - 1);
            for region in 0..regions {
                for draw in [0, 1, 7, u64::MAX] {
                    let key = keys.key(region, draw);
                    let owner = boundaries.partition_point(|boundary| *boundary <= key);
                    assert_eq!(owner as u64, region, "{regions} regions, draw {draw}");
                }
            }
        }
    }

    #[test]
    fn keys_that_are_spread_differ_and_lie_evenly_on_both_sides_of_the_middle() {
        for regions in [1, 2, 3, 1000] {
            let keys = KeySpace::new(regions);
            for region in [0, regions - 1] {
                let mut list: Vec<u64> = (0..1000).map(|number| keys.spread(region, number)).collect();
                list.sort_unstable();
                list.dedup();
                let left = list.iter().filter(|key| **key < keys.middle(region)).count();
                assert!(
                    list.len() == 1000 && (480..520).contains(&left),
                    "{regions} regions: {left} of {}",
                    list.len()
                );
                assert!(list[0] >= keys.first(region) && list[999] - keys.first(region) < u64::MAX / regions);
            }
        }
    }
}
