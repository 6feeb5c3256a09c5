//! What a region needs, as far as that can be said without looking at any other region.

use multiraft_raft::{RegionId, Replica, Role};

use super::board::{Board, Class};
use super::cluster::RegionInfo;
use super::domains::Spread;
use super::options::{PlacementOptions, Replication};
use super::quorum::has_quorum;

/// A set of needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs(u16);

impl Needs {
    /// Its replicas are not those that it should have.
    pub(super) const REPAIR: Self = Self(1);
    /// A replica lies on a store that is to be emptied.
    pub(super) const DRAIN: Self = Self(1 << 1);
    /// Its replicas could be further apart.
    pub(super) const SPREAD: Self = Self(1 << 2);
    /// It is too large or too busy.
    pub(super) const SPLIT: Self = Self(1 << 3);
    /// It is small and idle.
    pub(super) const MERGE: Self = Self(1 << 4);
    /// It cannot decide anything.
    pub(super) const LOST: Self = Self(1 << 5);
    /// Not all of its replicas live and have caught up, or something is under way in it, or nobody leads it.
    pub(super) const UNWELL: Self = Self(1 << 6);
    /// One more failure and it cannot decide.
    pub(super) const URGENT: Self = Self(1 << 7);
    /// A replica is out of service.
    pub(super) const RENEW: Self = Self(1 << 8);

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn set(&mut self, other: Self, is_set: bool) {
        if is_set {
            self.0 |= other.0;
        }
    }

    /// Whether all its replicas are there, live, sound, caught up, and where they should be.
    pub(super) fn is_healthy(self) -> bool {
        let unhealthy = [Self::REPAIR, Self::RENEW, Self::DRAIN, Self::LOST, Self::UNWELL];
        !unhealthy.into_iter().any(|need| self.has(need))
    }
}

/// How many replicas a region should have.
pub(super) fn wanted(region: &RegionInfo, options: &PlacementOptions) -> Replication {
    region.replication.unwrap_or(options.replication)
}

/// What `region` needs.
pub(super) fn needs(region: &RegionInfo, board: &Board<'_>, options: &PlacementOptions) -> Needs {
    let mut needs = Needs::default();
    let replicas = region.replicas();
    let class = |replica: &Replica| board.class(replica.store);
    let is_joint = replicas.iter().any(|replica| replica.role.is_joint());
    let leader_heard = region.leader.is_some_and(|leader| board.class(leader).is_heard());
    let all_live = replicas.iter().all(|replica| class(replica) == Class::Live) && region.behind.is_empty();
    needs.set(Needs::UNWELL, is_joint || region.pending || !leader_heard || !all_live);

    let can_vote = |replica: &Replica| board.can_vote(region, replica);
    needs.set(Needs::LOST, !has_quorum(replicas, &can_vote));
    let voters = replicas.iter().filter(|replica| replica.role.votes_incoming());
    let voting = voters.clone().filter(|replica| can_vote(replica)).count();
    needs.set(Needs::URGENT, (voting.saturating_sub(1)) * 2 <= voters.count());

    let any = |wanted: Class| replicas.iter().any(|replica| class(replica) == wanted);
    needs.set(Needs::DRAIN, any(Class::Draining));
    needs.set(Needs::RENEW, replicas.iter().any(|replica| !region.is_sound(replica.id)));
    needs.set(Needs::REPAIR, !is_joint && (any(Class::Gone) || !has_wanted(region, options)));

    let places = board.places(replicas, None);
    needs.set(Needs::SPREAD, Spread::of(&places) < board.domains.best(places.len()));

    if region.id() != RegionId::ROOT && region.stats.version == region.descriptor.epoch.version {
        let (stats, sizes) = (&region.stats, &options.sizes);
        let is_large = stats.bytes > sizes.split_bytes
            || stats.writes_per_s > sizes.split_writes_per_s
            || stats.reads_per_s > sizes.split_reads_per_s;
        needs.set(Needs::SPLIT, is_large);
        needs.set(Needs::MERGE, stats.bytes < sizes.merge_bytes && stats.load_per_s() < sizes.merge_load_per_s);
    }
    needs
}

/// Whether there are as many replicas of each role as there should be.
fn has_wanted(region: &RegionInfo, options: &PlacementOptions) -> bool {
    let wanted = wanted(region, options);
    let count = |role: Role| region.replicas().iter().filter(|replica| replica.role == role).count();
    count(Role::Voter) == wanted.voters
        && count(Role::Witness) == wanted.witnesses
        && count(Role::Learner) == wanted.learners
}
