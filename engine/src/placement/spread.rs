//! Failure domains: replicas that share one without need part.
//!
//! Each move raises the region's spread, and no other policy lowers it as long as the stores are the same; a spread has
//! finitely many values. Where a spread can be raised at all, one move of a replica that does not lead does it: of two that
//! share a domain one does not lead.

use multiraft_raft::{Replica, Role, StoreId};

use super::cluster::RegionInfo;
use super::domains::Spread;
use super::operation::{Obstacle, Reason, ReplicaChange};
use super::options::Kind;
use super::round::Round;
use super::worklist::Worklist;

const KIND: Kind = Kind::Balance;

pub(super) fn plan(round: &mut Round<'_>, worklist: &Worklist) {
    for (_, id) in round.candidates(KIND, true, &worklist.spread) {
        if !round.may_begin(KIND) {
            return;
        }
        let Some((region, leader)) = round.free_region(id, KIND) else { continue };
        if round.needs(region).is_healthy()
            && let Err(obstacle) = part(round, region, leader)
        {
            round.block(id, KIND, obstacle);
        }
    }
}

fn part(round: &mut Round<'_>, region: &RegionInfo, leader: StoreId) -> Result<(), Obstacle> {
    let now = Spread::of(&round.board.places(region.replicas(), None));
    let mut best: Option<(&Replica, StoreId, Spread)> = None;
    let mut obstacle = Obstacle::NoStore;
    let movable = |replica: &&Replica| replica.role != Role::Learner && replica.store != leader;
    for replica in region.replicas().iter().filter(movable) {
        match round.board.best_store(region, Some(replica.id), KIND, true) {
            Ok((to, spread)) if spread > best.map_or(now, |(_, _, most)| most) => best = Some((replica, to, spread)),
            Ok(_) => {}
            Err(found) => obstacle = found,
        }
    }
    let (replica, to, _) = best.ok_or(obstacle)?;
    let change = match replica.role {
        Role::Witness => ReplicaChange::AddWitness { store: to },
        _ => ReplicaChange::Replace { remove: replica.id, add: to },
    };
    round.change(region, leader, change, Reason::SharedDomain { from: replica.store, to })
}
