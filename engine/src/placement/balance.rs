//! Balance: replicas and leaders move from stores that bear more to stores that bear less.
//!
//! Each move lowers the potential by at least a threshold (see `potential`), and none makes a region's spread worse. A round
//! looks at a bounded sample of each store's regions and goes on there in the next. Hysteresis: once nothing has been found
//! for a whole pass over all regions, balancing rests, and only a move that gains clearly more wakes it. While a store is
//! silent only leaders move: what it leaves to the others is theirs for a short time only, or a matter for repair.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use multiraft_raft::{RegionId, Replica, Role, StoreId, Time};

use super::board::Class;
use super::cluster::RegionInfo;
use super::domains::Spread;
use super::operation::{Reason, ReplicaChange};
use super::options::Kind;
use super::potential::Scale;
use super::round::Round;

const KIND: Kind = Kind::Balance;
/// How many regions of a store are looked at for one move.
const SAMPLE: usize = 24;
/// How many moves off one store a round may begin.
const SWEEPS: usize = 4;
/// What a replica that does not lead weighs in, and what leadership does.
const REPLICA_DIMENSIONS: [usize; 3] = [0, 1, 3];
const LEADER_DIMENSIONS: [usize; 2] = [2, 3];

/// What balancing remembers from round to round.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    is_awake: bool,
    /// While it rests: since when stores are so uneven that it might wake.
    uneven_since: Option<Time>,
    /// Rounds in a row in which nothing was found and nothing ran.
    quiet_rounds: usize,
    /// Per store, the last replica and the last leader that were looked at.
    cursors: BTreeMap<StoreId, [RegionId; 2]>,
}

/// A move that was found.
struct Found {
    gain: f64,
    region: RegionId,
    to: StoreId,
}

pub(super) fn plan(round: &mut Round<'_>) {
    if !round.may_begin(KIND) {
        return;
    }
    let balance = round.options.balance;
    let is_awake = round.memory.balance.is_awake;
    let threshold = if is_awake { balance.tolerance_permille } else { balance.wake_permille };
    let threshold = f64::from(threshold) / 1000.0;
    if !is_awake && !may_wake(round, threshold) {
        return;
    }
    let was_idle = round.is_idle();
    let one_is_silent = round.board.seats.iter().any(|seat| seat.class == Class::Silent);
    let mut found_any = false;
    let mut searched_any = false;
    for _ in 0..SWEEPS {
        let mut found = false;
        for from in by_pressure(round) {
            for is_leader in [true, false] {
                if !round.may_begin(KIND) {
                    break;
                }
                // What handing over leadership cures, no data moves for; nor for a store that may soon be back.
                let is_cured = round.board.seat(from).is_some_and(|seat| seat.slots.transfers_out > 0);
                let may_move = is_leader || !(is_cured || one_is_silent);
                if may_move && is_above(round, from, is_leader, threshold) {
                    searched_any = true;
                    found |= move_one(round, from, is_leader, threshold);
                }
            }
        }
        found_any |= found;
        if !found {
            break;
        }
    }
    let largest = round.view.stores().map(|store| round.view.replicas_on(store.id)).max().unwrap_or_default();
    let memory = &mut round.memory.balance;
    if found_any {
        (memory.is_awake, memory.quiet_rounds) = (true, 0);
    } else if was_idle {
        memory.quiet_rounds += 1;
        // One round more than a pass needs: a cursor may stand anywhere.
        memory.is_awake &= searched_any && memory.quiet_rounds <= largest / SAMPLE + 1;
    }
    if memory.is_awake {
        memory.uneven_since = None;
    }
}

/// Whether stores have been uneven by `threshold` for long enough.
fn may_wake(round: &mut Round<'_>, threshold: f64) -> bool {
    let live = round.board.seats.iter().filter(|seat| seat.class == Class::Live);
    let is_uneven = live
        .into_iter()
        .any(|seat| [true, false].into_iter().any(|is_leader| is_above(round, seat.id, is_leader, threshold)));
    let since = &mut round.memory.balance.uneven_since;
    *since = if is_uneven { Some(since.unwrap_or(round.now)) } else { None };
    since.is_some_and(|since| round.now.since(since) >= round.options.balance.wake_after)
}

/// The live stores, the one that bears most first.
fn by_pressure(round: &Round<'_>) -> Vec<StoreId> {
    let live = round.board.seats.iter().filter(|seat| seat.class == Class::Live);
    let mut stores: Vec<_> = live.map(|seat| (Scale::pressure(seat), seat.id)).collect();
    stores.sort_by(|(a, one), (b, other)| b.total_cmp(a).then(one.cmp(other)));
    stores.into_iter().map(|(_, store)| store).collect()
}

/// Whether any move off this store could gain enough.
fn is_above(round: &Round<'_>, from: StoreId, is_leader: bool, threshold: f64) -> bool {
    let dimensions: &[usize] = if is_leader { &LEADER_DIMENSIONS } else { &REPLICA_DIMENSIONS };
    let Some(seat) = round.board.seat(from) else { return false };
    let others = round.board.seats.iter().filter(|other| other.class == Class::Live && other.id != from);
    others.into_iter().any(|other| round.board.scale.gain_bound(seat, other, dimensions) >= threshold)
}

/// Begins the best move of a sample of what lies on `from`; gives whether there was one.
fn move_one(round: &mut Round<'_>, from: StoreId, is_leader: bool, threshold: f64) -> bool {
    let mut best: Option<Found> = None;
    for id in sample(round, from, is_leader) {
        let least = best.as_ref().map_or(threshold, |found| found.gain);
        let found = if is_leader { best_transfer(round, id, from, least) } else { best_move(round, id, from, least) };
        best = found.or(best);
    }
    let Some(Found { gain, region, to }) = best else { return false };
    let Some((region, leader)) = round.free_region(region, KIND) else { return false };
    let gain_permille = (gain * 1000.0) as u32;
    if is_leader {
        let reason = Reason::UnevenLeaders { from, to, gain_permille };
        return round.transfer(region, leader, to, reason).is_ok();
    }
    let Some(replica) = region.descriptor.replica_on(from) else { return false };
    let change = ReplicaChange::Replace { remove: replica.id, add: to };
    round.change(region, leader, change, Reason::Uneven { from, to, gain_permille }).is_ok()
}

/// The next regions of a store, round about.
fn sample(round: &mut Round<'_>, store: StoreId, is_leader: bool) -> Vec<RegionId> {
    let Some(tally) = round.view.tally(store) else { return Vec::new() };
    let set = if is_leader { &tally.led } else { &tally.regions };
    let cursor = &mut round.memory.balance.cursors.entry(store).or_default()[usize::from(is_leader)];
    let after = *cursor;
    let picked = set.range((Excluded(after), Unbounded)).chain(set.range(..=after));
    let picked: Vec<_> = picked.copied().take(SAMPLE).collect();
    *cursor = picked.last().copied().unwrap_or_default();
    picked
}

/// A region from which something may move, and who leads it.
fn movable<'a>(round: &Round<'a>, id: RegionId) -> Option<(&'a RegionInfo, StoreId)> {
    let region = round.view.region(id)?;
    let is_movable = round.is_free(id) && round.needs(region).is_healthy();
    Some((region, region.leader.filter(|_| is_movable)?))
}

/// Where a region's replica on `from` moves best, if that gains at least `least`.
fn best_move(round: &Round<'_>, id: RegionId, from: StoreId, least: f64) -> Option<Found> {
    let (region, leader) = movable(round, id)?;
    let is_candidate = |replica: &&Replica| replica.role == Role::Voter && leader != from;
    let replica = region.descriptor.replica_on(from).filter(is_candidate)?;
    if !round.board.can_send(leader, KIND) {
        return None;
    }
    let seat = round.board.seat(from)?;
    let weight = region.replica_weight();
    let now = Spread::of(&round.board.places(region.replicas(), None));
    let mut places = round.board.places(region.replicas(), Some(replica.id));
    let mut best: Option<Found> = None;
    for to in &round.board.seats {
        let gain = round.board.scale.gain(seat, to, weight);
        let is_better = gain >= least && best.as_ref().is_none_or(|found| gain > found.gain);
        if is_better
            && round.board.fits(to, region)
            && round.board.can_receive(to.id, KIND)
            && round.board.spread_with(&mut places, to) >= now
        {
            best = Some(Found { gain, region: id, to: to.id });
        }
    }
    best
}

/// To whom a region's leader on `from` hands over best, if that gains at least `least`.
fn best_transfer(round: &Round<'_>, id: RegionId, from: StoreId, least: f64) -> Option<Found> {
    let (region, leader) = movable(round, id)?;
    if leader != from {
        return None;
    }
    let seat = round.board.seat(from)?;
    let heirs = region.replicas().iter().filter(|replica| replica.role == Role::Voter && replica.store != from);
    let mut best: Option<Found> = None;
    for to in heirs.filter_map(|replica| round.board.seat(replica.store)).filter(|seat| !seat.leads_no_more) {
        let gain = round.board.scale.gain(seat, to, region.leader_weight());
        let is_better = gain >= least && best.as_ref().is_none_or(|found| gain > found.gain);
        if is_better && round.board.can_transfer(from, to.id, KIND) {
            best = Some(Found { gain, region: id, to: to.id });
        }
    }
    best
}
