//! Carrying committed entries out: beside the commit path, in batches, in order.
//!
//! One applier serves one worker's regions. It is deterministic; the shell runs it on a thread of its own, the simulator
//! calls it. A batch of tasks becomes one atomic write of the state store: data, session records and applied indexes of all
//! regions in it change together or not at all.

mod backend;
mod barred;
mod batch;
mod body;
mod capture;
mod catalogue;
mod changes;
mod decide;
mod digest;
mod foresee;
mod install;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod install_tests;
mod key_order;
mod lag;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod merge_tests;
mod own;
mod park;
mod record;
mod recover;
mod regions;
mod residents;
mod shared;
mod sorted;
mod source;
mod tombstone;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hint::black_box;
use std::io;
use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use multiraft_storage::StateError;
use multiraft_transport::SnapshotHeader;
use rustc_hash::FxHashMap;

use crate::apply::backend::Form;
use crate::apply::barred::Barred;
use crate::apply::catalogue::{Catalogue, Entries};
use crate::apply::decide::is_admin;
use crate::apply::regions::{Progress, Regions};
use crate::logic::{ApplyTask, Packed, RegionChange, RegionHandle};
use crate::measure::Tallies;
use crate::region::merge::MergeState;
use crate::snapshots::SnapshotFiles;

pub use backend::{AppliedRegion, Backend};
pub use batch::{AppliedBatch, ApplyEnd, Destroyed, Effect};
pub(crate) use body::CHUNK_BYTES;
pub use body::Chunks;
pub use digest::DigestTask;
pub(crate) use foresee::Foresight;
pub(crate) use record::{FIRST_INDEX, FIRST_TERM};
pub(crate) use recover::Rewrite;
pub(crate) use shared::stored_descriptor;
pub use source::SnapshotSource;
pub use tombstone::{Cause, Tombstone};
pub(crate) use tombstone::{RECOVERY_LEAP, later_of};

pub use crate::region::command::{bared, is_bare};

/// For so many regions that come to rest at a time the memory is kept that names them.
const RESTED_KEPT: usize = 64;

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

/// Applies the entries of one worker's regions.
pub struct Applier {
    form: Form,
    regions: Regions,
    /// Those that have come to rest and are not known to the catalogue as such yet: somebody else had it.
    rested: Vec<Packed>,
    /// Regions that have applied since the last checkpoint, how far, and how many bytes of entries.
    dirty: FxHashMap<RegionId, Dirty>,
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
            .map(|AppliedRegion { descriptor, index, term, installed, merge }| Progress {
                descriptor,
                applied: index,
                term,
                installed,
                merge,
            })
            .collect();
        Self {
            store: backend.store(),
            form: backend.form,
            regions: Regions::new(regions),
            rested: Vec::new(),
            dirty: FxHashMap::default(),
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
        // Regions that are in no cache are read side by side, and not one after the other.
        black_box(tasks.iter().fold(0, |read, task| read ^ self.regions.read_ahead(task.region())));
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
                    self.waiting.extend(tasks.iter().filter(|task| !is_rest(task)).map(ApplyTask::region));
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
                let is_ahead = self.regions.record(descriptor.id).is_some_and(|here| here.index > index);
                if !is_ahead {
                    let installed = index == FIRST_INDEX;
                    let progress =
                        Progress { applied: index, term, installed, descriptor, merge: MergeState::default() };
                    self.lagging.remove(&progress.descriptor.id);
                    self.regions.insert(progress);
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
            Some(ApplyTask::Rest { packed }) => self.rest(packed),
            Some(ApplyTask::Entries { .. }) | None => {}
        }
        Ok(())
    }

    /// The region sleeps, and no more is kept of it than that takes. The catalogue hears of it when nobody else has it: an applier
    /// does not wait for that.
    fn rest(&mut self, packed: Packed) {
        self.regions.rest(packed.id(), &packed);
        self.rested.push(packed);
        self.tell_rested();
    }

    fn tell_rested(&mut self) {
        if let Some(mut entries) = self.catalogue.try_lock().filter(|_| !self.rested.is_empty()) {
            self.rested.drain(..).for_each(|packed| entries.rest(packed.id(), &packed));
            self.rested.shrink_to(RESTED_KEPT);
        }
    }

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
            if self.regions.is_frozen(region) && !entries.is_here(region) {
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
        self.regions.is_frozen(handle.region)
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
        let progress = self.regions.get(region);
        let here = progress.as_ref().map(|progress| (progress.applied, progress.term)).unwrap_or_default();
        let tombstone = entries.tombstone_of(region, known, cause, later_of(committed, here));
        // A child of a split may have come here and not been registered with this applier yet.
        let state = progress.filter(|progress| progress.applied > LogIndex::ZERO);
        let state = state.map(|progress| progress.descriptor).or_else(|| entries.state(region));
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
        let applied = self.regions.record(region).map(|here| (here.index, here.term)).unwrap_or_default();
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
    regions: &'a mut Regions,
    dirty: &'a mut FxHashMap<RegionId, Dirty>,
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

fn is_rest<R>(task: &ApplyTask<R>) -> bool {
    matches!(task, ApplyTask::Rest { .. })
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
