//! Merges: neighbours that are small and idle become one region.
//!
//! A region qualifies once it has been below both merge thresholds for a while. What comes out is at most half of what would
//! be split, and each part of a split is, by that part of it that caused the split, above a merge threshold: neither undoes
//! the other. Pairs whose replicas lie on the same stores go first.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use multiraft_raft::{RegionId, StoreId};

use super::cluster::RegionInfo;
use super::operation::{Obstacle, Reason, Step};
use super::options::{Kind, Sizes};
use super::round::Round;
use super::worklist::Worklist;

const KIND: Kind = Kind::Merge;
/// How many small regions one round looks at.
const CANDIDATES_MAX: usize = 1024;

/// Two neighbours that could be one.
struct Pair<'a> {
    source: &'a RegionInfo,
    into: &'a RegionInfo,
    leader: StoreId,
    moves: Vec<StoreId>,
}

pub(super) fn plan(round: &mut Round<'_>, worklist: &Worklist) {
    if !round.may_begin(KIND) {
        return;
    }
    let mut left = round.regions_above_minimum();
    let mut pairs = Vec::new();
    for id in candidates(round, worklist) {
        if let Some(pair) = best_pair(round, id) {
            pairs.push(pair);
        }
    }
    pairs.sort_by_key(|pair| (pair.moves.len(), pair.source.stats.bytes, pair.source.id(), pair.into.id()));
    let mut taken = BTreeSet::new();
    for pair in pairs {
        if left == 0 || !round.may_begin(KIND) {
            return;
        }
        let ids = [pair.source.id(), pair.into.id()];
        if ids.iter().any(|id| taken.contains(id)) {
            continue;
        }
        if !has_slots(round, &pair) {
            round.block(pair.source.id(), KIND, Obstacle::Limit);
            continue;
        }
        taken.extend(ids);
        left -= 1;
        let (source, into) = (pair.source, pair.into);
        let step = Step::Merge { into: into.id(), into_epoch: into.descriptor.epoch, moves: pair.moves };
        let bytes = source.stats.bytes + into.stats.bytes;
        let load_per_s = source.stats.load_per_s() + into.stats.load_per_s();
        round.begin(source, pair.leader, step, Reason::SmallAndIdle { bytes, load_per_s });
    }
}

/// Regions that have been small and idle for long enough, from where the last round stopped.
fn candidates(round: &mut Round<'_>, worklist: &Worklist) -> Vec<RegionId> {
    let after = round.memory.merge;
    let small = &worklist.merge;
    let from_there = small.range((Excluded(after), Unbounded)).chain(small.range(..=after));
    let ids = from_there.take(CANDIDATES_MAX);
    let (now, merge_after) = (round.now, round.options.sizes.merge_after);
    let mut last = after;
    let mut ripe = Vec::new();
    for (id, since) in ids {
        last = *id;
        if now.since(*since) >= merge_after {
            ripe.push(*id);
        }
    }
    round.memory.merge = last;
    ripe
}

/// The neighbour with which a region is best joined: the one that needs fewest moves, then the smaller one.
fn best_pair<'a>(round: &mut Round<'a>, id: RegionId) -> Option<Pair<'a>> {
    let view = round.view;
    let region = view.region(id).filter(|region| is_fit(round, region))?;
    let fitting = view.neighbours(region).filter(|other| may_join(region, other, &round.options.sizes));
    let fitting: Vec<_> = fitting.filter(|other| is_fit(round, other)).collect();
    let pairs = fitting.into_iter().filter_map(|other| {
        // The smaller one goes: it is what has to move.
        let goes = |one: &RegionInfo| (one.stats.bytes, std::cmp::Reverse(one.id()));
        let (source, into) = if goes(region) < goes(other) { (region, other) } else { (other, region) };
        let stores = into.replicas().iter().map(|replica| replica.store);
        let moves: Vec<_> = stores.filter(|store| source.descriptor.replica_on(*store).is_none()).collect();
        let seats = moves.iter().map(|store| round.board.seat(*store));
        let has_room = seats.into_iter().all(|seat| seat.is_some_and(|seat| round.board.fits(seat, source)));
        has_room.then_some(Pair { source, into, leader: source.leader?, moves })
    });
    pairs.min_by_key(|pair| (pair.moves.len(), pair.source.stats.bytes + pair.into.stats.bytes))
}

fn is_fit(round: &Round<'_>, region: &RegionInfo) -> bool {
    let is_known = region.stats.version == region.descriptor.epoch.version;
    region.id() != RegionId::ROOT && is_known && round.is_free(region.id()) && round.needs(region).is_healthy()
}

fn may_join(one: &RegionInfo, other: &RegionInfo, sizes: &Sizes) -> bool {
    let (a, b) = (&one.stats, &other.stats);
    let half = |a: u64, b: u64, threshold: u64| a.saturating_add(b) <= threshold / 2;
    one.replication == other.replication
        && half(a.bytes, b.bytes, sizes.split_bytes)
        && half(a.writes_per_s, b.writes_per_s, sizes.split_writes_per_s)
        && half(a.reads_per_s, b.reads_per_s, sizes.split_reads_per_s)
}

fn has_slots(round: &Round<'_>, pair: &Pair<'_>) -> bool {
    pair.moves.is_empty()
        || (round.board.can_send(pair.leader, KIND)
            && pair.moves.iter().all(|store| round.board.can_receive(*store, KIND)))
}
