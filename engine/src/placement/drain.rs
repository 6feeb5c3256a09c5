//! Draining: everything leaves a store, leaders first.
//!
//! Replicas are replaced one for one, so that a region never has fewer than it should. A region that lacks something is
//! repaired first, and one that is out of service replaced; only its leadership moves meanwhile.

use multiraft_raft::{Replica, Role, StoreId};

use super::board::Class;
use super::cluster::RegionInfo;
use super::health::Needs;
use super::leaders::best_heir;
use super::operation::{Obstacle, Reason, ReplicaChange};
use super::options::Kind;
use super::renew;
use super::round::Round;
use super::worklist::Worklist;

const KIND: Kind = Kind::Drain;

pub(super) fn plan(round: &mut Round<'_>, worklist: &Worklist) {
    for (_, id) in round.candidates(KIND, false, &worklist.drain) {
        if !round.may_begin(KIND) {
            return;
        }
        if let Some((region, leader)) = round.free_region(id, KIND)
            && let Err(obstacle) = move_off(round, region, leader)
        {
            round.block(id, KIND, obstacle);
        }
    }
}

fn move_off(round: &mut Round<'_>, region: &RegionInfo, leader: StoreId) -> Result<(), Obstacle> {
    let is_draining = |store| round.board.class(store) == Class::Draining;
    let only_voter = region.replicas().iter().filter(|replica| replica.role == Role::Voter).count() == 1;
    if is_draining(leader) && !only_voter {
        match best_heir(round, region, leader, KIND) {
            Ok(heir) => return round.transfer(region, leader, heir, Reason::Draining { store: leader }),
            // Once the others are off, there is somebody to hand over to.
            Err(Obstacle::NoHeir) => {}
            Err(obstacle) => return Err(obstacle),
        }
    }
    let needs = round.needs(region);
    if needs.has(Needs::REPAIR) || (needs.has(Needs::RENEW) && renew::is_enabled(round)) {
        return Ok(());
    }
    let leaves = |replica: &&Replica| is_draining(replica.store) && (replica.store != leader || only_voter);
    let Some(replica) = region.replicas().iter().find(leaves) else { return Err(Obstacle::NoHeir) };
    let votes = replica.role != Role::Learner;
    let (store, _) = round.board.best_store(region, Some(replica.id), KIND, votes)?;
    let change = match replica.role {
        Role::Learner => ReplicaChange::AddLearner { store },
        Role::Witness => ReplicaChange::AddWitness { store },
        // A leader is not replaced: it gets a companion, to whom it hands over.
        _ if replica.store == leader => ReplicaChange::AddVoter { store },
        _ => ReplicaChange::Replace { remove: replica.id, add: store },
    };
    round.change(region, leader, change, Reason::Draining { store: replica.store })
}
