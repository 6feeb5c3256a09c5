//! Who could lead a region next.

use multiraft_raft::{Role, StoreId};

use super::board::Class;
use super::cluster::RegionInfo;
use super::operation::Obstacle;
use super::options::Kind;
use super::round::Round;

/// The store that should lead `region` after `leader`: a live voter that has caught up, on the store that bears least. A store
/// whose disk is full could not even apply its term's first entry.
pub(super) fn best_heir(
    round: &Round<'_>,
    region: &RegionInfo,
    leader: StoreId,
    kind: Kind,
) -> Result<StoreId, Obstacle> {
    let heirs = region.replicas().iter().filter(|replica| {
        let is_other_voter = replica.role == Role::Voter && replica.store != leader;
        is_other_voter && round.board.class(replica.store) == Class::Live && round.board.is_live(region, replica)
    });
    let mut best: Result<(f64, StoreId), Obstacle> = Err(Obstacle::NoHeir);
    for seat in heirs.filter_map(|replica| round.board.seat(replica.store)).filter(|seat| !seat.leads_no_more) {
        let rise = round.board.scale.rise(seat, region.leader_weight());
        if !round.board.can_transfer(leader, seat.id, kind) {
            best = best.or(Err(Obstacle::Limit));
        } else if best.is_err() || best.is_ok_and(|(least, id)| rise < least || (rise <= least && seat.id < id)) {
            best = Ok((rise, seat.id));
        }
    }
    best.map(|(_, store)| store)
}
