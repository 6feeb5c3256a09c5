//! Starting a store: what is opened in which order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use multiraft_raft::{ClusterId, Incarnation, RegionId, StoreId};
use multiraft_router::{Clock, Limit, Mailbox, Pool, PoolConfig, Prepared};
use multiraft_storage::{LogOptions, LogReader, LogWriter, RealDisk, Recovered, SharedLog};
use multiraft_transport::{Births, Network, PeerAddress, Transport, TransportConfig};

use crate::admission::Admission;
use crate::apply::{AppliedRegion, Backend};
use crate::assembly::{Assembled, assemble, bootstrap_regions};
use crate::config::Config;
use crate::directory::Directory;
use crate::error::StartError;
use crate::events::EventSender;
use crate::liveness::{Health, LivenessOutput};
use crate::logic::{
    BEATS_AT_ONCE, BeatMerger, MERGE_TIMEOUT, Questions, RegionStart, TurnOutput, Worker, WorkerConfig, worker_of,
};
use crate::measure::Figures;
use crate::recovery::Fence;
use crate::regions::Ids;
use crate::shell::answers::Answers;
use crate::shell::apply::{ApplyThread, ApplyWork};
use crate::shell::births::KnownBirths;
use crate::shell::check::Digests;
use crate::shell::checkpoint::Checkpoints;
use crate::shell::data_dir::{check_log_is_there, make_durably};
use crate::shell::handler::LinkHandler;
use crate::shell::leased::Leased;
use crate::shell::liveness::{LivenessMeters, LivenessThread, SupportDesk};
use crate::shell::log::{Flushes, start_reader};
use crate::shell::outbox::Outbox;
use crate::shell::patience::Patience;
use crate::shell::progress::{ApplyProgress, Watch};
use crate::shell::receive::Receiving;
use crate::shell::stop::Threads;
use crate::shell::streams::Streams;
use crate::shell::worker::{Damage, Meters, Work, WorkerShell};
use crate::shell::{Fault, Newborn, SharedStoreFile, StoreFile};
use crate::snapshots::{Captures, Received, RestoredRegions, SnapshotFiles};
use crate::steward::{Inbox, PlacementState};

/// How many append lanes a link has at most.
const APPEND_LANES_MAX: usize = 4;
/// How many turns' batches may wait to be applied behind a worker. It stands still while there are more.
const APPLY_BATCHES_MAX: usize = 4096;

/// Opens the state in a data directory.
pub(crate) type OpenBackend = Box<dyn FnOnce(&Path) -> Result<Backend, StartError> + Send>;

/// What a store is started with.
pub(crate) struct StartPlan {
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) data_dir: PathBuf,
    pub(crate) network: Network,
    pub(crate) peers: Vec<(StoreId, PeerAddress)>,
    pub(crate) backend: OpenBackend,
    /// With fewer bytes free on its disk the store may refuse the next write.
    pub(crate) free_bytes_min: u64,
    /// The store has lost an earlier directory.
    pub(crate) rejoins: bool,
    /// Boundaries and stores of the first regions, if the cluster is new.
    pub(crate) bootstrap: Option<(Vec<Bytes>, Vec<StoreId>)>,
}

/// A running store.
pub(crate) struct Running {
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    pub(crate) config: Config,
    pub(crate) data_dir: PathBuf,
    /// With fewer bytes free on its disk the store may refuse the next write.
    pub(crate) free_bytes_min: u64,
    pub(crate) clock: Clock,
    pub(crate) patience: Patience,
    pub(crate) mailboxes: Vec<Mailbox<Work>>,
    /// What holds files open; gone once the store has stopped, so that it can be started again in the same process.
    pub(crate) open: RwLock<Option<Open>>,
    pub(super) receiving: Arc<Receiving>,
    pub(super) streams: Arc<Streams>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) events: EventSender,
    pub(crate) fault: Fault,
    pub(crate) transport: Arc<Transport>,
    pub(crate) beats: Arc<Mutex<BeatMerger>>,
    /// How support with the other stores stands.
    pub(crate) support: SupportDesk,
    /// Reads that no worker sees.
    pub(crate) leased: Arc<Leased>,
    pub(crate) damaged: Arc<Mutex<Vec<(RegionId, String)>>>,
    /// The log may have lost votes of replicas that nothing else here tells of.
    pub(crate) lacks_promises: bool,
    /// Says which of its replicas were lost with an earlier directory.
    pub(crate) store_file: SharedStoreFile,
    /// Ids that the root region has given to this store.
    pub(crate) ids: Ids,
    /// What stores have told whoever plans.
    pub(crate) inbox: Inbox,
    /// How planning stands, if this store plans.
    pub(crate) placement: Mutex<Option<PlacementState>>,
    /// How large and how busy regions are here, by region.
    pub(crate) figures: Mutex<Arc<[Figures]>>,
    /// From the call to the answer, of proposals that were carried out.
    pub(crate) propose_seconds: metrics::Histogram,
    pub(crate) admission: Admission,
    pub(super) threads: Mutex<Option<Threads>>,
}

/// The files of a running store.
pub(crate) struct Open {
    pub(crate) backend: Backend,
    pub(crate) reader: LogReader,
}

/// Opens everything and starts the threads. Blocks while the disk is read.
pub(crate) fn start(mut plan: StartPlan) -> Result<Running, StartError> {
    plan.config.validate()?;
    if plan.config.workers == 0 {
        plan.config.workers = std::thread::available_parallelism().map_or(1, usize::from).min(Config::WORKERS_MAX);
    }
    let dir = plan.data_dir.clone();
    let io = |what: String| move |source| StartError::Io { what, source };
    make_durably(&dir).map_err(io(format!("creating {}", dir.display())))?;
    if plan.rejoins {
        StoreFile::check_is_new(&dir)?;
    }
    check_log_is_there(&dir)?;
    let (dead, ids_upto) = read_fence(&dir)?;
    plan.peers.retain(|(store, _)| !dead.contains(store));
    let (writer, reader, recovered) = open_log(&dir, &plan.config)?;
    let support_ms = u64::from(plan.config.liveness.duration_ms());
    let newborn = Newborn::of(plan.bootstrap.is_some(), plan.rejoins, support_ms);
    let mut file = StoreFile::claim(&dir, plan.cluster, plan.store, &newborn)?;
    let promised_before = Duration::from_millis(file.longest_support_ms);
    file.promise(&dir, support_ms)?;
    let files = SnapshotFiles::open(&dir.join("snapshots"))?;
    let mut backend = (plan.backend)(&dir)?.of_store(plan.store, &files);
    if plan.config.placement.is_some() {
        backend = backend.counted_in(Arc::default());
    }
    let found = load(&backend, &files, &mut file, &dir, plan.bootstrap.as_ref())?;
    for damage in &recovered.damage {
        tracing::error!(?damage, "the log is damaged");
    }
    let tombstones = backend.tombstones()?;
    let is_bare = found.regions.is_empty() && found.damaged.is_empty() && tombstones.is_empty();
    file.check_is_bare(&dir, is_bare && recovered.groups.is_empty() && recovered.damage.is_empty())?;
    let mut assembled = assemble(found.regions, tombstones, &recovered);
    assembled.residue.floor = file.floor;
    assembled.keep_fenced_out(plan.store);
    assembled.damaged.extend(found.damaged);
    assembled.damaged.sort();
    assembled.damaged.dedup_by_key(|(region, _)| *region);
    for (region, reason) in &assembled.damaged {
        tracing::error!(%region, reason, "this replica is kept out of service");
    }
    backend.begin(&assembled.starts, &assembled.residue.tombstones);
    backend.hold(&assembled.held, assembled.damaged.iter().map(|(region, _)| *region));
    let parts = Parts {
        cluster: plan.cluster,
        store: plan.store,
        incarnation: file.incarnation,
        file,
        promised_before,
        dead,
        ids_upto,
        births: Arc::new(KnownBirths::open(&dir)?),
        config: plan.config,
        data_dir: dir,
        free_bytes_min: plan.free_bytes_min,
        backend,
        files: Arc::new(files),
        reader,
        assembled,
    };
    parts.run(writer, &recovered, plan.network, plan.peers)
}

/// What a recovery has left here: the stores that are dead for good, and the ids that are used up.
fn read_fence(dir: &Path) -> Result<(BTreeSet<StoreId>, u64), StartError> {
    let what = || "reading what a recovery has left".to_owned();
    let fence = Fence::read(dir).map_err(|source| StartError::Io { what: what(), source })?;
    match fence {
        Some(fence) if !fence.done => Err(StartError::DataDir(format!(
            "in {} plan {} of a recovery was begun and not finished: carry it out to the end (`multiraft ctl recover apply`)",
            dir.display(),
            fence.plan
        ))),
        Some(fence) => Ok((fence.dead.into_iter().collect(), fence.ids_upto)),
        None => Ok((BTreeSet::new(), 0)),
    }
}

pub(crate) fn open_log(dir: &Path, config: &Config) -> Result<(LogWriter, LogReader, Recovered), StartError> {
    let disk = RealDisk::open(dir.join("log")).map_err(|error| StartError::Log(error.to_string()))?;
    let disk = disk.with_direct_appends(config.log_direct_io);
    let options = LogOptions {
        segment_bytes: u32::try_from(config.log_segment_bytes).unwrap_or(u32::MAX),
        ..LogOptions::default()
    };
    LogWriter::open(Arc::new(disk), options).map_err(|error| StartError::Log(error.to_string()))
}

/// The regions that the state knows, after the first ones were made in a new cluster.
fn load(
    backend: &Backend,
    files: &SnapshotFiles,
    file: &mut StoreFile,
    dir: &Path,
    bootstrap: Option<&(Vec<Bytes>, Vec<StoreId>)>,
) -> Result<RestoredRegions, StartError> {
    if let Some((boundaries, stores)) = bootstrap.filter(|_| !file.bootstrapped) {
        let regions = bootstrap_regions(boundaries, stores);
        if backend.is_durable() {
            backend.create_first_regions(&regions)?;
        } else {
            let first = regions.iter().map(|descriptor| backend.first_snapshot(descriptor)).collect();
            files
                .save(first)
                .map_err(|source| StartError::Io { what: "writing the first snapshots".into(), source })?;
        }
        file.bootstrapped = true;
        file.write(dir)?;
    }
    if backend.is_durable() {
        return Ok(RestoredRegions { regions: backend.regions()?, damaged: Vec::new() });
    }
    Ok(files.restore_all(backend))
}

/// The way to the apply threads, these, and how they get on.
type Appliers = (Vec<Sender<ApplyWork>>, Vec<JoinHandle<()>>, Vec<(Sender<ApplyWork>, ApplyProgress)>);

/// What is open, on its way to run.
struct Parts {
    cluster: ClusterId,
    store: StoreId,
    incarnation: Incarnation,
    file: StoreFile,
    /// For how long earlier lives of this store may have promised support.
    promised_before: Duration,
    /// Stores that a recovery has declared dead, and the ids that it has used up.
    dead: BTreeSet<StoreId>,
    ids_upto: u64,
    births: Arc<KnownBirths>,
    config: Config,
    data_dir: PathBuf,
    free_bytes_min: u64,
    backend: Backend,
    files: Arc<SnapshotFiles>,
    reader: LogReader,
    assembled: Assembled,
}

impl Parts {
    fn run(
        self,
        writer: LogWriter,
        recovered: &Recovered,
        network: Network,
        peers: Vec<(StoreId, PeerAddress)>,
    ) -> Result<Running, StartError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| StartError::Io { what, source }
        };
        let (clock, fault, events) = (Clock::start(), Fault::default(), EventSender::new());
        let directory = Arc::new(Directory::default());
        for start in &self.assembled.starts {
            directory.update(&start.descriptor);
        }
        // Where regions went that once had a replica here.
        for tombstone in self.assembled.residue.tombstones.values() {
            directory.update(&tombstone.descriptor);
        }
        let prepared = prepare_pool(&self.config);
        let mailboxes = prepared.mailboxes().to_vec();
        let progress: Vec<_> = prepared.progress().map(Arc::clone).collect();
        let support = SupportDesk::default();
        let store_file = SharedStoreFile::new(self.file.clone(), &self.data_dir);
        let workers = mailboxes.len();
        let append_lanes = workers.min(APPEND_LANES_MAX);
        let beats = Arc::new(Mutex::new(BeatMerger::new(workers, self.incarnation)));
        let received =
            Received::new(&self.files, !self.backend.is_durable()).map_err(io("opening received snapshots"))?;
        let receiving = Arc::new(Receiving::new(received));
        let questions = Questions::new(self.incarnation, self.config.request_timeout);
        let leased = Arc::new(Leased::new(questions, clock, mailboxes.clone(), fault.clone()));
        let handler = LinkHandler {
            mailboxes: mailboxes.clone(),
            receiving: Arc::clone(&receiving),
            events: events.clone(),
            append_lanes,
            fault: fault.clone(),
            support: support.clone(),
            incarnation: self.incarnation,
            leased: Arc::clone(&leased),
        };
        let transport = self.start_transport(handler, append_lanes, network, &peers)?;
        leased.connect(&transport);
        let damaged = Arc::new(Mutex::new(self.assembled.damaged.clone()));
        let flushes = Flushes { mailboxes: mailboxes.clone(), fault: fault.clone(), damaged: Arc::clone(&damaged) };
        let log = SharedLog::start(writer, Box::new(flushes)).map_err(io("starting the log's writer"))?;
        let log = Arc::new(log);
        let (fetch, fetch_thread) = start_reader(self.reader.clone(), mailboxes.clone(), fault.clone())
            .map_err(io("starting the log's reader"))?;
        let streams = Arc::new(Streams::new(Arc::clone(&transport), mailboxes.clone(), Captures::new(&self.files)));
        let (digests, digest_thread) = Digests::start(fault.clone()).map_err(io("starting the check thread"))?;
        let (appliers, apply_threads, apply_progress) =
            self.start_appliers(&mailboxes, &transport, &receiving, &digests, (&fault, clock))?;
        let (stop_checkpoints, checkpoints) = self.start_checkpoints(&appliers, &mailboxes, &fault)?;
        let mut others = apply_threads;
        others.extend([fetch_thread, digest_thread]);
        drop(digests);
        let now = clock.now();
        let inbox = Inbox::default();
        let shells: Vec<WorkerShell> = appliers
            .into_iter()
            .enumerate()
            .map(|(index, apply)| WorkerShell {
                worker: self.worker(index, workers, recovered, &peers, now).with_leases(leased.leases()),
                log: Arc::clone(&log),
                outbox: Outbox::new(Arc::clone(&transport), index, append_lanes),
                apply,
                fetch: fetch.clone(),
                beats: Arc::clone(&beats),
                transport: Arc::clone(&transport),
                streams: Arc::clone(&streams),
                receiving: Arc::clone(&receiving),
                directory: Arc::clone(&directory),
                events: events.clone(),
                fault: fault.clone(),
                store: self.store,
                index,
                inputs: Vec::new(),
                permits: Vec::new(),
                out: TurnOutput::default(),
                unsubmitted: None,
                unapplied: None,
                workers: mailboxes.clone(),
                damage: Damage { list: Arc::clone(&damaged), may_settle: self.assembled.residue.is_all_held() },
                full: Vec::new(),
                inbox: self.config.placement.is_some().then(|| inbox.clone()),
                meters: Meters::new(),
            })
            .collect();
        let mut shells = shells.into_iter();
        let on_panic = {
            let fault = fault.clone();
            move |panic: &multiraft_router::WorkerPanic| fault.set(panic.to_string())
        };
        let pool = prepared
            .start(clock, on_panic, move |_| shells.next().expect("invariant: one shell for each worker"))
            .map_err(|error| StartError::Config(error.to_string()))?;
        let patience = Patience::start();
        let patience =
            patience.map_err(|source| StartError::Io { what: "starting the chime thread".to_owned(), source })?;
        let watch = Watch::new(mailboxes.iter().cloned().zip(progress), apply_progress, Arc::clone(&log));
        let liveness =
            self.start_liveness((&support, &store_file), clock, (&transport, &peers), &mailboxes, watch, &fault)?;
        let threads = Threads { liveness, pool, log, stop_checkpoints, checkpoints, others };
        let admission = Admission::new(self.config.busy_after, (workers * self.config.mailbox_bytes) as u64);
        Ok(Running {
            store: self.store,
            incarnation: self.incarnation,
            config: self.config,
            data_dir: self.data_dir,
            free_bytes_min: self.free_bytes_min,
            clock,
            patience,
            mailboxes,
            receiving,
            streams,
            open: RwLock::new(Some(Open { backend: self.backend, reader: self.reader })),
            directory,
            events,
            fault,
            transport,
            beats,
            support,
            leased,
            damaged,
            lacks_promises: self.assembled.residue.may_lack,
            store_file,
            ids: Ids::above(self.ids_upto),
            inbox,
            placement: Mutex::default(),
            figures: Mutex::default(),
            propose_seconds: metrics::histogram!("propose_to_answer_seconds"),
            admission,
            threads: Mutex::new(Some(threads)),
        })
    }

    fn start_transport(
        &self,
        handler: LinkHandler,
        append_lanes: usize,
        network: Network,
        peers: &[(StoreId, PeerAddress)],
    ) -> Result<Arc<Transport>, StartError> {
        let mut config = TransportConfig::over(network, self.cluster, self.store, self.incarnation);
        config.peers = peers.iter().filter(|(store, _)| *store != self.store).cloned().collect();
        config.fenced = self.dead.clone();
        config.birth = self.file.as_birth();
        config.births = Some(Arc::clone(&self.births) as Arc<dyn Births>);
        config.append_lanes = append_lanes;
        #[cfg(feature = "torture")]
        crate::plant::speak_as_told(&mut config.wire_version_max).map_err(StartError::Config)?;
        config.queues.append_send_bytes = self.config.send_queue_bytes;
        config.snapshots.bytes_per_second = self.config.snapshot_bytes_per_second;
        config.snapshots.receive_bytes_per_second = self.config.snapshot_receive_bytes_per_second;
        // One that was given up may still be ending when the next comes.
        config.snapshots.streams_max = u32::try_from(2 * self.config.snapshots_at_once).unwrap_or(u32::MAX);
        let transport = Transport::start(config, Arc::new(handler)).map(Arc::new);
        transport.map_err(|error| StartError::Transport(error.to_string()))
    }

    fn worker(
        &self,
        index: usize,
        workers: usize,
        recovered: &Recovered,
        peers: &[(StoreId, PeerAddress)],
        now: multiraft_raft::Time,
    ) -> Worker<crate::shell::Completion> {
        let starts: Vec<RegionStart> = self
            .assembled
            .starts
            .iter()
            .filter(|start| worker_of(start.descriptor.id, workers) == index)
            .cloned()
            .collect();
        let config = WorkerConfig {
            store: self.store,
            incarnation: self.incarnation,
            worker: index,
            peers: peers.iter().map(|(store, _)| *store).filter(|store| *store != self.store).collect(),
            raft: Arc::new(self.config.raft.clone()),
            request_timeout: self.config.request_timeout,
            apply_queue_bytes: self.config.apply_queue_bytes,
            compact_entries: self.config.compact_entries,
            compact_keep_entries: self.config.compact_keep_entries,
            snapshots_at_once: self.config.snapshots_at_once.div_ceil(workers),
            snapshots: self.config.snapshots.for_one_of(workers),
            merge_timeout: MERGE_TIMEOUT,
            // Two who move leaders would play ball.
            balance_leaders: self.config.balance_leaders && self.config.placement.is_none(),
            leases: self.config.liveness.leases,
            beats_at_once: BEATS_AT_ONCE,
            awaits_vote: !self.promised_before.is_zero(),
            seed: (self.store.get() << 40) ^ (self.incarnation.get() << 8) ^ index as u64,
        };
        let lane = u32::try_from(index).expect("invariant: at most 255 workers");
        let residue = self.assembled.residue.part(|region| worker_of(region, workers) == index);
        Worker::new(config, recovered.token(lane), &starts, now).with_residue(residue)
    }

    fn start_appliers(
        &self,
        mailboxes: &[Mailbox<Work>],
        transport: &Arc<Transport>,
        receiving: &Arc<Receiving>,
        digests: &Digests,
        (fault, clock): (&Fault, Clock),
    ) -> Result<Appliers, StartError> {
        let mut senders = Vec::new();
        let (mut threads, mut progress) = (Vec::new(), Vec::new());
        for (index, mailbox) in mailboxes.iter().enumerate() {
            let regions = self
                .assembled
                .starts
                .iter()
                .filter(|start| worker_of(start.descriptor.id, mailboxes.len()) == index)
                .map(|start| AppliedRegion {
                    descriptor: Arc::clone(&start.descriptor),
                    index: start.applied,
                    term: start.applied_term,
                    installed: start.installed,
                    merge: start.merge.clone(),
                });
            let held = self.assembled.held.iter();
            let held = held.filter(|held| worker_of(held.descriptor.id, mailboxes.len()) == index).cloned();
            let applier = self.backend.applier(regions.chain(held));
            let (sender, work): (Sender<ApplyWork>, Receiver<ApplyWork>) = bounded(APPLY_BATCHES_MAX);
            let thread = ApplyThread {
                applier,
                backend: self.backend.clone(),
                work,
                worker: mailbox.clone(),
                transport: Arc::clone(transport),
                receiving: Arc::clone(receiving),
                digests: digests.clone(),
                fault: fault.clone(),
                index,
                store: self.store,
                workers: mailboxes.to_vec(),
                parked: Vec::new(),
                is_stalled: false,
                held: std::collections::VecDeque::new(),
                progress: ApplyProgress::new(clock),
                answers: Answers::new(),
            };
            progress.push((sender.clone(), thread.progress.clone()));
            let started = thread.start();
            threads.push(started.map_err(|source| StartError::Io { what: "starting an apply thread".into(), source })?);
            senders.push(sender);
        }
        Ok((senders, threads, progress))
    }

    fn start_liveness(
        &self,
        (support, store_file): (&SupportDesk, &SharedStoreFile),
        clock: Clock,
        (transport, peers): (&Arc<Transport>, &[(StoreId, PeerAddress)]),
        mailboxes: &[Mailbox<Work>],
        watch: Watch,
        fault: &Fault,
    ) -> Result<JoinHandle<()>, StartError> {
        let options = self.config.liveness;
        let peers = peers.iter().map(|(store, _)| *store);
        let thread = LivenessThread {
            core: LivenessThread::core(&self.file, self.promised_before, options, peers, clock.now()),
            desk: support.clone(),
            clock,
            transport: Arc::clone(transport),
            mailboxes: mailboxes.to_vec(),
            watch,
            health: Health::new(options, clock.now()),
            fault: fault.clone(),
            promised: store_file.clone(),
            options,
            meters: LivenessMeters::new(),
            out: LivenessOutput::default(),
        };
        thread.start().map_err(|source| StartError::Io { what: "starting the liveness thread".to_owned(), source })
    }

    fn start_checkpoints(
        &self,
        appliers: &[Sender<ApplyWork>],
        mailboxes: &[Mailbox<Work>],
        fault: &Fault,
    ) -> Result<(Sender<()>, JoinHandle<()>), StartError> {
        let (sender, stop) = bounded(1);
        let checkpoints = Checkpoints {
            backend: self.backend.clone(),
            files: Arc::clone(&self.files),
            appliers: appliers.to_vec(),
            mailboxes: mailboxes.to_vec(),
            fault: fault.clone(),
            interval: self.config.checkpoint_interval,
            log_bytes: self.config.volatile_log_bytes,
            pending: std::collections::BTreeMap::new(),
            stop,
        };
        let thread = checkpoints
            .start()
            .map_err(|source| StartError::Io { what: "starting the checkpoint thread".to_owned(), source })?;
        Ok((sender, thread))
    }
}

fn prepare_pool(config: &Config) -> Prepared<Work> {
    let callers = Limit { count: 1 << 16, bytes: config.mailbox_bytes as u64 };
    // What peers may have waiting is bounded by the permits of the links' receive budgets.
    let peers = Limit { count: 1 << 16, bytes: u64::MAX };
    Pool::prepare(PoolConfig { workers: config.workers, callers, peers, ..PoolConfig::default() })
}
