//! What comes of a batch of tasks: for the worker, for callers, for peers.

use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term};
use multiraft_transport::ForwardReply;

use crate::apply::{ApplyError, DigestTask, Tombstone};
use crate::logic::{Applied, ApplyTask, Input, Outcome, RegionHandle, ReplyTo, SnapshotInstalled, wire_outcome};

/// How far a batch of tasks was carried out.
#[derive(Debug)]
#[must_use = "what is not applied yet must be applied before anything else"]
pub enum ApplyEnd<R> {
    /// All of it.
    Done,
    /// The state store has no space. The [`AppliedBatch`] describes what is written once [`Applier::retry`](crate::apply::Applier::retry) succeeds: hold
    /// it back until then. After that, apply `rest` before anything else.
    Stalled {
        /// The tasks that were not looked at.
        rest: Vec<ApplyTask<R>>,
    },
    /// The state must not be used any more; the [`AppliedBatch`] is void.
    Failed(ApplyError),
}

/// What came of an [`ApplyTask::Destroy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// The region.
    pub region: RegionId,
    /// As in the task.
    pub known: Arc<RegionDescriptor>,
    /// As in the task.
    pub committed: (LogIndex, Term),
    /// What the replica leaves; `None`: it is still there, and to be destroyed later. There was no space to write that it is
    /// gone, or a write that gives it its state waits for space.
    pub tombstone: Option<Tombstone>,
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
    /// For the worker: which replicas are gone.
    pub destroyed: Vec<Destroyed>,
    /// For the worker: what is left of regions whose target has absorbed them, and is not here to do so.
    pub released: Vec<Tombstone>,
    /// For the worker: entries that cannot be applied here and never will, as far as is known: the region needs a snapshot.
    pub stalled: Vec<(RegionHandle, LogIndex)>,
    /// To be handed in again before anything else, a little later: they wait for a neighbour's freeze to be applied here.
    pub parked: Vec<ApplyTask<R>>,
    /// Consistency checks that were applied: their digests are to be taken, beside everything else.
    pub checks: Vec<DigestTask>,
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
            released: Vec::new(),
            stalled: Vec::new(),
            parked: Vec::new(),
            checks: Vec::new(),
            replies: Vec::new(),
            peer_replies: Vec::new(),
        }
    }
}

impl<R> AppliedBatch<R> {
    /// All of it but the answers and digests, as a worker takes it.
    pub fn take_inputs(&mut self) -> Vec<Input<R>> {
        let mut inputs = Vec::new();
        if !self.applied.is_empty() {
            inputs.push(Input::Applied(std::mem::take(&mut self.applied)));
        }
        inputs.extend(self.checks.iter().map(|task| Input::Checked { handle: task.handle, index: task.index }));
        inputs.extend(self.installed.drain(..).map(Input::SnapshotInstalled));
        let created = self.created.drain(..);
        inputs.extend(created.map(|(region, replica, allowed)| Input::Created { region, replica, allowed }));
        inputs.extend(self.destroyed.drain(..).map(Input::Destroyed));
        inputs.extend(self.stalled.drain(..).map(|(handle, index)| Input::Stalled { handle, index }));
        inputs.extend(self.released.drain(..).map(|tombstone| Input::Absorbed { tombstone }));
        inputs
    }

    pub(super) fn answer(&mut self, to: ReplyTo<R>, outcome: Outcome) {
        match to {
            ReplyTo::Caller(reply) => self.replies.push((reply, outcome)),
            ReplyTo::Peer { store, id } => {
                self.peer_replies.push((store, ForwardReply { id, outcome: wire_outcome(outcome) }));
            }
        }
    }
}
