//! The placement planner: what its rounds cost, and whether it comes to rest.
//!
//! The cluster is the model that the planner's tests use, with all its checks: a broken promise ends the run. Times are real,
//! of `Planner::plan` alone; seconds of a phase are virtual.

// The tests' own model, so that there is one of it.
#[path = "../../engine/tests/logic/placement_model/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod placement_model;

use std::time::{Duration, Instant};

use multiraft::StoreId;
use multiraft::placement::{PlacementOptions, Planner, StoreState};
use placement_model::{Luck, Model};
use serde_json::{Value, json};

use crate::args::Placement;
use crate::cluster::Problem;
use crate::report::{print_table, rounded};

/// Keys of the model's regions.
const KEYS: u64 = 1 << 50;
/// No phase lasts longer, in virtual seconds.
const PHASE_MAX: u64 = 100_000;
/// Rounds of the phase in which little changes, a virtual second apart.
const STEADY_ROUNDS: u64 = 300;

/// The rounds of one phase.
struct Phase {
    name: &'static str,
    seconds: u64,
    operations: u64,
    /// Ascending.
    rounds: Vec<Duration>,
}

impl Phase {
    /// Runs a phase, which says how many virtual seconds it lasted.
    fn run(model: &mut Model, name: &'static str, phase: impl FnOnce(&mut Model) -> u64) -> Self {
        model.rounds.clear();
        let before: u64 = model.tally.kinds.iter().sum();
        let seconds = phase(model);
        let mut rounds = std::mem::take(&mut model.rounds);
        rounds.sort_unstable();
        let operations = model.tally.kinds.iter().sum::<u64>() - before;
        let phase = Self { name, seconds, operations, rounds };
        eprintln!("{}", phase.row().join("  "));
        phase
    }

    /// The time below which `percent` of the rounds stay, in milliseconds.
    fn quantile(&self, percent: usize) -> f64 {
        let at = (self.rounds.len() * percent / 100).min(self.rounds.len().saturating_sub(1));
        self.rounds.get(at).map_or(0.0, |time| millis(*time))
    }

    fn row(&self) -> Vec<String> {
        let figures = [50, 99, 100].map(|percent| format!("{:.2}", self.quantile(percent)));
        let counts = [self.seconds, self.rounds.len() as u64, self.operations].map(|count| count.to_string());
        std::iter::once(self.name.to_owned()).chain(counts).chain(figures).collect()
    }

    fn json(&self) -> Value {
        json!({
            "virtual_seconds": self.seconds, "rounds": self.rounds.len(), "operations": self.operations,
            "p50_ms": self.quantile(50), "p99_ms": self.quantile(99), "max_ms": self.quantile(100),
        })
    }
}

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Placement) -> Result<(), Problem> {
    let begin = Instant::now();
    let mut model = cluster(options);
    let feed = begin.elapsed();
    let full = full_round(&mut model);
    let phases = [
        Phase::run(&mut model, "to rest", |model| model.settle(60, PHASE_MAX)),
        Phase::run(&mut model, "steady", |model| steady(model, options.regions / 1_000)),
        Phase::run(&mut model, "a store dies", |model| {
            model.kill(1);
            model.settle(400, PHASE_MAX)
        }),
        Phase::run(&mut model, "two join, one is emptied", |model| {
            model.set_state(2, StoreState::Draining);
            model.add_store(options.stores + 1, 1, 0, 1);
            model.add_store(options.stores + 2, 2, 0, 1);
            model.settle(120, PHASE_MAX)
        }),
        Phase::run(&mut model, "load shifts", |model| {
            model.shift_load(0..KEYS / 50, [1.0, 20.0, 20.0]);
            model.settle(120, PHASE_MAX)
        }),
        Phase::run(&mut model, "an hour of rest", an_hour),
    ];
    let is_drained = model.view.drained() == [StoreId(2)];
    println!("feeding the view: {:.0} ms; a first round over all: {:.1} ms", millis(feed), millis(full));
    let head = ["phase", "virtual s", "rounds", "operations", "p50 ms", "p99 ms", "max ms"];
    print_table(&head, &phases.iter().map(Phase::row).collect::<Vec<_>>());
    println!("moved {} replicas and {} leaders", model.tally.replicas_moved, model.tally.transfers);
    if options.json {
        println!("{}", summary(options, &model, feed, full, &phases, is_drained));
    }
    let rest = phases[5].operations;
    if rest == 0 && is_drained {
        return Ok(());
    }
    Err(Problem::NoRest { operations: rest, drained: is_drained })
}

fn summary(
    options: &Placement,
    model: &Model,
    feed: Duration,
    full: Duration,
    phases: &[Phase; 6],
    is_drained: bool,
) -> Value {
    json!({
        "bench": "placement", "stores": options.stores, "regions": options.regions, "seed": options.seed,
        "regions_end": model.regions.len(), "feed_ms": rounded(millis(feed)), "full_round_ms": rounded(millis(full)),
        "to_rest": phases[0].json(), "steady": phases[1].json(), "repair": phases[2].json(),
        "drain": phases[3].json(), "load": phases[4].json(), "rest": phases[5].json(),
        "replicas_moved": model.tally.replicas_moved, "leaders_moved": model.tally.transfers, "drained": is_drained,
    })
}

/// Stores in five zones of four racks; regions in three zones each, led in turn, with loads and sizes that differ.
fn cluster(options: &Placement) -> Model {
    let mut model = Model::new(PlacementOptions::default(), options.seed);
    for id in 1..=options.stores {
        model.add_store(id, id % 5, id / 5 % 4, 1);
    }
    let width = KEYS / options.regions;
    for n in 0..options.regions {
        let mut on = vec![StoreId(1 + n % options.stores)];
        while on.len() < 3 {
            let store = StoreId(1 + model.random.below(options.stores));
            if on.iter().all(|other| other.0 % 5 != store.0 % 5) {
                on.push(store);
            }
        }
        let mut near = |mean: f64| mean * (0.5 + model.random.part());
        let load = [near(6e7), near(20.0), near(60.0)];
        model.add_region(n * width, (n + 1) * width, &on, load);
    }
    model.luck = Luck { failing: 20, silent: 1, lag: 3, noise: 30 };
    model
}

/// The median of five planners that see the cluster for the first time.
fn full_round(model: &mut Model) -> Duration {
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let mut planner = Planner::new(model.planner.options().clone()).expect("options that fit");
            let begin = Instant::now();
            let plan = planner.plan(model.now, &model.view);
            let took = begin.elapsed();
            drop(plan);
            took
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Some regions change a little each second: their load wanders by a third.
fn steady(model: &mut Model, regions: u64) -> u64 {
    let width = KEYS / model.regions.len() as u64;
    for round in 0..STEADY_ROUNDS {
        let from = model.random.below(KEYS - regions * width);
        let by = if round % 2 == 0 { 1.33 } else { 0.75 };
        model.shift_load(from..from + regions * width, [1.0, by, by]);
        model.step(Duration::from_secs(1));
    }
    STEADY_ROUNDS
}

/// All regions report once a minute, each figure off by a little; nothing may be planned.
fn an_hour(model: &mut Model) -> u64 {
    for _ in 0..60 {
        model.report_all();
        for _ in 0..6 {
            model.step(Duration::from_secs(10));
        }
    }
    3_600
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
