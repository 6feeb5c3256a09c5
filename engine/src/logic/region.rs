//! One replica of one region, as its worker holds it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    Distance, Group, LogIndex, Membership, Options, Proposal, RegionDescriptor, RegionEpoch, RegionId, Replica,
    ReplicaId, Restored, Role, StoreId, Term, Time,
};
use multiraft_router::SlotKey;
use multiraft_storage::FlushToken;

use crate::logic::campaign::Attempt;
use crate::logic::merge::Driving;
use crate::logic::output::ReplyTo;
use crate::logic::read::Charge;
use crate::logic::{MergeState, Packed, RegionHandle, RegionStart};
use crate::status::RegionStatus;

/// A replica: its Raft group, and who waits for what.
pub(super) struct Region<R> {
    pub(super) id: RegionId,
    /// Where the first replicas live, beside the group: most messages need not look into the descriptor.
    pub(super) stores: [(ReplicaId, StoreId); INLINE_REPLICAS],
    pub(super) descriptor: Arc<RegionDescriptor>,
    /// Some replica holds no data.
    pub(super) has_witness: bool,
    /// What the descriptor was packed into when the replica slept last: others share it.
    pub(super) slept_as: Option<Packed>,
    /// Who spoke last of those that the descriptor does not name: a replica that has fallen behind must be able to answer a
    /// leader of which it does not know yet.
    pub(super) stranger: Option<(ReplicaId, StoreId)>,
    /// Where members lived that were removed lately: a leader lets go of what they promised.
    pub(super) departed: Vec<(ReplicaId, StoreId)>,
    pub(super) group: Group<FlushToken>,
    /// Where it is in its worker.
    pub(super) key: SlotKey,
    /// It has a state: by bootstrap, a snapshot or a split. Without one it only votes.
    pub(super) initialised: bool,
    /// No change of the region is proposed before this is applied: it may be one.
    pub(super) admin_barrier: LogIndex,
    /// When it last had a leader, or asked what had become of its region.
    pub(super) lonely_since: Time,
    /// How it stands with merges.
    pub(super) merge: MergeState,
    /// The merge that this leading, frozen region drives.
    pub(super) driving: Option<Box<Driving>>,
    /// The target has absorbed this frozen region; when to see again whether it goes because the target is not here.
    pub(super) release_at: Option<Time>,
    /// Listed for the end of this turn.
    pub(super) touched: bool,
    /// Links that changed after this have not been told to the group.
    pub(super) link_mark: u64,
    /// Everything up to here is durably in the state: the log may be cut.
    pub(super) durable: LogIndex,
    /// The leader is not moved for balance before this: it was moved just now, or could not be. Nor does a region's first
    /// leader come to be here: another replica goes first.
    pub(super) settled: Time,
    /// Listed among those whose committed entries wait.
    pub(super) held: bool,
    /// The newest read round that followers were told of at once; later heartbeats that name it are ordinary ones.
    pub(super) round_told: u64,
    /// The newest read round in a heartbeat of this turn.
    pub(super) round_seen: u64,
    /// The store whose leader the group has promised, if it has.
    pub(super) promised_to: StoreId,
    /// What is applied here holds all that was committed by then.
    pub(super) fresh_as_of: Time,
    /// Some follower's lane was full when this leading group was last polled.
    pub(super) paused: bool,
    /// Listed among those that wait for a lane.
    pub(super) listed_paused: bool,
    /// Whether it is to campaign, or does.
    pub(super) attempt: Attempt,
    /// It has done something since the last walk for those who may sleep came by.
    pub(super) stirred: bool,
    /// How it stands is listed for callers.
    pub(super) listed: bool,
    /// It holds no memory that only a busy region needs.
    pub(super) trimmed: bool,
    /// What only a busy region needs.
    pub(super) busy: Option<Box<Waiting<R>>>,
}

/// How many replicas are found without the descriptor.
const INLINE_REPLICAS: usize = 3;

/// Of how many members that were removed it is known where they lived.
const DEPARTED_KEPT: usize = 4;

pub(super) fn first_stores(descriptor: &RegionDescriptor) -> [(ReplicaId, StoreId); INLINE_REPLICAS] {
    let mut stores = [(ReplicaId::ZERO, StoreId::ZERO); INLINE_REPLICAS];
    for (place, replica) in stores.iter_mut().zip(&descriptor.replicas) {
        *place = (replica.id, replica.store);
    }
    stores
}

pub(super) fn has_witness(descriptor: &RegionDescriptor) -> bool {
    descriptor.replicas.iter().any(|replica| replica.role == Role::Witness)
}

/// Who waits in a region.
pub(super) struct Waiting<R> {
    /// Commands that came in during this turn, with who asked.
    pub(super) incoming: Vec<Proposal>,
    pub(super) incoming_replies: Vec<ReplyTo<R>>,
    /// Proposed here as leader, not committed yet, ascending.
    pub(super) proposed: VecDeque<Proposed<R>>,
    /// Reads that came in during this turn.
    pub(super) reads: Vec<Reading<R>>,
    /// Reads whose round is open, by context, ascending; and when it was begun.
    pub(super) rounds: VecDeque<(u64, Time, Vec<Reading<R>>)>,
    /// Confirmed reads that wait until their index is applied here.
    pub(super) confirmed: Vec<Confirmed<R>>,
    /// Who waits for the end of a leadership transfer, and to whom.
    pub(super) transfer: Option<(StoreId, ReplyTo<R>)>,
}

/// A command in the log of this leader.
pub(super) struct Proposed<R> {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) reply: ReplyTo<R>,
    /// When it was proposed.
    pub(super) at: Time,
}

/// A linearizable read on its way.
pub(super) enum Reading<R> {
    /// Its caller, or the store that sent it on, only wants to know from which index on it may read.
    Index {
        to: ReplyTo<R>,
        /// A lease will do.
        lease: bool,
    },
    /// It is answered from the state of this store.
    Query {
        epoch: Option<RegionEpoch>,
        query: Bytes,
        to: ReplyTo<R>,
        /// Given back when the query no longer waits.
        _charge: Charge,
    },
}

impl<R> Reading<R> {
    /// Whether a lease will do.
    pub(super) fn takes_lease(&self) -> bool {
        matches!(self, Self::Index { lease: true, .. })
    }

    /// Who gets the answer.
    pub(super) fn into_reply(self) -> ReplyTo<R> {
        match self {
            Self::Index { to, .. } | Self::Query { to, .. } => to,
        }
    }
}

/// Reads that a quorum has confirmed.
pub(super) struct Confirmed<R> {
    /// They may be served once this is applied.
    pub(super) index: LogIndex,
    /// A term whose leader had committed it.
    pub(super) term: Term,
    /// All that was committed by then is within the index.
    pub(super) as_of: Time,
    /// When nobody waits any more.
    pub(super) deadline: Time,
    pub(super) reads: Vec<Reading<R>>,
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Self {
            incoming: Vec::new(),
            incoming_replies: Vec::new(),
            proposed: VecDeque::new(),
            reads: Vec::new(),
            rounds: VecDeque::new(),
            confirmed: Vec::new(),
            transfer: None,
        }
    }
}

/// What a region that is asked now and then keeps room for, of each kind.
const WAITING_KEPT: usize = 16;

impl<R> Waiting<R> {
    fn is_small(&self) -> bool {
        let room = [self.incoming.capacity(), self.incoming_replies.capacity(), self.proposed.capacity()];
        let read_room = [self.reads.capacity(), self.rounds.capacity(), self.confirmed.capacity()];
        room.into_iter().chain(read_room).all(|room| room <= WAITING_KEPT)
    }

    fn is_empty(&self) -> bool {
        self.incoming_replies.is_empty()
            && self.proposed.is_empty()
            && self.reads.is_empty()
            && self.rounds.is_empty()
            && self.confirmed.is_empty()
            && self.transfer.is_none()
    }
}

impl<R> Region<R> {
    /// See [`Group::read_ahead`].
    pub(super) fn read_ahead(&self, distance: Distance) -> u64 {
        let own = match distance {
            Distance::Own => {
                let marks = self.link_mark ^ self.durable.0 ^ self.settled.0 ^ self.round_told ^ self.fresh_as_of.0;
                let known = self.stores[0].0.0 ^ self.stores[2].1.0 ^ self.admin_barrier.0 ^ self.lonely_since.0;
                let rare = [self.busy.is_some(), self.merge.frozen.is_some(), self.driving.is_some(), self.touched];
                rare.into_iter().fold(marks ^ known ^ self.promised_to.0, |all, is| all << 1 ^ u64::from(is))
            }
            Distance::Near => {
                let busy = self.busy.as_ref().map_or(0, |waiting| waiting.incoming.len() ^ waiting.proposed.len());
                self.descriptor.epoch.version ^ busy as u64
            }
            Distance::Far => {
                let first = self.busy.as_ref().and_then(|waiting| waiting.proposed.front());
                first.map_or(0, |proposed| proposed.index.0)
            }
        };
        own ^ self.group.read_ahead(distance)
    }

    pub(super) fn new(
        start: &RegionStart,
        own: ReplicaId,
        initialised: bool,
        key: SlotKey,
        options: Arc<Options>,
        seed: u64,
        now: Time,
    ) -> Self {
        // Who belongs to the group is part of its state: a replica without one votes when asked and never campaigns.
        let replicas = if initialised { &start.descriptor.replicas[..] } else { &[] };
        let restored = Restored {
            hard_state: start.hard_state,
            log: start.log.clone(),
            applied: start.applied,
            membership: Membership::from_replicas(replicas),
        };
        Self {
            id: start.descriptor.id,
            stores: first_stores(&start.descriptor),
            has_witness: has_witness(&start.descriptor),
            descriptor: Arc::clone(&start.descriptor),
            slept_as: None,
            stranger: None,
            departed: Vec::new(),
            group: Group::new(options, own, restored, seed, now),
            key,
            initialised,
            admin_barrier: LogIndex::ZERO,
            lonely_since: now,
            merge: start.merge.clone(),
            driving: None,
            release_at: None,
            touched: false,
            link_mark: 0,
            durable: start.applied,
            settled: Time::ZERO,
            held: false,
            round_told: 0,
            round_seen: 0,
            promised_to: StoreId::ZERO,
            fresh_as_of: Time::ZERO,
            paused: false,
            listed_paused: false,
            attempt: Attempt::None,
            stirred: true,
            listed: false,
            trimmed: false,
            busy: None,
        }
    }

    pub(super) fn id(&self) -> RegionId {
        self.id
    }

    pub(super) fn descriptor(&self) -> &Arc<RegionDescriptor> {
        &self.descriptor
    }

    pub(super) fn set_descriptor(&mut self, descriptor: Arc<RegionDescriptor>) {
        debug_assert_eq!(descriptor.id, self.descriptor.id);
        let gone = self.descriptor.replicas.iter().filter(|replica| descriptor.replica(replica.id).is_none());
        self.departed.extend(gone.map(|replica| (replica.id, replica.store)));
        self.departed.drain(..self.departed.len().saturating_sub(DEPARTED_KEPT));
        self.stores = first_stores(&descriptor);
        self.has_witness = has_witness(&descriptor);
        self.descriptor = descriptor;
    }

    pub(super) fn handle(&self) -> RegionHandle {
        RegionHandle { region: self.id(), slot: self.key.slot, generation: self.key.generation }
    }

    /// The store of a replica of this region.
    pub(super) fn store_of(&self, replica: ReplicaId) -> Option<StoreId> {
        let near = self.stores.iter().find(|(id, _)| *id == replica && *id != ReplicaId::ZERO).map(|(_, store)| *store);
        let named = near.or_else(|| self.descriptor.replica(replica).map(|replica| replica.store));
        let others = || self.departed.iter().chain(&self.stranger);
        named.or_else(|| others().find(|(id, _)| *id == replica).map(|(_, store)| *store))
    }

    /// What a replica is in this region; `None` also if only its place is known.
    pub(super) fn role_of(&self, replica: ReplicaId) -> Option<Role> {
        self.descriptor.replica(replica).map(|replica| replica.role)
    }

    /// Takes note of where a replica lives that has just spoken, if the descriptor does not tell.
    pub(super) fn note_speaker(&mut self, replica: ReplicaId, store: StoreId) {
        if self.store_of(replica).is_none() {
            self.stranger = Some((replica, store));
        }
    }

    /// The store that leads, as far as is known here.
    pub(super) fn leader_store(&self) -> Option<StoreId> {
        self.group.leader().and_then(|leader| self.store_of(leader))
    }

    /// The replica that should lead while there is no better reason: spreads the leaders of regions over the stores.
    pub(super) fn preferred(&self) -> Option<&Replica> {
        let voters = || self.descriptor.replicas.iter().filter(|replica| replica.role == multiraft_raft::Role::Voter);
        let count = voters().count() as u64;
        let at = self.id().get().checked_rem(count)?;
        voters().nth(usize::try_from(at).ok()?)
    }

    /// What can be told of it.
    pub(super) fn status(&self) -> RegionStatus {
        RegionStatus {
            descriptor: Arc::clone(&self.descriptor),
            leader: self.leader_store(),
            is_leader: self.group.is_leader(),
            term: self.group.term(),
            commit: self.group.commit_index(),
            applied: self.group.applied_index(),
            first_index: self.group.first_index(),
            last_index: self.group.last_index(),
            asleep: self.group.next_deadline() == Time::NEVER,
        }
    }

    /// Where those who wait are kept, made on first use.
    pub(super) fn waiting(&mut self) -> &mut Waiting<R> {
        self.busy.get_or_insert_default()
    }

    /// Whether nobody waits here.
    pub(super) fn is_unasked(&self) -> bool {
        self.busy.as_ref().is_none_or(|waiting| waiting.is_empty())
    }

    /// Gives the memory of those who wait back if nobody does, unless it is little: others will come.
    pub(super) fn trim(&mut self) {
        if self.busy.as_ref().is_some_and(|waiting| waiting.is_empty() && !waiting.is_small()) {
            self.busy = None;
        }
    }

    /// Likewise, however little it is: nobody is expected.
    pub(super) fn trim_all(&mut self) {
        if self.is_unasked() {
            self.busy = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_stays_small() {
        // While it is awake; asleep it is packed (`regions.rs`).
        assert!(size_of::<Region<()>>() <= 896, "{}", size_of::<Region<()>>());
    }
}
