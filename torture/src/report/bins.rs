//! Operations aggregated over time and latency, so that a drawing has the same size for a thousand operations and a million.

use super::operations::{Operation, Operations, Outcome};
use super::words::round_above;

/// Time in bins of a round width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeBins {
    /// Nanoseconds.
    pub(super) width: u64,
    pub(super) count: usize,
}

impl TimeBins {
    /// At most so many bins for a run of that length.
    pub(super) fn of(length: u64, most: usize) -> Self {
        let mut width = round_above(length / most.max(1) as u64 + 1);
        // A round width is more than enough, but for lengths beyond all round numbers.
        if length / width >= most as u64 {
            width = u64::MAX;
        }
        Self { width, count: (length / width) as usize + 1 }
    }

    pub(super) fn bin(&self, time: u64) -> usize {
        ((time / self.width) as usize).min(self.count - 1)
    }
}

/// How many operations ended in each bin, by outcome.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    pub(super) time: TimeBins,
    pub(super) bins: Vec<[u64; 3]>,
    /// The longest latency of those that ended there.
    pub(super) slowest: Vec<u64>,
}

impl Rates {
    /// Operations without an end are counted where they began.
    pub(super) fn of(operations: &Operations<'_>, time: TimeBins) -> Self {
        let (mut bins, mut slowest) = (vec![[0; 3]; time.count], vec![0; time.count]);
        for operation in &operations.all {
            let bin = time.bin(operation.end.unwrap_or(operation.begin));
            bins[bin][operation.outcome as usize] += 1;
            let latency = operation.end.map_or(0, |end| end - operation.begin);
            slowest[bin] = latency.max(slowest[bin]);
        }
        Self { time, bins, slowest }
    }

    /// The most that ended in a bin.
    pub(super) fn most(&self) -> u64 {
        self.bins.iter().map(|bin| bin.iter().sum()).max().unwrap_or(0)
    }
}

/// Latencies from one power of ten to another, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decades {
    pub(super) low: u32,
    pub(super) high: u32,
}

impl Decades {
    /// Those that hold the latencies of all operations which ended. At least one.
    pub(super) fn of(operations: &Operations<'_>) -> Self {
        let latencies = || operations.all.iter().filter_map(latency);
        let least = latencies().min().unwrap_or(1_000_000).max(1);
        let most = latencies().max().unwrap_or(10_000_000).max(1);
        let low = least.ilog10();
        let high = if 10_u64.checked_pow(most.ilog10()) == Some(most) { most.ilog10() } else { most.ilog10() + 1 };
        Self { low, high: high.max(low + 1) }
    }

    /// Where a latency lies between the lowest, 0, and the highest, 1.
    pub(super) fn place(&self, latency: u64) -> f64 {
        let log = (latency.max(1) as f64).log10();
        ((log - f64::from(self.low)) / f64::from(self.high - self.low)).clamp(0.0, 1.0)
    }
}

fn latency(operation: &Operation) -> Option<u64> {
    operation.end.map(|end| end - operation.begin)
}

/// How many operations began in a bin of time and took a latency of a bin, by outcome.
#[derive(Clone, Debug)]
pub(super) struct Density {
    pub(super) time: TimeBins,
    pub(super) rows: usize,
    /// Row by row, the fastest first.
    cells: Vec<[u32; 3]>,
    /// Operations without an end, by bin of time.
    pub(super) open: Vec<u64>,
}

impl Density {
    pub(super) fn of(operations: &Operations<'_>, time: TimeBins, decades: Decades, rows: usize) -> Self {
        let mut density = Self { time, rows, cells: vec![[0; 3]; rows * time.count], open: vec![0; time.count] };
        for operation in &operations.all {
            let column = time.bin(operation.begin);
            match latency(operation) {
                Some(latency) => {
                    let row = ((decades.place(latency) * rows as f64) as usize).min(rows - 1);
                    let cell = &mut density.cells[row * time.count + column][operation.outcome as usize];
                    *cell = cell.saturating_add(1);
                }
                None => density.open[column] += 1,
            }
        }
        density
    }

    pub(super) fn at(&self, row: usize, column: usize, outcome: Outcome) -> u32 {
        self.cells[row * self.time.count + column][outcome as usize]
    }

    /// The most of an outcome in a cell.
    pub(super) fn most(&self) -> u32 {
        self.cells.iter().flatten().copied().max().unwrap_or(0)
    }
}

/// Round moments of a run for an axis, at most so many beside zero.
pub(super) fn ticks(length: u64, most: u64) -> impl Iterator<Item = u64> {
    let step = round_above(length / most.max(1) + 1);
    (0..=length / step).map(move |place| place * step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::operations::Operation;
    use super::*;

    fn any_operations() -> impl Strategy<Value = Operations<'static>> {
        let time = || prop_oneof![0..1_000_u64, any::<u64>()];
        let one = (time(), prop::option::of(time()), 0..3_usize);
        prop::collection::vec(one, 0..50).prop_map(|all| {
            let all: Vec<Operation> = all
                .into_iter()
                .map(|(begin, end, outcome)| {
                    let end = end.map(|end| end.max(begin));
                    let outcome = if end.is_none() { Outcome::Info } else { Outcome::ALL[outcome] };
                    Operation { function: 0, begin, end, outcome }
                })
                .collect();
            let length = all.iter().map(|one| one.end.unwrap_or(one.begin)).max().unwrap_or(0);
            Operations { all, length, ..Operations::default() }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_operation_is_in_one_bin(operations in any_operations(), most in 1..300_usize, rows in 1..60_usize) {
            let time = TimeBins::of(operations.length, most);
            prop_assert!(time.count <= most && time.count > 0, "{time:?}");
            let count = |outcome| operations.all.iter().filter(|one| one.outcome == outcome).count() as u64;
            let rates = Rates::of(&operations, time);
            let density = Density::of(&operations, time, Decades::of(&operations), rows);
            for outcome in Outcome::ALL {
                let ended: u64 = rates.bins.iter().map(|bin| bin[outcome as usize]).sum();
                prop_assert_eq!(ended, count(outcome));
                let cells = (0..rows).flat_map(|row| (0..time.count).map(move |column| (row, column)));
                let told: u64 = cells.map(|(row, column)| u64::from(density.at(row, column, outcome))).sum();
                let open = if outcome == Outcome::Info { density.open.iter().sum::<u64>() } else { 0 };
                prop_assert_eq!(told + open, count(outcome));
            }
        }

        #[test]
        fn ticks_are_few_and_within_the_run(length in any::<u64>(), most in 1..20_u64) {
            let ticks: Vec<u64> = ticks(length, most).collect();
            prop_assert_eq!(ticks[0], 0);
            prop_assert!(ticks.len() as u64 <= most + 1);
            prop_assert!(ticks.iter().all(|tick| *tick <= length));
        }
    }

    #[test]
    fn decades_hold_all_latencies() {
        let took = |latency| Operation { function: 0, begin: 5, end: Some(5 + latency), outcome: Outcome::Ok };
        let of = |latencies: &[u64]| {
            let all = latencies.iter().map(|latency| took(*latency)).collect();
            let Decades { low, high } = Decades::of(&Operations { all, ..Operations::default() });
            (low, high)
        };
        assert_eq!(of(&[1_000]), (3, 4));
        assert_eq!(of(&[1_500, 99_000, 100_000]), (3, 5));
        assert_eq!(of(&[0, 100_001]), (0, 6));
        assert_eq!(of(&[]), (6, 7));
    }
}
