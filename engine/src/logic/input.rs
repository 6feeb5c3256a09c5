//! What can happen to a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    Entry, Fetch, HardState, Incarnation, LogIndex, LogSummary, Payload, RegionDescriptor, RegionEpoch, RegionId,
    ReplicaId, StoreId, Term, Time,
};
use multiraft_storage::FlushToken;
use multiraft_transport::{CaptureId, PeerMessage, SessionSeq, SnapshotHeader};

use crate::apply::{Destroyed, Tombstone};
use crate::liveness::SupportNews;
use crate::logic::Floor;
use crate::region::admin::AdminRequest;
use crate::region::check::{DigestAnswer, FencedReplicas};
use crate::region::merge::{Absorbed, Frozen, MergeState};

/// One input of a worker's turn. `R` is the caller's handle for the answer; the worker only moves it.
#[derive(Debug)]
pub enum Input<R> {
    /// A caller's command.
    Propose {
        /// The region.
        region: RegionId,
        /// The epoch that the caller had in mind; `None`: whatever it is.
        epoch: Option<RegionEpoch>,
        /// The session it belongs to.
        session: Option<SessionSeq>,
        /// The command, not larger than the limit.
        command: Payload,
        /// When the caller stops waiting. A command that is still here then is refused without effect.
        deadline: Time,
        /// Who gets the answer.
        reply: R,
    },
    /// A caller asks for the index that a read must wait for.
    Read {
        /// The region.
        region: RegionId,
        /// The epoch that the caller had in mind; `None`: whatever it is.
        epoch: Option<RegionEpoch>,
        /// How fresh the read must be.
        freshness: Freshness,
        /// When the caller stops waiting.
        deadline: Time,
        /// Who gets the answer.
        reply: R,
    },
    /// A read of a caller that a leader elsewhere has confirmed: answered when the index is applied here.
    ReadConfirmed {
        /// The region.
        region: RegionId,
        /// The index.
        index: LogIndex,
        /// A term whose leader had committed it.
        term: Term,
        /// When the leader was asked.
        asked: Time,
        /// Who gets the answer.
        reply: R,
    },
    /// A caller wants another leader.
    Transfer {
        /// The region.
        region: RegionId,
        /// The wanted leader's store.
        to: StoreId,
        /// When the caller stops waiting.
        deadline: Time,
        /// Who gets the answer.
        reply: R,
    },
    /// A caller wants a region changed.
    Admin {
        /// The region.
        region: RegionId,
        /// The epoch that the caller had in mind; `None`: whatever it is.
        epoch: Option<RegionEpoch>,
        /// What is wanted.
        request: AdminRequest,
        /// When the caller stops waiting.
        deadline: Time,
        /// Who gets the answer.
        reply: R,
    },
    /// A caller's linearizable read, to be carried out at the leader's store: this one may have no replica.
    Query {
        /// The region.
        region: RegionId,
        /// The epoch that the caller had in mind; `None`: whatever it is.
        epoch: Option<RegionEpoch>,
        /// The query.
        query: Bytes,
        /// When the caller stops waiting.
        deadline: Time,
        /// Who gets the answer.
        reply: R,
    },
    /// A region that this store has heard of; where to send requests while it has no replica here.
    Route(Arc<RegionDescriptor>),
    /// A caller wants another store to be asked where a key or a region is. Asked again, another one is asked.
    Locate {
        /// The region, if there is no key.
        region: RegionId,
        /// The key.
        key: Option<Bytes>,
        /// Who gets the answer: `Changed` with one descriptor, `UnknownRegion`, or `NotLeader` if no store could be asked.
        reply: R,
    },
    /// A region of this worker was made by a split; its first state is durable.
    Adopt(Adopt),
    /// Whether a replica without state may come to be.
    Created {
        /// The region.
        region: RegionId,
        /// The replica.
        replica: ReplicaId,
        /// Whether it may.
        allowed: bool,
    },
    /// A region of this worker was absorbed by its neighbour on this store; its state is durably gone.
    Absorbed {
        /// What is left of it.
        tombstone: Tombstone,
    },
    /// An entry that was handed out cannot be applied here: what it needs beside it is not there and will not come. Only a
    /// snapshot brings the region further. Told again and again.
    Stalled {
        /// The region.
        handle: RegionHandle,
        /// The entry.
        index: LogIndex,
    },
    /// A replica's state is durably gone, or could not be removed yet.
    Destroyed(Destroyed),
    /// Messages of a peer, for regions of this worker.
    Messages {
        /// The peer.
        from: StoreId,
        /// The messages.
        messages: Vec<PeerMessage>,
    },
    /// The link to a peer came up with this incarnation, or (`None`) was lost with all that was under way on it.
    Link {
        /// The peer.
        peer: StoreId,
        /// Its incarnation, if up.
        up: Option<Incarnation>,
    },
    /// The append lane to a peer is full: produce no more appends for it.
    LaneFull {
        /// The peer.
        peer: StoreId,
    },
    /// The append lane to a peer has room again.
    LaneReady {
        /// The peer.
        peer: StoreId,
    },
    /// Appends of this worker are durable.
    Flushed {
        /// The evidence.
        token: FlushToken,
    },
    /// Entries have been applied.
    Applied(Vec<Applied>),
    /// A consistency check was applied: the digest of the state as of that entry is being taken.
    Checked {
        /// The group.
        handle: RegionHandle,
        /// The entry.
        index: LogIndex,
    },
    /// That digest was taken, or never will be.
    Digest {
        /// The group.
        handle: RegionHandle,
        /// The entry.
        index: LogIndex,
        /// What to say when asked for it.
        answer: DigestAnswer,
    },
    /// The log was read for a group; `None`: it could not be (the entries are gone, or the disk failed).
    Fetched {
        /// The group.
        handle: RegionHandle,
        /// What was asked for.
        fetch: Fetch,
        /// The entries.
        entries: Option<Vec<Entry>>,
    },
    /// What these regions had applied up to these indexes is durable: their logs may be cut.
    Checkpointed(Vec<(RegionId, LogIndex)>),
    /// Chunks of a snapshot are still moving.
    SnapshotMoving {
        /// Who sends it; `None`: this store does.
        from: Option<StoreId>,
        /// The transfer.
        transfer: u64,
    },
    /// A snapshot that this worker asked to be sent has left, or failed to.
    SnapshotSent {
        /// The transfer.
        transfer: u64,
        /// Whether all of it went out.
        sent: bool,
        /// What was captured, if it is still there to be sent again.
        kept: Option<KeptSnapshot>,
    },
    /// A snapshot has arrived whole and is ready to be installed.
    SnapshotReceived {
        /// Who sent it.
        from: StoreId,
        /// What it is.
        header: SnapshotHeader,
    },
    /// A snapshot that was on its way here will not come.
    SnapshotLost {
        /// Who was sending it.
        from: StoreId,
        /// The transfer.
        transfer: u64,
        /// What is there of it, if anything.
        kept: Option<KeptSnapshot>,
    },
    /// A snapshot was installed, or could not be.
    SnapshotInstalled(SnapshotInstalled),
    /// A living record of this region in the log is damaged: it takes no part any more.
    Damaged {
        /// The region.
        region: RegionId,
    },
    /// A disk has no space, or has some again: leaders are given away, and commands refused, meanwhile. Of the state, each
    /// apply thread of the store says so for itself, to all workers.
    DiskFull {
        /// What has no space.
        disk: DiskUse,
        /// Whether it is full.
        full: bool,
    },
    /// The disk has so little space left that a write may be refused, or has more again: no leadership is taken over meanwhile.
    DiskScarce {
        /// Whether that is so.
        is_scarce: bool,
    },
    /// The store has become slow, or is well again: leaders are given away meanwhile, and none is taken over.
    Slow {
        /// Whether it is slow.
        is_slow: bool,
    },
    /// Planning goes on here, and this is what lies on the stores; for the worker of the root region.
    Loads {
        /// The root region's term in which it goes on.
        term: Term,
        /// The encoded table.
        loads: Bytes,
    },
    /// This store has begun anew, and knows now from which id on replicas may come here; that is durable.
    Floor(Floor),
    /// Hand every led region over (before a shutdown).
    Handover,
    /// Support between this store and a peer has changed, or a round of reads is answered.
    Support(SupportNews),
}

/// What is asked of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// It is linearizable, whatever the clocks do.
    #[default]
    Linearizable,
    /// It is linearizable if the clocks' drift is within the bound: a leader may answer by its lease.
    Lease,
    /// It sees all that was committed so long before the worker takes the question in.
    Within(Duration),
}

/// What a store keeps on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskUse {
    /// The shared log.
    Log,
    /// Applied state.
    State,
}

/// Names one life of one region on one worker. A completion whose handle does not match any more is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionHandle {
    /// The region.
    pub region: RegionId,
    /// Its slot in the worker.
    pub slot: u32,
    /// Tells this life of the slot from others.
    pub generation: u32,
}

/// How far a region has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The group.
    pub handle: RegionHandle,
    /// The last index applied.
    pub index: LogIndex,
    /// What the entries counted for in the apply queue.
    pub cost: usize,
    /// For every membership entry among them: its index, and the descriptor that it led to (`None`: it was refused).
    pub memberships: Vec<(LogIndex, Option<Arc<RegionDescriptor>>)>,
    /// The last of them split the region.
    pub split: Option<SplitDone>,
    /// The last of them changed the region in another way.
    pub change: Option<RegionChange>,
}

/// What a step of a merge, applied durably, has made of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionChange {
    /// It takes nothing any more.
    Frozen {
        /// What it is now.
        region: Arc<RegionDescriptor>,
        /// By which entry, for whom.
        frozen: Arc<Frozen>,
    },
    /// It is no longer frozen.
    Thawed {
        /// What it is now.
        region: Arc<RegionDescriptor>,
    },
    /// Replicas of it are out of service from now on.
    ReplicasFenced {
        /// What it is now: the same.
        region: Arc<RegionDescriptor>,
        /// All that are fenced.
        fenced: Arc<FencedReplicas>,
    },
    /// It is one version newer, and else as before.
    Fenced {
        /// What it is now.
        region: Arc<RegionDescriptor>,
    },
    /// It has absorbed a neighbour.
    Merged {
        /// What it is now.
        region: Arc<RegionDescriptor>,
        /// What it has absorbed in all.
        absorbed: Arc<Absorbed>,
        /// What is left of the neighbour's replica here.
        tombstone: Tombstone,
    },
}

impl RegionChange {
    /// What the region is now.
    #[must_use]
    pub fn region(&self) -> &Arc<RegionDescriptor> {
        match self {
            Self::Frozen { region, .. }
            | Self::Thawed { region }
            | Self::Fenced { region }
            | Self::ReplicasFenced { region, .. }
            | Self::Merged { region, .. } => region,
        }
    }
}

/// A split that was applied, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitDone {
    /// What the region is now.
    pub parent: Arc<RegionDescriptor>,
    /// Its children in key order, and whether the split gave this store's replica its state.
    pub children: Vec<(Arc<RegionDescriptor>, bool)>,
}

/// A child of a split, on its way to the worker that drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The child.
    pub descriptor: Arc<RegionDescriptor>,
    /// Its replica here stands beside the parent's leader: it is to campaign at once.
    pub campaign: bool,
}

/// What a start found of replicas that have no state here, or are out of service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Hard states of replicas without state.
    pub orphans: BTreeMap<RegionId, HardState>,
    /// Replicas that are gone.
    pub tombstones: BTreeMap<RegionId, Tombstone>,
    /// Regions whose records in the log are left over from a replica that is gone.
    pub leftovers: Vec<RegionId>,
    /// Regions whose replica here may have lost records, with the newest replica id that was known of each: no message
    /// brings that replica, or an earlier one, to life again.
    pub suspects: BTreeMap<RegionId, ReplicaId>,
    /// What is known of those among them that have a state here: nothing is done with it until their regions go on without them.
    pub held: BTreeMap<RegionId, Arc<RegionDescriptor>>,
    /// The log may have lost the votes of replicas that nothing else here tells of.
    pub may_lack: bool,
    /// Up to which id no replica comes to be by a message.
    pub floor: Floor,
}

impl Residue {
    /// Whether no message may bring this replica to life.
    #[must_use]
    pub fn bars(&self, region: RegionId, replica: ReplicaId) -> bool {
        self.floor.bars(replica) || self.lacks(region, replica)
    }

    /// Whether this replica may have promised something here that the log has lost: it must not begin anew, as if it never had. The
    /// floor is no matter: of a region that is made by a split which this store takes part in, it has forgotten nothing.
    #[must_use]
    pub fn lacks(&self, region: RegionId, replica: ReplicaId) -> bool {
        match self.suspects.get(&region) {
            Some(newest) => replica <= *newest,
            None => self.may_lack && !self.orphans.contains_key(&region) && !self.tombstones.contains_key(&region),
        }
    }

    /// Whether all that the log may have lost is of replicas with a state here: once they are gone, nothing of it matters.
    #[must_use]
    pub fn is_all_held(&self) -> bool {
        !self.may_lack && self.suspects.keys().all(|region| self.held.contains_key(region))
    }

    /// The part of it that concerns these regions.
    #[must_use]
    pub fn part(&self, is_in: impl Fn(RegionId) -> bool) -> Self {
        let orphans = self.orphans.iter().filter(|(region, _)| is_in(**region));
        let tombstones = self.tombstones.iter().filter(|(region, _)| is_in(**region));
        Self {
            orphans: orphans.map(|(region, hard_state)| (*region, *hard_state)).collect(),
            tombstones: tombstones.map(|(region, tombstone)| (*region, tombstone.clone())).collect(),
            leftovers: self.leftovers.iter().copied().filter(|region| is_in(*region)).collect(),
            suspects: self.suspects.iter().filter(|(region, _)| is_in(**region)).map(|(at, id)| (*at, *id)).collect(),
            held: self
                .held
                .iter()
                .filter(|(region, _)| is_in(**region))
                .map(|(at, known)| (*at, Arc::clone(known)))
                .collect(),
            may_lack: self.may_lack,
            floor: self.floor,
        }
    }
}

/// A captured snapshot, or the first chunks of a received one, that the driver keeps until it is told to let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSnapshot {
    /// The region.
    pub region: RegionId,
    /// Whose bytes they are.
    pub capture: CaptureId,
    /// The last entry that the snapshot includes.
    pub index: LogIndex,
    /// Its term.
    pub index_term: Term,
    /// The region as of that index.
    pub descriptor: Arc<RegionDescriptor>,
    /// How many chunks there are.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How the installation of a snapshot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInstalled {
    /// The group.
    pub handle: RegionHandle,
    /// Who sent it.
    pub from: StoreId,
    /// What it was.
    pub header: SnapshotHeader,
    /// Whether the state is durably replaced.
    pub installed: bool,
    /// It cannot be installed before another region here has gone on: it is still with the driver, to be tried again.
    pub waits: bool,
    /// How the region, as the snapshot has it, stands with merges.
    pub merge: MergeState,
    /// What is left of replicas that went with it: their regions were absorbed by this one.
    pub covered: Vec<Tombstone>,
}

/// A region as it is found at the start of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionStart {
    /// The region, as applied.
    pub descriptor: Arc<RegionDescriptor>,
    /// The last hard state in the log.
    pub hard_state: HardState,
    /// What the log holds.
    pub log: LogSummary,
    /// The last index applied to the state.
    pub applied: LogIndex,
    /// Its term.
    pub applied_term: Term,
    /// The state was replaced by a snapshot and nothing was applied since: it may be ahead of the log.
    pub installed: bool,
    /// How it stands with merges.
    pub merge: MergeState,
}
