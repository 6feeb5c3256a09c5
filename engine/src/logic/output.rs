//! What a worker wants done after a turn.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    Entry, Fetch, LogIndex, LogTicket, RegionDescriptor, RegionEpoch, RegionId, ReplicaId, StoreId, Term,
};
use multiraft_storage::GroupRecord;
use multiraft_transport::{CaptureId, PeerMessage, SnapshotHeader};

use crate::apply::{Cause, Tombstone};
use crate::logic::{Adopt, BeatShare, CheckReport, FencedReplica, Packed, RegionHandle};

/// Everything that one turn wants done. The driver carries it out and empties it.
#[derive(Debug, PartialEq)]
pub struct TurnOutput<R> {
    /// What to append to the shared log, as one batch under `ticket`. Empty: the ticket was not used.
    pub log: Vec<GroupRecord>,
    /// The ticket of this turn.
    pub ticket: LogTicket,
    /// What to send, in order, per peer and lane.
    pub sends: Vec<Outgoing>,
    /// This worker's part of the heartbeats of an interval, when the interval is complete.
    pub beats: Vec<BeatShare>,
    /// What to apply, in order.
    pub apply: Vec<ApplyTask<R>>,
    /// What to answer.
    pub replies: Vec<(R, Outcome)>,
    /// What to read from the log.
    pub fetches: Vec<FetchTask>,
    /// What to do about snapshots.
    pub snapshots: Vec<SnapshotTask>,
    /// Queries to be answered from the applied state, off the worker's thread.
    pub lookups: Vec<LookupTask<R>>,
    /// What peers want to know of regions, to be answered from what this store has heard.
    pub locates: Vec<LocateTask>,
    /// Children of splits, each for the worker that drives it.
    pub adopts: Vec<Adopt>,
    /// What is left of regions that were absorbed here, each for the worker that drives it.
    pub absorbed: Vec<Tombstone>,
    /// Messages to workers of this store, in order.
    pub local: Vec<PeerMessage>,
    /// What happened, for those who watch.
    pub notices: Vec<Notice>,
}

impl<R> Default for TurnOutput<R> {
    fn default() -> Self {
        Self {
            log: Vec::new(),
            ticket: LogTicket { lane: 0, seq: 0 },
            sends: Vec::new(),
            beats: Vec::new(),
            apply: Vec::new(),
            replies: Vec::new(),
            fetches: Vec::new(),
            snapshots: Vec::new(),
            lookups: Vec::new(),
            locates: Vec::new(),
            adopts: Vec::new(),
            absorbed: Vec::new(),
            local: Vec::new(),
            notices: Vec::new(),
        }
    }
}

/// Which of a peer's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LaneKind {
    /// Heartbeats.
    Liveness,
    /// Votes, acknowledgements, reads, answers, the snapshot conversation.
    Control,
    /// Entries and forwarded commands: the lane that may be full.
    Append,
}

/// Messages for one lane of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The peer.
    pub to: StoreId,
    /// The lane.
    pub lane: LaneKind,
    /// The messages, in order.
    pub messages: Vec<PeerMessage>,
}

/// Committed entries of one region, or a snapshot, to be applied.
#[derive(Debug, PartialEq)]
pub enum ApplyTask<R> {
    /// Apply entries; they follow what was handed out before without a gap.
    Entries {
        /// The region.
        handle: RegionHandle,
        /// The entries.
        entries: Vec<Entry>,
        /// Who waits for which of them.
        replies: Vec<(LogIndex, ReplyTo<R>)>,
    },
    /// Replace the region's state by a received snapshot, durably.
    Install {
        /// The region.
        handle: RegionHandle,
        /// Who sent it.
        from: StoreId,
        /// What it is.
        header: SnapshotHeader,
    },
    /// From now on entries of this region come; its state is already written, or there is none yet (index zero).
    Register {
        /// The region, as far as it is known.
        descriptor: Arc<RegionDescriptor>,
        /// The last index applied.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// A message asks for a replica without state: may it come to be? Answered by `Input::Created`.
    Create {
        /// The region.
        region: RegionId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The region was absorbed here: nothing of it comes any more.
    Forget {
        /// The region.
        region: RegionId,
    },
    /// The region is frozen, and its target has absorbed it: it goes, if the target has no replica here that is to take it over.
    /// Then `Input::Absorbed` follows.
    Release {
        /// The region.
        region: RegionId,
    },
    /// The region sleeps, and nothing of it is under way: what is kept of it may take as little memory as it can.
    Rest {
        /// What it is.
        packed: Packed,
    },
    /// A region that has no replica here has come to be this, elsewhere.
    Elsewhere {
        /// The region.
        descriptor: Arc<RegionDescriptor>,
    },
    /// Remove a replica's state, durably, and leave a tombstone. Answered by `Input::Destroyed`.
    Destroy {
        /// The region.
        region: RegionId,
        /// The newest that is known of it.
        known: Arc<RegionDescriptor>,
        /// Why.
        cause: Cause,
        /// An entry of its log that is known to be committed, by index and term; zeros: none beyond what is applied.
        committed: (LogIndex, Term),
    },
}

impl<R> ApplyTask<R> {
    /// Whose it is.
    pub fn region(&self) -> RegionId {
        match self {
            Self::Entries { handle, .. } | Self::Install { handle, .. } => handle.region,
            Self::Register { descriptor, .. } | Self::Elsewhere { descriptor } => descriptor.id,
            Self::Rest { packed } => packed.id(),
            Self::Create { region, .. }
            | Self::Forget { region }
            | Self::Release { region }
            | Self::Destroy { region, .. } => *region,
        }
    }
}

/// Who gets an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTo<R> {
    /// A caller of this store.
    Caller(R),
    /// The store that sent the request on.
    Peer {
        /// The store.
        store: StoreId,
        /// Its name for the request.
        id: u64,
    },
}

/// A query whose read was confirmed and whose index is applied: answer it from the state as it is now, inside one view of
/// which the epoch is checked. Not ordered with what is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupTask<R> {
    /// The region.
    pub region: RegionId,
    /// The epoch that the caller had in mind; `None`: whatever it is.
    pub epoch: Option<RegionEpoch>,
    /// The query.
    pub query: Bytes,
    /// Who gets `Answered`, or why not.
    pub to: ReplyTo<R>,
}

/// A peer asks which region owns a key, or what a region is. A hint is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocateTask {
    /// The region, if there is no key.
    pub region: RegionId,
    /// The key.
    pub key: Option<Bytes>,
    /// The store that asks.
    pub from: StoreId,
    /// Its name for the request: answered by `Changed` with one descriptor, or `UnknownRegion`.
    pub id: u64,
}

/// Entries that are wanted from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTask {
    /// The group.
    pub handle: RegionHandle,
    /// Which entries.
    pub fetch: Fetch,
}

/// What to do about snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotTask {
    /// Stream a snapshot to a peer: what is kept under the name of this capture, or else, unless chunks are left out, the
    /// region's applied state, captured now under this name. Answered once by `Input::SnapshotSent`. What was captured is then
    /// kept until it is released.
    Send {
        /// The region.
        handle: RegionHandle,
        /// The name of the transfer.
        transfer: u64,
        /// The peer.
        to: StoreId,
        /// The replica there.
        replica: ReplicaId,
        /// The first chunk wanted.
        first_chunk: u64,
        /// The capture.
        capture: CaptureId,
    },
    /// Give a transfer up at once, whatever it waits for. It is still answered, as it would be without this.
    Cancel {
        /// Who sends it; `None`: this store does.
        from: Option<StoreId>,
        /// The transfer.
        transfer: u64,
    },
    /// A capture is of no use any more, but to the streams that it is on.
    Release {
        /// The capture.
        capture: CaptureId,
    },
    /// What is kept of a broken transfer to this store is of no use any more.
    Forget {
        /// The region.
        region: RegionId,
        /// The capture that it is a part of.
        capture: CaptureId,
    },
    /// A snapshot that was received is of no use any more: remove it.
    Discard {
        /// Who sent it.
        from: StoreId,
        /// What it is.
        header: SnapshotHeader,
    },
    /// A peer may send this transfer; anything else that it sends is unasked for. Answered once, by `Input::SnapshotReceived`
    /// or by `Input::SnapshotLost`, after a cancel at once. What has come of a lost one is kept, if it was more than nothing.
    Expect {
        /// The peer.
        from: StoreId,
        /// The transfer.
        transfer: u64,
        /// The region.
        region: RegionId,
    },
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The command is committed and applied.
    Applied {
        /// What the state machine answered.
        reply: Bytes,
        /// Where it stands in the log.
        index: LogIndex,
    },
    /// The state of this store includes everything up to `index`, and that is enough for a linearizable read.
    ReadAt {
        /// The index.
        index: LogIndex,
        /// A term whose leader had committed it.
        term: Term,
    },
    /// What the state machine answered to a query.
    Answered {
        /// Its answer.
        answer: Bytes,
    },
    /// Done, with nothing to tell.
    Done,
    /// The region was changed as asked for.
    Changed {
        /// What has come of it, in key order.
        regions: Vec<Arc<RegionDescriptor>>,
    },
    /// No leader was found. No effect.
    NotLeader {
        /// Who may lead.
        hint: Option<StoreId>,
    },
    /// The region is not here. No effect.
    UnknownRegion,
    /// The region has changed. No effect.
    EpochMismatch {
        /// What it is now.
        current: Arc<RegionDescriptor>,
    },
    /// Too much to do. No effect.
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The leader's log has no space. No effect.
    NoSpace {
        /// The leader's store.
        store: StoreId,
    },
    /// The session is no longer remembered. No effect of this attempt.
    SessionExpired,
    /// Refused for good. No effect.
    Refused {
        /// Why.
        reason: String,
    },
    /// It may have taken effect, or may yet.
    Uncertain,
}

/// What happened in a worker, for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A region's leader, as this store sees it, has changed.
    Leader {
        /// The region.
        region: RegionId,
        /// The term.
        term: Term,
        /// The leader's store; `None` while there is none.
        leader: Option<StoreId>,
    },
    /// This store's replica caught up by a snapshot.
    SnapshotInstalled {
        /// The region.
        region: RegionId,
        /// The index of the snapshot.
        index: LogIndex,
    },
    /// Another store told what a region is, perhaps old news. Nothing has happened here.
    Heard(Arc<RegionDescriptor>),
    /// A replica of this store lives here from now on.
    Hosted(RegionHandle),
    /// It lives there no more.
    Vacated(RegionHandle),
    /// A replica of this store sleeps, and its region is this: what is kept of it may take as little memory as it can.
    Rested(Packed),
    /// It has been woken: somebody is likely to ask for its region again.
    Woken(Arc<RegionDescriptor>),
    /// A region's descriptor has changed.
    Descriptor(Arc<RegionDescriptor>),
    /// A region was split: what it is now, then its children, in key order.
    Split(Vec<Arc<RegionDescriptor>>),
    /// A region has absorbed a neighbour.
    Merged {
        /// What it is now.
        region: Arc<RegionDescriptor>,
        /// The neighbour.
        source: RegionId,
    },
    /// The root region is led here, in this term, and a store tells what whoever plans has to know.
    Report {
        /// The store.
        from: StoreId,
        /// The term.
        term: Term,
        /// What it tells.
        report: Bytes,
    },
    /// A consistency check that is led here has come to its end.
    Checked {
        /// The region.
        region: RegionId,
        /// Whether no replica was found to differ.
        is_consistent: bool,
    },
    /// A consistency check that is led here has found replicas with other states than they have to have. What can be fenced is
    /// about to be.
    ReplicasDiffer(Arc<CheckReport>),
    /// A region has fenced a replica of it.
    ReplicaFenced {
        /// The region.
        region: RegionId,
        /// The replica, and why.
        fenced: FencedReplica,
        /// Its store.
        store: StoreId,
    },
    /// The replica here is out of service from now on.
    SetAside {
        /// The region.
        region: RegionId,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A replica here that was out of service is gone, durably: another one may take its place.
    Cleared {
        /// The region.
        region: RegionId,
    },
    /// This store's replica of a region is gone; the region is known to have come this far.
    Removed {
        /// The region.
        region: RegionId,
        /// The newest that is known of it.
        known: Arc<RegionDescriptor>,
    },
}

/// What a worker has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns taken.
    pub turns: u64,
    /// Commands proposed here as leader.
    pub proposed: u64,
    /// Commands sent on to a leader elsewhere.
    pub forwarded: u64,
    /// Entries handed out to be applied.
    pub committed: u64,
    /// Times a region of this worker became a leader.
    pub elections_won: u64,
    /// Linearizable reads confirmed.
    pub reads: u64,
    /// Those among them that a round of stores confirmed.
    pub reads_by_round: u64,
    /// Those among them that needed no message.
    pub reads_by_lease: u64,
    /// Those among them for which the word of the store that asked was enough.
    pub reads_by_word: u64,
    /// Reads of a bounded age that needed no message; not among them.
    pub reads_by_age: u64,
    /// Rounds of stores begun for reads.
    pub rounds: u64,
    /// Times a leader here came to rest.
    pub rests: u64,
    /// Replicas put to sleep in their packed form.
    pub packed: u64,
    /// Replicas that were woken out of it.
    pub unpacked: u64,
    /// Promises to leaders that ended because this store withdrew its support.
    pub promises_ended: u64,
    /// Group heartbeats produced.
    pub beats: u64,
    /// Requests refused with `Busy`.
    pub busy: u64,
    /// Replicas made here because of a message.
    pub replicas_created: u64,
    /// Replicas of this store that were removed.
    pub replicas_removed: u64,
    /// Splits applied here.
    pub splits: u64,
    /// Merges applied here.
    pub merges: u64,
    /// Frozen regions that were rolled back here.
    pub rolled_back: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Snapshots offered to followers.
    pub snapshots_sent: u64,
    /// Transfers that a follower had the first chunks of already.
    pub snapshots_resumed: u64,
    /// Transfers to followers that came to nothing, but for those that ended with their link.
    pub snapshots_failed: u64,
    /// Transfers to this store that were taken up after a break.
    pub snapshots_taken_up: u64,
    /// Commands that were proposed here and have committed.
    pub committed_here: u64,
    /// The time from proposing to handing out to be applied, of all of these together.
    pub commit_latency: Duration,
}
