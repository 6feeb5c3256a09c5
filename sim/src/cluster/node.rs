//! One store: what survives of it (disk, state store, incarnation), and the process that runs on it, if one does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use multiraft::apply::{AppliedBatch, AppliedRegion, Applier, Backend};
use multiraft::assembly::{Assembled, assemble, bootstrap_regions};
use multiraft::logic::{
    ApplyTask, BeatMerger, Floor, Input, Leases, Questions, Standing, TurnOutput, Worker, WorkerConfig, worker_of,
};
use multiraft::snapshots::{Captures, Received, SnapshotFiles};
use multiraft_raft::{Incarnation, LogIndex, RegionDescriptor, RegionId, StoreId};
use multiraft_storage::disk::CrashStyle;
use multiraft_storage::log::LogError;
use multiraft_storage::state::{MemStore, SimStore};
use multiraft_storage::{LogBatch, LogReader, LogWriter, Recovered, SimDisk};

use super::faults::Point;
use super::routes::Routes;
use super::streams::Streams;
use super::support::SupportHost;
use super::wipe::Absence;
use super::{Cluster, Event, Waiter, id_of};
use crate::check::Violation;
use crate::machine::{self, OwnMachine, SharedMachine};
use crate::plan::{Form, Plan};
use crate::plant::Plant;
use crate::random::Random;
use crate::schedule::{DriftingClock, MILLI, Moment, SECOND};

/// A store and everything of it that outlives its process.
pub(super) struct Node {
    pub(super) clock: DriftingClock,
    /// Holds the log.
    pub(super) disk: SimDisk,
    /// Holds snapshot files.
    pub(super) files_disk: SimDisk,
    /// Holds what a recovery leaves in a data directory.
    pub(super) top: SimDisk,
    /// The durable state store, where the form has one.
    pub(super) state: SimStore,
    pub(super) incarnation: Incarnation,
    /// The longest support that it may have promised, as durable as the incarnation.
    pub(super) promised: Duration,
    /// The first regions are there.
    pub(super) bootstrapped: bool,
    /// Grows with every start and every end of the process.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    pub(super) paused_until: Moment,
    /// What has come while it stands still.
    pub(super) held: Vec<Event>,
    /// Flushes of the log end no earlier.
    pub(super) disk_stalled_until: Moment,
    /// The applier and checkpoints take long until then.
    pub(super) state_slow_until: Moment,
    /// The next syncs of the log include one that fails.
    pub(super) sync_fails: bool,
    /// How often the log was damaged while the store was down.
    pub(super) damages: u32,
    /// Regions that may have lost records to that: out of service here for good.
    pub(super) out: BTreeSet<RegionId>,
    /// Where the process is to die.
    pub(super) armed: Option<(Point, u32)>,
    /// It never comes back.
    pub(super) dead: bool,
    /// Where it is between the loss of its disk and its return.
    pub(super) absence: Option<Absence>,
    /// Which of its replicas were lost with a disk, as durable as the incarnation.
    pub(super) floor: Floor,
    /// The image of the disk to which a crash falls back, if the disk lies about what it has flushed (a planted bug).
    pub(super) lying_image: Option<SimDisk>,
}

/// A running process.
pub(super) struct Process {
    pub(super) workers: Vec<WorkerHost>,
    pub(super) backend: Backend,
    pub(super) merger: BeatMerger,
    pub(super) writer: LogWriter,
    pub(super) reader: LogReader,
    pub(super) queued: Vec<LogBatch>,
    pub(super) flushing: Option<Vec<LogBatch>>,
    pub(super) flushing_since: Moment,
    pub(super) support: SupportHost,
    /// What the workers list for callers.
    pub(super) leases: Arc<Leases>,
    pub(super) questions: Questions<Waiter>,
    /// What a store goes by that does not take a lease back (a planted bug).
    pub(super) kept_standings: BTreeMap<RegionId, Standing>,
    pub(super) files: SnapshotFiles,
    pub(super) received: Received,
    pub(super) captures: Captures,
    pub(super) streams: Streams,
    /// Which region owns a key, as this store knows it.
    pub(super) routes: Routes,
    pub(super) checkpoint: Option<super::apply::Checkpoint>,
    /// By worker: regions whose snapshot files found no room.
    pub(super) unsaved: Vec<Vec<(RegionId, LogIndex)>>,
    /// The workers were told that the log's disk has no room.
    pub(super) log_is_full: bool,
    pub(super) stopping: bool,
    /// Its log is poisoned: it serves nobody any more.
    pub(super) failed: bool,
}

/// One worker with its applier.
pub(super) struct WorkerHost {
    pub(super) worker: Worker<Waiter>,
    pub(super) inputs: Vec<Input<Waiter>>,
    pub(super) out: TurnOutput<Waiter>,
    /// When its next turn is planned.
    pub(super) wake_at: Moment,
    pub(super) applier: Applier,
    pub(super) tasks: VecDeque<ApplyTask<Waiter>>,
    pub(super) applying: Option<Vec<ApplyTask<Waiter>>>,
    pub(super) applying_since: Moment,
    /// What the applier has done as soon as the state store has room again, how much of it the judges have seen, and what comes
    /// after it.
    pub(super) stalled: Option<(AppliedBatch<Waiter>, usize, Vec<ApplyTask<Waiter>>)>,
}

impl Node {
    pub(super) fn new(store: usize, plan: &Plan, random: &mut Random) -> Self {
        Self {
            clock: DriftingClock::new(random.below(1000 * SECOND), plan.drift_ppm[store]),
            disk: SimDisk::new(random.number()),
            files_disk: SimDisk::new(random.number()),
            top: SimDisk::new(store as u64),
            state: SimStore::new(),
            incarnation: Incarnation::ZERO,
            promised: Duration::ZERO,
            // Nothing is made on a spare store: what it comes to hold comes from others.
            bootstrapped: store >= plan.first_stores(),
            life: 0,
            process: None,
            paused_until: Moment::START,
            held: Vec::new(),
            disk_stalled_until: Moment::START,
            state_slow_until: Moment::START,
            sync_fails: false,
            damages: 0,
            out: BTreeSet::new(),
            armed: None,
            dead: false,
            absence: None,
            floor: Floor::Whole,
            lying_image: None,
        }
    }

    /// Whether the process of this life still runs.
    pub(super) fn lives(&self, life: u64) -> bool {
        self.life == life && self.process.is_some()
    }

    pub(super) fn backend(&self, form: Form) -> Backend {
        match form {
            Form::SharedDurable => Backend::shared(Arc::new(SharedMachine), Arc::new(self.state.clone())),
            Form::SharedVolatile => Backend::shared(Arc::new(SharedMachine), Arc::new(MemStore::new())),
            Form::Own => Backend::own(Arc::new(OwnMachine::create)),
        }
    }

    /// The regions that the state holds after a start, made first if the store is new.
    fn open_state(
        &mut self,
        id: StoreId,
        plan: &Plan,
        files: &SnapshotFiles,
    ) -> Result<(Backend, Vec<AppliedRegion>), String> {
        let backend = self.backend(plan.form).of_store(id, files);
        let regions = first_regions(plan);
        if !self.bootstrapped {
            if backend.is_durable() {
                backend.create_regions(&regions).map_err(|error| error.to_string())?;
            } else {
                let first = regions.iter().map(|descriptor| backend.first_snapshot(descriptor)).collect();
                files.save(first).map_err(|error| error.to_string())?;
            }
            self.bootstrapped = true;
        }
        let applied = if backend.is_durable() {
            backend.regions().map_err(|error| error.to_string())?
        } else {
            let restored = files.restore_all(&backend);
            if let Some((region, reason)) = restored.damaged.first() {
                return Err(format!("region {region} cannot be restored: {reason}"));
            }
            restored.regions
        };
        Ok((backend, applied))
    }
}

/// The regions that the first stores begin with.
pub(super) fn first_regions(plan: &Plan) -> Vec<Arc<RegionDescriptor>> {
    let boundaries: Vec<_> = (3..plan.regions + 2).map(machine::boundary).collect();
    let stores: Vec<_> = (0..plan.first_stores()).map(id_of).collect();
    bootstrap_regions(&boundaries, &stores)
}

impl Cluster {
    /// Starts a store's process on what its disk holds.
    pub(super) fn start(&mut self, store: usize) {
        if self.nodes[store].process.is_some() || !self.may_start(store) {
            return;
        }
        self.nodes[store].life += 1;
        self.nodes[store].incarnation = self.next_incarnation(store);
        match self.open(store) {
            Ok(process) => {
                self.nodes[store].process = Some(process);
                self.nodes[store].absence = None;
                self.say(|| format!("{} starts, {:?}", id_of(store), self.nodes[store].incarnation));
                self.record(1, store as u64);
                self.look_at_recovered(store);
                self.on_started(store);
            }
            Err(Some(violation)) => self.judge_that(Err(violation)),
            // No room, most likely: a process that cannot start is started again.
            Err(None) => self.schedule.plan_in(SECOND / 2, Event::Start { store }),
        }
    }

    /// Opens log and state. `None`: try again later.
    fn open(&mut self, store: usize) -> Result<Process, Option<Violation>> {
        let id = id_of(store);
        let broken = |what: &str, detail: String| {
            Some(Violation::new("a store starts on what it left", format!("store {id}, {what}: {detail}")))
        };
        let node = &mut self.nodes[store];
        let (writer, reader, recovered) = match LogWriter::open(Arc::new(node.disk.clone()), self.plan.log) {
            Ok(opened) => opened,
            Err(LogError::NoSpace { .. }) => return Err(None),
            Err(error) => return Err(broken("log", error.to_string())),
        };
        if !recovered.damage.is_empty() && node.damages == 0 {
            return Err(broken("log", format!("damage where there was only a crash: {:?}", recovered.damage)));
        }
        self.shadows.forget(id, |region| recovered.is_suspect(region));
        self.shadows.on_recovered(id, &recovered.groups).map_err(Some)?;
        let files = SnapshotFiles::open_on(Arc::new(node.files_disk.clone()))
            .map_err(|error| broken("snapshot files", error.to_string()))?;
        let (backend, applied) = match node.open_state(id, &self.plan, &files) {
            Ok(opened) => opened,
            Err(_) if !node.bootstrapped => return Err(None),
            Err(error) => return Err(broken("state", error)),
        };
        for region in &applied {
            self.consensus.on_state_found(id, region.descriptor.id, region.index).map_err(Some)?;
        }
        let tombstones = backend.tombstones().map_err(|error| broken("tombstones", error.to_string()))?;
        let mut tombstones = tombstones;
        if self.plant == Some(Plant::ForgottenTombstone) {
            tombstones.clear();
        }
        let found: Vec<Arc<RegionDescriptor>> = applied.iter().map(|one| Arc::clone(&one.descriptor)).collect();
        self.regions.on_found(id, &found, &tombstones).map_err(Some)?;
        for region in &applied {
            self.regions.on_merge_state(id, region.descriptor.id, &region.merge);
        }
        let mut assembled = assemble(applied, tombstones, &recovered);
        if self.plant != Some(Plant::IgnoredFloor) {
            assembled.residue.floor = self.nodes[store].floor;
        }
        self.leave_out(store, &recovered, &assembled.damaged).map_err(|detail| broken("regions", detail))?;
        let Ok(received) = Received::new(&files, !backend.is_durable()) else {
            return Err(None);
        };
        backend.begin(&assembled.starts, &assembled.residue.tombstones);
        let leases = Arc::new(Leases::default());
        let workers = self.make_workers(store, &recovered, &backend, &assembled, &leases);
        Ok(Process {
            workers,
            merger: BeatMerger::new(self.plan.workers[store], self.nodes[store].incarnation),
            received,
            captures: Captures::new(&files),
            backend,
            writer,
            reader,
            queued: Vec::new(),
            flushing: None,
            flushing_since: Moment::START,
            support: self.make_support(store),
            leases,
            questions: Questions::new(self.nodes[store].incarnation, self.plan.request_timeout),
            kept_standings: BTreeMap::new(),
            files,
            streams: Streams::default(),
            routes: {
                let mut routes = Routes::default();
                found.iter().for_each(|descriptor| routes.learn(descriptor));
                routes
            },
            checkpoint: None,
            unsaved: Vec::new(),
            log_is_full: false,
            stopping: false,
            failed: false,
        })
    }

    fn make_workers(
        &mut self,
        store: usize,
        recovered: &Recovered,
        backend: &Backend,
        assembled: &Assembled,
        leases: &Arc<Leases>,
    ) -> Vec<WorkerHost> {
        let count = self.plan.workers[store];
        let now = self.nodes[store].clock.read(self.schedule.now());
        let mut hosts = Vec::new();
        for worker in 0..count {
            let own: Vec<_> = assembled
                .starts
                .iter()
                .filter(|start| worker_of(start.descriptor.id, count) == worker)
                .cloned()
                .collect();
            for start in &own {
                self.consensus.on_start(id_of(store), start.descriptor.id, start.applied);
            }
            let config = self.worker_config(store, worker);
            let applied = own.iter().map(|start| AppliedRegion {
                descriptor: Arc::clone(&start.descriptor),
                index: start.applied,
                term: start.applied_term,
                installed: start.installed,
                merge: start.merge.clone(),
            });
            hosts.push(WorkerHost {
                worker: Worker::new(config, recovered.token(worker as u32), &own, now)
                    .with_residue(assembled.residue.part(|region| worker_of(region, count) == worker))
                    .with_leases(Arc::clone(leases)),
                inputs: Vec::new(),
                out: TurnOutput::default(),
                wake_at: Moment::NEVER,
                applier: backend.applier(applied),
                tasks: VecDeque::new(),
                applying: None,
                applying_since: Moment::START,
                stalled: None,
            });
        }
        hosts
    }

    fn worker_config(&mut self, store: usize, worker: usize) -> WorkerConfig {
        WorkerConfig {
            store: id_of(store),
            incarnation: self.nodes[store].incarnation,
            worker,
            peers: (0..self.nodes.len()).filter(|peer| *peer != store && !self.is_refused(*peer)).map(id_of).collect(),
            raft: Arc::new(self.plan.raft.clone()),
            request_timeout: self.plan.request_timeout,
            apply_queue_bytes: self.plan.apply_queue_bytes,
            compact_entries: self.plan.compact_entries,
            compact_keep_entries: self.plan.compact_keep_entries,
            snapshots_at_once: self.plan.snapshots_at_once,
            snapshots: self.plan.snapshots.clone(),
            merge_timeout: self.plan.life.merge_timeout,
            balance_leaders: self.plan.balance_leaders,
            leases: self.plan.leases,
            beats_at_once: self.plan.beats_at_once,
            awaits_vote: true,
            seed: self.random.number(),
        }
    }

    fn on_started(&mut self, store: usize) {
        let life = self.nodes[store].life;
        self.supports.on_start(id_of(store), self.nodes[store].incarnation);
        self.wake_support(store, self.schedule.now());
        for worker in 0..self.plan.workers[store] {
            self.wake(store, worker, self.schedule.now());
        }
        let wait = self.random.around(self.plan.checkpoint_interval);
        self.schedule.plan_in(wait, Event::Checkpoint { store, life });
        self.want_floor(store);
        let regions: Vec<RegionId> = self.regions.newest().map(|descriptor| descriptor.id).collect();
        regions.into_iter().for_each(|region| self.sample(store, region));
    }

    /// The process is gone: nothing of it goes on. What its disk then holds depends on `style`.
    pub(super) fn kill(&mut self, store: usize, style: CrashStyle) {
        let seed = self.random.number();
        let torn = self.random.chance(600);
        let cut_after = self.random.below(8);
        let lost_states = self.random.number();
        let node = &mut self.nodes[store];
        let Some(mut process) = node.process.take() else { return };
        node.life += 1;
        node.armed = None;
        node.sync_fails = false;
        node.paused_until = Moment::START;
        if let Some(batches) = process.flushing.take()
            && torn
            && style == CrashStyle::Mix
        {
            // The power goes in the middle of a commit.
            node.disk.cut_power_after(cut_after);
            let _ = process.writer.commit(batches);
            self.counters.torn_writes += 1;
        }
        if let Some(image) = node.lying_image.take() {
            node.disk = image;
        }
        node.disk.crash(style, seed);
        node.files_disk.crash(style, seed.rotate_left(32));
        node.top.crash(style, seed);
        node.state.crash(if style == CrashStyle::KeepAll { u64::MAX } else { lost_states });
        if self.nodes.iter().all(|node| node.process.is_none()) {
            self.counters.all_dead += 1;
        }
        self.regions.on_crash(id_of(store));
        self.supports.on_end(id_of(store));
        self.on_process_gone(store);
        self.abandon_callers(store);
        self.abandon_operators(store);
        self.record(2, store as u64);
    }

    /// Stops a store in order: first it hands its leaders over, then it ends.
    pub(super) fn stop(&mut self, store: usize, life: u64) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let Some(process) = &mut self.nodes[store].process else { return };
        if !process.stopping {
            process.stopping = true;
            for worker in 0..self.plan.workers[store] {
                self.input(store, worker, Input::Handover);
            }
            let wait = self.random.between(10, 3_000) * MILLI;
            return self.schedule.plan_in(wait, Event::Stop { store, life });
        }
        self.say(|| format!("{} stops", id_of(store)));
        self.counters.restarts += 1;
        self.say_farewell(store);
        self.kill(store, CrashStyle::KeepAll);
        let wait = self.random.between(50, 4_000) * MILLI;
        self.schedule.plan_in(wait, Event::Start { store });
    }

    /// Gives a worker something to do, soon.
    pub(super) fn input(&mut self, store: usize, worker: usize, input: Input<Waiter>) {
        let soon = self.schedule.now().plus(self.random.below(100_000));
        let Some(process) = &mut self.nodes[store].process else { return };
        process.workers[worker].inputs.push(input);
        self.wake(store, worker, soon);
    }

    /// Plans a worker's turn no later than `at`.
    pub(super) fn wake(&mut self, store: usize, worker: usize, at: Moment) {
        let node = &mut self.nodes[store];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let host = &mut process.workers[worker];
        if at < host.wake_at {
            host.wake_at = at;
            self.schedule.plan(at, Event::Turn { store, life, worker });
        }
    }

    /// The worker of `store` that drives `region`.
    pub(super) fn worker_for(&self, store: usize, region: RegionId) -> usize {
        worker_of(region, self.plan.workers[store])
    }
}
