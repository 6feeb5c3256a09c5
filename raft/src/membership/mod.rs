//! Who belongs to a group and what makes a quorum of it.
//!
//! A [`Membership`] is a value: it changes only by applying a [`MembershipChange`], which gives a new one. It knows roles
//! by replica id; on which stores the replicas live is the region descriptor's business.
//!
//! In a joint configuration (dissertation, section 4.3) every decision needs a quorum of the incoming *and* of the
//! outgoing voters. A witness counts like a voter, and a commit needs one with data beside it.

mod change;
mod codec;
#[cfg(test)]
mod tests;

pub use change::{ChangeError, ChangeOp, MembershipChange, apply_to_replicas};
pub use codec::ChangeDecodeError;

use crate::{LogIndex, Replica, ReplicaId, Role};

/// The roles of a group's replicas.
///
/// Invariant: members ascend in id, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    members: Vec<(ReplicaId, Role)>,
    joint: bool,
    auto_leave: bool,
    /// Somebody counts who holds no data.
    witness: bool,
}

/// Where a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// A quorum has granted.
    Won,
    /// No quorum can grant any more.
    Lost,
    /// It depends on those who have not answered.
    Pending,
}

impl Membership {
    /// The membership that a region descriptor's replicas stand for. If it is joint, the leader leaves the joint state by
    /// itself, see [`with_auto_leave`](Self::with_auto_leave).
    #[must_use]
    pub fn from_replicas(replicas: &[Replica]) -> Self {
        Self::from_roles(replicas.iter().map(|replica| (replica.id, replica.role)).collect())
    }

    /// The membership with these roles. Of several roles for one replica the first counts.
    #[must_use]
    pub fn from_roles(mut members: Vec<(ReplicaId, Role)>) -> Self {
        members.sort_by_key(|(id, _)| *id);
        members.dedup_by_key(|(id, _)| *id);
        members.shrink_to_fit();
        let joint = members.iter().any(|(_, role)| role.is_joint());
        let witness = members.iter().any(|(_, role)| *role == Role::Witness);
        Self { members, joint, auto_leave: joint, witness }
    }

    /// Sets whether a leader proposes to leave the joint state by itself. The replicas of a descriptor do not say so:
    /// whoever rebuilds a membership from them, and wants the joint state to stay, says it again.
    #[must_use]
    pub fn with_auto_leave(mut self, auto_leave: bool) -> Self {
        self.auto_leave = self.joint && auto_leave;
        self
    }

    /// All members with their roles, ascending in id.
    #[must_use]
    pub fn members(&self) -> &[(ReplicaId, Role)] {
        &self.members
    }

    /// What `id` is to the group; `None` if it is no member.
    #[must_use]
    pub fn role(&self, id: ReplicaId) -> Option<Role> {
        let at = self.members.binary_search_by_key(&id, |(member, _)| *member).ok()?;
        Some(self.members[at].1)
    }

    /// Whether decisions need two quorums.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.joint
    }

    /// Whether a leader leaves the joint state by itself.
    #[must_use]
    pub fn auto_leave(&self) -> bool {
        self.auto_leave
    }

    /// Whether `id` counts in any quorum.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.role(id).is_some_and(|role| self.counts(role))
    }

    /// Whether `id` may lead: a voter that holds data.
    #[must_use]
    pub fn may_lead(&self, id: ReplicaId) -> bool {
        self.role(id).is_some_and(|role| role != Role::Witness && self.counts(role))
    }

    /// The voters of the incoming, or only, configuration.
    pub fn incoming_voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.half(Half::Incoming)
    }

    /// The voters of the outgoing configuration; none if the membership is not joint.
    pub fn outgoing_voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.half(Half::Outgoing).filter(|_| self.joint)
    }

    /// Everybody who counts in a quorum, each once.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(|(_, role)| self.counts(*role)).map(|(id, _)| *id)
    }

    /// Those who receive the log and do not count.
    pub fn learners(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(|(_, role)| *role == Role::Learner).map(|(id, _)| *id)
    }

    /// The highest index that a quorum (of both halves, if joint) has reached, and in it a voter that holds data, given what
    /// each voter has reached. Zero if there is no voter.
    ///
    /// The leader itself is such a voter, but for one that the configuration leaves no part in leading: what it commits with
    /// witnesses alone would be gone with it.
    #[must_use]
    pub fn committed_index(&self, mut reached: impl FnMut(ReplicaId) -> LogIndex) -> LogIndex {
        let incoming = self.half_committed(Half::Incoming, &mut reached);
        if !self.joint {
            return incoming;
        }
        incoming.min(self.half_committed(Half::Outgoing, &mut reached))
    }

    /// The highest index that a voter which holds data has reached, in each half if joint: with what is up to there somebody can
    /// lead, whichever half stays.
    #[must_use]
    pub fn held_index(&self, mut reached: impl FnMut(ReplicaId) -> LogIndex) -> LogIndex {
        let incoming = self.half_held(Half::Incoming, &mut reached);
        if !self.joint {
            return incoming;
        }
        incoming.min(self.half_held(Half::Outgoing, &mut reached))
    }

    /// Whether there are voters without data.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        self.witness
    }

    /// Where a vote stands, given each voter's answer (`None`: not yet).
    #[must_use]
    pub fn vote_outcome(&self, mut answer: impl FnMut(ReplicaId) -> Option<bool>) -> VoteOutcome {
        let incoming = self.half_outcome(Half::Incoming, &mut answer);
        if !self.joint {
            return incoming;
        }
        match (incoming, self.half_outcome(Half::Outgoing, &mut answer)) {
            (VoteOutcome::Won, VoteOutcome::Won) => VoteOutcome::Won,
            (VoteOutcome::Lost, _) | (_, VoteOutcome::Lost) => VoteOutcome::Lost,
            _ => VoteOutcome::Pending,
        }
    }

    /// Whether those for whom `is_in` holds are a quorum (of both halves, if joint).
    #[must_use]
    pub fn is_quorum(&self, mut is_in: impl FnMut(ReplicaId) -> bool) -> bool {
        self.vote_outcome(|id| Some(is_in(id))) == VoteOutcome::Won
    }

    /// The membership after `change`.
    ///
    /// # Errors
    /// If the change does not fit this membership; nothing is changed.
    pub fn apply(&self, change: &MembershipChange) -> Result<Self, ChangeError> {
        let mut members = self.members.clone();
        change::apply_to_members(&mut members, change)?;
        Ok(Self::from_roles(members).with_auto_leave(change.auto_leave()))
    }

    /// The bytes of heap memory behind it.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.members.capacity() * size_of::<(ReplicaId, Role)>()
    }

    fn counts(&self, role: Role) -> bool {
        role.votes_incoming() || (self.joint && role.votes_outgoing())
    }

    fn half(&self, half: Half) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(move |(_, role)| half.holds(*role)).map(|(id, _)| *id)
    }

    fn half_committed(&self, half: Half, reached: &mut impl FnMut(ReplicaId) -> LogIndex) -> LogIndex {
        // Almost every group has few voters; only a large one pays for an allocation.
        let mut few = [LogIndex::ZERO; 8];
        let mut many = Vec::new();
        let mut count = 0;
        for id in self.half(half) {
            let index = reached(id);
            match few.get_mut(count) {
                Some(slot) => *slot = index,
                None if many.is_empty() => many.extend(few.into_iter().chain([index])),
                None => many.push(index),
            }
            count += 1;
        }
        // A majority of n is n / 2 + 1: that many have reached the (n - 1) / 2-th smallest.
        let by_most = if let ([a, b, c, ..], 3) = (few, count) {
            a.min(b).max(a.max(b).min(c))
        } else {
            let indexes = if many.is_empty() { &mut few[..count] } else { &mut many[..] };
            indexes.sort_unstable();
            count.checked_sub(1).map_or(LogIndex::ZERO, |last| indexes[last / 2])
        };
        if self.has_witness() { by_most.min(self.half_held(half, reached)) } else { by_most }
    }

    fn half_held(&self, half: Half, reached: &mut impl FnMut(ReplicaId) -> LogIndex) -> LogIndex {
        let holders = self.members.iter().filter(|(_, role)| half.holds(*role) && *role != Role::Witness);
        holders.map(|(id, _)| reached(*id)).max().unwrap_or(LogIndex::ZERO)
    }

    fn half_outcome(&self, half: Half, answer: &mut impl FnMut(ReplicaId) -> Option<bool>) -> VoteOutcome {
        let (mut voters, mut granted, mut open) = (0, 0, 0);
        for id in self.half(half) {
            voters += 1;
            match answer(id) {
                Some(true) => granted += 1,
                Some(false) => {}
                None => open += 1,
            }
        }
        let majority = voters / 2 + 1;
        if granted >= majority {
            VoteOutcome::Won
        } else if granted + open >= majority {
            VoteOutcome::Pending
        } else {
            VoteOutcome::Lost
        }
    }
}

#[derive(Clone, Copy)]
enum Half {
    Incoming,
    Outgoing,
}

impl Half {
    fn holds(self, role: Role) -> bool {
        match self {
            Self::Incoming => role.votes_incoming(),
            Self::Outgoing => role.votes_outgoing(),
        }
    }
}
