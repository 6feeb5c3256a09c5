//! What a seed decides before a run begins: the cluster, its options, the load, and which faults there are.
//!
//! Every seed turns each kind of fault and of operation on or off ("swarm testing": Groce et al., 2012): a run that has
//! everything at once never gets far in anything.

use std::time::Duration;

use multiraft::logic::SnapshotLimits;
use multiraft_raft::Options;
use multiraft_storage::LogOptions;

use crate::disaster::Disaster;
use crate::life::Life;
use crate::random::Random;
use crate::schedule::{MICRO, MILLI, SECOND};

/// How long faults happen.
pub const CHAOS: u64 = 40 * SECOND;
/// How long the cluster then has to recover, converge and be looked at. A run lasts this much longer than the chaos.
pub const RECOVERY: u64 = 20 * SECOND;

/// Which form of state machine the stores run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// On a shared state store that survives restarts.
    SharedDurable,
    /// On a shared state store in memory, kept by snapshot files and the log.
    SharedVolatile,
    /// A machine of its own for each region, kept by snapshot files and the log.
    Own,
}

/// The kinds of faults that happen by themselves, at random moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A store dies at some point of its work and starts again later.
    Crash,
    /// More than one store dies, up to all of them.
    CrashMany,
    /// A store stops in order and starts again.
    Restart,
    /// No packet passes between two stores, in either direction.
    Cut,
    /// No packet passes from one store to another; the other direction works.
    CutOneWay,
    /// A store is cut off from all others.
    Isolate,
    /// A connection breaks and is made again.
    Reset,
    /// Packets between two stores take long.
    SlowLink,
    /// Flushes of a store's log take long.
    DiskStall,
    /// A store's disk has no room for a while.
    NoSpace,
    /// A store's state store takes long to flush, its applier to apply.
    SlowState,
    /// A store stands still, and goes on as if nothing had been.
    Pause,
    /// Snapshots on their way to a store are lost.
    BreakSnapshots,
    /// A sync of a store's log fails.
    SyncFails,
    /// A store dies, and sectors of its log change before it starts again.
    DamageLog,
    /// A store dies, and its whole disk is lost: it comes back empty, once every region has given it up.
    Wipe,
}

impl Fault {
    /// All kinds but [`Fault::Wipe`], which is drawn apart, with how often they happen when they are on: the mean time between two, in milliseconds.
    pub const ALL: [(Self, u64); 15] = [
        (Self::Crash, 3_000),
        (Self::CrashMany, 9_000),
        (Self::Restart, 9_000),
        (Self::Cut, 4_000),
        (Self::CutOneWay, 4_000),
        (Self::Isolate, 6_000),
        (Self::Reset, 1_500),
        (Self::SlowLink, 4_000),
        (Self::DiskStall, 4_000),
        (Self::NoSpace, 7_000),
        (Self::SlowState, 5_000),
        (Self::Pause, 5_000),
        (Self::BreakSnapshots, 3_000),
        (Self::SyncFails, 9_000),
        (Self::DamageLog, 15_000),
    ];
}

/// What clients do, in parts of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many clients there are.
    pub clients: u64,
    /// The mean pause of a client between two operations, in nanoseconds.
    pub think: u64,
    /// Keys in each region.
    pub keys: u64,
    /// How many bytes of padding commands carry at most.
    pub padding: u64,
    /// Reads.
    pub reads: u64,
    /// Compare-and-set among the writes of registers.
    pub cas: u64,
    /// Writes that belong to a session.
    pub sessions: u64,
    /// Answered commands of a session that are sent once more.
    pub duplicates: u64,
    /// Leader transfers.
    pub transfers: u64,
}

/// How long things take when nothing is wrong, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    /// From store to store, one way.
    pub network: u64,
    /// A flush of the log.
    pub flush: u64,
    /// Applying a batch.
    pub apply: u64,
    /// A flush of the state store, or writing a snapshot file.
    pub checkpoint: u64,
    /// How long a connection lives without hearing from the other end.
    pub idle_timeout: u64,
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Worker threads of each store; its length is the number of stores.
    pub workers: Vec<usize>,
    /// How many regions there are besides the root.
    pub regions: u64,
    /// The form of state machine.
    pub form: Form,
    /// The groups' options.
    pub raft: Options,
    /// The log's options.
    pub log: LogOptions,
    /// See `WorkerConfig::compact_entries`.
    pub compact_entries: u64,
    /// See `WorkerConfig::compact_keep_entries`.
    pub compact_keep_entries: u64,
    /// See `WorkerConfig::apply_queue_bytes`.
    pub apply_queue_bytes: usize,
    /// See `WorkerConfig::snapshots_at_once`.
    pub snapshots_at_once: usize,
    /// See `WorkerConfig::snapshots`.
    pub snapshots: SnapshotLimits,
    /// The size of a snapshot's chunks: states are small here, and a transfer has to have a middle to break in.
    pub chunk_bytes: usize,
    /// See `WorkerConfig::balance_leaders`.
    pub balance_leaders: bool,
    /// See `WorkerConfig::beats_at_once`.
    pub beats_at_once: usize,
    /// How long a caller waits.
    pub request_timeout: Duration,
    /// How often applied state is made durable.
    pub checkpoint_interval: u64,
    /// What may wait on an append lane, in bytes.
    pub lane_bytes: usize,
    /// What stores' clocks gain, in millionths.
    pub drift_ppm: Vec<i64>,
    /// Leaders read by lease.
    pub leases: bool,
    /// Stores that are slow hand their leaders over.
    pub sheds_leaders: bool,
    /// How long things take.
    pub latencies: Latencies,
    /// What clients do.
    pub load: Load,
    /// How long faults happen, in nanoseconds; [`CHAOS`] unless a scenario is to be short.
    pub chaos: u64,
    /// What becomes of the regions.
    pub life: Life,
    /// Whether stores die for good, and a lost quorum is recovered.
    pub disaster: Option<Disaster>,
    /// The faults that are on, with the mean time between two, in nanoseconds.
    pub faults: Vec<(Fault, u64)>,
}

impl Plan {
    /// What `seed` decides.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        Self::draw_by(seed, false)
    }

    /// What `seed` decides about a run in which a disaster comes in any case. Where it comes anyway, the run is the same.
    #[must_use]
    pub fn draw_disaster(seed: u64) -> Self {
        Self::draw_by(seed, true)
    }

    fn draw_by(seed: u64, disaster: bool) -> Self {
        let mut random = Random::new(seed);
        let stores = if random.chance(200) { 5 } else { 3 };
        let compact_entries = random.pick(&[8, 20, 60, 200]);
        let mut plan = Self {
            seed,
            workers: (0..stores).map(|_| random.between(1, 3) as usize).collect(),
            regions: if random.chance(150) { random.between(12, 20) } else { random.between(3, 8) },
            form: random.pick(&[Form::SharedDurable, Form::SharedDurable, Form::SharedVolatile, Form::Own]),
            raft: draw_raft(&mut random),
            log: LogOptions { segment_bytes: random.pick(&[16 << 10, 32 << 10, 64 << 10]), ..LogOptions::small() },
            compact_entries,
            compact_keep_entries: random.pick(&[0, 2, compact_entries / 2]),
            apply_queue_bytes: random.pick(&[600, 4 << 10, 64 << 10, 1 << 20]),
            snapshots_at_once: random.between(1, 4) as usize,
            snapshots: draw_snapshots(seed),
            chunk_bytes: 64 << (seed % 4),
            balance_leaders: random.chance(500),
            beats_at_once: draw_beats(seed),
            request_timeout: Duration::from_millis(random.between(500, 3000)),
            checkpoint_interval: random.between(100, 1500) * MILLI,
            lane_bytes: random.pick(&[1 << 10, 16 << 10, 1 << 20]),
            drift_ppm: (0..stores).map(|_| random.below(40_001) as i64 - 20_000).collect(),
            latencies: draw_latencies(&mut random),
            load: draw_load(&mut random),
            faults: draw_faults(&mut random),
            chaos: CHAOS,
            leases: seed.is_multiple_of(2),
            sheds_leaders: (seed / 2).is_multiple_of(2),
            life: Life::none(),
            disaster: None,
        };
        plan.life = Life::draw(seed, plan.regions);
        if disaster {
            // Most of what recoveries have to be right about is what regions are in the middle of.
            let others = (1..64).map(|other| Life::draw(seed ^ (other << 48), plan.regions));
            let drawn = std::iter::once(plan.life.clone()).chain(others).find(|life| !life.operations.is_empty());
            plan.life = drawn.unwrap_or(plan.life);
        }
        // Replicas that damage puts out of service stay where they are as long as regions do not move: what is judged then
        // knows them by their store. So a seed has one or the other.
        let damages = plan.faults.iter().any(|(fault, _)| *fault == Fault::DamageLog);
        if damages && !plan.life.operations.is_empty() {
            if seed.is_multiple_of(3) && !disaster {
                plan.life = Life::none();
            } else {
                plan.faults.retain(|(fault, _)| *fault != Fault::DamageLog);
            }
        }
        // Likewise with replicas that damage puts out of service: who survives must be able to say what it holds.
        if !plan.life.operations.is_empty() {
            plan.disaster = Disaster::draw(seed, disaster);
            // Somebody has to take the lost store out of its regions. Not after a disaster: what its survivors must still have, a wipe
            // may take from them. Nor with damaged logs, which there are only where regions stay what they are.
            let may_wipe = plan.disaster.is_none();
            plan.faults.extend(draw_wipe(seed).filter(|_| may_wipe).map(|interval| (Fault::Wipe, interval)));
        }
        for spare in 0..plan.life.spares {
            plan.workers.push(1 + spare);
            plan.drift_ppm.push(0);
        }
        plan
    }

    /// How many stores the cluster begins with; those behind them hold nothing at first.
    #[must_use]
    pub fn first_stores(&self) -> usize {
        self.workers.len() - self.life.spares
    }

    /// How many stores there are.
    #[must_use]
    pub fn stores(&self) -> usize {
        self.workers.len()
    }

    /// The mean time between two faults of a kind, if it is on.
    #[must_use]
    pub fn interval(&self, fault: Fault) -> Option<u64> {
        self.faults.iter().find(|(kind, _)| *kind == fault).map(|(_, interval)| *interval)
    }
}

fn draw_raft(random: &mut Random) -> Options {
    let heartbeat = random.between(50, 150);
    let election = heartbeat * random.between(4, 10);
    let tight = random.chance(400);
    let small = |random: &mut Random, low: u64, normal: usize| {
        if tight { random.between(low, low * 20) as usize } else { normal }
    };
    Options {
        heartbeat_interval: Duration::from_millis(heartbeat),
        election_timeout_min: Duration::from_millis(election),
        election_timeout_max: Duration::from_millis(election * 2),
        max_append_bytes: small(random, 200, 64 << 10),
        max_inflight_appends: small(random, 1, 64),
        max_inflight_bytes: small(random, 500, 1 << 20),
        max_uncommitted_bytes: small(random, 1_000, 1 << 20),
        max_cached_bytes: if random.chance(500) { 0 } else { 16 << 10 },
        max_committed_bytes: small(random, 200, 64 << 10),
        max_applying_bytes: small(random, 500, 1 << 20),
        max_pending_reads: small(random, 2, 1024),
        pre_vote: random.chance(850),
        check_quorum: random.chance(850),
        eager_commit: random.chance(500),
    }
}

/// Tight limits in some seeds. Has a source of its own, so that the rest of a seed stays what it was.
fn draw_snapshots(seed: u64) -> SnapshotLimits {
    let mut random = Random::new(seed ^ 0x005a_a950);
    SnapshotLimits {
        step_timeout: Duration::from_millis(random.between(2_000, 6_000)),
        hold_entries: if random.chance(150) { random.between(0, 20) } else { 10_000 },
        hold_bytes: if random.chance(150) { random.between(500, 5_000) } else { 10 << 20 },
        kept_for: Duration::from_millis(random.between(1_000, 20_000)),
        kept_count: random.between(1, 4) as usize,
        kept_bytes: if random.chance(150) { random.between(100, 2_000) } else { 10 << 20 },
        retry_min: Duration::from_millis(random.between(20, 500)),
        retry_max: Duration::from_secs(2),
    }
}

/// In half of the seeds heartbeats are put off wherever there is more than a group or two. Has a source of its own, so that the rest of a
/// seed stays what it was.
fn draw_beats(seed: u64) -> usize {
    Random::new(seed ^ 0x0bea_7500_9ace).pick(&[1, 2, 256, 256])
}

fn draw_latencies(random: &mut Random) -> Latencies {
    Latencies {
        network: random.between(50, 5_000) * MICRO,
        flush: random.between(50, 5_000) * MICRO,
        apply: random.between(10, 2_000) * MICRO,
        checkpoint: random.between(1, 50) * MILLI,
        idle_timeout: random.between(500, 4_000) * MILLI,
    }
}

fn draw_load(random: &mut Random) -> Load {
    Load {
        clients: random.between(3, 8),
        think: random.between(20, 200) * MILLI,
        keys: random.between(2, 6),
        padding: random.pick(&[0, 20, 400]),
        reads: random.between(200, 600),
        cas: random.between(0, 400),
        sessions: if random.chance(700) { random.between(200, 800) } else { 0 },
        duplicates: if random.chance(700) { random.between(50, 400) } else { 0 },
        transfers: if random.chance(600) { random.between(5, 60) } else { 0 },
    }
}

fn draw_faults(random: &mut Random) -> Vec<(Fault, u64)> {
    let pace = random.pick(&[500, 1000, 2000]);
    let on = random.pick(&[250, 500, 800]);
    let drawn: Vec<_> = Fault::ALL.iter().filter(|_| random.chance(on)).collect();
    drawn.into_iter().map(|(fault, millis)| (*fault, millis * pace / 1000 * MILLI)).collect()
}

/// Whether stores lose their disks, and the mean time between two times. Has a source of its own, so that the rest of a seed stays what it
/// was.
fn draw_wipe(seed: u64) -> Option<u64> {
    let mut random = Random::new(seed ^ 0x00e3_9710_57d1_5c00);
    let comes = random.chance(300);
    comes.then(|| random.pick(&[3_000, 6_000, 12_000]) * MILLI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_draws_options_that_the_groups_accept() {
        for seed in 0..500 {
            let plan = Plan::draw(seed);
            assert_eq!(plan.raft.validate(), Ok(()), "seed {seed}");
            assert!(plan.compact_keep_entries <= plan.compact_entries, "seed {seed}");
            assert_eq!(plan.drift_ppm.len(), plan.stores(), "seed {seed}");
        }
    }

    #[test]
    fn disasters_come_in_some_seeds_and_never_with_damaged_logs() {
        let with = |seed: &u64| Plan::draw(*seed).disaster.is_some();
        let drawn: Vec<u64> = (0..400).filter(with).collect();
        assert!((20..100).contains(&drawn.len()), "{drawn:?}");
        assert!(drawn.iter().all(|seed| Plan::draw(*seed).interval(Fault::DamageLog).is_none()));
        for seed in 0..400 {
            let plan = Plan::draw_disaster(seed);
            assert!(plan.disaster.is_some() && plan.interval(Fault::DamageLog).is_none(), "seed {seed}");
            if drawn.contains(&seed) {
                assert_eq!(format!("{plan:?}"), format!("{:?}", Plan::draw(seed)));
            }
        }
    }

    #[test]
    fn wipes_come_in_some_seeds_in_which_operators_can_give_stores_up_and_never_with_disasters_or_damaged_logs() {
        let plans = (0..400).map(Plan::draw).filter(|plan| plan.interval(Fault::Wipe).is_some());
        let plans: Vec<Plan> = plans.collect();
        assert!((50..150).contains(&plans.len()), "{}", plans.len());
        for plan in plans {
            assert!(plan.disaster.is_none() && plan.interval(Fault::DamageLog).is_none(), "seed {}", plan.seed);
            assert!(plan.life.operators > 0 && !plan.life.operations.is_empty(), "seed {}", plan.seed);
        }
    }

    #[test]
    fn each_fault_is_on_in_some_seeds_and_off_in_others() {
        for (fault, _) in Fault::ALL {
            let on = (0..200).filter(|seed| Plan::draw(*seed).interval(fault).is_some()).count();
            assert!((40..160).contains(&on), "{fault:?} is on in {on} of 200 seeds");
        }
    }
}
