//! What the stores are told of when regions split and merge: thresholds that follow from the data set and the number of
//! regions that there shall be.

/// Regions that hold so many times less than an average one are merged.
const SMALL: u64 = 8;
/// Growing goes on until there are as many regions as there shall be: it splits what holds more than this part of an average
/// one then.
const GROWING: u64 = 2;
/// Once grown, what merges may hold, together, half of this many times what an average region does.
const GROWN: u64 = 8;

/// The thresholds of one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    split_bytes: u64,
    merge_bytes: u64,
    regions_max: usize,
}

impl Policy {
    /// While the data comes in: splits only.
    pub(crate) fn growing(bytes: usize, wanted: usize) -> Self {
        let split_bytes = (average(bytes, wanted) / GROWING).max(1);
        Self { split_bytes, merge_bytes: 0, regions_max: wanted }
    }

    /// From then on: merges of what has become small, and no splits, not even of a region in which all is deleted in no time.
    pub(crate) fn grown(bytes: usize, wanted: usize) -> Self {
        let average = average(bytes, wanted);
        Self { split_bytes: average * GROWN, merge_bytes: (average / SMALL).max(1), regions_max: 1 }
    }

    /// For the command line of a store.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { split_bytes, merge_bytes, regions_max } = self;
        let arguments = format!(
            "--placement --placement-interval 250ms --balance-after 3s --split-bytes {split_bytes} \
             --merge-bytes {merge_bytes} --merge-after 2s --regions-max {regions_max}"
        );
        arguments.split(' ').map(str::to_owned).collect()
    }
}

/// What an average region holds.
fn average(bytes: usize, wanted: usize) -> u64 {
    (bytes / wanted.max(1)).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_leaves_nothing_that_is_split_or_merged_later() {
        for wanted in [1, 2, 3, 24, 63, 64, 100] {
            let bytes = 2_000_000;
            let (growing, grown) = (Policy::growing(bytes, wanted), Policy::grown(bytes, wanted));
            // Halved as often as there are enough regions, the smallest and the largest part.
            let mut halvings = 0;
            while 1 << (halvings + 1) <= wanted {
                halvings += 1;
            }
            let (largest, smallest) = (bytes as u64 >> halvings, bytes as u64 >> (halvings + 1));
            assert!(smallest > growing.split_bytes / 2, "{wanted}: it goes on until there are enough");
            assert!(largest * 3 / 2 < grown.split_bytes, "{wanted}: values grow, and halves are not exact");
            assert!(smallest / 2 > grown.merge_bytes, "{wanted}");
            assert!(grown.merge_bytes * 4 < grown.split_bytes, "{wanted}: else the options are refused");
        }
    }
}
