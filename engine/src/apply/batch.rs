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

/// What one task came to, or some of entries that stood next to each other: for the worker.
#[derive(Debug)]
pub enum Effect {
    /// Entries were applied.
    Applied(Vec<Applied>),
    /// A snapshot was installed, or was not.
    Installed(SnapshotInstalled),
    /// Whether a replica may come to be.
    Created(RegionId, ReplicaId, bool),
    /// A replica is gone.
    Destroyed(Destroyed),
    /// What is left of a region whose target has absorbed it, and is not here to do so.
    Released(Tombstone),
    /// An entry cannot be applied here and never will, as far as is known: the region needs a snapshot.
    Stalled(RegionHandle, LogIndex),
}

/// What came of a batch of tasks.
#[derive(Debug)]
pub struct AppliedBatch<R> {
    /// For the worker. Invariant: in the order in which it came about. A snapshot between two entries, or between the freeze of a
    /// region and its absorption, replaces what was known before and nothing that was done after.
    pub effects: Vec<Effect>,
    /// To be handed in again before anything else, a little later: they wait for a neighbour's freeze to be applied here.
    pub parked: Vec<ApplyTask<R>>,
    /// Consistency checks that were applied: their digests are to be taken, beside everything else.
    pub checks: Vec<DigestTask>,
    /// For callers here.
    pub replies: Vec<(R, Outcome)>,
    /// For stores that sent a request on.
    pub peer_replies: Vec<(StoreId, ForwardReply)>,
}

impl Effect {
    fn into_input<R>(self) -> Input<R> {
        match self {
            Self::Applied(applied) => Input::Applied(applied),
            Self::Installed(done) => Input::SnapshotInstalled(done),
            Self::Created(region, replica, allowed) => Input::Created { region, replica, allowed },
            Self::Destroyed(destroyed) => Input::Destroyed(destroyed),
            Self::Released(tombstone) => Input::Absorbed { tombstone },
            Self::Stalled(handle, index) => Input::Stalled { handle, index },
        }
    }
}

impl<R> Default for AppliedBatch<R> {
    fn default() -> Self {
        Self {
            effects: Vec::new(),
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
        let checked = self.checks.iter().map(|task| Input::Checked { handle: task.handle, index: task.index });
        self.effects.drain(..).map(Effect::into_input).chain(checked).collect()
    }

    /// The entries that were applied, in order.
    pub fn applied(&self) -> impl Iterator<Item = &Applied> {
        self.effects.iter().flat_map(|effect| if let Effect::Applied(applied) = effect { &applied[..] } else { &[] })
    }

    pub(super) fn push_applied(&mut self, done: Applied) {
        match self.effects.last_mut() {
            Some(Effect::Applied(applied)) => applied.push(done),
            _ => self.effects.push(Effect::Applied(vec![done])),
        }
    }

    /// What was applied last, if nothing else was done since.
    pub(super) fn last_applied(&mut self) -> Option<&mut Applied> {
        match self.effects.last_mut() {
            Some(Effect::Applied(applied)) => applied.last_mut(),
            _ => None,
        }
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
