//! One split, one exchange of replicas, and one merge, with everything that can go wrong in them, one after the other: a crash of each
//! store before and after each of its durable writes (also between two operations of one write of a disk), and each
//! message lost once, with its connection. All judges are on in every run.

use crate::cluster::{Cluster, Report};
use crate::life::{Life, Operation};
use crate::plan::{Form, Plan};
use crate::schedule::{MILLI, SECOND};

/// What is asked for, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The only region is split.
    Split,
    /// A replica of the only region is replaced by one on a store that has nothing.
    Replicas,
    /// One of the only two regions takes over the other.
    Merge,
}

/// A disk of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreDisk {
    /// The log's.
    Log,
    /// The snapshot files'.
    Files,
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The store dies when it comes to its nth point before or after a durable write; what was not flushed is kept, or lost.
    Crash {
        /// Which.
        store: usize,
        /// Counted from the beginning of the operation.
        point: u64,
        /// Whether what was not flushed is there after it.
        keeps: bool,
    },
    /// The power goes in the middle of a write, before the nth operation of a disk.
    Power {
        /// Whose.
        store: usize,
        /// Which.
        disk: StoreDisk,
        /// Counted from the beginning of the operation.
        operation: u64,
    },
    /// The nth frame is lost, and the connection with it.
    Lose {
        /// Counted from the beginning of the operation.
        frame: u64,
    },
}

/// What a run of a scenario does, and what it has come to.
#[derive(Clone, Debug)]
pub struct Script {
    /// What is asked for.
    pub scenario: Scenario,
    /// What goes wrong, if anything.
    pub strike: Option<Strike>,
    /// Points passed, by store.
    pub points: Vec<u64>,
    /// Operations of the logs' and the files' disks, by store.
    pub operations: Vec<[u64; 2]>,
    /// Frames sent.
    pub frames: u64,
}

/// When the operation is asked for. What comes between this and [`END`] is counted.
pub const BEGIN: u64 = SECOND;
/// When counting ends.
pub const END: u64 = BEGIN + 1_500 * MILLI;

/// What came of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Enumerated {
    /// Runs with a crash before or after a durable write.
    pub crashes: u64,
    /// Runs with a loss of power inside a write.
    pub power_cuts: u64,
    /// Runs with a lost message.
    pub losses: u64,
    /// Runs that broke a rule, with what went wrong in them.
    pub failed: Vec<(Form, Option<Strike>, Report)>,
}

impl Enumerated {
    /// How many runs there were besides those in which nothing goes wrong.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.crashes + self.power_cuts + self.losses
    }
}

/// The cluster of a scenario: small, quick, and without a fault of its own.
#[must_use]
pub fn plan(scenario: Scenario, form: Form) -> Plan {
    let mut plan = Plan::draw(1);
    let spares = usize::from(scenario == Scenario::Replicas);
    plan.workers = vec![2; 3 + spares];
    plan.drift_ppm = vec![0; 3 + spares];
    plan.regions = if scenario == Scenario::Merge { 2 } else { 1 };
    plan.form = form;
    plan.raft = multiraft_raft::Options::default();
    plan.raft.heartbeat_interval = std::time::Duration::from_millis(50);
    plan.raft.election_timeout_min = std::time::Duration::from_millis(200);
    plan.raft.election_timeout_max = std::time::Duration::from_millis(400);
    (plan.compact_entries, plan.compact_keep_entries) = (20, 2);
    plan.apply_queue_bytes = 1 << 20;
    plan.lane_bytes = 1 << 20;
    plan.request_timeout = std::time::Duration::from_millis(1000);
    plan.checkpoint_interval = 300 * MILLI;
    plan.latencies.idle_timeout = 500 * MILLI;
    plan.latencies.network = MILLI / 2;
    plan.latencies.flush = MILLI / 2;
    plan.latencies.apply = MILLI / 5;
    plan.latencies.checkpoint = 5 * MILLI;
    plan.load.clients = 2;
    plan.load.keys = 4;
    plan.load.think = 80 * MILLI;
    plan.load.transfers = 0;
    plan.faults = Vec::new();
    plan.disaster = None;
    plan.chaos = 4 * SECOND;
    let operation = match scenario {
        Scenario::Split => Operation::Split,
        Scenario::Replicas => Operation::Replace,
        Scenario::Merge => Operation::Merge,
    };
    plan.life = Life {
        spares,
        operators: 1,
        think: 100 * MILLI,
        operations: vec![(operation, 1)],
        regions_max: 2,
        regions_min: 1,
        merge_timeout: std::time::Duration::from_millis(1_000),
        strikes: 0,
        voters_min: 3,
        hearsay: 500,
    };
    plan
}

/// One run.
#[must_use]
pub fn run_one(scenario: Scenario, form: Form, strike: Option<Strike>, verbose: bool) -> (Report, Script) {
    let plan = plan(scenario, form);
    let stores = plan.stores();
    let script = Script { scenario, strike, points: vec![0; stores], operations: vec![[0; 2]; stores], frames: 0 };
    Cluster::new(plan, None, verbose).run_script(script)
}

/// Every run of a scenario, in one form of state after the other.
#[must_use]
pub fn enumerate(scenario: Scenario) -> Enumerated {
    let mut all = Enumerated::default();
    for form in [Form::SharedDurable, Form::SharedVolatile, Form::Own] {
        let (report, counted) = run_one(scenario, form, None, false);
        if report.violation.is_some() {
            all.failed.push((form, None, report));
            continue;
        }
        for strike in strikes(&counted) {
            match strike {
                Strike::Crash { .. } => all.crashes += 1,
                Strike::Power { .. } => all.power_cuts += 1,
                Strike::Lose { .. } => all.losses += 1,
            }
            let run = || run_one(scenario, form, Some(strike), false).0;
            let report = crate::run::caught(1, run);
            if report.violation.is_some() {
                all.failed.push((form, Some(strike), report));
            }
        }
    }
    all
}

/// Everything that can go wrong in a run that has counted so much.
fn strikes(counted: &Script) -> Vec<Strike> {
    let mut strikes = Vec::new();
    for (store, points) in counted.points.iter().enumerate() {
        for point in 0..*points {
            strikes.extend([true, false].map(|keeps| Strike::Crash { store, point, keeps }));
        }
    }
    for (store, operations) in counted.operations.iter().enumerate() {
        for (disk, count) in [StoreDisk::Log, StoreDisk::Files].into_iter().zip(operations) {
            strikes.extend((0..*count).map(|operation| Strike::Power { store, disk, operation }));
        }
    }
    strikes.extend((0..counted.frames).map(|frame| Strike::Lose { frame }));
    strikes
}
