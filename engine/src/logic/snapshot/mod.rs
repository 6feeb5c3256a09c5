//! The snapshot conversation: who offers, who accepts, how many at once, and what is gone on with after a break.
//!
//! ```text
//!  leader                                   follower
//!    | -- Offer{index, descriptor} ----------> |   would it help, is there room?
//!    | <--------- Accept{first_chunk} / Refuse |   Expect: the stream may come
//!    | == header, chunks (own stream) =======> |   received whole, checked
//!    |      X  the link breaks                 |   what is there of it is kept, bounded
//!    | -- Offer{.., capture} ----------------> |   the same capture?
//!    | <------------- Accept{first_chunk: n}   |
//!    | == header, chunks from n on ==========> |   installed durably, atomically; then the log is reset
//!    | <------------------ Finished{installed} |
//! ```
//!
//! A lost step ends in a time-out on both sides, after which the leader offers again: later and later while nothing comes of
//! it. While a transfer is under way the leader's log keeps what follows the snapshot, up to a bound.

mod hold;
mod kept;
mod queue;
mod receive;
mod send;

use std::time::Duration;

use multiraft_raft::{Incarnation, RegionId, SnapshotOutcome, StoreId, Time};
use multiraft_router::SlotKey;
use multiraft_transport::{PeerMessage, SnapshotMessage, SnapshotStep};

use crate::logic::worker::Worker;
use crate::logic::{ApplyTask, LaneKind, SnapshotTask, TurnOutput};

use hold::Holds;
use queue::Queue;
use receive::Receiving;
use send::Sending;

/// How long snapshots may take, and what may be kept for them. In the configuration of a store: of the whole store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// How long a step may take before the transfer is given up. While chunks move, it counts from the last sign of that.
    pub step_timeout: Duration,
    /// While a follower gets a snapshot, the leader's log keeps what follows it, but no more entries than this...
    pub hold_entries: u64,
    /// ...nor more bytes, for each region. Beyond, the log is cut, and the follower may need another snapshot.
    pub hold_bytes: u64,
    /// How long what was captured, or received in part, is kept after a transfer broke off.
    pub kept_for: Duration,
    /// How many of these are kept in each direction...
    pub kept_count: usize,
    /// ...and how many bytes, on disk.
    pub kept_bytes: u64,
    /// How long a follower waits for its next offer after a transfer came to nothing; doubles with each further one...
    pub retry_min: Duration,
    /// ...up to this.
    pub retry_max: Duration,
}

impl Default for SnapshotLimits {
    fn default() -> Self {
        Self {
            step_timeout: Duration::from_secs(30),
            hold_entries: 1 << 20,
            hold_bytes: 256 << 20,
            kept_for: Duration::from_secs(120),
            kept_count: 16,
            kept_bytes: 8 << 30,
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
        }
    }
}

impl SnapshotLimits {
    /// One worker's part of a store's limits, if there are so many workers.
    #[must_use]
    pub fn for_one_of(&self, workers: usize) -> Self {
        let workers = workers.max(1);
        Self {
            kept_count: self.kept_count.div_ceil(workers),
            kept_bytes: self.kept_bytes / workers as u64,
            ..self.clone()
        }
    }
}

/// Snapshots on their way out of and into one worker's regions.
#[derive(Debug)]
pub(super) struct Transfers {
    /// Followers that need one.
    queue: Queue,
    sending: Sending,
    receiving: Receiving,
    holds: Holds,
    tasks: Vec<SnapshotTask>,
}

impl Transfers {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            queue: Queue::new(),
            sending: Sending::new(incarnation),
            receiving: Receiving::new(),
            holds: Holds::default(),
            tasks: Vec::new(),
        }
    }
}

impl<R> Worker<R> {
    /// Offers what waits, gives up what takes too long, and hands the turn's tasks over.
    pub(super) fn drive_transfers(&mut self, now: Time, out: &mut TurnOutput<R>) {
        self.expire_outgoing(now);
        self.expire_incoming(now);
        self.drive_offers(now);
        out.snapshots.append(&mut self.transfers.tasks);
        for (handle, from, header) in std::mem::take(&mut self.transfers.receiving.installs) {
            out.apply.push(ApplyTask::Install { handle, from, header });
        }
    }

    /// A step of the conversation from the other side.
    pub(super) fn handle_snapshot(&mut self, now: Time, from: StoreId, message: SnapshotMessage) {
        let here = self.any_slot(message.region).filter(|key| self.region(*key).group.id() == message.to);
        let Some(key) = here else {
            // The sender learns at once that there is nobody, and not by a time-out: an append has to come first.
            if let SnapshotStep::Offer { .. } = message.step {
                let step = SnapshotStep::Finished { installed: false };
                let (own, to) = (message.to, message.from);
                let answer = SnapshotMessage { from: own, to, step, ..message };
                self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(answer));
            }
            return;
        };
        match message.step {
            SnapshotStep::Offer { index, index_term, capture, .. } => {
                let group = &self.region(key).group;
                let leads = group.leader() == Some(message.from) && group.term() == message.term;
                let offered = (index, index_term);
                let step = self.consider(now, key, (from, leads), message.transfer, offered, capture);
                let region = self.region(key);
                let answer = SnapshotMessage {
                    transfer: message.transfer,
                    region: message.region,
                    from: message.to,
                    to: message.from,
                    term: region.group.term(),
                    step,
                };
                self.peers.entry(from).push(LaneKind::Control, PeerMessage::Snapshot(answer));
            }
            SnapshotStep::Accept { first_chunk } => self.on_accepted(now, from, message.transfer, first_chunk),
            SnapshotStep::Refuse { retry_after_ms } => self.on_refused(now, from, message.transfer, retry_after_ms),
            SnapshotStep::Finished { installed } => {
                let outcome = if installed { SnapshotOutcome::Installed } else { SnapshotOutcome::Failed };
                self.finish_outgoing(now, from, message.transfer, outcome);
            }
        }
    }

    /// Chunks are still moving.
    pub(super) fn on_snapshot_moving(&mut self, now: Time, from: Option<StoreId>, transfer: u64) {
        match from {
            None => self.on_outgoing_moving(now, transfer),
            Some(from) => self.on_incoming_moving(now, (from, transfer)),
        }
    }

    /// The link to a peer changed: transfers in both directions are over.
    pub(super) fn on_link_transfers(&mut self, now: Time, peer: StoreId) {
        self.on_link_outgoing(now, peer);
        self.on_link_incoming(peer);
    }

    /// A region is not here any more: nothing is sent of it, or received for it.
    pub(super) fn on_region_gone(&mut self, region: RegionId, key: SlotKey) {
        self.on_region_gone_outgoing(key);
        self.on_region_gone_incoming(region, key);
    }
}
