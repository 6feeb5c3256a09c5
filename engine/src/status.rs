//! What can be told of a store and its regions.

use std::sync::Arc;

use multiraft_raft::{Incarnation, LogIndex, RegionDescriptor, StoreId, Term};

use crate::logic::Floor;
use crate::shell::SupportStanding;

/// How one replica on this store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionStatus {
    /// The region, as of what this worker has seen applied.
    pub descriptor: Arc<RegionDescriptor>,
    /// The store that leads it, as far as is known here.
    pub leader: Option<StoreId>,
    /// Whether that is this store.
    pub is_leader: bool,
    /// The replica's term.
    pub term: Term,
    /// The commit index known here.
    pub commit: LogIndex,
    /// The last index applied here.
    pub applied: LogIndex,
    /// The first index in the log.
    pub first_index: LogIndex,
    /// The last index in the log.
    pub last_index: LogIndex,
    /// The replica waits for nothing: its leader rests, or it has promised its leader to keep quiet.
    pub asleep: bool,
}

/// How a store stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The store.
    pub store: StoreId,
    /// How often it has started.
    pub incarnation: Incarnation,
    /// Its replicas, by region id.
    pub regions: Vec<RegionStatus>,
    /// Regions whose durable records are damaged and that are kept out of service here, with the reason.
    pub damaged: Vec<(multiraft_raft::RegionId, String)>,
    /// The log has lost records, and may have held votes of replicas that nothing else here tells of. Until the store has
    /// [rejoined](crate::Builder::rejoin) it takes no replica of a region that it does not know, and one of each child of a split only
    /// to have it replaced.
    pub lacks_promises: bool,
    /// Which of its replicas were lost with an earlier data directory (see [`Builder::rejoin`](crate::Builder::rejoin)). While that is
    /// [`Floor::Unknown`] it takes no replica at all.
    pub floor: Floor,
    /// The newest version of the wire format that it speaks.
    pub wire_version: u16,
    /// The links to the other stores.
    pub peers: Vec<PeerStatus>,
    /// What has been counted since the start.
    pub counters: StoreCounters,
}

/// How the link to another store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The other store.
    pub store: StoreId,
    /// Whether there is a link.
    pub connected: bool,
    /// Its incarnation, if there is a link.
    pub incarnation: Option<Incarnation>,
    /// The version of the wire format that the two talk in, if there is a link.
    pub wire_version: Option<u16>,
    /// Whether this store holds its support: it has heard, lately enough, that the other store supports it.
    pub holds_support: bool,
    /// Whether this store gives it its support.
    pub gives_support: bool,
    /// How many connections to it are open; never more than one once a dial from both sides has been resolved.
    pub connections: u64,
    /// Packets sent: UDP datagrams, so also what QUIC adds by itself, such as acknowledgements. None on a local network.
    pub packets_sent: u64,
    /// Frames sent on all lanes.
    pub frames_sent: u64,
    /// Messages in these frames.
    pub messages_sent: u64,
    /// Bytes of these frames; on a local network, which has no frames of bytes, of the messages in memory, about.
    pub bytes_sent: u64,
}

impl PeerStatus {
    pub(crate) fn of(peer: multiraft_transport::PeerStatus, support: SupportStanding) -> Self {
        let sum = |count: fn(&multiraft_transport::LaneStatus) -> u64| peer.sent.iter().map(count).sum();
        Self {
            store: peer.store,
            connected: peer.link.is_some(),
            incarnation: peer.link.as_ref().map(|link| link.incarnation),
            wire_version: peer.link.as_ref().map(|link| link.version),
            holds_support: support.held,
            gives_support: support.given,
            connections: u64::from(peer.link.is_some()),
            packets_sent: peer.packets_sent,
            frames_sent: sum(|lane| lane.frames),
            messages_sent: sum(|lane| lane.messages),
            bytes_sent: sum(|lane| lane.bytes),
        }
    }
}

/// What a store has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCounters {
    /// Flushes of the shared log.
    pub log_syncs: u64,
    /// Entries appended to it.
    pub log_entries: u64,
    /// Bytes written to it.
    pub log_bytes: u64,
    /// Packets sent to all peers: see [`PeerStatus::packets_sent`].
    pub packets_sent: u64,
    /// Frames sent to all peers.
    pub frames_sent: u64,
    /// Messages in these frames.
    pub messages_sent: u64,
    /// Bytes of these frames.
    pub bytes_sent: u64,
    /// Group heartbeats sent.
    pub beats_sent: u64,
    /// Messages that carried them.
    pub beat_messages_sent: u64,
    /// Elections won.
    pub elections_won: u64,
    /// Commands proposed here as leader.
    pub proposed: u64,
    /// Commands sent on to another store.
    pub forwarded: u64,
    /// Entries applied.
    pub applied: u64,
    /// Linearizable reads confirmed.
    pub reads: u64,
    /// Worker turns.
    pub turns: u64,
    /// Requests refused with `Busy`.
    pub busy: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Snapshots that went on to a follower where an earlier transfer had broken off.
    pub snapshots_resumed: u64,
    /// Transfers of snapshots to followers that came to nothing, but for those that ended with their link.
    pub snapshots_failed: u64,
    /// Bytes of snapshots sent.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshots received.
    pub snapshot_bytes_received: u64,
}
