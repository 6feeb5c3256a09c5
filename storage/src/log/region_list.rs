//! Many regions in few bytes: for lists that only grow and are read once.

use multiraft_raft::RegionId;

/// What is taken from the allocator at once; only a list's first piece grows up to it.
const CHUNK: usize = 1024;
const REGION_MAX: usize = 10;

/// Regions in the order in which they came: each as its difference from the one before, with seven bits to a byte.
#[derive(Debug, Default)]
pub(crate) struct RegionList {
    chunks: Vec<Vec<u8>>,
    length: usize,
    /// The newest of the last chunk.
    newest: u64,
}

impl RegionList {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn push(&mut self, region: RegionId) {
        if self.chunks.last().is_none_or(|last| last.len() + REGION_MAX > CHUNK) {
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK) });
            self.newest = 0;
        }
        let last = self.chunks.last_mut().expect("there is one now");
        let difference = region.0.wrapping_sub(self.newest) as i64;
        let mut folded = ((difference << 1) ^ (difference >> 63)) as u64;
        while folded >= 0x80 {
            last.push(folded as u8 | 0x80);
            folded >>= 7;
        }
        last.push(folded as u8);
        self.newest = region.0;
        self.length += 1;
    }

    /// Takes some of the newest out; none if it is empty.
    pub(crate) fn take_some(&mut self) -> Vec<RegionId> {
        let taken = self.chunks.pop().map_or_else(Vec::new, |chunk| decode(&chunk).collect());
        self.length -= taken.len();
        // What is pushed next goes on in the chunk that is the last now.
        self.newest = self.chunks.last().and_then(|last| decode(last).last()).map_or(0, |newest| newest.0);
        taken
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RegionId> {
        self.chunks.iter().flat_map(|chunk| decode(chunk))
    }
}

impl FromIterator<RegionId> for RegionList {
    fn from_iter<T: IntoIterator<Item = RegionId>>(regions: T) -> Self {
        let mut list = Self::default();
        regions.into_iter().for_each(|region| list.push(region));
        list
    }
}

/// The regions of one chunk.
fn decode(chunk: &[u8]) -> impl Iterator<Item = RegionId> {
    let mut region: u64 = 0;
    let (mut folded, mut shift) = (0_u64, 0);
    chunk.iter().filter_map(move |byte| {
        folded |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if *byte >= 0x80 {
            return None;
        }
        region = region.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg());
        (folded, shift) = (0, 0);
        Some(RegionId(region))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_pushed_is_taken(
            regions in prop::collection::vec(prop_oneof![any::<u64>(), 0..2_000_u64], 0..1_000),
            more in prop::collection::vec(0..2_000_u64, 0..20),
        ) {
            let mut pushed: Vec<RegionId> = regions.into_iter().map(RegionId).collect();
            let mut list: RegionList = pushed.iter().copied().collect();
            prop_assert_eq!(list.len(), pushed.len());
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), &pushed[..]);
            let newest = list.take_some();
            prop_assert_eq!(newest.is_empty(), pushed.is_empty());
            prop_assert_eq!(&newest[..], &pushed[pushed.len() - newest.len()..]);
            pushed.truncate(pushed.len() - newest.len());
            for region in more {
                list.push(RegionId(region));
                pushed.push(RegionId(region));
            }
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), &pushed[..]);
            let mut taken = 0;
            while !list.is_empty() {
                taken += list.take_some().len();
            }
            prop_assert_eq!(taken, pushed.len());
        }
    }

    #[test]
    fn a_region_takes_three_bytes_or_less() {
        let list: RegionList = (0..100_000_u64).map(|number| RegionId(number * 7919 % 100_000)).collect();
        let bytes: usize = list.chunks.iter().map(Vec::capacity).sum();
        assert!(bytes <= 310_000, "{bytes}");
    }
}
