//! Repair: every region gets the replicas that it should have.
//!
//! One step at a time, always the first that applies to what the region is now; so it does not matter where an earlier change
//! was cut short. What a region has too many of goes only when nothing is missing.

use std::cmp::Reverse;

use multiraft_raft::{Replica, Role, StoreId};

use super::board::Class;
use super::cluster::RegionInfo;
use super::domains::Spread;
use super::health::wanted;
use super::leaders::best_heir;
use super::operation::{Obstacle, Reason, ReplicaChange};
use super::options::{Kind, Replication};
use super::round::Round;
use super::worklist::Worklist;

const KIND: Kind = Kind::Repair;

pub(super) fn plan(round: &mut Round<'_>, worklist: &Worklist) {
    for (_, id) in round.candidates(KIND, false, &worklist.repair) {
        if !round.may_begin(KIND) {
            return;
        }
        if let Some((region, leader)) = round.free_region(id, KIND)
            && let Err(obstacle) = mend(round, region, leader)
        {
            round.block(id, KIND, obstacle);
        }
    }
}

/// One step of a repair: `None` if there is nothing for it to do.
type Try = Option<Result<(), Obstacle>>;

fn mend(round: &mut Round<'_>, region: &RegionInfo, leader: StoreId) -> Result<(), Obstacle> {
    let case = Case { region, leader, wanted: wanted(region, round.options) };
    let steps: [&dyn Fn(&mut Round<'_>) -> Try; 5] = [
        &|round| case.drop_lost_learner(round),
        &|round| case.replace_lost_voter(round),
        &|round| case.replace_lost_witness(round),
        &|round| case.add_missing(round),
        &|round| case.drop_surplus(round),
    ];
    let mut outcome = Ok(());
    for step in steps {
        match step(round) {
            None => {}
            Some(Ok(())) => return Ok(()),
            Some(Err(obstacle)) => outcome = outcome.and(Err(obstacle)),
        }
    }
    outcome
}

struct Case<'a> {
    region: &'a RegionInfo,
    leader: StoreId,
    wanted: Replication,
}

impl<'a> Case<'a> {
    fn of_role(&self, role: Role) -> impl Iterator<Item = &'a Replica> + use<'a> {
        self.region.replicas().iter().filter(move |replica| replica.role == role)
    }

    fn wanted(&self, role: Role) -> usize {
        match role {
            Role::Witness => self.wanted.witnesses,
            Role::Learner => self.wanted.learners,
            _ => self.wanted.voters,
        }
    }

    fn first_lost(&self, round: &Round<'_>, role: Role) -> Option<&'a Replica> {
        self.of_role(role).find(|replica| round.board.class(replica.store) == Class::Gone)
    }

    /// A learner that nobody asked for, best one that has caught up: it was to become a voter.
    fn spare_learner(&self, round: &Round<'_>) -> Option<&'a Replica> {
        let is_spare = self.of_role(Role::Learner).count() > self.wanted.learners;
        let is_good =
            |learner: &&Replica| round.board.class(learner.store) == Class::Live && self.region.is_sound(learner.id);
        let good = self.of_role(Role::Learner).filter(is_good);
        good.min_by_key(|learner| (self.region.is_behind(learner.id), learner.id)).filter(|_| is_spare)
    }

    fn change(&self, round: &mut Round<'_>, change: ReplicaChange, reason: Reason) -> Try {
        Some(round.change(self.region, self.leader, change, reason))
    }

    fn drop_lost_learner(&self, round: &mut Round<'_>) -> Try {
        let lost = self.first_lost(round, Role::Learner)?;
        self.change(round, ReplicaChange::Remove { replica: lost.id }, Reason::StoreGone { store: lost.store })
    }

    fn replace_lost_voter(&self, round: &mut Round<'_>) -> Try {
        let lost = self.first_lost(round, Role::Voter)?;
        let reason = Reason::StoreGone { store: lost.store };
        if self.of_role(Role::Voter).count() > self.wanted.voters {
            return self.change(round, ReplicaChange::Remove { replica: lost.id }, reason);
        }
        let add = match self.spare_learner(round) {
            Some(learner) => learner.store,
            None => match round.board.best_store(self.region, Some(lost.id), KIND, true) {
                Ok((store, _)) => store,
                Err(obstacle) => return Some(Err(obstacle)),
            },
        };
        self.change(round, ReplicaChange::Replace { remove: lost.id, add }, reason)
    }

    /// Witnesses come and go by simple changes: the new one first.
    fn replace_lost_witness(&self, round: &mut Round<'_>) -> Try {
        let lost = self.first_lost(round, Role::Witness)?;
        let reason = Reason::StoreGone { store: lost.store };
        let is_gone = |replica: &&Replica| round.board.class(replica.store) == Class::Gone;
        let left = self.of_role(Role::Witness).filter(|witness| !is_gone(witness)).count();
        if left >= self.wanted.witnesses {
            return self.change(round, ReplicaChange::Remove { replica: lost.id }, reason);
        }
        match round.board.best_store(self.region, Some(lost.id), KIND, true) {
            Ok((store, _)) => self.change(round, ReplicaChange::AddWitness { store }, reason),
            Err(obstacle) => Some(Err(obstacle)),
        }
    }

    fn add_missing(&self, round: &mut Round<'_>) -> Try {
        let role = [Role::Voter, Role::Witness, Role::Learner]
            .into_iter()
            .find(|role| self.of_role(*role).count() < self.wanted(*role))?;
        let reason = Reason::TooFew { role, have: self.of_role(role).count(), want: self.wanted(role) };
        if role == Role::Voter
            && let Some(learner) = self.spare_learner(round)
        {
            let change = if self.region.is_behind(learner.id) {
                ReplicaChange::AddVoter { store: learner.store }
            } else {
                ReplicaChange::Promote { replica: learner.id }
            };
            return self.change(round, change, reason);
        }
        let change = |store| match role {
            Role::Witness => ReplicaChange::AddWitness { store },
            Role::Learner => ReplicaChange::AddLearner { store },
            _ => ReplicaChange::AddVoter { store },
        };
        match round.board.best_store(self.region, None, KIND, role != Role::Learner) {
            Ok((store, _)) => self.change(round, change(store), reason),
            Err(obstacle) => Some(Err(obstacle)),
        }
    }

    fn drop_surplus(&self, round: &mut Round<'_>) -> Try {
        let lost = |role| self.first_lost(round, role).is_some();
        let count = |role| self.of_role(role).count();
        let is_short = |role| lost(role) || count(role) < self.wanted(role);
        if is_short(Role::Voter) || is_short(Role::Witness) {
            return None;
        }
        let role =
            [Role::Voter, Role::Witness, Role::Learner].into_iter().find(|role| count(*role) > self.wanted(*role))?;
        let spare = self.of_role(role).max_by(|a, b| self.dispensable(round, a).cmp(&self.dispensable(round, b)))?;
        let reason = Reason::TooMany { role, have: count(role), want: self.wanted(role), store: spare.store };
        if spare.store != self.leader {
            return self.change(round, ReplicaChange::Remove { replica: spare.id }, reason);
        }
        // A leader hands over first. Who is spared does not depend on that, so it is not asked back.
        match best_heir(round, self.region, self.leader, KIND) {
            Ok(heir) => Some(round.transfer(self.region, self.leader, heir, reason)),
            Err(obstacle) => Some(Err(obstacle)),
        }
    }

    /// How well a region can go without a replica; the most dispensable is the greatest.
    fn dispensable(
        &self,
        round: &Round<'_>,
        replica: &Replica,
    ) -> (bool, bool, Spread, bool, bool, OrderedLoad, Reverse<StoreId>) {
        let seat = round.board.seat(replica.store);
        let is_draining = round.board.class(replica.store) == Class::Draining;
        let left = Spread::of(&round.board.places(self.region.replicas(), Some(replica.id)));
        let pressure = seat.map_or(0.0, |seat| round.board.scale.rise(seat, self.region.replica_weight()));
        let follows = replica.store != self.leader;
        let is_behind = self.region.is_behind(replica.id);
        let is_unsound = !self.region.is_sound(replica.id);
        (is_unsound, is_draining, left, follows, is_behind, OrderedLoad(pressure), Reverse(replica.store))
    }
}

/// A load in an order that is total.
#[derive(Clone, Copy, PartialEq)]
struct OrderedLoad(f64);

impl Eq for OrderedLoad {}

impl PartialOrd for OrderedLoad {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedLoad {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
