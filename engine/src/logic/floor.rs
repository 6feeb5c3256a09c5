//! Which replicas of a store that has lost its disk may come to be: those whose ids were given away after it began anew. What it has
//! forgotten, it did under ids up to that floor (`docs/regions.md`, section "A store begins anew").
//!
//! ```text
//!  Whole: never lost anything          Unknown ---- the root region gives ids away ----> Above(F), durable, for good
//! ```
//!
//! Invariant: no message brings a replica with an id up to the floor to life, and none at all while the floor is not known.

use multiraft_raft::{Body, Message, RegionId, Replica, ReplicaId, StoreId};
use multiraft_transport::RegionStep;

use crate::logic::worker::Worker;
use crate::region::admin::ALLOCATED_AT_ONCE_MAX;

/// Up to which id the replicas of a store are lost for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floor {
    /// None: the store has all that it ever had.
    #[default]
    Whole,
    /// All there may be: it begins anew, and the root region has not been heard.
    Unknown,
    /// Those up to this one.
    Above(ReplicaId),
}

impl Floor {
    /// How many ids a store that begins anew takes from the root region. One would do, but that a recovery may have used some unasked
    /// that the root region does not know of: so many are passed over.
    pub const IDS: u64 = ALLOCATED_AT_ONCE_MAX;

    /// The floor under [`Floor::IDS`] ids that the root region has given away from `first` on.
    #[must_use]
    pub fn after(first: u64) -> Self {
        Self::Above(ReplicaId(first.saturating_add(Self::IDS - 1)))
    }

    /// Whether no message may bring this replica to life.
    #[must_use]
    pub fn bars(self, replica: ReplicaId) -> bool {
        match self {
            Self::Whole => false,
            Self::Unknown => true,
            Self::Above(last) => replica <= last,
        }
    }

    /// The last id that is known to be lost; zero: none.
    #[must_use]
    pub fn last(self) -> ReplicaId {
        match self {
            Self::Whole | Self::Unknown => ReplicaId::ZERO,
            Self::Above(last) => last,
        }
    }
}

impl<R> Worker<R> {
    /// The root region has been heard: replicas may come.
    pub(super) fn on_floor(&mut self, floor: Floor) {
        assert!(self.lives.residue.floor == Floor::Unknown, "a store that has a floor keeps it");
        self.lives.residue.floor = floor;
    }

    /// A leader speaks to a replica that was lost with this store's disk: it counts on it no more once it is told. (What candidates are
    /// told would not be kept.)
    pub(super) fn answer_for_the_lost(&mut self, from: StoreId, region: RegionId, message: &Message) {
        if matches!(message.body, Body::Heartbeat { .. } | Body::Fortify { .. } | Body::Append { .. }) {
            self.say_lost(from, region, message.to);
        }
    }

    /// Says so, if that replica was lost.
    pub(super) fn say_lost(&mut self, to: StoreId, region: RegionId, replica: ReplicaId) {
        let above = self.lives.residue.floor.last();
        if replica <= above {
            self.say_of_region(to, region, RegionStep::BegunAnew { above });
        }
    }

    /// Whether a replica was lost with its store's disk, as far as is known here: it counts as that of a dead store, whatever its store
    /// says.
    pub(super) fn is_lost(&self, replica: &Replica) -> bool {
        self.peers.is_lost(replica.store, replica.id)
    }
}
