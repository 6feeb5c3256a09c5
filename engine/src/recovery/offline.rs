//! A stopped store's data directory, opened as a start would open it, without a start.
//!
//! As long as it is open, the locks of a running store are held. Reading it changes nothing that the next start would not: what a
//! crash left half written is tidied up, and no incarnation is claimed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use multiraft_raft::{ClusterId, Entry, Incarnation, LogIndex, RegionId, StoreId};
use multiraft_storage::{Disk, LogOptions, LogReader, LogWriter, RealDisk, Recovered};

use super::codec::FileError;
use super::fence::Fence;
use super::plan::PlanId;
use super::survey::{BuriedReplica, DamagedReplica, Foreseen, FrozenFor, ReplicaSurvey, StoreSurvey};
use crate::apply::{AppliedRegion, Backend, Foresight};
use crate::assembly::{Assembled, FENCED_REASON, assemble};
use crate::config::Config;
use crate::error::StartError;
use crate::logic::{Floor, MergeState, RegionStart, StoreStanding};
use crate::region::admin::FIRST_ALLOCATED_ID;
use crate::region::stores::decode_stores;
use crate::shell::{OpenBackend, StoreFile, check_log_is_there, open_log};
use crate::snapshots::{RestoredRegions, SnapshotFiles};

/// How many bytes of entries are read at a time.
const READ_BYTES: usize = 4 << 20;
/// What was attempted, in an error.
const READING_FENCE: &str = "reading what an earlier recovery has left";

/// A stopped store that is to be looked at or recovered. See [`Builder::recovery`](crate::Builder::recovery).
#[must_use = "nothing is read before it is asked for"]
pub struct Recovery {
    place: Place,
}

/// Where a stopped store lies.
enum Place {
    Directory { dir: PathBuf, backend: OpenBackend, config: Box<Config> },
    Disks(Box<StoppedStore>),
}

/// A stopped store whose parts lie on disks of the caller's: what the simulator has in the place of a data directory. Its caller
/// sees to it that nothing else uses them.
pub struct StoppedStore {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Which store it is.
    pub store: StoreId,
    /// Its last start.
    pub incarnation: Incarnation,
    /// Which of its replicas were lost with an earlier disk.
    pub floor: Floor,
    /// Where the file `RECOVERY` is.
    pub top: Arc<dyn Disk>,
    /// Where the log is.
    pub log: Arc<dyn Disk>,
    /// The log's options.
    pub log_options: LogOptions,
    /// Where the snapshot files are.
    pub files: Arc<dyn Disk>,
    /// The state, as new: not yet of any store.
    pub backend: Backend,
}

/// Why a store could not be looked at or recovered. Nothing has changed, save where it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// There is no store.
    #[error("{} is no data directory of a store: check the path", .path.display())]
    NoStore {
        /// Where.
        path: PathBuf,
    },
    /// The store could not be opened: it runs, or its files cannot be read.
    #[error("{0}")]
    Open(#[from] StartError),
    /// A file that an earlier recovery left cannot be read.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of a recovery is not taken.
    #[error(transparent)]
    File(#[from] FileError),
    /// An earlier plan was begun here and not finished.
    #[error("plan {plan} was begun on this store and not finished: carry it out to the end first")]
    Unfinished {
        /// Which.
        plan: PlanId,
    },
    /// The plan was not named as the one that was read.
    #[error("this is plan {plan}: read it, and confirm exactly that")]
    Unconfirmed {
        /// The plan at hand.
        plan: PlanId,
    },
    /// The plan is of another cluster.
    #[error("the plan is of another cluster: name the right directory")]
    OtherCluster,
    /// The plan was not made from this store.
    #[error("the plan was not made from store {store}: collect it too, and make a new plan")]
    NotInPlan {
        /// This store.
        store: StoreId,
    },
    /// The store has changed since it was collected.
    #[error("store {store} has changed since it was collected: collect all survivors again, and make a new plan")]
    Stale {
        /// This store.
        store: StoreId,
    },
    /// There is nothing to recover.
    #[error("the plan recovers nothing, every region that can be has its quorum: start the stores")]
    Nothing,
    /// The plan leaves keys or regions behind.
    #[error(
        "after this plan {gaps} ranges of keys have no region and {regions} regions stay without service: say that this is accepted, or make a plan that fills them"
    )]
    Gaps {
        /// How many ranges.
        gaps: usize,
        /// How many regions.
        regions: usize,
    },
    /// What was carried out came to something else than the plan foresaw; the store does not start before it is dealt with.
    #[error(
        "region {region} came to something else than was planned: {reason}; keep the data directory as it is and report this"
    )]
    Unforeseen {
        /// Which.
        region: RegionId,
        /// What it came to.
        reason: String,
    },
    /// A step failed: the plan is to be carried out again.
    #[error("{what}: heal the cause and carry the plan out again, the store does not start before that")]
    Interrupted {
        /// What failed.
        what: String,
    },
}

/// All of a stopped store, open.
pub(super) struct Opened {
    pub(super) file: StoreFile,
    /// Where the file `RECOVERY` is.
    pub(super) top: Arc<dyn Disk>,
    pub(super) fence: Option<Fence>,
    pub(super) writer: LogWriter,
    pub(super) reader: LogReader,
    pub(super) recovered: Recovered,
    pub(super) backend: Backend,
    pub(super) assembled: Assembled,
    /// What the state has of all regions, the damaged included.
    pub(super) regions: Vec<AppliedRegion>,
}

/// The parts of a store, each opened by itself.
struct Parts {
    file: StoreFile,
    fence: Option<Fence>,
    top: Arc<dyn Disk>,
    log: (LogWriter, LogReader, Recovered),
    files: SnapshotFiles,
    backend: Backend,
}

impl Recovery {
    pub(crate) fn new(dir: PathBuf, backend: OpenBackend, config: Config) -> Self {
        Self { place: Place::Directory { dir, backend, config: Box::new(config) } }
    }

    /// A store on disks of the caller's.
    pub fn on(store: StoppedStore) -> Self {
        Self { place: Place::Disks(Box::new(store)) }
    }

    /// Collects what there is on this store. Blocks while the disk is read; changes nothing that the store's next start would not.
    ///
    /// # Errors
    /// [`RecoveryError`]: the store runs, is damaged as a whole, or is in the middle of a recovery.
    pub fn survey(self) -> Result<StoreSurvey, RecoveryError> {
        let opened = self.open()?;
        if let Some(fence) = opened.fence.as_ref().filter(|fence| !fence.done) {
            return Err(RecoveryError::Unfinished { plan: fence.plan });
        }
        opened.survey()
    }

    pub(super) fn open(self) -> Result<Opened, RecoveryError> {
        match self.place {
            Place::Directory { dir, backend, config } => Parts::in_directory(&dir, backend, &config)?.assemble(),
            Place::Disks(store) => Parts::on_disks(*store)?.assemble(),
        }
    }
}

impl Parts {
    fn in_directory(dir: &Path, backend: OpenBackend, config: &Config) -> Result<Self, RecoveryError> {
        let no_store = || RecoveryError::NoStore { path: dir.to_owned() };
        if !StoreFile::exists(dir) {
            return Err(no_store());
        }
        check_log_is_there(dir)?;
        let log = open_log(dir, config)?;
        let file = StoreFile::read(dir)?.ok_or_else(no_store)?;
        let fence = read_fence(dir)?;
        let what = || format!("opening {}", dir.display());
        let top = RealDisk::guarded(dir).map_err(|source| RecoveryError::Io { what: what(), source })?;
        let files = SnapshotFiles::open(&dir.join("snapshots"))?;
        let backend = backend(dir)?.of_store(file.store, &files);
        Ok(Self { file, fence, top: Arc::new(top), log, files, backend })
    }

    fn on_disks(store: StoppedStore) -> Result<Self, RecoveryError> {
        let StoppedStore { cluster, store, incarnation, floor, top, log, log_options, files, backend } = store;
        let log = LogWriter::open(log, log_options).map_err(|error| StartError::Log(error.to_string()))?;
        let file =
            StoreFile { cluster, store, incarnation, bootstrapped: true, longest_support_ms: 0, floor, birth: 0 };
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| RecoveryError::Io { what, source }
        };
        let fence = Fence::read_on(&*top).map_err(io(READING_FENCE))?;
        let files = SnapshotFiles::open_on(files).map_err(io("opening the snapshot files"))?;
        let backend = backend.of_store(store, &files);
        Ok(Self { file, fence, top, log, files, backend })
    }

    fn assemble(self) -> Result<Opened, RecoveryError> {
        let Self { file, fence, top, log: (writer, reader, recovered), files, backend } = self;
        let found = if backend.is_durable() {
            RestoredRegions { regions: backend.regions().map_err(StartError::from)?, damaged: Vec::new() }
        } else {
            files.restore_all(&backend)
        };
        let tombstones = backend.tombstones().map_err(StartError::from)?;
        let mut assembled = assemble(found.regions.clone(), tombstones, &recovered);
        assembled.keep_fenced_out(file.store);
        assembled.damaged.extend(found.damaged);
        assembled.damaged.sort();
        assembled.damaged.dedup_by_key(|(region, _)| *region);
        backend.begin(&assembled.starts, &assembled.residue.tombstones);
        backend.hold(&assembled.held, assembled.damaged.iter().map(|(region, _)| *region));
        let regions = found.regions;
        Ok(Opened { file, top, fence, writer, reader, recovered, backend, assembled, regions })
    }
}

/// Whose data directory it is, and what a recovery has left there. Changes nothing, also while the store runs.
///
/// # Errors
/// [`RecoveryError`]: there is no store, or its files cannot be read.
pub fn fence_of(dir: &Path) -> Result<(StoreId, Option<Fence>), RecoveryError> {
    let file = StoreFile::read(dir)?.ok_or_else(|| RecoveryError::NoStore { path: dir.to_owned() })?;
    Ok((file.store, read_fence(dir)?))
}

fn read_fence(dir: &Path) -> Result<Option<Fence>, RecoveryError> {
    Fence::read(dir).map_err(|source| RecoveryError::Io { what: READING_FENCE.to_owned(), source })
}

impl Opened {
    /// What a plan is made from.
    pub(super) fn survey(&self) -> Result<StoreSurvey, RecoveryError> {
        let state = |error| RecoveryError::Open(StartError::State(error));
        let stores =
            self.backend.stores().map_err(state)?.and_then(|stored| decode_stores(&stored)).unwrap_or_default();
        let mut survey = StoreSurvey {
            cluster: self.file.cluster,
            store: self.file.store,
            incarnation: self.file.incarnation,
            dead: self.fence.as_ref().map_or_else(Vec::new, |fence| fence.dead.clone()),
            // A store that has begun anew has had ids up to its floor, whatever the survivors of the root region know.
            ids_upto: self.fence.as_ref().map_or(0, |fence| fence.ids_upto).max(self.file.floor.last().get()),
            stores: stores.values().map(|store| (store.id, store.standing == StoreStanding::Left)).collect(),
            next_id: None,
            replicas: Vec::new(),
            damaged: self.assembled.damaged.iter().map(|damage| self.damaged(damage)).collect(),
            promises: self.assembled.residue.orphans.iter().map(|(region, state)| (*region, state.term)).collect(),
            tombstones: self
                .assembled
                .residue
                .tombstones
                .values()
                .map(|tombstone| BuriedReplica {
                    descriptor: (*tombstone.descriptor).clone(),
                    replica: tombstone.replica,
                    merged: tombstone.cause == crate::apply::Cause::Merged,
                    committed: tombstone.committed,
                })
                .collect(),
        };
        for start in &self.assembled.starts {
            match self.foresee(start) {
                Ok(foresight) => {
                    if start.descriptor.id == RegionId::ROOT {
                        let next = self.backend.next_id().map_err(state)?.unwrap_or(FIRST_ALLOCATED_ID);
                        survey.next_id = Some(next.saturating_add(foresight.ids));
                    }
                    survey.replicas.push(replica_survey(start, &foresight));
                }
                Err(reason) => survey.damaged.push(self.damaged(&(start.descriptor.id, reason))),
            }
        }
        survey.damaged.sort_by_key(|damaged| damaged.region);
        Ok(survey)
    }

    fn damaged(&self, (region, reason): &(RegionId, String)) -> DamagedReplica {
        let state = self.regions.iter().find(|state| state.descriptor.id == *region);
        let descriptor = state.map(|state| (*state.descriptor).clone());
        DamagedReplica { region: *region, descriptor, reason: reason.clone() }
    }

    /// Looks at what the log holds behind what is applied.
    fn foresee(&self, start: &RegionStart) -> Result<Foresight, String> {
        let mut foresight = Foresight::new(&applied_region(start));
        let frozen_here = |region: RegionId| {
            let at = self.assembled.starts.binary_search_by_key(&region, |start| start.descriptor.id).ok()?;
            self.assembled.starts[at].merge.frozen.as_ref().map(|frozen| frozen.index)
        };
        let (last, _) = last_of(start);
        let mut from = start.applied.next();
        while from <= last {
            let entries = read_some(&self.reader, start.descriptor.id, from, last)?;
            for entry in &entries {
                if let Err(error) = foresight.take(entry, &frozen_here) {
                    foresight.blocked = Some(error.to_string());
                }
            }
            from = entries.last().map_or(last, |entry| entry.index).next();
        }
        let own = start.descriptor.replica_on(self.file.store);
        if own.is_some_and(|own| foresight.merge.fenced.contains(own.id)) {
            foresight.blocked = Some(format!("its region has fenced it: {FENCED_REASON}"));
        }
        Ok(foresight)
    }
}

/// Some entries of a region, at least one.
pub(super) fn read_some(
    reader: &LogReader,
    region: RegionId,
    from: LogIndex,
    to: LogIndex,
) -> Result<Vec<Entry>, String> {
    match reader.read(region, from, to, READ_BYTES) {
        Ok(entries) if !entries.is_empty() => Ok(entries),
        Ok(_) => Err(format!("the log holds nothing at entry {from}")),
        Err(error) => Err(error.to_string()),
    }
}

/// A region as it is applied.
pub(super) fn applied_region(start: &RegionStart) -> AppliedRegion {
    let RegionStart { descriptor, applied, applied_term, installed, merge, .. } = start.clone();
    AppliedRegion { descriptor, index: applied, term: applied_term, installed, merge }
}

/// The last entry that a replica holds. A state that is ahead of its log is all that there is.
fn last_of(start: &RegionStart) -> (LogIndex, multiraft_raft::Term) {
    if start.log.term(start.applied) == Some(start.applied_term) {
        (start.log.last_index, start.log.last_term())
    } else {
        (start.applied, start.applied_term)
    }
}

fn frozen_for(merge: &MergeState) -> Option<FrozenFor> {
    merge.frozen.as_ref().map(|frozen| FrozenFor {
        index: frozen.index,
        target: frozen.target.id,
        version: frozen.target.epoch.version,
    })
}

fn replica_survey(start: &RegionStart, foresight: &Foresight) -> ReplicaSurvey {
    let configurations = foresight.configurations.iter();
    let (applied, promised) = ((start.applied, start.applied_term), start.hard_state.commit);
    // What is promised and not applied lies in the log.
    let committed = start.log.term(promised).filter(|_| promised > start.applied);
    ReplicaSurvey {
        descriptor: (*start.descriptor).clone(),
        hard_state: start.hard_state,
        applied,
        committed: committed.map_or(applied, |term| (promised, term)),
        last: last_of(start),
        frozen: frozen_for(&start.merge),
        absorbed: start.merge.absorbed.0.clone(),
        foreseen: Foreseen {
            descriptor: (*foresight.descriptor).clone(),
            frozen: frozen_for(&foresight.merge),
            absorbed: foresight.merge.absorbed.0.clone(),
            absorbs: foresight.absorbs.clone(),
            configurations: configurations.map(|(index, region)| (*index, (**region).clone())).collect(),
            children: foresight.children.iter().map(|child| (**child).clone()).collect(),
            blocked: foresight.blocked.clone(),
        },
    }
}
