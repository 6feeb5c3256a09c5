//! Carrying committed entries out: beside the commit path, in batches, in order.
//!
//! One applier serves one worker's regions. It is deterministic; the shell runs it on a thread of its own, the simulator
//! calls it. A batch of tasks becomes one atomic write of the state store: data, session records and applied indexes of all
//! regions in it change together or not at all.

mod backend;
mod body;
mod decide;
mod own;
mod record;
mod shared;
mod source;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, StoreId, Term};
use multiraft_storage::StateError;
use multiraft_transport::{ForwardReply, SnapshotHeader};

use crate::apply::backend::Form;
use crate::logic::{Applied, ApplyTask, Outcome, ReplyTo, SnapshotInstalled, wire_outcome};

pub use backend::{AppliedRegion, Backend};
pub use body::Chunks;
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
    /// For callers here.
    pub replies: Vec<(R, Outcome)>,
    /// For stores that sent a request on.
    pub peer_replies: Vec<(StoreId, ForwardReply)>,
}

impl<R> Default for AppliedBatch<R> {
    fn default() -> Self {
        Self { applied: Vec::new(), installed: Vec::new(), replies: Vec::new(), peer_replies: Vec::new() }
    }
}

impl<R> AppliedBatch<R> {
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
        Self { form: backend.form, regions, dirty: BTreeMap::new(), stalled: None }
    }

    /// Carries tasks out, in order: entries as one atomic change of the state, the installation of a snapshot as one of its
    /// own.
    pub fn apply<R>(
        &mut self,
        tasks: Vec<ApplyTask<R>>,
        received: &dyn ReceivedSnapshots,
    ) -> (AppliedBatch<R>, ApplyEnd<R>) {
        assert!(self.stalled.is_none(), "a stalled batch must be retried before anything is applied after it");
        let mut batch = AppliedBatch::default();
        let outcome = match &mut self.form {
            Form::Shared(shared) => {
                shared.apply(&mut self.regions, &mut self.dirty, &mut self.stalled, tasks, received, &mut batch)
            }
            Form::Own(own) => own::apply(own, &mut self.regions, &mut self.dirty, tasks, received, &mut batch),
        };
        (batch, outcome)
    }

    /// Tries again to write what the state store had no space for; nothing to do if nothing is stalled.
    ///
    /// # Errors
    /// [`StateError`]; call again later after [`StateError::NoSpace`].
    pub fn retry(&mut self) -> Result<(), StateError> {
        let (Form::Shared(shared), Some(batch)) = (&self.form, &self.stalled) else {
            return Ok(());
        };
        shared.write(batch.clone())?;
        self.stalled = None;
        Ok(())
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

    /// The region's state of this instant, to be written out later; `None` if the region is not here.
    ///
    /// # Errors
    /// [`StateError`] if the state store failed.
    pub fn capture(&self, region: RegionId) -> Result<Option<SnapshotSource>, StateError> {
        let Some(progress) = self.regions.get(&region) else {
            return Ok(None);
        };
        match &self.form {
            Form::Shared(shared) => shared.capture(&progress.descriptor, progress.applied, progress.term).map(Some),
            Form::Own(own) => Ok(own.capture(region)),
        }
    }
}
