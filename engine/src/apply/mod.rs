//! Carrying committed entries out: beside the commit path, in batches, in order.
//!
//! One applier serves one worker's regions. It is deterministic; the shell runs it on a thread of its own, the simulator
//! calls it. A batch of tasks becomes one atomic write of the state store: data, session records and applied indexes of all
//! regions in it change together or not at all.

mod backend;
mod body;
mod catalogue;
mod decide;
mod own;
mod record;
mod shared;
mod source;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term};
use multiraft_storage::StateError;
use multiraft_transport::{ForwardReply, SnapshotHeader};

use crate::apply::backend::Form;
use crate::apply::catalogue::{Catalogue, Clearance, Entries};
use crate::apply::decide::is_admin;
use crate::logic::{Applied, ApplyTask, Input, Outcome, ReplyTo, SnapshotInstalled, wire_outcome};
use crate::snapshots::SnapshotFiles;

pub use backend::{AppliedRegion, Backend};
pub(crate) use body::CHUNK_BYTES;
pub use body::Chunks;
pub use catalogue::{Cause, Tombstone};
pub(crate) use record::{FIRST_INDEX, FIRST_TERM};
pub(crate) use shared::stored_descriptor;
pub use source::SnapshotSource;

/// Why entries could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The state store refused. After [`StateError::NoSpace`] the same batch may be tried again.
    #[error(transparent)]
    State(#[from] StateError),
    /// A committed entry cannot be read: written by a newer program, or memory is damaged.
    #[error("entry {index} of region {region} cannot be read: run the version that wrote it, or replace the replica")]
    Unreadable {
        /// The region.
        region: RegionId,
        /// The entry.
        index: LogIndex,
    },
}

/// How far a batch of tasks was carried out.
#[derive(Debug)]
#[must_use = "what is not applied yet must be applied before anything else"]
pub enum ApplyEnd<R> {
    /// All of it.
    Done,
    /// The state store has no space. The [`AppliedBatch`] describes what is written once [`Applier::retry`] succeeds: hold
    /// it back until then. After that, apply `rest` before anything else.
    Stalled {
        /// The tasks that were not looked at.
        rest: Vec<ApplyTask<R>>,
    },
    /// The state must not be used any more; the [`AppliedBatch`] is void.
    Failed(ApplyError),
}

/// What came of a batch of tasks.
#[derive(Debug)]
pub struct AppliedBatch<R> {
    /// For the worker.
    pub applied: Vec<Applied>,
    /// For the worker.
    pub installed: Vec<SnapshotInstalled>,
    /// For the worker: which replicas may come to be.
    pub created: Vec<(RegionId, ReplicaId, bool)>,
    /// For the worker: which are gone, and what they leave (`None`: there was no space to write it).
    pub destroyed: Vec<(RegionId, Arc<RegionDescriptor>, Option<Tombstone>)>,
    /// For callers here.
    pub replies: Vec<(R, Outcome)>,
    /// For stores that sent a request on.
    pub peer_replies: Vec<(StoreId, ForwardReply)>,
}

impl<R> Default for AppliedBatch<R> {
    fn default() -> Self {
        Self {
            applied: Vec::new(),
            installed: Vec::new(),
            created: Vec::new(),
            destroyed: Vec::new(),
            replies: Vec::new(),
            peer_replies: Vec::new(),
        }
    }
}

impl<R> AppliedBatch<R> {
    /// All of it but the answers, as a worker takes it.
    pub fn take_inputs(&mut self) -> Vec<Input<R>> {
        let mut inputs = Vec::new();
        if !self.applied.is_empty() {
            inputs.push(Input::Applied(std::mem::take(&mut self.applied)));
        }
        inputs.extend(self.installed.drain(..).map(Input::SnapshotInstalled));
        let created = self.created.drain(..);
        inputs.extend(created.map(|(region, replica, allowed)| Input::Created { region, replica, allowed }));
        let destroyed = self.destroyed.drain(..);
        inputs.extend(destroyed.map(|(region, known, tombstone)| Input::Destroyed { region, known, tombstone }));
        inputs
    }

    fn answer(&mut self, to: ReplyTo<R>, outcome: Outcome) {
        match to {
            ReplyTo::Caller(reply) => self.replies.push((reply, outcome)),
            ReplyTo::Peer { store, id } => {
                self.peer_replies.push((store, ForwardReply { id, outcome: wire_outcome(outcome) }));
            }
        }
    }
}

/// Where received snapshots lie until they are installed.
pub trait ReceivedSnapshots {
    /// The chunks of a snapshot that arrived whole. For regions whose state is not durable by itself the snapshot is also
    /// made the region's durable one, before this returns.
    ///
    /// # Errors
    /// It is not there, cannot be read, or could not be made durable; then it must not be installed.
    fn open(&self, from: StoreId, header: &SnapshotHeader) -> io::Result<Chunks<'static>>;

    /// It was installed or is not wanted any more.
    fn discard(&self, from: StoreId, header: &SnapshotHeader);
}

/// How far one region has applied.
#[derive(Clone, Debug)]
struct Progress {
    descriptor: Arc<RegionDescriptor>,
    applied: LogIndex,
    term: Term,
    /// The state is a received snapshot, and nothing was applied since.
    installed: bool,
}

/// Applies the entries of one worker's regions.
pub struct Applier {
    form: Form,
    /// Looked up by id; walked in order.
    regions: BTreeMap<RegionId, Progress>,
    /// Regions that have applied since the last checkpoint, how far, and how many bytes of entries.
    dirty: BTreeMap<RegionId, Dirty>,
    /// A batch that the state store could not take yet.
    stalled: Option<multiraft_storage::StateBatch>,
    /// Regions that a split has just changed or made, and whose states are not durable yet: the children, then the parent.
    unsynced: Vec<Arc<RegionDescriptor>>,
    catalogue: Arc<Catalogue>,
    store: StoreId,
    /// Where states are kept that are not durable by themselves.
    files: Option<SnapshotFiles>,
}

/// What a region has applied since its last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// The last index applied.
    pub applied: LogIndex,
    /// The bytes of the entries applied.
    pub bytes: usize,
}

impl Applier {
    fn new(backend: Backend, regions: impl IntoIterator<Item = AppliedRegion>) -> Self {
        let regions = regions
            .into_iter()
            .map(|AppliedRegion { descriptor, index, term, installed }| {
                (descriptor.id, Progress { descriptor, applied: index, term, installed })
            })
            .collect();
        Self {
            store: backend.store(),
            form: backend.form,
            regions,
            dirty: BTreeMap::new(),
            stalled: None,
            unsynced: Vec::new(),
            catalogue: backend.catalogue,
            files: backend.files,
        }
    }

    /// Carries tasks out, in order: entries as one atomic change of the state, the installation of a snapshot as one of its
    /// own.
    pub fn apply<R>(
        &mut self,
        tasks: Vec<ApplyTask<R>>,
        received: &dyn ReceivedSnapshots,
    ) -> (AppliedBatch<R>, ApplyEnd<R>) {
        let is_stalled = self.stalled.is_some() || !self.unsynced.is_empty();
        assert!(!is_stalled, "a stalled batch must be retried before anything is applied after it");
        let mut batch = AppliedBatch::default();
        let mut tasks = cut_behind_admin(tasks);
        while !tasks.is_empty() {
            if let Err(error) = self.step(&mut tasks, received, &mut batch) {
                let is_full = matches!(error, ApplyError::State(StateError::NoSpace { .. }));
                let can_retry = self.stalled.is_some() || !self.unsynced.is_empty();
                let end = if is_full && can_retry {
                    ApplyEnd::Stalled { rest: tasks.into() }
                } else {
                    ApplyEnd::Failed(error)
                };
                return (batch, end);
            }
        }
        (batch, ApplyEnd::Done)
    }

    /// Carries out what stands first: entries up to the next change of a region, or one task of another kind.
    fn step<R>(
        &mut self,
        tasks: &mut VecDeque<ApplyTask<R>>,
        received: &dyn ReceivedSnapshots,
        out: &mut AppliedBatch<R>,
    ) -> Result<(), ApplyError> {
        if matches!(tasks.front(), Some(ApplyTask::Entries { .. })) {
            return self.apply_entries(tasks, out);
        }
        match tasks.pop_front() {
            Some(ApplyTask::Install { handle, from, header }) => {
                let installed = self.install(received, from, &header)?;
                received.discard(from, &header);
                out.installed.push(SnapshotInstalled { handle, from, header, installed });
            }
            Some(ApplyTask::Register { descriptor, index, term }) => {
                // A snapshot that came first may have gone further than the split whose child this is.
                let is_ahead = self.regions.get(&descriptor.id).is_some_and(|here| here.applied > index);
                if !is_ahead {
                    let installed = index == FIRST_INDEX;
                    let progress = Progress { applied: index, term, installed, descriptor };
                    self.regions.insert(progress.descriptor.id, progress);
                }
            }
            Some(ApplyTask::Create { region, replica }) => {
                let allowed = self.create(region, replica)?;
                out.created.push((region, replica, allowed));
            }
            Some(ApplyTask::Destroy { region, known, cause, committed }) => {
                let tombstone = self.destroy(region, &known, cause, committed)?;
                out.destroyed.push((region, known, tombstone));
            }
            Some(ApplyTask::Entries { .. }) | None => {}
        }
        Ok(())
    }

    fn apply_entries<R>(
        &mut self,
        tasks: &mut VecDeque<ApplyTask<R>>,
        out: &mut AppliedBatch<R>,
    ) -> Result<(), ApplyError> {
        // One pass of entries; the lock is taken only if the pass ends with a change of a region.
        let mut pass = Vec::new();
        let mut changes = false;
        while let Some(task) = tasks.pop_front_if(|task| !changes && matches!(task, ApplyTask::Entries { .. })) {
            changes = ends_with_admin(&task);
            pass.push(task);
        }
        let catalogue = Arc::clone(&self.catalogue);
        let mut entries = changes.then(|| catalogue.lock());
        let mut members = Vec::new();
        let context = Pass {
            store: self.store,
            regions: &mut self.regions,
            dirty: &mut self.dirty,
            catalogue: entries.as_deref_mut(),
            members: &mut members,
            unsynced: &mut self.unsynced,
        };
        let applied = match &mut self.form {
            Form::Shared(shared) => shared.apply(context, &mut self.stalled, pass, out),
            Form::Own(own) => own::apply(own, context, pass, out),
        };
        if !members.is_empty() {
            let mut entries = entries.take().unwrap_or_else(|| catalogue.lock());
            members.into_iter().for_each(|descriptor| entries.set_state(descriptor));
        }
        applied?;
        let split: Vec<RegionId> = self.unsynced.iter().map(|descriptor| descriptor.id).collect();
        self.sync_split()?;
        if !split.is_empty() {
            entries.unwrap_or_else(|| catalogue.lock()).settle(&split);
        }
        Ok(())
    }

    /// Makes durable what a split has changed, before anybody hears of it.
    fn sync_split(&mut self) -> Result<(), StateError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        match &self.files {
            // The children first: one that is found beside a parent that has not split yet comes again with the split.
            Some(files) => {
                for descriptor in &self.unsynced {
                    let source = match self.capture(descriptor.id)? {
                        Some(source) => Some(source),
                        None => self.capture_first(descriptor)?,
                    };
                    files.save(source.into_iter().collect()).map_err(to_state_error)?;
                }
            }
            None => {
                if let Form::Shared(shared) = &self.form {
                    shared.store.flush()?;
                }
            }
        }
        self.unsynced.clear();
        Ok(())
    }

    /// Tries again to write what the state store had no space for; nothing to do if nothing is stalled.
    ///
    /// # Errors
    /// [`StateError`]; call again later after [`StateError::NoSpace`].
    pub fn retry(&mut self) -> Result<(), StateError> {
        if let (Form::Shared(shared), Some(batch)) = (&self.form, &self.stalled) {
            shared.write(batch.clone())?;
            self.stalled = None;
        }
        let split: Vec<RegionId> = self.unsynced.iter().map(|descriptor| descriptor.id).collect();
        self.sync_split()?;
        if !split.is_empty() {
            self.catalogue.lock().settle(&split);
        }
        Ok(())
    }

    /// The first state of a region that a split has just made; its own applier does not know it yet.
    fn capture_first(&self, child: &Arc<RegionDescriptor>) -> Result<Option<SnapshotSource>, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.capture(child, FIRST_INDEX, FIRST_TERM).map(Some),
            Form::Own(own) => Ok(own.capture(child.id)),
        }
    }

    /// Whether a replica without state may come to be (C1).
    fn create(&mut self, region: RegionId, replica: ReplicaId) -> Result<bool, ApplyError> {
        let mut entries = self.catalogue.lock();
        if !entries.create(region, replica) {
            return Ok(false);
        }
        // Records that the log holds from now on are the new replica's.
        if let Some(cleaned) = entries.clean(region)
            && let Err(error) = self.form.bury(self.files.as_ref(), &entries, region, None, &cleaned)
        {
            entries.soil(region);
            return match error {
                StateError::NoSpace { .. } => Ok(false),
                error => Err(error.into()),
            };
        }
        Ok(true)
    }

    /// Removes a replica's state, durably, and leaves a tombstone; `None`: there is no space to do it.
    fn destroy(
        &mut self,
        region: RegionId,
        known: &Arc<RegionDescriptor>,
        cause: Cause,
        committed: (LogIndex, Term),
    ) -> Result<Option<Tombstone>, ApplyError> {
        let mut entries = self.catalogue.lock();
        let here = self.regions.get(&region).map(|progress| (progress.applied, progress.term)).unwrap_or_default();
        let tombstone = entries.tombstone_of(region, known, cause, committed.max(here));
        let state = self.regions.get(&region).filter(|progress| progress.applied > LogIndex::ZERO);
        let range = state.map(|progress| progress.descriptor.range.clone());
        entries.bury(region, tombstone.clone());
        match self.form.bury(self.files.as_ref(), &entries, region, range.as_ref(), &tombstone) {
            Ok(()) => {
                self.regions.remove(&region);
                self.dirty.remove(&region);
                Ok(Some(tombstone))
            }
            Err(StateError::NoSpace { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn install(
        &mut self,
        received: &dyn ReceivedSnapshots,
        from: StoreId,
        header: &SnapshotHeader,
    ) -> Result<bool, ApplyError> {
        let mut entries = self.catalogue.lock();
        match entries.clearance(&header.descriptor, &[]) {
            Clearance::Clear(_) => {}
            clearance => {
                tracing::info!(region = %header.region, ?clearance, "a received snapshot is not installed");
                return Ok(false);
            }
        }
        let installed = match &mut self.form {
            Form::Shared(shared) => shared.install(&mut self.regions, received, from, header)?,
            Form::Own(own) => own::install(own, &mut self.regions, received, from, header),
        };
        if installed {
            entries.set_state(Arc::clone(&header.descriptor));
        }
        Ok(installed)
    }

    /// The regions that have applied since this was last asked.
    pub fn take_dirty(&mut self) -> BTreeMap<RegionId, Dirty> {
        std::mem::take(&mut self.dirty)
    }

    /// The regions whose entries since the last checkpoint add up to at least `bytes`; the others stay listed.
    pub fn take_dirty_above(&mut self, bytes: usize) -> BTreeMap<RegionId, Dirty> {
        let large: BTreeMap<_, _> =
            self.dirty.iter().filter(|(_, dirty)| dirty.bytes >= bytes).map(|(id, dirty)| (*id, *dirty)).collect();
        self.dirty.retain(|id, _| !large.contains_key(id));
        large
    }

    /// The region's state of this instant, to be written out later; `None` if the region is not here, or has applied that
    /// its replica here is removed: a state that does not name its replica is nobody's, and is not kept.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed.
    pub fn capture(&self, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        let is_kept = |progress: &&Progress| {
            progress.applied > LogIndex::ZERO && progress.descriptor.replica_on(self.store).is_some()
        };
        let Some(progress) = self.regions.get(&region).filter(is_kept) else {
            return Ok(None);
        };
        match &self.form {
            Form::Shared(shared) => shared.capture(&progress.descriptor, progress.applied, progress.term).map(Some),
            Form::Own(own) => Ok(own.capture(region)),
        }
    }
}

/// What one pass over entries reads and changes besides the state itself.
struct Pass<'a> {
    store: StoreId,
    regions: &'a mut BTreeMap<RegionId, Progress>,
    dirty: &'a mut BTreeMap<RegionId, Dirty>,
    /// Locked, if the pass ends with a change of a region.
    catalogue: Option<&'a mut Entries>,
    /// Descriptors that membership changes led to.
    members: &'a mut Vec<Arc<RegionDescriptor>>,
    unsynced: &'a mut Vec<Arc<RegionDescriptor>>,
}

/// Cuts entries behind each one that may change its region: such a change ends its pass.
fn cut_behind_admin<R>(tasks: Vec<ApplyTask<R>>) -> VecDeque<ApplyTask<R>> {
    let mut cut = VecDeque::with_capacity(tasks.len());
    for task in tasks {
        let ApplyTask::Entries { handle, mut entries, mut replies } = task else {
            cut.push_back(task);
            continue;
        };
        while let Some(at) = entries.iter().position(is_admin).filter(|at| at + 1 < entries.len()) {
            let rest = entries.split_off(at + 1);
            let behind = replies.partition_point(|(index, _)| *index < rest[0].index);
            let rest_replies = replies.split_off(behind);
            cut.push_back(ApplyTask::Entries { handle, entries, replies });
            (entries, replies) = (rest, rest_replies);
        }
        cut.push_back(ApplyTask::Entries { handle, entries, replies });
    }
    cut
}

fn ends_with_admin<R>(task: &ApplyTask<R>) -> bool {
    matches!(task, ApplyTask::Entries { entries, .. } if entries.last().is_some_and(is_admin))
}

fn to_state_error(error: io::Error) -> StateError {
    let path = "snapshot files".to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull => StateError::NoSpace { path },
        _ => StateError::Damaged { path, reason: error.to_string() },
    }
}
