//! Carrying committed entries out: beside the commit path, in batches, in order.
//!
//! One applier serves one worker's regions. It is deterministic; the shell runs it on a thread of its own, the simulator
//! calls it. A batch of tasks becomes one atomic write of the state store: data, session records and applied indexes of all
//! regions in it change together or not at all.

mod backend;
mod barred;
mod batch;
mod body;
mod catalogue;
mod changes;
mod decide;
mod digest;
mod foresee;
mod install;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod install_tests;
mod lag;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod merge_tests;
mod own;
mod park;
mod record;
mod recover;
mod shared;
mod source;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, ReplicaId, Role, StoreId, Term};
use multiraft_storage::StateError;
use multiraft_transport::SnapshotHeader;

use crate::apply::backend::Form;
use crate::apply::barred::Barred;
use crate::apply::catalogue::{Catalogue, Entries};
use crate::apply::decide::is_admin;
use crate::logic::{ApplyTask, Packed, RegionChange, RegionHandle};
use crate::measure::Tallies;
use crate::region::merge::MergeState;
use crate::snapshots::SnapshotFiles;

pub use backend::{AppliedRegion, Backend};
pub use batch::{AppliedBatch, ApplyEnd, Destroyed, Effect};
pub(crate) use body::CHUNK_BYTES;
pub use body::Chunks;
pub use catalogue::{Cause, Tombstone};
pub(crate) use catalogue::{RECOVERY_LEAP, later_of};
pub use digest::DigestTask;
pub(crate) use foresee::Foresight;
pub(crate) use record::{FIRST_INDEX, FIRST_TERM};
pub(crate) use recover::Rewrite;
pub(crate) use shared::stored_descriptor;
pub use source::SnapshotSource;

pub use crate::region::command::{bared, is_bare};

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
    merge: MergeState,
}

/// Applies the entries of one worker's regions.
pub struct Applier {
    form: Form,
    /// Looked up by id; walked in order.
    regions: BTreeMap<RegionId, Progress>,
    /// Regions that have applied since the last checkpoint, how far, and how many bytes of entries.
    dirty: BTreeMap<RegionId, Dirty>,
    /// Regions that have applied more than their records in the state store tell, and what the entries counted for: none of them
    /// has changed a state.
    lagging: BTreeMap<RegionId, usize>,
    /// A batch that the state store could not take yet.
    stalled: Option<multiraft_storage::StateBatch>,
    /// Regions of which something waits until it could.
    waiting: BTreeSet<RegionId>,
    /// Regions that a split has just changed or made, and whose states are not durable yet: the children, then the parent.
    unsynced: Vec<Arc<RegionDescriptor>>,
    /// Regions that a merge has just absorbed, and whose snapshot files are still there.
    buried: Vec<RegionId>,
    catalogue: Arc<Catalogue>,
    barred: Arc<Barred>,
    store: StoreId,
    /// Where states are kept that are not durable by themselves.
    files: Option<SnapshotFiles>,
    /// Where it is counted what commands touch, if it is.
    tallies: Option<Arc<Tallies>>,
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
            .map(|AppliedRegion { descriptor, index, term, installed, merge }| {
                (descriptor.id, Progress { descriptor, applied: index, term, installed, merge })
            })
            .collect();
        Self {
            store: backend.store(),
            form: backend.form,
            regions,
            dirty: BTreeMap::new(),
            lagging: BTreeMap::new(),
            stalled: None,
            waiting: BTreeSet::new(),
            unsynced: Vec::new(),
            buried: Vec::new(),
            catalogue: backend.catalogue,
            barred: backend.barred,
            files: backend.files,
            tallies: backend.tallies,
        }
    }

    /// Carries tasks out, in order: entries as one atomic change of the state, the installation of a snapshot as one of its
    /// own.
    pub fn apply<R>(
        &mut self,
        tasks: Vec<ApplyTask<R>>,
        received: &dyn ReceivedSnapshots,
    ) -> (AppliedBatch<R>, ApplyEnd<R>) {
        assert!(!self.is_stalled(), "a stalled batch must be retried before anything is applied after it");
        let mut batch = AppliedBatch::default();
        let mut tasks = cut_around_admin(tasks);
        while !tasks.is_empty() {
            self.park(&mut tasks, &mut batch);
            if let Err(error) = self.step(&mut tasks, received, &mut batch) {
                let is_full = matches!(error, ApplyError::State(StateError::NoSpace { .. }));
                let end = if is_full && self.is_stalled() {
                    self.waiting = batch.applied().map(|done| done.handle.region).collect();
                    self.waiting.extend(batch.effects.iter().filter_map(|effect| match effect {
                        Effect::Installed(done) => Some(done.handle.region),
                        _ => None,
                    }));
                    self.waiting.extend(tasks.iter().map(ApplyTask::region));
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
                out.effects.push(Effect::Installed(self.install(received, handle, from, header)?));
                if !self.unsynced.is_empty() {
                    let catalogue = Arc::clone(&self.catalogue);
                    self.sync_changes(&mut catalogue.lock())?;
                }
            }
            Some(ApplyTask::Forget { region }) => {
                self.forget(region);
            }
            Some(ApplyTask::Register { descriptor, index, term }) => {
                // A snapshot that came first may have gone further than the split whose child this is.
                let is_ahead = self.regions.get(&descriptor.id).is_some_and(|here| here.applied > index);
                if !is_ahead {
                    let installed = index == FIRST_INDEX;
                    let progress =
                        Progress { applied: index, term, installed, descriptor, merge: MergeState::default() };
                    self.lagging.remove(&progress.descriptor.id);
                    self.regions.insert(progress.descriptor.id, progress);
                }
            }
            Some(ApplyTask::Create { region, replica }) => {
                let allowed = self.catalogue.lock().create(region, replica);
                out.effects.push(Effect::Created(region, replica, allowed));
            }
            Some(ApplyTask::Destroy { region, known, cause, committed }) => {
                let tombstone = self.destroy(region, &known, cause, committed)?;
                out.effects.push(Effect::Destroyed(Destroyed { region, known, committed, tombstone }));
            }
            Some(ApplyTask::Release { region }) => out.effects.extend(self.release(region)?.map(Effect::Released)),
            Some(ApplyTask::Elsewhere { descriptor }) => self.catalogue.lock().note_elsewhere(&descriptor),
            Some(ApplyTask::Rest { packed }) => self.rest(&packed),
            Some(ApplyTask::Entries { .. }) | None => {}
        }
        Ok(())
    }

    /// What is kept of a region that sleeps takes less.
    #[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "to be filled")]
    fn rest(&mut self, _packed: &Packed) {}

    fn apply_entries<R>(
        &mut self,
        tasks: &mut VecDeque<ApplyTask<R>>,
        out: &mut AppliedBatch<R>,
    ) -> Result<(), ApplyError> {
        // One pass of entries; the lock is taken only if the pass ends with a change of a region.
        let mut pass = Vec::new();
        let mut changes = false;
        // A change of a region begins a pass of its own, so that whether it has to wait is seen with all before it applied.
        let fits = |task: &ApplyTask<R>, is_first: bool| {
            matches!(task, ApplyTask::Entries { .. }) && (is_first || !ends_with_admin(task))
        };
        while let Some(task) = tasks.pop_front_if(|task| !changes && fits(task, pass.is_empty())) {
            // Entries of a frozen region too: it may be gone at any moment, absorbed by another applier.
            changes = ends_with_admin(&task) || self.is_frozen(&task);
            pass.push(task);
        }
        let catalogue = Arc::clone(&self.catalogue);
        let mut entries = changes.then(|| catalogue.lock());
        if let (Some(entries), Some(ApplyTask::Entries { handle, .. })) = (&entries, pass.last()) {
            let region = handle.region;
            let is_frozen = self.regions.get(&region).is_some_and(|progress| progress.merge.frozen.is_some());
            if is_frozen && !entries.is_here(region) {
                // Absorbed by the target's applier: what still comes of it is of no account.
                self.forget(region);
            }
        }
        let (mut members, mut checks) = (Vec::new(), Vec::new());
        let context = Pass {
            store: self.store,
            regions: &mut self.regions,
            dirty: &mut self.dirty,
            lagging: &mut self.lagging,
            catalogue: entries.as_deref_mut(),
            members: &mut members,
            checks: &mut checks,
            unsynced: &mut self.unsynced,
            buried: &mut self.buried,
            tallies: self.tallies.as_deref(),
        };
        let applied = match &mut self.form {
            Form::Shared(shared) => shared.apply(context, &mut self.stalled, pass, out),
            Form::Own(own) => own::apply(own, context, pass, out),
        };
        if !members.is_empty() {
            let entries = entries.get_or_insert_with(|| catalogue.lock());
            members.into_iter().for_each(|descriptor| entries.set_state(descriptor));
        }
        // A check ends its pass, so the state is that of its entry, unless it finds no space: then there is no digest of it.
        if !checks.is_empty() {
            let entries: &Entries = entries.get_or_insert_with(|| catalogue.lock());
            out.checks.extend(checks.into_iter().map(|(handle, index)| match &applied {
                Ok(()) => self.digest_task(entries, handle, index),
                Err(_) => DigestTask::missing(handle, index),
            }));
        }
        // Also if the record of it finds no space yet: it is decided.
        self.bar_if_fenced(out.last_applied().and_then(|done| done.change.as_ref()));
        applied?;
        if !self.unsynced.is_empty() {
            self.sync_changes(&mut entries.unwrap_or_else(|| catalogue.lock()))?;
        }
        Ok(())
    }

    fn is_frozen<R>(&self, task: &ApplyTask<R>) -> bool {
        let ApplyTask::Entries { handle, .. } = task else { return false };
        self.regions.get(&handle.region).is_some_and(|progress| progress.merge.frozen.is_some())
    }

    /// Nothing is read any more from a replica here that its region has fenced, before anybody can know that it has.
    fn bar_if_fenced(&self, change: Option<&RegionChange>) {
        if let Some(RegionChange::ReplicasFenced { region, fenced }) = change
            && region.replica_on(self.store).is_some_and(|own| fenced.contains(own.id))
        {
            self.barred.insert(region.id);
        }
    }

    /// Makes durable what a change of regions has written, before anybody hears of it.
    fn sync_changes(&mut self, entries: &mut Entries) -> Result<(), StateError> {
        match &self.files {
            // The children first: one that is found beside a parent that has not split yet comes again with the split.
            Some(files) => {
                for descriptor in &self.unsynced {
                    let source = match self.capture_here(descriptor.id)? {
                        Some(source) => Some(source),
                        None => self.capture_first(descriptor)?,
                    };
                    files.save(source.into_iter().collect()).map_err(to_state_error)?;
                }
                // The target's file names what it has absorbed, so a crash here leaves no doubt whose the keys are.
                for region in &self.buried {
                    files.bury(entries.tombstones(), *region).map_err(to_state_error)?;
                }
            }
            None => {
                if let Form::Shared(shared) = &self.form {
                    shared.store.flush()?;
                }
            }
        }
        let changed: Vec<RegionId> = self.unsynced.drain(..).map(|descriptor| descriptor.id).collect();
        self.buried.clear();
        entries.settle(&changed);
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
        if !self.unsynced.is_empty() {
            let catalogue = Arc::clone(&self.catalogue);
            self.sync_changes(&mut catalogue.lock())?;
        }
        self.waiting.clear();
        Ok(())
    }

    /// The first state of a region that a split has just made; its own applier does not know it yet.
    fn capture_first(&self, child: &Arc<RegionDescriptor>) -> Result<Option<SnapshotSource>, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.capture(child, FIRST_INDEX, FIRST_TERM, &Arc::default()).map(Some),
            Form::Own(own) => Ok(own.capture(child.id)),
        }
    }

    /// Removes a replica's state, durably, and leaves a tombstone; `None`: there is no space to do it, or another applier has
    /// still to write what gives the replica its state, and would do so after it is gone.
    fn destroy(
        &mut self,
        region: RegionId,
        known: &Arc<RegionDescriptor>,
        cause: Cause,
        committed: (LogIndex, Term),
    ) -> Result<Option<Tombstone>, ApplyError> {
        let catalogue = Arc::clone(&self.catalogue);
        let mut entries = catalogue.lock();
        if entries.is_pending(region) {
            return Ok(None);
        }
        let here = self.regions.get(&region).map(|progress| (progress.applied, progress.term)).unwrap_or_default();
        let tombstone = entries.tombstone_of(region, known, cause, later_of(committed, here));
        // A child of a split may have come here and not been registered with this applier yet.
        let state = self.regions.get(&region).filter(|progress| progress.applied > LogIndex::ZERO);
        let state = state.map(|progress| &progress.descriptor).or(entries.state(region));
        let range = state.map(|descriptor| descriptor.range.clone());
        let ranges = match range {
            // What had not been known here may have been taken over by others meanwhile.
            Some(range) if self.barred.contains(region) => entries.free_parts(region, range),
            range => range.into_iter().collect(),
        };
        // Until it is gone its range is taken: what came into it meanwhile would go with it.
        let before = entries.set_tombstone(region, Some(tombstone.clone()));
        match self.form.bury(self.files.as_ref(), &entries, region, &ranges, &tombstone) {
            Ok(()) => {
                entries.bury(region, tombstone.clone());
                self.barred.remove(region);
                self.forget(region);
                Ok(Some(tombstone))
            }
            Err(StateError::NoSpace { .. }) => {
                entries.set_tombstone(region, before);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a frozen region that its target has absorbed, if the target will not do so here; `None`: it waits for the target,
    /// or there is no space, and is to be asked again.
    fn release(&mut self, region: RegionId) -> Result<Option<Tombstone>, ApplyError> {
        let catalogue = Arc::clone(&self.catalogue);
        let mut entries = catalogue.lock();
        let Some(state) = entries.abandoned(region) else { return Ok(None) };
        let applied = self.regions.get(&region).map(|progress| (progress.applied, progress.term)).unwrap_or_default();
        let tombstone = entries.tombstone_of(region, &state, Cause::Merged, applied);
        let ranges = [state.range.clone()];
        let before = entries.set_tombstone(region, Some(tombstone.clone()));
        match self.form.bury(self.files.as_ref(), &entries, region, &ranges, &tombstone) {
            Ok(()) => {
                entries.bury(region, tombstone.clone());
                self.forget(region);
                Ok(Some(tombstone))
            }
            Err(StateError::NoSpace { .. }) => {
                entries.set_tombstone(region, before);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The region's state of this instant, to be written out later; `None` if the region is not here, or has applied that
    /// its replica here is removed: a state that does not name its replica is nobody's, and is not kept.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed.
    pub fn capture(&self, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        // Another applier may have absorbed it: what is there of it then is no state of any instant.
        self.capture_among(&self.catalogue.lock(), region)
    }

    /// What one of a region's replicas is sent of its state: of a witness, no more than it needs to go on voting.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn capture_for(&self, region: RegionId, replica: ReplicaId) -> Result<Option<SnapshotSource>, StateError> {
        let entries = self.catalogue.lock();
        let progress = self.regions.get(&region);
        let role = progress.and_then(|progress| progress.descriptor.replica(replica)).map(|replica| replica.role);
        if role != Some(Role::Witness) {
            return self.capture_among(&entries, region);
        }
        let Some(Progress { descriptor, applied, term, merge, .. }) =
            progress.filter(|progress| entries.is_here(region) && self.is_kept(progress))
        else {
            return Ok(None);
        };
        match &self.form {
            Form::Shared(shared) => shared.capture_bare(descriptor, *applied, *term, &merge.absorbed).map(Some),
            Form::Own(own) => Ok(own.capture_bare(region)),
        }
    }

    fn is_kept(&self, progress: &Progress) -> bool {
        progress.applied > LogIndex::ZERO && progress.descriptor.replica_on(self.store).is_some()
    }

    /// The same, for who holds the catalogue's lock.
    fn capture_among(&self, entries: &Entries, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        if entries.is_here(region) { self.capture_here(region) } else { Ok(None) }
    }

    fn capture_here(&self, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        let Some(progress) = self.regions.get(&region).filter(|progress| self.is_kept(progress)) else {
            return Ok(None);
        };
        match &self.form {
            Form::Shared(shared) => {
                let Progress { descriptor, applied, term, merge, .. } = progress;
                shared.capture(descriptor, *applied, *term, &merge.absorbed).map(Some)
            }
            Form::Own(own) => Ok(own.capture(region)),
        }
    }
}

/// Notes in the catalogue what a step of a merge has made of a region; nothing is decided about it before that is durable.
fn note_change(
    catalogue: &mut Entries,
    unsynced: &mut Vec<Arc<RegionDescriptor>>,
    progress: &mut Progress,
    change: &RegionChange,
) {
    let region = match change {
        RegionChange::Frozen { region, frozen } => {
            progress.merge.frozen = Some(Arc::clone(frozen));
            region
        }
        RegionChange::Thawed { region } => {
            progress.merge.frozen = None;
            region
        }
        RegionChange::Fenced { region } => region,
        RegionChange::ReplicasFenced { region, fenced } => {
            progress.merge.fenced = Arc::clone(fenced);
            region
        }
        RegionChange::Merged { region, absorbed, .. } => {
            progress.merge.absorbed = Arc::clone(absorbed);
            region
        }
    };
    progress.descriptor = Arc::clone(region);
    catalogue.set_state(Arc::clone(region));
    catalogue.set_merge(region.id, progress.merge.frozen.clone(), Arc::clone(&progress.merge.absorbed));
    catalogue.hold(region.id);
    unsynced.push(Arc::clone(region));
}

/// What one pass over entries reads and changes besides the state itself.
struct Pass<'a> {
    store: StoreId,
    regions: &'a mut BTreeMap<RegionId, Progress>,
    dirty: &'a mut BTreeMap<RegionId, Dirty>,
    lagging: &'a mut BTreeMap<RegionId, usize>,
    /// Locked, if the pass ends with a change of a region.
    catalogue: Option<&'a mut Entries>,
    /// Descriptors that membership changes led to.
    members: &'a mut Vec<Arc<RegionDescriptor>>,
    /// Consistency checks.
    checks: &'a mut Vec<(RegionHandle, LogIndex)>,
    unsynced: &'a mut Vec<Arc<RegionDescriptor>>,
    buried: &'a mut Vec<RegionId>,
    tallies: Option<&'a Tallies>,
}

/// Cuts entries before and behind each one that may change its region: such a change is a task of its own, and ends its pass.
fn cut_around_admin<R>(tasks: Vec<ApplyTask<R>>) -> VecDeque<ApplyTask<R>> {
    let mut cut = VecDeque::with_capacity(tasks.len());
    for task in tasks {
        let ApplyTask::Entries { handle, mut entries, mut replies } = task else {
            cut.push_back(task);
            continue;
        };
        while let Some(at) = entries.iter().position(is_admin).map(|at| at.max(1)).filter(|at| *at < entries.len()) {
            let rest = entries.split_off(at);
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
