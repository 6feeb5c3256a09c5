//! Renewal: a replica that is out of service, fenced by a consistency check or damaged, makes room for another one.
//!
//! It counts for nothing: it neither votes nor answers. So it goes first, and repair then adds what is missing, on the same store
//! or a better one. Without it a majority takes no more replicas than before: taking one away that does not vote never brings a
//! region nearer to losing its quorum. Nothing is taken away before there is a place for what comes after it, and where many are
//! damaged at once no more go than are filled.
//!
//! Invariant: the leader, which is sound and has the data, stays; and so does a majority of sound voters.

use multiraft_raft::{Replica, Role, StoreId};

use super::board::Class;
use super::cluster::RegionInfo;
use super::operation::{Obstacle, Reason, ReplicaChange};
use super::options::Kind;
use super::round::Round;
use super::worklist::Worklist;

const KIND: Kind = Kind::Renew;

pub(super) fn plan(round: &mut Round<'_>, worklist: &Worklist) {
    if !is_enabled(round) {
        return;
    }
    for (_, id) in round.candidates(KIND, false, &worklist.renew) {
        if !round.may_begin(KIND) {
            return;
        }
        if let Some((region, leader)) = round.free_region(id, KIND)
            && let Err(obstacle) = take_out(round, region, leader)
        {
            round.block(id, KIND, obstacle);
        }
    }
}

/// Whether replicas are taken away because they are out of service: only if others may come.
pub(super) fn is_enabled(round: &Round<'_>) -> bool {
    [KIND, Kind::Repair].into_iter().all(|kind| round.options.enabled.contains(kind))
}

fn take_out(round: &mut Round<'_>, region: &RegionInfo, leader: StoreId) -> Result<(), Obstacle> {
    let is_out = |replica: &&Replica| !region.is_sound(replica.id);
    // A leader that is fenced hands over by itself. Until then nobody judges for the region.
    if region.descriptor.replica_on(leader).is_none_or(|own| is_out(&own)) {
        return Err(Obstacle::NoLeader);
    }
    let Some(replica) = region.replicas().iter().find(is_out) else { return Ok(()) };
    let to = successor(round, region, replica)?;
    if !(round.board.can_send(leader, KIND) && round.board.can_receive(to, KIND)) {
        return Err(Obstacle::Limit);
    }
    let reason = Reason::OutOfService { store: replica.store, to };
    round.change(region, leader, ReplicaChange::Remove { replica: replica.id }, reason)
}

/// A store that takes the one that comes after `replica`: where it was, if that store takes any.
fn successor(round: &Round<'_>, region: &RegionInfo, replica: &Replica) -> Result<StoreId, Obstacle> {
    let own = round.board.seat(replica.store);
    if own.is_some_and(|seat| seat.class == Class::Live && seat.has_room()) {
        return Ok(replica.store);
    }
    let votes = replica.role != Role::Learner;
    round.board.best_store(region, Some(replica.id), KIND, votes).map(|(store, _)| store)
}
