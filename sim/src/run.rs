//! Many seeds, one after the other on a few threads; each seed's run stays on one.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::check::Violation;
use crate::cluster::{Cluster, Report};
use crate::counters::Counters;
use crate::plan::Plan;
use crate::plant::Plant;

/// Runs one seed. An assertion that fails in what ships is a violation like any other.
#[must_use]
pub fn run_seed(seed: u64, plant: Option<Plant>, verbose: bool) -> Report {
    run_plan(Plan::draw(seed), plant, verbose)
}

/// Runs what a seed has decided.
#[must_use]
pub fn run_plan(plan: Plan, plant: Option<Plant>, verbose: bool) -> Report {
    caught(plan.seed, || Cluster::new(plan, plant, verbose).run())
}

pub(crate) fn caught(seed: u64, run: impl FnOnce() -> Report) -> Report {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Report {
            seed,
            violation: Some(Violation::new("no assertion fails", text.unwrap_or_else(|| "panicked".to_owned()))),
            counters: Counters::default(),
            digest: 0,
            virtual_nanos: 0,
        }
    })
}

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many seeds were run.
    pub seeds: u64,
    /// How much virtual time they took together, in nanoseconds.
    pub virtual_nanos: u128,
    /// What happened in all of them.
    pub counters: Counters,
    /// The runs that broke a rule, by seed.
    pub failed: Vec<Report>,
}

impl Summary {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.virtual_nanos += u128::from(report.virtual_nanos);
        self.counters.add(&report.counters);
        if report.violation.is_some() {
            self.failed.push(report);
            self.failed.sort_by_key(|report| report.seed);
        }
    }
}

/// Runs the seeds of a range, as `draw` has them decide, on `threads` threads; begins no further seed when `budget` has passed.
/// `on_failure` hears of each failed run at once.
#[must_use]
pub fn run_seeds(
    seeds: Range<u64>,
    draw: fn(u64) -> Plan,
    threads: usize,
    budget: Option<Duration>,
    on_failure: &(dyn Fn(&Report) + Sync),
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let began = Instant::now();
    let work = || {
        while budget.is_none_or(|budget| began.elapsed() < budget) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let report = run_plan(draw(seed), None, false);
            if report.violation.is_some() {
                on_failure(&report);
            }
            summary.lock().unwrap_or_else(PoisonError::into_inner).add(report);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for the first seed that finds a planted bug.
#[must_use]
pub fn find(plant: Plant, seeds: Range<u64>) -> Option<Report> {
    seeds.map(|seed| run_seed(seed, Some(plant), false)).find(|report| report.violation.is_some())
}
